//! What a worker does beside the reading: finding out where a partition goes on, encoding slices, writing them.
//!
//! Each is a task of its own that tries a failing store or log again, ever more slowly, and says so. How much memory all of
//! them take together is counted in [`Writers::bytes`].

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context;
use tokio::{sync::Semaphore, sync::watch, task::JoinHandle};

use super::slice::Slice;
use crate::{
    lake::{
        Store, StoreError,
        landing::{self, Footer, Put},
    },
    log::{Bounds, LogId, Lookup},
};

/// The first and the longest pause between tries of what fails.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// How long the store or the log may take to answer before that is told. A store on S3 tries again by itself, silently.
const SLOW: Duration = Duration::from_secs(5);

/// How long a failing store is tried once the worker is to end.
pub const LAST_TRIES: Duration = Duration::from_secs(5);

/// How many partitions ask for their place at a time.
const STARTERS: usize = 32;

/// How many files are under way to the store at a time.
const UPLOADS: usize = 64;

/// A moment that also ages while the machine sleeps.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    clock: Instant,
    wall: SystemTime,
}

impl Moment {
    /// Now.
    pub fn now() -> Moment {
        Moment { clock: Instant::now(), wall: SystemTime::now() }
    }

    /// How long ago it was; a wall clock that was set forward makes it longer, never shorter.
    pub fn elapsed(&self) -> Duration {
        self.clock.elapsed().max(self.wall.elapsed().unwrap_or_default())
    }
}

/// Where a partition goes on: the head of its chain, and what the log holds of it.
#[derive(Debug)]
pub struct Start {
    /// The log that was asked, where it has an id. What is gathered from now on is written while it is still the same one.
    pub log: Option<LogId>,
    pub head: Option<Footer>,
    pub bounds: Bounds,
    /// The time that the log keeps with the head's last record, where the log has it.
    pub head_stamped_ms: Option<i64>,
}

/// What came of writing a slice.
#[derive(Debug)]
pub enum Outcome {
    Put(Put),
    /// The store failed for so long that the key may have been used and deleted meanwhile.
    Stale,
}

/// A slice that was written, or was not.
#[derive(Debug)]
pub struct Written {
    pub outcome: anyhow::Result<Outcome>,
    pub footer: Footer,
    pub bytes: u64,
    pub took: Duration,
}

/// How long something is tried.
#[derive(Debug, Clone)]
pub struct Patience {
    /// `None`: for ever.
    pub limit: Option<Duration>,
    /// Once this turns true, for [`LAST_TRIES`] only: somebody wants to go.
    pub hurry: watch::Receiver<bool>,
    /// How long the head of a chain that was seen is believed.
    pub fresh: Duration,
}

/// Reads heads and writes slices.
#[derive(Debug, Clone)]
pub struct Writers {
    store: Store,
    patience: Patience,
    starters: Arc<Semaphore>,
    encoders: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    bytes: Arc<AtomicUsize>,
}

impl Writers {
    /// Into a store. As many slices are encoded at a time as there are processors.
    pub fn new(store: Store, patience: Patience) -> Writers {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let permits = |n| Arc::new(Semaphore::new(n));
        let (starters, encoders, uploads) = (permits(STARTERS), permits(cores), permits(UPLOADS));
        Writers { store, patience, starters, encoders, uploads, bytes: Arc::default() }
    }

    /// The memory of slices and files that are being written, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// Asks lake and log where a partition goes on, until both have answered.
    pub fn start(
        &self,
        lookup: Arc<dyn Lookup>,
        chain: &str,
        partition: i32,
        done: impl FnOnce(anyhow::Result<Start>) + Send + 'static,
    ) -> JoinHandle<()> {
        let (all, chain) = (self.clone(), chain.to_owned());
        tokio::spawn(async move {
            // The semaphore is never closed; were it, nothing would be lost by going on.
            let _permit = all.starters.acquire().await;
            done(all.place(&*lookup, &chain, partition).await);
        })
    }

    async fn place(&self, lookup: &dyn Lookup, chain: &str, partition: i32) -> anyhow::Result<Start> {
        let head =
            tried(&self.patience, "the store", || async { again(landing::head(&self.store, chain, partition).await) });
        let head = head.await.with_context(|| format!("looking for the end of `{chain}` partition {partition}"))?;
        let asked = || format!("asking the log about partition {partition}");
        // First: was it made anew since, then what is found out below may be of the old one.
        let log = tried(&self.patience, "the log", || async { Ok(lookup.id().await) }).await.with_context(asked)?;
        let bounds = tried(&self.patience, "the log", || async { Ok(lookup.bounds(partition).await) });
        let bounds = bounds.await.with_context(asked)?;
        let last = head.as_ref().and_then(|head| head.last_offset).filter(|&offset| offset >= bounds.start);
        let head_stamped_ms = match last {
            Some(offset) if offset < bounds.end => {
                let asking =
                    tried(&self.patience, "the log", || async { Ok(lookup.stamped_at(partition, offset).await) });
                asking.await.with_context(asked)?
            }
            _ => None,
        };
        Ok(Start { log, head, bounds, head_stamped_ms })
    }

    /// Encodes a slice and writes it as the link that `footer` describes, if `from` is still the log that it came from.
    pub fn put(
        &self,
        slice: Slice,
        footer: Footer,
        from: Origin,
        done: impl FnOnce(Written) + Send + 'static,
    ) -> JoinHandle<()> {
        let all = self.clone();
        let held = Held::new(&self.bytes, slice.bytes());
        tokio::spawn(async move {
            let begun = Instant::now();
            let (outcome, bytes) = all.write(slice, &footer, &from, held).await;
            done(Written { outcome, footer, bytes, took: begun.elapsed() });
        })
    }

    async fn write(
        &self,
        slice: Slice,
        footer: &Footer,
        from: &Origin,
        mut held: Held,
    ) -> (anyhow::Result<Outcome>, u64) {
        // Waiting for one's turn ages what is known of the lake as well.
        let seen = Moment::now();
        if let Err(e) = self.still(from).await {
            return (Err(e), 0);
        }
        let described = footer.clone();
        let encoded = {
            let _permit = self.encoders.acquire().await;
            tokio::task::spawn_blocking(move || slice.encode(&described)).await
        };
        let file = match encoded.map_err(anyhow::Error::from).and_then(|file| file.map_err(anyhow::Error::from)) {
            Ok(file) => file,
            Err(e) => return (Err(e.context("encoding a slice")), 0),
        };
        held.set(file.len());
        let _permit = self.uploads.acquire().await;
        let put = tried(&self.patience, "the store", || async {
            if seen.elapsed() >= self.patience.fresh {
                return Ok(Ok(Outcome::Stale));
            }
            let put = landing::put(&self.store, &footer.chain, footer.partition, footer.first, file.clone()).await;
            again(put.map(Outcome::Put))
        });
        (put.await, file.len() as u64)
    }

    /// That a log is the one that it was. Asked when the last record of a slice has come: what is the same then has been the
    /// same all the time.
    async fn still(&self, from: &Origin) -> anyhow::Result<()> {
        let Some(id) = from.id else { return Ok(()) };
        let now = tried(&self.patience, "the log", || async { Ok(from.lookup.id().await) });
        match now.await.context("asking the log whether it is still the same")? {
            Some(now) if now != id => Err(MadeAnew.into()),
            // A log that is gone now was not another one.
            _ => Ok(()),
        }
    }
}

/// The log that a slice came from.
pub struct Origin {
    pub lookup: Arc<dyn Lookup>,
    /// Its id before the first record of the slice came; `None` where it has none.
    pub id: Option<LogId>,
}

/// The log was made anew while it was read.
#[derive(Debug, thiserror::Error)]
#[error(
    "the log was deleted and made anew while it was read: what came since the last file may be of either and is not stored; \
     name a new chain with `--chain`"
)]
pub struct MadeAnew;

/// Bytes that are counted for as long as this is there.
struct Held {
    all: Arc<AtomicUsize>,
    bytes: usize,
}

impl Held {
    fn new(all: &Arc<AtomicUsize>, bytes: usize) -> Held {
        all.fetch_add(bytes, Relaxed);
        Held { all: Arc::clone(all), bytes }
    }

    fn set(&mut self, bytes: usize) {
        self.all.fetch_add(bytes, Relaxed);
        self.all.fetch_sub(std::mem::replace(&mut self.bytes, bytes), Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Relaxed);
    }
}

/// What a store said: `Ok` of an error that may go away, `Err` of one that stays.
fn again<T>(said: Result<T, StoreError>) -> anyhow::Result<anyhow::Result<T>> {
    match said {
        Ok(value) => Ok(Ok(value)),
        Err(e @ StoreError::Failed { .. }) => Ok(Err(e.into())),
        Err(e) => Err(e.into()),
    }
}

/// Does something with the store or the log (`whom`) until it succeeds, fails for good (the outer error), or patience ends.
async fn tried<T, F>(patience: &Patience, whom: &str, doing: impl Fn() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<anyhow::Result<T>>>,
{
    let (mut pause, begun) = (RETRY.0, Instant::now());
    let mut hurried: Option<Instant> = None;
    let mut hurry = patience.hurry.clone();
    loop {
        let failed = match told_if_slow(whom, doing()).await? {
            Ok(done) => return Ok(done),
            Err(e) => e,
        };
        let given_up = hurried.is_some_and(|since| since.elapsed() >= LAST_TRIES);
        if given_up || patience.limit.is_some_and(|limit| begun.elapsed() >= limit) {
            return Err(failed);
        }
        tracing::warn!("{failed:#}; trying again in {:.1} s", pause.as_secs_f64());
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            Ok(_) = hurry.wait_for(|hurry| *hurry), if hurried.is_none() => hurried = Some(Instant::now()),
        }
        pause = if hurried.is_some() { RETRY.0 } else { (pause * 2).min(RETRY.1) };
    }
}

/// Waits for an answer, and says so where it takes long.
async fn told_if_slow<T>(whom: &str, doing: impl Future<Output = T>) -> T {
    let mut doing = pin!(doing);
    match tokio::time::timeout(SLOW, &mut doing).await {
        Ok(done) => done,
        Err(_) => {
            tracing::warn!("{whom} has not answered for {} s; trying on", SLOW.as_secs());
            doing.await
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use tokio::sync::oneshot;

    use super::*;
    use crate::lake::{landing::Kind, layout};

    /// A log with nothing in it.
    struct Nothing;

    #[async_trait]
    impl Lookup for Nothing {
        async fn bounds(&self, _: i32) -> anyhow::Result<Bounds> {
            Ok(Bounds { start: 0, end: 0 })
        }

        async fn stamped_at(&self, _: i32, _: i64) -> anyhow::Result<Option<i64>> {
            Ok(None)
        }
    }

    #[tokio::test]
    async fn a_slice_that_waited_too_long_for_its_turn_is_not_written() {
        let store = Store::memory();
        let fresh = Duration::from_millis(50);
        let writers = Writers::new(store.clone(), Patience { limit: None, hurry: watch::channel(false).1, fresh });
        let all = u32::try_from(writers.encoders.available_permits()).unwrap();
        let others = Arc::clone(&writers.encoders).acquire_many_owned(all).await.unwrap();
        let (done, written) = oneshot::channel();
        let footer = Footer::empty(Kind::Slice, "chain", 0, 0, 1, "writer");
        let from = Origin { lookup: Arc::new(Nothing), id: None };
        let _task = writers.put(Slice::new("chain", 0), footer, from, |written| drop(done.send(written.outcome)));
        tokio::time::sleep(fresh * 2).await;
        drop(others);
        let outcome = written.await.unwrap().unwrap();
        assert!(matches!(outcome, Outcome::Stale), "{outcome:?}");
        assert_eq!(landing::list(&store, &layout::LANDING.into()).await.unwrap(), []);
    }
}
