//! Athena's results, which are text, as Arrow arrays of the types that the columns have.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array,
        RecordBatch, RecordBatchOptions, StringArray, TimestampMillisecondArray,
    },
    datatypes::{DECIMAL128_MAX_PRECISION, DataType, Field, Schema, SchemaRef},
};
use aws_sdk_athena::{
    operation::get_query_results::GetQueryResultsOutput,
    types::{ColumnInfo, Row},
};
use chrono::{NaiveDate, NaiveDateTime};

use crate::{query::QueryError, reading::columns::timestamp};

/// The columns of an answer.
#[derive(Debug)]
pub(super) struct Columns(SchemaRef);

impl Columns {
    pub(super) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0)
    }
}

/// The columns as the first page names them.
pub(super) fn columns(page: &GetQueryResultsOutput) -> Result<Columns, QueryError> {
    let metadata = page.result_set().and_then(|set| set.result_set_metadata());
    let Some(metadata) = metadata else { return Err(QueryError::Failed("Athena names no columns".to_owned())) };
    let fields: Vec<_> =
        metadata.column_info().iter().map(|column| Field::new(&column.name, type_of(column), true)).collect();
    Ok(Columns(Arc::new(Schema::new(fields))))
}

/// The Arrow type of a column; what has none of its own (arrays, maps, intervals) stays the text that it is.
fn type_of(column: &ColumnInfo) -> DataType {
    match column.r#type.as_str() {
        "boolean" => DataType::Boolean,
        "tinyint" | "smallint" | "integer" | "int" => DataType::Int32,
        "bigint" => DataType::Int64,
        "float" | "real" | "double" => DataType::Float64,
        "date" => DataType::Date32,
        "varbinary" | "binary" => DataType::Binary,
        "decimal" => match (u8::try_from(column.precision), i8::try_from(column.scale)) {
            (Ok(precision @ 1..=DECIMAL128_MAX_PRECISION), Ok(scale)) => DataType::Decimal128(precision, scale),
            _ => DataType::Utf8,
        },
        time if time.starts_with("timestamp") => timestamp(),
        _ => DataType::Utf8,
    }
}

/// The rows of a page, without its first `skip`.
pub(super) fn batch(columns: &Columns, page: &GetQueryResultsOutput, skip: usize) -> Result<RecordBatch, QueryError> {
    let rows = page.result_set().map(|set| set.rows()).unwrap_or_default();
    let rows = rows.get(skip..).unwrap_or_default();
    let arrays = columns.0.fields().iter().enumerate().map(|(place, field)| array(field, place, rows));
    let arrays = arrays.collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    let batch = RecordBatch::try_new_with_options(columns.schema(), arrays, &options);
    batch.map_err(|e| QueryError::Failed(e.to_string()))
}

fn array(field: &Field, place: usize, rows: &[Row]) -> Result<ArrayRef, QueryError> {
    let texts = rows.iter().map(|row| row.data().get(place).and_then(|datum| datum.var_char_value()));
    let mut wrong = None;
    let array = arrow_of(field.data_type(), texts, &mut wrong);
    match wrong {
        None => Ok(array),
        Some(text) => {
            let (name, kind) = (field.name(), field.data_type());
            Err(QueryError::Failed(format!("Athena gave `{text}` in the column `{name}`, which is no {kind}")))
        }
    }
}

/// The array of some values; `wrong` is what could not be read.
fn arrow_of<'a>(kind: &DataType, texts: impl Iterator<Item = Option<&'a str>>, wrong: &mut Option<String>) -> ArrayRef {
    /// Reads every value that is there.
    fn read<'a, T>(
        texts: impl Iterator<Item = Option<&'a str>>,
        wrong: &mut Option<String>,
        read: impl Fn(&str) -> Option<T>,
    ) -> Vec<Option<T>> {
        let one = |text: &str| {
            let value = read(text);
            if value.is_none() {
                wrong.get_or_insert_with(|| text.to_owned());
            }
            value
        };
        let mut one = one;
        texts.map(|text| text.and_then(&mut one)).collect()
    }
    match kind {
        DataType::Boolean => Arc::new(BooleanArray::from(read(texts, wrong, |t| t.parse::<bool>().ok()))),
        DataType::Int32 => Arc::new(Int32Array::from(read(texts, wrong, |t| t.parse::<i32>().ok()))),
        DataType::Int64 => Arc::new(Int64Array::from(read(texts, wrong, |t| t.parse::<i64>().ok()))),
        DataType::Float64 => Arc::new(Float64Array::from(read(texts, wrong, |t| t.parse::<f64>().ok()))),
        DataType::Date32 => Arc::new(Date32Array::from(read(texts, wrong, days))),
        DataType::Binary => {
            let bytes = read(texts, wrong, bytes);
            Arc::new(BinaryArray::from_iter(bytes))
        }
        DataType::Decimal128(precision, scale) => {
            let values = Decimal128Array::from(read(texts, wrong, |text| decimal(text, *scale)));
            match values.with_precision_and_scale(*precision, *scale) {
                Ok(values) => Arc::new(values),
                Err(error) => {
                    wrong.get_or_insert_with(|| error.to_string());
                    arrow::array::new_empty_array(kind)
                }
            }
        }
        DataType::Timestamp(..) => {
            Arc::new(TimestampMillisecondArray::from(read(texts, wrong, moment)).with_timezone("UTC"))
        }
        _ => Arc::new(StringArray::from_iter(texts)),
    }
}

/// `2026-01-31` as days since 1970.
fn days(text: &str) -> Option<i32> {
    let since = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.signed_duration_since(NaiveDate::default());
    i32::try_from(since.num_days()).ok()
}

/// `2026-01-31 05:00:00.000`, with or without ` UTC`, as milliseconds since 1970 UTC. The lake's times are UTC, and so are
/// Athena's sessions.
fn moment(text: &str) -> Option<i64> {
    let text = text.strip_suffix(" UTC").or_else(|| text.strip_suffix(" Z")).unwrap_or(text);
    NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").ok().map(|at| at.and_utc().timestamp_millis())
}

/// `7b 1b ff` as bytes.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let byte = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? * 16 + digit(*low)?),
        _ => None,
    };
    digits.chunks(2).map(byte).collect()
}

/// `-12.30` as −1230 at scale 2.
fn decimal(text: &str, scale: i8) -> Option<i128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let scale = usize::try_from(scale).ok()?;
    if fraction.len() > scale || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    format!("{whole}{fraction:0<scale$}").parse().ok()
}

#[cfg(test)]
mod tests {
    use aws_sdk_athena::types::{Datum, ResultSet, ResultSetMetadata};

    use super::*;

    fn page(columns: &[(&str, &str, i32, i32)], rows: &[&[Option<&str>]]) -> GetQueryResultsOutput {
        let info = columns.iter().map(|(name, kind, precision, scale)| {
            ColumnInfo::builder().name(*name).r#type(*kind).precision(*precision).scale(*scale).build().unwrap()
        });
        let metadata = ResultSetMetadata::builder().set_column_info(Some(info.collect())).build();
        let datum = |value: &Option<&str>| Datum::builder().set_var_char_value(value.map(str::to_owned)).build();
        let rows = rows.iter().map(|row| Row::builder().set_data(Some(row.iter().map(datum).collect())).build());
        let set = ResultSet::builder().result_set_metadata(metadata).set_rows(Some(rows.collect())).build();
        GetQueryResultsOutput::builder().result_set(set).build()
    }

    /// The values of one column as Arrow shows them.
    fn shown(kind: (&str, i32, i32), values: &[Option<&str>]) -> Vec<String> {
        let rows: Vec<_> = values.iter().map(std::slice::from_ref).collect();
        let page = page(&[("c", kind.0, kind.1, kind.2)], &rows);
        let batch = batch(&columns(&page).unwrap(), &page, 0).unwrap();
        let options = arrow::util::display::FormatOptions::default().with_null("-");
        let formatter = arrow::util::display::ArrayFormatter::try_new(batch.column(0).as_ref(), &options).unwrap();
        (0..batch.num_rows()).map(|row| formatter.value(row).to_string()).collect()
    }

    #[test]
    fn every_type_keeps_its_values_and_its_nulls() {
        assert_eq!(shown(("varchar", 0, 0), &[Some("ä"), Some(""), None]), ["ä", "", "-"]);
        assert_eq!(shown(("boolean", 0, 0), &[Some("true"), Some("false"), None]), ["true", "false", "-"]);
        assert_eq!(shown(("integer", 0, 0), &[Some("-7"), None]), ["-7", "-"]);
        assert_eq!(shown(("bigint", 0, 0), &[Some("9223372036854775807")]), ["9223372036854775807"]);
        let doubles = [Some("36.6"), Some("1.0E10"), Some("NaN"), Some("-Infinity"), None];
        assert_eq!(shown(("double", 0, 0), &doubles), ["36.6", "10000000000.0", "NaN", "-inf", "-"]);
        assert_eq!(shown(("date", 0, 0), &[Some("2026-01-31"), Some("1969-12-31")]), ["2026-01-31", "1969-12-31"]);
        let times = [Some("2026-01-31 05:00:00.123"), Some("1969-12-31 23:59:59.999"), None];
        let expected = ["2026-01-31T05:00:00.123Z", "1969-12-31T23:59:59.999Z", "-"];
        assert_eq!(shown(("timestamp", 3, 0), &times), expected);
        assert_eq!(shown(("timestamp with time zone", 3, 0), &[Some("2026-01-31 05:00:00.123 UTC")]), expected[..1]);
        assert_eq!(shown(("varbinary", 0, 0), &[Some("7b 1b ff"), Some(""), None]), ["7b1bff", "", "-"]);
        let decimals = [Some("-12.30"), Some("5"), Some("0.1"), None];
        assert_eq!(shown(("decimal", 10, 2), &decimals), ["-12.30", "5.00", "0.10", "-"]);
        assert_eq!(shown(("array", 0, 0), &[Some("[1, 2]")]), ["[1, 2]"]);
    }

    #[test]
    fn what_a_type_does_not_have_is_an_error() {
        for (kind, value) in [("double", "many"), ("timestamp", "yesterday"), ("varbinary", "7"), ("decimal", "1.234")]
        {
            let page = page(&[("c", kind, 10, 2)], &[&[Some(value)]]);
            let error = batch(&columns(&page).unwrap(), &page, 0).unwrap_err().to_string();
            assert!(error.contains(value) && error.contains("`c`"), "{error}");
        }
    }

    #[test]
    fn a_page_without_columns_still_has_its_rows() {
        let page = page(&[], &[&[], &[]]);
        assert_eq!(batch(&columns(&page).unwrap(), &page, 0).unwrap().num_rows(), 2);
    }
}
