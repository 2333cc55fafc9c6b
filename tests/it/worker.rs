//! The worker over a log of its own: every record once, whatever the store and other workers do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use object_store::memory::InMemory;
use vitals::{
    ingest::worker::{Ingested, OnBad, Worker, WorkerOptions},
    lake::{Store, landing},
    log::{Bounds, LogEvent, LogId, Lookup, Record, Records, Source},
};

use crate::{
    faults::{Fault, Faulty},
    support::{readings, rows},
};

/// 2026-03-01T00:00:00Z.
const MARCH: i64 = 1_772_323_200_000;

/// How long a log rests that does.
const REST: Duration = Duration::from_millis(400);

/// A log of one partition that holds `[start, end)` and then ends. Record `n` is a reading of heart rate `n`.
struct Fixed {
    start: i64,
    end: i64,
    at: i64,
    assigned: bool,
    /// It was said where to begin.
    begun: bool,
    paused: bool,
    /// Before this record it rests for a while, once.
    rests_at: Option<i64>,
    /// Milliseconds between records: another log has other times.
    step_ms: i64,
    /// By which it is known.
    id: Arc<AtomicU64>,
    /// From this record on it is another one.
    anew_at: Option<i64>,
}

impl Fixed {
    fn new(start: i64, end: i64) -> Fixed {
        Fixed {
            start,
            end,
            at: start,
            assigned: false,
            begun: false,
            paused: false,
            rests_at: None,
            step_ms: 1000,
            id: Arc::new(AtomicU64::new(1)),
            anew_at: None,
        }
    }

    fn arrived_ms(&self, offset: i64) -> i64 {
        MARCH + offset * self.step_ms
    }
}

/// What a [`Fixed`] log holds.
struct Held {
    start: i64,
    end: i64,
    step_ms: i64,
    id: Arc<AtomicU64>,
}

#[async_trait]
impl Lookup for Held {
    async fn id(&self) -> anyhow::Result<Option<LogId>> {
        Ok(Some(LogId(u128::from(self.id.load(SeqCst)))))
    }

    async fn bounds(&self, _: i32) -> anyhow::Result<Bounds> {
        Ok(Bounds { start: self.start, end: self.end })
    }

    async fn stamped_at(&self, _: i32, offset: i64) -> anyhow::Result<Option<i64>> {
        Ok((self.start..self.end).contains(&offset).then(|| MARCH + offset * self.step_ms))
    }
}

#[async_trait]
impl Source for Fixed {
    fn chain(&self) -> &str {
        "fixed"
    }

    fn lookup(&self) -> Arc<dyn Lookup> {
        Arc::new(Held { start: self.start, end: self.end, step_ms: self.step_ms, id: Arc::clone(&self.id) })
    }

    async fn next(&mut self, _: Duration) -> anyhow::Result<LogEvent> {
        if !self.assigned {
            self.assigned = true;
            return Ok(LogEvent::Assigned(vec![0]));
        }
        if self.paused || !self.begun {
            tokio::time::sleep(Duration::from_millis(1)).await;
            return Ok(LogEvent::Idle);
        }
        if self.at >= self.end {
            return Ok(LogEvent::End);
        }
        if self.rests_at.is_some_and(|offset| self.at == offset) {
            tokio::time::sleep(REST).await;
            self.rests_at = None;
            return Ok(LogEvent::Idle);
        }
        let offset = self.at;
        if self.anew_at == Some(offset) {
            self.id.fetch_add(1, SeqCst);
        }
        self.at += 1;
        let arrived_ms = self.arrived_ms(offset);
        let payload = match offset % 10 {
            9 => "not json".to_owned(),
            _ => format!(r#"{{"timestamp":{arrived_ms},"heart_rate":{offset}}}"#),
        };
        let (device, stamped_ms) = (format!("device_{}", offset % 3), arrived_ms);
        let (device, payload) = (Some(device.as_str()), payload.as_bytes());
        let record = Record { partition: 0, offset, arrived_ms, stamped_ms, device, payload };
        Ok(LogEvent::Records(Records::from_iter([record])))
    }

    async fn seek(&mut self, _: i32, offset: i64) -> anyhow::Result<()> {
        (self.at, self.begun) = (offset, true);
        Ok(())
    }

    async fn pause(&mut self, _: &[i32]) -> anyhow::Result<()> {
        self.paused = true;
        Ok(())
    }

    async fn resume(&mut self, _: &[i32]) -> anyhow::Result<()> {
        self.paused = false;
        Ok(())
    }

    async fn stored(&mut self, _: i32, _: i64) -> anyhow::Result<()> {
        Ok(())
    }
}

async fn work(store: &Store, log: Fixed, slice_rows: usize) -> anyhow::Result<Ingested> {
    let patience = Some(Duration::from_millis(300));
    let options = WorkerOptions { slice_rows, patience, ..WorkerOptions::default() };
    Worker::new(log, store.clone(), options).run(tokio::sync::watch::channel(false).1).await
}

/// Every record of `[from, to)` is in the view once, the bad ones as dead letters.
async fn holds(store: &Store, from: i64, to: i64) {
    let expected: Vec<i64> = (from..to).filter(|offset| offset % 10 != 9).collect();
    let mut there: Vec<i64> = readings(store).await.iter().map(|row| row.2.parse::<f64>().unwrap() as i64).collect();
    there.sort_unstable();
    assert_eq!(there, expected);
    let dead = rows(store, "SELECT count(*), count(DISTINCT \"offset\") FROM dead_letters").await;
    let expected = (from..to).filter(|offset| offset % 10 == 9).count().to_string();
    assert_eq!(dead, [[expected.clone(), expected]]);
}

#[tokio::test]
async fn a_log_becomes_a_chain_without_hole_or_overlap() {
    let store = Store::memory();
    let done = work(&store, Fixed::new(0, 95), 10).await.unwrap();
    assert_eq!((done.readings, done.dead), (86, 9));
    holds(&store, 0, 95).await;
    let files = landing::list(&store, &"landing".into()).await.unwrap();
    let mut next = 0;
    for file in &files {
        let footer = landing::footer(&store, &file.key).await.unwrap();
        assert_eq!(footer.first, next);
        next = footer.next;
    }
    assert_eq!(next, 95);
    // A full slice while one is being written pauses the log, so no slice holds more than two budgets.
    assert!(files.len() >= 5, "{}", files.len());
}

#[tokio::test]
async fn a_restart_goes_on_from_the_lake_and_not_from_the_log() {
    let store = Store::memory();
    work(&store, Fixed::new(0, 42), 10).await.unwrap();
    work(&store, Fixed::new(0, 95), 10).await.unwrap();
    work(&store, Fixed::new(0, 95), 10).await.unwrap();
    holds(&store, 0, 95).await;
}

#[tokio::test]
async fn two_workers_on_one_partition_store_everything_once() {
    let store = Store::memory();
    let (a, b) = tokio::join!(work(&store, Fixed::new(0, 500), 7), work(&store, Fixed::new(0, 500), 11));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert!(a.taken + b.taken > 0, "they never met, so this shows nothing");
    assert_eq!(a.readings + a.dead + b.readings + b.dead, 500);
    holds(&store, 0, 500).await;
}

#[tokio::test]
async fn a_lost_answer_is_recognised_as_ones_own_write() {
    for write in 0..4 {
        let objects = Arc::new(InMemory::new());
        let faulty = Store::of(Faulty::new(objects.clone(), Fault::LosesAnswerOf(write)), "faulty");
        let done = work(&faulty, Fixed::new(0, 40), 10).await.unwrap();
        assert_eq!((done.readings, done.taken), (36, 0), "write {write}");
        holds(&Store::of(objects, "memory"), 0, 40).await;
    }
}

#[tokio::test]
async fn a_store_that_dies_loses_nothing_that_it_said_it_had() {
    let mut deaths = 0;
    for write in 0.. {
        let objects = Arc::new(InMemory::new());
        let faulty = Store::of(Faulty::new(objects.clone(), Fault::DiesAt(write)), "faulty");
        let outcome = work(&faulty, Fixed::new(0, 45), 10).await;
        let store = Store::of(objects, "memory");
        work(&store, Fixed::new(0, 45), 10).await.unwrap();
        holds(&store, 0, 45).await;
        if outcome.is_ok() {
            break;
        }
        deaths += 1;
    }
    assert!(deaths >= 3, "it died only {deaths} times");
}

#[tokio::test]
async fn what_retention_took_is_a_gap_that_can_be_seen() {
    let store = Store::memory();
    work(&store, Fixed::new(20, 40), 10).await.unwrap();
    let first = landing::first(&store, "fixed", 0).await.unwrap().unwrap();
    assert_eq!((first.kind, first.first, first.next), (landing::Kind::Start, 0, 20));
    work(&store, Fixed::new(60, 80), 10).await.unwrap();
    let key = vitals::lake::layout::landing_file("fixed", 0, 40);
    let gap = landing::footer(&store, &key).await.unwrap();
    assert_eq!((gap.kind, gap.next), (landing::Kind::Gap, 60));
    let heart_rates = rows(&store, "SELECT min(heart_rate), max(heart_rate), count(*) FROM readings").await;
    assert_eq!(heart_rates, [["20.0", "78.0", "36"]]);
}

#[tokio::test]
async fn a_log_made_anew_under_the_old_name_is_refused() {
    let store = Store::memory();
    work(&store, Fixed::new(0, 40), 10).await.unwrap();
    for another in [Fixed { step_ms: 999, ..Fixed::new(0, 80) }, Fixed::new(0, 20)] {
        let error = format!("{:#}", work(&store, another, 10).await.unwrap_err());
        assert!(error.contains("not the one that the lake has") && error.contains("--chain"), "{error}");
    }
    holds(&store, 0, 40).await;
}

#[tokio::test]
async fn nothing_of_a_log_that_was_made_anew_while_it_was_read_is_stored() {
    let store = Store::memory();
    let error = work(&store, Fixed { anew_at: Some(25), ..Fixed::new(0, 80) }, 10).await.unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("`fixed` partition 0") && error.contains("made anew while it was read"), "{error}");
    // As far as files had been written by then.
    let next = landing::head(&store, "fixed", 0).await.unwrap().map_or(0, |head| head.next);
    assert!(next <= 25, "{next}");
    holds(&store, 0, next).await;
}

#[tokio::test]
async fn who_prefers_to_stop_stops_before_a_bad_record_with_everything_before_it_stored() {
    let store = Store::memory();
    let options = WorkerOptions { on_bad: OnBad::Fail, ..WorkerOptions::default() };
    let run = Worker::new(Fixed::new(0, 40), store.clone(), options).run(tokio::sync::watch::channel(false).1);
    let error = format!("{:#}", run.await.unwrap_err());
    assert!(error.contains("record 9 of partition 0") && error.contains("not_json"), "{error}");
    assert_eq!(landing::head(&store, "fixed", 0).await.unwrap().unwrap().next, 9);
    work(&store, Fixed::new(0, 40), 10).await.unwrap();
    holds(&store, 0, 40).await;
}

#[tokio::test]
async fn who_has_not_seen_the_lake_for_long_writes_nothing_under_a_key_that_is_free_again() {
    let store = Store::memory();
    let options = WorkerOptions { fresh: REST / 2, ..WorkerOptions::default() };
    let zombie = Fixed { rests_at: Some(20), ..Fixed::new(0, 40) };
    let zombie = tokio::spawn(Worker::new(zombie, store.clone(), options).run(tokio::sync::watch::channel(false).1));
    tokio::time::sleep(REST / 4).await;
    // Meanwhile another worker has stored everything, and its first files were compacted and deleted.
    work(&store, Fixed::new(0, 40), 10).await.unwrap();
    let files = landing::list(&store, &"landing".into()).await.unwrap();
    assert!(files.len() >= 2, "{files:?}");
    store.delete(files[..files.len() - 1].iter().map(|file| file.key.clone()).collect()).await.unwrap();
    zombie.await.unwrap().unwrap();
    assert_eq!(landing::list(&store, &"landing".into()).await.unwrap(), files[files.len() - 1..]);
}

#[tokio::test]
async fn a_small_budget_closes_slices_early_and_keeps_everything() {
    let store = Store::memory();
    let (memory_bytes, end) = (512 * 1024, 20_000);
    let options = WorkerOptions { memory_bytes, ..WorkerOptions::default() };
    let worker = Worker::new(Fixed::new(0, end), store.clone(), options);
    let done = worker.run(tokio::sync::watch::channel(false).1).await.unwrap();
    assert_eq!(done.readings + done.dead, end as u64);
    // A row takes about a hundred bytes, a slice an eighth of the budget.
    assert!(done.slices >= 20, "{} slices", done.slices);
    holds(&store, 0, end).await;
}
