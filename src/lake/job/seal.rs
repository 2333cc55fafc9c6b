//! A file that a job has sorted becomes a part of a run.
//!
//! What is sent twice is dropped here, by [`Merge`] as everywhere: of the same device, time, `seq` and vitals the row that
//! comes first stays, and what the day before has goes before all. The job has brought such rows together in one file.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::{array::RecordBatch, compute, datatypes::SchemaRef, error::ArrowError};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use hashbrown::HashSet;
use object_store::path::Path;
use parquet::file::{metadata::RowGroupMetaData, statistics::Statistics};

use super::{
    Sealed, Staged, Sum,
    order::{Order, seen},
};
use crate::{
    lake::{
        compact::{closed_rows, kept},
        encoding::FileWriter,
        layout::{self, Table},
        merge::{Input, Merge, Origin},
        run::{PART_BYTES, time_column},
        scan::{self, Batches},
        state::Run,
        store::{Created, Store, StoreError},
    },
    reading::columns,
};

/// The most bytes of a part: it is held in memory while it is written.
const MOST_BYTES: usize = 4 * PART_BYTES;

/// The columns of a table's sorted files: those of the table, and each row's place in the log.
pub fn staged_schema(table: Table) -> SchemaRef {
    Arc::clone(match table {
        Table::Readings => &columns::MERGED,
        Table::Outliers => &columns::SCORED,
        Table::DeadLetters => &columns::DEAD_LETTER,
    })
}

/// Where the places in the log of dropped readings of a part are kept.
fn dropped_key(run: &str, part: usize) -> Path {
    Path::from_iter([run, &format!("dropped-{part:05}.json")])
}

/// Writes the part that `staged` is to be. The same file sealed twice, at once too, is one part.
///
/// # Errors
/// Its rows are not sorted, or have other columns; the part is there already and is another one.
pub async fn seal(lake: &Store, staging: &Store, staged: &Staged) -> Result<Sealed, StoreError> {
    let key = Path::from(staged.key.as_str());
    let (_, bytes) = staging.tail(&key, 0).await?;
    let watched = Arc::new(Mutex::new(Watched::default()));
    let rows = scan::open(staging, &key, bytes, &staged_schema(staged.table)).await?;
    let range = Range::of(staging, &key).await?;
    let rows = watch(rows, key.clone(), staged.table, &watched, range.clone());
    let mut part = Part::new(staged).map_err(|e| damaged(&key, e))?;
    match staged.table {
        Table::Readings => {
            let before = staged.before.as_ref().map(|run| before(lake, staged, run, range));
            let before = before.map(|batches| Input { batches, keep: false });
            let inputs = before.into_iter().chain([Input { batches: rows, keep: true }]).collect();
            let mut merge = Merge::new(&columns::MERGED, inputs, true).await?;
            while let Some(batch) = merge.next().await? {
                part.write(&batch).map_err(|e| damaged(&key, e))?;
            }
            keep_dropped(staging, staged, &merge.dropped_origins).await?;
        }
        Table::Outliers => {
            let dropped = dropped(staging, staged).await?;
            let mut rows = rows;
            while let Some(batch) = rows.try_next().await? {
                let batch = kept(&batch, &dropped).map_err(|e| damaged(&key, e.to_string()))?;
                part.write(&batch).map_err(|e| damaged(&key, e))?;
            }
        }
        Table::DeadLetters => {
            let mut rows = rows;
            while let Some(batch) = rows.try_next().await? {
                part.write(&batch).map_err(|e| damaged(&key, e))?;
            }
        }
    }
    let watched = std::mem::take(&mut *watched.lock().unwrap_or_else(PoisonError::into_inner));
    part.finish(lake, watched).await
}

fn damaged(key: &Path, what: impl Into<String>) -> StoreError {
    StoreError::Damaged { key: key.clone(), what: what.into() }
}

/// What was seen of a sorted file as its rows went by.
#[derive(Debug, Default)]
struct Watched {
    sum: Sum,
    order: Order,
}

/// Rows that are summed up and must be sorted, and within the range that the file says it has.
fn watch(rows: Batches, key: Path, table: Table, watched: &Arc<Mutex<Watched>>, range: Option<Range>) -> Batches {
    let watched = Arc::clone(watched);
    seen(rows, key, move |batch| {
        // Nobody panics while it is held.
        let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.sum.add(batch).map_err(|e| e.to_string())?;
        if table == Table::DeadLetters {
            return Ok(());
        }
        watched.order.follow(batch)?;
        match (&range, watched.order.ends()) {
            (Some(range), Some([(first, _), (last, _)])) if first < range.least || last > range.greatest => {
                Err("it has devices that its statistics do not have".to_owned())
            }
            _ => Ok(()),
        }
    })
}

/// The devices of a file, by its statistics.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Range {
    least: String,
    greatest: String,
}

impl Range {
    /// That of a file; `None` where it does not say.
    async fn of(store: &Store, key: &Path) -> Result<Option<Range>, StoreError> {
        let metadata = store.parquet_metadata(key).await?;
        let mut all: Option<Range> = None;
        for group in metadata.row_groups() {
            let Some(range) = Range::of_group(group) else { return Ok(None) };
            all = Some(match all {
                None => range,
                Some(all) => Range { least: all.least.min(range.least), greatest: all.greatest.max(range.greatest) },
            });
        }
        Ok(all)
    }

    fn of_group(group: &RowGroupMetaData) -> Option<Range> {
        let column = group.columns().iter().find(|column| column.column_path().string() == "device_id")?;
        let Some(Statistics::ByteArray(devices)) = column.statistics() else { return None };
        let text = |bytes: Option<&[u8]>| String::from_utf8(bytes?.to_vec()).ok();
        Some(Range { least: text(devices.min_bytes_opt())?, greatest: text(devices.max_bytes_opt())? })
    }

    fn meets(&self, other: &Range) -> bool {
        self.least <= other.greatest && other.least <= self.greatest
    }
}

/// What the day before has of the devices of a sorted file.
fn before(lake: &Store, staged: &Staged, run: &Run, range: Option<Range>) -> Batches {
    let (store, day, run) = (lake.clone(), staged.day.previous(), run.clone());
    let parts: Vec<(usize, u64)> = run.parts.iter().copied().enumerate().collect();
    let open = move |(part, bytes): (usize, u64)| {
        let (store, key) = (store.clone(), layout::run_part(Table::Readings, day, &run.run, part));
        let range = range.clone();
        async move {
            let meets = |group: &RowGroupMetaData| match (&range, Range::of_group(group)) {
                (Some(range), Some(group)) => range.meets(&group),
                _ => true,
            };
            scan::open_groups(&store, &key, bytes, &columns::READING, meets).await
        }
    };
    closed_rows(stream::iter(parts).then(open).try_flatten().boxed())
}

/// Keeps the places in the log of rows that were dropped: their outliers go as well.
async fn keep_dropped(staging: &Store, staged: &Staged, dropped: &HashSet<Origin>) -> Result<(), StoreError> {
    let key = dropped_key(&staged.run, staged.part);
    let mut rows: Vec<_> = dropped.iter().map(|o| (&o.chain, o.partition, o.offset, o.item)).collect();
    rows.sort_unstable();
    let json = serde_json::to_vec(&rows).map_err(|e| damaged(&key, e.to_string()))?;
    staging.replace(&key, Bytes::from(json)).await
}

async fn dropped(staging: &Store, staged: &Staged) -> Result<HashSet<Origin>, StoreError> {
    let mut all = HashSet::new();
    for &part in &staged.dropped_in {
        let key = dropped_key(&staged.run, part);
        let json = staging.get(&key).await?;
        let rows: Vec<(String, i32, i64, i32)> =
            serde_json::from_slice(&json).map_err(|e| damaged(&key, e.to_string()))?;
        all.extend(rows.into_iter().map(|(chain, partition, offset, item)| Origin { chain, partition, offset, item }));
    }
    Ok(all)
}

/// The part that is written.
struct Part<'a> {
    staged: &'a Staged,
    file: FileWriter,
    rows: Sum,
    times: Option<(i64, i64)>,
}

impl<'a> Part<'a> {
    fn new(staged: &'a Staged) -> Result<Part<'a>, String> {
        let file = FileWriter::new(staged.table.into(), Vec::new()).map_err(|e| e.to_string())?;
        Ok(Part { staged, file, rows: Sum::default(), times: None })
    }

    /// The next rows, with the columns of the table first.
    fn write(&mut self, batch: &RecordBatch) -> Result<(), String> {
        let said = |e: ArrowError| e.to_string();
        let columns: Vec<usize> = (0..self.staged.table.schema().fields().len()).collect();
        let batch = batch.project(&columns).map_err(said)?;
        self.rows.add(&batch).map_err(said)?;
        let times = scan::times(&batch, time_column(self.staged.table));
        if let Some((least, greatest)) = compute::min(&times).zip(compute::max(&times)) {
            let (from, to) = self.times.unwrap_or((least, greatest));
            self.times = Some((from.min(least), to.max(greatest)));
        }
        self.file.write(&batch).map_err(|e| e.to_string())?;
        if self.file.bytes() > MOST_BYTES {
            return Err("it is too large for a part: sort into more files (`--part-bytes` of the job)".to_owned());
        }
        Ok(())
    }

    /// Creates the part in the lake.
    async fn finish(self, lake: &Store, watched: Watched) -> Result<Sealed, StoreError> {
        let Staged { table, part, day, run, .. } = self.staged;
        let key = layout::run_part(*table, *day, run, *part);
        let bytes = self.file.finish().map_err(|e| damaged(&key, e.to_string()))?;
        let sealed = Sealed {
            table: *table,
            part: *part,
            bytes: bytes.len() as u64,
            staged: watched.sum,
            rows: self.rows,
            dropped: watched.sum.rows - self.rows.rows,
            times: self.times,
            ends: watched.order.ends(),
        };
        match lake.create(&key, bytes.clone()).await? {
            // A task that is run twice writes the same to the bit.
            Created::Taken if lake.get(&key).await? != bytes => {
                Err(damaged(&key, "another part of this name is there"))
            }
            Created::New | Created::Taken => Ok(sealed),
        }
    }
}
