//! The series of one device: its outliers and episodes first, then its readings, thinned as they come.

use arrow::array::Array;

use super::{
    collect::Asked,
    data::{Episode, Outlier, Series},
    rows::{count_at, float_at, int_at, text_at},
    series::{MAX_EPISODES, MAX_OUTLIERS, Thinner, vitals_of},
};
use crate::{
    query::{Statement, Value},
    reading::Vital,
};

const SPAN: &str = include_str!("../../templates/queries/report_span.sql");
const SERIES: &str = include_str!("../../templates/queries/report_series.sql");
const OUTLIERS: &str = include_str!("../../templates/queries/report_outliers.sql");
const EPISODES: &str = include_str!("../../templates/queries/report_episodes.sql");

/// The statements that are about one device.
#[cfg(test)]
pub(super) const STATEMENTS: [&str; 4] = [SPAN, SERIES, OUTLIERS, EPISODES];

impl Asked<'_> {
    /// The series of a device; `None` where it sent nothing in the window.
    pub(super) async fn series(&self, device: &str) -> anyhow::Result<Option<Series>> {
        let ask = |text| self.windowed(text).bind("device", Value::Text(device.to_owned()));
        let Some((oldest_ms, newest_ms)) = self.span(&ask(SPAN)).await? else { return Ok(None) };
        let (outliers, more_outliers) = self.outliers(ask(OUTLIERS)).await?;
        let (episodes, more_episodes) = self.episodes(ask(EPISODES)).await?;
        let mut thinner = Thinner::new(oldest_ms, newest_ms, outliers.iter().map(|outlier| outlier.ts));
        self.each(&ask(SERIES), |columns| {
            let (ts, outlying) = (columns.time("ts")?, columns.int("outlying")?);
            let vitals: Vec<_> =
                Vital::ALL.iter().map(|vital| columns.float(vital.column())).collect::<anyhow::Result<_>>()?;
            for row in 0..ts.len() {
                let Some(ts_ms) = int_at(&ts, row) else { continue };
                let vitals = vitals_of(|index| float_at(&vitals[index], row));
                thinner.push(ts_ms, &vitals, count_at(&outlying, row) > 0);
            }
            Ok(())
        })
        .await?;
        let series = thinner.finish();
        let thinned = series.thinned || more_outliers || more_episodes;
        Ok(Some(Series { outliers, episodes, thinned, ..series }))
    }

    async fn span(&self, statement: &Statement) -> anyhow::Result<Option<(i64, i64)>> {
        let mut span = None;
        self.each(statement, |columns| {
            let (oldest, newest) = (columns.time("oldest")?, columns.time("newest")?);
            (0..oldest.len()).for_each(|row| span = int_at(&oldest, row).zip(int_at(&newest, row)));
            Ok(())
        })
        .await?;
        Ok(span)
    }

    /// In order of time, and whether there are more.
    async fn outliers(&self, statement: Statement) -> anyhow::Result<(Vec<Outlier>, bool)> {
        let mut outliers = Vec::new();
        self.each(&statement.limit(Some(MAX_OUTLIERS as u64 + 1)), |columns| {
            let (ts, score, artifact) = (columns.time("ts")?, columns.float("score")?, columns.flag("artifact")?);
            let (cause, vital, why) = (columns.text("cause")?, columns.text("vital")?, columns.text("why")?);
            let news2 = columns.int("news2")?;
            let one = |row| {
                Some(Outlier {
                    ts: int_at(&ts, row)?,
                    score: float_at(&score, row)?,
                    cause: text_at(&cause, row)?,
                    vital: text_at(&vital, row),
                    artifact: artifact.is_valid(row) && artifact.value(row),
                    news2: int_at(&news2, row),
                    why: text_at(&why, row)?,
                })
            };
            outliers.extend((0..ts.len()).filter_map(one));
            Ok(())
        })
        .await?;
        let more = outliers.len() > MAX_OUTLIERS;
        outliers.truncate(MAX_OUTLIERS);
        outliers.sort_by_key(|outlier| outlier.ts);
        Ok((outliers, more))
    }

    /// In order of their starts, the newest, and whether there are more.
    async fn episodes(&self, statement: Statement) -> anyhow::Result<(Vec<Episode>, bool)> {
        let mut episodes = Vec::new();
        self.each(&statement.limit(Some(MAX_EPISODES as u64 + 1)), |columns| {
            let (start, end) = (columns.time("started_at")?, columns.time("ended_at")?);
            let (score, artifact) = (columns.float("peak_score")?, columns.flag("artifact")?);
            let (cause, vital, why) = (columns.text("cause")?, columns.text("vital")?, columns.text("why")?);
            let one = |row| {
                Some(Episode {
                    start_ms: int_at(&start, row)?,
                    end_ms: int_at(&end, row)?,
                    cause: text_at(&cause, row)?,
                    vital: text_at(&vital, row),
                    artifact: artifact.is_valid(row) && artifact.value(row),
                    peak_score: float_at(&score, row)?,
                    why: text_at(&why, row)?,
                })
            };
            episodes.extend((0..start.len()).filter_map(one));
            Ok(())
        })
        .await?;
        let more = episodes.len() > MAX_EPISODES;
        episodes.truncate(MAX_EPISODES);
        episodes.sort_by_key(|episode| (episode.start_ms, episode.artifact));
        Ok((episodes, more))
    }
}
