//! What the model promises, on bodies of its own.

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::bodies::{DAY, Fleet, HOUR, MINUTE, SECOND};
use super::episodes::{Gather, Span};
use super::evaluate::{SLACK_MS, Tally, compare, watched_ms};
use super::state::STATE_BYTES;
use super::*;
use crate::reading::{NO_VITALS, VITALS, Vital, Vitals};

const USUAL: Vitals = [72.0, 121.0, 74.0, 36.6, 97.0, 15.0];

fn with(vital: Vital, value: f64) -> Vitals {
    let mut vitals = USUAL;
    vitals[vital.index()] = value;
    vitals
}

fn stored(state: &DeviceState) -> Vec<u8> {
    let mut bytes = Vec::new();
    state.to_bytes(&mut bytes);
    bytes
}

/// The built-in model at a budget that lets tests see what it finds, not how much it must keep to itself.
fn sensitive() -> Model {
    Model::builtin().with_budget(1.0).unwrap()
}

/// A device with two days of ordinary minutes behind it.
fn known_device(model: &Model, interval_ms: i64) -> (DeviceState, i64) {
    let mut state = model.new_state();
    let steps = 2 * DAY / interval_ms;
    for i in 0..steps {
        let vitals = std::array::from_fn(|j| {
            USUAL[j] + [0.0, 1.0, -1.0, 2.0, -2.0][i as usize % 5] * Vital::ALL[j].resolution()
        });
        model.score(&mut state, i * interval_ms, &vitals);
    }
    (state, steps * interval_ms)
}

fn alarms(model: &Model, history: &History) -> Vec<episodes::Episode> {
    let mut state = model.new_state();
    let mut gather = Gather::default();
    for reading in &history.readings {
        gather.take(reading.ts_ms, &model.score(&mut state, reading.ts_ms, &reading.vitals));
    }
    gather.finish()
}

/// Outlier episodes against labels, and artifact episodes.
fn tally(model: &Model, fleet: &Fleet) -> (Tally, usize) {
    tally_of(model, fleet.bodies())
}

fn tally_of(model: &Model, bodies: Vec<super::bodies::Body>) -> (Tally, usize) {
    let (mut sum, mut artifacts) = (Tally::default(), 0);
    for body in bodies {
        let all = alarms(model, &body.history);
        artifacts += all.iter().filter(|episode| episode.artifact).count();
        let spans: Vec<Span> = all.iter().filter(|episode| !episode.artifact).map(|episode| episode.span).collect();
        let watched = watched_ms(body.history.readings.iter().map(|reading| reading.ts_ms));
        sum.add(&compare(&spans, &body.events, SLACK_MS, watched).0);
    }
    (sum, artifacts)
}

#[test]
fn a_new_device_is_judged_against_the_population() {
    assert_eq!(Model::builtin().id(), "builtin");
    let model = sensitive();
    let usual = model.score(&mut model.new_state(), 0, &USUAL);
    assert!(!usual.outlier && !usual.artifact && usual.cause == Cause::None, "{usual:?}");
    let shock = model.score(&mut model.new_state(), 0, &[160.0, 62.0, 35.0, 39.8, 82.0, 36.0]);
    assert!(shock.outlier && !shock.personal && shock.cause != Cause::None, "{shock:?}");
    assert_eq!(shock.episode_start_ms, Some(0));
    assert!(shock.sentence().contains("no history of this device"), "{}", shock.sentence());
}

#[test]
fn what_lasts_is_an_outlier_of_this_device_and_says_why() {
    let model = sensitive();
    let (mut state, start) = known_device(&model, MINUTE);
    let verdicts: Vec<Verdict> = (0..60)
        .map(|i| model.score(&mut state, start + i * MINUTE, &with(Vital::HeartRate, 128.0 - (i % 2) as f64)))
        .collect();
    let first = verdicts.iter().position(|verdict| verdict.outlier).unwrap();
    assert!((1..45).contains(&first), "within the hour, not at once: {first}");
    let last = verdicts[59];
    assert_eq!((last.cause, last.vital), (Cause::HeartRateHigh, Some(Vital::HeartRate)));
    assert_eq!(last.episode_start_ms, verdicts[first].episode_start_ms);
    assert!(last.personal && (last.usual - 72.0).abs() < 4.0 && last.observed == 127.0, "{last:?}");
    assert!(last.contributions[0] > 0.5 && last.contributions[4].abs() < 0.2, "{last:?}");
    assert!(last.deviation > 3.0, "{last:?}");
    assert_eq!(last.news2, Some(2));
}

#[test]
fn an_hour_of_it_hardly_moves_the_baseline() {
    let model = Model::builtin();
    let (mut state, start) = known_device(&model, MINUTE);
    for i in 0..180 {
        model.score(&mut state, start + i * MINUTE, &with(Vital::HeartRate, 150.0));
    }
    let after = model.score(&mut state, start + 180 * MINUTE, &USUAL);
    assert!((after.usual - USUAL[after.vital.unwrap().index()]).abs() < 4.0, "{after:?}");
    let heart = model.score(&mut state, start + 181 * MINUTE, &with(Vital::HeartRate, 150.0));
    assert!((heart.usual - 72.0).abs() < 4.0, "{heart:?}");
}

#[test]
fn a_new_level_becomes_usual_in_the_end() {
    let model = Model::builtin();
    let (mut state, start) = known_device(&model, MINUTE);
    for i in 0..10 * 1440 {
        model.score(&mut state, start + i * MINUTE, &with(Vital::HeartRate, 100.0 + (i % 3) as f64));
    }
    let verdict = model.score(&mut state, start + 10 * DAY, &with(Vital::HeartRate, 101.0));
    assert!(!verdict.outlier && verdict.contributions[0].abs() < 0.3, "{verdict:?}");
}

#[test]
fn an_artifact_teaches_nothing_and_the_rest_of_the_reading_is_judged() {
    let model = sensitive();
    let (state, now) = known_device(&model, MINUTE);
    let mut wrong = state.clone();
    let verdict = model.score(&mut wrong, now, &with(Vital::Temperature, 98.6));
    assert_eq!((verdict.artifact, verdict.outlier, verdict.cause), (true, false, Cause::UnitError));
    assert!(verdict.score >= model.card().threshold, "an artifact ranks with alarms");
    assert_eq!(verdict.episode_start_ms, Some(now));
    let mut absent = state.clone();
    model.score(&mut absent, now, &with(Vital::Temperature, f64::NAN));
    assert_eq!(wrong.vitals, absent.vitals, "as if the wrong value had not been sent");

    let (mut state, _) = known_device(&model, MINUTE);
    let mut both = with(Vital::Temperature, 98.6);
    let mut last = verdict;
    for i in 0..40 {
        both[Vital::HeartRate.index()] = 130.0 + (i % 3) as f64;
        last = model.score(&mut state, now + i * MINUTE, &both);
    }
    assert!(last.outlier && last.artifact && last.cause == Cause::HeartRateHigh, "{last:?}");
}

#[test]
fn a_hanging_sensor_does_not_alarm_for_ever() {
    let model = Model::builtin();
    let (mut state, start) = known_device(&model, MINUTE);
    let stuck = |state: &mut DeviceState, i: i64| {
        let vitals =
            std::array::from_fn(|j| if j == 0 { 72.0 } else { USUAL[j] + (i % 3) as f64 * Vital::ALL[j].resolution() });
        model.score(state, start + i * MINUTE, &vitals)
    };
    let flagged: Vec<i64> = (0..3 * 1440).filter(|&i| stuck(&mut state, i).artifact).collect();
    assert!((25..40).contains(&flagged[0]), "{}", flagged[0]);
    assert!(*flagged.last().unwrap() <= 1441 && flagged.len() > 1300, "{:?}", flagged.last());
}

#[test]
fn a_late_reading_is_scored_and_changes_nothing() {
    let model = Model::builtin();
    let (mut state, now) = known_device(&model, MINUTE);
    let before = stored(&state);
    for late in [now - MINUTE, now - 5 * HOUR, 0, -DAY, i64::MIN] {
        let verdict = model.score(&mut state, late, &with(Vital::HeartRate, 190.0));
        assert!(verdict.contributions[0] > 0.02 && verdict.deviation > 3.0, "{late}: {verdict:?}");
        assert_eq!(stored(&state), before, "{late}");
    }
}

#[test]
fn readings_without_vitals_and_years_of_silence_are_survived() {
    let model = Model::builtin();
    let (mut state, now) = known_device(&model, MINUTE);
    let nothing = model.score(&mut state, now, &NO_VITALS);
    assert_eq!((nothing.vital, nothing.news2, nothing.outlier), (None, None, false));
    assert!(nothing.score < 1.0, "as before: {nothing:?}");
    let first = model.score(&mut model.new_state(), now, &NO_VITALS);
    assert!(first.score < 0.01 && !first.outlier, "{first:?}");
    assert_eq!(nothing.sentence(), "no vitals in this reading");
    let later = model.score(&mut state, now + 3650 * DAY, &USUAL);
    assert!(!later.outlier && later.score < 2.0, "back to the population: {later:?}");
}

#[test]
fn a_talkative_device_learns_no_smaller_spread() {
    // The same wave of ten minutes seen every second and every minute.
    let model = Model::builtin();
    let seen = |interval_ms: i64| {
        let mut state = model.new_state();
        for i in 0..DAY / interval_ms {
            let wave = 8.0 * f64::sin((i * interval_ms) as f64 / (10 * MINUTE) as f64 * std::f64::consts::TAU);
            model.score(&mut state, i * interval_ms, &with(Vital::HeartRate, (72.0 + wave).round()));
        }
        model.score(&mut state, DAY, &with(Vital::HeartRate, 110.0))
    };
    let (second, minute) = (seen(1000), seen(MINUTE));
    assert!((second.usual - minute.usual).abs() < 1.5, "{} {}", second.usual, minute.usual);
    assert!((second.score - minute.score).abs() < 0.1, "{second:?} {minute:?}");
}

#[test]
fn without_events_alarms_stay_within_the_budget_at_any_interval() {
    let model = train(&Fleet { devices: 100, ..Fleet::default() }.histories(), &TrainOptions::default()).unwrap();
    assert!(model.card().warnings.is_empty(), "{:?}", model.card().warnings);
    for interval_ms in [MINUTE, 5 * MINUTE, HOUR] {
        let fresh = Fleet { devices: 100, interval_ms, seed: 2, ..Fleet::default() };
        let (tally, artifacts) = tally(&model, &fresh);
        let rate = tally.false_alarms_per_device_day();
        println!("every {} min: {rate:.3} alarms per device-day, {artifacts} artifacts", interval_ms / MINUTE);
        assert!(rate <= 0.25 * 1.3, "{interval_ms}: {rate}");
        assert!(artifacts as f64 <= 0.03 * tally.device_days, "{interval_ms}: {artifacts} artifacts of sound sensors");
    }
    // At odd times, an hour apart on average, with pauses of up to ten.
    let mut bodies = Fleet { devices: 100, interval_ms: MINUTE, seed: 3, ..Fleet::default() }.bodies();
    for (seed, body) in (0..).zip(&mut bodies) {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        body.history.readings.retain(|_| rng.random::<f64>() < 1.0 / 60.0);
    }
    let (irregular, _) = tally_of(&model, bodies);
    let rate = irregular.false_alarms_per_device_day();
    println!("irregular: {rate:.3} alarms per device-day");
    assert!(rate <= 0.25 * 1.3, "irregular: {rate}");
}

#[test]
fn every_second_is_no_more_alarming_than_every_minute() {
    // A budget at which both are heard of.
    let model = Model::builtin().with_budget(2.0).unwrap();
    let fleet = Fleet { devices: 24, days: 1, interval_ms: MINUTE, seed: 7, ..Fleet::default() };
    let minute = tally(&model, &fleet).0.false_alarms_per_device_day();
    let mut bodies = fleet.bodies();
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    for body in &mut bodies {
        // Each minute's values for a minute, a sensor's step up or down now and then.
        let seconds = body.history.readings.iter().flat_map(|reading| (0..60).map(|i| (i, *reading)));
        body.history.readings = seconds
            .map(|(i, mut reading)| {
                reading.ts_ms += i * SECOND;
                for vital in Vital::ALL {
                    reading.vitals[vital.index()] += f64::from(rng.random_range(-1..=1)) * vital.resolution();
                }
                reading
            })
            .collect();
    }
    let second = tally_of(&model, bodies).0.false_alarms_per_device_day();
    println!("every second: {second:.3}, every minute: {minute:.3} alarms per device-day");
    assert!(minute > 0.1 && second <= minute + 0.25, "{second} {minute}");
}

#[test]
fn the_builtin_model_is_what_the_code_makes() {
    let made = training::make_builtin(0);
    let same = made.to_bytes() == Model::builtin().to_bytes();
    assert!(same, "the model's arithmetic has changed: `cargo run --release --example make_builtin`");
    assert!(made.to_bytes().len() < 1 << 20);
}

#[test]
fn a_spike_among_close_readings_is_found_at_once_and_named() {
    let model = sensitive();
    let (mut state, now) = known_device(&model, MINUTE);
    let spike = model.score(&mut state, now, &with(Vital::RespiratoryRate, 38.0));
    assert!(spike.outlier && spike.cause == Cause::RespiratoryRateHigh, "{spike:?}");
    let after = model.score(&mut state, now + MINUTE, &USUAL);
    assert!(!after.outlier, "and over with it: {after:?}");
}

#[test]
fn an_hourly_device_s_step_is_found_within_two_readings() {
    let model = Model::builtin();
    let (mut state, now) = known_device(&model, HOUR);
    model.score(&mut state, now, &with(Vital::HeartRate, 118.0));
    let step = model.score(&mut state, now + HOUR, &with(Vital::HeartRate, 117.0));
    assert!(step.outlier && step.cause == Cause::HeartRateHigh, "{step:?}");
}

#[test]
fn a_vital_that_is_never_sent_does_no_harm() {
    let fleet = Fleet { devices: 40, interval_ms: HOUR, ..Fleet::default() };
    let mut histories = fleet.histories();
    let readings = histories.iter_mut().flat_map(|history| &mut history.readings);
    readings.for_each(|reading| reading.vitals[Vital::Temperature.index()] = f64::NAN);
    let model = train(&histories, &TrainOptions::default()).unwrap();
    assert_eq!(model.card().warnings.len(), 1, "{:?}", model.card().warnings);
    let mut state = model.new_state();
    let last = histories[0].readings.iter().map(|r| model.score(&mut state, r.ts_ms, &r.vitals)).last().unwrap();
    assert!(last.score.is_finite() && last.contributions[Vital::Temperature.index()] == 0.0, "{last:?}");
}

#[test]
fn events_in_the_training_window_do_not_use_up_the_budget() {
    let fleet = Fleet { devices: 100, events: 0.5, ..Fleet::default() };
    let model = train(&fleet.histories(), &TrainOptions::default()).unwrap();
    let held_back = model.card().held_back;
    let (tally, _) = tally(&model, &fleet);
    println!("recall {:.3}, false {:.3}, {held_back:?}", tally.recall(), tally.false_alarms_per_device_day());
    assert!(tally.recall() >= 0.8, "{tally:?}");
    assert!(tally.false_alarms_per_device_day() <= 0.25 * 1.5, "{tally:?}");
    assert!(held_back.alarms_per_device_day > 0.4 && held_back.charged_per_device_day <= 0.25, "{held_back:?}");
}

#[test]
fn what_calibration_counts_is_what_alarms() {
    let histories = Fleet { devices: 10, events: 0.5, ..Fleet::default() }.histories();
    for budget in [0.3, 1.0, 3.0] {
        // Fewer devices than are held back: the same parameters count and score.
        let few = &histories[..7];
        let model = train(few, &TrainOptions { alarms_per_device_day: budget, ..TrainOptions::default() }).unwrap();
        let outliers: usize =
            few.iter().map(|history| alarms(&model, history).iter().filter(|episode| !episode.artifact).count()).sum();
        let held_back = model.card().held_back;
        let counted = held_back.alarms_per_device_day * held_back.device_days;
        assert!((counted - outliers as f64).abs() < 1e-6, "{budget}: {counted} counted, {outliers} raised");
    }
}

#[test]
fn training_gives_the_same_bytes_for_a_seed_whatever_the_threads_and_the_order() {
    let mut histories = Fleet { devices: 20, events: 0.5, ..Fleet::default() }.histories();
    let with_threads = |histories: &[History], threads| {
        train(histories, &TrainOptions { threads, ..TrainOptions::default() }).unwrap()
    };
    let one = with_threads(&histories, 1);
    histories.reverse();
    let three = with_threads(&histories, 3);
    assert_eq!(one.to_bytes(), three.to_bytes());
    assert!(one.id().starts_with("m-") && one.id().len() == 14, "{}", one.id());
    let other = train(&histories, &TrainOptions { seed: 2, ..TrainOptions::default() }).unwrap();
    assert_ne!(one.id(), other.id());
}

#[test]
fn odd_training_data_gives_a_model_or_a_clear_error() {
    let options = TrainOptions::default();
    assert_eq!(train(&[], &options).unwrap_err(), TrainError::NoData);
    let history = |vitals: &[Vitals]| History {
        device_id: "one".to_owned(),
        readings: (0..)
            .zip(vitals)
            .map(|(i, &vitals)| crate::reading::Reading { ts_ms: i * MINUTE, arrived_ms: 0, seq: None, vitals })
            .collect(),
    };
    assert_eq!(train(&[history(&[NO_VITALS; 5])], &options).unwrap_err(), TrainError::NoData);
    let nothing = TrainOptions { alarms_per_device_day: 0.0, ..options.clone() };
    assert!(matches!(train(&[history(&[USUAL])], &nothing), Err(TrainError::Budget { .. })));
    for vitals in
        [vec![USUAL], vec![USUAL; 3000], vec![[f64::INFINITY; VITALS], [1e308; VITALS], [-0.0; VITALS], USUAL]]
    {
        let model = train(&[history(&vitals)], &options).unwrap();
        assert!(!model.card().warnings.is_empty());
        assert!((1.0..5.0).contains(&model.card().threshold), "{}", model.card().threshold);
        assert!(Model::from_bytes(&model.to_bytes()).is_ok());
    }
}

#[test]
fn a_larger_budget_has_a_lower_threshold_and_another_id() {
    let model = train(&Fleet { devices: 20, ..Fleet::default() }.histories(), &TrainOptions::default()).unwrap();
    for model in [model, Model::builtin()] {
        let thresholds: Vec<f64> = [0.05, 0.1, 0.25, 0.5, 1.0]
            .iter()
            .map(|&budget| model.with_budget(budget).unwrap().card().threshold)
            .collect();
        assert!(thresholds.windows(2).all(|pair| pair[0] > pair[1]), "{thresholds:?}");
        assert!(matches!(model.with_budget(f64::NAN), Err(TrainError::Budget { .. })));
        assert_ne!(model.with_budget(1.0).unwrap().id(), model.id());
        assert_eq!(model.with_budget(0.25).unwrap().id(), model.id());
    }
}

#[test]
fn an_artifact_read_back_is_the_same_model() {
    let model = train(&Fleet { devices: 10, ..Fleet::default() }.histories(), &TrainOptions::default()).unwrap();
    for model in [model, Model::builtin()] {
        let read = Model::from_bytes(&model.to_bytes()).unwrap();
        assert_eq!((read.id(), read.card()), (model.id(), model.card()));
        assert_eq!((&read.inner.params, &read.inner.curve), (&model.inner.params, &model.inner.curve));
        assert_eq!(read.with_budget(0.7).unwrap().to_bytes(), model.with_budget(0.7).unwrap().to_bytes());
        assert!(model.read_state(&stored(&read.new_state())).is_ok());
    }
}

#[test]
fn damaged_foreign_and_unknown_artifacts_are_each_refused_with_their_reason() {
    let bytes = Model::builtin().to_bytes();
    assert_eq!(Model::from_bytes(b"PAR1 and so on").unwrap_err(), ArtifactError::Foreign);
    assert_eq!(Model::from_bytes(&[]).unwrap_err(), ArtifactError::Foreign);
    let mut newer = bytes.clone();
    newer[8] += 1;
    assert_eq!(Model::from_bytes(&newer).unwrap_err(), ArtifactError::Version { found: artifact::VERSION + 1 });
    for at in (12..bytes.len()).step_by(997) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        assert!(matches!(Model::from_bytes(&damaged), Err(ArtifactError::Damaged { .. })), "byte {at}");
    }
    for length in [8, 40, bytes.len() / 2, bytes.len() - 1] {
        assert!(matches!(Model::from_bytes(&bytes[..length]), Err(ArtifactError::Damaged { .. })), "{length} bytes");
    }
}

#[test]
fn a_state_of_another_model_is_refused() {
    let model = Model::builtin();
    let other = model.with_budget(2.0).unwrap();
    assert_eq!(model.read_state(&stored(&other.new_state())).unwrap_err(), StateError::OtherModel);
}

fn any_value() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => 20.0..160.0,
        1 => any::<f64>(),
        1 => prop::sample::select(vec![f64::NAN, -0.0, 0.0, 1e308, -1e308, f64::INFINITY, f64::MIN_POSITIVE / 2.0, 98.6]),
    ]
}

fn any_time() -> impl Strategy<Value = i64> {
    prop_oneof![4 => 0..7 * DAY, 1 => any::<i64>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_input_gives_finite_scores_and_a_state_that_continues_bit_by_bit(
        readings in prop::collection::vec((any_time(), prop::array::uniform6(any_value())), 1..60),
        sorted in any::<bool>(),
        cut in 0usize..60,
    ) {
        let mut readings = readings;
        if sorted {
            readings.sort_by_key(|(ts_ms, _)| *ts_ms);
        }
        let model = Model::builtin();
        let mut state = model.new_state();
        let mut resumed = None;
        for (i, (ts_ms, vitals)) in readings.iter().enumerate() {
            if i == cut {
                let bytes = stored(&state);
                prop_assert_eq!(bytes.len(), STATE_BYTES);
                resumed = Some(model.read_state(&bytes).unwrap());
            }
            let verdict = model.score(&mut state, *ts_ms, vitals);
            prop_assert!(verdict.score.is_finite() && verdict.risk.is_finite(), "{:?}", verdict);
            prop_assert!(verdict.contributions.iter().all(|c| c.is_finite()), "{:?}", verdict);
            prop_assert_eq!(verdict.episode_start_ms.is_some(), verdict.outlier || verdict.artifact);
            prop_assert_eq!(verdict.cause == Cause::None, !(verdict.outlier || verdict.artifact));
            prop_assert!(verdict.sentence().len() < 400);
            if let Some(resumed) = &mut resumed {
                let again = model.score(resumed, *ts_ms, vitals);
                prop_assert_eq!(format!("{:?}", again), format!("{:?}", verdict));
                prop_assert_eq!(stored(resumed), stored(&state));
            }
        }
    }

    #[test]
    fn bytes_of_a_state_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2 * STATE_BYTES)) {
        let mut bytes = bytes;
        let _ = DeviceState::from_bytes(&bytes);
        bytes.resize(STATE_BYTES, 0);
        bytes[0] = state::STATE_VERSION;
        if let Ok(mut state) = DeviceState::from_bytes(&bytes) {
            let verdict = Model::builtin().score(&mut state, 0, &USUAL);
            prop_assert!(!verdict.score.is_nan());
        }
    }
}
