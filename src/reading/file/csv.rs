//! CSV: a header, then a row per reading. An empty cell, `NA`, `NaN`, `nan` or `null` is an absent value, and a time
//! without a zone is UTC.

use std::{
    io::{self, BufRead, Read},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::Context;
use csv::{ByteRecord, Reader, ReaderBuilder, Writer};

use super::{Column, Row, Rows, columns};
use crate::reading::{
    Reason,
    packet::{Fields, parse_i64, parse_pressure},
    time,
};

/// The longest row, in bytes: a quote that is never closed would make one row of the rest of the file.
const MAX_ROW_BYTES: usize = 1024 * 1024;

pub(super) struct CsvRows {
    reader: Reader<Limited>,
    /// How much may be read before the next row must be complete.
    room: Arc<AtomicUsize>,
    columns: Vec<Column>,
    ignored: Vec<String>,
    record: ByteRecord,
    now_ms: i64,
}

impl CsvRows {
    pub(super) fn new(text: Box<dyn BufRead + Send>, now_ms: i64) -> anyhow::Result<CsvRows> {
        let room = Arc::new(AtomicUsize::new(MAX_ROW_BYTES));
        let limited = Limited { inner: text, room: Arc::clone(&room) };
        let mut reader = ReaderBuilder::new().flexible(true).from_reader(limited);
        let header = reader.headers().context("it is neither CSV, NDJSON nor Parquet, plain or .gz")?;
        let (columns, ignored) = columns(header.iter())?;
        Ok(CsvRows { reader, room, columns, ignored, record: ByteRecord::new(), now_ms })
    }

    fn fields(&self, device: &mut String) -> Fields {
        let mut fields = Fields::default();
        if self.record.len() != self.columns.len() {
            fields.blame(Reason::BadRow);
        }
        for (cell, column) in self.record.iter().zip(&self.columns) {
            if *column == Column::Ignored {
                continue;
            }
            match std::str::from_utf8(cell) {
                Ok(cell) => set_text(&mut fields, device, *column, cell),
                Err(_) => fields.blame(Reason::NotUtf8),
            }
        }
        fields
    }

    /// The row as a line, for a dead letter.
    fn text(&self) -> Vec<u8> {
        let mut writer = Writer::from_writer(Vec::new());
        // Neither a row of one empty cell nor a vector refuses to be written.
        let _ = writer.write_byte_record(&self.record);
        let mut line = writer.into_inner().unwrap_or_default();
        line.truncate(line.trim_ascii_end().len());
        line
    }
}

/// Takes a cell that is text: any of CSV, and such of Parquet.
pub(super) fn set_text(fields: &mut Fields, device: &mut String, column: Column, cell: &str) {
    let cell = cell.trim();
    if matches!(cell, "" | "NA" | "NaN" | "nan" | "null") {
        return;
    }
    match column {
        Column::Device => device.push_str(cell),
        Column::Timestamp => {
            fields.set_time(parse_i64(cell).or_else(|| time::parse_lenient_ms(cell.as_bytes())));
        }
        Column::Pressure => match parse_pressure(cell) {
            Some(pressure) => fields.pressure = Some(pressure),
            None => fields.blame(Reason::WrongType),
        },
        Column::Vital(vital) => match cell.parse::<f64>().ok().filter(|value| value.is_finite()) {
            Some(value) => fields.vitals[vital.index()] = value,
            None => fields.blame(Reason::WrongType),
        },
        Column::Seq => match parse_i64(cell) {
            Some(seq) => fields.seq = Some(seq),
            None => fields.blame(Reason::WrongType),
        },
        Column::Ignored => {}
    }
}

impl Rows for CsvRows {
    fn next(&mut self, row: &mut Row) -> anyhow::Result<bool> {
        self.room.store(MAX_ROW_BYTES, Ordering::Relaxed);
        let line = self.reader.position().line();
        let found = self.reader.read_byte_record(&mut self.record);
        if !found.with_context(|| format!("the row that starts in line {line}"))? {
            return Ok(false);
        }
        row.device.clear();
        row.raw.clear();
        let fields = self.fields(&mut row.device);
        row.finish(fields, self.now_ms);
        if row.is_dead() {
            row.raw = self.text();
        }
        Ok(true)
    }

    fn ignored_columns(&self) -> &[String] {
        &self.ignored
    }
}

/// Refuses to be read beyond what there is room for.
struct Limited {
    inner: Box<dyn BufRead + Send>,
    room: Arc<AtomicUsize>,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = self.room.load(Ordering::Relaxed);
        if room == 0 {
            let what = format!("it is over {MAX_ROW_BYTES} bytes long: is a quote not closed?");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let length = buffer.len().min(room);
        let length = self.inner.read(&mut buffer[..length])?;
        self.room.store(room - length, Ordering::Relaxed);
        Ok(length)
    }
}
