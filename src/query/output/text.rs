//! JSON, NDJSON, CSV and Markdown: written row by row.

use std::io::{self, Write};

use arrow::{array::RecordBatch, datatypes::SchemaRef, error::ArrowError};

use super::{Cell, Counts, JSON_SCHEMA_VERSION, Writer, cell::columns_of, escaped};
use crate::reading::time::format_rfc3339_ms;

type Out<'a> = Box<dyn Write + Send + 'a>;

fn unreadable(error: ArrowError) -> io::Error {
    io::Error::other(error)
}

fn names(schema: &SchemaRef) -> Vec<String> {
    schema.fields().iter().map(|field| field.name().clone()).collect()
}

/// Writes a text as a JSON string. Control characters above U+007F, which JSON allows, are escaped too: a terminal may
/// obey them.
fn json_text(out: &mut dyn Write, text: &str) -> io::Result<()> {
    let quoted = serde_json::to_string(text)?;
    if !quoted.contains(|c: char| c.is_control()) {
        return out.write_all(quoted.as_bytes());
    }
    for c in quoted.chars() {
        if c.is_control() { write!(out, "\\u{:04x}", u32::from(c))? } else { write!(out, "{c}")? }
    }
    Ok(())
}

fn json_cell(out: &mut dyn Write, cell: &Cell<'_>) -> io::Result<()> {
    match cell {
        Cell::Null => out.write_all(b"null"),
        Cell::Bool(value) => write!(out, "{value}"),
        Cell::Int(value) => write!(out, "{value}"),
        Cell::UInt(value) => write!(out, "{value}"),
        // JSON has no NaN and no infinity; serde_json writes null for them.
        Cell::Float(value) => Ok(serde_json::to_writer(out, value)?),
        Cell::Time(ms) => write!(out, "\"{}\"", format_rfc3339_ms(*ms)),
        Cell::Text(text) => json_text(out, text),
    }
}

/// Writes each row of a batch as a JSON object, `before` each and `after` each.
fn json_rows(
    out: &mut dyn Write,
    keys: &[String],
    batch: &RecordBatch,
    mut before: impl FnMut(&mut dyn Write) -> io::Result<()>,
    after: &[u8],
) -> io::Result<()> {
    let columns = columns_of(batch).map_err(unreadable)?;
    for row in 0..batch.num_rows() {
        before(out)?;
        for (i, (key, column)) in keys.iter().zip(&columns).enumerate() {
            out.write_all(if i == 0 { b"{" } else { b"," })?;
            out.write_all(key.as_bytes())?;
            json_cell(out, &column.cell(row))?;
        }
        out.write_all(if columns.is_empty() { b"{}" } else { b"}" })?;
        out.write_all(after)?;
    }
    Ok(())
}

/// `"name":`, ready to be written before a value.
fn json_keys(schema: &SchemaRef) -> io::Result<Vec<String>> {
    let key = |name: &String| {
        let mut quoted = Vec::new();
        json_text(&mut quoted, name)?;
        Ok(String::from_utf8_lossy(&quoted).into_owned() + ":")
    };
    names(schema).iter().map(key).collect()
}

/// One document: `{"schema_version", "query", "columns", "rows", "shown", "found", "more", "warnings"}`.
pub(super) struct JsonWriter<'a> {
    out: Out<'a>,
    keys: Vec<String>,
    any: bool,
}

impl<'a> JsonWriter<'a> {
    pub(super) fn new(what: &str, schema: &SchemaRef, mut out: Out<'a>) -> io::Result<JsonWriter<'a>> {
        let columns = serde_json::to_string(&names(schema))?;
        let what = serde_json::to_string(what)?;
        write!(out, "{{\"schema_version\":{JSON_SCHEMA_VERSION},\"query\":{what},\"columns\":{columns},\"rows\":[")?;
        Ok(JsonWriter { out, keys: json_keys(schema)?, any: false })
    }
}

impl Writer for JsonWriter<'_> {
    fn rows(&mut self, batch: &RecordBatch) -> io::Result<()> {
        let any = &mut self.any;
        let before = |out: &mut dyn Write| {
            let comma: &[u8] = if std::mem::replace(any, true) { b",\n" } else { b"\n" };
            out.write_all(comma)
        };
        json_rows(&mut self.out, &self.keys, batch, before, b"")
    }

    fn finish(&mut self, counts: &Counts) -> io::Result<()> {
        let found = counts.found.map_or("null".to_owned(), |found| found.to_string());
        let warnings = serde_json::to_string(&counts.warnings)?;
        let (shown, more) = (counts.shown, counts.more);
        writeln!(self.out, "\n],\"shown\":{shown},\"found\":{found},\"more\":{more},\"warnings\":{warnings}}}")?;
        self.out.flush()
    }
}

/// One JSON object per row and line.
pub(super) struct NdjsonWriter<'a> {
    out: Out<'a>,
    keys: io::Result<Vec<String>>,
}

impl<'a> NdjsonWriter<'a> {
    pub(super) fn new(schema: &SchemaRef, out: Out<'a>) -> NdjsonWriter<'a> {
        NdjsonWriter { out, keys: json_keys(schema) }
    }
}

impl Writer for NdjsonWriter<'_> {
    fn rows(&mut self, batch: &RecordBatch) -> io::Result<()> {
        let keys = self.keys.as_ref().map_err(|e| io::Error::other(e.to_string()))?;
        json_rows(&mut self.out, keys, batch, |_| Ok(()), b"\n")
    }

    fn finish(&mut self, _counts: &Counts) -> io::Result<()> {
        self.out.flush()
    }
}

/// The plain text of a cell: nothing for null, RFC 3339 for a time.
fn plain(cell: &Cell<'_>) -> String {
    match cell {
        Cell::Null => String::new(),
        Cell::Bool(value) => value.to_string(),
        Cell::Int(value) => value.to_string(),
        Cell::UInt(value) => value.to_string(),
        Cell::Float(value) => value.to_string(),
        Cell::Time(ms) => format_rfc3339_ms(*ms),
        Cell::Text(text) => text.clone().into_owned(),
    }
}

/// RFC 4180 with a header.
pub(super) struct CsvWriter<'a> {
    out: csv::Writer<Out<'a>>,
    escape: bool,
}

impl<'a> CsvWriter<'a> {
    pub(super) fn new(schema: &SchemaRef, escape: bool, out: Out<'a>) -> io::Result<CsvWriter<'a>> {
        let mut out = csv::Writer::from_writer(out);
        out.write_record(names(schema)).map_err(csv_error)?;
        Ok(CsvWriter { out, escape })
    }
}

fn csv_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

impl Writer for CsvWriter<'_> {
    fn rows(&mut self, batch: &RecordBatch) -> io::Result<()> {
        let columns = columns_of(batch).map_err(unreadable)?;
        for row in 0..batch.num_rows() {
            for column in &columns {
                let text = plain(&column.cell(row));
                let text = if self.escape { escaped(&text) } else { text.as_str().into() };
                self.out.write_field(text.as_bytes()).map_err(csv_error)?;
            }
            self.out.write_record(None::<&[u8]>).map_err(csv_error)?;
        }
        Ok(())
    }

    fn finish(&mut self, _counts: &Counts) -> io::Result<()> {
        self.out.flush()
    }
}

/// A Markdown table.
pub(super) struct MarkdownWriter<'a> {
    out: Out<'a>,
}

impl<'a> MarkdownWriter<'a> {
    pub(super) fn new(schema: &SchemaRef, mut out: Out<'a>) -> io::Result<MarkdownWriter<'a>> {
        let names = names(schema);
        markdown_row(&mut out, names.iter().map(String::as_str))?;
        let align = |numeric| if numeric { "---:" } else { "---" };
        markdown_row(&mut out, schema.fields().iter().map(|field| align(field.data_type().is_numeric())))?;
        Ok(MarkdownWriter { out })
    }
}

fn markdown_row<'t>(out: &mut dyn Write, cells: impl Iterator<Item = &'t str>) -> io::Result<()> {
    out.write_all(b"|")?;
    for cell in cells {
        write!(out, " {} |", escaped(cell).replace('\\', "\\\\").replace('|', "\\|"))?;
    }
    out.write_all(b"\n")
}

impl Writer for MarkdownWriter<'_> {
    fn rows(&mut self, batch: &RecordBatch) -> io::Result<()> {
        let columns = columns_of(batch).map_err(unreadable)?;
        for row in 0..batch.num_rows() {
            let cells: Vec<_> = columns.iter().map(|column| plain(&column.cell(row))).collect();
            markdown_row(&mut self.out, cells.iter().map(String::as_str))?;
        }
        Ok(())
    }

    fn finish(&mut self, _counts: &Counts) -> io::Result<()> {
        self.out.flush()
    }
}
