//! Rows as Parquet, with their own types.

use std::io::{self, Write};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::properties::WriterProperties,
};

use super::{Counts, Writer};

pub(super) struct ParquetWriter<'a> {
    out: ArrowWriter<Box<dyn Write + Send + 'a>>,
}

/// A row group is closed at this size, so that memory does not grow with the answer.
const ROW_GROUP_BYTES: usize = 32 * 1024 * 1024;

impl<'a> ParquetWriter<'a> {
    pub(super) fn new(schema: &SchemaRef, out: Box<dyn Write + Send + 'a>) -> io::Result<ParquetWriter<'a>> {
        let compression = Compression::ZSTD(ZstdLevel::default());
        let properties = WriterProperties::builder().set_compression(compression).build();
        let out = ArrowWriter::try_new(out, schema.clone(), Some(properties)).map_err(io_error)?;
        Ok(ParquetWriter { out })
    }
}

impl Writer for ParquetWriter<'_> {
    fn rows(&mut self, batch: &RecordBatch) -> io::Result<()> {
        self.out.write(batch).map_err(io_error)?;
        if self.out.in_progress_size() >= ROW_GROUP_BYTES {
            self.out.flush().map_err(io_error)?;
        }
        Ok(())
    }

    fn finish(&mut self, _counts: &Counts) -> io::Result<()> {
        self.out.finish().map_err(io_error)?;
        self.out.inner_mut().flush()
    }
}

/// The system's own error where there is one inside, so that a broken pipe is known as such.
fn io_error(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(inner) => match inner.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(other) => io::Error::other(other),
        },
        other => io::Error::other(other),
    }
}
