//! Small lakes with known faults.

use std::{io::Write, path::Path};

use proptest::prelude::*;
use tempfile::NamedTempFile;

use super::{
    Options, Report, VERIFY_DEAD_LETTERS, VERIFY_READINGS,
    report::{Found, Readings},
    verify,
};
use crate::{
    ingest::slice::Slice,
    lake::{
        Store,
        compact::{CompactOptions, compact},
        landing::{self, FORMAT, Footer, Kind, Put},
        layout,
    },
    query::Statement,
    reading::{NO_VITALS, Reading, Reason, Vital, time::format_rfc3339_ms},
};

mod chains;
mod files;
mod properties;

const CHAIN: &str = "spool-test";
const T: i64 = 1_795_410_000_000;
const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 3_600_000;

/// What one record became: its device, what it is, and what a dead letter's payload was.
#[derive(Debug, Clone)]
struct Landed {
    device: String,
    arrived_ms: i64,
    outcome: Result<Reading, Reason>,
    payload: String,
}

/// A row of the file.
#[derive(Debug, Clone)]
struct SentOne {
    device: String,
    reading: Reading,
    acknowledged: bool,
    sends: u32,
}

fn reading(minute: i64, seq: Option<i64>, heart_rate: f64) -> Reading {
    let mut vitals = NO_VITALS;
    vitals[Vital::HeartRate.index()] = heart_rate;
    vitals[Vital::Temperature.index()] = 36.7;
    let ts_ms = T + minute * MINUTE_MS;
    Reading { ts_ms, arrived_ms: ts_ms + 1_000, seq, vitals }
}

fn sent(device: &str, reading: Reading) -> SentOne {
    SentOne { device: device.to_owned(), reading, acknowledged: true, sends: 1 }
}

fn stored(device: &str, reading: Reading) -> Landed {
    let (device, arrived_ms) = (device.to_owned(), reading.arrived_ms);
    Landed { device, arrived_ms, outcome: Ok(reading), payload: String::new() }
}

fn dead(device: &str, reason: Reason, payload: &str) -> Landed {
    Landed { device: device.to_owned(), arrived_ms: T, outcome: Err(reason), payload: payload.to_owned() }
}

/// A line as `vitals simulate --sent` writes it: published when it was measured.
fn line(row: &SentOne) -> String {
    let number = |vital: Vital| match row.reading.vitals[vital.index()] {
        value if value.is_nan() => "null".to_owned(),
        value => value.to_string(),
    };
    let vitals: Vec<_> = Vital::ALL.iter().map(|vital| format!("\"{}\":{}", vital.column(), number(*vital))).collect();
    let null = |value: Option<i64>| value.map_or_else(|| "null".to_owned(), |value| value.to_string());
    format!(
        "{{\"device_id\":\"{}\",\"timestamp\":\"{}\",{},\"seq\":{},\"published_ms\":{},\"acknowledged_ms\":{},\
         \"sends\":{}}}\n",
        row.device,
        format_rfc3339_ms(row.reading.ts_ms),
        vitals.join(","),
        null(row.reading.seq),
        row.reading.ts_ms,
        null(row.acknowledged.then_some(row.reading.ts_ms + 5)),
        row.sends
    )
}

fn file_of(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn sent_file(rows: &[SentOne]) -> NamedTempFile {
    file_of(rows.iter().map(line).collect::<String>().as_bytes())
}

async fn land(store: &Store, first: i64, records: &[Landed]) -> i64 {
    let mut slice = Slice::new(CHAIN, 0);
    for (offset, one) in (first..).zip(records) {
        slice.push_outcome(offset, 0, one.arrived_ms, Some(&one.device), one.outcome, one.payload.as_bytes());
    }
    let next = first + records.len() as i64;
    let mut footer = Footer::empty(Kind::Slice, CHAIN, 0, first, next, "test");
    (footer.readings, footer.dead) = (slice.readings(), slice.dead());
    (footer.last_offset, footer.last_arrived_ms) = (Some(next - 1), records.last().map(|last| last.arrived_ms));
    assert_eq!(footer.format, FORMAT);
    let file = slice.encode(&footer).unwrap();
    assert_eq!(landing::put(store, CHAIN, 0, first, file).await.unwrap(), Put::Done);
    next
}

async fn check(store: &Store, path: &Path) -> Report {
    let options = Options { sent: Some(path.to_owned()), ..Options::default() };
    verify(store, &options, |_| {}).await.unwrap()
}

/// Compares what was sent with a lake that holds just these records.
async fn compare(sent: &[SentOne], records: &[Landed]) -> Report {
    let store = Store::memory();
    land(&store, 0, records).await;
    check(&store, sent_file(sent).path()).await
}

fn readings(report: &Report) -> &Readings {
    report.readings.as_ref().unwrap()
}

/// Every count that is not nought.
fn counts(report: &Report) -> Vec<(&'static str, u64)> {
    let r = readings(report);
    let all = [
        ("found", r.found),
        ("lost", r.lost.count),
        ("missing", r.missing.count),
        ("stored_twice", r.stored_twice.count),
        ("sent_twice", r.sent_twice.count),
        ("altered", r.altered.count),
        ("late", r.late.count),
        ("dead_lettered", r.dead_lettered.found.count),
        ("unmatched", r.dead_lettered.unmatched),
        ("unexpected", r.unexpected.count),
    ];
    all.into_iter().filter(|(_, count)| *count > 0).collect()
}

fn only(found: &Found) -> (String, Option<i64>, String) {
    assert_eq!(found.examples.len(), 1, "{found:?}");
    let example = &found.examples[0];
    (format!("{} {}", example.device_id, example.timestamp), example.seq, example.what.clone())
}

#[tokio::test]
async fn a_lake_that_has_all_of_it_keeps_every_promise() {
    let one = reading(0, Some(1), 70.0);
    let other = reading(1, None, 71.5);
    let report = compare(&[sent("a", one), sent("b", other)], &[stored("a", one), stored("b", other)]).await;
    assert_eq!(counts(&report), [("found", 2)]);
    assert!(report.kept && report.broken().is_empty() && report.warnings.is_empty());
    let r = readings(&report);
    assert_eq!((r.sent.readings, r.sent.devices, r.stored), (2, 2, 2));
    assert_eq!(r.sent.first, "2026-11-23T05:00:00.000Z");
    assert!(report.text().ends_with("Every promise was kept."), "{}", report.text());
}

#[tokio::test]
async fn what_was_acknowledged_and_is_gone_is_lost_and_a_broken_promise() {
    let (kept, gone) = (reading(0, Some(1), 70.0), reading(1, Some(2), 70.0));
    let unanswered = SentOne { acknowledged: false, ..sent("a", reading(2, Some(3), 70.0)) };
    let report = compare(&[sent("a", kept), sent("a", gone), unanswered], &[stored("a", kept)]).await;
    assert_eq!(counts(&report), [("found", 1), ("lost", 1), ("missing", 1)]);
    assert!(!report.kept);
    let (place, seq, what) = only(&readings(&report).lost);
    assert_eq!((place.as_str(), seq), ("a 2026-11-23T05:01:00.000Z", Some(2)));
    assert_eq!(what, "published 2026-11-23T05:01:00.000Z, acknowledged");
    assert_eq!(only(&readings(&report).missing).2, "published 2026-11-23T05:02:00.000Z, never acknowledged");
    assert!(report.text().ends_with("Broken: 1 reading lost."), "{}", report.text());
}

#[tokio::test]
async fn what_was_never_acknowledged_may_be_missing() {
    let unanswered = SentOne { acknowledged: false, ..sent("a", reading(2, Some(3), 70.0)) };
    let report = compare(&[unanswered], &[stored("b", reading(2, Some(3), 70.0))]).await;
    assert_eq!(counts(&report), [("missing", 1)]);
    assert!(report.kept);
}

#[tokio::test]
async fn a_row_more_than_was_sent_is_stored_twice_and_a_broken_promise() {
    let one = reading(0, Some(1), 70.0);
    let report = compare(&[sent("a", one)], &[stored("a", one), stored("a", one)]).await;
    assert_eq!(counts(&report), [("found", 1), ("stored_twice", 1)]);
    assert_eq!(only(&readings(&report).stored_twice).2, "sent 1 times, stored 2 times");
    assert!(!report.kept);
    let twice = SentOne { sends: 2, ..sent("a", one) };
    let report = compare(&[twice], &vec![stored("a", one); 5]).await;
    assert_eq!(counts(&report), [("found", 1), ("stored_twice", 3), ("sent_twice", 1)]);
}

#[tokio::test]
async fn what_was_sent_twice_may_be_stored_once_or_twice() {
    let one = reading(0, Some(1), 70.0);
    let twice = SentOne { sends: 2, ..sent("a", one) };
    let report = compare(std::slice::from_ref(&twice), &[stored("a", one), stored("a", one)]).await;
    assert_eq!(counts(&report), [("found", 1), ("sent_twice", 1)]);
    assert!(report.kept);
    assert_eq!(counts(&compare(&[twice], &[stored("a", one)]).await), [("found", 1)]);
    // The same reading twice in the file, from two packets.
    let report = compare(&[sent("a", one), sent("a", one)], &[stored("a", one), stored("a", one)]).await;
    assert_eq!(counts(&report), [("found", 2), ("sent_twice", 1)]);
    assert!(report.kept);
}

#[tokio::test]
async fn a_closed_day_from_which_copies_were_dropped_keeps_every_promise() {
    let store = Store::memory();
    let one = reading(0, Some(1), 70.0);
    land(&store, 0, &[stored("a", one), stored("a", one), stored("a", reading(1, Some(2), 71.0))]).await;
    let file = sent_file(&[SentOne { sends: 2, ..sent("a", one) }, sent("a", reading(1, Some(2), 71.0))]);
    assert_eq!(counts(&check(&store, file.path()).await), [("found", 2), ("sent_twice", 1)]);
    let closed =
        compact(&store, CompactOptions { now_ms: T + 48 * HOUR_MS, running_day: false }, |_| ()).await.unwrap();
    assert_eq!(closed[0].sent_twice, 1);
    let report = check(&store, file.path()).await;
    assert_eq!(counts(&report), [("found", 2)]);
    assert!(report.kept);
}

#[tokio::test]
async fn a_vital_that_differs_in_its_last_bit_was_altered() {
    let one = reading(0, Some(1), 70.1);
    let changed = reading(0, Some(1), f64::from_bits(70.1_f64.to_bits() + 1));
    let report = compare(&[sent("a", one)], &[stored("a", changed)]).await;
    assert_eq!(counts(&report), [("altered", 1)]);
    assert!(!report.kept);
    let what = only(&readings(&report).altered).2;
    assert_eq!(what, format!("heart_rate: sent 70.1, stored {}", changed.vitals[0]));
    let mut dropped = one;
    dropped.vitals[0] = f64::NAN;
    let report = compare(&[sent("a", one)], &[stored("a", dropped)]).await;
    assert_eq!(only(&readings(&report).altered).2, "heart_rate: sent 70.1, stored nothing");
}

#[tokio::test]
async fn numbers_are_not_altered_by_how_they_are_written() {
    // Of 17 digits the last decides the last bit.
    let values = [0.1 + 0.2, 1.0 / 3.0, 5e-324, 1.797_693_134_862_315_7e308, 123_456_789.123_456_79, -0.0];
    let rows: Vec<_> = (0..).zip(values).map(|(at, value)| reading(at, Some(at), value)).collect();
    let sent: Vec<_> = rows.iter().map(|row| sent("a", *row)).collect();
    let stored: Vec<_> = rows.iter().map(|row| stored("a", *row)).collect();
    assert_eq!(counts(&compare(&sent, &stored).await), [("found", 6)]);
}

#[tokio::test]
async fn a_changed_count_is_a_loss_and_something_unexpected() {
    let sent_one = sent("a", reading(0, Some(1), 70.0));
    let report = compare(&[sent_one], &[stored("a", reading(0, Some(2), 70.0))]).await;
    assert_eq!(counts(&report), [("lost", 1), ("unexpected", 1)]);
}

#[tokio::test]
async fn late_readings_are_counted_and_the_latest_are_shown_first() {
    let late = |minute: i64, by_ms: i64| {
        let on_time = reading(minute, Some(minute), 70.0);
        Reading { arrived_ms: on_time.ts_ms + by_ms, ..on_time }
    };
    let rows: Vec<_> = (0..9).map(|at| late(at, HOUR_MS + (at * 7 % 9) * 1_000)).collect();
    let sent: Vec<_> = rows.iter().map(|row| sent("a", *row)).collect();
    let stored: Vec<_> = rows.iter().map(|row| stored("a", *row)).collect();
    let report = compare(&sent, &stored).await;
    // Just an hour is not over an hour.
    assert_eq!(counts(&report), [("found", 9), ("late", 8)]);
    assert!(report.kept);
    let late = &readings(&report).late;
    assert_eq!((late.worst_ms, late.examples.len()), (Some(HOUR_MS + 8_000), 5));
    let shown: Vec<_> = late.examples.iter().map(|example| example.seq.unwrap() * 7 % 9).collect();
    assert_eq!(shown, [8, 7, 6, 5, 4]);
    assert_eq!(late.examples[4].what, "published 2026-11-23T05:07:00.000Z, 1h before it arrived");
}

#[tokio::test]
async fn readings_among_the_dead_letters_are_found_there() {
    let rows: Vec<_> = (0..5).map(|at| sent("a", reading(at, Some(at), 70.0))).collect();
    let time = |minute: i64| format_rfc3339_ms(T + minute * MINUTE_MS);
    let letters = [
        dead("a", Reason::ClockAhead, &format!("{{\"timestamp\":\"{}\",\"seq\":0}}", time(0))),
        // It came twice.
        dead("a", Reason::ClockAhead, &format!("{{\"timestamp\":\"{}\",\"seq\":0}}", time(0))),
        dead("a", Reason::WrongType, &format!("{{\"timestamp\":\"{}\",\"seq\":\"one\"}}", time(1))),
        dead("a", Reason::NoTimestamp, "{\"seq\":2}"),
        dead("a", Reason::NotJson, "{\"seq\":3"),
        dead("a", Reason::BadTimestamp, "{\"timestamp\":\"soon\",\"seq\":99}"),
        dead("b", Reason::NotJson, "of nobody who is in the file"),
    ];
    let report = compare(&rows, &letters).await;
    assert_eq!(counts(&report), [("lost", 2), ("dead_lettered", 3), ("unmatched", 2)]);
    let letters = &readings(&report).dead_lettered;
    let by_reason: Vec<_> = letters.by_reason.iter().map(|(reason, count)| (*reason, *count)).collect();
    assert_eq!(by_reason, [("clock_ahead", 1), ("no_timestamp", 1), ("wrong_type", 1)]);
    let unmatched: Vec<_> = letters.unmatched_by_reason.keys().copied().collect();
    assert_eq!(unmatched, ["bad_timestamp", "not_json"]);
    assert!(report.warnings[0].contains("2 dead letters do not say"), "{:?}", report.warnings);
}

#[tokio::test]
async fn a_reading_that_is_only_a_dead_letter_was_not_altered() {
    let one = reading(0, Some(1), 70.0);
    let letter = dead("a", Reason::WrongType, &format!("{{\"timestamp\":{T},\"seq\":1,\"spo2\":\"?\"}}"));
    let report = compare(&[sent("a", one)], &[letter, stored("a", reading(0, Some(1), 80.0))]).await;
    assert_eq!(counts(&report), [("dead_lettered", 1), ("unexpected", 1)]);
}

#[tokio::test]
async fn only_the_devices_and_the_span_of_the_file_are_looked_at() {
    let (first, last) = (reading(10, Some(1), 70.0), reading(20, Some(2), 70.0));
    let records = [
        stored("a", first),
        stored("a", last),
        stored("a", reading(15, Some(9), 70.0)),
        stored("a", reading(9, Some(0), 70.0)),
        stored("a", reading(21, Some(3), 70.0)),
        stored("b", reading(15, Some(9), 70.0)),
    ];
    let report = compare(&[sent("a", first), sent("a", last)], &records).await;
    assert_eq!(counts(&report), [("found", 2), ("unexpected", 1)]);
    assert_eq!(readings(&report).stored, 3);
    assert!(report.kept);
}

#[tokio::test]
async fn a_document_has_every_finding_under_its_name() {
    let one = reading(0, Some(1), 70.0);
    let report = compare(&[sent("a", one)], &[stored("b", one)]).await;
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((json["schema_version"].as_u64(), json["kept"].as_bool()), (Some(1), Some(false)));
    assert_eq!(json["readings"]["lost"]["examples"][0]["seq"], 1);
    for name in ["lost", "missing", "stored_twice", "sent_twice", "altered", "late", "dead_lettered", "unexpected"] {
        assert!(json["readings"][name]["count"].is_u64(), "{name}");
    }
    assert_eq!(json["chains"]["files"], 1);
}

#[test]
fn statements_only_read() {
    for text in [VERIFY_READINGS, VERIFY_DEAD_LETTERS] {
        Statement::of_person(text).unwrap();
    }
}
