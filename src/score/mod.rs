//! Scoring: gives every stored reading its verdict, and keeps those that are outliers or artifacts.
//!
//! Closed days are scored in order, each device with what it sent before; then the landing files, each device in the
//! order of the log. What was found becomes the `outliers` of the days and `scored/` files beside the landing files, and
//! one new state puts all of it in force together with the model, so that a reading has one verdict at any moment.
//!
//! | room | what it does |
//! |---|---|
//! | [`scorer`] | a model and the state of every device |
//! | [`rows`] | verdicts as rows of the lake |
//! | [`checkpoint`] | devices' states after the closed days, so that scoring goes on where it ended |

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Context;
use futures::TryStreamExt;

use crate::{
    lake::{
        Created, Day, Store, Table, View, encoding,
        landing::{self, SliceFile},
        layout,
        run::{self, RunWriter},
        scan::{self, Offsets, Rows},
        state::{Commit, DayRuns, Run},
    },
    model::Model,
    reading::columns,
};

pub mod checkpoint;
pub mod rows;
pub mod scorer;

use scorer::Scorer;

/// What scoring has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scored {
    /// The model.
    pub model: String,
    /// Readings that were given a verdict in this run.
    pub readings: u64,
    /// Rows of the view `outliers` that are outliers or artifacts, found in this run.
    pub outliers: u64,
    /// Days whose verdicts are of this model now.
    pub days: u64,
    /// Landing files scored.
    pub slices: u64,
}

/// What to score.
#[derive(Debug, Clone, Copy, Default)]
pub struct ScoreOptions {
    /// Score days again that this model has scored.
    pub again: bool,
}

/// How often a lost race for the next state is tried again.
const RACES: u32 = 20;

/// Scores a lake with `model` and puts the model and its verdicts in force.
pub async fn score_lake(
    store: &Store,
    model: &Model,
    options: ScoreOptions,
    mut told: impl FnMut(&Scored),
) -> anyhow::Result<Scored> {
    for _ in 0..RACES {
        let view = View::open(store).await?;
        let mut done = Scored { model: model.id().to_owned(), ..Scored::default() };
        let mut scorer = Scorer::new(model);
        let runs = score_days(store, &view, &mut scorer, options, &mut done, &mut told).await?;
        score_landing(store, &view, &mut scorer, &mut done, &mut told).await?;
        if put_in_force(store, view, model.id(), &runs).await? == Commit::Done {
            return Ok(done);
        }
    }
    anyhow::bail!("the lake changed again and again while it was scored; run `vitals score` again")
}

/// New outlier runs of the days that were scored.
type DayOutliers = BTreeMap<Day, (String, Option<Run>)>;

/// Scores the closed days, from the last checkpoint on that still holds.
async fn score_days(
    store: &Store,
    view: &View,
    scorer: &mut Scorer<'_>,
    options: ScoreOptions,
    done: &mut Scored,
    told: &mut impl FnMut(&Scored),
) -> anyhow::Result<DayOutliers> {
    let model = scorer.model().id().to_owned();
    let days: Vec<(Day, &DayRuns)> = view.state.days.iter().map(|(&day, runs)| (day, runs)).collect();
    let scored = |runs: &DayRuns| !options.again && runs.scored_by.as_deref() == Some(&model);
    let unscored_from = days.iter().position(|(_, runs)| !scored(runs)).unwrap_or(days.len());
    let resumed = checkpoint::resume(store, scorer, &days[..unscored_from]).await?;
    let name = run::new_name(crate::lake::now_ms());
    let mut found = DayOutliers::new();
    for &(day, runs) in &days[resumed..] {
        let Some(readings) = &runs.readings else { continue };
        let mut writer = RunWriter::new(store, Table::Outliers, day, &name);
        let mut batches = run::rows(store, Table::Readings, day, readings);
        while let Some(batch) = batches.try_next().await? {
            let outliers = scorer.score(&batch)?;
            // Days before `unscored_from` are only gone through again for the devices' states.
            if !scored(runs) {
                done.readings += batch.num_rows() as u64;
                done.outliers += outliers.num_rows() as u64;
                writer.write(&outliers).await?;
            }
            told(done);
        }
        if !scored(runs) {
            done.days += 1;
            found.insert(day, (readings.run.clone(), writer.finish().await?));
        }
    }
    if resumed < days.len() {
        checkpoint::save(store, scorer, &days).await.context("keeping the devices' states")?;
    }
    Ok(found)
}

/// Scores what is not in closed days yet, partition by partition in the order of the log.
async fn score_landing(
    store: &Store,
    view: &View,
    scorer: &mut Scorer<'_>,
    done: &mut Scored,
    told: &mut impl FnMut(&Scored),
) -> anyhow::Result<()> {
    for file in &view.landing {
        let mut footer = landing::footer(store, &file.key).await?;
        let from = view.state.cut(&file.chain, file.partition).offset;
        if footer.next <= from {
            continue;
        }
        let rows = landing_rows(store, file, Offsets { from, to: footer.next }).await?;
        done.readings += rows.num_rows() as u64;
        let outliers = scorer.score_log(&rows)?;
        done.outliers += outliers.num_rows() as u64;
        (footer.readings, footer.dead) = (outliers.num_rows() as u64, 0);
        let key = layout::scored_file(scorer.model().id(), &file.chain, file.partition, file.first);
        let bytes = encoding::to_parquet(encoding::Shape::Scored, &[outliers], footer.key_values())?;
        // Taken: another scorer found the same before us.
        let _: Created = store.create(&key, bytes).await?;
        done.slices += 1;
        told(done);
    }
    Ok(())
}

/// The readings of one landing file, which is a slice and so fits in memory.
async fn landing_rows(store: &Store, file: &SliceFile, offsets: Offsets) -> anyhow::Result<arrow::array::RecordBatch> {
    let mut batches = scan::open(store, &file.key, file.bytes, &columns::LANDING).await?;
    let mut rows = Vec::new();
    while let Some(batch) = batches.try_next().await? {
        rows.push(
            scan::conform(&scan::select(&batch, Rows::Readings, offsets)?, &columns::MERGED)
                .map_err(anyhow::Error::msg)?,
        );
    }
    Ok(arrow::compute::concat_batches(&columns::MERGED, &rows)?)
}

/// One state with the model and everything it found. A day whose readings changed meanwhile keeps its old verdicts and
/// counts as not scored.
async fn put_in_force(store: &Store, view: View, model: &str, found: &DayOutliers) -> anyhow::Result<Commit> {
    let mut next = view.state;
    let changed_model = next.model() != model;
    if changed_model {
        next.models_before.push(next.model().to_owned());
        next.model = Some(model.to_owned());
    }
    for (day, (readings_run, outliers)) in found {
        let Some(runs) = next.days.get_mut(day) else { continue };
        if runs.readings.as_ref().is_some_and(|run| &run.run == readings_run) {
            runs.outliers.clone_from(outliers);
            runs.scored_by = Some(model.to_owned());
        }
    }
    if found.is_empty() && !changed_model {
        return Ok(Commit::Done);
    }
    Ok(next.commit(store).await?)
}

/// The model of this name: the built-in one, or an artifact of the lake.
pub async fn load_model(store: &Store, id: &str) -> anyhow::Result<Arc<Model>> {
    if id == crate::lake::state::BUILTIN_MODEL {
        return Ok(Arc::new(Model::builtin()));
    }
    let key = layout::model_artifact(id);
    let bytes = store
        .get(&key)
        .await
        .with_context(|| format!("the lake has no model `{id}`; `vitals models list` shows those that it has"))?;
    Ok(Arc::new(Model::from_bytes(&bytes).with_context(|| format!("reading the model `{key}`"))?))
}
