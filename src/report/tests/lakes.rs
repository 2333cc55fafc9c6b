use super::super::{collect as collecting, device, *};
use crate::{
    ingest::slice::Slice,
    lake::{
        Store,
        compact::{CompactOptions, compact},
        landing::{self, FORMAT, Footer, Kind, Put},
    },
    model::Model,
    query::Statement,
    reading::{NO_VITALS, Reading, Reason, Vital},
    report::data::Status,
    score::{ScoreOptions, score_lake},
};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
/// 2026-01-05T00:00:00Z
const MONDAY: i64 = 1_767_571_200_000;
const CHAIN: &str = "spool-test";

type Row = (&'static str, i64, Result<Reading, Reason>);

fn reading(ts_ms: i64, seq: Option<i64>, heart_rate: f64, temperature: f64) -> Result<Reading, Reason> {
    let mut vitals = NO_VITALS;
    vitals[Vital::HeartRate.index()] = heart_rate;
    vitals[Vital::Temperature.index()] = temperature;
    Ok(Reading { ts_ms, arrived_ms: ts_ms, seq, vitals })
}

/// A body at rest, each five minutes.
fn calm(device: &'static str, from: i64, until: i64) -> Vec<Row> {
    let at = |i: i64| (from + i * 5 * MINUTE, 68.0 + ((i * 7) % 5) as f64, 36.6 + ((i * 3) % 3) as f64 / 10.0);
    (0..(until - from) / (5 * MINUTE))
        .map(at)
        .map(|(ts, rate, temperature)| (device, ts, reading(ts, Some((ts - MONDAY) / (5 * MINUTE)), rate, temperature)))
        .collect()
}

/// Writes the slice of the partition that begins at `first`, and gives its end.
async fn land(store: &Store, first: i64, rows: &[Row]) -> i64 {
    let mut slice = Slice::new(CHAIN, 0);
    for (offset, (device, arrived_ms, outcome)) in (first..).zip(rows) {
        slice.push_outcome(offset, 0, *arrived_ms, Some(device), *outcome, b"{}");
    }
    let next = first + rows.len() as i64;
    let footer = Footer {
        last_offset: Some(next - 1),
        last_arrived_ms: rows.last().map(|row| row.1),
        readings: slice.readings(),
        dead: slice.dead(),
        ..Footer::empty(Kind::Slice, CHAIN, 0, first, next, "test")
    };
    assert_eq!(footer.format, FORMAT);
    let file = slice.encode(&footer).unwrap();
    assert_eq!(landing::put(store, CHAIN, 0, first, file).await.unwrap(), Put::Done);
    next
}

fn options(now_ms: i64) -> ReportOptions {
    ReportOptions { now_ms, lake_name: "test".to_owned(), ..ReportOptions::default() }
}

/// Two days of two devices, one of which has a fast heart and a fever on the second; the first day is closed, both are
/// scored; then three readings and a dead letter that nobody has scored, and a gap.
async fn ward(store: &Store) {
    let day = 24 * HOUR;
    let mut next =
        land(store, 0, &[calm("well", MONDAY, MONDAY + day), calm("ill", MONDAY, MONDAY + day)].concat()).await;
    compact(store, CompactOptions { now_ms: MONDAY + day + HOUR, running_day: false }, |_| ()).await.unwrap();
    let tuesday = MONDAY + day;
    let mut rows = [calm("well", tuesday, tuesday + 4 * HOUR), calm("ill", tuesday, tuesday + 8 * HOUR)].concat();
    let fever = (0..36).map(|i| tuesday + 8 * HOUR + i * 5 * MINUTE);
    rows.extend(fever.map(|ts| ("ill", ts, reading(ts, Some((ts - MONDAY) / (5 * MINUTE)), 148.0, 40.1))));
    next = land(store, next, &rows).await;
    score_lake(store, &Model::builtin(), ScoreOptions::default(), |_| ()).await.unwrap();
    let gap = Slice::new(CHAIN, 0).encode(&Footer::empty(Kind::Gap, CHAIN, 0, next, next + 25, "test")).unwrap();
    assert_eq!(landing::put(store, CHAIN, 0, next, gap).await.unwrap(), Put::Done);
    let last = tuesday + 11 * HOUR;
    let late = [
        ("ill", last, reading(last, Some(500), 90.0, 37.0)),
        ("ill", last + MINUTE, reading(last + MINUTE, Some(501), 90.0, 37.0)),
        ("ill", last + 2 * MINUTE, reading(last + 2 * MINUTE, Some(504), 90.0, 37.0)),
        ("ill", last + 3 * MINUTE, Err(Reason::NoTimestamp)),
    ];
    land(store, next + 25, &late).await;
}

const LAST: i64 = MONDAY + 35 * HOUR + 2 * MINUTE;

#[tokio::test]
async fn an_empty_lake_has_no_data_and_is_not_green() {
    let store = Store::memory();
    let data = collect(&store, &options(MONDAY)).await.unwrap();
    assert_eq!(data.freshness.status, Status::NoData);
    assert_eq!(data.freshness, data::Freshness::default());
    assert_eq!(data.window, data::Window { since_ms: MONDAY + 1 - 24 * HOUR, until_ms: MONDAY + 1 });
    assert!(data.devices.is_empty() && data.days.is_empty() && data.causes.is_empty() && data.series.is_empty());
    assert_eq!(data.model.id, "builtin");
    assert_eq!(device_series(&store, &options(MONDAY), "nobody").await.unwrap(), None);
    Page::file(&data).unwrap();
}

#[tokio::test]
async fn a_report_says_what_the_lake_holds() {
    let store = Store::memory();
    ward(&store).await;
    let data = collect(&store, &options(LAST + MINUTE)).await.unwrap();
    assert_eq!(data.window, data::Window { since_ms: LAST + 1 - 24 * HOUR, until_ms: LAST + 1 });
    let fresh = &data.freshness;
    assert_eq!(fresh.status, Status::Fresh);
    assert_eq!((fresh.last_ts_ms, fresh.last_arrived_ms), (Some(LAST), Some(LAST)));
    // The ill one: five-minute readings up to hour 11, three late ones; the other is silent since hour 4.
    assert_eq!((fresh.devices, fresh.silent_devices), (2, 1));
    let in_window = |device: &str, until| {
        calm("x", MONDAY, until).iter().filter(|row| row.1 > LAST - 24 * HOUR).count() as u64
            + if device == "ill" { 3 } else { 0 }
    };
    assert_eq!(fresh.readings, in_window("well", MONDAY + 28 * HOUR) + in_window("ill", MONDAY + 35 * HOUR));
    assert_eq!(fresh.unscored_readings, 3);
    assert_eq!(fresh.gap_records, 25);
    // From 419 to 500 lack 80, from 501 to 504 two.
    assert_eq!(fresh.seq_missing, 82);
    assert_eq!(fresh.dead_letters, [data::DeadLetters { reason: "no_timestamp".to_owned(), count: 1 }]);

    let worst = &data.devices[0];
    assert_eq!((worst.device_id.as_str(), data.devices.len(), data.devices_more), ("ill", 2, 0));
    assert!(worst.episodes >= 1 && worst.peak_score.is_some() && worst.why.is_some(), "{worst:?}");
    assert_eq!(worst.last_seen_ms, LAST);
    let episodes: u64 = data.devices.iter().map(|device| device.episodes + device.artifacts).sum();
    assert_eq!(data.causes.iter().map(|one| one.episodes).sum::<u64>(), episodes);
    assert_eq!(data.days.iter().flat_map(|day| day.causes.values()).sum::<u64>(), episodes);
    assert_eq!(data.days.last().unwrap().day, "2026-01-06");

    let series = &data.series["ill"];
    assert_eq!(data.series.len(), 2);
    assert_eq!(series.episodes.len() as u64, worst.episodes + worst.artifacts);
    assert!(!series.outliers.is_empty() && series.outliers.iter().all(|outlier| series.ts.contains(&outlier.ts)));
    assert!(!series.thinned && series.ts.is_sorted() && series.ts.len() as u64 == worst.readings);
    let band = series.bands["heart_rate"];
    assert!(band.low < 70.0 && 70.0 < band.high && band.high < 140.0, "{band:?}");
    assert_eq!(Some(series.clone()), device_series(&store, &options(LAST + MINUTE), "ill").await.unwrap());
    assert_eq!((data.model.id.as_str(), data.model.scored_days), ("builtin", 1));
    assert!(data.model.threshold.is_some() && data.warnings.is_empty());
}

#[tokio::test]
async fn a_last_arrival_long_ago_is_stale_and_a_time_without_readings_is_no_data() {
    let store = Store::memory();
    ward(&store).await;
    let options = options(LAST + HOUR);
    assert_eq!(collect(&store, &options).await.unwrap().freshness.status, Status::Stale);
    let hour = ReportOptions { fresh_ms: HOUR, ..options.clone() };
    assert_eq!(collect(&store, &hour).await.unwrap().freshness.status, Status::Fresh);
    let before = ReportOptions { since_ms: Some(0), until_ms: Some(MONDAY), ..hour };
    let data = collect(&store, &before).await.unwrap();
    assert_eq!((data.freshness.status, data.freshness.readings), (Status::NoData, 0));
}

#[tokio::test]
async fn a_report_of_one_device_has_no_other() {
    let store = Store::memory();
    ward(&store).await;
    let one = ReportOptions { device: Some("well".to_owned()), series_devices: 0, ..options(LAST) };
    let data = collect(&store, &one).await.unwrap();
    assert_eq!(data.devices.iter().map(|device| device.device_id.as_str()).collect::<Vec<_>>(), ["well"]);
    assert_eq!((data.freshness.devices, data.freshness.seq_missing), (1, 0));
    // Its own newest reading ends the window.
    assert_eq!(data.window.until_ms, MONDAY + 28 * HOUR - 5 * MINUTE + 1);
    assert!(data.series.is_empty());
}

#[tokio::test]
async fn readings_of_the_future_do_not_move_the_window() {
    let store = Store::memory();
    let ahead = ("fast_clock", MONDAY, reading(MONDAY + 20 * HOUR, None, 70.0, 36.6));
    land(&store, 0, &[calm("well", MONDAY - HOUR, MONDAY), vec![ahead]].concat()).await;
    let data = collect(&store, &options(MONDAY + MINUTE)).await.unwrap();
    assert_eq!(data.window.until_ms, MONDAY + MINUTE + 1);
    assert_eq!((data.freshness.devices, data.freshness.readings), (1, 12));
    assert_eq!(data.freshness.last_ts_ms, Some(MONDAY + 20 * HOUR));
}

#[tokio::test]
async fn counts_that_start_again_have_lost_nothing() {
    let store = Store::memory();
    let counts = [5, 6, 0, 1, 1, 4, 2_000_000];
    let row = |(i, &seq): (usize, &i64)| {
        let ts = MONDAY + i as i64 * MINUTE;
        ("one", ts, reading(ts, Some(seq), 70.0 + i as f64, 36.6))
    };
    let rows: Vec<Row> = counts.iter().enumerate().map(row).collect();
    land(&store, 0, &rows).await;
    assert_eq!(collect(&store, &options(MONDAY + HOUR)).await.unwrap().freshness.seq_missing, 2);
}

#[tokio::test]
async fn a_damaged_file_is_named_and_costs_only_its_rows() {
    let store = Store::memory();
    let next = land(&store, 0, &calm("well", MONDAY, MONDAY + HOUR)).await;
    let key = crate::lake::layout::landing_file(CHAIN, 0, next);
    store.create(&key, bytes::Bytes::from_static(b"PAR1 and then nothing")).await.unwrap();
    let data = collect(&store, &options(MONDAY + HOUR)).await.unwrap();
    assert_eq!(data.freshness.readings, 12);
    assert!(data.warnings.iter().any(|warning| warning.contains(key.as_ref())), "{:?}", data.warnings);
}

#[test]
fn every_statement_only_reads() {
    for text in collecting::STATEMENTS.iter().chain(&device::STATEMENTS) {
        Statement::of_person(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    }
}
