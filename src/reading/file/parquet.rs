//! Parquet: columns of any number, text or time type that can be turned into what a reading has.

use std::{
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, anyhow, bail};
use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    compute::cast,
    datatypes::{DataType, Float64Type, Int64Type, TimeUnit, TimestampMillisecondType},
    json::LineDelimitedWriter,
};
use parquet::arrow::{
    ProjectionMask,
    arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
};

use super::{Column, Row, Rows, columns, csv::set_text};
use crate::reading::{Reason, packet::Fields};

pub(super) struct ParquetRows {
    batches: ParquetRecordBatchReader,
    /// What the columns read mean, in order.
    columns: Vec<Column>,
    ignored: Vec<String>,
    batch: RecordBatch,
    /// The batch's columns as texts, times, whole numbers or doubles.
    cells: Vec<ArrayRef>,
    at: usize,
    now_ms: i64,
    progress: Progress,
}

/// The share of rows read, in bytes of the file.
struct Progress {
    bytes_read: Arc<AtomicU64>,
    bytes: u64,
    rows: u64,
    rows_read: u64,
}

impl ParquetRows {
    pub(super) fn open(path: &Path, now_ms: i64, bytes_read: Arc<AtomicU64>) -> anyhow::Result<ParquetRows> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        // Parquet's own schema says enough, and a damaged Arrow schema beside it would be a panic.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let builder = guarded(|| ParquetRecordBatchReaderBuilder::try_new_with_options(file, options))?
            .context("it is damaged or cut short")?;
        let rows = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0).max(1);
        let schema = Arc::clone(builder.schema());
        let (meanings, ignored) = columns(schema.fields().iter().map(|field| field.name().as_str()))?;
        let known = meanings.iter().enumerate().filter(|(_, column)| **column != Column::Ignored);
        let (places, columns): (Vec<usize>, Vec<Column>) = known.unzip();
        for (field, column) in places.iter().map(|&place| schema.field(place)).zip(&columns) {
            if cell_type(field.data_type(), *column).is_none() {
                bail!("its column `{}` is {}, which a reading can't have there", field.name(), field.data_type());
            }
        }
        let projection = ProjectionMask::roots(builder.parquet_schema(), places);
        let builder = builder.with_projection(projection).with_batch_size(8 * 1024);
        let batches = guarded(|| builder.build())?.context("it is damaged or cut short")?;
        Ok(ParquetRows {
            batches,
            columns,
            ignored,
            batch: RecordBatch::new_empty(schema),
            cells: Vec::new(),
            at: 0,
            now_ms,
            progress: Progress { bytes_read, bytes, rows, rows_read: 0 },
        })
    }

    /// The next batch with rows; false at the end.
    fn next_batch(&mut self) -> anyhow::Result<bool> {
        while let Some(batch) = guarded(|| self.batches.next())? {
            self.batch = batch.context("it is damaged")?;
            self.progress.advance(self.batch.num_rows() as u64);
            self.at = 0;
            if self.batch.num_rows() > 0 {
                let cells = self.batch.columns().iter().zip(&self.columns);
                self.cells = cells.map(|(array, column)| cells_of(array, *column)).collect::<anyhow::Result<_>>()?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The row at hand as JSON, for a dead letter.
    fn text(&self) -> Vec<u8> {
        let mut writer = LineDelimitedWriter::new(Vec::new());
        // A column that JSON can't hold leaves the text empty; the reason is stored all the same.
        let written = writer.write(&self.batch.slice(self.at, 1)).and_then(|()| writer.finish());
        let mut line = if written.is_ok() { writer.into_inner() } else { Vec::new() };
        line.truncate(line.trim_ascii_end().len());
        line
    }
}

/// Reads with the `parquet` crate, which asserts some of what a damaged file breaks: an error here like any other.
fn guarded<T>(read: impl FnOnce() -> T) -> anyhow::Result<T> {
    // What a panic leaves behind is not looked at again: the error ends the reading.
    catch_unwind(AssertUnwindSafe(read)).map_err(|_| anyhow!("it is damaged"))
}

impl Progress {
    fn advance(&mut self, rows: u64) {
        self.rows_read += rows;
        let share = self.rows_read as f64 / self.rows as f64;
        self.bytes_read.store((share * self.bytes as f64) as u64, Ordering::Relaxed);
    }
}

/// The type in which the cells of a column are looked at; `None` where it can't be this column.
fn cell_type(have: &DataType, column: Column) -> Option<DataType> {
    use DataType::*;
    match have {
        Dictionary(_, values) => cell_type(values, column),
        Utf8 | LargeUtf8 | Utf8View => Some(Utf8),
        Null => Some(Utf8),
        integer if integer.is_integer() => match column {
            Column::Vital(_) => Some(Float64),
            Column::Timestamp | Column::Seq => Some(Int64),
            Column::Device => Some(Utf8),
            Column::Pressure | Column::Ignored => None,
        },
        number if number.is_numeric() => match column {
            Column::Vital(_) | Column::Timestamp | Column::Seq => Some(Float64),
            Column::Device | Column::Pressure | Column::Ignored => None,
        },
        Timestamp(..) | Date32 | Date64 if column == Column::Timestamp => Some(Timestamp(TimeUnit::Millisecond, None)),
        _ => None,
    }
}

fn cells_of(array: &ArrayRef, column: Column) -> anyhow::Result<ArrayRef> {
    match (array.data_type(), cell_type(array.data_type(), column)) {
        // Milliseconds since 1970 are the same in every zone; turned into local time they would not be.
        (DataType::Timestamp(_, Some(zone)), Some(DataType::Timestamp(unit, None))) => {
            Ok(cast(array, &DataType::Timestamp(unit, Some(Arc::clone(zone))))?)
        }
        (_, Some(wanted)) => Ok(cast(array, &wanted)?),
        (have, None) => bail!("a column of type {have}"), // Refused when the file was opened.
    }
}

/// Takes one cell. One that was there, and isn't any more in the type that it should have, is a fault.
fn set(fields: &mut Fields, device: &mut String, column: Column, cell: &ArrayRef, was_null: bool, row: usize) {
    if was_null {
        return;
    }
    let wrong = if column == Column::Timestamp { Reason::BadTimestamp } else { Reason::WrongType };
    if cell.is_null(row) {
        fields.blame(wrong);
    } else if let Some(texts) = cell.as_string_opt::<i32>() {
        set_text(fields, device, column, texts.value(row));
    } else if let Some(times) = cell.as_primitive_opt::<TimestampMillisecondType>() {
        fields.set_time(Some(times.value(row)));
    } else if let Some(integers) = cell.as_primitive_opt::<Int64Type>() {
        set_whole(fields, column, integers.value(row));
    } else if let Some(doubles) = cell.as_primitive_opt::<Float64Type>() {
        match (column, doubles.value(row)) {
            (_, value) if value.is_nan() => {}
            (Column::Vital(vital), value) if value.is_finite() => fields.vitals[vital.index()] = value,
            (Column::Vital(_), _) => fields.blame(wrong),
            (_, value) if value.fract() == 0.0 && value.abs() <= (1i64 << 53) as f64 => {
                set_whole(fields, column, value as i64);
            }
            _ => fields.blame(wrong),
        }
    }
}

fn set_whole(fields: &mut Fields, column: Column, value: i64) {
    match column {
        Column::Timestamp => fields.set_time(Some(value)),
        _ => fields.seq = Some(value),
    }
}

impl Rows for ParquetRows {
    fn next(&mut self, row: &mut Row) -> anyhow::Result<bool> {
        if self.at >= self.batch.num_rows() && !self.next_batch()? {
            return Ok(false);
        }
        row.device.clear();
        row.raw.clear();
        let mut fields = Fields::default();
        for ((column, cells), array) in self.columns.iter().zip(&self.cells).zip(self.batch.columns()) {
            set(&mut fields, &mut row.device, *column, cells, array.is_null(self.at), self.at);
        }
        row.finish(fields, self.now_ms);
        if row.is_dead() {
            row.raw = self.text();
        }
        self.at += 1;
        Ok(true)
    }

    fn ignored_columns(&self) -> &[String] {
        &self.ignored
    }
}
