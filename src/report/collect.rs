//! Gathers a report from a lake: a few statements over one consistent picture of it.
//!
//! Memory: what the engine may use ([`Options`]), [`MAX_DEVICES`] rows of devices, and of each device with a series the
//! points that thinning leaves.

use std::collections::BTreeMap;

use anyhow::Context;
use arrow::array::Array;
use futures::{FutureExt, TryStreamExt, future::BoxFuture};
use object_store::path::Path;

use super::{
    data::{CauseCount, Data, DayCauses, DeadLetters, Device, Freshness, SCHEMA_VERSION, Series, Status, Window},
    rows::{Columns, count_at, float_at, int_at, text_at},
    standing,
};
use crate::{
    lake::{Day, Store},
    query::{Engine, LocalEngine, Options, Statement, Value},
    reading::time::MAX_TIME_MS,
};

const NEWEST: &str = include_str!("../../templates/queries/report_newest.sql");
const TOTALS: &str = include_str!("../../templates/queries/report_totals.sql");
const DEVICES: &str = include_str!("../../templates/queries/report_devices.sql");
const CAUSES: &str = include_str!("../../templates/queries/report_causes.sql");
const MISSING: &str = include_str!("../../templates/queries/report_missing.sql");
const DEAD_LETTERS: &str = include_str!("../../templates/queries/report_dead_letters.sql");

/// The statements that are about all devices.
#[cfg(test)]
pub(super) const STATEMENTS: [&str; 6] = [NEWEST, TOTALS, DEVICES, CAUSES, MISSING, DEAD_LETTERS];

/// How many devices are listed at most.
pub const MAX_DEVICES: usize = 500;
/// How many days are listed at most, the newest.
pub const MAX_DAYS: usize = 60;
/// How many causes, or reasons of dead letters, are listed at most; there are fewer.
const MAX_KINDS: usize = 64;
/// How many warnings are passed on at most.
const MAX_WARNINGS: usize = 20;

/// The time that a report shows where nobody says otherwise.
const DEFAULT_WINDOW_MS: i64 = 24 * 3_600_000;
/// The part of the window in which a device must have sent something not to be called silent: the last quarter.
const QUIET_PART: i64 = 4;
/// A device's count that jumps by more than this was set anew.
const MAX_MISSED: i64 = 100_000;

/// What a report is about.
#[derive(Debug, Clone, PartialEq)]
pub struct ReportOptions {
    /// From when, by the readings' own time; 24 hours before the end where nobody says.
    pub since_ms: Option<i64>,
    /// Until before when; by default just after the newest reading that is not of the future.
    pub until_ms: Option<i64>,
    /// Of this device only.
    pub device: Option<String>,
    /// How many devices, the worst first, have their series in the report. A served report needs none: the page asks for
    /// those that people look at.
    pub series_devices: usize,
    /// The lake's name, for people.
    pub lake_name: String,
    /// Whether the page is served, and fetches newer data every `refresh_s` seconds.
    pub live: bool,
    pub refresh_s: u32,
    pub now_ms: i64,
    /// A last arrival that is longer ago than this is stale.
    pub fresh_ms: i64,
    /// Files that can't be read now, and what to say of it.
    pub left_out: Vec<Path>,
    pub warnings: Vec<String>,
}

impl Default for ReportOptions {
    fn default() -> ReportOptions {
        ReportOptions {
            since_ms: None,
            until_ms: None,
            device: None,
            series_devices: 50,
            lake_name: String::new(),
            live: false,
            refresh_s: 15,
            now_ms: 0,
            fresh_ms: 5 * 60_000,
            left_out: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// Gathers a report.
///
/// The future is boxed so that whoever calls this does not compile the engine once more.
pub fn collect<'a>(store: &'a Store, options: &'a ReportOptions) -> BoxFuture<'a, anyhow::Result<Data>> {
    async move { Asked::open(store, options).await?.report().await.context("gathering a report") }.boxed()
}

/// The series of one device; `None` where it sent nothing in the window.
pub fn device_series<'a>(
    store: &'a Store,
    options: &'a ReportOptions,
    device: &'a str,
) -> BoxFuture<'a, anyhow::Result<Option<Series>>> {
    async move {
        let asked = Asked::open(store, options).await?;
        asked.series(device).await.with_context(|| format!("gathering the readings of `{device}`"))
    }
    .boxed()
}

/// A lake that is being asked, and the time that it is asked about.
pub(super) struct Asked<'a> {
    store: &'a Store,
    options: &'a ReportOptions,
    engine: LocalEngine,
    newest: Newest,
    window: Window,
}

/// The newest times of a lake.
#[derive(Debug, Clone, Copy, Default)]
struct Newest {
    ts_ms: Option<i64>,
    arrived_ms: Option<i64>,
}

impl<'a> Asked<'a> {
    async fn open(store: &'a Store, options: &'a ReportOptions) -> anyhow::Result<Asked<'a>> {
        let engine = LocalEngine::open(store.clone(), Options::default()).await.context("opening the lake")?;
        engine.leave_out(&options.left_out);
        let newest = newest(&engine, options.device.as_deref()).await.context("looking for the newest reading")?;
        let newest_ms = newest.ts_ms.filter(|ts| *ts <= options.now_ms).unwrap_or(options.now_ms);
        let until_ms = options.until_ms.unwrap_or(newest_ms.saturating_add(1)).clamp(0, MAX_TIME_MS);
        let since_ms = options.since_ms.unwrap_or(until_ms.saturating_sub(DEFAULT_WINDOW_MS)).clamp(0, until_ms);
        Ok(Asked { store, options, engine, newest, window: Window { since_ms, until_ms } })
    }

    async fn report(&self) -> anyhow::Result<Data> {
        let view = self.engine.view();
        let devices = self.devices().await?;
        let (days, causes) = self.causes().await?;
        let freshness = self.freshness().await?;
        let mut series = BTreeMap::new();
        for device in devices.iter().take(self.options.series_devices) {
            if let Some(one) = self.series(&device.device_id).await? {
                series.insert(device.device_id.clone(), one);
            }
        }
        let mut warnings = self.options.warnings.clone();
        warnings.extend(self.engine.take_warnings());
        warnings.truncate(MAX_WARNINGS);
        Ok(Data {
            schema_version: SCHEMA_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            generated_ms: self.options.now_ms,
            lake: self.options.lake_name.clone(),
            live: self.options.live,
            refresh_s: self.options.refresh_s,
            window: self.window,
            devices_more: freshness.devices.saturating_sub(devices.len() as u64),
            freshness,
            devices,
            days,
            causes,
            model: standing::model_card(self.store, &view).await,
            series,
            warnings,
        })
    }

    /// A statement over the window, and over the device that the report is about.
    fn ask(&self, text: &'static str) -> Statement {
        self.windowed(text).bind("device", device_or_all(self.options.device.as_deref()))
    }

    /// A statement over the window.
    pub(super) fn windowed(&self, text: &'static str) -> Statement {
        let Window { since_ms, until_ms } = self.window;
        Statement::template(text).bind("since", Value::Time(since_ms)).bind("until", Value::Time(until_ms))
    }

    /// Hands over the rows of an answer, batch by batch.
    pub(super) async fn each(
        &self,
        statement: &Statement,
        take: impl FnMut(&Columns<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        each(&self.engine, statement, take).await
    }

    async fn freshness(&self) -> anyhow::Result<Freshness> {
        let mut freshness = Freshness {
            last_arrived_ms: self.newest.arrived_ms,
            last_ts_ms: self.newest.ts_ms,
            ..Freshness::default()
        };
        let Window { since_ms, until_ms } = self.window;
        let quiet = until_ms - (until_ms - since_ms) / QUIET_PART;
        self.each(&self.ask(TOTALS).bind("quiet", Value::Time(quiet)), |columns| {
            let (readings, devices, silent) =
                (columns.int("readings")?, columns.int("devices")?, columns.int("silent")?);
            for row in 0..readings.len() {
                freshness.readings = count_at(&readings, row);
                freshness.devices = count_at(&devices, row);
                freshness.silent_devices = count_at(&silent, row);
            }
            Ok(())
        })
        .await?;
        self.each(&self.ask(MISSING).bind("most", Value::Int(MAX_MISSED)), |columns| {
            let missing = columns.int("missing")?;
            (0..missing.len()).for_each(|row| freshness.seq_missing = count_at(&missing, row));
            Ok(())
        })
        .await?;
        freshness.dead_letters = self.dead_letters().await?;
        let waiting = standing::waiting(self.store, &self.engine.view()).await.context("counting what waits")?;
        (freshness.unscored_readings, freshness.gap_records) = (waiting.unscored_readings, waiting.gap_records);
        freshness.status = match self.newest.arrived_ms {
            Some(_) if freshness.readings == 0 => Status::NoData,
            Some(arrived_ms) if self.options.now_ms.saturating_sub(arrived_ms) <= self.options.fresh_ms => {
                Status::Fresh
            }
            Some(_) => Status::Stale,
            None => Status::NoData,
        };
        Ok(freshness)
    }

    async fn dead_letters(&self) -> anyhow::Result<Vec<DeadLetters>> {
        let mut found = Vec::new();
        // They have no time but that of arrival, and what arrived after the newest reading belongs to this report too.
        let until = Value::Time(self.options.until_ms.unwrap_or(MAX_TIME_MS));
        let statement = self.ask(DEAD_LETTERS).bind("until", until).limit(Some(MAX_KINDS as u64));
        self.each(&statement, |columns| {
            let (reason, packets) = (columns.text("reason")?, columns.int("packets")?);
            let one = |row| Some(DeadLetters { reason: text_at(&reason, row)?, count: count_at(&packets, row) });
            found.extend((0..reason.len()).filter_map(one));
            Ok(())
        })
        .await?;
        Ok(found)
    }

    async fn devices(&self) -> anyhow::Result<Vec<Device>> {
        let mut devices = Vec::new();
        self.each(&self.ask(DEVICES).limit(Some(MAX_DEVICES as u64)), |columns| {
            let (id, cause, why) = (columns.text("device_id")?, columns.text("cause")?, columns.text("why")?);
            let (episodes, artifacts) = (columns.int("episodes")?, columns.int("artifacts")?);
            let (peak, news2, readings) =
                (columns.float("peak_score")?, columns.int("news2")?, columns.int("readings")?);
            let (seen, outlier) = (columns.time("last_seen")?, columns.time("last_outlier")?);
            let one = |row| {
                Some(Device {
                    device_id: text_at(&id, row)?,
                    episodes: count_at(&episodes, row),
                    artifacts: count_at(&artifacts, row),
                    peak_score: float_at(&peak, row),
                    news2: int_at(&news2, row),
                    readings: count_at(&readings, row),
                    last_seen_ms: int_at(&seen, row)?,
                    last_outlier_ms: int_at(&outlier, row),
                    cause: text_at(&cause, row),
                    why: text_at(&why, row),
                })
            };
            devices.extend((0..id.len()).filter_map(one));
            Ok(())
        })
        .await?;
        Ok(devices)
    }

    /// Episodes by day, oldest first, and by cause, most frequent first.
    async fn causes(&self) -> anyhow::Result<(Vec<DayCauses>, Vec<CauseCount>)> {
        let mut days: BTreeMap<Day, BTreeMap<String, u64>> = BTreeMap::new();
        let mut causes: BTreeMap<(String, bool), u64> = BTreeMap::new();
        self.each(&self.ask(CAUSES), |columns| {
            let (day, cause) = (columns.time("day")?, columns.text("cause")?);
            let (artifact, episodes) = (columns.flag("artifact")?, columns.int("episodes")?);
            for row in 0..day.len() {
                let (Some(at), Some(cause)) = (int_at(&day, row), text_at(&cause, row)) else { continue };
                let (artifact, episodes) = (artifact.is_valid(row) && artifact.value(row), count_at(&episodes, row));
                let day = Day::of(at);
                // Newest days come first, so what finds the list full is older.
                if days.len() < MAX_DAYS || days.contains_key(&day) {
                    add(days.entry(day).or_default(), cause.clone(), episodes);
                }
                add(&mut causes, (cause, artifact), episodes);
            }
            Ok(())
        })
        .await?;
        let days = days.into_iter().map(|(day, causes)| DayCauses { day: day.to_string(), causes }).collect();
        let count = |((cause, artifact), episodes)| CauseCount { cause, artifact, episodes };
        let mut causes: Vec<CauseCount> = causes.into_iter().map(count).collect();
        causes.sort_by_key(|one| std::cmp::Reverse(one.episodes));
        Ok((days, causes))
    }
}

/// Adds to a count, of which there are never too many.
fn add<K: Ord>(counts: &mut BTreeMap<K, u64>, key: K, more: u64) {
    if counts.len() < MAX_KINDS || counts.contains_key(&key) {
        *counts.entry(key).or_default() += more;
    }
}

fn device_or_all(device: Option<&str>) -> Value {
    Value::Text(device.unwrap_or_default().to_owned())
}

/// Hands over the rows of an answer, batch by batch.
async fn each(
    engine: &LocalEngine,
    statement: &Statement,
    mut take: impl FnMut(&Columns<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut answer = engine.run(statement).await?;
    while let Some(batch) = answer.batches.try_next().await? {
        take(&Columns(&batch))?;
    }
    Ok(())
}

async fn newest(engine: &LocalEngine, device: Option<&str>) -> anyhow::Result<Newest> {
    let view = engine.view();
    let runs = || view.state.days.iter().filter_map(|(day, runs)| Some((day, runs.readings.as_ref()?)));
    // Of the whole lake the state knows more than of one device, whose days are all looked at.
    let (day, closed_ms) = match device {
        Some(_) => (String::new(), None),
        None => (
            runs().next_back().map(|(day, _)| day.to_string()).unwrap_or_default(),
            runs().map(|(_, run)| run.max_ts).max(),
        ),
    };
    let statement = Statement::template(NEWEST).bind("day", Value::Text(day)).bind("device", device_or_all(device));
    let mut newest = Newest { ts_ms: closed_ms, arrived_ms: None };
    each(engine, &statement, |columns| {
        let (ts, arrived) = (columns.time("last_ts")?, columns.time("last_arrived")?);
        for row in 0..ts.len() {
            newest.ts_ms = newest.ts_ms.max(int_at(&ts, row));
            newest.arrived_ms = newest.arrived_ms.max(int_at(&arrived, row));
        }
        Ok(())
    })
    .await?;
    Ok(newest)
}
