//! The log: where packets wait, in order and with a number each, until the lake has them.
//!
//! A record is known by *(chain, partition, offset)*: the chain names the log (a spool, a Kafka topic). Ingest reads any
//! log through [`Source`] and asks what it holds through [`Lookup`]; what devices send is appended through [`append`].
//! [`spool`] is the log of one machine, [`kafka`] that of a fleet.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;

pub mod append;
pub mod kafka;
pub mod spool;

/// One record of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    pub partition: i32,
    pub offset: i64,
    /// When it arrived, milliseconds since 1970 UTC.
    pub arrived_ms: i64,
    /// The time that the log itself keeps with it, by which the record is known again. The same as `arrived_ms`, but where
    /// a producer's clock was ahead.
    pub stamped_ms: i64,
    /// The device that the log's broker authenticated, where it did: the record's key.
    pub device: Option<&'a str>,
    pub payload: &'a [u8],
}

/// Records that were read together, in order within each partition. Their texts lie in common buffers, so that
/// reading a record costs no allocation of its own.
#[derive(Debug, Default)]
pub struct Records {
    entries: Vec<Entry>,
    /// The devices' names.
    names: String,
    payloads: Vec<u8>,
}

#[derive(Debug)]
struct Entry {
    partition: i32,
    offset: i64,
    arrived_ms: i64,
    stamped_ms: i64,
    device: Option<Range<usize>>,
    payload: Range<usize>,
}

impl Records {
    /// None yet, with room for so many bytes of them.
    pub fn with_capacity(bytes: usize) -> Records {
        let (entries, names) = (Vec::with_capacity(bytes / 256), String::with_capacity(bytes / 16));
        Records { entries, names, payloads: Vec::with_capacity(bytes) }
    }

    /// Adds a record.
    pub fn push(&mut self, record: Record<'_>) {
        let (name, payload) = (self.names.len(), self.payloads.len());
        let device = record.device.map(|device| {
            self.names.push_str(device);
            name..self.names.len()
        });
        self.payloads.extend_from_slice(record.payload);
        let payload = payload..self.payloads.len();
        let Record { partition, offset, arrived_ms, stamped_ms, .. } = record;
        self.entries.push(Entry { partition, offset, arrived_ms, stamped_ms, device, payload });
    }

    /// Keeps some records, by partition and offset.
    pub fn retain(&mut self, keep: impl Fn(i32, i64) -> bool) {
        self.entries.retain(|entry| keep(entry.partition, entry.offset));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The bytes of their devices and payloads.
    pub fn bytes(&self) -> usize {
        self.names.len() + self.payloads.len()
    }

    /// The records in their order.
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        self.entries.iter().map(|entry| Record {
            partition: entry.partition,
            offset: entry.offset,
            arrived_ms: entry.arrived_ms,
            stamped_ms: entry.stamped_ms,
            device: entry.device.clone().map(|at| &self.names[at]),
            payload: &self.payloads[entry.payload.clone()],
        })
    }
}

impl<'a> FromIterator<Record<'a>> for Records {
    fn from_iter<I: IntoIterator<Item = Record<'a>>>(iter: I) -> Records {
        let mut records = Records::default();
        iter.into_iter().for_each(|record| records.push(record));
        records
    }
}

/// What a log has to say.
#[derive(Debug)]
pub enum LogEvent {
    /// These partitions are ours now; nothing comes of them before [`Source::seek`].
    Assigned(Vec<i32>),
    /// These partitions go to somebody else. They are let go with the next call of [`Source::next`].
    Revoked(Vec<i32>),
    /// Records, in order within each partition.
    Records(Records),
    /// Nothing came in the time given.
    Idle,
    /// The log has ended: nothing more will come, or nothing more is wanted.
    End,
}

/// The offsets that a partition holds: `start` is the first that can still be read, `end` the next to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub start: i64,
    pub end: i64,
}

/// By what a log is known from another one of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogId(pub u128);

/// A log as its reader sees it.
#[async_trait]
pub trait Source: Send {
    /// The log's name in the lake.
    fn chain(&self) -> &str;

    /// How many partitions the log has, as far as is known.
    fn partitions(&self) -> Option<i32> {
        None
    }

    /// Answers questions about what the log holds, beside the reading.
    fn lookup(&self) -> Arc<dyn Lookup>;

    /// The next event; waits up to `wait` for one. Nothing is lost where the wait is given up.
    async fn next(&mut self, wait: Duration) -> anyhow::Result<LogEvent>;

    /// Continue an assigned partition from `offset`. Once this has returned, no record that was under way before comes
    /// any more: the next of this partition is the first one at or after `offset`.
    async fn seek(&mut self, partition: i32, offset: i64) -> anyhow::Result<()>;

    /// Stop reading partitions for now: their buffers are full.
    async fn pause(&mut self, partitions: &[i32]) -> anyhow::Result<()>;

    /// Go on with paused partitions.
    async fn resume(&mut self, partitions: &[i32]) -> anyhow::Result<()>;

    /// The lake holds everything below `next`.
    async fn stored(&mut self, partition: i32, next: i64) -> anyhow::Result<()>;

    /// Nothing more is read: let go of everything.
    async fn close(&mut self) {}
}

/// What a log holds.
#[async_trait]
pub trait Lookup: Send + Sync {
    /// The log's id as it is now; `None` where it has none, or the log is gone. It tells whether the log was made anew while
    /// it was read, which its records do not.
    async fn id(&self) -> anyhow::Result<Option<LogId>> {
        Ok(None)
    }

    /// The offsets that a partition holds.
    async fn bounds(&self, partition: i32) -> anyhow::Result<Bounds>;

    /// The ends of these partitions.
    async fn ends(&self, partitions: &[i32]) -> anyhow::Result<BTreeMap<i32, i64>> {
        let mut ends = BTreeMap::new();
        for &partition in partitions {
            ends.insert(partition, self.bounds(partition).await?.end);
        }
        Ok(ends)
    }

    /// The time that the log keeps with one record ([`Record::stamped_ms`]), `None` where it does not hold the record. By
    /// this a log that was made anew under an old name is recognised.
    async fn stamped_at(&self, partition: i32, offset: i64) -> anyhow::Result<Option<i64>>;
}
