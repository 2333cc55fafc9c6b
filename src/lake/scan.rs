//! The rows of a lake's files, streamed in batches.

use std::{panic::AssertUnwindSafe, sync::Arc};

use arrow::{
    array::{AsArray, BooleanArray, Int64Array, RecordBatch},
    compute::{and, filter_record_batch, is_not_null, is_null},
    datatypes::{Int64Type, Schema, SchemaRef, TimestampMillisecondType},
};
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::path::Path;
use parquet::{
    arrow::{ProjectionMask, arrow_reader::ArrowReaderOptions, async_reader::ParquetRecordBatchStreamBuilder},
    file::metadata::RowGroupMetaData,
};

use super::store::{ParquetFile, Store, StoreError};

/// Batches of rows.
pub type Batches = BoxStream<'static, Result<RecordBatch, StoreError>>;

/// Rows per batch: small, as many files may be open at once.
pub const BATCH_ROWS: usize = 8 * 1024;

/// The columns of `schema` in the Parquet file at `key`, which is `bytes` long. A file that lacks one, or has it with
/// another type, is [`StoreError::Damaged`].
pub async fn open(store: &Store, key: &Path, bytes: u64, schema: &SchemaRef) -> Result<Batches, StoreError> {
    open_groups(store, key, bytes, schema, |_| true).await
}

/// The same of those row groups only that are wanted.
pub async fn open_groups(
    store: &Store,
    key: &Path,
    bytes: u64,
    schema: &SchemaRef,
    wanted: impl Fn(&RowGroupMetaData) -> bool,
) -> Result<Batches, StoreError> {
    let damaged = damage(key);
    let unread = |e| StoreError::of_parquet(key, e);
    let file = ParquetFile::new(store, key, bytes);
    // Of the schema that writers embed, damage can make the reader panic; nothing of ours has one.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchStreamBuilder::new_with_options(file, options).await.map_err(unread)?;
    let order = columns(builder.schema(), schema).map_err(&damaged)?;
    let mask = ProjectionMask::roots(builder.parquet_schema(), order.iter().copied());
    let groups = builder.metadata().row_groups().iter().enumerate();
    let groups = groups.filter(|(_, group)| wanted(group)).map(|(place, _)| place).collect();
    let stream = builder.with_projection(mask).with_row_groups(groups).with_batch_size(BATCH_ROWS).build();
    let stream = stream.map_err(unread)?;
    let (schema, at, damaged) = (Arc::clone(schema), key.clone(), damage(key));
    // Damaged pages can make the decoder panic, which is the file's fault and not ours.
    let rows = AssertUnwindSafe(stream).catch_unwind().map(move |batch| match batch {
        Ok(batch) => batch.map_err(|e| StoreError::of_parquet(&at, e)),
        Err(_) => Err(damaged("its pages can't be decoded".to_owned())),
    });
    let damaged = damage(key);
    Ok(rows.and_then(move |batch| std::future::ready(conform(&batch, &schema).map_err(&damaged))).boxed())
}

fn damage(key: &Path) -> impl Fn(String) -> StoreError + Clone + use<> {
    let key = key.clone();
    move |what| StoreError::Damaged { key: key.clone(), what }
}

/// The places in `have` of the columns of `want`.
fn columns(have: &Schema, want: &Schema) -> Result<Vec<usize>, String> {
    let place = |field: &Arc<arrow::datatypes::Field>| {
        let (place, there) =
            have.column_with_name(field.name()).ok_or_else(|| format!("it has no column `{}`", field.name()))?;
        if there.data_type() != field.data_type() {
            return Err(format!("its column `{}` is {}, not {}", field.name(), there.data_type(), field.data_type()));
        }
        Ok(place)
    };
    want.fields().iter().map(place).collect()
}

/// The batch with exactly the columns of `schema`, in its order.
pub fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, String> {
    let column = |field: &Arc<arrow::datatypes::Field>| {
        batch.column_by_name(field.name()).cloned().ok_or_else(|| format!("it has no column `{}`", field.name()))
    };
    let columns = schema.fields().iter().map(column).collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(|e| e.to_string())
}

/// A range of offsets, `[from, to)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offsets {
    pub from: i64,
    pub to: i64,
}

/// Which rows of a landing file are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    Readings,
    DeadLetters,
}

/// The rows of a landing batch with an offset in `offsets` that are readings, or dead letters.
pub fn select(batch: &RecordBatch, rows: Rows, offsets: Offsets) -> Result<RecordBatch, arrow::error::ArrowError> {
    let Some(reason) = batch.column_by_name("reason") else {
        return within(batch, offsets);
    };
    let wanted = match rows {
        Rows::Readings => is_null(reason)?,
        Rows::DeadLetters => is_not_null(reason)?,
    };
    filter_record_batch(batch, &and(&wanted, &in_range(batch, offsets))?)
}

/// The rows with an offset in `offsets`.
pub fn within(batch: &RecordBatch, offsets: Offsets) -> Result<RecordBatch, arrow::error::ArrowError> {
    filter_record_batch(batch, &in_range(batch, offsets))
}

fn in_range(batch: &RecordBatch, offsets: Offsets) -> BooleanArray {
    int64(batch, "offset").iter().map(|o| Some(o.is_some_and(|o| offsets.from <= o && o < offsets.to))).collect()
}

/// An integer column that [`conform`] has made sure of; an empty one where it is not there.
pub fn int64(batch: &RecordBatch, name: &str) -> Int64Array {
    let column = batch.column_by_name(name).and_then(|c| c.as_primitive_opt::<Int64Type>());
    column.cloned().unwrap_or_else(|| Int64Array::new_null(batch.num_rows()))
}

/// A time column, milliseconds since 1970 UTC, likewise.
pub fn times(batch: &RecordBatch, name: &str) -> Int64Array {
    let column = batch.column_by_name(name).and_then(|c| c.as_primitive_opt::<TimestampMillisecondType>());
    column.map_or_else(|| Int64Array::new_null(batch.num_rows()), |c| c.reinterpret_cast::<Int64Type>())
}
