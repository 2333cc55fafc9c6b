//! The worker: carries records from a log into the lake, by the rules of [`super::core`].
//!
//! It keeps one slice gathering and at most one being written per partition. A slice is closed when its window ends, when
//! its budget is used up, or when the worker goes. Every buffer is bounded: when all slices together pass the memory
//! budget the largest is closed, and a partition whose write can't keep up is paused.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Context;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::{
    core::{Action, Event, Head, Link, Partition},
    slice::Slice,
};
use crate::{
    lake::{
        Store, StoreError,
        landing::{self, Footer, Kind, Put},
    },
    log::{LogEvent, Record, Source},
    reading::{Reason, packet::Parser},
};

/// How a worker cuts slices.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// A slice is closed this long after its first record.
    pub window: Duration,
    /// … or when it has this many rows.
    pub slice_rows: usize,
    /// … or when all slices together take this much memory, in bytes: then the largest.
    pub memory_bytes: usize,
    /// How long a failing store is tried before the worker gives up; `None` for ever.
    pub patience: Option<Duration>,
    /// Once this turns true, a failing store is tried for [`LAST_TRIES`] only: somebody wants to go.
    pub hurry: Option<watch::Receiver<bool>>,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        WorkerOptions {
            window: Duration::from_secs(3_600),
            slice_rows: 1_000_000,
            memory_bytes: 256 * 1024 * 1024,
            patience: None,
            hurry: None,
        }
    }
}

/// What a worker has done so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ingested {
    /// Readings in the lake.
    pub readings: u64,
    /// Dead letters in the lake.
    pub dead: u64,
    /// Dead letters read, by reason.
    pub reasons: BTreeMap<Reason, u64>,
    /// Landing files written, and their bytes.
    pub slices: u64,
    pub bytes: u64,
    /// How often another worker was first.
    pub taken: u64,
}

/// How long one look at the log waits; windows and shutdown are noticed this soon.
const LOOK: Duration = Duration::from_millis(100);

/// How long a failing store is tried once the worker is to end.
pub const LAST_TRIES: Duration = Duration::from_secs(5);

/// The first and the longest pause between tries of a failing store.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

struct Held {
    core: Partition,
    slice: Slice,
    since: Instant,
    paused: bool,
}

struct Written {
    partition: i32,
    outcome: anyhow::Result<Put>,
    footer: Footer,
    bytes: u64,
}

/// Carries a log into a lake until `stop` turns true or the log ends; then closes what it holds.
pub struct Worker<S: Source> {
    source: S,
    store: Store,
    options: WorkerOptions,
    writer: String,
    parser: Parser,
    held: BTreeMap<i32, Held>,
    written: (mpsc::UnboundedSender<Written>, mpsc::UnboundedReceiver<Written>),
    progress: watch::Sender<Ingested>,
}

impl<S: Source> Worker<S> {
    /// A worker from `source` into `store`.
    pub fn new(source: S, store: Store, options: WorkerOptions) -> Worker<S> {
        Worker {
            source,
            store,
            options,
            writer: crate::lake::random_name(),
            parser: Parser::default(),
            held: BTreeMap::new(),
            // At most one write per partition is under way, so this never holds more than there are partitions.
            written: mpsc::unbounded_channel(),
            progress: watch::channel(Ingested::default()).0,
        }
    }

    /// What it has done, as it goes.
    pub fn progress(&self) -> watch::Receiver<Ingested> {
        self.progress.subscribe()
    }

    /// Runs to the end. Everything that the log gave before is in the lake when this returns without error.
    pub async fn run(mut self, stop: watch::Receiver<bool>) -> anyhow::Result<Ingested> {
        while !*stop.borrow() {
            while let Ok(written) = self.written.1.try_recv() {
                self.on_written(written).await?;
            }
            self.close_due().await?;
            match self.source.next(LOOK).await.context("reading the log")? {
                LogEvent::Assigned(partitions) => self.assign(partitions).await?,
                LogEvent::Revoked(partitions) => self.release(partitions).await?,
                LogEvent::Records(records) => self.take(records).await?,
                LogEvent::Idle => {}
                LogEvent::End => break,
            }
        }
        let all = self.held.keys().copied().collect();
        self.release(all).await?;
        Ok(self.progress.borrow().clone())
    }

    async fn assign(&mut self, partitions: Vec<i32>) -> anyhow::Result<()> {
        for partition in partitions {
            let chain = self.source.chain().to_owned();
            let head = landing::head(&self.store, &chain, partition).await?;
            let last = head.as_ref().and_then(|h| Some((h.last_offset?, h.last_arrived_ms?)));
            let event = Event::Head(head.as_ref().map(|h| Head { next: h.next, last }));
            let slice = Slice::new(&chain, partition);
            let held = Held { core: Partition::new(), slice, since: Instant::now(), paused: false };
            self.held.insert(partition, held);
            self.happened(partition, event).await?;
        }
        Ok(())
    }

    /// Closes the slices of partitions that go, and waits until they are written.
    async fn release(&mut self, partitions: Vec<i32>) -> anyhow::Result<()> {
        for &partition in &partitions {
            self.happened(partition, Event::Close).await?;
        }
        while partitions.iter().any(|p| self.held.get(p).is_some_and(|held| held.core.is_writing())) {
            let Some(written) = self.written.1.recv().await else { break };
            self.on_written(written).await?;
        }
        partitions.iter().for_each(|partition| drop(self.held.remove(partition)));
        Ok(())
    }

    async fn take(&mut self, records: Vec<Record>) -> anyhow::Result<()> {
        for record in records {
            let Some(held) = self.held.get_mut(&record.partition) else { continue };
            for action in held.core.on(Event::Record { offset: record.offset }) {
                if action == Action::Keep {
                    if held.slice.rows() == 0 {
                        held.since = Instant::now();
                    }
                    held.slice.push(&mut self.parser, &record);
                }
            }
            if held.slice.rows() >= self.options.slice_rows {
                self.happened(record.partition, Event::Close).await?;
                self.hold_back(record.partition).await?;
            }
        }
        self.close_largest().await
    }

    /// Pauses a partition that has a full slice and one under way.
    async fn hold_back(&mut self, partition: i32) -> anyhow::Result<()> {
        let Some(held) = self.held.get_mut(&partition) else { return Ok(()) };
        if held.core.is_writing() && held.slice.rows() >= self.options.slice_rows && !held.paused {
            held.paused = true;
            self.source.pause(partition).await?;
        }
        Ok(())
    }

    async fn close_due(&mut self) -> anyhow::Result<()> {
        let window = self.options.window;
        let due = |held: &Held| held.slice.rows() > 0 && held.since.elapsed() >= window && !held.core.is_writing();
        let due: Vec<i32> = self.held.iter().filter(|(_, held)| due(held)).map(|(&p, _)| p).collect();
        for partition in due {
            self.happened(partition, Event::Close).await?;
        }
        Ok(())
    }

    /// Over the memory budget, closes the largest slice; where that one is being written already, pauses everything.
    async fn close_largest(&mut self) -> anyhow::Result<()> {
        let total: usize = self.held.values().map(|held| held.slice.bytes()).sum();
        if total < self.options.memory_bytes {
            return Ok(());
        }
        let Some((&largest, _)) = self.held.iter().max_by_key(|(_, held)| held.slice.bytes()) else { return Ok(()) };
        self.happened(largest, Event::Close).await?;
        let all: Vec<i32> =
            self.held.iter().filter(|(_, h)| h.core.is_writing() && !h.paused).map(|(&p, _)| p).collect();
        for partition in all {
            if let Some(held) = self.held.get_mut(&partition) {
                held.paused = true;
                self.source.pause(partition).await?;
            }
        }
        Ok(())
    }

    async fn on_written(&mut self, written: Written) -> anyhow::Result<()> {
        let Written { partition, outcome, footer, bytes } = written;
        let event = match outcome? {
            Put::Done => Event::Stored,
            // Our own file, after an answer that was lost.
            Put::Taken(there) if there.writer == self.writer && there.next == footer.next => Event::Stored,
            Put::Taken(there) => Event::Taken { next: there.next },
        };
        self.progress.send_modify(|done| match event {
            Event::Stored => {
                done.readings += footer.readings;
                done.dead += footer.dead;
                done.slices += 1;
                done.bytes += bytes;
            }
            _ => done.taken += 1,
        });
        self.happened(partition, event).await?;
        if let Some(held) = self.held.get_mut(&partition).filter(|held| held.paused) {
            held.paused = false;
            self.source.resume(partition).await?;
        }
        Ok(())
    }

    /// Tells a partition's rules what happened, and does what they say.
    async fn happened(&mut self, partition: i32, event: Event) -> anyhow::Result<()> {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let Some(held) = self.held.get_mut(&partition) else { return Ok(()) };
            for action in held.core.on(event) {
                if let Some(next) = self.act(partition, action).await? {
                    events.push(next);
                }
            }
        }
        Ok(())
    }

    async fn act(&mut self, partition: i32, action: Action) -> anyhow::Result<Option<Event>> {
        match action {
            Action::AskLog { record } => {
                let bounds = self.source.bounds(partition).await?;
                let head_arrived_ms = match record {
                    Some(offset) if offset >= bounds.start => self.source.arrived_at(partition, offset).await?,
                    _ => None,
                };
                return Ok(Some(Event::Log { start: bounds.start, end: bounds.end, head_arrived_ms }));
            }
            Action::Seek { offset } => self.source.seek(partition, offset).await?,
            Action::Put { first, next, link } => self.put(partition, first, next, link),
            Action::Discard => self.discard(partition),
            Action::Commit { next } => self.source.stored(partition, next).await?,
            Action::Stop(why) => {
                return Err(anyhow::Error::new(why).context(format!("`{}` partition {partition}", self.source.chain())));
            }
            Action::Keep | Action::Skip => {}
        }
        Ok(None)
    }

    fn discard(&mut self, partition: i32) {
        let chain = self.source.chain().to_owned();
        if let Some(held) = self.held.get_mut(&partition) {
            held.slice = Slice::new(&chain, partition);
        }
    }

    /// Encodes and writes a slice beside the reading; its outcome comes back as [`Written`].
    fn put(&mut self, partition: i32, first: i64, next: i64, link: Link) {
        let chain = self.source.chain().to_owned();
        let Some(held) = self.held.get_mut(&partition) else { return };
        let slice = std::mem::replace(&mut held.slice, Slice::new(&chain, partition));
        let kind = match link {
            Link::Slice => Kind::Slice,
            Link::Start => Kind::Start,
            Link::Gap => Kind::Gap,
        };
        let mut footer = Footer::empty(kind, &chain, partition, first, next, &self.writer);
        footer.last_offset = slice.last().map(|(offset, _)| offset);
        footer.last_arrived_ms = slice.last().map(|(_, arrived_ms)| arrived_ms);
        footer.readings = slice.readings();
        footer.dead = slice.dead();
        self.progress.send_modify(|done| {
            slice.reasons().for_each(|(reason, n)| *done.reasons.entry(reason).or_default() += n);
        });
        let (store, sender) = (self.store.clone(), self.written.0.clone());
        let (patience, hurry) = (self.options.patience, self.options.hurry.clone());
        tokio::spawn(async move {
            let described = footer.clone();
            let encoded = tokio::task::spawn_blocking(move || slice.encode(&described)).await;
            let encoded = encoded.map_err(anyhow::Error::from).and_then(|file| file.map_err(anyhow::Error::from));
            let bytes = encoded.as_ref().map_or(0, |file| file.len() as u64);
            let outcome = match encoded {
                Ok(file) => put_patiently(&store, &footer, file, patience, hurry).await,
                Err(e) => Err(e),
            };
            // The worker is gone only if it failed; then nobody waits for this.
            let _ = sender.send(Written { partition, outcome, footer, bytes });
        });
    }
}

/// Writes a link; while the store fails, tries again ever more slowly, and says so.
async fn put_patiently(
    store: &Store,
    footer: &Footer,
    file: Bytes,
    patience: Option<Duration>,
    hurry: Option<watch::Receiver<bool>>,
) -> anyhow::Result<Put> {
    let (mut pause, begun) = (RETRY.0, Instant::now());
    let mut hurried: Option<Instant> = None;
    let mut hurry = hurry.unwrap_or_else(|| watch::channel(false).1);
    loop {
        let failed = match landing::put(store, &footer.chain, footer.partition, footer.first, file.clone()).await {
            Ok(put) => return Ok(put),
            Err(e @ StoreError::Failed { .. }) => e,
            Err(e) => return Err(e.into()),
        };
        let given_up = hurried.is_some_and(|since| since.elapsed() >= LAST_TRIES);
        if given_up || patience.is_some_and(|patience| begun.elapsed() >= patience) {
            return Err(failed.into());
        }
        tracing::warn!("{failed}; trying again in {:.1} s", pause.as_secs_f64());
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            Ok(_) = hurry.wait_for(|hurry| *hurry), if hurried.is_none() => hurried = Some(Instant::now()),
        }
        pause = if hurried.is_some() { RETRY.0 } else { (pause * 2).min(RETRY.1) };
    }
}
