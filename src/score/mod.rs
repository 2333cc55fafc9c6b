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
//! | [`checkpoint`] | devices' states in the lake, so that scoring goes on where it ended |
//! | `followed` | one model's way along the log |
//! | [`follow`] | the scorer that follows the lake: the model in force, and the one that is to take over |
//! | [`lock`] | one scorer at a time in a folder |
//! | [`shards`] | closed days scored by several processes, each a share of the devices |

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use anyhow::Context;
use futures::TryStreamExt;

use crate::{
    lake::{
        Day, Store, Table, View,
        epoch::Epoch,
        landing::{self, SliceFile},
        layout,
        run::{self, RunWriter},
        state::{Commit, DayRuns, Run},
    },
    model::Model,
};

pub mod checkpoint;
pub mod follow;
mod followed;
pub mod lock;
pub mod rows;
pub mod scorer;
pub mod shards;

pub use followed::is_unordered;
use followed::{Followed, Hole, is_gone};
use scorer::{Scorer, States};

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

/// Scores all that is stored with `model`, and puts the model and its verdicts in force. Nobody else may follow the log
/// meanwhile: see [`lock`].
pub async fn score_lake(
    store: &Store,
    model: &Model,
    options: ScoreOptions,
    told: impl FnMut(&Scored),
) -> anyhow::Result<Scored> {
    score_rest(store, model, options, DayOutliers::new(), told).await
}

/// The same, where verdicts on some closed days were gathered before.
async fn score_rest(
    store: &Store,
    model: &Model,
    options: ScoreOptions,
    gathered: DayOutliers,
    mut told: impl FnMut(&Scored),
) -> anyhow::Result<Scored> {
    let mut done = Scored { model: model.id().to_owned(), ..Scored::default() };
    let mut again = options.again;
    let gathered_runs: BTreeSet<&str> = gathered.values().map(|(run, _)| run.as_str()).collect();
    for _ in 0..RACES {
        let view = View::open(store).await?;
        let lacks = |runs: &DayRuns| {
            let lacking = runs.readings.as_ref().filter(|_| runs.scored_by.as_deref() != Some(model.id()));
            lacking.is_some_and(|readings| !gathered_runs.contains(readings.run.as_str()))
        };
        let last_epoch = Epoch::last(store, model.id()).await?;
        let resumed = match again || view.state.days.values().any(lacks) {
            true => None,
            false => Followed::resume(store, model).await?,
        };
        let wanted = Wanted { again, lacks: &lacks };
        let (mut followed, mut found) = match resumed {
            Some(followed) => (followed, DayOutliers::new()),
            None => begin(store, &view, model, wanted, last_epoch, &mut done, &mut told).await?,
        };
        let landed = landing::list(store, &layout::LANDING.into()).await?;
        if let Err(e) = take_all(&mut followed, store, &landed, &mut done, &mut told).await {
            if !e.is::<Hole>() {
                return Err(e);
            }
            let last_epoch = Epoch::last(store, model.id()).await?;
            (followed, found) = begin(store, &view, model, wanted, last_epoch, &mut done, &mut told).await?;
            take_all(&mut followed, store, &landed, &mut done, &mut told).await?;
        }
        followed.checkpoint(store, false).await?;
        // What was found is no longer known after a lost race, and the days still lack it.
        again = again && found.is_empty();
        let all = gathered.iter().map(|(&day, outliers)| (day, outliers.clone())).chain(found).collect();
        if put_in_force(store, view, model.id(), &all).await? == Commit::Done {
            return Ok(done);
        }
    }
    anyhow::bail!("the lake changed again and again while it was scored; run `vitals score` again")
}

async fn take_all(
    followed: &mut Followed,
    store: &Store,
    landed: &[SliceFile],
    done: &mut Scored,
    told: &mut impl FnMut(&Scored),
) -> anyhow::Result<()> {
    for file in landed {
        followed.take(store, file, done).await?;
        told(done);
    }
    Ok(())
}

/// New outlier runs of the days that were scored, each with the run of readings that it belongs to.
type DayOutliers = BTreeMap<Day, (String, Option<Run>)>;

/// Which closed days get verdicts.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    /// All of them.
    again: bool,
    /// These.
    lacks: &'a (dyn Fn(&DayRuns) -> bool + Sync),
}

impl Wanted<'_> {
    fn wants(&self, runs: &DayRuns) -> bool {
        self.again || (self.lacks)(runs)
    }
}

/// Scores the closed days from the last checkpoint on that still holds, and begins to follow the log after them.
/// `last_epoch` is the model's last one as it was seen before anything else: whoever begins after it first is followed.
async fn begin(
    store: &Store,
    view: &View,
    model: &Model,
    wanted: Wanted<'_>,
    last_epoch: u64,
    done: &mut Scored,
    told: &mut impl FnMut(&Scored),
) -> anyhow::Result<(Followed, DayOutliers)> {
    let days: Vec<(Day, &DayRuns)> = view.state.days.iter().map(|(&day, runs)| (day, runs)).collect();
    let known = days.iter().position(|(_, runs)| wanted.wants(runs)).unwrap_or(days.len());
    let (states, resumed) = checkpoint::resume(store, model, &days[..known]).await?;
    let nothing = States::default();
    let mut scorer = Scorer::resume(model, states, &nothing);
    let name = run::new_name(crate::lake::now_ms());
    let mut found = DayOutliers::new();
    for &(day, runs) in &days[resumed..] {
        let Some(readings) = &runs.readings else { continue };
        let wants = wanted.wants(runs);
        let mut writer = RunWriter::new(store, Table::Outliers, day, &name);
        let mut batches = run::rows(store, Table::Readings, day, readings);
        while let Some(batch) = batches.try_next().await? {
            let outliers = scorer.score(&batch)?;
            // Days that have their verdicts are only gone through again for the devices' states.
            if wants {
                done.readings += batch.num_rows() as u64;
                done.outliers += outliers.num_rows() as u64;
                writer.write(&outliers).await?;
            }
            told(done);
            tokio::task::yield_now().await;
        }
        if wants {
            done.days += 1;
            found.insert(day, (readings.run.clone(), writer.finish().await?));
        }
    }
    let states = scorer.into_states();
    let base = match days.is_empty() {
        true => None,
        false => Some(checkpoint::save(store, model, &states, &days).await?),
    };
    let begun = Epoch::begin(store, model.id(), last_epoch, base, view.state.cut.clone()).await?;
    let followed = match begun {
        Some(epoch) => Followed::new(model, epoch, states),
        // Another scorer was faster: both go on from where that one has begun.
        None => Followed::resume(store, model)
            .await?
            .context("another scorer has begun to follow the lake, and can't be followed")?,
    };
    Ok((followed, found))
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
    let was_waited_for = next.candidate.take_if(|candidate| candidate == model).is_some();
    if found.is_empty() && !changed_model && !was_waited_for {
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
