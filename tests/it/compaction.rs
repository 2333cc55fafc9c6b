//! Days close without a reading lost or shown twice, whatever happens meanwhile.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use object_store::memory::InMemory;
use vitals::{
    lake::{
        Day, State, Store,
        clean::clean,
        compact::{Closed, CompactOptions, compact},
        landing,
    },
    reading::Reason,
};

use crate::{
    faults::{Fault, Faulty, copy},
    support::{DAY_MS, HOUR_MS, Outcome, good, land, reading, readings, rows},
};

/// 2026-03-01T00:00:00Z.
const MARCH: i64 = 1_772_323_200_000;

async fn close(store: &Store, now_ms: i64, running_day: bool) -> Vec<Closed> {
    compact(store, CompactOptions { now_ms, running_day }, |_| ()).await.unwrap()
}

/// Two days in two slices, the second of which straddles midnight; one dead letter.
async fn two_days(store: &Store) {
    let at = |hour: i64| MARCH + hour * HOUR_MS;
    let bad = Outcome { device: "b", arrived_ms: at(3), outcome: Err(Reason::NotJson) };
    let next = land(store, "c", 0, &[good("b", at(1), 70.0), good("a", at(2), 71.0), bad]).await;
    let late = Outcome { device: "a", arrived_ms: at(26), outcome: Ok(reading(at(4), at(26), 75.0)) };
    let next = land(store, "c", next, &[good("a", at(22), 72.0), good("a", at(25), 73.0), late]).await;
    land(store, "c", next, &[good("b", at(30), 74.0)]).await;
}

fn expected() -> Vec<(String, i64, String)> {
    let at = |hour: i64| MARCH + hour * HOUR_MS;
    [("a", 2, "71.0"), ("a", 4, "75.0"), ("a", 22, "72.0"), ("a", 25, "73.0"), ("b", 1, "70.0"), ("b", 30, "74.0")]
        .map(|(device, hour, rate)| (device.to_owned(), at(hour), rate.to_owned()))
        .to_vec()
}

#[tokio::test]
async fn a_day_takes_what_arrived_in_it_and_the_view_stays_the_same() {
    let store = Store::memory();
    two_days(&store).await;
    assert_eq!(readings(&store).await, expected());

    let closed = close(&store, MARCH + DAY_MS + HOUR_MS, false).await;
    assert_eq!(closed.len(), 1);
    assert_eq!((closed[0].day, closed[0].readings, closed[0].dead_letters), (Day::of(MARCH), 3, 1));
    assert_eq!(readings(&store).await, expected());
    assert_eq!(rows(&store, "SELECT reason, device_id FROM dead_letters").await, [["not_json", "b"]]);

    // The running day early, then again with what came since.
    let closed = close(&store, MARCH + DAY_MS + 7 * HOUR_MS, true).await;
    assert_eq!((closed[0].day, closed[0].readings), (Day::of(MARCH + DAY_MS), 3));
    assert_eq!(readings(&store).await, expected());
    land(&store, "c", 7, &[good("c", MARCH + DAY_MS + 8 * HOUR_MS, 60.0)]).await;
    assert_eq!(readings(&store).await.len(), 7);
    let closed = close(&store, MARCH + 2 * DAY_MS, false).await;
    assert_eq!((closed[0].day, closed[0].readings), (Day::of(MARCH + DAY_MS), 4));
    assert_eq!(readings(&store).await.len(), 7);
    assert_eq!(close(&store, MARCH + 2 * DAY_MS, true).await, []);
}

#[tokio::test]
async fn what_lands_after_its_day_was_closed_goes_into_the_next_one() {
    let store = Store::memory();
    land(&store, "c", 0, &[good("a", MARCH, 70.0)]).await;
    close(&store, MARCH + DAY_MS, false).await;
    land(&store, "d", 0, &[good("b", MARCH + HOUR_MS, 71.0)]).await;
    let closed = close(&store, MARCH + 2 * DAY_MS, false).await;
    assert_eq!((closed[0].day, closed[0].readings), (Day::of(MARCH + DAY_MS), 1));
    assert_eq!(readings(&store).await.len(), 2);
}

#[tokio::test]
async fn what_was_sent_twice_is_kept_once() {
    let store = Store::memory();
    let at = |hour: i64| MARCH + hour * HOUR_MS;
    let again = |hour: i64, arrived: i64| Outcome {
        device: "a",
        arrived_ms: at(arrived),
        outcome: Ok(reading(at(hour), at(arrived), 70.0)),
    };
    // Twice in one slice, again in the next, and again after midnight; the same time with another value is no repeat.
    let next = land(&store, "c", 0, &[again(1, 1), again(1, 2), good("a", at(1), 71.0)]).await;
    let next = land(&store, "c", next, &[again(1, 3), good("b", at(3), 70.0)]).await;
    land(&store, "c", next, &[again(1, 25), again(2, 25)]).await;
    assert_eq!(readings(&store).await.len(), 7);
    let closed = close(&store, MARCH + 2 * DAY_MS, false).await;
    assert_eq!(closed.iter().map(|day| (day.readings, day.sent_twice)).collect::<Vec<_>>(), [(3, 2), (1, 1)]);
    let left = readings(&store).await;
    assert_eq!(left.len(), 4, "{left:?}");
    // The one that came first stays.
    let first =
        rows(&store, "SELECT arrived_at FROM readings WHERE device_id = 'a' AND heart_rate = 70 ORDER BY ts").await;
    assert_eq!(first, [[at(1).to_string()], [at(25).to_string()]]);
}

#[tokio::test]
async fn a_crash_at_any_write_loses_nothing_and_doubles_nothing() {
    let origin = Arc::new(InMemory::new());
    two_days(&Store::of(origin.clone(), "memory")).await;
    let now_ms = MARCH + DAY_MS + 7 * HOUR_MS;
    let options = CompactOptions { now_ms, running_day: true };
    let mut crashes = 0;
    for write in 0.. {
        let objects = copy(&origin).await;
        let faulty = Faulty::new(objects.clone(), Fault::DiesAt(write));
        let outcome = compact(&Store::of(faulty.clone(), "faulty"), options, |_| ()).await;
        let store = Store::of(objects, "memory");
        assert_eq!(readings(&store).await, expected(), "after a crash at write {write}");
        close(&store, now_ms, true).await;
        assert_eq!(readings(&store).await, expected(), "after the next run, crashed at write {write}");
        assert_eq!(rows(&store, "SELECT count(*) FROM dead_letters").await, [["1"]]);
        if outcome.is_ok() {
            break;
        }
        crashes += 1;
    }
    // Readings and dead letters of the first day and its state, readings of the second and its state.
    assert_eq!(crashes, 5);
}

#[tokio::test]
async fn a_lost_answer_of_the_state_is_recognised() {
    let origin = Arc::new(InMemory::new());
    two_days(&Store::of(origin.clone(), "memory")).await;
    let faulty = Faulty::new(origin.clone(), Fault::LosesAnswerOf(2));
    let options = CompactOptions { now_ms: MARCH + DAY_MS, running_day: false };
    compact(&Store::of(faulty, "faulty"), options, |_| ()).await.unwrap_err();
    let store = Store::of(origin, "memory");
    assert_eq!(State::load(&store).await.unwrap().n, 1);
    assert_eq!(readings(&store).await, expected());
    assert_eq!(close(&store, MARCH + DAY_MS, false).await, []);
}

#[tokio::test]
async fn a_day_that_a_catalogue_shows_is_not_added_to() {
    let store = Store::memory();
    let next = land(&store, "c", 0, &[good("a", MARCH, 70.0)]).await;
    let noon = MARCH + 12 * HOUR_MS;
    assert_eq!(close(&store, noon, true).await.len(), 1);
    store.create(&vitals::lake::layout::cuts_file(1), bytes::Bytes::from_static(b"x")).await.unwrap();
    land(&store, "c", next, &[good("a", noon, 71.0)]).await;
    // Neither again on the same day nor when it is over.
    assert_eq!(close(&store, noon + HOUR_MS, true).await, []);
    assert_eq!(close(&store, MARCH + DAY_MS, false).await, []);
    assert_eq!(close(&store, MARCH + 2 * DAY_MS, false).await.len(), 1);
    let days = rows(&store, "SELECT dt, heart_rate FROM readings ORDER BY ts").await;
    assert_eq!(days, [["2026-03-01", "70.0"], ["2026-03-02", "71.0"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_see_every_reading_once_while_days_close() {
    let store = Store::memory();
    let mut next = 0;
    for hour in 0..72 {
        let at = MARCH + hour * HOUR_MS;
        next = land(&store, "c", next, &[good("a", at, 70.0), good("b", at + 1, 71.0)]).await;
    }
    let done = Arc::new(AtomicBool::new(false));
    let (asked, asking) = (store.clone(), done.clone());
    let questions = tokio::spawn(async move {
        let mut asked_times = 0;
        while !asking.load(Ordering::SeqCst) {
            let counts = rows(&asked, "SELECT count(*), count(DISTINCT ts) FROM readings").await;
            assert_eq!(counts, [["144", "144"]]);
            asked_times += 1;
        }
        asked_times
    });
    for hour in 1..=72 {
        close(&store, MARCH + hour * HOUR_MS, true).await;
    }
    done.store(true, Ordering::SeqCst);
    assert!(questions.await.unwrap() > 0);
    assert_eq!(State::load(&store).await.unwrap().upto, Some(Day::of(MARCH + 2 * DAY_MS)));
}

#[tokio::test]
async fn two_at_once_close_a_day_once() {
    let store = Store::memory();
    two_days(&store).await;
    let options = CompactOptions { now_ms: MARCH + 2 * DAY_MS, running_day: false };
    let (a, b) = tokio::join!(compact(&store, options, |_| ()), compact(&store, options, |_| ()));
    let days = a.unwrap().len() + b.unwrap().len();
    assert_eq!(days, 2);
    assert_eq!(readings(&store).await, expected());
}

#[tokio::test]
async fn cleaning_takes_only_what_nothing_needs() {
    let store = Store::memory();
    two_days(&store).await;
    let now = vitals::lake::now_ms();
    close(&store, MARCH + 2 * DAY_MS, false).await;
    let stray = "readings/dt=2026-03-01/20260101T000000Z-abcdef/part-00000.parquet";
    store.create(&stray.into(), bytes::Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(clean(&store, now, None).await.unwrap(), 1, "only the stray run is old enough");
    let landed = landing::list(&store, &"landing".into()).await.unwrap().len();
    assert_eq!(landed, 3);

    let cuts = vitals::lake::layout::cuts_file(1);
    store.create(&cuts, bytes::Bytes::from_static(b"x")).await.unwrap();
    let removed = clean(&store, now + 3 * DAY_MS, None).await.unwrap();
    assert_eq!(removed, 0, "there is a catalogue, and nobody says what it shows");
    store.delete(vec![cuts]).await.unwrap();

    let removed = clean(&store, now + 3 * DAY_MS, None).await.unwrap();
    // Two landing files and the first of two states; the head of the chain stays.
    assert_eq!(removed, 3);
    let kept = "models/m-1/jobs/vitals-a/";
    let keys = ["plan.json", "00000/dt=2026-03-01.parquet"].map(|name| format!("{kept}{name}"));
    for key in keys.iter().map(String::as_str).chain(["models/m-1/model.bin"]) {
        store.create(&key.into(), bytes::Bytes::from_static(b"x")).await.unwrap();
    }
    let now = vitals::lake::now_ms();
    assert_eq!(clean(&store, now + DAY_MS, None).await.unwrap(), 0, "the job may still be going on");
    assert_eq!(clean(&store, now + 3 * DAY_MS, None).await.unwrap(), 2, "nobody goes on with the job");
    // Nor is a job of the model that is to take over touched.
    store.create(&keys[0].as_str().into(), bytes::Bytes::from_static(b"x")).await.unwrap();
    let state = State { candidate: Some("m-1".to_owned()), ..State::load(&store).await.unwrap() };
    state.commit(&store).await.unwrap();
    clean(&store, now + 3 * DAY_MS, None).await.unwrap();
    assert!(store.get(&keys[0].as_str().into()).await.is_ok(), "its model is to take over");
    store.delete(vec![keys[0].as_str().into()]).await.unwrap();
    let left = store.list(&"models".into()).await.unwrap();
    assert_eq!(left.iter().map(|file| file.key.as_ref()).collect::<Vec<_>>(), ["models/m-1/model.bin"]);
    let left = landing::list(&store, &"landing".into()).await.unwrap();
    assert_eq!(left.iter().map(|file| file.first).collect::<Vec<_>>(), [6]);
    assert_eq!(readings(&store).await, expected());
    assert_eq!(State::load(&store).await.unwrap().n, 3);
}

#[tokio::test]
async fn more_files_than_are_merged_at_once_give_the_same_day() {
    let store = Store::memory();
    let mut next = 0;
    for minute in 0..200 {
        let at = MARCH + (200 - minute) * 60_000;
        // Each slice overlaps the others in time, and half of them repeat the one before.
        let outcome = |device| Outcome {
            device,
            arrived_ms: MARCH + minute,
            outcome: Ok(reading(at - at % 120_000, MARCH + minute, 70.0)),
        };
        next = land(&store, "c", next, &[outcome("b"), outcome("a")]).await;
    }
    let closed = close(&store, MARCH + DAY_MS, false).await;
    let different = (0..200).map(|minute| (200 - minute) / 2).collect::<std::collections::BTreeSet<_>>().len() as u64;
    assert_eq!((closed[0].readings, closed[0].sent_twice), (2 * different, 400 - 2 * different));
    let rows = readings(&store).await;
    assert!(rows.is_sorted());
    assert_eq!(rows.len() as u64, 2 * different);
}

#[tokio::test]
async fn the_running_day_is_closed_once_where_a_clock_is_ahead() {
    let store = Store::memory();
    // One file, of which the broker says that half of it arrives tomorrow.
    land(&store, "c", 0, &[good("a", MARCH, 70.0), good("a", MARCH + DAY_MS, 71.0)]).await;
    let closed = close(&store, MARCH + DAY_MS - 1, true).await;
    assert_eq!(closed.iter().map(|day| day.readings).collect::<Vec<_>>(), [1]);
    assert_eq!(close(&store, MARCH + DAY_MS - 1, true).await, []);
    assert_eq!(readings(&store).await.len(), 2);
    assert_eq!(close(&store, MARCH + 2 * DAY_MS, false).await.len(), 2);
    assert_eq!(readings(&store).await.len(), 2);
}
