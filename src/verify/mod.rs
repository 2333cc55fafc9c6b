//! Whether the promises were kept: what was sent against what the lake shows, and the lake's chains by themselves.
//!
//! | room | what it holds |
//! |---|---|
//! | `sent` | the file of what was sent, row by row |
//! | `bucket` | rows of both sides in temporary files, so that any number is compared in bounded memory |
//! | `letter` | which readings a dead letter was |
//! | `compare` | the comparison, and its rules |
//! | `chain` | landing files: no hole, no overlap |
//! | [`report`] | what was found |
//!
//! # What is compared
//!
//! The file's devices, from its least to its greatest `ts`, with the views `readings` and `dead_letters` in one picture
//! of the lake that is taken after the file was read. What else the lake has is not looked at.
//!
//! A reading is the device, `ts` and `seq`; its vitals are compared exactly, as numbers. Two things can't be told apart:
//! a reading whose `ts` or `seq` was changed counts as lost, and as unexpected where it is now; and where a reading is in
//! the file twice, one row of it is enough, since closing its day makes them one.
//!
//! # Which promises
//!
//! Broken are those of [`Report::broken`]: acknowledged and not there, stored more often than sent, other vitals than
//! were sent, log records in two files or in none. Everything else is counted and is no fault.
//!
//! # Memory
//!
//! [`Options::memory_bytes`] for rows, and what a query needs; the rest is in temporary files of about 90 bytes a row and
//! the device's name, on either side.

use std::{
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    io::Read,
    path::{Path, PathBuf},
};

use arrow::array::{Array, AsArray, RecordBatch};
use futures::{FutureExt, TryStreamExt, future::BoxFuture};

use crate::{
    lake::{State, Store},
    query::{self, Engine, LocalEngine, Statement, Value},
    reading::{VITALS, time::format_rfc3339_ms},
    score::scorer::ReadingColumns,
};

mod bucket;
mod chain;
mod compare;
mod letter;
pub mod report;
mod sent;
#[cfg(test)]
mod tests;

use bucket::{Buckets, By, Facts, Side};
use compare::Comparison;
pub use report::Report;

/// Readings of the time that a file covers.
pub const VERIFY_READINGS: &str = include_str!("../../templates/queries/verify_readings.sql");
/// Dead letters of devices.
pub const VERIFY_DEAD_LETTERS: &str = include_str!("../../templates/queries/verify_dead_letters.sql");

/// The memory for rows, in bytes.
pub const MEMORY_BYTES: u64 = 256 * 1024 * 1024;

/// The most files that rows are dealt out to at first.
const MOST_BUCKETS: u64 = 64;

/// How far the clock of whoever sent may run ahead of the lake's, when dead letters are looked for.
const CLOCKS_APART_MS: i64 = 3_600_000;

/// What to check.
#[derive(Debug, Clone)]
pub struct Options {
    /// The file of what was sent; without one only the chains are checked.
    pub sent: Option<PathBuf>,
    /// A reading that arrived so much after it was published is late.
    pub late_ms: i64,
    /// The memory for rows of either side.
    pub memory_bytes: u64,
}

impl Default for Options {
    /// The chains alone; an hour is late; [`MEMORY_BYTES`].
    fn default() -> Options {
        Options { sent: None, late_ms: 3_600_000, memory_bytes: MEMORY_BYTES }
    }
}

/// Checks a lake. `told` hears how many rows of both sides have been read.
///
/// The future is boxed so that whoever calls this does not compile the query engine once more.
///
/// # Errors
/// The file or the lake can't be read, or temporary files can't be written. A broken promise is no error.
pub fn verify<'a>(
    store: &'a Store,
    options: &'a Options,
    told: impl FnMut(u64) + Send + 'a,
) -> BoxFuture<'a, anyhow::Result<Report>> {
    verify_now(store, options, told).boxed()
}

async fn verify_now(store: &Store, options: &Options, mut told: impl FnMut(u64)) -> anyhow::Result<Report> {
    let mut report = Report {
        schema_version: 1,
        kept: true,
        lake: store.place().to_owned(),
        chains: report::Chains::default(),
        readings: None,
        warnings: Vec::new(),
    };
    match &options.sent {
        None => report.chains = chain::check(store, &State::load(store).await?).await?,
        Some(path) => {
            // The file first: whatever it says was acknowledged is in the lake by the time that this is looked at.
            let mut rows = read_sent(path, options.memory_bytes, &mut told)?;
            report.warnings = rows.warnings();
            let engine = LocalEngine::open(store.clone(), query::Options::default()).await?;
            report.chains = chain::check(store, &engine.view().state).await?;
            let by_seq = rows.add_stored(&engine, &mut told).await?;
            let by_seq = by_seq.then(|| Buckets::new(16, By::Seq)).transpose()?;
            let readings = rows.compare(options, by_seq)?;
            report.warnings.extend(engine.take_warnings());
            if readings.lost.count > 0 && readings.dead_lettered.unmatched > 0 {
                let unmatched = readings.dead_lettered.unmatched;
                report.warnings.push(format!(
                    "{unmatched} dead letters do not say which reading they were; lost readings may be among them"
                ));
            }
            report.readings = Some(readings);
        }
    }
    report.kept = report.broken().is_empty();
    Ok(report)
}

/// Rows of both sides, dealt out to buckets.
struct Rows {
    path: PathBuf,
    buckets: Buckets,
    devices: SentDevices,
    assumed: sent::Assumed,
    /// Readings in the file.
    sent: u64,
    /// Rows of both sides.
    read: u64,
    /// The least and greatest `ts` of the file, milliseconds since 1970 UTC.
    span_ms: Option<(i64, i64)>,
    /// When the first of them was published; `None` where it isn't known of all.
    published_ms: Option<i64>,
}

fn read_sent(path: &Path, memory_bytes: u64, told: &mut impl FnMut(u64)) -> anyhow::Result<Rows> {
    let count = expected_memory(path)?.div_ceil(memory_bytes.max(1)).clamp(1, MOST_BUCKETS);
    let mut buckets = Buckets::new(count as usize, By::Device)?;
    let (mut devices, mut sent, mut span_ms, mut first_published) = (SentDevices::new(), 0_u64, None, i64::MAX);
    let assumed = sent::read(path, |row| {
        let ts_ms = row.reading.ts_ms;
        let (least, greatest) = span_ms.unwrap_or((ts_ms, ts_ms));
        span_ms = Some((ts_ms.min(least), ts_ms.max(greatest)));
        first_published = row.published_ms.unwrap_or(i64::MAX).min(first_published);
        devices.insert(row.device);
        sent += 1;
        if sent % 4096 == 0 {
            told(sent);
        }
        let facts = compare::facts(Side::Sent, &row.reading, row.published_ms);
        Ok(buckets.push(row.device, &Facts { acknowledged: row.acknowledged, number: row.sends, ..facts })?)
    })?;
    let published_ms = (assumed.published == 0 && sent > 0).then_some(first_published);
    Ok(Rows { path: path.to_owned(), buckets, devices, assumed, sent, read: sent, span_ms, published_ms })
}

/// The memory that the rows of a file and as many of the lake will need, about.
fn expected_memory(path: &Path) -> anyhow::Result<u64> {
    let mut magic = Vec::new();
    let mut file = File::open(path).map_err(|e| anyhow::anyhow!("reading `{}`: {e}", path.display()))?;
    (&mut file).take(4).read_to_end(&mut magic)?;
    // A row takes 150 to 250 bytes as text, and some ten bytes in a compressed file.
    let compressed = magic == b"PAR1" || magic.starts_with(&[0x1f, 0x8b]);
    Ok(file.metadata()?.len().saturating_mul(if compressed { 50 } else { 3 }))
}

impl Rows {
    /// What had to be assumed of the file.
    fn warnings(&self) -> Vec<String> {
        let of = |rows: u64, what: &str| {
            let all = self.sent;
            (rows > 0).then(|| format!("{rows} of {all} rows of `{}` {what}", self.path.display()))
        };
        [
            of(self.assumed.acknowledged, "have no `acknowledged_ms`: they are taken as acknowledged"),
            of(self.assumed.sends, "have no `sends`: they are taken as sent once"),
            of(self.assumed.published, "have no `published_ms`: they can't be late"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Adds what the lake has; says whether a dead letter has a count, but no time.
    async fn add_stored(&mut self, engine: &LocalEngine, told: &mut impl FnMut(u64)) -> anyhow::Result<bool> {
        let Some((least, greatest)) = self.span_ms else { return Ok(false) };
        let readings = Statement::template(VERIFY_READINGS)
            .bind("since", Value::Time(least))
            .bind("until", Value::Time(greatest.saturating_add(1)));
        let mut answer = engine.run(&readings).await?;
        while let Some(batch) = answer.batches.try_next().await? {
            self.add_readings(&batch)?;
            told(self.read);
        }
        let since = self.published_ms.map_or(0, |ms| ms.saturating_sub(CLOCKS_APART_MS));
        let letters = Statement::template(VERIFY_DEAD_LETTERS).bind("since", Value::Time(since));
        let mut answer = engine.run(&letters).await?;
        let mut by_seq = false;
        while let Some(batch) = answer.batches.try_next().await? {
            by_seq |= self.add_letters(&batch)?;
            told(self.read);
        }
        Ok(by_seq)
    }

    fn add_readings(&mut self, batch: &RecordBatch) -> anyhow::Result<()> {
        let columns = ReadingColumns::of(batch)?;
        for row in (0..columns.rows()).filter(|&row| self.devices.may_have(columns.device(row))) {
            let reading = columns.reading(row);
            let facts = compare::facts(Side::Stored, &reading, Some(reading.arrived_ms));
            self.buckets.push(columns.device(row), &facts)?;
            self.read += 1;
        }
        Ok(())
    }

    fn add_letters(&mut self, batch: &RecordBatch) -> anyhow::Result<bool> {
        let text = |name: &str| batch.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
        let payload = batch.column_by_name("payload").and_then(|column| column.as_binary_opt::<i32>());
        let (Some(devices), Some(reasons), Some(payloads)) = (text("device_id"), text("reason"), payload) else {
            anyhow::bail!("dead letters without a device, a reason or a payload");
        };
        let mut by_seq = false;
        for row in (0..batch.num_rows()).filter(|&row| self.devices.may_have(devices.value(row))) {
            let payload = if payloads.is_valid(row) { payloads.value(row) } else { b"" };
            for (ts_ms, seq) in letter::readings(payload) {
                by_seq |= ts_ms.is_none() && seq.is_some();
                let number = compare::reason_number(reasons.value(row));
                let vitals = [0; VITALS];
                let facts = Facts { side: Side::Dead, ts_ms, seq, vitals, at_ms: None, acknowledged: false, number };
                self.buckets.push(devices.value(row), &facts)?;
            }
            self.read += 1;
        }
        Ok(by_seq)
    }

    fn compare(self, options: &Options, by_seq: Option<Buckets>) -> anyhow::Result<report::Readings> {
        let time = |ms: Option<i64>| ms.map_or_else(String::new, format_rfc3339_ms);
        let mut readings = report::Readings::default();
        readings.late.over_ms = options.late_ms;
        readings.sent = report::Sent {
            file: self.path.display().to_string(),
            readings: self.sent,
            devices: 0,
            first: time(self.span_ms.map(|(least, _)| least)),
            last: time(self.span_ms.map(|(_, greatest)| greatest)),
        };
        let mut comparison = Comparison { late_ms: options.late_ms, readings, by_seq };
        self.buckets.each_part(options.memory_bytes, &mut |part| comparison.take(part))?;
        comparison.second_round(options.memory_bytes)?;
        Ok(comparison.readings)
    }
}

/// The devices of the file, in 128 KB: one that is not among them is known not to be; one that is may yet not be.
struct SentDevices(Vec<u64>);

impl SentDevices {
    fn new() -> SentDevices {
        SentDevices(vec![0; 1 << 14])
    }

    fn place(&self, device: &str) -> (usize, u64) {
        let mut hasher = DefaultHasher::new();
        device.hash(&mut hasher);
        let hash = hasher.finish();
        ((hash >> 6) as usize % self.0.len(), 1 << (hash & 63))
    }

    fn insert(&mut self, device: &str) {
        let (word, bit) = self.place(device);
        self.0[word] |= bit;
    }

    fn may_have(&self, device: &str) -> bool {
        let (word, bit) = self.place(device);
        self.0[word] & bit != 0
    }
}
