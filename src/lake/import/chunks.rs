//! Rows of past days, sorted by (day, device, time) in chunks: one in memory, or many in temporary files.

use std::{collections::BTreeSet, sync::Arc};

use arrow::array::RecordBatch;
use futures::StreamExt;

use crate::{
    lake::{
        Day, StoreError,
        scan::{self, BATCH_ROWS, Batches},
        spill::{Spill, Spilled},
    },
    reading::{Reading, columns},
};

/// Rows waiting to be merged into their days.
pub(super) struct Chunks {
    bound: usize,
    rows: Vec<(Day, u32, Reading)>,
    names: hashbrown::HashMap<Box<str>, u32>,
    days: BTreeSet<Day>,
    sorted: Vec<RecordBatch>,
    spilled: Vec<Spilled>,
}

impl Chunks {
    /// No rows yet; at most `bound` are sorted in memory at once.
    pub(super) fn new(bound: usize) -> Chunks {
        Chunks {
            bound,
            rows: Vec::new(),
            names: hashbrown::HashMap::new(),
            days: BTreeSet::new(),
            sorted: Vec::new(),
            spilled: Vec::new(),
        }
    }

    /// One more row.
    pub(super) fn push(&mut self, day: Day, device: &str, reading: Reading) -> anyhow::Result<()> {
        let next = u32::try_from(self.names.len())?;
        let name = match self.names.get(device) {
            Some(&name) => name,
            None => *self.names.entry(device.into()).or_insert(next),
        };
        self.days.insert(day);
        self.rows.push((day, name, reading));
        if self.rows.len() >= self.bound {
            self.spill()?;
        }
        Ok(())
    }

    /// Sorts what is held into batches in the shape of a merge's input.
    fn sort(&mut self) -> anyhow::Result<Vec<RecordBatch>> {
        let mut names: Vec<(Box<str>, u32)> = self.names.drain().collect();
        names.sort_unstable();
        let mut rank = vec![0_u32; names.len()];
        names.iter().zip(0_u32..).for_each(|((_, name), place)| rank[*name as usize] = place);
        let mut rows = std::mem::take(&mut self.rows);
        // Stable, so that of equal rows the first in the file stays first.
        rows.sort_by_key(|(day, name, reading)| (*day, rank[*name as usize], reading.ts_ms));
        let batch = |rows: &[(Day, u32, Reading)]| {
            let named = rows.iter().map(|(_, name, reading)| (&*names[rank[*name as usize] as usize].0, reading));
            Ok(columns::without_origin(&columns::readings(named)?)?)
        };
        rows.chunks(BATCH_ROWS).map(batch).collect()
    }

    fn spill(&mut self) -> anyhow::Result<()> {
        let batches = self.sort()?;
        let mut spill = Spill::new(&columns::MERGED)?;
        batches.iter().try_for_each(|batch| spill.write(batch))?;
        self.spilled.push(spill.finish()?);
        Ok(())
    }

    /// Sorts the last chunk; gives the days that have rows.
    pub(super) fn finish(&mut self) -> anyhow::Result<Vec<Day>> {
        if self.spilled.is_empty() {
            self.sorted = self.sort()?;
        } else if !self.rows.is_empty() {
            self.spill()?;
        }
        Ok(self.days.iter().copied().collect())
    }

    /// Every chunk from its beginning, in the order of the file.
    pub(super) fn feeds(&self) -> anyhow::Result<Vec<FeedOfDays>> {
        if self.spilled.is_empty() {
            let batches = self.sorted.clone().into_iter().map(Ok);
            return Ok(vec![FeedOfDays::new(Box::new(batches))]);
        }
        self.spilled.iter().map(|spilled| Ok(FeedOfDays::new(Box::new(spilled.rows()?)))).collect()
    }
}

type Sorted = Box<dyn Iterator<Item = Result<RecordBatch, StoreError>> + Send>;

/// A chunk read day by day.
pub(super) struct Feed {
    batches: Sorted,
    pending: Option<RecordBatch>,
}

/// Gives the rows of one day after the other.
pub(super) struct FeedOfDays(Arc<std::sync::Mutex<Feed>>);

impl FeedOfDays {
    fn new(batches: Sorted) -> FeedOfDays {
        FeedOfDays(Arc::new(std::sync::Mutex::new(Feed { batches, pending: None })))
    }

    /// The rows of `day`; days must be asked for in order.
    pub(super) fn of(&mut self, day: Day) -> Batches {
        let feed = Arc::clone(&self.0);
        let next = move || match feed.lock() {
            Ok(mut feed) => feed.next_of(day).transpose(),
            // Whoever held it panicked; there is nothing to go on with.
            Err(_) => None,
        };
        futures::stream::iter(std::iter::from_fn(next)).boxed()
    }
}

impl Feed {
    fn next_of(&mut self, day: Day) -> Result<Option<RecordBatch>, StoreError> {
        let batch = match self.pending.take() {
            Some(batch) => batch,
            None => match self.batches.next().transpose()? {
                Some(batch) => batch,
                None => return Ok(None),
            },
        };
        let arrived = scan::times(&batch, "arrived_at");
        let rows = (0..arrived.len()).take_while(|&row| Day::of(arrived.value(row)) == day).count();
        if rows < batch.num_rows() {
            self.pending = Some(batch.slice(rows, batch.num_rows() - rows));
        }
        Ok((rows > 0).then(|| batch.slice(0, rows)))
    }
}
