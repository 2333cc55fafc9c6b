use arrow::array::{
    Array, AsArray, BinaryArray, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatchReader, StringArray,
    TimestampMillisecondArray,
};
use arrow::datatypes::{Float64Type, Int64Type};
use parquet::{
    arrow::arrow_reader::{
        ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
        RowSelection, RowSelector,
    },
    file::{metadata::PageIndexPolicy, page_index::column_index::ColumnIndexMetaData},
};
use proptest::{collection::vec, prelude::*};

use super::*;

fn with_page_index() -> ArrowReaderOptions {
    ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required)
}

fn read(file: &Bytes) -> RecordBatch {
    let reader = ParquetRecordBatchReader::try_new(file.clone(), 7_777).unwrap();
    let schema = reader.schema();
    let batches: Vec<_> = reader.collect::<Result<_, _>>().unwrap();
    arrow::compute::concat_batches(&schema, &batches).unwrap()
}

/// Values for a column of this type, from a few numbers: the same ones make runs, steps, nulls and many values alike.
fn column(data_type: &DataType, nullable: bool, seeds: &[i64]) -> ArrayRef {
    let present = |seed: &i64| !nullable || seed % 5 != 1;
    let some = |seed: &i64| present(seed).then_some(*seed);
    match data_type {
        DataType::Utf8 => {
            Arc::new(StringArray::from_iter(seeds.iter().map(|s| some(s).map(|s| format!("d{}", s / 7)))))
        }
        DataType::Float64 => Arc::new(Float64Array::from_iter(seeds.iter().map(|s| some(s).map(|s| s as f64 / 8.0)))),
        DataType::Int64 => Arc::new(Int64Array::from_iter(seeds.iter().map(some))),
        DataType::Int32 => Arc::new(Int32Array::from_iter(seeds.iter().map(|s| some(s).map(|s| s as i32)))),
        DataType::Boolean => Arc::new(BooleanArray::from_iter(seeds.iter().map(|s| some(s).map(|s| s % 2 == 0)))),
        DataType::Binary => {
            Arc::new(BinaryArray::from_iter(seeds.iter().map(|s| some(s).map(|s| s.to_string().into_bytes()))))
        }
        DataType::Timestamp(..) => {
            Arc::new(TimestampMillisecondArray::from_iter(seeds.iter().map(some)).with_timezone("UTC"))
        }
        other => panic!("no lake has {other}"),
    }
}

fn batch(shape: Shape, seeds: &[i64]) -> RecordBatch {
    let schema = shape.schema();
    let columns = schema.fields().iter().map(|field| column(field.data_type(), field.is_nullable(), seeds)).collect();
    RecordBatch::try_new(schema, columns).unwrap()
}

fn shapes() -> impl Strategy<Value = Shape> {
    prop::sample::select(vec![Shape::Landing, Shape::Scored, Shape::Readings, Shape::Outliers, Shape::DeadLetters])
}

/// Numbers as columns have them: constant, steady with outliers, few different, any.
fn seeds() -> impl Strategy<Value = Vec<i64>> {
    prop_oneof![
        (any::<i64>(), 0..300usize).prop_map(|(value, count)| vec![value; count]),
        vec(prop_oneof![50 => 990..1010i64, 1 => -1_000_000..1_000_000i64, 1 => any::<i64>()], 0..2000).prop_map(
            |steps| {
                let mut at = 1_795_392_000_000i64;
                steps
                    .into_iter()
                    .map(|step| {
                        at = at.wrapping_add(step);
                        at
                    })
                    .collect()
            }
        ),
        vec(-100..100i64, 0..1500),
        vec(any::<i64>(), 0..600),
        vec(prop::sample::select(vec![i64::MIN, -1, 0, 1, i64::MAX]), 0..400),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn what_is_written_is_read_with_the_very_types_of_the_table(shape in shapes(), parts in vec(seeds(), 0..4)) {
        let batches: Vec<_> = parts.iter().map(|seeds| batch(shape, seeds)).collect();
        let file = to_parquet(shape, &batches, Vec::new()).unwrap();
        let read = read(&file);
        prop_assert_eq!(read.schema(), shape.schema());
        prop_assert_eq!(read, arrow::compute::concat_batches(&shape.schema(), &batches).unwrap());
    }
}

/// A day's rows: more than a row group, with values that do and don't fit one byte.
fn long_batch(rows: i64) -> RecordBatch {
    let device = |row: i64| format!("device_{:05}", row / 700);
    let ts = |row: i64| 1_795_392_000_000 + row % 700 * 60_000 + row * row % 97;
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values((0..rows).map(device))),
        Arc::new(TimestampMillisecondArray::from_iter_values((0..rows).map(ts)).with_timezone("UTC")),
    ];
    for vital in 1..=6 {
        let value = |row: i64| (row % 11 != vital).then_some((row * vital % (100 * vital)) as f64 / 10.0);
        columns.push(Arc::new(Float64Array::from_iter((0..rows).map(value))));
    }
    columns.push(Arc::clone(&columns[1]));
    columns.push(Arc::new(Int64Array::from_iter_values(0..rows)));
    RecordBatch::try_new(Shape::Readings.schema(), columns).unwrap()
}

#[test]
fn rows_beyond_a_group_go_into_the_next() {
    let rows = long_batch(GROUP_ROWS as i64 + 12_345);
    let file = to_parquet(Shape::Readings, &[rows.slice(0, 999_999), rows.slice(999_999, 12_346)], Vec::new()).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file.clone()).unwrap();
    let counts: Vec<_> = reader.metadata().row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(counts, [1_000_000, 12_345]);
    assert_eq!(read(&file), rows);
}

#[test]
fn every_page_says_which_values_it_holds() {
    let rows = long_batch(3 * PAGE_ROWS as i64 + 100);
    let file = to_parquet(Shape::Readings, std::slice::from_ref(&rows), Vec::new()).unwrap();
    let metadata = ArrowReaderMetadata::load(&file, with_page_index()).unwrap();
    let index = &metadata.metadata().column_index().unwrap()[0];
    for (column, field) in rows.schema().fields().iter().enumerate() {
        let array = rows.column(column);
        let within = |page: usize, row: usize| match &index[column] {
            ColumnIndexMetaData::INT64(index) => {
                let value =
                    arrow::compute::cast(array, &DataType::Int64).unwrap().as_primitive::<Int64Type>().value(row);
                (index.min_value(page).unwrap()..=index.max_value(page).unwrap()).contains(&&value)
            }
            ColumnIndexMetaData::DOUBLE(index) => {
                let value = array.as_primitive::<Float64Type>().value(row);
                (index.min_value(page).unwrap()..=index.max_value(page).unwrap()).contains(&&value)
            }
            ColumnIndexMetaData::BYTE_ARRAY(index) => {
                let value = array.as_string::<i32>().value(row).as_bytes();
                (index.min_value(page).unwrap()..=index.max_value(page).unwrap()).contains(&value)
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(index[column].num_pages(), 4, "{field}");
        assert!((0..rows.num_rows()).all(|row| array.is_null(row) || within(row / PAGE_ROWS, row)), "{field}");
    }
    // The bounds tell pages apart, or nothing could be skipped.
    let ColumnIndexMetaData::BYTE_ARRAY(devices) = &index[0] else { panic!("devices are texts") };
    assert!(devices.max_value(0) <= devices.min_value(1));
}

#[test]
fn pages_can_be_skipped() {
    let rows = long_batch(3 * PAGE_ROWS as i64 + 100);
    let file = to_parquet(Shape::Readings, std::slice::from_ref(&rows), Vec::new()).unwrap();
    let selection =
        vec![RowSelector::skip(2 * PAGE_ROWS - 3), RowSelector::select(10), RowSelector::skip(PAGE_ROWS + 93)];
    let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(file, with_page_index()).unwrap();
    let reader = reader.with_row_selection(RowSelection::from(selection)).build().unwrap();
    let read: Vec<_> = reader.collect::<Result<_, _>>().unwrap();
    let read = arrow::compute::concat_batches(&rows.schema(), &read).unwrap();
    assert_eq!(read, rows.slice(2 * PAGE_ROWS - 3, 10));
}

#[test]
fn a_nan_among_the_values_takes_the_bounds_away_and_nothing_else() {
    let mut columns = batch(Shape::Readings, &[1, 2, 3]).columns().to_vec();
    columns[2] = Arc::new(Float64Array::from(vec![Some(f64::NAN), None, Some(-0.0)]));
    let rows = RecordBatch::try_new(Shape::Readings.schema(), columns).unwrap();
    let file = to_parquet(Shape::Readings, &[rows], Vec::new()).unwrap();
    let vitals = read(&file).column(2).as_primitive::<Float64Type>().clone();
    assert!(vitals.value(0).is_nan() && vitals.is_null(1) && vitals.value(2).is_sign_negative());
    let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).unwrap();
    let statistics = metadata.metadata().row_group(0).column(2).statistics().unwrap();
    assert!(statistics.min_bytes_opt().is_none());
}

#[test]
fn an_outlier_in_the_steps_costs_its_quarter_of_a_block_only() {
    // Devices of a hundred readings each: at every 100th step the time falls back.
    let jitter = |row: i64| {
        let mixed = (row ^ row << 21).wrapping_mul(0x5851_F42D_4C95_7F2D);
        (mixed ^ mixed >> 29).wrapping_mul(0x1405_7B7E_F767_814F) >> 40 & 0xFF
    };
    let size = |nominal: fn(i64) -> i64| {
        let seeds: Vec<i64> = (0..12_000i64).map(|row| nominal(row) * 60_000 + jitter(row)).collect();
        let file = to_parquet(Shape::Readings, &[batch(Shape::Readings, &seeds)], Vec::new()).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        reader.metadata().row_group(0).column(8).compressed_size()
    };
    let (devices, one_device) = (size(|row| row % 100), size(|row| row));
    // Wrapped up in the width of the widest step it would be over twice as large.
    assert!(devices * 10 < one_device * 15, "{devices} {one_device}");
}

#[test]
fn the_footer_is_there_and_no_arrow_schema() {
    let pairs = vec![KeyValue::new("vitals.kind".to_owned(), "slice".to_owned())];
    let file = to_parquet(Shape::Landing, &[], pairs.clone()).unwrap();
    let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).unwrap();
    assert_eq!(metadata.metadata().file_metadata().key_value_metadata(), Some(&pairs));
    assert_eq!(metadata.metadata().file_metadata().num_rows(), 0);
    assert_eq!(metadata.schema().fields(), Shape::Landing.schema().fields());
}
