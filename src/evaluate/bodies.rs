//! Small simulated devices for this module's tests.

use rand::RngExt;

use super::chance::{self, Use};
use crate::model::History;
use crate::reading::{Reading, Vital, Vitals};

pub(super) fn reading(ts_ms: i64, vitals: Vitals) -> Reading {
    Reading { ts_ms, arrived_ms: ts_ms, seq: None, vitals }
}

pub(super) fn history(name: &str, readings: Vec<Reading>) -> History {
    History { device_id: name.to_owned(), readings }
}

const CENTRE: Vitals = [80.0, 124.0, 66.0, 36.9, 96.0, 18.0];
const BETWEEN: Vitals = [12.0, 14.0, 7.0, 0.3, 1.2, 3.0];
const WITHIN: Vitals = [7.0, 11.0, 7.0, 0.3, 1.6, 3.0];

/// Devices whose levels differ, each with noise about its own; every sixth value is absent.
pub(super) fn fleet(devices: u64, readings: i64, interval_ms: i64, seed: u64) -> Vec<History> {
    (0..devices)
        .map(|device| {
            let mut rng = chance::draws(chance::hash(seed, Use::Split, "body"), device);
            let level: Vitals = std::array::from_fn(|j| CENTRE[j] + BETWEEN[j] * chance::normal(&mut rng));
            let mut vitals = || {
                let value = |vital: Vital| {
                    let j = vital.index();
                    let steps = (1.0 / vital.resolution()).round();
                    let value = level[j] + WITHIN[j] * chance::normal(&mut rng);
                    let present = rng.random::<f64>() > 1.0 / 6.0;
                    if present { (value * steps).round() / steps } else { f64::NAN }
                };
                let mut vitals = Vital::ALL.map(value);
                vitals[4] = vitals[4].clamp(50.0, 100.0);
                vitals[1] = vitals[1].clamp(85.0, 250.0);
                vitals[2] = vitals[2].clamp(30.0, 84.0);
                vitals
            };
            let readings = (0..readings).map(|i| reading(i * interval_ms, vitals())).collect();
            history(&format!("body_{device:03}"), readings)
        })
        .collect()
}
