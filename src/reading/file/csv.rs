//! CSV: a header, then a row per reading. An empty cell, `NA`, `NaN` or `null` is an absent value.

use std::io::BufRead;

use anyhow::Context;
use csv::{ByteRecord, Reader, ReaderBuilder};

use super::{Column, Row, Rows, columns};
use crate::reading::{
    Reason,
    packet::{Fields, parse_pressure},
    time,
};

pub(super) struct CsvRows {
    reader: Reader<Box<dyn BufRead + Send>>,
    columns: Vec<Column>,
    ignored: Vec<String>,
    record: ByteRecord,
    now_ms: i64,
}

impl CsvRows {
    pub(super) fn new(text: Box<dyn BufRead + Send>, now_ms: i64) -> anyhow::Result<CsvRows> {
        let mut reader = ReaderBuilder::new().flexible(true).from_reader(text);
        let header = reader.headers().context("it is neither CSV, NDJSON nor Parquet, plain or .gz")?;
        let (columns, ignored) = columns(header.iter())?;
        Ok(CsvRows { reader, columns, ignored, record: ByteRecord::new(), now_ms })
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
            let Ok(cell) = std::str::from_utf8(cell) else {
                fields.blame(Reason::NotUtf8);
                continue;
            };
            match cell.trim() {
                "" | "NA" | "NaN" | "nan" | "null" => {}
                cell => set(&mut fields, device, *column, cell),
            }
        }
        fields
    }
}

fn set(fields: &mut Fields, device: &mut String, column: Column, cell: &str) {
    match column {
        Column::Device => device.push_str(cell),
        Column::Timestamp => fields.set_time(match cell.parse() {
            Ok(ms) => Some(ms),
            Err(_) => time::parse_lenient_ms(cell.as_bytes()),
        }),
        Column::Pressure => match parse_pressure(cell) {
            Some(pressure) => fields.pressure = Some(pressure),
            None => fields.blame(Reason::WrongType),
        },
        Column::Vital(vital) => match cell.parse::<f64>().ok().filter(|value| value.is_finite()) {
            Some(value) => fields.vitals[vital.index()] = value,
            None => fields.blame(Reason::WrongType),
        },
        Column::Seq => match cell.parse() {
            Ok(seq) => fields.seq = Some(seq),
            Err(_) => fields.blame(Reason::WrongType),
        },
        Column::Ignored => {}
    }
}

impl Rows for CsvRows {
    fn next(&mut self, row: &mut Row) -> anyhow::Result<bool> {
        if !self.reader.read_byte_record(&mut self.record)? {
            return Ok(false);
        }
        row.device.clear();
        row.raw.clear();
        for (i, cell) in self.record.iter().enumerate() {
            row.raw.extend_from_slice(if i > 0 { b"," } else { b"" });
            row.raw.extend_from_slice(cell);
        }
        let fields = self.fields(&mut row.device);
        row.finish(fields, self.now_ms);
        Ok(true)
    }

    fn ignored_columns(&self) -> &[String] {
        &self.ignored
    }
}
