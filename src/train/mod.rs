//! Training: a bounded sample of what devices sent → a model → the lake's, or a folder's.
//!
//! What is normal is learnt in [`crate::model::training`]; this room finds the readings to learn from and keeps what was
//! learnt. Learning can also be done elsewhere: from a prepared sample, in a container.
//!
//! | room | holds |
//! |---|---|
//! | [`sample`] | which readings are learnt from |
//! | [`prepared`] | these readings in files of their own |
//! | [`container`] | where a training job of SageMaker finds and leaves what |
//! | [`packed`] | the model that such a job leaves |
//! | [`periodic`] | when to train again |
//! | [`plan`] | what training would do, for who asks first |

use anyhow::Context;
use bytes::Bytes;
use futures::TryStreamExt;

use crate::{
    evaluate,
    lake::{
        Created, Day, Store, Table, View, layout,
        scan::{self, Offsets, Rows},
        state::Run,
    },
    model::{
        Comparison, Model,
        artifact::Figures,
        training::{self, History, TrainOptions},
    },
    reading::columns,
    score::{follow::Share, load_model, scorer::ReadingColumns},
};

pub mod container;
pub mod packed;
pub mod periodic;
pub mod plan;
pub mod prepared;
pub mod sample;

pub use packed::ARTIFACT;
pub use periodic::due_in;
pub use plan::Plan;
pub use sample::Sampler;

/// A stretch of time by the readings' own clocks, `[since, until)`, milliseconds since 1970 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub since_ms: i64,
    pub until_ms: i64,
}

impl Span {
    /// All time.
    pub const ALL: Span = Span { since_ms: i64::MIN, until_ms: i64::MAX };

    fn holds(self, ts_ms: i64) -> bool {
        (self.since_ms..self.until_ms).contains(&ts_ms)
    }

    /// Whether a run of readings may have any of it.
    fn meets(self, run: &Run) -> bool {
        run.max_ts >= self.since_ms && run.min_ts < self.until_ms
    }
}

/// Gives every reading of a lake in `span` to the sampler. Memory is the sampler's, and a batch of rows.
pub async fn sample_lake(store: &Store, view: &View, span: Span, sampler: &mut Sampler) -> anyhow::Result<()> {
    sample_share(store, view, span, Share::WHOLE, sampler).await
}

/// The same for a share of the lake's files.
pub async fn sample_share(
    store: &Store,
    view: &View,
    span: Span,
    share: Share,
    sampler: &mut Sampler,
) -> anyhow::Result<()> {
    for (&day, runs) in &view.state.days {
        let Some(run) = &runs.readings else { continue };
        if !span.meets(run) {
            continue;
        }
        for (part, &bytes) in run.parts.iter().enumerate() {
            let key = layout::run_part(Table::Readings, day, &run.run, part);
            if !share.has_key(&key) {
                continue;
            }
            let mut batches = scan::open(store, &key, bytes, &columns::READING).await?;
            while let Some(batch) = batches.try_next().await? {
                take(sampler, &ReadingColumns::of(&batch)?, span);
            }
        }
    }
    for file in view.landing.iter().filter(|file| share.has_key(&file.key)) {
        let from = view.state.cut(&file.chain, file.partition).offset;
        let mut batches = scan::open(store, &file.key, file.bytes, &columns::LANDING).await?;
        while let Some(batch) = batches.try_next().await? {
            let batch = scan::select(&batch, Rows::Readings, Offsets { from, to: i64::MAX })?;
            take(sampler, &ReadingColumns::of(&batch)?, span);
        }
    }
    Ok(())
}

fn take(sampler: &mut Sampler, rows: &ReadingColumns, span: Span) {
    for row in 0..rows.rows() {
        let reading = rows.reading(row);
        if span.holds(reading.ts_ms) {
            sampler.push(rows.device(row), reading);
        }
    }
}

/// What came of [`renew`].
#[derive(Debug)]
pub struct Renewed {
    /// The new model, which the lake has now.
    pub model: Model,
    /// Whether it is not worse than the one in force.
    pub takes_over: bool,
}

/// Learns from a lake, compares what was learnt with the model in force, and keeps it.
pub async fn renew(store: &Store, span: Span, options: &TrainOptions) -> anyhow::Result<Renewed> {
    let view = View::open(store).await?;
    let mut sampler = Sampler::default();
    sample_lake(store, &view, span, &mut sampler).await?;
    let histories = sampler.finish();
    let champion = load_model(store, view.state.model()).await;
    let options = options.clone();
    let learnt = tokio::task::spawn_blocking(move || -> anyhow::Result<(Model, bool)> {
        let candidate = training::train(&histories, &options)?;
        Ok(match champion {
            Ok(champion) => challenge(&champion, candidate, &histories, options.seed),
            // A model of an older program, or a damaged one, must not keep a lake from getting a new one.
            Err(e) => {
                tracing::warn!("the new model is not compared with the one in force: {e:#}");
                (candidate, true)
            }
        })
    });
    let (model, takes_over) = learnt.await.context("training")??;
    keep(store, &model).await?;
    Ok(Renewed { model, takes_over })
}

/// Keeps a model in the lake. The same model kept twice is one.
pub async fn keep(store: &Store, model: &Model) -> anyhow::Result<()> {
    let key = layout::model_artifact(model.id());
    let _: Created = store.create(&key, Bytes::from(model.to_bytes())).await.context("keeping the model")?;
    Ok(())
}

/// A model that finds less than the one in force by more than this is worse: figures differ by as much by chance.
const TOLERANCE: f64 = 0.02;

/// Compares a candidate with the champion on the devices that were held back from the candidate's forests, with the same
/// events in them. Gives the candidate with the outcome in its card, and whether it is not worse; where nothing could be
/// said, it counts as not worse.
pub fn challenge(champion: &Model, candidate: Model, histories: &[History], seed: u64) -> (Model, bool) {
    let held_back = training::held_back(histories, seed);
    let outcome = evaluate::compare(champion, &candidate, &held_back, seed);
    let figures = |of: &evaluate::Summary| Figures::new(of.auroc, of.auprc, of.recall, of.top1);
    let comparison = Comparison {
        champion: champion.id().to_owned(),
        champion_figures: figures(&outcome.champion),
        candidate_figures: figures(&outcome.candidate),
        devices: held_back.len() as u64,
    };
    let worths = comparison.candidate_figures.worth().zip(comparison.champion_figures.worth());
    let is_worse = worths.is_some_and(|(candidate, champion)| candidate < champion - TOLERANCE);
    (candidate.with_comparison(comparison), !is_worse)
}

/// A model of the lake, as `models list` shows it.
#[derive(Debug, Clone)]
pub struct KeptModel {
    pub id: String,
    pub in_force: bool,
    pub trained_on: Option<Day>,
    /// The artifact, or why it can't be read.
    pub model: Result<Model, String>,
}

/// Every model of a lake, the built-in one first, then by name.
pub async fn kept(store: &Store, view: &View) -> anyhow::Result<Vec<KeptModel>> {
    let builtin = Model::builtin();
    let in_force = view.state.model().to_owned();
    let mut models = vec![KeptModel {
        in_force: builtin.id() == in_force,
        id: builtin.id().to_owned(),
        trained_on: None,
        model: Ok(builtin),
    }];
    for entry in store.list(&layout::MODELS.into()).await? {
        let parts: Vec<_> = entry.key.parts().collect();
        let [_, id, file] = parts.as_slice() else { continue };
        if file.as_ref() != "model.bin" {
            continue;
        }
        let bytes = store.get(&entry.key).await?;
        models.push(KeptModel {
            in_force: id.as_ref() == in_force,
            id: id.as_ref().to_owned(),
            trained_on: Some(Day::of(entry.modified_ms)),
            model: Model::from_bytes(&bytes).map_err(|e| e.to_string()),
        });
    }
    Ok(models)
}
