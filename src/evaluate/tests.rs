//! The whole of it, on small simulated fleets.

use super::bodies::{fleet, history, reading};
use super::*;
use crate::reading::NO_VITALS;

const HOUR_MS: i64 = 3_600_000;

fn options(threads: usize) -> EvaluateOptions {
    let train = TrainOptions { threads, ..TrainOptions::default() };
    EvaluateOptions { threads, resamples: 10, train, ..EvaluateOptions::default() }
}

#[test]
fn the_same_seed_gives_the_same_report_whatever_the_threads_and_the_order() {
    let mut fleet = fleet(60, 48, HOUR_MS, 7);
    let one = evaluate(&fleet, &options(1)).unwrap();
    fleet.reverse();
    let two = evaluate(&fleet, &options(2)).unwrap();
    assert_eq!(one.to_string(), two.to_string());
    assert_eq!(serde_json::to_string(&one).unwrap(), serde_json::to_string(&two).unwrap());
    let other = evaluate(&fleet, &EvaluateOptions { seed: 2, ..options(2) }).unwrap();
    assert_ne!(one.sets, other.sets);
}

#[test]
fn methods_are_measured_beside_each_other() {
    let report = evaluate(&fleet(120, 48, HOUR_MS, 7), &options(0)).unwrap();
    assert_eq!(report.train_devices + report.test_devices, 120);
    for set in &report.sets {
        assert_eq!(set.events, set.kinds.iter().map(|kind| kind.events).sum::<usize>());
        for method in &set.methods[..2] {
            assert!(method.auroc.value > 0.6, "{} {:?}", method.method, method.auroc);
            assert!(method.auroc.low <= method.auroc.value && method.auroc.value <= method.auroc.high);
            assert!(method.top1.is_some_and(|top1| top1.value > 0.3));
        }
        assert!(set.methods[2..].iter().all(|method| method.top1.is_none()));
    }
}

#[test]
fn learning_and_testing_share_no_device() {
    let fleet = fleet(300, 2, HOUR_MS, 7);
    let (learn, test) = deal(&fleet, 1);
    assert!((80..=120).contains(&test.len()), "{}", test.len());
    assert!(test.iter().all(|test| learn.iter().all(|learn| learn.device_id != test.device_id)));
}

#[test]
fn few_devices_give_an_error_or_a_report_without_nan() {
    let bodies = fleet(6, 48, HOUR_MS, 7);
    for devices in 0..=bodies.len() {
        for seed in 0..10 {
            match evaluate(&bodies[..devices], &EvaluateOptions { seed, resamples: 3, ..options(1) }) {
                Ok(report) => assert!(devices > 1 && !report.to_string().contains("NaN"), "{report}"),
                Err(error) => assert!(!error.to_string().contains("NaN"), "{error}"),
            }
        }
    }
}

#[test]
fn mad_histories_do_no_harm() {
    let mut histories = fleet(30, 24, HOUR_MS, 7);
    for (i, history) in histories.iter_mut().enumerate() {
        history.readings[i % 24].vitals[i % 6] = [f64::INFINITY, -1e308, 1e308, 0.0][i % 4];
        history.readings.swap(3, 20);
    }
    histories.push(history("empty", vec![]));
    histories.push(history("absent", vec![reading(0, NO_VITALS)]));
    histories.push(history("ages", vec![reading(i64::MIN, [80.0; 6]), reading(i64::MAX, [80.0; 6])]));
    let report = evaluate(&histories, &options(2)).unwrap();
    assert!(!report.to_string().contains("NaN"), "{report}");
}

#[test]
fn devices_of_any_interval_can_be_tested() {
    for interval_ms in [5_000, 60_000, 10 * 60_000] {
        let report = evaluate(&fleet(30, 6 * HOUR_MS / interval_ms, interval_ms, 3), &options(2)).unwrap();
        assert!(report.sets.iter().all(|set| set.events > 0), "{report}");
    }
}

#[test]
fn histories_too_short_for_events_are_an_error() {
    let report = evaluate(&fleet(30, 3, HOUR_MS, 3), &options(1));
    assert!(matches!(report, Err(EvaluateError::NoEvents { .. })), "{report:?}");
}
