//! The stages of one machine wired together: broker → spool → ingest → lake.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::Context;
use tokio::{sync::watch, task::JoinHandle};

use super::broker::{Broker, BrokerOptions};
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
        let worker = Worker::new(spool.source(), store, WorkerOptions { window, ..WorkerOptions::default() });
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
        Ok(Pipeline { spool, address, stop_broker, broker, worker, failure, progress })
    }

    /// Where the broker listens.
    pub fn broker(&self) -> SocketAddr {
        self.address
    }

    /// What ingest has done, as it goes.
    pub fn progress(&self) -> watch::Receiver<Ingested> {
        self.progress.clone()
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
        self.worker.await.context("ingest ended badly")?
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
