//! Import: history from files goes into the days when it happened.
//!
//! A file is a log of its own, the chain `import-<hash of its content>`, whose offsets are its row numbers. Rows of days
//! that are over are merged into the runs of those days; rows of the running day, and dead letters, go through landing
//! like everything that arrives. Landing is written first: its first footer keeps the time of the import, so that after a
//! crash a repeat splits the file at the same place. The state that names the hash comes last and puts all days in force
//! at once; the same file again then adds nothing.
//!
//! Memory: a chunk of rows ([`CHUNK_ROWS`]). Larger files are sorted chunk by chunk into temporary files outside the
//! lake, which are then merged day by day.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path as FsPath,
};

use anyhow::Context;

use super::{
    Day, Store,
    compact::{Merged, merge_readings},
    landing::{self, Footer, Kind, Put},
    layout, run,
    state::{Commit, DayRuns, Imported, State},
};
use crate::{
    ingest::slice::Slice,
    reading::{Reading, Reason, file::FileReader},
};

mod chunks;

use chunks::Chunks;

/// How many rows are sorted at once: about 100 MB.
pub const CHUNK_ROWS: usize = 1_000_000;

/// How often a lost race for the next state is tried again.
const RACES: u32 = 20;

/// The partition of an import's chain.
const PARTITION: i32 = 0;

/// What an import did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportSummary {
    /// Whether the lake had this file already; then nothing else was done.
    pub known: bool,
    pub rows: u64,
    pub readings: u64,
    /// Readings that the lake had already, from another file or a device.
    pub known_readings: u64,
    /// Rows that are no readings, by reason.
    pub dead: BTreeMap<Reason, u64>,
    /// The days that got readings.
    pub days: BTreeSet<Day>,
    /// The least and greatest `ts`.
    pub span_ms: Option<(i64, i64)>,
    /// Columns that were ignored.
    pub ignored_columns: Vec<String>,
}

/// Imports one file. `told` hears how many bytes of the file have been read.
pub async fn import(
    store: &Store,
    path: &FsPath,
    now_ms: i64,
    mut told: impl FnMut(u64),
) -> anyhow::Result<ImportSummary> {
    let hash = crate::reading::file::hash(path)?;
    let chain = format!("import-{}", hash.get(..16).unwrap_or(&hash));
    let state = State::load(store).await?;
    if state.imports.contains_key(&hash) {
        return Ok(ImportSummary { known: true, ..ImportSummary::default() });
    }
    // A repeat after a crash goes on as of the time at which the import began.
    let began = landing::first(store, &chain, PARTITION).await?;
    let import_ms = began.as_ref().and_then(|footer| footer.last_arrived_ms).unwrap_or(now_ms);
    let split = Day::of(import_ms);

    let mut reader = FileReader::open(path, import_ms)?;
    let mut summary = ImportSummary { ignored_columns: reader.ignored_columns().to_vec(), ..ImportSummary::default() };
    let mut chunks = Chunks::new(CHUNK_ROWS);
    let mut landed = Landed::begin(store, &chain, import_ms).await?;
    while let Some(row) = reader.next_row().with_context(|| format!("reading `{}`", path.display()))? {
        summary.rows = row.row + 1;
        match row.reading {
            Ok(reading) => {
                summary.took(&reading);
                let day = Day::of(reading.arrived_ms);
                if day < split {
                    chunks.push(day, row.device, reading)?;
                } else {
                    landed.push(&row, Ok(reading)).await?;
                }
            }
            Err(reason) => {
                *summary.dead.entry(reason).or_default() += 1;
                landed.push(&row, Err(reason)).await?;
            }
        }
        if row.row % 4096 == 0 {
            told(reader.bytes_read());
        }
    }
    landed.end(summary.rows).await?;

    let file = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let dead = summary.dead.values().sum();
    let imported = Imported { file, at_ms: import_ms, readings: summary.readings, dead };
    summary.known_readings = merge_days(store, chunks, &hash, imported).await?;
    Ok(summary)
}

impl ImportSummary {
    fn took(&mut self, reading: &Reading) {
        self.readings += 1;
        self.days.insert(Day::of(reading.arrived_ms));
        let (least, greatest) = self.span_ms.unwrap_or((reading.ts_ms, reading.ts_ms));
        self.span_ms = Some((least.min(reading.ts_ms), greatest.max(reading.ts_ms)));
    }
}

/// Merges the chunks into the runs of their days and puts them in force; gives how many readings were there already.
async fn merge_days(store: &Store, mut chunks: Chunks, hash: &str, imported: Imported) -> anyhow::Result<u64> {
    let days = chunks.finish()?;
    for _ in 0..RACES {
        let mut state = State::load(store).await?;
        if state.imports.contains_key(hash) {
            return Ok(0);
        }
        let name = run::new_name(super::now_ms());
        let mut known = 0;
        let mut feeds = chunks.feeds()?;
        for &day in &days {
            let inputs = feeds.iter_mut().map(|feed| feed.of(day)).collect();
            let Merged { run, sent_twice, .. } = merge_readings(store, &state, day, &name, inputs).await?;
            known += sent_twice;
            let runs = state.days.remove(&day).unwrap_or_default();
            // Its verdicts stay until it is scored again; what is new has none yet.
            state.days.insert(day, DayRuns { readings: run, scored_by: None, ..runs });
        }
        if let Some(&last) = days.last().filter(|last| state.upto.is_none_or(|upto| upto < **last)) {
            (state.upto, state.early) = (Some(last), false);
        }
        state.imports.insert(hash.to_owned(), imported.clone());
        if state.commit(store).await? == Commit::Done {
            return Ok(known);
        }
    }
    anyhow::bail!("the lake changed again and again during the import; run it again, nothing is stored twice")
}

/// The rows of an import that go through landing.
struct Landed<'a> {
    store: &'a Store,
    chain: String,
    import_ms: i64,
    writer: String,
    /// What an import that was interrupted has written already ends here.
    done_below: i64,
    slice: Slice,
    first: i64,
}

impl<'a> Landed<'a> {
    async fn begin(store: &'a Store, chain: &str, import_ms: i64) -> anyhow::Result<Landed<'a>> {
        let done_below = landing::head(store, chain, PARTITION).await?.map_or(0, |head| head.next);
        Ok(Landed {
            store,
            chain: chain.to_owned(),
            import_ms,
            writer: super::random_name(),
            done_below,
            slice: Slice::new(chain, PARTITION),
            first: done_below,
        })
    }

    async fn push(
        &mut self,
        row: &crate::reading::file::FileRow<'_>,
        outcome: Result<Reading, Reason>,
    ) -> anyhow::Result<()> {
        let offset = i64::try_from(row.row)?;
        if offset < self.done_below {
            return Ok(());
        }
        let device = (!row.device.is_empty()).then_some(row.device);
        self.slice.push_outcome(offset, 0, self.import_ms, device, outcome, row.raw);
        if self.slice.rows() >= CHUNK_ROWS {
            self.put(offset + 1).await?;
        }
        Ok(())
    }

    /// Writes the rest; the chain then ends at the end of the file.
    async fn end(mut self, rows: u64) -> anyhow::Result<()> {
        if self.slice.rows() > 0 {
            self.put(i64::try_from(rows)?).await?;
        }
        Ok(())
    }

    async fn put(&mut self, next: i64) -> anyhow::Result<()> {
        let slice = std::mem::replace(&mut self.slice, Slice::new(&self.chain, PARTITION));
        let footer = Footer {
            last_offset: Some(next - 1),
            last_arrived_ms: Some(self.import_ms),
            last_stamped_ms: Some(self.import_ms),
            readings: slice.readings(),
            dead: slice.dead(),
            ..Footer::empty(Kind::Slice, &self.chain, PARTITION, self.first, next, &self.writer)
        };
        let file = slice.encode(&footer)?;
        match landing::put(self.store, &self.chain, PARTITION, self.first, file).await? {
            Put::Done => self.first = next,
            // Our own: its answer had been lost.
            Put::Taken(there) if there.writer == self.writer && there.next == next => self.first = next,
            Put::Taken(there) => {
                let key = layout::landing_file(&self.chain, PARTITION, self.first);
                anyhow::bail!("`{key}` was just written by another import of the same file (up to row {})", there.next);
            }
        }
        Ok(())
    }
}
