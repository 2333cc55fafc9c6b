//! History from files goes into the days when it happened, once, whatever happens meanwhile.

use std::{collections::BTreeMap, io::Write, sync::Arc};

use object_store::memory::InMemory;
use tempfile::NamedTempFile;
use vitals::{
    lake::{
        Day, State, Store,
        compact::{CompactOptions, compact},
        import::{ImportSummary, import},
        landing,
    },
    reading::{Reason, time::format_rfc3339_ms},
};

use crate::{
    faults::{Fault, Faulty, copy},
    support::{DAY_MS, HOUR_MS, good, land, readings, rows},
};

/// 2026-03-01T00:00:00Z.
const MARCH: i64 = 1_772_323_200_000;

/// When files are imported: noon of the third day of March.
const NOW: i64 = MARCH + 2 * DAY_MS + 12 * HOUR_MS;

fn at(hour: i64) -> i64 {
    MARCH + hour * HOUR_MS
}

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// A file of heart rates: device, hour of March, value.
fn csv(rows: &[(&str, i64, f64)]) -> NamedTempFile {
    let line = |(device, hour, rate): &(&str, i64, f64)| format!("{device},{},{rate}\n", format_rfc3339_ms(at(*hour)));
    file(&format!("device_id,timestamp,heart_rate\n{}", rows.iter().map(line).collect::<String>()))
}

/// What the view must show of such rows.
fn seen(rows: &[(&str, i64, f64)]) -> Vec<(String, i64, String)> {
    let mut seen: Vec<_> =
        rows.iter().map(|(device, hour, rate)| ((*device).to_owned(), at(*hour), format!("{rate:?}"))).collect();
    seen.sort();
    seen
}

async fn take(store: &Store, file: &NamedTempFile) -> ImportSummary {
    import(store, file.path(), NOW, |_| ()).await.unwrap()
}

async fn close(store: &Store, now_ms: i64) {
    compact(store, CompactOptions { now_ms, running_day: false }, |_| ()).await.unwrap();
}

/// How many readings each closed day has.
async fn days(store: &Store) -> Vec<(String, u64)> {
    let days = State::load(store).await.unwrap().days.into_iter();
    days.filter_map(|(day, runs)| Some((day.to_string(), runs.readings?.rows))).collect()
}

/// Every key of the lake.
async fn keys(store: &Store) -> Vec<String> {
    let mut keys = Vec::new();
    for root in ["landing", "readings", "dead_letters", "outliers", "state"] {
        keys.extend(store.list(&root.into()).await.unwrap().into_iter().map(|entry| entry.key.to_string()));
    }
    keys
}

/// Two past days and the running one, of two devices, in no order; the last is ahead of the clock, but not by a day.
const ROWS: [(&str, i64, f64); 7] = [
    ("b", 30, 71.0),
    ("a", 50, 75.0),
    ("a", 2, 70.0),
    ("b", 1, 72.5),
    ("a", 26, 73.0),
    ("b", 59, 74.0),
    ("a", 70, 76.0),
];

#[tokio::test]
async fn past_days_go_into_their_days_and_the_running_one_through_landing() {
    let store = Store::memory();
    let summary = take(&store, &csv(&ROWS)).await;
    let expected = ImportSummary {
        known: false,
        rows: 7,
        readings: 7,
        known_readings: 0,
        dead: BTreeMap::new(),
        days: [Day::of(at(0)), Day::of(at(24)), Day::of(at(48))].into(),
        span_ms: Some((at(1), at(70))),
        ignored_columns: Vec::new(),
    };
    assert_eq!(summary, expected);
    assert_eq!(readings(&store).await, seen(&ROWS));
    assert_eq!(days(&store).await, [("2026-03-01".to_owned(), 2), ("2026-03-02".to_owned(), 2)]);
    assert_eq!(State::load(&store).await.unwrap().upto, Some(Day::of(at(24))));
    let landed = landing::list(&store, &"landing".into()).await.unwrap();
    let footer = landing::footer(&store, &landed[0].key).await.unwrap();
    assert_eq!((landed.len(), footer.readings, footer.dead, footer.next), (1, 3, 0, 7));
    // What happened earlier arrived then; what is ahead of the clock arrives now.
    let arrived = rows(&store, "SELECT ts, arrived_at FROM readings WHERE ts <> arrived_at").await;
    assert_eq!(arrived, [[at(70).to_string(), NOW.to_string()]]);

    // The running day closes like any other.
    close(&store, NOW + DAY_MS).await;
    assert_eq!(days(&store).await[2..], [("2026-03-03".to_owned(), 3)]);
    assert_eq!(readings(&store).await, seen(&ROWS));
}

#[tokio::test]
async fn the_same_file_again_adds_nothing() {
    let store = Store::memory();
    let first = csv(&ROWS);
    take(&store, &first).await;
    let there = keys(&store).await;
    // By its content, whatever its name, and whenever.
    for (file, now_ms) in [(&first, NOW), (&csv(&ROWS), NOW), (&first, NOW + 40 * DAY_MS)] {
        let summary = import(&store, file.path(), now_ms, |_| ()).await.unwrap();
        assert_eq!(summary, ImportSummary { known: true, ..ImportSummary::default() });
        assert_eq!(keys(&store).await, there);
    }
    close(&store, NOW + DAY_MS).await;
    assert!(take(&store, &first).await.known);
    assert_eq!(readings(&store).await, seen(&ROWS));
}

/// [`ROWS`] and three that are no readings.
fn with_bad_rows() -> NamedTempFile {
    let good = std::fs::read_to_string(csv(&ROWS).path()).unwrap();
    file(&format!("{good}a,yesterday,70\nb b,{},70\na,{},high\n", at(3), at(30)))
}

async fn holds_once(store: &Store, when: &str) {
    assert_eq!(readings(store).await, seen(&ROWS), "{when}");
    let dead = rows(store, "SELECT reason, count(*) FROM dead_letters GROUP BY reason ORDER BY reason").await;
    assert_eq!(dead, [["bad_device_id", "1"], ["bad_timestamp", "1"], ["wrong_type", "1"]], "{when}");
}

#[tokio::test]
async fn a_crash_at_any_write_and_a_repeat_give_everything_once() {
    let file = with_bad_rows();
    let origin = Arc::new(InMemory::new());
    // A day that is closed already, one of whose readings comes again.
    land(&Store::of(origin.clone(), "memory"), "c", 0, &[good("b", at(1), 72.5)]).await;
    close(&Store::of(origin.clone(), "memory"), at(24)).await;
    // At once, or after midnight, when the day of the import has closed.
    for later in [0, DAY_MS] {
        let mut crashes = 0;
        for write in 0.. {
            let objects = copy(&origin).await;
            let faulty = Store::of(Faulty::new(objects.clone(), Fault::DiesAt(write)), "faulty");
            let outcome = import(&faulty, file.path(), NOW, |_| ()).await;
            let store = Store::of(objects, "memory");
            let when = format!("a crash at write {write}, and a repeat {later} ms later");
            let (there, all) = (readings(&store).await, seen(&ROWS));
            assert!(there.windows(2).all(|pair| pair[0] != pair[1]), "twice after {when}: {there:?}");
            assert!(there.iter().all(|row| all.contains(row)), "{there:?} after {when}");

            close(&store, NOW + later).await;
            let again = import(&store, file.path(), NOW + later, |_| ()).await.unwrap();
            assert_eq!(again.known, outcome.is_ok(), "{when}");
            holds_once(&store, &when).await;
            close(&store, NOW + later + DAY_MS).await;
            holds_once(&store, &format!("{when}, and the next closing")).await;
            if outcome.is_ok() {
                break;
            }
            crashes += 1;
        }
        // Landing, two days, the state.
        assert_eq!(crashes, 4);
    }
}

#[tokio::test]
async fn a_lost_answer_at_any_write_and_a_repeat_give_everything_once() {
    let file = with_bad_rows();
    for write in 0..4 {
        let objects = Arc::new(InMemory::new());
        let faulty = Faulty::new(objects.clone(), Fault::LosesAnswerOf(write));
        let _ = import(&Store::of(faulty.clone(), "faulty"), file.path(), NOW, |_| ()).await;
        assert!(faulty.writes() > write, "nothing went wrong, so this shows nothing");
        let store = Store::of(objects, "memory");
        take(&store, &file).await;
        holds_once(&store, &format!("a lost answer of write {write}")).await;
    }
}

#[tokio::test]
async fn what_is_no_reading_is_a_dead_letter_with_its_reason() {
    let store = Store::memory();
    let text = "device_id,timestamp,heart_rate,blood_pressure,ward\n\
                a,2026-03-01T01:00:00Z,70,118/76,W1\n\
                ,2026-03-01T01:00:00Z,70,,W1\n\
                a b,2026-03-01T01:00:00Z,70,,W1\n\
                a,,70,,W1\n\
                a,soon,70,,W1\n\
                a,2026-03-04T12:00:00.001Z,70,,W1\n\
                a,2026-03-01T02:00:00Z,seventy,,W1\n\
                a,2026-03-01T02:00:00Z,70,118,W1\n\
                a,2026-03-01T02:00:00Z,inf,,W1\n\
                a,2026-03-01T02:00:00Z\n\
                a,2026-03-01T03:00:00Z,900,,W1\n\
                a,2026-03-04T12:00:00Z,,,W1\n";
    let summary = take(&store, &file(text)).await;
    let dead = [
        (Reason::NoDevice, 1),
        (Reason::BadDeviceId, 1),
        (Reason::NoTimestamp, 1),
        (Reason::BadTimestamp, 1),
        (Reason::ClockAhead, 1),
        (Reason::WrongType, 3),
        (Reason::BadRow, 1),
    ];
    assert_eq!(summary.dead, BTreeMap::from(dead));
    assert_eq!((summary.rows, summary.readings), (12, 3));
    assert_eq!(summary.ignored_columns, ["ward"]);
    let stored =
        rows(&store, "SELECT reason, payload, \"offset\", arrived_at FROM dead_letters ORDER BY \"offset\"").await;
    let reasons: Vec<&str> = stored.iter().map(|row| row[0].as_str()).collect();
    let expected =
        "no_device bad_device_id no_timestamp bad_timestamp clock_ahead wrong_type wrong_type wrong_type bad_row";
    assert_eq!(reasons.join(" "), expected);
    // The row as it is in the file, its number, and when it came.
    assert_eq!(stored[1][1..], ["a b,2026-03-01T01:00:00Z,70,,W1".to_owned(), "2".to_owned(), NOW.to_string()]);
    // Implausible is not unreadable, and so is a reading without vitals.
    let rates = rows(&store, "SELECT heart_rate FROM readings ORDER BY ts").await;
    assert_eq!(rates, [["70.0"], ["900.0"], ["null"]]);
}

#[tokio::test]
async fn a_file_of_dead_letters_alone_is_remembered() {
    let store = Store::memory();
    let file = file("device_id,timestamp,heart_rate\na,soon,70\n");
    let summary = take(&store, &file).await;
    assert_eq!((summary.readings, summary.days.len(), summary.span_ms), (0, 0, None));
    assert!(take(&store, &file).await.known);
    assert_eq!(rows(&store, "SELECT count(*) FROM dead_letters").await, [["1"]]);
}

#[tokio::test]
async fn what_a_closed_day_has_already_is_left_out() {
    let store = Store::memory();
    land(&store, "c", 0, &[good("a", at(2), 70.0), good("b", at(1), 60.0)]).await;
    close(&store, at(24)).await;
    let summary = take(&store, &csv(&ROWS)).await;
    assert_eq!((summary.readings, summary.known_readings), (7, 1));
    let mut expected = seen(&ROWS);
    // Another value at the same time is another reading.
    expected.push(("b".to_owned(), at(1), "60.0".to_owned()));
    expected.sort();
    assert_eq!(readings(&store).await, expected);

    // Most of the first file, in another one.
    let summary = take(&store, &csv(&[&ROWS[2..5], &[("c", 3, 66.0)]].concat())).await;
    assert_eq!((summary.readings, summary.known_readings), (4, 3));
    expected.push(("c".to_owned(), at(3), "66.0".to_owned()));
    assert_eq!(readings(&store).await, expected);
}

#[tokio::test]
async fn history_before_and_after_what_is_there_loses_nothing() {
    let store = Store::memory();
    // Yesterday's packets, not yet compacted, and today's.
    land(&store, "c", 0, &[good("a", at(25), 61.0), good("a", at(49), 62.0)]).await;
    let old = csv(&[("a", -24 * 400, 63.0), ("a", 25, 64.0)]);
    assert_eq!(take(&store, &old).await.days.len(), 2);
    let mut expected = seen(&[("a", -24 * 400, 63.0), ("a", 25, 64.0), ("a", 25, 61.0), ("a", 49, 62.0)]);
    assert_eq!(readings(&store).await, expected);
    // An import never closes the running day.
    assert_eq!(State::load(&store).await.unwrap().upto, Some(Day::of(at(24))));
    land(&store, "c", 2, &[good("a", at(51), 65.0)]).await;
    expected = [expected, seen(&[("a", 51, 65.0)])].concat();
    expected.sort();
    close(&store, NOW + DAY_MS).await;
    assert_eq!(readings(&store).await, expected);
    assert_eq!(rows(&store, "SELECT count(*) FROM readings WHERE dt IS NULL").await, [["0"]]);
}

#[tokio::test]
async fn many_rows_of_many_days_are_all_there() {
    let store = Store::memory();
    let (minutes, devices) = (10 * 1440, 4);
    let mut lines = String::from("device_id,timestamp,heart_rate,seq\n");
    // Every minute once, far from in order: 7919 and the number of minutes have no common factor.
    for n in 0..minutes {
        let minute = n * 7919 % minutes;
        lines.push_str(&format!(
            "device_{},{},{},{minute}\n",
            minute % devices,
            MARCH - minute * 60_000,
            60 + minute % 40
        ));
    }
    let mut told = Vec::new();
    let file = file(&lines);
    let summary = import(&store, file.path(), NOW, |bytes| told.push(bytes)).await.unwrap();
    assert_eq!((summary.readings, summary.days.len()), (minutes as u64, 11));
    assert_eq!(summary.span_ms, Some((MARCH - (minutes - 1) * 60_000, MARCH)));
    assert!(told.is_sorted() && told.last().is_some_and(|last| *last <= lines.len() as u64), "{told:?}");
    let counts = rows(&store, "SELECT count(*), count(DISTINCT seq), count(DISTINCT dt) FROM readings").await;
    assert_eq!(counts, [[minutes.to_string(), minutes.to_string(), "11".to_owned()]]);
    let days = days(&store).await;
    assert_eq!(days.last(), Some(&("2026-03-01".to_owned(), 1)));
    assert_eq!(days[1..10].iter().map(|day| day.1).collect::<Vec<_>>(), [1440; 9]);
    let wrong = "SELECT count(*) FROM readings WHERE dt <> CAST(ts AS DATE) OR heart_rate <> 60 + seq % 40 \
                 OR device_id <> 'device_' || CAST(seq % 4 AS VARCHAR)";
    assert_eq!(rows(&store, wrong).await, [["0"]]);
}

#[tokio::test]
async fn imports_at_the_same_time_store_everything_once() {
    let others: [(&str, i64, f64); 3] = [("c", 2, 66.0), ("c", 27, 67.0), ("c", 52, 68.0)];
    for _ in 0..10 {
        let store = Store::memory();
        let (a, b) = (csv(&ROWS), csv(&others));
        let start = |file: &NamedTempFile| {
            let (store, path) = (store.clone(), file.path().to_owned());
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(import(&store, &path, NOW, |_| ()))
            })
        };
        let [one, two, same] = [&a, &b, &a].map(start).map(|thread| thread.join().unwrap());
        two.unwrap();
        // Of two imports of one file, one may find that the other is at it.
        let ends = [one, same];
        assert!(ends.iter().any(Result::is_ok), "{ends:?}");
        for error in ends.into_iter().filter_map(Result::err) {
            assert!(error.to_string().contains("another import of the same file"), "{error:#}");
        }
        assert_eq!(readings(&store).await, seen(&[&ROWS[..], &others].concat()));
        assert!(take(&store, &a).await.known && take(&store, &b).await.known);
    }
}

#[tokio::test]
async fn a_file_that_ends_early_stores_nothing_until_it_is_whole() {
    let store = Store::memory();
    let line = |n: i64| format!("device_{},{},{}\n", n % 7, at(0) - n * 1_000, 60 + n % 50);
    let lines: String = (0..50_000).map(line).collect();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    write!(packed, "device_id,timestamp,heart_rate\n{lines}").unwrap();
    let packed = packed.finish().unwrap();
    for damaged in [&packed[..packed.len() * 3 / 4], b"PAR1 and then nothing"] {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(damaged).unwrap();
        let error = format!("{:#}", import(&store, file.path(), NOW, |_| ()).await.unwrap_err());
        assert!(error.contains(&file.path().display().to_string()), "{error}");
        assert_eq!(keys(&store).await, Vec::<String>::new());
    }
    let mut whole = NamedTempFile::new().unwrap();
    whole.write_all(&packed).unwrap();
    assert_eq!(take(&store, &whole).await.readings, 50_000);
    assert_eq!(rows(&store, "SELECT count(*) FROM readings").await, [["50000"]]);
}
