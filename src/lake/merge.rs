//! Sorted rows of many files into one stream sorted by `(device_id, ts)`, bounded in memory by the number of inputs.
//!
//! Where the rows are readings, one that was *sent twice* is dropped: the same device, `ts`, `seq` and vitals. Of such
//! rows that of the lowest rank stays: a closed day's before a landing row, and among those the lowest (chain, partition,
//! offset, item), which is the order in which the inputs are given.

use std::{cmp::Ordering, collections::BinaryHeap, collections::binary_heap::PeekMut, sync::Arc};

use arrow::{
    array::{Array, AsArray, Float64Array, Int64Array, RecordBatch, StringArray},
    compute::interleave_record_batch,
    datatypes::{Float64Type, SchemaRef},
};
use futures::TryStreamExt;
use hashbrown::HashSet;
use object_store::path::Path;

use super::{
    scan::{self, Batches},
    store::StoreError,
};
use crate::reading::{VITALS, Vital, columns};

/// Rows per batch that a merge gives.
const OUT_ROWS: usize = 64 * 1024;

/// Where a record lies in the log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    pub chain: String,
    pub partition: i32,
    pub offset: i64,
    pub item: i32,
}

impl From<(&str, i32, i64, i32)> for Origin {
    fn from((chain, partition, offset, item): (&str, i32, i64, i32)) -> Origin {
        Origin { chain: chain.to_owned(), partition, offset, item }
    }
}

/// One sorted input.
pub struct Input {
    pub batches: Batches,
    /// Whether its rows are given; those of a day before are looked at only to drop rows that were sent twice.
    pub keep: bool,
}

/// A running merge. Inputs have the schema of readings with origins, or any with `device_id` and `ts`.
pub struct Merge {
    schema: SchemaRef,
    heap: BinaryHeap<Cursor>,
    /// Seen rows of the device and time at hand; `None` where duplicates stay.
    group: Option<Group>,
    /// How many rows were dropped as sent twice.
    pub dropped: u64,
    /// The origins of dropped landing rows.
    pub dropped_origins: HashSet<Origin>,
}

#[derive(Default)]
struct Group {
    device: String,
    ts: i64,
    seen: HashSet<[u64; VITALS + 1]>,
}

/// One input and its row at hand.
struct Cursor {
    batches: Batches,
    rank: usize,
    keep: bool,
    batch: Columns,
    row: usize,
}

struct Columns {
    all: RecordBatch,
    device: StringArray,
    ts: Int64Array,
    seq: Int64Array,
    vitals: Option<[Float64Array; VITALS]>,
}

impl Columns {
    fn of(all: RecordBatch) -> Option<Columns> {
        let device = all.column_by_name("device_id")?.as_string_opt::<i32>()?.clone();
        let vital =
            |v: Vital| all.column_by_name(v.column()).and_then(|c| c.as_primitive_opt::<Float64Type>().cloned());
        let found: Vec<Float64Array> = Vital::ALL.into_iter().filter_map(vital).collect();
        Some(Columns {
            device,
            ts: scan::times(&all, "ts"),
            seq: scan::int64(&all, "seq"),
            vitals: found.try_into().ok(),
            all,
        })
    }

    /// What makes two rows of one device and time the same.
    fn content(&self, row: usize) -> [u64; VITALS + 1] {
        // All bits set is a NaN that no sensor sends, so absence differs from every value.
        let mut content = [u64::MAX; VITALS + 1];
        if let Some(vitals) = &self.vitals {
            for (place, vital) in content.iter_mut().zip(vitals) {
                if vital.is_valid(row) {
                    *place = vital.value(row).to_bits();
                }
            }
        }
        content[VITALS] = if self.seq.is_valid(row) { self.seq.value(row) as u64 } else { u64::MAX };
        content
    }

    fn origin(&self, row: usize) -> Option<Origin> {
        columns::origin(&self.all, row).map(Origin::from)
    }
}

impl Cursor {
    fn key(&self) -> (&str, i64, usize) {
        (self.batch.device.value(self.row), self.batch.ts.value(self.row), self.rank)
    }
}

impl PartialEq for Cursor {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}
impl Eq for Cursor {}
impl PartialOrd for Cursor {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Cursor {
    /// Reversed: the heap gives its greatest first, and the merge wants the least.
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}

impl Merge {
    /// A merge of `inputs`, lowest rank first, each sorted by `(device_id, ts)`. With `sent_once`, rows that were sent
    /// twice are dropped.
    pub async fn new(schema: &SchemaRef, inputs: Vec<Input>, sent_once: bool) -> Result<Merge, StoreError> {
        let mut merge = Merge {
            schema: Arc::clone(schema),
            heap: BinaryHeap::with_capacity(inputs.len()),
            group: sent_once.then(Group::default),
            dropped: 0,
            dropped_origins: HashSet::new(),
        };
        for (rank, input) in inputs.into_iter().enumerate() {
            merge.refill(input.batches, rank, input.keep).await?;
        }
        Ok(merge)
    }

    /// Puts an input back with its next batch that has rows; without one it has ended.
    async fn refill(&mut self, mut batches: Batches, rank: usize, keep: bool) -> Result<(), StoreError> {
        while let Some(batch) = batches.try_next().await? {
            if batch.num_rows() == 0 {
                continue;
            }
            let batch = Columns::of(batch).ok_or_else(|| internal("rows without `device_id`"))?;
            self.heap.push(Cursor { batches, rank, keep, batch, row: 0 });
            break;
        }
        Ok(())
    }

    /// The next rows, up to 65,536; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, StoreError> {
        let mut pinned: Vec<RecordBatch> = Vec::new();
        let mut pinned_of: Vec<Option<usize>> = Vec::new();
        let mut rows: Vec<(usize, usize)> = Vec::with_capacity(OUT_ROWS);
        while rows.len() < OUT_ROWS {
            let Some(mut least) = self.heap.peek_mut() else { break };
            let first_seen = match &mut self.group {
                Some(group) => group.first_seen(&least),
                None => true,
            };
            if !first_seen && least.keep {
                self.dropped += 1;
                self.dropped_origins.extend(least.batch.origin(least.row));
            }
            if first_seen && least.keep {
                if pinned_of.len() <= least.rank {
                    pinned_of.resize(least.rank + 1, None);
                }
                let place = *pinned_of[least.rank].get_or_insert_with(|| {
                    pinned.push(least.batch.all.clone());
                    pinned.len() - 1
                });
                rows.push((place, least.row));
            }
            if least.row + 1 < least.batch.all.num_rows() {
                least.row += 1;
                continue;
            }
            let done = PeekMut::pop(least);
            if let Some(place) = pinned_of.get_mut(done.rank) {
                *place = None;
            }
            self.refill(done.batches, done.rank, done.keep).await?;
        }
        if rows.is_empty() {
            return Ok(None);
        }
        let sources: Vec<&RecordBatch> = pinned.iter().collect();
        let batch = interleave_record_batch(&sources, &rows).map_err(|e| internal(&e.to_string()))?;
        debug_assert_eq!(batch.num_columns(), self.schema.fields().len());
        Ok(Some(batch))
    }
}

impl Group {
    /// Whether this row is the first of its content for its device and time.
    fn first_seen(&mut self, cursor: &Cursor) -> bool {
        let (device, ts, _) = cursor.key();
        if self.ts != ts || self.device != device {
            self.seen.clear();
            self.ts = ts;
            device.clone_into(&mut self.device);
        }
        self.seen.insert(cursor.batch.content(cursor.row))
    }
}

fn internal(what: &str) -> StoreError {
    StoreError::Damaged { key: Path::from("(merge)"), what: what.to_owned() }
}
