//! Small simulated bodies for the model's own tests, apart from the simulator's: a model must not be tested on the very
//! bodies that it is shown with.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::episodes::Span;
use super::training::History;
use crate::reading::{Reading, VITALS, Vital, Vitals};

pub(super) const SECOND: i64 = 1_000;
pub(super) const MINUTE: i64 = 60 * SECOND;
pub(super) const HOUR: i64 = 60 * MINUTE;
pub(super) const DAY: i64 = 24 * HOUR;

/// A device and what was done to it.
pub(super) struct Body {
    pub history: History,
    pub events: Vec<Span>,
}

/// What to simulate.
#[derive(Clone, Copy)]
pub(super) struct Fleet {
    pub devices: u64,
    pub days: i64,
    pub interval_ms: i64,
    /// Events per device and day.
    pub events: f64,
    pub seed: u64,
}

impl Default for Fleet {
    fn default() -> Self {
        Fleet { devices: 60, days: 3, interval_ms: 5 * MINUTE, events: 0.0, seed: 1 }
    }
}

impl Fleet {
    pub fn bodies(&self) -> Vec<Body> {
        (0..self.devices).map(|device| self.body(device)).collect()
    }

    pub fn histories(&self) -> Vec<History> {
        self.bodies().into_iter().map(|body| body.history).collect()
    }

    /// Level, circadian rhythm, an AR(1) wander of two hours, bouts of work, noise; rounded as sensors do. Drawn on a grid
    /// of minutes, so that the same body can be seen at any interval.
    fn body(&self, device: u64) -> Body {
        let mut rng = Pcg64Mcg::seed_from_u64(self.seed * 1_000_003 + device);
        let level: Vitals = std::array::from_fn(|j| CENTRE[j] + BETWEEN[j] * normal(&mut rng));
        let minutes = self.days * 1440;
        let events = events(&mut rng, self.events, minutes);
        let (mut wander, mut work_left, mut work) = ([0.0; VITALS], 0, 0.0);
        let keep = f64::exp(-1.0 / 120.0);
        let mut readings = Vec::new();
        for minute in 0..minutes {
            let day = f64::sin(minute as f64 / 1440.0 * std::f64::consts::TAU);
            if work_left == 0 && rng.random::<f64>() < (1.0 + day) / 500.0 {
                work_left = 10 + (rng.random::<f64>() * 30.0) as i64;
            }
            work = 0.8 * work + if work_left > 0 { 0.2 } else { 0.0 };
            work_left = (work_left - 1).max(0);
            wander = wander.map(|value: f64| keep * value + (1.0 - keep * keep).sqrt() * normal(&mut rng));
            let mut vitals: Vitals = std::array::from_fn(|j| {
                level[j] + WITHIN[j] * (0.6 * wander[j] + 0.5 * day) + WORK[j] * work + NOISE[j] * normal(&mut rng)
            });
            for event in &events {
                event.change(minute, &mut vitals);
            }
            if (minute * MINUTE) % self.interval_ms != 0 {
                continue;
            }
            for vital in Vital::ALL {
                let steps = (1.0 / vital.resolution()).round();
                let value = &mut vitals[vital.index()];
                *value = (*value * steps).round() / steps;
            }
            vitals[Vital::Spo2.index()] = vitals[Vital::Spo2.index()].min(100.0);
            readings.push(Reading { ts_ms: minute * MINUTE, arrived_ms: minute * MINUTE, seq: None, vitals });
        }
        let history = History { device_id: format!("body_{device}"), readings };
        Body { history, events: events.iter().map(|event| event.span).collect() }
    }
}

const CENTRE: Vitals = [72.0, 125.0, 76.0, 36.7, 97.0, 16.0];
const BETWEEN: Vitals = [9.0, 12.0, 7.0, 0.25, 0.8, 2.0];
const WITHIN: Vitals = [5.0, 7.0, 5.0, 0.2, 0.6, 1.3];
const WORK: Vitals = [20.0, 10.0, 3.0, 0.1, -0.5, 4.0];
const NOISE: Vitals = [1.0, 2.5, 2.0, 0.05, 0.3, 0.6];

struct Event {
    span: Span,
    vital: usize,
    size: f64,
}

impl Event {
    fn change(&self, minute: i64, vitals: &mut Vitals) {
        let ts_ms = minute * MINUTE;
        if (self.span.start_ms..=self.span.end_ms).contains(&ts_ms) {
            let rise = ((ts_ms - self.span.start_ms) as f64 / (20 * MINUTE) as f64).min(1.0);
            vitals[self.vital] += self.size * rise;
        }
    }
}

/// Shifts of one vital by 8 to 14 of its spreads over 1 to 5 hours, in either direction, not on the first day's morning.
fn events(rng: &mut Pcg64Mcg, per_day: f64, minutes: i64) -> Vec<Event> {
    (0..minutes / 360)
        .skip(2)
        .filter_map(|block| {
            let (chance, vital, size, up, length) = (
                rng.random::<f64>(),
                rng.random_range(0..VITALS),
                rng.random::<f64>(),
                rng.random::<bool>(),
                rng.random::<f64>(),
            );
            let start_ms = (block * 360 + 30) * MINUTE;
            let span = Span { start_ms, end_ms: start_ms + HOUR + (length * 4.0 * HOUR as f64) as i64 };
            let size = WITHIN[vital] * (8.0 + 6.0 * size) * if up && vital != Vital::Spo2.index() { 1.0 } else { -1.0 };
            (chance < per_day / 4.0).then_some(Event { span, vital, size })
        })
        .collect()
}

/// The sum of twelve even draws: near enough to a normal distribution here.
fn normal(rng: &mut Pcg64Mcg) -> f64 {
    (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0
}
