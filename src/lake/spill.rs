//! Sorted rows that do not fit in memory, kept in temporary files outside the lake.
//!
//! A temporary file has no name, so whatever happens nothing of it stays.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Seek},
};

use arrow::{
    array::RecordBatch,
    datatypes::SchemaRef,
    error::ArrowError,
    ipc::{reader::FileReader, writer::FileWriter},
};
use futures::StreamExt;

use super::{
    merge::{Input, Merge},
    scan::Batches,
    store::StoreError,
};

/// How many inputs are merged at once: each holds a file open and a batch of rows.
pub const FAN_IN: usize = 64;

/// Rows in a temporary file.
pub struct Spill {
    writer: FileWriter<BufWriter<File>>,
}

/// A finished [`Spill`], which can be read more than once.
pub struct Spilled {
    file: File,
}

fn failed(what: impl std::fmt::Display) -> StoreError {
    StoreError::Temporary { folder: std::env::temp_dir().display().to_string(), what: what.to_string() }
}

impl Spill {
    /// A new file for rows of this schema.
    pub fn new(schema: &SchemaRef) -> Result<Spill, StoreError> {
        let file = tempfile::tempfile().map_err(failed)?;
        Ok(Spill { writer: FileWriter::try_new(BufWriter::new(file), schema).map_err(failed)? })
    }

    /// The next rows.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), StoreError> {
        self.writer.write(batch).map_err(failed)
    }

    /// No more rows.
    pub fn finish(self) -> Result<Spilled, StoreError> {
        let mut writer = self.writer;
        writer.finish().map_err(failed)?;
        let file = writer.into_inner().map_err(failed)?.into_inner().map_err(|e| failed(e.error()))?;
        Ok(Spilled { file })
    }
}

impl Spilled {
    /// The rows from the first one on. Only one reader at a time: they share the place in the file.
    pub fn rows(&self) -> Result<impl Iterator<Item = Result<RecordBatch, StoreError>> + Send + use<>, StoreError> {
        let mut file = self.file.try_clone().map_err(failed)?;
        file.rewind().map_err(failed)?;
        let reader = FileReader::try_new(BufReader::new(file), None).map_err(failed)?;
        Ok(reader.map(|batch: Result<RecordBatch, ArrowError>| batch.map_err(failed)))
    }
}

/// At most [`FAN_IN`] inputs that give the same rows in the same order as many: neighbours are merged into temporary
/// files until few enough are left.
pub async fn narrow(schema: &SchemaRef, mut inputs: Vec<Batches>) -> Result<Vec<Batches>, StoreError> {
    while inputs.len() > FAN_IN {
        let mut fewer: Vec<Batches> = Vec::with_capacity(inputs.len().div_ceil(FAN_IN));
        let mut rest = inputs.into_iter();
        loop {
            let group: Vec<Input> = rest.by_ref().take(FAN_IN).map(|batches| Input { batches, keep: true }).collect();
            if group.is_empty() {
                break;
            }
            let mut merge = Merge::new(schema, group, false).await?;
            let mut spill = Spill::new(schema)?;
            while let Some(batch) = merge.next().await? {
                spill.write(&batch)?;
            }
            let rows = spill.finish()?.rows()?;
            fewer.push(futures::stream::iter(rows).boxed());
        }
        inputs = fewer;
    }
    Ok(inputs)
}
