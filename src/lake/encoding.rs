//! How the Parquet files of the lake are written: [`FileWriter`], for slices, runs and scored files alike.
//!
//! Rows are sorted by device and time, and the encodings live from that:
//!
//! | column | encoding | because |
//! |---|---|---|
//! | texts | dictionary, indices as runs ([`texts`]) | sorted, a device is one run: next to nothing |
//! | doubles | dictionary, indices of one byte ([`narrow`]) | sensors know few values, and whole bytes are what ZSTD's entropy coder can shorten |
//! | times, 64-bit integers | DELTA_BINARY_PACKED ([`steps`]) | a device's steps are alike, so only their jitter is stored |
//! | `payload` | PLAIN, without statistics | no two are alike, and nobody looks for one |
//! | texts and doubles of too many values, all others | as the `parquet` crate writes them | any value must fit |
//!
//! The first three are encoded here. The `parquet` crate's own writer, told to use the same encodings, makes a closed day a
//! quarter larger and a slice two thirds, in up to twice the time; what is written here is plain Parquet all the same, and
//! that crate does the rest.
//!
//! All of it in ZSTD, in pages of 20,000 rows, with minima and maxima per page: a query for one device or a short span
//! reads a page or two per column. Data pages of version 1 and no Arrow schema inside: every engine reads them, and finds
//! the types of [`crate::reading::columns`].

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, RecordBatch},
    datatypes::{DataType, FieldRef, SchemaRef},
};
use bytes::Bytes;
use parquet::{
    arrow::{
        ArrowSchemaConverter,
        arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves},
    },
    basic::{Compression, ZstdLevel},
    errors::Result,
    file::{
        metadata::KeyValue,
        properties::{EnabledStatistics, WriterProperties},
        writer::SerializedFileWriter,
    },
    schema::types::{ColumnDescPtr, ColumnPath},
};

use super::layout::Table;
use crate::reading::columns;
use chunk::Zstd;
use narrow::NarrowColumn;
use steps::StepsColumn;
use texts::TextsColumn;

mod chunk;
mod narrow;
mod steps;
#[cfg(test)]
mod tests;
mod texts;

/// Rows of a page: few enough to skip to one device, many enough for the compressor to learn.
const PAGE_ROWS: usize = 20_000;

/// Rows of a row group at most: what a writer holds in memory.
const GROUP_ROWS: usize = 1_000_000;

/// What a file of the lake holds, by its columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Landing,
    Scored,
    Readings,
    Outliers,
    DeadLetters,
}

impl Shape {
    /// Its columns.
    pub fn schema(self) -> SchemaRef {
        Arc::clone(match self {
            Shape::Landing => &columns::LANDING,
            Shape::Scored => &columns::SCORED,
            Shape::Readings => &columns::READING,
            Shape::Outliers => &columns::OUTLIER,
            Shape::DeadLetters => &columns::DEAD_LETTER,
        })
    }

    /// How hard ZSTD tries. Slices are gone after a day or two; a closed day is kept, and level 6 takes 6 % off level 1's
    /// bytes there for twice its time. Higher levels gain next to nothing.
    fn zstd_level(self) -> i32 {
        match self {
            Shape::Landing | Shape::Scored => 1,
            Shape::Readings | Shape::Outliers | Shape::DeadLetters => 6,
        }
    }
}

impl From<Table> for Shape {
    fn from(table: Table) -> Shape {
        match table {
            Table::Readings => Shape::Readings,
            Table::Outliers => Shape::Outliers,
            Table::DeadLetters => Shape::DeadLetters,
        }
    }
}

/// How the `parquet` crate writes the columns that are not encoded here; `key_values` go into the footer.
fn writer_properties(shape: Shape, key_values: Vec<KeyValue>) -> WriterProperties {
    let payload = ColumnPath::from("payload");
    WriterProperties::builder()
        .set_created_by(concat!("vitals ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_key_value_metadata((!key_values.is_empty()).then_some(key_values))
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(shape.zstd_level()).unwrap_or_default()))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_column_dictionary_enabled(payload.clone(), false)
        .set_column_statistics_enabled(payload, EnabledStatistics::None)
        .build()
}

/// Writes one Parquet file into memory.
pub struct FileWriter {
    file: SerializedFileWriter<Vec<u8>>,
    zstd: Zstd,
    factory: ArrowRowGroupWriterFactory,
    schema: SchemaRef,
    /// The row group at hand, and how many rows it has.
    columns: Vec<Column>,
    rows: usize,
}

/// One column of the row group at hand.
struct Column {
    field: FieldRef,
    descriptor: ColumnDescPtr,
    own: Own,
    /// Takes what the own encodings don't; empty until then.
    writer: ArrowColumnWriter,
}

/// What a column is encoded by here.
enum Own {
    Texts(TextsColumn),
    Narrow(NarrowColumn),
    Steps(Box<StepsColumn>),
    None,
}

impl FileWriter {
    /// An empty file with the columns of `shape`; `key_values` go into its footer.
    pub fn new(shape: Shape, key_values: Vec<KeyValue>) -> Result<FileWriter> {
        let schema = shape.schema();
        let parquet_schema = ArrowSchemaConverter::new().convert(&schema)?;
        let properties = Arc::new(writer_properties(shape, key_values));
        let file = SerializedFileWriter::new(Vec::new(), parquet_schema.root_schema_ptr(), properties)?;
        let factory = ArrowRowGroupWriterFactory::new(&file, Arc::clone(&schema));
        Ok(FileWriter { file, zstd: Zstd::new(shape.zstd_level())?, factory, schema, columns: Vec::new(), rows: 0 })
    }

    /// Appends rows, which have the shape's columns in order.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut from = 0;
        while from < batch.num_rows() {
            if self.columns.is_empty() {
                self.begin_group()?;
            }
            let rows = (batch.num_rows() - from).min(GROUP_ROWS - self.rows);
            let part = batch.slice(from, rows);
            for (column, array) in self.columns.iter_mut().zip(part.columns()) {
                column.write(array, &mut self.zstd)?;
            }
            self.rows += rows;
            from += rows;
            if self.rows == GROUP_ROWS {
                self.end_group()?;
            }
        }
        Ok(())
    }

    /// About how many bytes the file would have if it ended now.
    pub fn bytes(&self) -> usize {
        self.file.bytes_written() + self.columns.iter().map(Column::bytes).sum::<usize>()
    }

    /// The whole file.
    pub fn finish(mut self) -> Result<Bytes> {
        self.end_group()?;
        self.file.into_inner().map(Bytes::from)
    }

    fn begin_group(&mut self) -> Result<()> {
        let writers = self.factory.create_column_writers(self.file.flushed_row_groups().len())?;
        let descriptors = self.file.schema_descr().columns();
        let columns = writers.into_iter().zip(descriptors).zip(self.schema.fields());
        self.columns = columns.map(|((writer, descriptor), field)| Column::new(field, descriptor, writer)).collect();
        Ok(())
    }

    fn end_group(&mut self) -> Result<()> {
        if self.columns.is_empty() {
            return Ok(());
        }
        let mut group = self.file.next_row_group()?;
        for column in self.columns.drain(..) {
            let (bytes, close) = match column.own {
                Own::Texts(texts) => texts.close(column.descriptor, &mut self.zstd)?,
                Own::Narrow(narrow) => narrow.close(column.descriptor, &mut self.zstd)?,
                Own::Steps(steps) => steps.close(&mut self.zstd)?,
                Own::None => {
                    column.writer.close()?.append_to_row_group(&mut group)?;
                    continue;
                }
            };
            group.append_column(&bytes, close)?;
        }
        group.close()?;
        self.rows = 0;
        Ok(())
    }
}

impl Column {
    fn new(field: &FieldRef, descriptor: &ColumnDescPtr, writer: ArrowColumnWriter) -> Column {
        let own = match field.data_type() {
            DataType::Utf8 => Own::Texts(TextsColumn::default()),
            DataType::Float64 => Own::Narrow(NarrowColumn::default()),
            DataType::Int64 | DataType::Timestamp(..) => Own::Steps(Box::new(StepsColumn::new(Arc::clone(descriptor)))),
            _ => Own::None,
        };
        Column { field: Arc::clone(field), descriptor: Arc::clone(descriptor), own, writer }
    }

    fn write(&mut self, array: &ArrayRef, zstd: &mut Zstd) -> Result<()> {
        let taken = match &mut self.own {
            Own::Texts(texts) => texts.append(array),
            Own::Narrow(narrow) => narrow.append(array),
            Own::Steps(steps) => return steps.append(array, zstd),
            Own::None => return self.write_any(array),
        };
        if taken == array.len() {
            return Ok(());
        }
        let before = match std::mem::replace(&mut self.own, Own::None) {
            Own::Texts(texts) => texts.into_array(),
            Own::Narrow(narrow) => narrow.into_array(),
            Own::Steps(_) | Own::None => return Ok(()), // Handled above.
        };
        self.write_any(&before)?;
        self.write_any(&array.slice(taken, array.len() - taken))
    }

    fn write_any(&mut self, array: &ArrayRef) -> Result<()> {
        compute_leaves(&self.field, array)?.iter().try_for_each(|leaf| self.writer.write(leaf))
    }

    /// About how many bytes it takes in the file.
    fn bytes(&self) -> usize {
        match &self.own {
            Own::Texts(texts) => texts.bytes(),
            Own::Narrow(narrow) => narrow.bytes(),
            Own::Steps(steps) => steps.bytes(),
            Own::None => self.writer.get_estimated_total_bytes(),
        }
    }
}

/// A whole file of rows at hand.
pub fn to_parquet(shape: Shape, batches: &[RecordBatch], key_values: Vec<KeyValue>) -> Result<Bytes> {
    let mut file = FileWriter::new(shape, key_values)?;
    for batch in batches {
        file.write(batch)?;
    }
    file.finish()
}
