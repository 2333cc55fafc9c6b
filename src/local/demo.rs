//! The demonstration: the whole pipeline on this machine, and what it found against what was simulated.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use arrow::{
    array::AsArray,
    datatypes::{Int64Type, TimestampMillisecondType},
};

use super::pipeline::{Pipeline, Through};
use crate::{
    ingest::worker::Ingested,
    lake::{
        Store, View,
        compact::{Closed, CompactOptions, compact},
        now_ms,
    },
    model::{
        Model,
        episodes::Span,
        evaluate::{SLACK_MS, Tally, compare},
        training::{TrainOptions, train},
    },
    query::{Engine, LocalEngine, Options, Statement},
    score::{ScoreOptions, Scored, score_lake},
    simulate::{self, EpisodeKind, FleetOptions, Label, Progress, PublishOptions, Summary},
    train::{Sampler, Span as Since, keep, sample_lake},
};

/// What to demonstrate.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    pub fleet: FleetOptions,
    pub alarms_per_device_day: f64,
    pub seed: u64,
}

/// How long the demonstration's landing files gather.
const WINDOW: Duration = Duration::from_secs(2);

/// Devices → broker → spool → landing files. Returns when everything that was acknowledged is in the lake.
pub async fn publish(
    folder: &Path,
    store: &Store,
    fleet: &FleetOptions,
    stop: tokio::sync::watch::Receiver<bool>,
    told: impl FnMut(&Progress) + Send,
) -> anyhow::Result<(Summary, Ingested)> {
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let pipeline = Pipeline::start(Through::Spool(folder), store.clone(), anywhere, WINDOW).await?;
    let broker = simulate::Broker::plain(pipeline.broker().ip().to_string(), pipeline.broker().port());
    let mut options = PublishOptions::new(fleet.clone(), broker);
    options.stop = Some(stop);
    let published = tokio::select! {
        published = simulate::run(options, told) => published?,
        failed = pipeline.failed() => return Err(failed),
    };
    Ok((published, pipeline.stop().await?))
}

/// Landing files → sorted days.
pub async fn close_days(store: &Store) -> anyhow::Result<Vec<Closed>> {
    Ok(compact(store, CompactOptions { now_ms: now_ms(), running_day: true }, |_| ()).await?)
}

/// What is normal, learnt from what is stored, without labels.
pub async fn learn(store: &Store, options: &DemoOptions) -> anyhow::Result<Model> {
    let view = View::open(store).await?;
    let mut sampler = Sampler::default();
    sample_lake(store, &view, Since::ALL, &mut sampler).await?;
    let histories = sampler.finish();
    let training = TrainOptions {
        seed: options.seed,
        alarms_per_device_day: options.alarms_per_device_day,
        ..TrainOptions::default()
    };
    let model = tokio::task::spawn_blocking(move || train(&histories, &training)).await??;
    keep(store, &model).await?;
    Ok(model)
}

/// Verdicts on everything stored.
pub async fn judge(store: &Store, model: &Model, told: impl FnMut(&Scored)) -> anyhow::Result<Scored> {
    score_lake(store, model, ScoreOptions::default(), told).await
}

/// How well episodes were found.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// All devices together.
    pub tally: Tally,
    /// Per kind of episode: how many there were, and how many were found.
    pub kinds: BTreeMap<&'static str, (u64, u64)>,
}

/// Compares what the lake calls outliers and artifacts with what was simulated.
pub async fn compare_with_labels(store: &Store, fleet: &FleetOptions) -> anyhow::Result<Outcome> {
    let mut alarms = alarms(store).await?;
    let mut outcome = Outcome::default();
    for index in 0..fleet.devices {
        let labels: Vec<Label> = simulate::device_labels(fleet, index, fleet.end_ms);
        let events: Vec<Span> = labels.iter().map(|l| Span { start_ms: l.start_ms, end_ms: l.end_ms }).collect();
        let alarms = alarms.remove(&simulate::device_id(index)).unwrap_or_default();
        let (tally, found) = compare(&alarms, &events, SLACK_MS, fleet.end_ms - fleet.start_ms);
        outcome.tally.add(&tally);
        for (label, found) in labels.iter().zip(found) {
            let kind: EpisodeKind = label.kind;
            let (all, hits) = outcome.kinds.entry(kind.code()).or_default();
            *all += 1;
            *hits += u64::from(found);
        }
    }
    Ok(outcome)
}

/// Every episode that the lake has, by device.
async fn alarms(store: &Store) -> anyhow::Result<BTreeMap<String, Vec<Span>>> {
    const EPISODES: &str = "SELECT device_id, min(ts) AS first_ts, max(ts) AS last_ts FROM outliers \
                            GROUP BY device_id, episode ORDER BY device_id, first_ts";
    let engine = LocalEngine::open(store.clone(), Options::default()).await?;
    let mut alarms: BTreeMap<String, Vec<Span>> = BTreeMap::new();
    for batch in engine.run(&Statement::template(EPISODES)).await?.collect().await? {
        let times = |column: usize| {
            batch.column(column).as_primitive::<TimestampMillisecondType>().reinterpret_cast::<Int64Type>()
        };
        let (first, last) = (times(1), times(2));
        let names = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8)?;
        for (row, device) in names.as_string::<i32>().iter().enumerate() {
            let span = Span { start_ms: first.value(row), end_ms: last.value(row) };
            alarms.entry(device.unwrap_or_default().to_owned()).or_default().push(span);
        }
    }
    Ok(alarms)
}
