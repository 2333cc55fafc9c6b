//! The scorer that follows the lake: whatever crashes, the verdicts are those of a run in which nothing did, and a reading
//! has one verdict at any moment, also while a model takes over from another.

use std::sync::Arc;

use object_store::memory::InMemory;
use vitals::{
    lake::{
        State, Store, View,
        clean::clean,
        compact::{CompactOptions, compact},
        epoch::Epoch,
        landing,
    },
    model::{
        Model,
        training::{History, TrainOptions, train},
    },
    reading::Reading,
    score::{
        ScoreOptions,
        follow::{Follower, Look, Share, announce},
        score_lake,
    },
    train::keep,
};

use crate::{
    faults::{Fault, Faulty, copy},
    support::{DAY_MS, HOUR_MS, Outcome, good, land, land_as, reading, rows},
};

/// 2026-03-01T00:00:00Z.
const MARCH: i64 = 1_772_323_200_000;

fn wander(step: i64, device: i64) -> f64 {
    ((step * 7 + device * 13) % 11) as f64 - 5.0
}

/// A heart rate that wanders, and now and then is far away for a while.
fn rate(step: i64, device: i64) -> f64 {
    let wave = wander(step, device);
    if (step + 40 * device) % 150 > 135 { 170.0 + wave } else { 70.0 + wave }
}

/// How many readings are sent twice. When a day is closed, one of the two is dropped with its verdict.
#[derive(Clone, Copy, PartialEq)]
enum Twice {
    Some,
    None,
}

/// The outcomes of one slice: three devices every five minutes, some late and out of order, some sent twice.
fn slice(devices: [&'static str; 3], of: i64, steps: i64, twice: Twice) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for step in of * steps..(of + 1) * steps {
        for (number, device) in devices.into_iter().enumerate() {
            let number = number as i64;
            // Every tenth reading comes two steps late, every seventeenth twice.
            let at = if (step + number) % 10 == 3 { step - 2 } else { step };
            let arrived_ms = MARCH + step * 300_000;
            let one = || Outcome {
                device,
                arrived_ms,
                outcome: Ok(Reading { seq: Some(at), ..reading(MARCH + at * 300_000, arrived_ms, rate(at, number)) }),
            };
            outcomes.push(one());
            if twice == Twice::Some && (step + number) % 17 == 5 {
                outcomes.push(one());
            }
        }
    }
    outcomes
}

/// Lands `slices` in each of two chains.
async fn fill(store: &Store, slices: std::ops::Range<i64>, steps: i64, twice: Twice) {
    for (chain, devices) in [("c", ["a", "b", "c"]), ("d", ["x", "y", "z"])] {
        let mut first = 0;
        for of in 0..slices.end {
            let outcomes = slice(devices, of, steps, twice);
            match slices.contains(&of) {
                true => first = land(store, chain, first, &outcomes).await,
                false => first += outcomes.len() as i64,
            }
        }
    }
}

/// Another model than the built-in one.
fn another() -> Model {
    let history = |device: i64| History {
        device_id: format!("t{device}"),
        readings: (0..600).map(|step| reading(MARCH + step * 300_000, MARCH, 70.0 + wander(step, device))).collect(),
    };
    let histories: Vec<History> = (0..20).map(history).collect();
    train(&histories, &TrainOptions::default()).unwrap()
}

async fn verdicts(store: &Store) -> Vec<Vec<String>> {
    const ALL: &str = "SELECT device_id, ts, seq, arrived_at, cause, score, artifact, episode, model FROM outliers \
                       ORDER BY device_id, ts, seq, arrived_at, score, cause, episode";
    rows(store, ALL).await
}

/// Looks until there is nothing more to do.
async fn look(follower: &mut Follower) -> anyhow::Result<Look> {
    loop {
        let look = follower.look().await?;
        if !look.again {
            return Ok(look);
        }
    }
}

/// What a model says of everything that has landed.
async fn expected(landed: &InMemory, model: &Model) -> Vec<Vec<String>> {
    let store = Store::of(copy(landed).await, "expected");
    score_lake(&store, model, ScoreOptions::default(), |_| ()).await.unwrap();
    verdicts(&store).await
}

#[tokio::test]
async fn following_slice_by_slice_gives_the_verdicts_of_scoring_at_once() {
    let objects = Arc::new(InMemory::new());
    let store = Store::of(objects.clone(), "lake");
    let mut follower = Follower::new(store.clone(), Share::WHOLE);
    for of in 0..20 {
        fill(&store, of..of + 1, 20, Twice::Some).await;
        look(&mut follower).await.unwrap();
        // A process that ends without a word every third time.
        if of % 3 == 2 {
            follower = Follower::new(store.clone(), Share::WHOLE);
        }
        if of % 5 == 4 {
            follower.checkpoint(true).await.unwrap();
        }
    }
    let bare = Arc::new(InMemory::new());
    fill(&Store::of(bare.clone(), "bare"), 0..20, 20, Twice::Some).await;
    let expected = expected(&bare, &Model::builtin()).await;
    assert!(expected.len() > 20, "{} outliers: this shows nothing", expected.len());
    assert_eq!(verdicts(&store).await, expected);
    assert!(State::load(&store).await.unwrap().scoring);
}

#[tokio::test]
async fn a_promotion_shows_every_reading_one_verdict_whenever_the_scorer_dies() {
    let bare = Arc::new(InMemory::new());
    fill(&Store::of(bare.clone(), "bare"), 0..12, 20, Twice::None).await;
    let model = another();
    let (before, after) = (expected(&bare, &Model::builtin()).await, expected(&bare, &model).await);
    assert!(before.len() > 20 && after.len() > 20 && before != after, "{} and {}", before.len(), after.len());

    // A lake in which the built-in model has followed 6 of 12 slices, and the other one is to take over.
    let origin = Arc::new(InMemory::new());
    let store = Store::of(origin.clone(), "origin");
    fill(&store, 0..6, 20, Twice::None).await;
    look(&mut Follower::new(store.clone(), Share::WHOLE)).await.unwrap();
    keep(&store, &model).await.unwrap();
    announce(&store, model.id()).await.unwrap();
    fill(&store, 6..12, 20, Twice::None).await;

    let (mut covered, mut promoted_at) = (0, None);
    for write in 0.. {
        let objects = copy(&origin).await;
        let faulty = Faulty::new(objects.clone(), Fault::DiesAt(write));
        let died = look(&mut Follower::new(Store::of(faulty.clone(), "faulty"), Share::WHOLE)).await.is_err();

        // What a query sees now: the verdicts of the model in force on as many files as before, or more.
        let store = Store::of(objects, "lake");
        let view = View::open(&store).await.unwrap();
        assert!(view.scored.len() >= covered, "after write {write}: {} files of {covered}", view.scored.len());
        covered = view.scored.len();
        let all = if view.state.model() == model.id() { &after } else { &before };
        let shown = verdicts(&store).await;
        assert!(shown.iter().all(|row| all.contains(row)), "after write {write}");
        assert_eq!(shown.iter().collect::<std::collections::BTreeSet<_>>().len(), shown.len(), "after write {write}");
        if view.state.model() == model.id() {
            promoted_at.get_or_insert(write);
        }
        // Whoever starts again comes to the same end.
        if died && write % 4 == 0 {
            look(&mut Follower::new(store.clone(), Share::WHOLE)).await.unwrap();
            assert_eq!(State::load(&store).await.unwrap().model(), model.id(), "after write {write}");
            assert_eq!(verdicts(&store).await, after, "after write {write}");
        }
        if !died {
            break;
        }
    }
    assert_eq!(covered, 24);
    assert!(promoted_at.is_some_and(|write| write > 24), "{promoted_at:?}");
}

#[tokio::test]
async fn days_close_behind_the_scorer_and_what_it_needs_after_a_crash_stays() {
    let store = Store::memory();
    // Two and a half days: 720 steps of five minutes.
    fill(&store, 0..18, 40, Twice::None).await;
    let now_ms = MARCH + 2 * DAY_MS + 12 * HOUR_MS;
    // The scorer has not come yet: no day closes.
    let mut state = State::load(&store).await.unwrap();
    state.scoring = true;
    state.commit(&store).await.unwrap();
    let options = CompactOptions { now_ms, running_day: false };
    assert_eq!(compact(&store, options, |_| ()).await.unwrap(), []);

    let mut follower = Follower::new(store.clone(), Share::WHOLE);
    look(&mut follower).await.unwrap();
    let before = verdicts(&store).await;
    assert_eq!(compact(&store, options, |_| ()).await.unwrap().len(), 2);
    let state = State::load(&store).await.unwrap();
    assert!(state.days.values().all(|day| day.scored_by.as_deref() == Some("builtin")), "{:?}", state.days);
    let twice = |rows: &[Vec<String>]| rows.iter().map(|r| (r[0].clone(), r[1].clone())).collect::<Vec<_>>();
    let mut seen = twice(&before);
    seen.dedup();
    let mut now = twice(&verdicts(&store).await);
    now.dedup();
    assert_eq!(now, seen, "compaction changes no verdict");

    // Nothing of what landed is in a checkpoint: a clean-up much later leaves it all.
    let landed = async || store.list(&"landing".into()).await.unwrap().len();
    let all = landed().await;
    let later = vitals::lake::now_ms() + 3 * DAY_MS;
    clean(&store, later, None).await.unwrap();
    assert_eq!(landed().await, all);
    follower.checkpoint(true).await.unwrap();
    let epoch = Epoch::newest(&store, "builtin").await.unwrap().unwrap();
    assert_eq!(epoch.checkpoints.len(), 2);
    clean(&store, later, None).await.unwrap();
    assert!(landed().await < all);

    // And what comes next gets the verdicts that it would have got without an end in between.
    let mut again = Follower::new(store.clone(), Share::WHOLE);
    fill(&store, 18..20, 40, Twice::None).await;
    look(&mut again).await.unwrap();
    let bare = Arc::new(InMemory::new());
    fill(&Store::of(bare.clone(), "bare"), 0..20, 40, Twice::None).await;
    let mut expected = twice(&expected(&bare, &Model::builtin()).await);
    expected.dedup();
    let mut now = twice(&verdicts(&store).await);
    now.dedup();
    assert_eq!(now, expected);
}

#[tokio::test]
async fn where_the_log_has_a_hole_below_the_cut_the_model_begins_anew_and_above_it_the_scorer_stops() {
    let store = Store::memory();
    fill(&store, 0..18, 40, Twice::None).await;
    look(&mut Follower::new(store.clone(), Share::WHOLE)).await.unwrap();
    let now_ms = MARCH + 2 * DAY_MS + 12 * HOUR_MS;
    assert_eq!(compact(&store, CompactOptions { now_ms, running_day: false }, |_| ()).await.unwrap().len(), 2);
    let first = Epoch::newest(&store, "builtin").await.unwrap().unwrap();
    assert_eq!(first.base, None);

    // Somebody deletes closed landing files that a start without checkpoints would begin with.
    let cut = State::load(&store).await.unwrap().cut("c", 0).first;
    let landed = landing::list(&store, &"landing".into()).await.unwrap();
    let below = landed.iter().filter(|file| file.first < cut).map(|file| file.key.clone()).collect();
    store.delete(below).await.unwrap();
    fill(&store, 18..19, 40, Twice::None).await;
    look(&mut Follower::new(store.clone(), Share::WHOLE)).await.unwrap();
    let second = Epoch::newest(&store, "builtin").await.unwrap().unwrap();
    assert!(second.n > first.n && second.base.is_some(), "{second:?}");
    assert_eq!(View::open(&store).await.unwrap().scored.last().unwrap().first, landed_head(&store).await);

    // Above the cut it is readings that are gone.
    let gone = landed.iter().find(|file| file.chain == "c" && file.first == cut).unwrap();
    store.delete(vec![gone.key.clone()]).await.unwrap();
    let error = look(&mut Follower::new(store.clone(), Share::WHOLE)).await.unwrap_err();
    assert!(error.to_string().contains("which is gone"), "{error:#}");
}

async fn landed_head(store: &Store) -> i64 {
    landing::list(store, &"landing".into()).await.unwrap().last().unwrap().first
}

#[tokio::test]
async fn shares_score_their_own_partitions_and_promote_together() {
    let store = Store::memory();
    fill(&store, 0..6, 20, Twice::Some).await;
    let half = |index| Follower::new(store.clone(), Share { index, of: 2 });
    let (mut first, mut second) = (half(0), half(1));
    // The second waits until the first has begun.
    assert_eq!(look(&mut second).await.unwrap().scored.slices, 0);
    let a = look(&mut first).await.unwrap().scored.slices;
    let b = look(&mut second).await.unwrap().scored.slices;
    assert_eq!(a + b, 12);

    let model = another();
    keep(&store, &model).await.unwrap();
    announce(&store, model.id()).await.unwrap();
    look(&mut first).await.unwrap();
    if b > 0 {
        assert_eq!(State::load(&store).await.unwrap().model(), "builtin", "the second has not come yet");
    }
    look(&mut second).await.unwrap();
    look(&mut first).await.unwrap();
    let state = State::load(&store).await.unwrap();
    assert_eq!((state.model(), state.candidate.as_deref()), (model.id(), None));
    fill(&store, 6..8, 20, Twice::Some).await;
    look(&mut first).await.unwrap();
    look(&mut second).await.unwrap();
    assert_eq!(View::open(&store).await.unwrap().scored.len(), 16);
}

/// An hour of a reading a minute, the last of them far away.
fn hour(device: &'static str, from_ms: i64) -> Vec<Outcome> {
    (0..60).map(|minute| good(device, from_ms + minute * 60_000, if minute > 40 { 190.0 } else { 70.0 })).collect()
}

#[tokio::test]
async fn a_log_with_another_number_of_partitions_is_scored_up_to_the_change_and_then_after_its_days_are_closed() {
    let store = Store::memory();
    let count = |n| move |footer: &mut landing::Footer| footer.partitions = Some(n);
    let next = land_as(&store, "kafka-t", 0, 0, &hour("a", MARCH), count(2)).await;
    land_as(&store, "kafka-t", 0, next, &hour("a", MARCH + 25 * HOUR_MS), count(3)).await;
    land_as(&store, "kafka-t", 1, 0, &hour("b", MARCH), count(2)).await;
    // The same when another process goes on, which knows the old number from what was scored.
    for _ in 0..2 {
        let mut follower = Follower::new(store.clone(), Share::WHOLE);
        let error = format!("{:#}", look(&mut follower).await.unwrap_err());
        assert!(error.contains("had 2 partitions and has 3") && error.contains("score --again"), "{error}");
        follower.checkpoint(true).await.unwrap();
    }
    // Everything of before has its verdicts, in every partition.
    let judged = rows(&store, "SELECT DISTINCT device_id FROM outliers ORDER BY 1").await;
    assert_eq!(judged, [["a"], ["b"]]);
    compact(&store, CompactOptions { now_ms: MARCH + DAY_MS, running_day: false }, |_| ()).await.unwrap();
    score_lake(&store, &Model::builtin(), ScoreOptions { again: true }, |_| ()).await.unwrap();
    let late = rows(&store, "SELECT count(*) FROM outliers WHERE ts > TIMESTAMP '2026-03-02 00:00:00'").await;
    assert_ne!(late, [["0"]]);
    look(&mut Follower::new(store.clone(), Share::WHOLE)).await.unwrap();
}

#[tokio::test]
async fn records_without_a_key_are_stored_but_not_scored() {
    let store = Store::memory();
    let keyless = |footer: &mut landing::Footer| (footer.partitions, footer.keyless) = (Some(2), 60);
    land_as(&store, "kafka-t", 0, 0, &hour("a", MARCH), keyless).await;
    let error = look(&mut Follower::new(store.clone(), Share::WHOLE)).await.unwrap_err();
    assert!(format!("{error:#}").contains("60 records of `kafka-t` partition 0 have no key"), "{error:#}");
    assert_eq!(rows(&store, "SELECT count(*) FROM readings").await, [["60"]]);
    assert_eq!(rows(&store, "SELECT count(*) FROM outliers").await, [["0"]]);
}

#[tokio::test]
async fn records_without_a_key_get_their_verdicts_when_their_day_is_closed() {
    let store = Store::memory();
    let keyless = |footer: &mut landing::Footer| (footer.partitions, footer.keyless) = (Some(2), 60);
    let next = land_as(&store, "kafka-t", 0, 0, &hour("a", MARCH), keyless).await;
    land_as(&store, "kafka-t", 0, next, &hour("a", MARCH + 25 * HOUR_MS), keyless).await;
    let mut follower = Follower::new(store.clone(), Share::WHOLE);
    look(&mut follower).await.unwrap_err();
    compact(&store, CompactOptions { now_ms: MARCH + DAY_MS, running_day: false }, |_| ()).await.unwrap();
    // The next day's are still without an order.
    look(&mut follower).await.unwrap_err();
    let judged = "SELECT count(*) FROM outliers WHERE ts < TIMESTAMP '2026-03-02 00:00:00'";
    let of_the_day = rows(&store, judged).await;
    assert_ne!(of_the_day, [["0"]]);
    assert_eq!(rows(&store, "SELECT count(*) FROM outliers").await, of_the_day);
    compact(&store, CompactOptions { now_ms: MARCH + 2 * DAY_MS, running_day: false }, |_| ()).await.unwrap();
    look(&mut follower).await.unwrap();
    assert_ne!(rows(&store, "SELECT count(*) FROM outliers").await, of_the_day);
}

#[tokio::test]
async fn two_scorers_that_begin_a_new_lake_at_once_both_go_on() {
    for _ in 0..10 {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::folder(folder.path()).unwrap();
        land(&store, "c", 0, &hour("a", MARCH)).await;
        let (mut one, mut other) =
            (Follower::new(store.clone(), Share::WHOLE), Follower::new(store.clone(), Share::WHOLE));
        let (first, second) = tokio::join!(look(&mut one), look(&mut other));
        let readings: u64 = [first.unwrap(), second.unwrap()].iter().map(|look| look.scored.readings).sum();
        assert_eq!(readings, 60);
        assert_eq!(Epoch::newest(&store, "builtin").await.unwrap().unwrap().n, 1);
    }
}
