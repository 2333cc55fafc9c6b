//! The Arrow schemas of the lake's tables. Names and types are part of the lake's format.
//!
//! | table | columns |
//! |---|---|
//! | landing | [`READING`], then [`ORIGIN`], then `reason`, `payload` |
//! | readings (a closed day) | [`READING`] |
//! | dead letters (a closed day) | `device_id`, `arrived_at`, `reason`, `payload`, then [`ORIGIN`] |
//! | scored | the outlier's columns, then [`ORIGIN`] |
//! | outliers (a closed day) | the outlier's columns |

use std::sync::{Arc, LazyLock};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, Float64Builder, Int32Array, Int64Array, Int64Builder, RecordBatch, StringArray,
        StringBuilder, TimestampMillisecondBuilder,
    },
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    error::ArrowError,
};

use super::{Reading, VITALS, Vital};

/// The type of every time in the lake: milliseconds since 1970 in UTC.
pub fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

fn text(name: &str, nullable: bool) -> Field {
    Field::new(name, DataType::Utf8, nullable)
}

fn vitals() -> impl Iterator<Item = Field> {
    Vital::ALL.into_iter().map(|vital| Field::new(vital.column(), DataType::Float64, true))
}

fn reading_fields(landing: bool) -> Vec<Field> {
    // In a landing file a row may be a dead letter: it has no time of its own, and perhaps no device.
    let mut fields = vec![text("device_id", landing), Field::new("ts", timestamp(), landing)];
    fields.extend(vitals());
    fields.push(Field::new("arrived_at", timestamp(), false));
    fields.push(Field::new("seq", DataType::Int64, true));
    fields
}

fn origin_fields() -> Vec<Field> {
    vec![
        text("chain", false),
        Field::new("partition", DataType::Int32, false),
        Field::new("first", DataType::Int64, false),
        Field::new("offset", DataType::Int64, false),
        Field::new("item", DataType::Int32, false),
    ]
}

fn outlier_fields() -> Vec<Field> {
    let mut fields = vec![
        text("device_id", false),
        Field::new("ts", timestamp(), false),
        Field::new("episode", timestamp(), false),
        Field::new("score", DataType::Float64, false),
        Field::new("artifact", DataType::Boolean, false),
        text("cause", false),
        text("vital", true),
        Field::new("usual", DataType::Float64, true),
        Field::new("observed", DataType::Float64, true),
        text("why", false),
    ];
    fields.extend(Vital::ALL.into_iter().map(|v| Field::new(format!("c_{}", v.column()), DataType::Float64, false)));
    fields.push(Field::new("risk", DataType::Float64, false));
    fields.push(Field::new("news2", DataType::Int32, true));
    fields.extend(vitals());
    fields.push(Field::new("arrived_at", timestamp(), false));
    fields.push(Field::new("seq", DataType::Int64, true));
    fields.push(text("model", false));
    fields
}

fn schema(parts: impl IntoIterator<Item = Vec<Field>>) -> SchemaRef {
    Arc::new(Schema::new(parts.into_iter().flatten().collect::<Vec<_>>()))
}

/// A reading of a closed day: `device_id, ts`, the six vitals, `arrived_at, seq`.
pub static READING: LazyLock<SchemaRef> = LazyLock::new(|| schema([reading_fields(false)]));

/// Where a row came from: `chain, partition, first, offset, item`.
pub static ORIGIN: LazyLock<SchemaRef> = LazyLock::new(|| schema([origin_fields()]));

/// A row of a landing file: a reading, or a dead letter where `reason` is not null.
pub static LANDING: LazyLock<SchemaRef> = LazyLock::new(|| {
    schema([
        reading_fields(true),
        origin_fields(),
        vec![text("reason", true), Field::new("payload", DataType::Binary, true)],
    ])
});

/// A dead letter of a closed day.
pub static DEAD_LETTER: LazyLock<SchemaRef> = LazyLock::new(|| {
    schema([
        vec![
            text("device_id", true),
            Field::new("arrived_at", timestamp(), false),
            text("reason", false),
            Field::new("payload", DataType::Binary, true),
        ],
        origin_fields(),
    ])
});

/// An outlier of a closed day.
pub static OUTLIER: LazyLock<SchemaRef> = LazyLock::new(|| schema([outlier_fields()]));

/// An outlier that the scorer found in a landing file.
pub static SCORED: LazyLock<SchemaRef> = LazyLock::new(|| schema([outlier_fields(), origin_fields()]));

/// Readings as a batch with the columns of [`READING`].
pub fn readings<'a>(rows: impl Iterator<Item = (&'a str, &'a Reading)>) -> Result<RecordBatch, ArrowError> {
    let mut device = StringBuilder::new();
    let (mut ts, mut arrived) = (TimestampMillisecondBuilder::new(), TimestampMillisecondBuilder::new());
    let mut vitals: [Float64Builder; VITALS] = Default::default();
    let mut seq = Int64Builder::new();
    for (name, reading) in rows {
        device.append_value(name);
        ts.append_value(reading.ts_ms);
        for (builder, value) in vitals.iter_mut().zip(reading.vitals) {
            builder.append_option((!value.is_nan()).then_some(value));
        }
        arrived.append_value(reading.arrived_ms);
        seq.append_option(reading.seq);
    }
    let mut columns: Vec<ArrayRef> = vec![Arc::new(device.finish()), Arc::new(ts.finish().with_timezone("UTC"))];
    columns.extend(vitals.iter_mut().map(|vital| Arc::new(vital.finish()) as ArrayRef));
    columns.extend([Arc::new(arrived.finish().with_timezone("UTC")) as ArrayRef, Arc::new(seq.finish())]);
    RecordBatch::try_new(Arc::clone(&READING), columns)
}

/// A reading with its origin: what compaction merges.
pub static MERGED: LazyLock<SchemaRef> = LazyLock::new(|| schema([reading_fields(false), origin_fields()]));

/// The offset of rows that come from a closed day or a file and have no origin.
pub const NO_OFFSET: i64 = -1;

/// Rows with the columns of [`READING`] as rows of [`MERGED`] that have no origin.
pub fn without_origin(readings: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    with_no_origin(readings, &MERGED)
}

/// Rows with the columns of [`OUTLIER`] as rows of [`SCORED`] that have no origin.
pub fn outliers_without_origin(outliers: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    with_no_origin(outliers, &SCORED)
}

fn with_no_origin(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let rows = batch.num_rows();
    let mut columns = batch.columns().to_vec();
    let origin: [ArrayRef; 5] = [
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n("", rows))),
        Arc::new(Int32Array::from_value(0, rows)),
        Arc::new(Int64Array::from_value(0, rows)),
        Arc::new(Int64Array::from_value(NO_OFFSET, rows)),
        Arc::new(Int32Array::from_value(0, rows)),
    ];
    columns.extend(origin);
    RecordBatch::try_new(Arc::clone(schema), columns)
}

/// The row's place in the log by the columns of [`ORIGIN`]: chain, partition, offset, item; `None` without one.
pub fn origin(batch: &RecordBatch, row: usize) -> Option<(&str, i32, i64, i32)> {
    use arrow::datatypes::{Int32Type, Int64Type};
    let int32 = |name: &str| Some(batch.column_by_name(name)?.as_primitive_opt::<Int32Type>()?.value(row));
    let offset = batch.column_by_name("offset")?.as_primitive_opt::<Int64Type>()?.value(row);
    let chain = batch.column_by_name("chain")?.as_string_opt::<i32>().filter(|c| c.is_valid(row))?.value(row);
    (offset != NO_OFFSET).then_some((chain, int32("partition")?, offset, int32("item")?))
}
