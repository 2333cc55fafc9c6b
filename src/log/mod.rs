//! The log: where packets wait, in order and with a number each, until the lake has them.
//!
//! A record is known by *(chain, partition, offset)*: the chain names the log (a spool, a Kafka topic). Ingest reads any
//! log through [`Source`]; [`spool`] is the log of one machine.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

pub mod spool;

/// One record of a log.
#[derive(Debug, Clone)]
pub struct Record {
    pub partition: i32,
    pub offset: i64,
    /// The log's own time of it, milliseconds since 1970 UTC; never falls within a partition.
    pub arrived_ms: i64,
    /// The device that the log's broker authenticated, where it did.
    pub device: Option<Box<str>>,
    pub payload: Bytes,
}

/// What a log has to say.
#[derive(Debug)]
pub enum LogEvent {
    /// These partitions are ours now; nothing comes of them before [`Source::seek`].
    Assigned(Vec<i32>),
    /// These partitions go to somebody else. They are let go with the next call of [`Source::next`].
    Revoked(Vec<i32>),
    /// Records, in order within each partition.
    Records(Vec<Record>),
    /// Nothing came in the time given.
    Idle,
    /// The log has ended and will never have more.
    End,
}

/// The offsets that a partition holds: `start` is the first that can still be read, `end` the next to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub start: i64,
    pub end: i64,
}

/// A log as its reader sees it.
#[async_trait]
pub trait Source: Send {
    /// The log's name in the lake.
    fn chain(&self) -> &str;

    /// The next event; waits up to `wait` for one.
    async fn next(&mut self, wait: Duration) -> anyhow::Result<LogEvent>;

    /// What an assigned partition holds.
    async fn bounds(&mut self, partition: i32) -> anyhow::Result<Bounds>;

    /// The arrival time of one record, `None` where the log does not hold it. By this a log that was made anew under an
    /// old name is recognised.
    async fn arrived_at(&mut self, partition: i32, offset: i64) -> anyhow::Result<Option<i64>>;

    /// Continue an assigned partition from `offset`. Once this has returned, no record that was under way before comes
    /// any more: the next of this partition is the first one at or after `offset`.
    async fn seek(&mut self, partition: i32, offset: i64) -> anyhow::Result<()>;

    /// Stop reading a partition for now: its buffers are full.
    async fn pause(&mut self, partition: i32) -> anyhow::Result<()>;

    /// Go on with a paused partition.
    async fn resume(&mut self, partition: i32) -> anyhow::Result<()>;

    /// The lake holds everything below `next`.
    async fn stored(&mut self, partition: i32, next: i64) -> anyhow::Result<()>;
}
