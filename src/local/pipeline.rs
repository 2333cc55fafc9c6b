//! The stages of one machine wired together: broker → spool → ingest → lake.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use anyhow::Context;
use tokio::{sync::watch, task::JoinHandle};

use super::broker::{Broker, BrokerOptions, BrokerStats};
use crate::{
    ingest::worker::{Ingested, Worker, WorkerOptions},
    lake::{Store, landing},
    log::spool::{PARTITION, Spool},
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

/// A running broker and ingest.
pub struct Pipeline {
    spool: Spool,
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
    /// Starts both on the lake in `folder`; the broker listens on `address` (port 0: any).
    pub async fn start(folder: &Path, store: Store, address: SocketAddr, window: Duration) -> anyhow::Result<Pipeline> {
        let spool = open_spool(folder, &store).await?;
        let broker =
            Broker::bind(BrokerOptions { listen: address, ..BrokerOptions::default() }, spool.appender()).await?;
        let address = broker.local_addr();
        let (stop_broker, mut stopped) = watch::channel(false);
        let stats = broker.stats();
        let (hurry, hurried) = watch::channel(false);
        let options = WorkerOptions { window, hurry: Some(hurried), ..WorkerOptions::default() };
        let worker = Worker::new(spool.source(), store, options);
        let progress = worker.progress();
        let (failed, failure) = watch::channel(None);
        let worker = tokio::spawn(async move {
            let outcome = worker.run(never()).await;
            if let Err(e) = &outcome {
                failed.send_replace(Some(format!("{e:#}")));
            }
            outcome
        });
        let broker = tokio::spawn(broker.run(async move {
            // An error means that the pipeline is gone, which stops the broker as well.
            let _ = stopped.wait_for(|stop| *stop).await;
        }));
        Ok(Pipeline { spool, address, stop_broker, hurry, stats, broker, worker, failure, progress })
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
        self.spool.close().await;
        self.hurry.send_replace(true);
        let done = self.worker.await.context("ingest ended badly")?;
        done.context("what was acknowledged is safe in the spool, and the next start stores it")
    }

    /// What ingest has done, as it goes.
    pub fn progress(&self) -> watch::Receiver<Ingested> {
        self.progress.clone()
    }

    /// What the broker counts.
    pub fn stats(&self) -> Arc<BrokerStats> {
        Arc::clone(&self.stats)
    }
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

/// What the broker could not pass on, in words; `None` where there is nothing to tell.
pub fn describe_broker(stats: &BrokerStats) -> Option<String> {
    let elsewhere = stats
        .received()
        .saturating_sub(stats.stored.load(Relaxed) + stats.dropped.load(Relaxed) + stats.not_stored.load(Relaxed));
    let told = [
        (stats.dropped.load(Relaxed), "packets at QoS 0 lost, as the spool could not take them"),
        (stats.not_stored.load(Relaxed), "packets refused, as the spool could not take them"),
        (elsewhere, "packets on other topics than iot/device/<id>, not stored"),
        (stats.protocol_errors.load(Relaxed), "connections closed because of what they sent"),
    ];
    let told: Vec<String> = told.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    (!told.is_empty()).then(|| told.join("; "))
}
