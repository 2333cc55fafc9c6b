//! Rows for people and for programs.
//!
//! Every format but the table writes rows as they come and holds none of them. Only the table cuts what does not fit;
//! every other format says everything.

use std::io::{self, Write};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use futures::StreamExt;

use super::{Answer, QueryError};

mod cell;
mod parquet;
pub mod shapes;
mod table;
mod text;

pub use cell::{Cell, Column, columns_of, escaped};
pub use table::{Shape, Show, Shown, Style, moment};

/// The version of what `--output json` writes.
pub const JSON_SCHEMA_VERSION: u32 = 1;

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people; fits the terminal
    Table,
    /// One document: schema_version, columns, rows, counts, warnings
    Json,
    /// One JSON object per line and row
    Ndjson,
    /// RFC 4180, with a header
    Csv,
    /// A Markdown table
    Markdown,
    /// Parquet, ZSTD-compressed
    Parquet,
}

/// Why rows could not be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The rows did not come.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// They could not be written.
    #[error("can't write the rows: {0}")]
    Io(#[from] io::Error),
}

impl OutputError {
    /// Whether nobody reads any more (`| head`): no fault.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, OutputError::Io(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// What came of an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows that were written.
    pub shown: u64,
    /// Rows that there are, where they were counted.
    pub found: Option<u64>,
    /// Whether there are more rows than were written.
    pub more: bool,
    /// What the reader should know: files that were left out, and why.
    pub warnings: Vec<String>,
}

/// Takes rows and writes them.
pub trait Writer {
    /// Writes some rows.
    fn rows(&mut self, batch: &RecordBatch) -> io::Result<()>;

    /// Writes what comes after the last row.
    fn finish(&mut self, counts: &Counts) -> io::Result<()>;

    /// What the reader should know of how the rows are shown, where anything was left out.
    fn remark(&self) -> Option<String> {
        None
    }
}

/// A writer of a format. `what` names the query in JSON; `style` is the table's; `to_terminal` escapes what a terminal
/// would obey.
pub fn writer<'a>(
    format: Format,
    what: &str,
    schema: &SchemaRef,
    style: Style,
    to_terminal: bool,
    out: Box<dyn Write + Send + 'a>,
) -> io::Result<Box<dyn Writer + 'a>> {
    Ok(match format {
        Format::Table => Box::new(table::TableWriter::new(schema, style, out)),
        Format::Json => Box::new(text::JsonWriter::new(what, schema, out)?),
        Format::Ndjson => Box::new(text::NdjsonWriter::new(schema, out)),
        Format::Csv => Box::new(text::CsvWriter::new(schema, to_terminal, out)?),
        Format::Markdown => Box::new(text::MarkdownWriter::new(schema, out)?),
        Format::Parquet => Box::new(parquet::ParquetWriter::new(schema, out)?),
    })
}

/// Writes at most `limit` rows of an answer, and says how many there were and whether there are more. The caller counts
/// what was found, and finishes.
pub async fn write_rows(
    answer: Answer,
    writer: &mut (dyn Writer + '_),
    limit: Option<u64>,
) -> Result<Counts, OutputError> {
    let mut batches = answer.batches;
    let mut shown = 0_u64;
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        let rows = batch.num_rows() as u64;
        let room = limit.map_or(u64::MAX, |limit| limit - shown);
        if rows > room {
            let fits = usize::try_from(room).unwrap_or(usize::MAX);
            writer.rows(&batch.slice(0, fits))?;
            return Ok(Counts { shown: shown + room, more: true, ..Counts::default() });
        }
        writer.rows(&batch)?;
        shown += rows;
    }
    Ok(Counts { shown, found: Some(shown), ..Counts::default() })
}
