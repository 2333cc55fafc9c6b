//! The worker: carries records from a log into the lake, by the rules of [`super::core`].
//!
//! It keeps one slice gathering and at most one being written per partition. A slice is closed when its window ends, when
//! its budget is used up, or when the worker goes. Every buffer is bounded ([`WorkerOptions::memory_bytes`]): the largest
//! slices are closed early, and reading pauses while what is being written takes too much.
//!
//! Reading never waits for the store: heads are read and slices written in tasks of their own ([`super::writing`]), which
//! report back here. So a worker whose store is down keeps its place in the log's group.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::{
    bad,
    core::{Action, Event, Head, Link, Partition},
    slice::Slice,
    standing::{PartitionStanding, Standing},
    writing::{Moment, Origin, Outcome, Patience, Start, Writers, Written},
};
pub use super::{bad::OnBad, options::WorkerOptions, standing::Ingested, writing::LAST_TRIES};
use crate::{
    lake::{
        Store,
        landing::{Footer, Kind, Put},
    },
    log::{LogEvent, LogId, Record, Records, Source},
    reading::packet::Parser,
};

/// How long one look at the log waits; windows and shutdown are noticed this soon.
const LOOK: Duration = Duration::from_millis(100);

/// How long slices of partitions that go are waited for. After it whoever has the partition reads the rest again.
const PARTING: Duration = Duration::from_secs(6);

/// How often it is told how every partition stands.
const TELL: Duration = Duration::from_secs(1);

/// A partition of ours.
struct Held {
    core: Partition,
    slice: Slice,
    /// When the first record of the slice came.
    since: Instant,
    /// When the chain's head was last seen in the lake.
    seen: Moment,
    /// The log as it was when it was asked where to begin.
    log: Option<LogId>,
    /// The last record: its offset, when it arrived, what the log says of that.
    last: Option<(i64, i64, i64)>,
    /// Records of the slice that have no key.
    keyless: u64,
    paused: bool,
    /// Tells reports of this assignment from those of an earlier one.
    generation: u64,
    task: Option<JoinHandle<()>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        // A write that still lands does no harm: whoever comes next finds it.
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

enum Report {
    Started(anyhow::Result<Start>),
    Written(Written),
}

/// A report, with the partition and the generation of its assignment.
type Reported = (i32, u64, Report);

/// Carries a log into a lake until `stop` turns true or the log ends; then closes what it holds.
pub struct Worker<S: Source> {
    source: S,
    chain: String,
    options: WorkerOptions,
    writer: String,
    parser: Parser,
    held: BTreeMap<i32, Held>,
    /// Memory of the slices that gather, in bytes.
    gathering: usize,
    /// Everything is paused, as the buffers are full.
    full: bool,
    writers: Writers,
    /// At most one task per partition is under way, so this never holds more than there are partitions.
    reports: (mpsc::UnboundedSender<Reported>, mpsc::UnboundedReceiver<Reported>),
    generations: u64,
    progress: watch::Sender<Ingested>,
    standing: watch::Sender<Standing>,
    told: Instant,
}

impl<S: Source> Worker<S> {
    /// A worker from `source` into `store`.
    pub fn new(source: S, store: Store, options: WorkerOptions) -> Worker<S> {
        let hurry = options.hurry.clone().unwrap_or_else(|| watch::channel(false).1);
        let patience = Patience { limit: options.patience, hurry, fresh: options.fresh };
        Worker {
            chain: source.chain().to_owned(),
            source,
            options,
            writer: crate::lake::random_name(),
            parser: Parser::default(),
            held: BTreeMap::new(),
            gathering: 0,
            full: false,
            writers: Writers::new(store, patience),
            reports: mpsc::unbounded_channel(),
            generations: 0,
            progress: watch::channel(Ingested::default()).0,
            standing: watch::channel(Standing::default()).0,
            told: Instant::now(),
        }
    }

    /// What it has done, as it goes.
    pub fn progress(&self) -> watch::Receiver<Ingested> {
        self.progress.subscribe()
    }

    /// How its partitions stand, about once a second.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Runs to the end. Everything that the log gave before is in the lake when this returns without error.
    pub async fn run(mut self, stop: watch::Receiver<bool>) -> anyhow::Result<Ingested> {
        let followed = self.follow(&stop).await;
        let limit = (followed.is_err() || *stop.borrow()).then_some(PARTING);
        let all: Vec<i32> = self.held.keys().copied().collect();
        let released = self.release(&all, limit).await;
        self.source.close().await;
        followed?;
        let late = released?;
        if !late.is_empty() {
            bail!(
                "{} partitions could not be stored in {} s; the log still has the rest, and the next start stores it",
                late.len(),
                PARTING.as_secs()
            );
        }
        Ok(self.progress.borrow().clone())
    }

    async fn follow(&mut self, stop: &watch::Receiver<bool>) -> anyhow::Result<()> {
        while !*stop.borrow() {
            self.close_due().await?;
            self.relieve().await?;
            self.tell();
            let event = tokio::select! {
                biased;
                Some((partition, generation, report)) = self.reports.1.recv() => {
                    self.reported(partition, generation, report).await?;
                    continue;
                }
                event = self.source.next(LOOK) => event.context("reading the log")?,
            };
            match event {
                LogEvent::Assigned(partitions) => partitions.into_iter().for_each(|p| self.assign(p)),
                LogEvent::Revoked(partitions) => {
                    let late = self.release(&partitions, Some(PARTING)).await?;
                    if !late.is_empty() {
                        tracing::warn!(
                            partitions = ?late,
                            "given to another worker before all of it was stored: that one reads the rest again"
                        );
                    }
                }
                LogEvent::Records(records) => self.take(&records).await?,
                LogEvent::Idle => {}
                LogEvent::End => break,
            }
        }
        Ok(())
    }

    /// A partition is ours, from now on or anew: asks where it goes on.
    fn assign(&mut self, partition: i32) {
        self.let_go(partition);
        self.generations += 1;
        let generation = self.generations;
        let reports = self.reports.0.clone();
        let report = move |start| drop(reports.send((partition, generation, Report::Started(start))));
        let task = self.writers.start(self.source.lookup(), &self.chain, partition, report);
        let held = Held {
            core: Partition::new(),
            slice: Slice::new(&self.chain, partition),
            since: Instant::now(),
            seen: Moment::now(),
            log: None,
            last: None,
            keyless: 0,
            paused: false,
            generation,
            task: Some(task),
        };
        self.held.insert(partition, held);
    }

    fn let_go(&mut self, partition: i32) {
        if let Some(held) = self.held.remove(&partition) {
            self.gathering -= held.slice.bytes();
        }
    }

    /// Closes the slices of partitions that go, and waits until they are written; gives those that were not in time.
    async fn release(&mut self, partitions: &[i32], limit: Option<Duration>) -> anyhow::Result<Vec<i32>> {
        for &partition in partitions {
            self.happened(partition, Event::Close).await?;
        }
        let begun = Instant::now();
        let writes = |all: &Self| -> Vec<i32> {
            let writes = |p: &&i32| all.held.get(p).is_some_and(|held| held.core.is_writing());
            partitions.iter().filter(writes).copied().collect()
        };
        let mut late = writes(self);
        while !late.is_empty() {
            let left = limit.map_or(Duration::MAX, |limit| limit.saturating_sub(begun.elapsed()));
            match tokio::time::timeout(left, self.reports.1.recv()).await {
                Ok(Some((partition, generation, report))) => self.reported(partition, generation, report).await?,
                Ok(None) | Err(_) => break,
            }
            late = writes(self);
        }
        partitions.iter().for_each(|&partition| self.let_go(partition));
        Ok(late)
    }

    async fn take(&mut self, records: &Records) -> anyhow::Result<()> {
        let (slice_rows, slice_bytes) = (self.options.slice_rows, self.options.memory_bytes / 8);
        for record in records.iter() {
            let Some(held) = self.held.get_mut(&record.partition) else { continue };
            // Before it is taken: what is taken must be written.
            if self.options.on_bad == OnBad::Fail && held.core.wants(record.offset) {
                bad::refuse(&mut self.parser, record)?;
            }
            if !held.core.takes(record.offset) {
                continue;
            }
            if held.slice.rows() == 0 {
                held.since = Instant::now();
            }
            // Arrival never falls within a partition, whatever the clocks of brokers do that take over from each other.
            let arrived_ms = held.last.map_or(record.arrived_ms, |(_, before, _)| before.max(record.arrived_ms));
            held.last = Some((record.offset, arrived_ms, record.stamped_ms));
            held.keyless += u64::from(record.device.is_none());
            let before = held.slice.bytes();
            held.slice.push(&mut self.parser, Record { arrived_ms, ..record });
            self.gathering += held.slice.bytes() - before;
            if held.slice.rows() >= slice_rows || held.slice.bytes() >= slice_bytes {
                self.happened(record.partition, Event::Close).await?;
                self.hold_back(record.partition).await?;
            }
        }
        Ok(())
    }

    /// Pauses a partition that has a full slice and one under way.
    async fn hold_back(&mut self, partition: i32) -> anyhow::Result<()> {
        let Some(held) = self.held.get_mut(&partition) else { return Ok(()) };
        if held.core.is_writing() && held.slice.rows() > 0 && !held.paused {
            held.paused = true;
            if !self.full {
                self.source.pause(&[partition]).await?;
            }
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

    /// Keeps to the memory budget: closes the largest slices, and pauses reading for as long as that is not enough.
    async fn relieve(&mut self) -> anyhow::Result<()> {
        let limit = self.options.memory_bytes / 2;
        let total = |all: &Self| all.gathering + all.writers.bytes();
        if total(self) >= limit / 4 * 3 && self.gathering > limit / 4 {
            let waits = |held: &Held| held.slice.rows() > 0 && !held.core.is_writing();
            let mut slices: Vec<(usize, i32)> =
                self.held.iter().filter(|(_, held)| waits(held)).map(|(&p, held)| (held.slice.bytes(), p)).collect();
            slices.sort_unstable_by(|a, b| b.cmp(a));
            for (_, partition) in slices {
                if self.gathering <= limit / 4 {
                    break;
                }
                self.happened(partition, Event::Close).await?;
            }
        }
        let total = total(self);
        if self.full == (total >= if self.full { limit / 2 } else { limit }) {
            return Ok(());
        }
        let others: Vec<i32> = self.held.iter().filter(|(_, held)| !held.paused).map(|(&p, _)| p).collect();
        self.full = !self.full;
        if self.full { self.source.pause(&others).await } else { self.source.resume(&others).await }
    }

    /// What a task of a partition reports.
    async fn reported(&mut self, partition: i32, generation: u64, report: Report) -> anyhow::Result<()> {
        // Of an earlier assignment: what was written then is found at the start of this one.
        let Some(held) = self.held.get_mut(&partition).filter(|held| held.generation == generation) else {
            return Ok(());
        };
        match report {
            Report::Started(start) => {
                let Start { log, head, bounds, head_stamped_ms } = start?;
                (held.seen, held.log) = (Moment::now(), log);
                held.last = head.as_ref().and_then(Footer::last);
                let stamped = held.last.map(|(offset, _, stamped_ms)| (offset, stamped_ms));
                self.happened(partition, Event::Head(head.map(|h| Head { next: h.next, last: stamped }))).await?;
                self.happened(partition, Event::Log { start: bounds.start, end: bounds.end, head_stamped_ms }).await
            }
            Report::Written(written) => {
                held.seen = Moment::now();
                self.written(partition, written).await
            }
        }
    }

    async fn written(&mut self, partition: i32, written: Written) -> anyhow::Result<()> {
        let Written { outcome, footer, bytes, took } = written;
        let event = match outcome.with_context(|| format!("`{}` partition {partition}", self.chain))? {
            Outcome::Put(Put::Done) => Event::Stored,
            // Our own file, after an answer that was lost.
            Outcome::Put(Put::Taken(there)) if there.writer == self.writer && there.next == footer.next => {
                Event::Stored
            }
            Outcome::Put(Put::Taken(there)) => {
                // What comes next is read again, and arrives no later than it did the first time.
                if let Some(held) = self.held.get_mut(&partition) {
                    held.last = there.last();
                }
                Event::Taken { next: there.next }
            }
            Outcome::Stale => {
                self.assign(partition);
                return Ok(());
            }
        };
        self.progress.send_modify(|done| match event {
            Event::Stored => done.add(&footer, bytes, took),
            _ => done.taken += 1,
        });
        self.happened(partition, event).await?;
        if let Some(held) = self.held.get_mut(&partition).filter(|held| held.paused) {
            held.paused = false;
            if !self.full {
                self.source.resume(&[partition]).await?;
            }
        }
        Ok(())
    }

    /// Tells a partition's rules what happened, and does what they say.
    async fn happened(&mut self, partition: i32, event: Event) -> anyhow::Result<()> {
        let Some(held) = self.held.get_mut(&partition) else { return Ok(()) };
        for action in held.core.on(event) {
            self.act(partition, action).await?;
        }
        Ok(())
    }

    async fn act(&mut self, partition: i32, action: Action) -> anyhow::Result<()> {
        match action {
            Action::Seek { offset } => {
                self.source.seek(partition, offset).await?;
                // Whatever it was before: nothing of it is gathered now.
                if self.full {
                    self.source.pause(&[partition]).await?;
                } else {
                    self.source.resume(&[partition]).await?;
                }
            }
            Action::Put { first, next, link } => self.put(partition, first, next, link),
            Action::Discard => drop(self.take_slice(partition)),
            Action::Commit { next } => self.source.stored(partition, next).await?,
            Action::Stop(why) => {
                return Err(anyhow::Error::new(why).context(format!("`{}` partition {partition}", self.chain)));
            }
            // Both were asked together, before the head was told.
            Action::AskLog { .. } | Action::Keep | Action::Skip => {}
        }
        Ok(())
    }

    /// The slice that gathers, and how many of its records have no key; an empty one takes its place.
    fn take_slice(&mut self, partition: i32) -> Option<(Slice, u64)> {
        let held = self.held.get_mut(&partition)?;
        let slice = std::mem::replace(&mut held.slice, Slice::new(&self.chain, partition));
        self.gathering -= slice.bytes();
        Some((slice, std::mem::take(&mut held.keyless)))
    }

    /// Encodes and writes a slice beside the reading; what comes of it is reported.
    fn put(&mut self, partition: i32, first: i64, next: i64, link: Link) {
        let Some((slice, keyless)) = self.take_slice(partition) else { return };
        let Some(held) = self.held.get_mut(&partition) else { return };
        if held.seen.elapsed() >= self.options.fresh {
            tracing::warn!(partition, "the lake has not been seen for long: looking where it goes on");
            return self.assign(partition);
        }
        let kind = match link {
            Link::Slice => Kind::Slice,
            Link::Start => Kind::Start,
            Link::Gap => Kind::Gap,
        };
        let mut footer = Footer::empty(kind, &self.chain, partition, first, next, &self.writer);
        if let Some((offset, arrived_ms, stamped_ms)) = held.last.filter(|(offset, ..)| (first..next).contains(offset))
        {
            (footer.last_offset, footer.last_arrived_ms) = (Some(offset), Some(arrived_ms));
            footer.last_stamped_ms = Some(stamped_ms);
        }
        (footer.readings, footer.dead, footer.keyless) = (slice.readings(), slice.dead(), keyless);
        footer.partitions = self.source.partitions();
        if kind == Kind::Gap {
            tracing::warn!(
                partition,
                first,
                next,
                "the log no longer has these records: they were lost before they were read"
            );
        }
        if footer.dead > 0 {
            // For whoever watches logs by machine: the field is what counts.
            tracing::info!(partition, first, dead_letters = footer.dead, "packets that could not be read are kept");
        }
        self.progress.send_modify(|done| {
            done.lost += if kind == Kind::Gap { (next - first) as u64 } else { 0 };
            slice.reasons().for_each(|(reason, n)| *done.reasons.entry(reason).or_default() += n);
        });
        let (reports, generation) = (self.reports.0.clone(), held.generation);
        let report = move |written| drop(reports.send((partition, generation, Report::Written(written))));
        let from = Origin { lookup: self.source.lookup(), id: held.log };
        held.task = Some(self.writers.put(slice, footer, from, report));
    }

    /// Tells how everything stands, where anybody listens.
    fn tell(&mut self) {
        if self.told.elapsed() < TELL || self.standing.receiver_count() == 0 {
            return;
        }
        self.told = Instant::now();
        let standing = |held: &Held| PartitionStanding {
            next: held.core.is_reading().then(|| held.core.gathering().1),
            rows: held.slice.rows() as u64,
            bytes: held.slice.bytes() as u64,
            age: (held.slice.rows() > 0).then(|| held.since.elapsed()),
            paused: held.paused || self.full,
        };
        let partitions = self.held.iter().map(|(&partition, held)| (partition, standing(held))).collect();
        let (gathering, writing) = (self.gathering as u64, self.writers.bytes() as u64);
        self.standing.send_replace(Standing { at: self.told, partitions, gathering, writing });
    }
}
