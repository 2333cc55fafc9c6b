//! Readings in other people's files: CSV, NDJSON and Parquet, row by row, with the same rules as packets.
//!
//! The kind of a file follows from its first bytes, not from its name. A row that is no reading keeps its place, with the
//! reason. A file that can't be read at all is an error that names it. Memory: one row, or one batch of a Parquet file.
//!
//! Columns come in any order: `device_id`, `timestamp` (or `ts`; RFC 3339, or epoch milliseconds), the six vitals, or
//! `blood_pressure` for two of them, and `seq`. Others are ignored, and named.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use super::{Reading, Reason, Vital, packet::Fields, valid_device_id};

mod csv;
mod ndjson;
mod parquet;

/// One row of a file.
#[derive(Debug)]
pub struct FileRow<'a> {
    /// Its number, from 0; rows that are no readings count, a CSV file's header doesn't. A batch packet in an NDJSON file
    /// has a number for each of its readings.
    pub row: u64,
    /// The device that it names; empty where it names none, or nothing that can be one.
    pub device: &'a str,
    pub reading: Result<Reading, Reason>,
    /// Its text where it is no reading; of a row of a Parquet file, the same as JSON.
    pub raw: &'a [u8],
}

/// A row in the making.
#[derive(Debug, Default)]
struct Row {
    device: String,
    reading: Option<Result<Reading, Reason>>,
    raw: Vec<u8>,
}

impl Row {
    /// Ends a row of named cells: who sent it, and what its cells said.
    fn finish(&mut self, fields: Fields, arrived_ms: i64) {
        self.reading = Some(if self.device.is_empty() {
            Err(Reason::NoDevice)
        } else if valid_device_id(&self.device) {
            arrived(fields.finish(arrived_ms), arrived_ms)
        } else {
            self.device.clear();
            Err(Reason::BadDeviceId)
        });
    }

    fn is_dead(&self) -> bool {
        !matches!(self.reading, Some(Ok(_)))
    }
}

/// History arrived when it happened, at the latest when it was read.
fn arrived(reading: Result<Reading, Reason>, arrived_ms: i64) -> Result<Reading, Reason> {
    reading.map(|reading| Reading { arrived_ms: reading.ts_ms.min(arrived_ms), ..reading })
}

/// What each kind of file does.
trait Rows: Send {
    /// The next row into `row`; false at the end.
    fn next(&mut self, row: &mut Row) -> anyhow::Result<bool>;

    /// Columns that mean nothing here.
    fn ignored_columns(&self) -> &[String];
}

/// A file being read.
pub struct FileReader {
    path: PathBuf,
    rows: Box<dyn Rows>,
    row: Row,
    count: u64,
    bytes_read: Arc<AtomicU64>,
}

impl FileReader {
    /// Opens a file. `now_ms` is when its rows arrive at the latest, milliseconds since 1970 UTC.
    ///
    /// # Errors
    /// The file can't be read, or has not the columns that it must have: `device_id`, `timestamp` (or `ts`) and a vital.
    pub fn open(path: &Path, now_ms: i64) -> anyhow::Result<FileReader> {
        let reading = || format!("reading `{}`", path.display());
        let bytes_read = Arc::new(AtomicU64::new(0));
        let mut file = File::open(path).with_context(reading)?;
        let mut magic = [0; 4];
        let length = read_up_to(&mut file, &mut magic).with_context(reading)?;
        let rows: Box<dyn Rows> = if magic == *b"PAR1" {
            Box::new(parquet::ParquetRows::open(path, now_ms, Arc::clone(&bytes_read)).with_context(reading)?)
        } else {
            let file = File::open(path).with_context(reading)?;
            let counted = Counted { inner: file, count: Arc::clone(&bytes_read) };
            let mut text: Box<dyn BufRead + Send> = Box::new(BufReader::with_capacity(128 * 1024, counted));
            if magic[..length.min(2)] == [0x1f, 0x8b] {
                text = Box::new(BufReader::with_capacity(128 * 1024, flate2::bufread::MultiGzDecoder::new(text)));
            }
            match first_byte(&mut text).with_context(reading)? {
                None => bail!("`{}` is empty", path.display()),
                Some(b'{') => Box::new(ndjson::JsonRows::new(text, now_ms).with_context(reading)?),
                Some(b'[') => bail!(
                    "`{}` is a JSON array; give one object per line, as `jq -c '.[]'` writes them",
                    path.display()
                ),
                Some(_) => Box::new(csv::CsvRows::new(text, now_ms).with_context(reading)?),
            }
        };
        Ok(FileReader { path: path.to_owned(), rows, row: Row::default(), count: 0, bytes_read })
    }

    /// The next row; `None` at the end.
    ///
    /// # Errors
    /// The file can't be read any further.
    pub fn next_row(&mut self) -> anyhow::Result<Option<FileRow<'_>>> {
        if !self.rows.next(&mut self.row).with_context(|| format!("reading `{}`", self.path.display()))? {
            return Ok(None);
        }
        let number = self.count;
        self.count += 1;
        let reading = self.row.reading.take().unwrap_or(Err(Reason::BadRow));
        Ok(Some(FileRow { row: number, device: &self.row.device, reading, raw: &self.row.raw }))
    }

    /// Columns of the file that mean nothing here.
    pub fn ignored_columns(&self) -> &[String] {
        self.rows.ignored_columns()
    }

    /// How many bytes of the file have been read.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }
}

/// SHA-256 of a file's content, in hexadecimal.
pub fn hash(path: &Path) -> anyhow::Result<String> {
    let reading = || format!("reading `{}`", path.display());
    let mut file = File::open(path).with_context(reading)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1024 * 1024]);
    loop {
        match file.read(&mut buffer).with_context(reading)? {
            0 => break,
            length => hash.update(&buffer[..length]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn read_up_to(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..])? {
            0 => break,
            more => length += more,
        }
    }
    Ok(length)
}

/// The first byte that is neither white space nor part of a byte order mark; those before it are consumed.
fn first_byte(text: &mut dyn BufRead) -> io::Result<Option<u8>> {
    loop {
        let available = text.fill_buf()?;
        let Some(&first) = available.first() else { return Ok(None) };
        if !first.is_ascii_whitespace() && !matches!(first, 0xef | 0xbb | 0xbf) {
            return Ok(Some(first));
        }
        text.consume(1);
    }
}

/// Counts what is read through it.
struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.count.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

/// What a column means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Device,
    Timestamp,
    Pressure,
    Vital(Vital),
    Seq,
    Ignored,
}

/// What a column of this name means.
fn meaning(name: &str) -> Column {
    match name.trim() {
        "device_id" => Column::Device,
        "timestamp" | "ts" => Column::Timestamp,
        "blood_pressure" => Column::Pressure,
        "seq" => Column::Seq,
        other => Vital::from_column(other).map_or(Column::Ignored, Column::Vital),
    }
}

/// What each of these columns means, and the names of those that mean nothing.
fn columns<'a>(names: impl Iterator<Item = &'a str>) -> anyhow::Result<(Vec<Column>, Vec<String>)> {
    let (names, columns): (Vec<&str>, Vec<Column>) = names.map(|name| (name.trim(), meaning(name))).unzip();
    let there = || names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    for (needed, name) in [(Column::Device, "device_id"), (Column::Timestamp, "timestamp")] {
        if !columns.contains(&needed) {
            bail!("it has no column `{name}`, only {}", there());
        }
    }
    if !columns.iter().any(|column| matches!(column, Column::Vital(_) | Column::Pressure)) {
        let vitals = Vital::ALL.map(Vital::column).join(", ");
        bail!("it has no column of a vital sign ({vitals}, blood_pressure), only {}", there());
    }
    for (place, column) in columns.iter().enumerate() {
        if *column != Column::Ignored && columns[..place].contains(column) {
            bail!("it has more than one column `{}`: {}", names[place], there());
        }
    }
    let ignored = names.iter().zip(&columns).filter(|(_, column)| **column == Column::Ignored);
    let ignored = ignored.map(|(name, _)| (*name).to_owned()).collect();
    Ok((columns, ignored))
}

#[cfg(test)]
mod tests;
