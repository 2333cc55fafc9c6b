//! Answers of an engine as columns of the few types that a report has.

use std::sync::Arc;

use anyhow::Context;
use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray},
    compute::cast,
    datatypes::{DataType, Float64Type, Int64Type, TimeUnit, TimestampMillisecondType},
};

/// One batch of an answer, its columns by name.
pub(super) struct Columns<'a>(pub &'a RecordBatch);

impl Columns<'_> {
    fn of(&self, name: &str, to: &DataType) -> anyhow::Result<ArrayRef> {
        let column = self.0.column_by_name(name).with_context(|| format!("the answer has no column `{name}`"))?;
        if column.data_type() == to {
            return Ok(Arc::clone(column));
        }
        cast(column, to).with_context(|| format!("the answer's column `{name}` is {}, not {to}", column.data_type()))
    }

    pub fn text(&self, name: &str) -> anyhow::Result<StringArray> {
        Ok(self.of(name, &DataType::Utf8)?.as_string::<i32>().clone())
    }

    pub fn int(&self, name: &str) -> anyhow::Result<Int64Array> {
        Ok(self.of(name, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
    }

    pub fn float(&self, name: &str) -> anyhow::Result<Float64Array> {
        Ok(self.of(name, &DataType::Float64)?.as_primitive::<Float64Type>().clone())
    }

    pub fn flag(&self, name: &str) -> anyhow::Result<BooleanArray> {
        Ok(self.of(name, &DataType::Boolean)?.as_boolean().clone())
    }

    /// Moments, milliseconds since 1970 UTC.
    pub fn time(&self, name: &str) -> anyhow::Result<Int64Array> {
        let ms = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
        Ok(self.of(name, &ms)?.as_primitive::<TimestampMillisecondType>().reinterpret_cast::<Int64Type>())
    }
}

/// The number in a row; `None` where there is none.
pub(super) fn int_at(column: &Int64Array, row: usize) -> Option<i64> {
    column.is_valid(row).then(|| column.value(row))
}

/// The finite number in a row.
pub(super) fn float_at(column: &Float64Array, row: usize) -> Option<f64> {
    column.is_valid(row).then(|| column.value(row)).filter(|value| value.is_finite())
}

/// The text in a row.
pub(super) fn text_at(column: &StringArray, row: usize) -> Option<String> {
    column.is_valid(row).then(|| column.value(row).to_owned())
}

/// The count in a row; 0 where there is none.
pub(super) fn count_at(column: &Int64Array, row: usize) -> u64 {
    int_at(column, row).and_then(|count| u64::try_from(count).ok()).unwrap_or(0)
}
