//! Synthetic events in unlabelled histories: what the trees learn to tell from everything else.
//!
//! The events are generic on purpose: a random few vitals, in random directions, of a random shape, length and size. What
//! the injector never shows, the trees learn to disregard, so it shows anything that bodies and sensors can do, with
//! some more weight on what is typical: vitals that go together (a third of the events), signs that go with getting worse.
//!
//! An event must not betray itself: it changes values that are there, never fills absent ones, and rounds to the sensor's
//! resolution.

use rand::RngExt;
use rand_pcg::Pcg64Mcg;

use super::population::Population;
use super::rules;
use crate::reading::{Reading, VITALS, Vital, Vitals};

/// One event may begin in every so many hours …
const WINDOW_H: f64 = 48.0;
/// … and does with this probability.
const SHARE: f64 = 0.5;
/// Nothing happens in a device's first hours, before anything is known of it.
const QUIET_H: f64 = 2.0;
/// Shortest and longest event, and spike, in hours.
const LENGTHS_H: (f64, f64) = (2.0, 16.0);
const SPIKES_H: (f64, f64) = (0.5, 2.0);
/// Smallest and largest shift, in standard deviations.
const SIZES: (f64, f64) = (0.6, 2.5);
/// Shifts scaled by the population's spread; the others by that within a person.
const OF_POPULATION: f64 = 0.4;
/// Spikes are larger than what lasts.
const SPIKE_FACTOR: f64 = 1.6;
/// Noise stays for so long, in hours.
const NOISE_H: f64 = 0.24;

/// What an event does.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    /// Values move away and come back.
    Shift(Shape),
    /// Another device's values.
    Swap,
    /// A sensor that shows too much or too little, by a factor.
    Gain,
    /// A sensor, or a body, that is less steady than usual.
    Noise,
}

/// The course of a shift.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    Step,
    Ramp,
    Saturating,
    Spike,
    Hump,
    OnOff,
    Wave,
}

const KINDS: [(Kind, f64); 4] =
    [(Kind::Shift(Shape::Step), 81.0), (Kind::Swap, 8.0), (Kind::Gain, 6.0), (Kind::Noise, 5.0)];
const SHAPES: [(Shape, f64); 7] = [
    (Shape::Step, 3.0),
    (Shape::Ramp, 3.0),
    (Shape::Saturating, 2.0),
    (Shape::Spike, 2.0),
    (Shape::Hump, 1.0),
    (Shape::OnOff, 1.0),
    (Shape::Wave, 0.5),
];
/// How many vitals are in an event that is not one of [`GROUPS`].
const COUNTS: [(usize, f64); 4] = [(1, 0.4), (2, 0.3), (3, 0.2), (4, 0.1)];
/// Vitals that go together, with temperature, which is measured rarely, and how often an event is one of these.
const GROUPS: [&[Vital]; 12] = [
    &[Vital::Temperature],
    &[Vital::Temperature],
    &[Vital::Systolic, Vital::Diastolic],
    &[Vital::Systolic, Vital::Diastolic],
    &[Vital::Systolic, Vital::Diastolic],
    &[Vital::HeartRate, Vital::RespiratoryRate],
    &[Vital::Spo2, Vital::RespiratoryRate],
    &[Vital::HeartRate, Vital::Temperature],
    &[Vital::HeartRate, Vital::Systolic, Vital::Diastolic],
    &[Vital::HeartRate, Vital::Spo2, Vital::RespiratoryRate],
    &[Vital::HeartRate, Vital::Systolic, Vital::Diastolic, Vital::RespiratoryRate],
    &[Vital::HeartRate, Vital::Systolic, Vital::Diastolic, Vital::Temperature, Vital::RespiratoryRate],
];
const GROUPED: f64 = 0.35;
/// Directions of a group's vitals: as bodies get worse, the other way, all alike, each by chance.
const DIRECTIONS: [(Directions, f64); 4] =
    [(Directions::Worse, 0.35), (Directions::Better, 0.2), (Directions::Alike, 0.3), (Directions::Chance, 0.15)];
/// How often a vital on its own goes the way of getting worse without chance being asked.
const ADVERSE_SHARE: f64 = 0.15;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Directions {
    Worse,
    Better,
    Alike,
    Chance,
}

/// Puts events into one device's readings, which are in order of time. Gives, per reading, bits of the vitals that an event
/// has changed, and [`INSIDE`] for every reading during an event.
pub(super) fn inject(
    readings: &mut [Reading],
    donor: &[Reading],
    population: &Population,
    rng: &mut Pcg64Mcg,
) -> Vec<u8> {
    let mut marks = vec![0; readings.len()];
    let (Some(first), Some(last)) = (readings.first(), readings.last()) else { return marks };
    let (first_ms, length_h) = (first.ts_ms, hours(first.ts_ms, last.ts_ms));
    let mut from_h = QUIET_H;
    while from_h < length_h {
        let to_h = (from_h + WINDOW_H).min(length_h);
        if rng.random::<f64>() < SHARE {
            let onset_ms = first_ms.saturating_add((between(rng, (from_h, to_h)) * 3_600_000.0) as i64);
            let start = readings.partition_point(|reading| reading.ts_ms < onset_ms);
            let event = Event::draw(onset_ms, donor, population, rng);
            event.put(&mut readings[start..], &mut marks[start..], population, rng);
        }
        from_h += WINDOW_H;
    }
    marks
}

/// The mark of a reading during an event, whether or not it has one of the event's vitals.
pub(super) const INSIDE: u8 = 0x80;

struct Event<'a> {
    kind: Kind,
    onset_ms: i64,
    length_h: f64,
    vitals: Vec<Vital>,
    /// By vital: shift in the vital's unit.
    sizes: Vitals,
    /// A gain's factor, a noise's size, a wave's period and phase.
    factor: f64,
    noise: f64,
    period_h: f64,
    phase: f64,
    donor: &'a [Reading],
}

impl<'a> Event<'a> {
    fn draw(onset_ms: i64, donor: &'a [Reading], population: &Population, rng: &mut Pcg64Mcg) -> Event<'a> {
        let kind = match pick(rng, &KINDS) {
            Kind::Shift(_) => Kind::Shift(pick(rng, &SHAPES)),
            other => other,
        };
        let spike = kind == Kind::Shift(Shape::Spike);
        let grouped = rng.random::<f64>() < GROUPED;
        let (vitals, directions) = if grouped {
            (GROUPS[rng.random_range(0..GROUPS.len())].to_vec(), pick(rng, &DIRECTIONS))
        } else if kind == Kind::Swap && rng.random::<f64>() < 0.7 {
            (Vital::ALL.to_vec(), Directions::Chance)
        } else {
            (some_vitals(rng), Directions::Chance)
        };
        let of_population = rng.random::<f64>() < OF_POPULATION;
        let alike = sign(rng);
        let mut sizes = [0.0; VITALS];
        for vital in &vitals {
            let own = &population[vital.index()];
            let sd = if of_population { own.sd } else { own.within_sd() };
            let sign = match directions {
                Directions::Worse => worse(*vital),
                Directions::Better => -worse(*vital),
                Directions::Alike => alike,
                Directions::Chance if rng.random::<f64>() < ADVERSE_SHARE => worse(*vital),
                Directions::Chance => sign(rng),
            };
            sizes[vital.index()] = sign * sd * between(rng, SIZES) * if spike { SPIKE_FACTOR } else { 1.0 };
        }
        let (shortest, longest) = LENGTHS_H;
        let lasting = shortest * libm::pow(longest / shortest, rng.random());
        Event {
            kind,
            onset_ms,
            length_h: if spike { between(rng, SPIKES_H) } else { lasting },
            vitals,
            sizes,
            factor: 1.0 + between(rng, (0.08, 0.3)) * sign(rng),
            noise: between(rng, (1.0, 2.5)),
            period_h: between(rng, (2.0, 6.0)),
            phase: rng.random(),
            donor: &donor[rng.random_range(0..donor.len().max(1)).min(donor.len())..],
        }
    }

    /// Changes readings from the onset on.
    fn put(&self, readings: &mut [Reading], marks: &mut [u8], population: &Population, rng: &mut Pcg64Mcg) {
        let (mut deviates, mut drawn_h) = ([0.0; VITALS], f64::NEG_INFINITY);
        for (i, (reading, mark)) in readings.iter_mut().zip(marks).enumerate() {
            let passed_h = hours(self.onset_ms, reading.ts_ms);
            if passed_h > self.length_h {
                break;
            }
            if passed_h - drawn_h >= NOISE_H {
                deviates = std::array::from_fn(|_| normal(rng));
                drawn_h = passed_h;
            }
            *mark |= INSIDE;
            for &vital in &self.vitals {
                let j = vital.index();
                let value = reading.vitals[j];
                let changed = match self.kind {
                    Kind::Shift(shape) => value + self.sizes[j] * self.course(shape, passed_h),
                    Kind::Swap => self.donor.get(i).map_or(f64::NAN, |donor| donor.vitals[j]),
                    Kind::Gain => value * self.factor,
                    Kind::Noise => value + self.noise * deviates[j] * population[j].within_sd(),
                };
                if !value.is_nan() && !changed.is_nan() {
                    reading.vitals[j] = rules::shown(vital, changed);
                    *mark |= 1 << j;
                }
            }
        }
    }

    /// How much of the shift is there, −1 to 1, after so many hours.
    fn course(&self, shape: Shape, passed_h: f64) -> f64 {
        let part = passed_h / self.length_h;
        let cycles = passed_h / self.period_h + self.phase;
        match shape {
            Shape::Step | Shape::Spike => 1.0,
            Shape::Ramp => part,
            Shape::Saturating => 1.0 - libm::exp(-4.0 * part),
            Shape::Hump => libm::sin(part * std::f64::consts::PI),
            Shape::OnOff => f64::from(u8::from((cycles * 2.0) as i64 % 2 == 0)),
            Shape::Wave => libm::sin(cycles * std::f64::consts::TAU),
        }
    }
}

fn hours(from_ms: i64, to_ms: i64) -> f64 {
    to_ms.saturating_sub(from_ms) as f64 / 3_600_000.0
}

/// The direction in which a vital goes when a body gets worse.
fn worse(vital: Vital) -> f64 {
    match vital {
        Vital::HeartRate | Vital::Temperature | Vital::RespiratoryRate => 1.0,
        Vital::Systolic | Vital::Diastolic | Vital::Spo2 => -1.0,
    }
}

fn some_vitals(rng: &mut Pcg64Mcg) -> Vec<Vital> {
    let count = pick(rng, &COUNTS);
    let mut vitals = Vital::ALL;
    for i in 0..count {
        let other = rng.random_range(i..VITALS);
        vitals.swap(i, other);
    }
    vitals[..count].to_vec()
}

fn between(rng: &mut Pcg64Mcg, (low, high): (f64, f64)) -> f64 {
    low + (high - low) * rng.random::<f64>()
}

fn sign(rng: &mut Pcg64Mcg) -> f64 {
    if rng.random::<bool>() { 1.0 } else { -1.0 }
}

/// The sum of twelve even draws: near enough to a normal distribution here, and the same on every machine.
pub(super) fn normal(rng: &mut Pcg64Mcg) -> f64 {
    (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0
}

/// One of these, by their weights.
fn pick<T: Copy>(rng: &mut Pcg64Mcg, weighted: &[(T, f64)]) -> T {
    let total: f64 = weighted.iter().map(|(_, weight)| weight).sum();
    let mut left = rng.random::<f64>() * total;
    for (value, weight) in weighted {
        if left < *weight {
            return *value;
        }
        left -= weight;
    }
    weighted[weighted.len() - 1].0
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::model::bodies::Fleet;
    use crate::model::population::adults;

    #[test]
    fn events_change_what_is_there_to_the_sensors_resolution_and_mark_it() {
        let bodies = Fleet { devices: 12, interval_ms: 3_600_000, days: 6, ..Fleet::default() }.histories();
        let mut rng = Pcg64Mcg::seed_from_u64(5);
        let (mut changed, mut inside) = (0, 0);
        for (device, history) in bodies.iter().enumerate() {
            let mut readings = history.readings.clone();
            readings.iter_mut().for_each(|reading| reading.vitals[3] = f64::NAN);
            let before = readings.clone();
            let marks = inject(&mut readings, &bodies[(device + 1) % 12].readings, &adults(), &mut rng);
            for ((was, is), mark) in before.iter().zip(&readings).zip(marks) {
                inside += usize::from(mark & INSIDE != 0);
                assert!(is.vitals[3].is_nan() && mark & 1 << 3 == 0, "absent values stay absent");
                for vital in Vital::ALL {
                    let (was, is) = (was.vitals[vital.index()], is.vitals[vital.index()]);
                    assert!(mark & 1 << vital.index() != 0 || was.to_bits() == is.to_bits());
                    let steps = is / vital.resolution();
                    assert!(is.is_nan() || (steps - steps.round()).abs() < 1e-6, "{vital:?} {is}");
                    changed += usize::from(was.to_bits() != is.to_bits() && !is.is_nan());
                }
            }
        }
        assert!(changed > 50 && inside > 50, "{changed} {inside}");
    }
}
