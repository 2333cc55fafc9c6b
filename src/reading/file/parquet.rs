//! Parquet: columns of any number, text or time type that can be turned into what a reading has.

use std::{
    fs::File,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, bail};
use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    compute::{CastOptions, cast_with_options},
    datatypes::{DataType, Float64Type, Int64Type, TimeUnit, TimestampMillisecondType},
};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::{Column, Row, Rows, columns};
use crate::reading::{
    Reason,
    packet::{Fields, parse_pressure},
    time,
};

pub(super) struct ParquetRows {
    batches: ParquetRecordBatchReader,
    /// The columns that mean something, and their places.
    columns: Vec<(usize, Column)>,
    ignored: Vec<String>,
    batch: Vec<(Column, ArrayRef)>,
    rows: usize,
    at: usize,
    now_ms: i64,
    /// For the progress: the share of rows read, in bytes of the file.
    progress: (Arc<AtomicU64>, u64, u64, u64),
}

impl ParquetRows {
    pub(super) fn open(path: &Path, now_ms: i64, bytes_read: Arc<AtomicU64>) -> anyhow::Result<ParquetRows> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).context("it is damaged or cut short")?;
        let total = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0).max(1);
        let schema = Arc::clone(builder.schema());
        let (meanings, ignored) = columns(schema.fields().iter().map(|field| field.name().as_str()))?;
        let columns: Vec<(usize, Column)> =
            meanings.into_iter().enumerate().filter(|(_, column)| *column != Column::Ignored).collect();
        for &(place, column) in &columns {
            check(schema.field(place).name(), schema.field(place).data_type(), column)?;
        }
        let batches = builder.with_batch_size(8 * 1024).build().context("it is damaged or cut short")?;
        let progress = (bytes_read, bytes, total, 0);
        Ok(ParquetRows { batches, columns, ignored, batch: Vec::new(), rows: 0, at: 0, now_ms, progress })
    }

    /// The next batch with rows, its columns in the types of a reading; false at the end.
    fn next_batch(&mut self) -> anyhow::Result<bool> {
        while let Some(batch) = self.batches.next() {
            let batch: RecordBatch = batch.context("it is damaged")?;
            let (count, bytes, total, read) = &mut self.progress;
            *read += batch.num_rows() as u64;
            count.store((*read as f64 / *total as f64 * *bytes as f64) as u64, Ordering::Relaxed);
            if batch.num_rows() == 0 {
                continue;
            }
            let typed = |&(place, column): &(usize, Column)| Ok((column, convert(batch.column(place), column)?));
            self.batch = self.columns.iter().map(typed).collect::<anyhow::Result<_>>()?;
            (self.rows, self.at) = (batch.num_rows(), 0);
            return Ok(true);
        }
        Ok(false)
    }
}

/// The type into which a column is turned.
fn wanted(have: &DataType, column: Column) -> DataType {
    match column {
        Column::Vital(_) => DataType::Float64,
        Column::Seq => DataType::Int64,
        Column::Timestamp => match have {
            DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Millisecond, zone.clone()),
            DataType::Date32 | DataType::Date64 => DataType::Timestamp(TimeUnit::Millisecond, None),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Dictionary(..) => DataType::Utf8,
            _ => DataType::Int64,
        },
        _ => DataType::Utf8,
    }
}

fn check(name: &str, have: &DataType, column: Column) -> anyhow::Result<()> {
    let fits = match column {
        Column::Vital(_) | Column::Seq => have.is_numeric() || *have == DataType::Utf8,
        _ => !have.is_nested(),
    };
    if !fits || !arrow::compute::can_cast_types(have, &wanted(have, column)) {
        bail!("its column `{name}` is {have}, which can't be turned into {}", wanted(have, column));
    }
    Ok(())
}

fn convert(values: &ArrayRef, column: Column) -> anyhow::Result<ArrayRef> {
    // What can't be turned (text that is no number) becomes null, like an absent value.
    let options = CastOptions { safe: true, ..CastOptions::default() };
    Ok(cast_with_options(values, &wanted(values.data_type(), column), &options)?)
}

fn set(fields: &mut Fields, device: &mut String, column: Column, values: &ArrayRef, row: usize) {
    if values.is_null(row) {
        return;
    }
    match column {
        Column::Device => device.push_str(values.as_string::<i32>().value(row)),
        Column::Timestamp => fields.set_time(match values.data_type() {
            DataType::Timestamp(..) => Some(values.as_primitive::<TimestampMillisecondType>().value(row)),
            DataType::Utf8 => time::parse_lenient_ms(values.as_string::<i32>().value(row).as_bytes()),
            _ => Some(values.as_primitive::<Int64Type>().value(row)),
        }),
        Column::Pressure => match parse_pressure(values.as_string::<i32>().value(row)) {
            Some(pressure) => fields.pressure = Some(pressure),
            None => fields.blame(Reason::WrongType),
        },
        Column::Vital(vital) => match values.as_primitive::<Float64Type>().value(row) {
            value if value.is_nan() => {}
            value if value.is_finite() => fields.vitals[vital.index()] = value,
            _ => fields.blame(Reason::WrongType),
        },
        Column::Seq => fields.seq = Some(values.as_primitive::<Int64Type>().value(row)),
        Column::Ignored => {}
    }
}

impl Rows for ParquetRows {
    fn next(&mut self, row: &mut Row) -> anyhow::Result<bool> {
        if self.at >= self.rows && !self.next_batch()? {
            return Ok(false);
        }
        row.device.clear();
        row.raw.clear();
        let mut fields = Fields::default();
        for (column, values) in &self.batch {
            set(&mut fields, &mut row.device, *column, values, self.at);
        }
        self.at += 1;
        row.finish(fields, self.now_ms);
        Ok(true)
    }

    fn ignored_columns(&self) -> &[String] {
        &self.ignored
    }
}
