use std::{io::Write, sync::Arc};

use arrow::{
    array::{
        ArrayRef, Float32Array, Float64Array, Int32Array, ListArray, RecordBatch, StringArray,
        TimestampMicrosecondArray,
    },
    compute::cast,
    datatypes::{DataType, Field, Schema, TimeUnit},
};
use proptest::prelude::*;

use super::*;

/// 2026-03-01T00:00:00Z.
const MARCH: i64 = 1_772_323_200_000;
const NOW: i64 = MARCH + 86_400_000;

fn read(content: &[u8]) -> anyhow::Result<Vec<(String, Result<Reading, Reason>)>> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(content)?;
    let mut reader = FileReader::open(file.path(), NOW)?;
    let mut rows = Vec::new();
    while let Some(row) = reader.next_row()? {
        assert_eq!(row.row, rows.len() as u64);
        rows.push((row.device.to_owned(), row.reading));
    }
    Ok(rows)
}

fn reasons(content: &str) -> Vec<Option<Reason>> {
    read(content.as_bytes()).unwrap().into_iter().map(|(_, reading)| reading.err()).collect()
}

#[test]
fn csv_columns_come_in_any_order_and_cells_may_be_empty() {
    let rows = read(
        b"temperature,ward,timestamp,device_id,blood_pressure,seq\n\
          36.7,A,2026-03-01T00:00:00Z,a,118/76,5\n,,1772323200000,a,,\n NaN ,x,2026-03-01,\"b\",NA,null\n",
    )
    .unwrap();
    assert_eq!(rows.len(), 3);
    let (device, first) = &rows[0];
    let first = first.unwrap();
    assert_eq!((device.as_str(), first.ts_ms, first.arrived_ms, first.seq), ("a", MARCH, MARCH, Some(5)));
    assert_eq!((first.vitals[1], first.vitals[2], first.vitals[3]), (118.0, 76.0, 36.7));
    for (_, later) in &rows[1..] {
        let later = later.unwrap();
        assert_eq!(later.ts_ms, MARCH);
        assert!(later.vitals.iter().all(|value| value.is_nan()));
    }
}

#[test]
fn a_bad_row_keeps_its_place_and_harms_no_other() {
    let content = "device_id,timestamp,heart_rate\n\
        a,2026-03-01T00:00:00Z,70\n\
        a,yesterday,70\n\
        a,,70\n\
        ,2026-03-01T00:00:00Z,70\n\
        a b,2026-03-01T00:00:00Z,70\n\
        a,2026-03-01T00:00:00Z,fast\n\
        a,2026-03-01T00:00:00Z,inf\n\
        a,2026-03-01T00:00:00Z\n\
        a,2026-03-05T00:00:00Z,70\n\
        a,2026-03-01T00:00:00Z,900\n";
    let expected = [
        None,
        Some(Reason::BadTimestamp),
        Some(Reason::NoTimestamp),
        Some(Reason::NoDevice),
        Some(Reason::BadDeviceId),
        Some(Reason::WrongType),
        Some(Reason::WrongType),
        Some(Reason::BadRow),
        Some(Reason::ClockAhead),
        None,
    ];
    assert_eq!(reasons(content), expected);
}

#[test]
fn ndjson_lines_are_packets_and_batches() {
    let long = format!("{{\"device_id\":\"a\",\"x\":\"{}\"}}", "y".repeat(200_000));
    let content = format!(
        "\n{{\"device_id\":\"a\",\"ts\":{MARCH},\"spo2\":97}}\nnonsense\n\
         {{\"device_id\":\"b\",\"readings\":[{{\"timestamp\":{MARCH}}},{{\"spo2\":1}}]}}\n{long}\n\
         {{\"device_id\":\"c\",\"timestamp\":{MARCH}}}"
    );
    let expected = [None, Some(Reason::NotJson), None, Some(Reason::NoTimestamp), Some(Reason::TooLarge), None];
    assert_eq!(reasons(&content), expected);
}

#[test]
fn gzip_is_seen_through() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"device_id,ts,spo2\na,2026-03-01,97\n").unwrap();
    assert_eq!(read(&gzip.finish().unwrap()).unwrap().len(), 1);
}

#[test]
fn parquet_columns_may_have_other_types() {
    let zone: Option<Arc<str>> = Some("UTC".into());
    let schema = Arc::new(Schema::new(vec![
        Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, zone.clone()), true),
        Field::new("device_id", DataType::Utf8, true),
        Field::new("heart_rate", DataType::Int32, true),
        Field::new("temperature", DataType::Float32, true),
        Field::new("ward", DataType::Utf8, true),
    ]));
    let times = TimestampMicrosecondArray::from(vec![Some(MARCH * 1000), None]).with_timezone("UTC");
    let batch = RecordBatch::try_new(
        Arc::clone(&schema),
        vec![
            Arc::new(times),
            Arc::new(StringArray::from(vec!["a", "a"])),
            Arc::new(Int32Array::from(vec![Some(70), None])),
            Arc::new(Float32Array::from(vec![Some(36.5), None])),
            Arc::new(StringArray::from(vec!["x", "y"])),
        ],
    )
    .unwrap();
    let mut writer = ::parquet::arrow::ArrowWriter::try_new(Vec::new(), schema, None).unwrap();
    writer.write(&batch).unwrap();
    let bytes = writer.into_inner().unwrap();
    let rows = read(&bytes).unwrap();
    let first = rows[0].1.unwrap();
    assert_eq!((first.ts_ms, first.vitals[0], first.vitals[3]), (MARCH, 70.0, 36.5));
    assert_eq!(rows[1].1, Err(Reason::NoTimestamp));

    let error = format!("{:#}", read(&bytes[..bytes.len() / 2]).unwrap_err());
    assert!(error.contains("damaged or cut short"), "{error}");
}

#[test]
fn what_is_no_file_of_readings_is_said() {
    let error = |content: &[u8]| format!("{:#}", read(content).unwrap_err());
    assert!(error(b"").contains("is empty"));
    assert!(error(b"a,b\n1,2\n").contains("no column `device_id`, only `a`, `b`"));
    assert!(error(b"device_id,ts,b\n").contains("no column of a vital sign"));
    assert!(error(b"device_id,ts,timestamp,spo2\n").contains("more than one column `timestamp`"));
}

#[test]
fn whole_numbers_may_be_written_as_tools_write_them() {
    let rows =
        read(b"device_id,timestamp,heart_rate,seq\na,1772323200000.0,+70.,12.0\na,1772323200000,7e1,-3\n").unwrap();
    let seqs: Vec<_> = rows.iter().map(|(_, reading)| reading.map(|r| (r.ts_ms, r.vitals[0], r.seq))).collect();
    assert_eq!(seqs, [Ok((MARCH, 70.0, Some(12))), Ok((MARCH, 70.0, Some(-3)))]);
    assert_eq!(reasons("device_id,ts,spo2,seq\na,2026-03-01,97,1.5\n"), [Some(Reason::WrongType)]);
}

#[test]
fn broken_text_in_a_row_harms_that_row() {
    let rows =
        read(b"device_id,ts,spo2,note\na,2026-03-01,97,\xff\na\xff,2026-03-01,97,\na,2026-03-01,9\xff,\n").unwrap();
    let reasons: Vec<_> = rows.iter().map(|(_, reading)| reading.err()).collect();
    assert_eq!(reasons, [None, Some(Reason::NoDevice), Some(Reason::NotUtf8)]);
}

#[test]
fn a_quote_that_is_never_closed_does_not_fill_the_memory() {
    let mut content = b"device_id,ts,spo2\na,2026-03-01,\"".to_vec();
    content.extend(std::iter::repeat_n(b"a,2026-03-01,97\n", 200_000).flatten());
    let error = format!("{:#}", read(&content).unwrap_err());
    assert!(error.contains("line 2") && error.contains("quote"), "{error}");
}

#[test]
fn a_dead_row_keeps_its_text() {
    let raw = |content: &[u8]| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        let mut reader = FileReader::open(file.path(), NOW).unwrap();
        let mut all = Vec::new();
        while let Some(row) = reader.next_row().unwrap() {
            all.push(String::from_utf8(row.raw.to_vec()).unwrap());
        }
        (all, reader.ignored_columns().to_vec())
    };
    let csv = raw(b"device_id,ts,spo2,x\na,2026-03-01,97,1\na,\"no, \"\"time\",97,2\n");
    assert_eq!(csv, (vec![String::new(), "a,\"no, \"\"time\",97,2".into()], vec!["x".into()]));
    let json = raw(b"{\"device_id\":\"a\",\"ts\":0,\"x\":1,\"readings\":[{\"ts\":0},{\"spo2\":1}]}\nnope");
    assert_eq!(json, (vec![String::new(), "{\"spo2\":1}".into(), "nope".into()], vec!["x".into()]));
    let parquet = raw(&parquet(vec![
        ("device_id", Arc::new(StringArray::from(vec!["a"]))),
        ("ts", Arc::new(StringArray::from(vec!["soon"]))),
        ("spo2", Arc::new(Int32Array::from(vec![97]))),
        ("x", Arc::new(Int32Array::from(vec![1]))),
    ]));
    assert_eq!(parquet, (vec!["{\"device_id\":\"a\",\"ts\":\"soon\",\"spo2\":97}".into()], vec!["x".into()]));
}

fn parquet(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ::parquet::arrow::ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

#[test]
fn a_cell_of_a_parquet_file_that_means_nothing_is_a_fault_and_not_an_absent_value() {
    let rows = read(&parquet(vec![
        ("device_id", cast(&StringArray::from(vec!["a"; 6]), &DataType::LargeUtf8).unwrap()),
        ("timestamp", Arc::new(Float64Array::from(vec![MARCH as f64; 6]))),
        ("heart_rate", Arc::new(StringArray::from(vec!["70", "fast", "NA", "inf", "70", "70"]))),
        ("spo2", Arc::new(Float64Array::from(vec![97.0, 97.0, f64::NAN, 97.0, f64::INFINITY, 97.0]))),
        ("seq", Arc::new(Float64Array::from(vec![1.0, 1.0, f64::NAN, 1.0, 1.0, 1.5]))),
    ]))
    .unwrap();
    let reasons: Vec<_> = rows.iter().map(|(_, reading)| reading.err()).collect();
    let wrong = Some(Reason::WrongType);
    assert_eq!(reasons, [None, wrong, None, wrong, wrong, wrong]);
    let (first, third) = (rows[0].1.unwrap(), rows[2].1.unwrap());
    assert_eq!((first.ts_ms, first.vitals[0], first.vitals[4], first.seq), (MARCH, 70.0, 97.0, Some(1)));
    assert!(third.vitals.iter().all(|value| value.is_nan()) && third.seq.is_none());

    let lists = ListArray::from_iter_primitive::<arrow::datatypes::Int32Type, _, _>([Some([Some(1)])]);
    let error = read(&parquet(vec![
        ("device_id", Arc::new(StringArray::from(vec!["a"]))),
        ("ts", Arc::new(StringArray::from(vec!["2026-03-01"]))),
        ("spo2", Arc::new(lists)),
    ]));
    assert!(format!("{:#}", error.unwrap_err()).contains("its column `spo2` is List"));
}

#[test]
fn a_file_that_ends_too_early_is_named() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    gzip.write_all(b"device_id,ts,spo2\na,2026-03-01,97\na,2026-03-01,97\n").unwrap();
    let whole = gzip.finish().unwrap();
    let mut file = tempfile::NamedTempFile::with_prefix("history").unwrap();
    file.write_all(&whole[..whole.len() - 12]).unwrap();
    let mut reader = FileReader::open(file.path(), NOW);
    let error = loop {
        match reader.as_mut().map(FileReader::next_row) {
            Ok(Ok(Some(_))) => {}
            Ok(Ok(None)) => panic!("it looked whole"),
            Ok(Err(error)) => break format!("{error:#}"),
            Err(error) => break format!("{error:#}"),
        }
    };
    assert!(error.contains("history"), "{error}");
}

#[test]
fn a_column_twice_or_an_array_is_refused() {
    let error = |content: &[u8]| format!("{:#}", read(content).unwrap_err());
    assert!(error(b"device_id,ts,spo2,spo2\n").contains("more than one column `spo2`"));
    assert!(error(b" [{\"device_id\":\"a\"}]").contains("JSON array"));
    assert!(error(b"PK\x03\x04\xff\xfe,\n").contains("neither CSV, NDJSON nor Parquet"));
}

proptest! {
    #[test]
    fn any_content_is_read_or_refused(content in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&content);
        let _ = read(&[b"device_id,ts,spo2\n", &content[..]].concat());
        let _ = read(&[b"{", &content[..]].concat());
        let _ = read(&[b"PAR1", &content[..]].concat());
    }

    #[test]
    fn a_parquet_file_with_wrong_bytes_is_read_or_refused(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5)) {
        let mut bytes = parquet(vec![
            ("device_id", Arc::new(StringArray::from(vec!["a", "b", "c"])) as ArrayRef),
            ("ts", Arc::new(StringArray::from(vec!["2026-03-01", "x", "2026-03-02"]))),
            ("spo2", Arc::new(Int32Array::from(vec![Some(97), None, Some(98)]))),
        ]);
        for (index, byte) in changes {
            let place = index.index(bytes.len());
            bytes[place] = byte;
        }
        let _ = read(&bytes);
    }
}
