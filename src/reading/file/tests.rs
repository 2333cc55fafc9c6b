use std::{io::Write, sync::Arc};

use arrow::{
    array::{Float32Array, Int32Array, RecordBatch, StringArray, TimestampMicrosecondArray},
    datatypes::{DataType, Field, Schema, TimeUnit},
};

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
