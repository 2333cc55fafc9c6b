use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float64Type, Int32Type, Int64Type, TimestampMillisecondType};
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::lake::landing::Kind;

const NOW: i64 = 1_795_410_000_000;

type Sent = (i64, Option<String>, Vec<u8>);

fn record(offset: i64, device: Option<&str>, payload: impl Into<Vec<u8>>) -> Sent {
    (offset, device.map(str::to_owned), payload.into())
}

fn slice_of(records: &[Sent]) -> Slice {
    let (mut slice, mut parser) = (Slice::new("test", 3), Parser::new());
    for (offset, device, payload) in records {
        let arrived_ms = NOW + offset;
        let (offset, stamped_ms, device) = (*offset, arrived_ms, device.as_deref());
        slice.push(&mut parser, Record { partition: 3, offset, arrived_ms, stamped_ms, device, payload });
    }
    slice
}

/// The rows of the landing file that comes of a slice.
fn encoded(slice: &Slice) -> RecordBatch {
    let file = slice.encode(&Footer::empty(Kind::Slice, "test", 3, 7, 1_000, "me")).unwrap();
    let reader = ParquetRecordBatchReader::try_new(file, 1000).unwrap();
    let batches: Vec<_> = reader.collect::<Result<_, _>>().unwrap();
    let batches: Vec<_> = batches.into_iter().map(|b| b.with_schema(Arc::clone(&columns::LANDING)).unwrap()).collect();
    arrow::compute::concat_batches(&columns::LANDING, &batches).unwrap()
}

fn texts(rows: &RecordBatch, column: &str) -> Vec<Option<String>> {
    rows.column_by_name(column).unwrap().as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect()
}

fn integers(rows: &RecordBatch, column: &str) -> Vec<Option<i64>> {
    let column = rows.column_by_name(column).unwrap();
    match column.as_primitive_opt::<Int64Type>() {
        Some(integers) => integers.iter().collect(),
        None => column.as_primitive::<TimestampMillisecondType>().iter().collect(),
    }
}

fn items(rows: &RecordBatch) -> Vec<i32> {
    rows.column_by_name("item").unwrap().as_primitive::<Int32Type>().values().to_vec()
}

fn at(ms: i64) -> String {
    format!(r#"{{"timestamp":{},"spo2":97}}"#, NOW + ms)
}

#[test]
fn every_record_has_its_outcome_in_the_file_sorted_by_device_and_time() {
    let batch = format!(r#"{{"readings":[{},{{"timestamp":"late"}},{}]}}"#, at(5), at(-1));
    let slice = slice_of(&[
        record(7, Some("b"), at(2)),
        record(8, Some("a"), at(9)),
        record(9, None, "nonsense"),
        record(10, Some("b"), batch),
        record(11, Some("a"), "[]"),
        record(12, Some("a"), at(9)),
        record(13, Some("not an id"), at(0)),
        record(14, Some("a"), at(3)),
    ]);
    assert_eq!((slice.rows(), slice.readings(), slice.dead()), (10, 6, 4));
    assert_eq!(slice.last(), Some((14, NOW + 14)));
    let reasons = [(Reason::NotJson, 1), (Reason::NotAnObject, 1), (Reason::BadDeviceId, 1), (Reason::BadTimestamp, 1)];
    assert_eq!(slice.reasons().collect::<Vec<_>>(), reasons);

    let rows = encoded(&slice);
    let devices: Vec<_> = texts(&rows, "device_id").into_iter().map(Option::unwrap_or_default).collect();
    assert_eq!(devices, ["a", "a", "a", "a", "b", "b", "b", "b", "not an id", ""]);
    let times: Vec<_> = integers(&rows, "ts").into_iter().map(|ts| ts.map(|ts| ts - NOW)).collect();
    assert_eq!(times[..4], [Some(3), Some(9), Some(9), None]);
    assert_eq!(times[4..], [Some(-1), Some(2), Some(5), None, None, None]);
    let offsets: Vec<_> = integers(&rows, "offset").into_iter().flatten().collect();
    assert_eq!(offsets, [14, 8, 12, 11, 10, 7, 10, 10, 13, 9]);
    assert_eq!(items(&rows), [0, 0, 0, ENVELOPE, 2, 0, 0, 1, ENVELOPE, ENVELOPE]);
    let arrived: Vec<_> = integers(&rows, "arrived_at").into_iter().map(|at| at.unwrap_or_default() - NOW).collect();
    assert_eq!(arrived, offsets);
    assert!(integers(&rows, "first").iter().all(|first| *first == Some(7)));
    assert!(texts(&rows, "chain").iter().all(|chain| chain.as_deref() == Some("test")));

    let reasons = texts(&rows, "reason");
    assert_eq!(
        reasons.iter().flatten().collect::<Vec<_>>(),
        ["not_an_object", "bad_timestamp", "bad_device_id", "not_json"]
    );
    let payloads = rows.column_by_name("payload").unwrap().as_binary::<i32>();
    assert_eq!((payloads.value(3), payloads.value(7)), (&b"[]"[..], &br#"{"timestamp":"late"}"#[..]));
    let vitals = rows.column_by_name("spo2").unwrap().as_primitive::<Float64Type>();
    assert!((0..10).all(|row| vitals.is_null(row) == reasons[row].is_some()));
}

#[test]
fn what_was_too_large_is_kept_in_part() {
    let slice = slice_of(&[record(0, Some("a"), vec![b'x'; 300_000])]);
    let rows = encoded(&slice);
    assert_eq!(texts(&rows, "reason"), [Some("too_large".to_owned())]);
    assert_eq!(rows.column_by_name("payload").unwrap().as_binary::<i32>().value(0).len(), MAX_PACKET_BYTES);
}

#[test]
fn a_batch_of_bad_readings_is_not_kept_once_for_each() {
    let batch = format!(r#"{{"readings":[{}]}}"#, vec!["{}"; 30_000].join(","));
    let slice = slice_of(&[record(0, Some("a"), batch.clone())]);
    assert_eq!(slice.dead(), 30_000);
    let payloads = slice.dead.iter().map(|dead| dead.payload.len()).sum::<usize>();
    assert!(payloads <= batch.len() && slice.payload_bytes == payloads);
}

#[test]
fn a_slice_knows_what_it_takes_in_memory() {
    let mut records: Vec<_> = (0..20_000).map(|n| record(n, Some(&format!("device_{}", n % 5_000)), at(n))).collect();
    let readings = slice_of(&records).bytes();
    let rows = 20_000 * size_of::<Row>();
    assert!((rows..2 * rows).contains(&readings), "{readings} for {rows}");
    records.push(record(20_000, None, vec![b'x'; 100_000]));
    assert!(slice_of(&records).bytes() >= readings + 100_000);
    assert!(slice_of(&records[..1]).bytes() < 2_000, "an idle partition must cost next to nothing");
}

#[test]
fn an_empty_slice_is_a_file_without_rows() {
    assert_eq!(encoded(&slice_of(&[])).num_rows(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn whatever_arrives_is_in_the_file_once_and_in_order(
        arrivals in vec((0..40u32, -1_000_000..100i64, prop::option::of(-50..200i64), any::<bool>()), 0..1500),
    ) {
        let payload = |(_, ts, heart_rate, good): &(u32, i64, Option<i64>, bool)| match (good, heart_rate) {
            (false, None) => "?".to_owned(),
            (false, Some(_)) => r#"{"spo2":1}"#.to_owned(),
            (true, heart_rate) => format!(r#"{{"timestamp":{},"heart_rate":{}}}"#, NOW + ts, heart_rate.map_or("null".into(), |v| v.to_string())),
        };
        let records: Vec<_> = arrivals.iter().enumerate().map(|(offset, arrival)| {
            record(offset as i64, Some(&format!("d{}", arrival.0)), payload(arrival))
        }).collect();
        let mut expected: Vec<_> = arrivals.iter().enumerate().map(|(offset, (device, ts, heart_rate, good))| {
            let dead = (!good).then_some(if heart_rate.is_some() { "no_timestamp" } else { "not_json" });
            let key = (format!("d{device}"), if *good { NOW + ts } else { i64::MAX }, offset as i64);
            (key, heart_rate.filter(|_| *good), dead)
        }).collect();
        expected.sort();

        let rows = encoded(&slice_of(&records));
        let devices = texts(&rows, "device_id");
        let (times, offsets, reasons) = (integers(&rows, "ts"), integers(&rows, "offset"), texts(&rows, "reason"));
        let heart_rates = rows.column_by_name("heart_rate").unwrap().as_primitive::<Float64Type>();
        prop_assert_eq!(rows.num_rows(), expected.len());
        for (row, ((device, ts, offset), heart_rate, dead)) in expected.iter().enumerate() {
            prop_assert_eq!(devices[row].as_ref(), Some(device));
            prop_assert_eq!((times[row].unwrap_or(i64::MAX), offsets[row]), (*ts, Some(*offset)));
            prop_assert_eq!(reasons[row].as_deref(), *dead);
            prop_assert_eq!(heart_rates.is_valid(row).then(|| heart_rates.value(row) as i64), *heart_rate);
        }
    }
}
