//! A run: the files of one table of one closed day, sorted by device and time, written once and never changed.

use arrow::{array::RecordBatch, compute};
use futures::{StreamExt, TryStreamExt};

use super::{
    encoding::FileWriter,
    layout::{self, Day, Table},
    scan::{self, Batches},
    state::Run,
    store::{Created, Store, StoreError},
};

/// The size at which a part is closed, in bytes: large enough that a query opens few files, small enough to hold in
/// memory while it is written.
pub const PART_BYTES: usize = 256 * 1024 * 1024;

/// A new run's name: when it was begun, so that a clean-up knows its age, and something random.
pub fn new_name(begun_ms: i64) -> String {
    let begun = chrono::DateTime::from_timestamp_millis(begun_ms).unwrap_or_default();
    format!("{}-{}", begun.format("%Y%m%dT%H%M%SZ"), super::random_name())
}

/// When the run of this name was begun, milliseconds since 1970 UTC.
pub fn begun_ms(name: &str) -> Option<i64> {
    let (begun, _) = name.split_once('-')?;
    chrono::NaiveDateTime::parse_from_str(begun, "%Y%m%dT%H%M%SZ").ok().map(|at| at.and_utc().timestamp_millis())
}

/// The column by which the span of a table's run is told.
pub(super) fn time_column(table: Table) -> &'static str {
    if table == Table::DeadLetters { "arrived_at" } else { "ts" }
}

/// Writes the parts of a run. What it has written is in force once a state names it.
pub struct RunWriter<'a> {
    store: &'a Store,
    table: Table,
    day: Day,
    run: Run,
    part_bytes: usize,
    part: Option<FileWriter>,
}

impl<'a> RunWriter<'a> {
    /// A run called `name`.
    pub fn new(store: &'a Store, table: Table, day: Day, name: &str) -> RunWriter<'a> {
        let run = Run { run: name.to_owned(), rows: 0, parts: Vec::new(), min_ts: i64::MAX, max_ts: i64::MIN };
        RunWriter { store, table, day, run, part_bytes: PART_BYTES, part: None }
    }

    /// The next rows, with the columns of its table first; further columns are left out.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<(), StoreError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let schema = self.table.schema();
        let columns: Vec<usize> = (0..schema.fields().len()).collect();
        let key = layout::run_part(self.table, self.day, &self.run.run, self.run.parts.len());
        let failed = |what: String| StoreError::Damaged { key: key.clone(), what };
        let batch = batch.project(&columns).map_err(|e| failed(e.to_string()))?;
        self.run.rows += batch.num_rows() as u64;
        let times = scan::times(&batch, time_column(self.table));
        self.run.min_ts = self.run.min_ts.min(compute::min(&times).unwrap_or(i64::MAX));
        self.run.max_ts = self.run.max_ts.max(compute::max(&times).unwrap_or(i64::MIN));
        let part = match &mut self.part {
            Some(part) => part,
            None => {
                self.part.insert(FileWriter::new(self.table.into(), Vec::new()).map_err(|e| failed(e.to_string()))?)
            }
        };
        part.write(&batch).map_err(|e| failed(e.to_string()))?;
        if part.bytes() >= self.part_bytes {
            self.close_part().await?;
        }
        Ok(())
    }

    async fn close_part(&mut self) -> Result<(), StoreError> {
        let Some(part) = self.part.take() else { return Ok(()) };
        let key = layout::run_part(self.table, self.day, &self.run.run, self.run.parts.len());
        let failed = |what: String| StoreError::Damaged { key: key.clone(), what };
        let bytes = part.finish().map_err(|e| failed(e.to_string()))?;
        self.run.parts.push(bytes.len() as u64);
        // The name is random, so what is there already is this part: its answer had been lost.
        match self.store.create(&key, bytes.clone()).await? {
            Created::Taken if self.store.get(&key).await? != bytes => {
                Err(failed("a run of this name is being written by somebody else".to_owned()))
            }
            Created::New | Created::Taken => Ok(()),
        }
    }

    /// The finished run; `None` where nothing was written.
    pub async fn finish(mut self) -> Result<Option<Run>, StoreError> {
        self.close_part().await?;
        Ok((self.run.rows > 0).then_some(self.run))
    }
}

/// The rows of a run, in its order.
pub fn rows(store: &Store, table: Table, day: Day, run: &Run) -> Batches {
    let parts: Vec<_> = run.parts.iter().copied().enumerate().collect();
    let (store, run) = (store.clone(), run.run.clone());
    let open = move |(part, bytes): (usize, u64)| {
        let (store, key) = (store.clone(), layout::run_part(table, day, &run, part));
        async move { scan::open(&store, &key, bytes, &table.schema()).await }
    };
    futures::stream::iter(parts).then(open).try_flatten().boxed()
}
