//! What a slice holds: rows in the order of the log, device names kept once, and the order in which rows are written.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::reading::{Reading, Reason};

/// A reading and where it came from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub reading: Reading,
    pub offset: i64,
    /// Its number among the slice's [`Devices`].
    pub device: u32,
    pub item: i32,
}

/// What could not be read.
#[derive(Debug)]
pub(super) struct Dead {
    pub device: Option<u32>,
    pub offset: i64,
    pub arrived_ms: i64,
    pub item: i32,
    pub reason: Reason,
    pub payload: Box<[u8]>,
}

/// Either kind of row.
pub(super) enum Outcome<'a> {
    Reading(Row),
    Dead(&'a Dead),
}

/// Readings in chunks, so that growing neither copies what is there nor doubles the memory.
#[derive(Debug, Default)]
pub(super) struct Rows {
    chunks: Vec<Vec<Row>>,
}

const CHUNK: usize = 8192;

impl Rows {
    pub fn push(&mut self, row: Row) {
        match self.chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK => chunk.push(row),
            // Most slices are small, so that only the first chunk grows.
            Some(_) => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(row);
                self.chunks.push(chunk);
            }
            None => self.chunks.push(vec![row]),
        }
    }

    pub fn len(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len())
    }

    pub fn bytes(&self) -> usize {
        let last = self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.capacity());
        last * size_of::<Row>() + self.chunks.capacity() * size_of::<Vec<Row>>()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Row> {
        self.chunks.iter().flatten()
    }

    fn get(&self, index: usize) -> &Row {
        &self.chunks[index / CHUNK][index % CHUNK]
    }
}

/// Device names, each once, numbered in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Devices {
    names: Vec<Box<str>>,
    numbers: HashTable<u32>,
    hasher: DefaultHashBuilder,
    name_bytes: usize,
}

impl Devices {
    /// The number of a device.
    pub fn intern(&mut self, name: &str) -> u32 {
        let hash = self.hasher.hash_one(name);
        let same = |&number: &u32| *self.names[number as usize] == *name;
        if let Some(&number) = self.numbers.find(hash, same) {
            return number;
        }
        let number = self.names.len() as u32; // Memory ends long before four billion names.
        self.names.push(name.into());
        self.name_bytes += name.len();
        let (names, hasher) = (&self.names, &self.hasher);
        self.numbers.insert_unique(hash, number, |&number| hasher.hash_one(&*names[number as usize]));
        number
    }

    /// The name of a device that [`Devices::intern`] numbered.
    pub fn name(&self, number: u32) -> &str {
        &self.names[number as usize]
    }

    pub fn bytes(&self) -> usize {
        // The allocator adds about 16 bytes to each name; the table has a byte of its own for each slot.
        self.name_bytes + self.names.capacity() * (size_of::<Box<str>>() + 16) + self.numbers.capacity() * 5
    }

    /// The place of each device among all in the order of names.
    fn ranks(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.names.len() as u32).collect();
        order.sort_unstable_by(|&a, &b| self.name(a).cmp(self.name(b)));
        let mut ranks = vec![0; order.len()];
        order.into_iter().zip(0..).for_each(|(number, rank)| ranks[number as usize] = rank);
        ranks
    }
}

/// The row at `index` of all rows: readings first, then dead letters.
pub(super) fn outcome<'a>(index: u32, readings: &'a Rows, dead: &'a [Dead]) -> Outcome<'a> {
    match (index as usize).checked_sub(readings.len()) {
        None => Outcome::Reading(*readings.get(index as usize)),
        Some(index) => Outcome::Dead(&dead[index]),
    }
}

/// Indices of all rows, sorted by (device, time, offset, item).
///
/// Rows are dealt out to their devices in the order of the log, which is that of (offset, item). What is dealt to one
/// device is in the order of time already, but for a few, so that one stable pass per device does the rest.
pub(super) fn sorted(devices: &Devices, readings: &Rows, dead: &[Dead]) -> Vec<u32> {
    let ranks = devices.ranks();
    let nobody = ranks.len();
    let rank = |device: Option<u32>| device.map_or(nobody, |device| ranks[device as usize] as usize);
    // A dead letter has no time, and follows its device's readings.
    let keys = || {
        let living = readings.iter().map(|row| (rank(Some(row.device)), row.reading.ts_ms));
        living.chain(dead.iter().map(|dead| (rank(dead.device), i64::MAX)))
    };
    let mut ends = vec![0usize; nobody + 1];
    keys().for_each(|(rank, _)| ends[rank] += 1);
    let mut start = 0;
    for end in &mut ends {
        (*end, start) = (start, start + *end);
    }
    let mut dealt = vec![(0i64, 0u32); start];
    for ((rank, ts_ms), index) in keys().zip(0..) {
        dealt[ends[rank]] = (ts_ms, index);
        ends[rank] += 1;
    }
    let mut start = 0;
    for end in ends {
        dealt[start..end].sort_by_key(|&(ts_ms, _)| ts_ms);
        start = end;
    }
    dealt.into_iter().map(|(_, index)| index).collect()
}
