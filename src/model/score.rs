//! One reading against one device's past: the arithmetic of the score.
//!
//! 1. Each vital's filter ([`super::filter`]) takes the value, and gives the features of the moment. Of a vital that the
//!    reading lacks, the last ones stay, with their age.
//! 2. Two forests judge them ([`super::features`]): the head each vital, the row the device. The *evidence* is the row's
//!    logit and the logarithm of the heads' summed odds, and a little of what needs no forest.
//! 3. The evidence is set against its own course in this device: what it was over the last hour and a half counts for
//!    it, what it is usually, over a day, counts against it. So what persists weighs more than what flickers, and a
//!    device that always looks odd must look odder.
//! 4. The score is 2 to half of that: positive, and twice as large for every two units of logit.

use crate::reading::{NO_VITALS, VITALS, Vital, Vitals};

use super::features::{self, Features, HEAD, ROW};
use super::filter::{AGE, Decay, E2, FEATURES, INN0, OBSERVED, TICK_H, Track, Unit, ZMU, ZPOP};
use super::forest::{Forest, LANES};
use super::population::Population;
use super::rules;
use super::state::{Course, DeviceState, VitalState};
use super::verdict::Cause;

/// What an hour of age takes off a vital's logit.
const STALE_PER_H: f32 = 0.1;
/// No evidence counts as less than this.
const LEAST_EVIDENCE: f32 = -18.0;
/// Distances from the own level beyond this many standard deviations are off the forests' bins: they go on counting by
/// themselves, so much for each.
const OFF_SCALE: f32 = 5.0;
const OFF_SCALE_WEIGHT: f32 = 0.3;
/// A value this much further from the own level than the average of close values is a spike that averaging would hide …
const SPIKE: f32 = 3.0;
/// … and so much of the square of what is beyond that is added to its vital's logit, up to a limit.
const SPIKE_WEIGHT: f32 = 0.5;
const MOST_SPIKE: f32 = 12.0;
/// So much for each of the vitals' averaged distances, as one: what lasts and moves several vitals a little.
const NORM_WEIGHT: f32 = 0.3;
/// Before a vital's own level is known, so much for each of the population's standard deviations beyond this.
const STRANGE: f32 = 3.0;
const STRANGE_WEIGHT: f32 = 0.5;
/// After so many hours of silence the short average says nothing any more.
const FORGOTTEN_H: f64 = 6.0;
/// How much the usual evidence of a device counts against the present one.
const USUAL_WEIGHT: f32 = 1.2;
/// From this many observed hours on, a level is called the device's own, not the population's.
const PERSONAL_H: f32 = 4.0;
/// Longer pauses, in hours, are taken for this one: nothing remembers so long.
const LONGEST_H: f64 = 1000.0;

/// Everything that scoring needs: the numbers of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Params {
    pub(super) population: Population,
    pub(super) units: [Unit; VITALS],
    pub(super) head: Forest,
    pub(super) row: Forest,
    /// The score from which a reading raises an alarm.
    pub(super) threshold: f64,
}

impl Params {
    pub(super) fn new(population: Population, head: Forest, row: Forest) -> Params {
        Params { population, units: units(&population), head, row, threshold: f64::MAX }
    }

    /// The same forests with another population.
    pub(super) fn with_population(&self, population: Population) -> Params {
        Params { population, units: units(&population), ..self.clone() }
    }
}

pub(super) fn units(population: &Population) -> [Unit; VITALS] {
    std::array::from_fn(|j| Unit::of(&population[j]))
}

impl Course {
    /// Of a device that was never seen.
    pub(super) const START: Course = Course { short: -6.0, long: -6.0, tick_ms: None };

    /// The evidence of `ts_ms` against the course. After a long silence nothing is known of the last hours.
    fn against(&self, ts_ms: i64, evidence: f32) -> f32 {
        let silent = self.tick_ms.is_some_and(|tick_ms| hours(tick_ms, ts_ms) > FORGOTTEN_H);
        let short = if silent { self.long } else { self.short };
        evidence + short - USUAL_WEIGHT * self.long
    }

    /// Takes the evidence of `ts_ms`, unless that is too close to the last.
    fn take(&mut self, ts_ms: i64, evidence: f32) {
        let hours = self.tick_ms.map_or(1.0, |tick_ms| hours(tick_ms, ts_ms));
        if self.tick_ms.is_some() && hours < TICK_H {
            return;
        }
        let decay = Decay::of(hours);
        let mix = |keep: f64, before: f32| (keep * f64::from(before) + (1.0 - keep) * f64::from(evidence)) as f32;
        *self = Course { short: mix(decay.k1, self.short), long: mix(decay.k24, self.long), tick_ms: Some(ts_ms) };
    }
}

fn hours(from_ms: i64, to_ms: i64) -> f64 {
    (to_ms.saturating_sub(from_ms) as f64 / 3_600_000.0).clamp(0.0, LONGEST_H)
}

/// What a reading is, before any threshold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Assessment {
    /// Per vital, how likely it is in an event, with the sign of its deviation.
    pub contributions: [f64; VITALS],
    /// Per vital, the device's usual value before this reading, and how many of its own standard deviations the latest
    /// value is away from it.
    pub usual: [f64; VITALS],
    pub deviations: [f64; VITALS],
    /// Per vital, the latest sound value; NaN before the first.
    pub latest: Vitals,
    pub score: f64,
    /// Per vital of the reading, its distance from the population's centre, and the filter's surprise; NaN where there is
    /// no sound value.
    pub positions: [f64; VITALS],
    pub surprises: [f64; VITALS],
    /// Per vital, what is wrong with its value.
    pub faults: [Option<Cause>; VITALS],
    /// The first vital with a fault.
    pub faulty: Option<(Vital, Cause)>,
    /// The vital that stands out most, if the reading has any sound value.
    pub top: Option<Vital>,
    pub risk: f64,
}

/// What a reading gives the trees to judge, before they do.
pub(super) struct Observation {
    pub features: Features,
    pub latest: Vitals,
    /// The device's own levels after the reading, in the vitals' units.
    pub levels: Vitals,
    pub usual: [f64; VITALS],
    pub deviations: [f64; VITALS],
    /// Per vital, how much further from the own level the value is than the average of close values, in standard
    /// deviations.
    pub spikes: [f32; VITALS],
    pub faults: [Option<Cause>; VITALS],
    /// Whether any value is there and sound.
    pub any_sound: bool,
}

impl Observation {
    /// Inputs of the two forests.
    pub fn head_inputs(&self) -> [[f32; LANES]; HEAD] {
        let mut inputs = [[0.0; LANES]; HEAD];
        features::head_inputs(&self.features, &mut inputs);
        inputs
    }

    pub fn row_inputs(&self) -> [f32; ROW] {
        let mut inputs = [0.0; ROW];
        features::row_inputs(&self.features, &self.latest, &self.levels, &mut inputs);
        inputs
    }
}

/// Lets a reading be seen. One that is not newer than the newest is judged by what is known, and teaches nothing.
pub(super) fn observe(units: &[Unit; VITALS], state: &mut DeviceState, ts_ms: i64, vitals: &Vitals) -> Observation {
    let late = state.newest_ms.is_some_and(|newest| ts_ms <= newest);
    let mut seen = Observation {
        features: [[f32::NAN; FEATURES]; VITALS],
        latest: NO_VITALS,
        levels: NO_VITALS,
        usual: [f64::NAN; VITALS],
        deviations: [0.0; VITALS],
        spikes: [0.0; VITALS],
        faults: [None; VITALS],
        any_sound: false,
    };
    let mut decay = Decay::of(1.0);
    for vital in Vital::ALL {
        let j = vital.index();
        let (unit, own) = (&units[j], &mut state.vitals[j]);
        let value = vitals[j];
        if !value.is_nan() {
            // The course is known forwards only.
            let course_fault = || if late { None } else { rules::course_fault(vital, value, ts_ms, own) };
            seen.faults[j] = rules::value_fault(vital, vitals).or_else(course_fault);
            if seen.faults[j] == Some(Cause::Flatline) && !late {
                rules::remember(value, ts_ms, own);
            }
        }
        let before = own.track;
        let track = if value.is_nan() || seen.faults[j].is_some() {
            let age_h = own.seen_ms.map_or(0.0, |seen_ms| hours(seen_ms, ts_ms));
            seen.features[j] = before.features(unit, age_h);
            before
        } else {
            seen.any_sound = true;
            let after = take(unit, own, &mut decay, ts_ms, value, late);
            seen.features[j] = after.features(unit, 0.0);
            seen.spikes[j] = after.distance(unit, unit.of_value(value) as f32).abs() - seen.features[j][ZMU].abs();
            seen.latest[j] = value;
            after
        };
        if !track.is_new() {
            if seen.latest[j].is_nan() {
                seen.latest[j] = f64::from(own.last);
            }
            let (usual, sd) = before.usual(unit);
            seen.usual[j] = usual;
            seen.deviations[j] = (seen.latest[j] - usual) / sd;
            seen.levels[j] = track.usual(unit).0;
        }
    }
    if !late {
        state.set_newest(ts_ms);
    }
    seen
}

/// Takes a sound value; gives the filter as if it were a tick.
fn take(unit: &Unit, own: &mut VitalState, decay: &mut Decay, ts_ms: i64, value: f64, late: bool) -> Track {
    let new = own.track.is_new();
    let x = unit.of_value(value);
    // A late value has no neighbours that are kept: it stands by itself.
    let apart_h = own.seen_ms.filter(|_| !late).map_or(LONGEST_H, |seen_ms| hours(seen_ms, ts_ms));
    let smooth = own.smooth.with(x, apart_h);
    let since_tick = if new { 1.0 } else { hours(own.tick_ms, ts_ms) };
    if decay.hours != since_tick {
        *decay = Decay::of(since_tick);
    }
    let after = own.track.step(unit, decay, f64::from(smooth.0));
    if !late {
        own.smooth = smooth;
        if new || since_tick >= TICK_H {
            (own.track, own.tick_ms) = (after, ts_ms);
        }
        rules::remember(value, ts_ms, own);
    }
    after
}

/// Lets a reading be seen and judged.
pub(super) fn assess(params: &Params, state: &mut DeviceState, ts_ms: i64, vitals: &Vitals) -> Assessment {
    let late = state.newest_ms.is_some_and(|newest| ts_ms <= newest);
    let seen = observe(&params.units, state, ts_ms, vitals);
    let logits = params.head.sums(&seen.head_inputs());
    let (mut contributions, mut odds) = ([0.0; VITALS], 0f32);
    for (j, f) in seen.features.iter().enumerate() {
        if f[ZMU].is_nan() {
            continue;
        }
        let beyond = (seen.spikes[j] - SPIKE).max(0.0);
        let spike = (SPIKE_WEIGHT * beyond * beyond).min(MOST_SPIKE);
        let own_odds = libm::expf(logits[j] + spike - STALE_PER_H * f[AGE]);
        odds += own_odds;
        contributions[j] = f64::from(features::turn(f) * own_odds / (1.0 + own_odds));
    }
    let evidence = if odds > 0.0 { params.row.sum(&seen.row_inputs()) + libm::logf(odds) } else { LEAST_EVIDENCE };
    let evidence = evidence.max(LEAST_EVIDENCE) + plain_evidence(&seen.features);
    let judged = state.course.against(ts_ms, evidence);
    if !late && odds > 0.0 {
        state.course.take(ts_ms, evidence);
    }
    let faulty = Vital::ALL.into_iter().find_map(|vital| seen.faults[vital.index()].map(|cause| (vital, cause)));
    let of_sound = |feature: usize| {
        std::array::from_fn(|j| {
            let sound = !vitals[j].is_nan() && seen.faults[j].is_none();
            if sound { f64::from(seen.features[j][feature]) } else { f64::NAN }
        })
    };
    Assessment {
        positions: of_sound(ZPOP),
        surprises: of_sound(INN0),
        top: if seen.any_sound { top(&contributions, &seen) } else { None },
        contributions,
        usual: seen.usual,
        deviations: seen.deviations,
        latest: seen.latest,
        score: libm::exp2(f64::from(judged) / 2.0),
        faults: seen.faults,
        faulty,
        risk: risk(state),
    }
}

/// What needs no forest to be evidence: so nothing that a plain average would find is lost to what forests have learnt to
/// disregard, and what is off their bins still counts.
fn plain_evidence(features: &Features) -> f32 {
    let seen = || features.iter().filter(|f| !f[ZMU].is_nan());
    let farthest = seen().fold(0.0, |most: f32, f| most.max(f[ZMU].abs()));
    let norm = seen().map(|f| f[E2] * f[E2]).sum::<f32>().sqrt();
    let strangers = seen().filter(|f| f[OBSERVED] < PERSONAL_H);
    let strange: f32 = strangers.map(|f| (f[ZPOP].abs() - STRANGE).max(0.0)).sum();
    OFF_SCALE_WEIGHT * (farthest - OFF_SCALE).max(0.0) + NORM_WEIGHT * norm + STRANGE_WEIGHT * strange
}

/// The sound vital whose contribution is the largest.
fn top(contributions: &[f64; VITALS], seen: &Observation) -> Option<Vital> {
    let sound = Vital::ALL.into_iter().filter(|v| seen.faults[v.index()].is_none() && !seen.latest[v.index()].is_nan());
    sound.max_by(|a, b| contributions[a.index()].abs().total_cmp(&contributions[b.index()].abs()))
}

/// The slow risk index: how ill the device's own levels look, and how restless they are. It ranks people, not moments,
/// and is no part of the score. Levels with their offset count, not single values: what does not last adds little. 1 is
/// somebody of whom nothing is known; the index doubles with every two of the population's standard deviations.
///
/// - *Pressure*, the mean of both (wide vessels lower the diastolic first), and half as much the *pulse*: low against
///   fast, as in the shock index. Half, because pain, fever and effort raise a pulse too.
/// - *Temperature*, away from the centre either way, as in SIRS and NEWS2; fever twice, since theatres and cool rooms
///   make cold, and little but illness makes fever.
/// - *Breathing*, either way: fast is in SIRS, qSOFA and NEWS2, slow is exhaustion or sedation.
/// - *Unsteadiness*: what each vital's own spread is above the usual, SpO2's too.
///
/// SpO2's level is left out: a packet doesn't say who gets oxygen, and among the sick those have the higher values.
fn risk(state: &DeviceState) -> f64 {
    let standing = |vital: Vital| state.vitals[vital.index()].track.standing();
    let pressure = f64::midpoint(standing(Vital::Systolic), standing(Vital::Diastolic));
    let circulation = 0.5 * standing(Vital::HeartRate) - pressure;
    let warmth = standing(Vital::Temperature);
    let temperature = f64::max(2.0 * warmth, -warmth);
    let breathing = standing(Vital::RespiratoryRate).abs();
    let excess = |track: &Track| f64::from(track.surprise / track.surprises).sqrt() - 1.0;
    let unsteadiness: f64 = state.vitals.iter().map(|own| excess(&own.track)).sum();
    libm::exp2((circulation + temperature + breathing + unsteadiness) / 2.0)
}

/// Whether a vital's level is the device's own by now.
pub(super) fn is_personal(state: &DeviceState, vital: Vital) -> bool {
    state.vitals[vital.index()].track.observed_h >= PERSONAL_H
}
