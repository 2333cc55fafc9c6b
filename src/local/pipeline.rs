//! The stages of one machine wired together: broker → log → ingest → lake. The log is the spool, or a topic of Kafka as in
//! the deployed system.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use anyhow::Context;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use super::broker::{Broker, BrokerOptions, BrokerStats};
use crate::{
    ingest::{
        standing::Standing,
        worker::{Ingested, Worker, WorkerOptions},
    },
    lake::{Store, landing},
    log::{
        Lookup, Source,
        append::Appender,
        kafka::{self, KafkaSource, NewTopic, Settings, Sink, SinkOptions, SourceOptions, TopicAddress},
        spool::{PARTITION, Spool},
    },
};

/// The folder of the spool in a lake's folder.
const SPOOL: &str = "spool";

/// Opens the spool of a lake's folder, so that it goes on after everything that the lake has of it.
pub async fn open_spool(folder: &Path, store: &Store) -> anyhow::Result<Spool> {
    let spool = Spool::open(&folder.join(SPOOL))?;
    let head = landing::head(store, spool.chain(), PARTITION).await?;
    spool.resume_at(head.map_or(0, |head| head.next));
    Ok(spool)
}

/// A stop switch that nobody turns.
pub fn never() -> watch::Receiver<bool> {
    // A receiver whose sender is gone keeps its last value.
    watch::channel(false).1
}

/// Where packets wait between broker and lake.
#[derive(Debug, Clone)]
pub enum Through<'a> {
    /// The spool of a lake's folder.
    Spool(&'a Path),
    Kafka(KafkaLog),
}

/// A topic of Kafka that the broker fills and ingest reads.
#[derive(Debug, Clone)]
pub struct KafkaLog {
    pub settings: Settings,
    pub address: TopicAddress,
    /// The topic as it is made where it is not there.
    pub new: NewTopic,
    /// Workers of one group share the topic's partitions.
    pub group: String,
}

/// The most memory for records that were fetched from Kafka and not read yet.
const FETCHED_BYTES: usize = 16 * 1024 * 1024;

/// How long, at the end, what is on its way into Kafka and out of it again may take. What is then not in the lake is in
/// Kafka, or was not acknowledged.
const PARTING: Duration = Duration::from_secs(5);

/// The log of a running pipeline.
enum Log {
    Spool(Spool),
    Kafka { sink: Sink, lookup: Arc<dyn Lookup>, standing: watch::Receiver<Standing>, stop_worker: watch::Sender<bool> },
}

/// A running broker and ingest.
pub struct Pipeline {
    log: Log,
    address: SocketAddr,
    stop_broker: watch::Sender<bool>,
    hurry: watch::Sender<bool>,
    stats: Arc<BrokerStats>,
    broker: JoinHandle<()>,
    worker: JoinHandle<anyhow::Result<Ingested>>,
    failure: watch::Receiver<Option<String>>,
    progress: watch::Receiver<Ingested>,
}

impl Pipeline {
    /// Starts both; the broker listens on `address` (port 0: any).
    ///
    /// # Errors
    /// Where the address is taken, or the log can't be used.
    pub async fn start(
        through: Through<'_>,
        store: Store,
        address: SocketAddr,
        window: Duration,
    ) -> anyhow::Result<Pipeline> {
        let (hurry, hurried) = watch::channel(false);
        let options = WorkerOptions { window, hurry: Some(hurried), ..WorkerOptions::default() };
        let (failed, failure) = watch::channel(None);
        let (log, address, stats, stop_broker, broker, worker, progress) = match through {
            Through::Spool(folder) => {
                let spool = open_spool(folder, &store).await?;
                let (address, stats, stop_broker, broker) = serve(address, spool.appender().into()).await?;
                let worker = Worker::new(spool.source(), store, options);
                let progress = worker.progress();
                // It ends with the spool.
                let worker = tokio::spawn(work(worker, never(), failed));
                (Log::Spool(spool), address, stats, stop_broker, broker, worker, progress)
            }
            Through::Kafka(KafkaLog { settings, address: topic, new, group }) => {
                let partitions = kafka::prepare(&settings, &topic, new, false).await?;
                let sink = Sink::open(&settings, &topic.topic, SinkOptions::PROMPT).await?;
                let source_options = SourceOptions {
                    chain: topic.chain(),
                    topic: topic.topic,
                    group,
                    partitions,
                    create_time: false,
                    queue_bytes: FETCHED_BYTES,
                    until_end: false,
                    portion: None,
                };
                let source = KafkaSource::join(&settings, source_options).await?;
                let (address, stats, stop_broker, broker) = serve(address, sink.clone().into()).await?;
                let lookup = source.lookup();
                let worker = Worker::new(source, store, options);
                let (progress, standing) = (worker.progress(), worker.standing());
                let (stop_worker, stopped) = watch::channel(false);
                let worker = tokio::spawn(work(worker, stopped, failed));
                let log = Log::Kafka { sink, lookup, standing, stop_worker };
                (log, address, stats, stop_broker, broker, worker, progress)
            }
        };
        Ok(Pipeline { log, address, stop_broker, hurry, stats, broker, worker, failure, progress })
    }

    /// Where the broker listens.
    pub fn broker(&self) -> SocketAddr {
        self.address
    }

    /// Comes back when ingest has failed, with the reason; never otherwise.
    pub async fn failed(&self) -> anyhow::Error {
        let mut failure = self.failure.clone();
        match failure.wait_for(Option::is_some).await.map(|why| why.clone()) {
            Ok(why) => anyhow::anyhow!("{}", why.unwrap_or_default()),
            // The worker ended without error, which it does only when it was told to.
            Err(_) => std::future::pending().await,
        }
    }

    /// Takes no more, stores what was taken, and says what was done.
    pub async fn stop(self) -> anyhow::Result<Ingested> {
        self.stop_broker.send_replace(true);
        self.broker.await.context("the broker ended badly")?;
        let log = match self.log {
            Log::Spool(spool) => {
                spool.close().await;
                self.hurry.send_replace(true);
                "the spool"
            }
            Log::Kafka { sink, lookup, standing, stop_worker } => {
                let until = Instant::now() + PARTING;
                sink.flush(PARTING).await;
                if !self.worker.is_finished() {
                    // What takes longer is read by the next start.
                    let _ = timeout_at(until, caught_up(&*lookup, standing)).await;
                }
                self.hurry.send_replace(true);
                stop_worker.send_replace(true);
                "Kafka"
            }
        };
        let done = self.worker.await.context("ingest ended badly")?;
        done.with_context(|| format!("what was acknowledged is safe in {log}, and the next start stores it"))
    }

    /// What ingest has done, as it goes.
    pub fn progress(&self) -> watch::Receiver<Ingested> {
        self.progress.clone()
    }

    /// What the broker counts.
    pub fn stats(&self) -> Arc<BrokerStats> {
        Arc::clone(&self.stats)
    }

    /// What the log is called in messages.
    pub fn log(&self) -> &'static str {
        match self.log {
            Log::Spool(_) => "the spool",
            Log::Kafka { .. } => "Kafka",
        }
    }
}

/// Starts the broker: where it listens, what it counts, how it is stopped, and when it has ended.
async fn serve(
    address: SocketAddr,
    appender: Appender,
) -> anyhow::Result<(SocketAddr, Arc<BrokerStats>, watch::Sender<bool>, JoinHandle<()>)> {
    let broker = Broker::bind(BrokerOptions { listen: address, ..BrokerOptions::default() }, appender).await?;
    let (address, stats) = (broker.local_addr(), broker.stats());
    let (stop, mut stopped) = watch::channel(false);
    let broker = tokio::spawn(broker.run(async move {
        // An error means that the pipeline is gone, which stops the broker as well.
        let _ = stopped.wait_for(|stop| *stop).await;
    }));
    Ok((address, stats, stop, broker))
}

/// Runs a worker to its end, and says so where that is a bad one.
async fn work<S: Source>(
    worker: Worker<S>,
    stop: watch::Receiver<bool>,
    failed: watch::Sender<Option<String>>,
) -> anyhow::Result<Ingested> {
    let outcome = worker.run(stop).await;
    if let Err(e) = &outcome {
        failed.send_replace(Some(format!("{e:#}")));
    }
    outcome
}

/// Waits until a worker has read its partitions to where they end now.
async fn caught_up(lookup: &dyn Lookup, mut standing: watch::Receiver<Standing>) -> anyhow::Result<()> {
    let begun = standing.wait_for(|standing| !standing.partitions.is_empty()).await?;
    let partitions: Vec<i32> = begun.partitions.keys().copied().collect();
    drop(begun);
    let ends = lookup.ends(&partitions).await?;
    let behind = |standing: &Standing, partition: &i32, end: i64| {
        // Partitions that went to another worker meanwhile are that one's.
        standing.partitions.get(partition).is_some_and(|at| at.next.is_none_or(|next| next < end))
    };
    standing.wait_for(|standing| !ends.iter().any(|(partition, &end)| behind(standing, partition, end))).await?;
    Ok(())
}

/// What ingest did, in words.
pub fn describe(done: &Ingested) -> String {
    let mut text = format!("stored {} readings in {} files ({} bytes)", done.readings, done.slices, done.bytes);
    if done.dead > 0 {
        let reasons: Vec<String> = done.reasons.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        text.push_str(&format!("; {} dead letters: {}", done.dead, reasons.join(", ")));
    }
    text
}

/// What the broker could not pass on to its log, in words; `None` where there is nothing to tell.
pub fn describe_broker(stats: &BrokerStats, log: &str) -> Option<String> {
    let elsewhere = stats
        .received()
        .saturating_sub(stats.stored.load(Relaxed) + stats.dropped.load(Relaxed) + stats.not_stored.load(Relaxed));
    let told = [
        (stats.dropped.load(Relaxed), format!("packets at QoS 0 lost, as {log} could not take them")),
        (stats.not_stored.load(Relaxed), format!("packets refused, as {log} could not take them")),
        (elsewhere, "packets on other topics than iot/device/<id>, not stored".to_owned()),
        (stats.protocol_errors.load(Relaxed), "connections closed because of what they sent".to_owned()),
    ];
    let told: Vec<String> = told.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    (!told.is_empty()).then(|| told.join("; "))
}
