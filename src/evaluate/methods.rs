//! Ways to score readings: the model, and the plain ones that it is measured beside.

use crate::model::{DeviceState, Model, news2};
use crate::reading::{Reading, VITALS, Vital};

use super::cases::Case;
use super::forest::Forest;
use super::spreads::{Spreads, within_possible};

/// A way to score readings.
pub(super) trait Method: Sync {
    /// Its name in JSON and tables.
    fn name(&self) -> &'static str;
    /// Whether it says which vital a score comes from.
    fn names_vitals(&self) -> bool;
    /// Begins with a device that it has never seen.
    fn watch(&self) -> Box<dyn Watch + '_>;
}

/// A method at work on one device, its readings in order.
pub(super) trait Watch {
    fn take(&mut self, reading: &Reading) -> Said;
}

/// What is said of a reading.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Said {
    /// Higher is more unusual.
    pub score: f32,
    /// The vital that most of it comes from.
    pub top: Option<Vital>,
}

/// What a method says of one case.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Scored {
    /// Per reading.
    pub scores: Vec<f32>,
    /// Whether the vital of the event's highest reading is one that the event is on; `None` without an event, or when the
    /// method does not name vitals.
    pub top_right: Option<bool>,
}

/// Scores one case by every method.
pub(super) fn score(methods: &[&dyn Method], case: &Case<'_>) -> Vec<Scored> {
    let readings = case.readings();
    methods.iter().map(|method| score_by(*method, case, &readings)).collect()
}

fn score_by(method: &dyn Method, case: &Case<'_>, readings: &[Reading]) -> Scored {
    let mut watch = method.watch();
    let mut highest: Option<Said> = None;
    let mut scores = Vec::with_capacity(readings.len());
    for reading in readings {
        let mut said = watch.take(reading);
        said.score = orderly(said.score);
        scores.push(said.score);
        if case.is_inside(reading.ts_ms) && highest.is_none_or(|highest| said.score > highest.score) {
            highest = Some(said);
        }
    }
    let right = |affected: &[bool; VITALS]| {
        highest.and_then(|highest| highest.top).is_some_and(|vital| affected[vital.index()])
    };
    let event = case.event.as_ref().filter(|_| method.names_vitals());
    Scored { scores, top_right: event.map(|event| right(&event.affected)) }
}

/// A score that compares with every other: what is no number is lowest, and both zeros are one.
fn orderly(score: f32) -> f32 {
    if score.is_nan() { f32::NEG_INFINITY } else { score + 0.0 }
}

/// The vital with the largest part, if any part is not 0.
fn largest(parts: &[f64; VITALS]) -> Option<Vital> {
    let sized = Vital::ALL.into_iter().map(|vital| (parts[vital.index()].abs(), vital)).filter(|(size, _)| *size > 0.0);
    sized.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, vital)| vital)
}

impl Method for Model {
    fn name(&self) -> &'static str {
        "vitals model"
    }

    fn names_vitals(&self) -> bool {
        true
    }

    fn watch(&self) -> Box<dyn Watch + '_> {
        Box::new(ModelWatch { model: self, state: self.new_state() })
    }
}

struct ModelWatch<'a> {
    model: &'a Model,
    state: DeviceState,
}

impl Watch for ModelWatch<'_> {
    fn take(&mut self, reading: &Reading) -> Said {
        let verdict = self.model.score(&mut self.state, reading.ts_ms, &reading.vitals);
        Said { score: verdict.score as f32, top: largest(&verdict.contributions) }
    }
}

/// How far a device is from its own usual: per vital an average over two hours of its distance from its mean of the last
/// day, in its spreads of the last day; both shrunk to the group's. The score is the length of the six.
pub(super) struct EwmaZ(pub Spreads);

/// How long the average of distances remembers, in hours.
const SHORT_H: f64 = 2.0;
/// How long a device's own mean and spread are remembered, in hours.
const LONG_H: f64 = 24.0;
/// How many hours of a device's own values the group's centre is worth.
const CENTRE_WORTH_H: f64 = 2.0;
/// How many hours of a device's own values the group's spread is worth.
const SPREAD_WORTH_H: f64 = 6.0;
/// No single distance is larger, in spreads.
const LARGEST_Z: f64 = 6.0;

impl Method for EwmaZ {
    fn name(&self) -> &'static str {
        "personal EWMA-z"
    }

    fn names_vitals(&self) -> bool {
        true
    }

    fn watch(&self) -> Box<dyn Watch + '_> {
        Box::new(EwmaWatch { spreads: &self.0, vitals: [Own::default(); VITALS] })
    }
}

struct EwmaWatch<'a> {
    spreads: &'a Spreads,
    vitals: [Own; VITALS],
}

/// What is remembered of one vital of one device. Weights are in hours: a reading weighs as long as it is since the one
/// before, at most an hour, so that quick devices learn no faster than slow ones.
#[derive(Clone, Copy, Default)]
struct Own {
    newest_ms: Option<i64>,
    weight: f64,
    /// Weighted sum of distances from the group's centre.
    sum: f64,
    /// Weighted sum of squared distances from the own mean.
    squares: f64,
    /// The short average.
    z: f64,
}

impl Watch for EwmaWatch<'_> {
    fn take(&mut self, reading: &Reading) -> Said {
        let vitals = within_possible(&reading.vitals);
        for ((own, spread), value) in self.vitals.iter_mut().zip(self.spreads).zip(vitals) {
            if let (Some(spread), false) = (spread, value.is_nan()) {
                own.take(reading.ts_ms, value - spread.centre, spread.within * spread.within);
            }
        }
        let parts = self.vitals.map(|own| own.z);
        let squares: f64 = parts.iter().map(|z| z * z).sum();
        Said { score: squares.sqrt() as f32, top: largest(&parts) }
    }
}

impl Own {
    fn take(&mut self, ts_ms: i64, value: f64, group_variance: f64) {
        let ms = self.newest_ms.map_or(3_600_000, |newest| ts_ms.saturating_sub(newest).max(0));
        self.newest_ms = self.newest_ms.max(Some(ts_ms));
        let hours = ms as f64 / 3_600_000.0;
        let keep = libm::exp(-hours / LONG_H);
        self.weight *= keep;
        self.sum *= keep;
        self.squares *= keep;
        let worth = CENTRE_WORTH_H + self.weight;
        let away = value - self.sum / worth;
        let variance = (self.squares + SPREAD_WORTH_H * group_variance) / (self.weight + SPREAD_WORTH_H);
        let z = (away / (variance * (1.0 + 1.0 / worth)).sqrt()).clamp(-LARGEST_Z, LARGEST_Z);
        let keep = libm::exp(-hours / SHORT_H);
        self.z = keep * self.z + (1.0 - keep) * z;
        let weight = hours.min(1.0);
        self.weight += weight;
        self.sum += weight * value;
        self.squares += weight * away * away;
    }
}

/// The usual design: readings as points, no device has a past.
pub(super) struct RawForest(pub Forest);

impl Method for RawForest {
    fn name(&self) -> &'static str {
        "isolation forest"
    }

    fn names_vitals(&self) -> bool {
        false
    }

    fn watch(&self) -> Box<dyn Watch + '_> {
        Box::new(ForestWatch(&self.0))
    }
}

struct ForestWatch<'a>(&'a Forest);

impl Watch for ForestWatch<'_> {
    fn take(&mut self, reading: &Reading) -> Said {
        Said { score: self.0.score(&reading.vitals) as f32, top: None }
    }
}

/// The early warning score of the vitals that are there. A reading without any has 0.
pub(super) struct PartialNews2;

impl Method for PartialNews2 {
    fn name(&self) -> &'static str {
        "NEWS2 (partial)"
    }

    fn names_vitals(&self) -> bool {
        false
    }

    fn watch(&self) -> Box<dyn Watch + '_> {
        Box::new(PartialNews2)
    }
}

impl Watch for PartialNews2 {
    fn take(&mut self, reading: &Reading) -> Said {
        Said { score: news2::partial(&reading.vitals).map_or(0.0, f32::from), top: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::bodies::reading;
    use crate::evaluate::spreads::Spread;
    use crate::reading::NO_VITALS;

    const HOUR_MS: i64 = 3_600_000;

    fn ewma() -> EwmaZ {
        EwmaZ([Some(Spread { centre: 80.0, between: 10.0, within: 4.0 }); VITALS])
    }

    #[test]
    fn ewma_learns_a_level_and_sees_a_step_away_from_it() {
        for interval_ms in [HOUR_MS / 60, HOUR_MS] {
            let method = ewma();
            let mut watch = method.watch();
            let mut last = Said { score: 0.0, top: None };
            for i in 0..(48 * HOUR_MS / interval_ms) {
                let wobble = if i % 2 == 0 { 1.0 } else { -1.0 };
                last = watch.take(&reading(i * interval_ms, [90.0 + wobble, 70.0 + wobble, 80.0, 36.0, 90.0, 15.0]));
            }
            assert!(last.score < 1.5, "{last:?}");
            for i in 0..(3 * HOUR_MS / interval_ms) {
                let at = 48 * HOUR_MS + i * interval_ms;
                last = watch.take(&reading(at, [90.0, 50.0, 80.0, 36.0, 90.0, 15.0]));
            }
            assert!(last.score > 3.0, "{last:?}");
            assert_eq!(last.top, Some(Vital::Systolic));
        }
    }

    #[test]
    fn mad_readings_give_orderly_scores() {
        let method = ewma();
        let mut watch = method.watch();
        for (ts_ms, vitals) in [(i64::MIN, [f64::INFINITY; 6]), (i64::MAX, [-1e308; 6]), (0, NO_VITALS), (1, [0.0; 6])]
        {
            assert!(watch.take(&reading(ts_ms, vitals)).score.is_finite());
        }
        assert_eq!(orderly(f32::NAN), f32::NEG_INFINITY);
        assert_eq!(orderly(-0.0).to_bits(), 0.0_f32.to_bits());
    }

    #[test]
    fn the_largest_part_counts_whatever_its_sign() {
        assert_eq!(largest(&[0.0; 6]), None);
        assert_eq!(largest(&[f64::NAN; 6]), None);
        assert_eq!(largest(&[1.0, -2.0, f64::NAN, 0.0, 2.0, 0.0]), Some(Vital::Systolic));
    }
}
