//! Values out of Arrow columns, in the few kinds that output tells apart.

use std::{borrow::Cow, fmt::Write};

use arrow::{
    array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray},
    array::{TimestampMillisecondArray, UInt64Array},
    compute::cast,
    datatypes::{DataType, Float64Type, Int64Type, TimeUnit, TimestampMillisecondType, UInt64Type},
    error::ArrowError,
    util::display::{ArrayFormatter, FormatOptions},
};

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell<'a> {
    /// Nothing.
    Null,
    /// Yes or no.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number that may be over `i64::MAX`.
    UInt(u64),
    /// A floating-point number.
    Float(f64),
    /// A moment, milliseconds since 1970 UTC.
    Time(i64),
    /// Text; bytes as text where they are, with U+FFFD where they are not.
    Text(Cow<'a, str>),
}

/// One column of a batch.
#[derive(Debug)]
pub enum Column {
    Bool(BooleanArray),
    Int(Int64Array),
    UInt(UInt64Array),
    Float(Float64Array),
    Time(TimestampMillisecondArray),
    Text(StringArray),
    Bytes(BinaryArray),
}

impl Column {
    /// A column of any type.
    pub fn new(array: &ArrayRef) -> Result<Column, ArrowError> {
        let as_type = |to: &DataType| cast(array, to);
        Ok(match array.data_type() {
            DataType::Boolean => Column::Bool(array.as_boolean().clone()),
            DataType::UInt64 => Column::UInt(array.as_primitive::<UInt64Type>().clone()),
            t if t.is_integer() => Column::Int(as_type(&DataType::Int64)?.as_primitive::<Int64Type>().clone()),
            t if t.is_floating() => Column::Float(as_type(&DataType::Float64)?.as_primitive::<Float64Type>().clone()),
            DataType::Timestamp(_, zone) => {
                let ms = DataType::Timestamp(TimeUnit::Millisecond, zone.clone());
                Column::Time(as_type(&ms)?.as_primitive::<TimestampMillisecondType>().clone())
            }
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                Column::Text(as_type(&DataType::Utf8)?.as_string::<i32>().clone())
            }
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                Column::Bytes(as_type(&DataType::Binary)?.as_binary::<i32>().clone())
            }
            // A null in a column of nulls is not marked as one.
            DataType::Null => Column::Text(StringArray::new_null(array.len())),
            DataType::Dictionary(_, values) => Column::new(&as_type(values)?)?,
            // Lists, intervals, decimals and the like: as Arrow writes them.
            _ => {
                let options = FormatOptions::default();
                let formatter = ArrayFormatter::try_new(array.as_ref(), &options)?;
                let text = |row| array.is_valid(row).then(|| formatter.value(row).to_string());
                Column::Text((0..array.len()).map(text).collect())
            }
        })
    }

    /// The value in a row.
    pub fn cell(&self, row: usize) -> Cell<'_> {
        fn valid<'a>(array: &dyn Array, row: usize, cell: impl FnOnce() -> Cell<'a>) -> Cell<'a> {
            if array.is_null(row) { Cell::Null } else { cell() }
        }
        match self {
            Column::Bool(a) => valid(a, row, || Cell::Bool(a.value(row))),
            Column::Int(a) => valid(a, row, || Cell::Int(a.value(row))),
            Column::UInt(a) => valid(a, row, || Cell::UInt(a.value(row))),
            Column::Float(a) => valid(a, row, || Cell::Float(a.value(row))),
            Column::Time(a) => valid(a, row, || Cell::Time(a.value(row))),
            Column::Text(a) => valid(a, row, || Cell::Text(Cow::Borrowed(a.value(row)))),
            Column::Bytes(a) => valid(a, row, || Cell::Text(String::from_utf8_lossy(a.value(row)))),
        }
    }
}

/// The columns of a batch.
pub fn columns_of(batch: &RecordBatch) -> Result<Vec<Column>, ArrowError> {
    batch.columns().iter().map(Column::new).collect()
}

/// `text` with whatever a terminal might obey written out: control characters, and those that turn the direction of
/// writing.
pub fn escaped(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' => safe.push_str("\\n"),
            '\r' => safe.push_str("\\r"),
            '\t' => safe.push_str("\\t"),
            c if harmful(c) => {
                // Writing to a String does not fail.
                let _ = write!(safe, "\\u{{{:x}}}", u32::from(c));
            }
            c => safe.push(c),
        }
    }
    Cow::Owned(safe)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int32Array, ListArray, TimestampNanosecondArray};

    use super::*;

    #[test]
    fn every_kind_of_column_has_cells() {
        let ints: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None]));
        let column = Column::new(&ints).unwrap();
        assert_eq!((column.cell(0), column.cell(1)), (Cell::Int(1), Cell::Null));
        let times: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![1_999_999]));
        assert_eq!(Column::new(&times).unwrap().cell(0), Cell::Time(1));
        let bytes: ArrayRef = Arc::new(BinaryArray::from_vec(vec![b"ok\xff"]));
        assert_eq!(Column::new(&bytes).unwrap().cell(0), Cell::Text("ok\u{fffd}".into()));
        let list = ListArray::from_iter_primitive::<Int64Type, _, _>(vec![Some(vec![Some(1), Some(2)]), None]);
        let list: ArrayRef = Arc::new(list);
        let column = Column::new(&list).unwrap();
        assert_eq!((column.cell(0), column.cell(1)), (Cell::Text("[1, 2]".into()), Cell::Null));
    }

    #[test]
    fn a_terminal_is_told_nothing() {
        assert_eq!(escaped("plain ä °C"), "plain ä °C");
        assert_eq!(escaped("a\x1b[31mred\x07\u{9b}\u{7f}"), "a\\u{1b}[31mred\\u{7}\\u{9b}\\u{7f}");
        assert_eq!(escaped("line\nnext\ttab\r"), "line\\nnext\\ttab\\r");
        assert_eq!(escaped("\u{202e}gnp.exe"), "\\u{202e}gnp.exe");
    }
}
