//! Files of what was sent in every form, and what is none.

use std::{fs::File, sync::Arc};

use arrow::{
    array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray},
    datatypes::DataType,
};
use flate2::{Compression, write::GzEncoder};
use parquet::arrow::ArrowWriter;

use super::*;

/// Of two readings one is lost, and the other was stored twice since it was sent twice.
async fn lake() -> (Store, [SentOne; 2]) {
    let store = Store::memory();
    let one = reading(0, Some(1), 70.0);
    land(&store, 0, &[stored("a", one), stored("a", one)]).await;
    (store, [SentOne { sends: 2, ..sent("a", one) }, sent("b", reading(1, None, 71.5))])
}

const EXPECTED: [(&str, u64); 3] = [("found", 1), ("lost", 1), ("sent_twice", 1)];

async fn failure(bytes: &[u8]) -> String {
    let file = file_of(bytes);
    let options = Options { sent: Some(file.path().to_owned()), ..Options::default() };
    let error = verify(&Store::memory(), &options, |_| {}).await.unwrap_err();
    format!("{error:#}")
}

#[tokio::test]
async fn compressed_lines_and_batches_are_read() {
    let (store, rows) = lake().await;
    let mut text = GzEncoder::new(Vec::new(), Compression::fast());
    rows.iter().for_each(|row| text.write_all(line(row).as_bytes()).unwrap());
    let report = check(&store, file_of(&text.finish().unwrap()).path()).await;
    assert_eq!(counts(&report), EXPECTED);
    let batch = format!(
        "\u{feff}\n{{\"device_id\":\"a\",\"acknowledged_ms\":1,\"sends\":1,\"published_ms\":{T},\"more\":[1],\
         \"readings\":[{{\"ts\":{T},\"seq\":1,\"heart_rate\":70,\"temperature\":36.7}},{{\"ts\":{T},\"seq\":2}}]}}\n"
    );
    let report = check(&store, file_of(batch.as_bytes()).path()).await;
    assert_eq!(counts(&report), [("found", 1), ("lost", 1), ("stored_twice", 1)]);
}

#[tokio::test]
async fn csv_is_read_with_the_columns_of_its_way() {
    let (store, _) = lake().await;
    let text = format!(
        "sends,timestamp,note,device_id,heart_rate,temperature,seq,acknowledged_ms,published_ms\n\
         2,{T},x,a,70,36.7,1,{T},{T}\n1.0,2026-11-23T05:01:00Z,y,b,71.5,36.7,,{T}.0,{T}\n\
         1,2026-11-23T05:01:00Z,y,b,72.5,36.7,,,{T}\n"
    );
    let report = check(&store, file_of(text.as_bytes()).path()).await;
    assert_eq!(counts(&report), [("found", 1), ("lost", 1), ("missing", 1), ("sent_twice", 1)]);
    assert_eq!(report.warnings, Vec::<String>::new());
}

fn parquet_file(columns: Vec<(&str, ArrayRef)>) -> NamedTempFile {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let file = NamedTempFile::new().unwrap();
    let mut writer = ArrowWriter::try_new(File::create(file.path()).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    file
}

fn parquet_readings() -> Vec<(&'static str, ArrayRef)> {
    vec![
        ("device_id", Arc::new(StringArray::from(vec!["a", "b"]))),
        ("ts", Arc::new(TimestampMillisecondArray::from(vec![T, T + MINUTE_MS]).with_timezone("UTC"))),
        ("heart_rate", Arc::new(Float64Array::from(vec![70.0, 71.5]))),
        ("temperature", Arc::new(Float64Array::from(vec![36.7, 36.7]))),
        ("seq", Arc::new(Int64Array::from(vec![Some(1), None]))),
    ]
}

#[tokio::test]
async fn parquet_is_read_with_the_columns_of_its_way() {
    let (store, _) = lake().await;
    let mut columns = parquet_readings();
    columns.push(("acknowledged_ms", Arc::new(TimestampMillisecondArray::from(vec![Some(T), None]))));
    columns.push(("sends", Arc::new(Float64Array::from(vec![2.0, 1.0]))));
    columns.push(("published_ms", Arc::new(Int64Array::from(vec![T, T]))));
    let report = check(&store, parquet_file(columns).path()).await;
    assert_eq!(counts(&report), [("found", 1), ("missing", 1), ("sent_twice", 1)]);
    assert_eq!(report.warnings, Vec::<String>::new());
    let mut columns = parquet_readings();
    columns.push(("sends", Arc::new(StringArray::from(vec!["1", "2"]))));
    let options = Options { sent: Some(parquet_file(columns).path().to_owned()), ..Options::default() };
    assert!(verify(&store, &options, |_| {}).await.is_err());
}

#[tokio::test]
async fn a_file_that_says_nothing_of_its_way_is_taken_as_acknowledged_and_says_so() {
    let (store, _) = lake().await;
    let report = check(&store, parquet_file(parquet_readings()).path()).await;
    assert_eq!(counts(&report), [("found", 1), ("lost", 1), ("stored_twice", 1)]);
    let warnings = report.warnings.join("\n");
    for told in ["2 of 2 rows", "taken as acknowledged", "taken as sent once", "can't be late"] {
        assert!(warnings.contains(told), "{warnings}");
    }
    assert_eq!(DataType::Int64, *parquet_readings()[4].1.data_type());
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_an_error_that_names_it() {
    let good = line(&sent("a", reading(0, Some(1), 70.0)));
    for (second, told) in [
        ("{\"device_id\":\"a\"}\n", "line 2: no_timestamp"),
        ("not json\n", "line 2: not_json"),
        ("{\"timestamp\":5}\n", "line 2: no_device"),
        ("{\"device_id\":\"a\",\"timestamp\":5,\"sends\":\"x\"}", "line 2"),
        ("{\"device_id\":\"a\",\"timestamp\":5,\"sends\":-1}", "`sends` is -1"),
        ("{\"device_id\":\"a\",\"timestamp\":5,\"published_ms\":0.5}", "`published_ms` is 0.5"),
    ] {
        let error = failure(format!("{good}{second}").as_bytes()).await;
        assert!(error.contains(told) && error.contains("line 2"), "{second}: {error}");
    }
    let long = format!("{good}{{\"device_id\":\"{}", "x".repeat(300_000));
    assert!(failure(long.as_bytes()).await.contains("line 2 is longer than"));
    let csv = "device_id,timestamp,heart_rate,sends\na,2026-11-23T05:00:00Z,70,1\na,soon,70,1\n";
    assert!(failure(csv.as_bytes()).await.contains("row 2: bad_timestamp"));
    let csv = "device_id,timestamp,heart_rate,sends\na,2026-11-23T05:00:00Z,70,often\n";
    let error = failure(csv.as_bytes()).await;
    assert!(error.contains("row 1") && error.contains("`sends` is `often`"), "{error}");
    assert!(failure(b"").await.contains("is empty"));
    assert!(!failure(b"PAR1 and then nothing").await.is_empty());
}
