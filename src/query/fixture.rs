//! Lakes for tests: rows written as JSON, put where the pipeline puts them.

use std::sync::Arc;

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use bytes::Bytes;
use object_store::path::Path;
use parquet::{arrow::ArrowWriter, file::metadata::KeyValue, file::properties::WriterProperties};
use serde_json::{Value, json};

use crate::{
    lake::{
        Created, Day, State, Store, Table,
        landing::{Footer, Kind},
        layout,
        state::{BUILTIN_MODEL, Commit, Cut, Run},
    },
    reading::columns,
};

pub(crate) const CHAIN: &str = "spool-test";

/// Rows of a table.
pub(crate) fn batch(schema: &SchemaRef, rows: &[Value]) -> RecordBatch {
    let mut decoder = arrow::json::ReaderBuilder::new(Arc::clone(schema)).build_decoder().unwrap();
    decoder.serialize(rows).unwrap();
    decoder.flush().unwrap().unwrap_or_else(|| RecordBatch::new_empty(Arc::clone(schema)))
}

/// A Parquet file.
pub(crate) fn parquet(batch: &RecordBatch, pairs: Vec<KeyValue>) -> Bytes {
    let properties = WriterProperties::builder().set_key_value_metadata(Some(pairs)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap().into()
}

pub(crate) async fn create(store: &Store, key: &Path, bytes: Bytes) {
    assert_eq!(store.create(key, bytes).await.unwrap(), Created::New, "{key}");
}

pub(crate) fn moment(text: &str) -> i64 {
    crate::reading::time::parse_lenient_ms(text.as_bytes()).unwrap()
}

/// A reading as a row.
pub(crate) fn reading(device: &str, ts: &str, heart_rate: f64) -> Value {
    json!({"device_id": device, "ts": ts, "heart_rate": heart_rate, "temperature": 36.6, "arrived_at": ts, "seq": 1})
}

/// A dead letter as a row of a landing file.
pub(crate) fn dead(arrived_at: &str, reason: &str, payload: &[u8]) -> Value {
    let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({"arrived_at": arrived_at, "reason": reason, "payload": hex})
}

/// An outlier as a row.
pub(crate) fn outlier(device: &str, ts: &str, episode: &str, score: f64, cause: &str) -> Value {
    let mut row = reading(device, ts, 118.0);
    let more = json!({
        "episode": episode, "score": score, "artifact": cause == "flatline", "cause": cause, "vital": "heart_rate",
        "usual": 72.0, "observed": 118.0, "why": format!("heart rate 118 bpm, usually 72 ({cause})"),
        "c_heart_rate": 1.0, "c_systolic": 0.0, "c_diastolic": 0.0, "c_temperature": 0.0, "c_spo2": 0.0,
        "c_respiratory_rate": 0.0, "risk": 0.1, "news2": 5, "model": BUILTIN_MODEL,
    });
    row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    row
}

fn placed(rows: &[Value], first: i64) -> Vec<Value> {
    let place = |(i, row): (usize, &Value)| {
        let mut row = row.clone();
        let origin = json!({"chain": CHAIN, "partition": 0, "first": first, "offset": first + i as i64, "item": 0});
        row.as_object_mut().unwrap().extend(origin.as_object().unwrap().clone());
        row
    };
    rows.iter().enumerate().map(place).collect()
}

/// The bytes of the landing file that starts at `first`, one offset a row.
pub(crate) fn landing_bytes(first: i64, rows: &[Value]) -> Bytes {
    let dead = rows.iter().filter(|row| row.get("reason").is_some()).count() as u64;
    let next = first + rows.len() as i64;
    let mut footer = Footer::empty(Kind::Slice, CHAIN, 0, first, next, "test");
    (footer.readings, footer.dead) = (rows.len() as u64 - dead, dead);
    parquet(&batch(&columns::LANDING, &placed(rows, first)), footer.key_values())
}

/// Writes a landing file.
pub(crate) async fn land(store: &Store, first: i64, rows: &[Value]) {
    create(store, &layout::landing_file(CHAIN, 0, first), landing_bytes(first, rows)).await;
}

/// Writes what the built-in model found in the landing file that starts at `first`.
pub(crate) async fn score(store: &Store, first: i64, rows: &[Value]) {
    let bytes = parquet(&batch(&columns::SCORED, &placed(rows, first)), vec![]);
    create(store, &layout::scored_file(BUILTIN_MODEL, CHAIN, 0, first), bytes).await;
}

/// Writes the run of one table of a closed day, of one part.
pub(crate) async fn run(store: &Store, table: Table, day: &str, rows: &[Value]) -> Run {
    let schema = match table {
        Table::Readings => &columns::READING,
        Table::Outliers => &columns::OUTLIER,
        Table::DeadLetters => &columns::DEAD_LETTER,
    };
    let time = if table == Table::DeadLetters { "arrived_at" } else { "ts" };
    let times: Vec<_> = rows.iter().map(|row| moment(row[time].as_str().unwrap())).collect();
    let bytes = parquet(&batch(schema, rows), vec![]);
    let run = Run {
        run: "run-1".to_owned(),
        rows: rows.len() as u64,
        parts: vec![bytes.len() as u64],
        min_ts: *times.iter().min().unwrap(),
        max_ts: *times.iter().max().unwrap(),
    };
    create(store, &layout::run_part(table, Day::parse(day).unwrap(), &run.run, 0), bytes).await;
    run
}

/// Closes a day: its runs, and the cut below which everything is in closed days.
pub(crate) async fn close(store: &Store, day: &str, readings: &[Value], outliers: &[Value], cut: i64) {
    let mut state = State::load(store).await.unwrap();
    let day_of = Day::parse(day).unwrap();
    let runs = state.days.entry(day_of).or_default();
    runs.readings = Some(run(store, Table::Readings, day, readings).await);
    if !outliers.is_empty() {
        runs.outliers = Some(run(store, Table::Outliers, day, outliers).await);
    }
    runs.scored_by = Some(BUILTIN_MODEL.to_owned());
    state.upto = Some(day_of);
    state.cut.entry(CHAIN.to_owned()).or_default().insert(0, Cut { offset: cut, first: 0 });
    assert_eq!(state.commit(store).await.unwrap(), Commit::Done);
}

/// A small lake: the closed day 2026-01-05 with the first three of five records, and what has landed since.
pub(crate) async fn small(store: &Store) {
    let early = [
        reading("device_1", "2026-01-05T10:00:00Z", 70.0),
        reading("device_1", "2026-01-05T11:00:00Z", 118.0),
        reading("device_2", "2026-01-05T11:30:00Z", 65.0),
    ];
    let late = [
        reading("device_1", "2026-01-06T09:00:00Z", 119.0),
        dead("2026-01-06T09:10:00Z", "not_json", b"{\x1b[31m\xff"),
        reading("device_2", "2026-01-06T09:30:00Z", 66.0),
    ];
    let first = outlier("device_1", "2026-01-05T11:00:00Z", "2026-01-05T11:00:00Z", 8.0, "tachycardia");
    let second = outlier("device_1", "2026-01-06T09:00:00Z", "2026-01-05T11:00:00Z", 9.5, "tachycardia");
    // The landing file still holds what the closed day has, as a lake does until clean-up.
    let all: Vec<_> = early.iter().chain(&late).cloned().collect();
    land(store, 0, &all).await;
    close(store, "2026-01-05", &early, std::slice::from_ref(&first), 3).await;
    let mut scored = placed(&[first], 1);
    scored.extend(placed(&[second], 3));
    let scored: Vec<_> = scored
        .into_iter()
        .map(|mut row| {
            row["first"] = json!(0);
            row
        })
        .collect();
    let bytes = parquet(&batch(&columns::SCORED, &scored), vec![]);
    create(store, &layout::scored_file(BUILTIN_MODEL, CHAIN, 0, 0), bytes).await;
}
