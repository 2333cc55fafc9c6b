//! What a worker has done, and how its partitions stand.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{lake::landing::Footer, reading::Reason};

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
    /// Records that the log lost before they were read.
    pub lost: u64,
    /// How long writes took.
    pub puts: Latency,
}

impl Ingested {
    /// A landing file is in the lake.
    pub(super) fn add(&mut self, footer: &Footer, bytes: u64, took: Duration) {
        self.readings += footer.readings;
        self.dead += footer.dead;
        self.slices += 1;
        self.bytes += bytes;
        self.puts.add(took);
    }
}

/// How often something took how long.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Latency {
    /// How often it took no longer than [`Latency::BOUNDS`], each counted once, and then all that took longer.
    pub counts: [u64; Latency::BOUNDS.len() + 1],
    pub sum: Duration,
}

impl Latency {
    /// Seconds.
    pub const BOUNDS: [f64; 8] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0];

    fn add(&mut self, took: Duration) {
        let place = Latency::BOUNDS.partition_point(|&bound| bound < took.as_secs_f64());
        self.counts[place] += 1;
        self.sum += took;
    }
}

/// How a worker's partitions stand.
#[derive(Debug, Clone)]
pub struct Standing {
    /// When this was so.
    pub at: Instant,
    pub partitions: BTreeMap<i32, PartitionStanding>,
    /// Memory of slices that gather, and of those that are being written, in bytes.
    pub gathering: u64,
    pub writing: u64,
}

impl Default for Standing {
    fn default() -> Standing {
        Standing { at: Instant::now(), partitions: BTreeMap::new(), gathering: 0, writing: 0 }
    }
}

/// How one partition stands.
#[derive(Debug, Clone, Copy)]
pub struct PartitionStanding {
    /// The offset after the last record that was read; `None` while it is being found out where to begin.
    pub next: Option<i64>,
    /// Of the slice that gathers.
    pub rows: u64,
    pub bytes: u64,
    pub age: Option<Duration>,
    pub paused: bool,
}
