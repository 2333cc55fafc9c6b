//! One reading against one device's past: the arithmetic of the score.
//!
//! Per vital, a personal baseline: level and spread, learned from the device's own readings and shrunk to the
//! population's (see [`super::population`]). Three deviations from it, in units of the device's own spread:
//!
//! | part | is | finds |
//! |---|---|---|
//! | instant | this reading's | spikes; counts for less than one that lasts |
//! | fast | averaged over about 10 minutes | whatever lasts: this is the persistence that an alarm needs |
//! | slow | averaged over about 3 hours | fevers and drifts too small to stand out at any one moment |
//!
//! Each is scaled by its own usual size in the population, the largest is the vital's contribution, and the score is the
//! L2 norm of the contributions. Time constants are in hours, not in readings: a reading's weight grows with the time
//! since the last one up to that of an independent reading, so a device that sends every second learns neither faster
//! nor a smaller spread than one that sends every ten minutes. The baseline takes a Huber-clipped deviation, so that an
//! outlier moves it by little, and forgets over two days.

use crate::reading::{VITALS, Vital, Vitals};

use super::population::{Population, adults};
use super::rules;
use super::state::{DeviceState, VitalState};
use super::verdict::Cause;

/// Time constants, in hours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Times {
    /// The personal baseline's memory.
    pub base_h: f64,
    /// The fast average's memory.
    pub fast_h: f64,
    /// The slow average's memory.
    pub slow_h: f64,
    /// How far apart readings of a body must be to be nearly independent: its autocorrelation time.
    pub apart_h: f64,
}

impl Default for Times {
    fn default() -> Self {
        Times { base_h: 48.0, fast_h: 1.0 / 6.0, slow_h: 3.0, apart_h: 2.0 }
    }
}

impl Times {
    pub(super) fn are_sound(&self) -> bool {
        [self.base_h, self.fast_h, self.slow_h, self.apart_h].into_iter().all(|hours| hours > 0.0 && hours.is_finite())
    }
}

/// The parts of a vital's deviation, in the order of their factors.
pub(super) const PARTS: usize = 3;
pub(super) const INSTANT: usize = 0;
pub(super) const FAST: usize = 1;
pub(super) const SLOW: usize = 2;

/// How many independent readings the population's spread is worth when a device's own is estimated.
const SPREAD_READINGS: f64 = 6.0;
/// The baseline takes no deviation larger than this many spreads.
const HUBER: f64 = 2.5;
/// No vital counts as further away than this many spreads.
pub(super) const LARGEST_Z: f64 = 12.0;
/// Below this weight (in independent readings) a level is called the population's, not the device's own.
const PERSONAL_WEIGHT: f64 = 1.0;
/// The direction in which each vital goes when a body gets worse, for the risk index.
const ADVERSE: [f64; VITALS] = [1.0, -1.0, -0.5, 1.0, -1.0, 1.0];

/// Everything that scoring needs: the numbers of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Params {
    pub(super) population: Population,
    pub(super) times: Times,
    /// Per vital, what each part is multiplied by: one over its usual size, times its importance.
    pub(super) factors: [[f64; PARTS]; VITALS],
    /// The score from which a reading raises an alarm.
    pub(super) threshold: f64,
    prepared: [Prepared; VITALS],
}

/// What follows from a vital's population, worked out once.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Prepared {
    centre: f64,
    /// What the population is worth in readings of the device, for its level and for the sum of its squares.
    level_readings: f64,
    squares: f64,
    /// What a unit of the device's own level adds to the risk.
    risk: f64,
}

impl Params {
    pub(super) fn new(population: Population, times: Times, factors: [[f64; PARTS]; VITALS], threshold: f64) -> Params {
        let prepared = std::array::from_fn(|j| {
            let own = &population[j];
            Prepared {
                centre: own.centre,
                level_readings: own.prior_readings(),
                squares: SPREAD_READINGS * own.within_sd * own.within_sd,
                risk: ADVERSE[j] / own.total_sd(),
            }
        });
        Params { population, times, factors, threshold, prepared }
    }

    /// Before anything was learned: the published population, and parts taken at face value.
    pub(super) fn untrained(times: Times) -> Params {
        Params::new(adults(), times, [[INSTANT_FACTOR, 1.0, 1.0]; VITALS], f64::MAX)
    }

    /// The same numbers with another population.
    pub(super) fn with_population(&self, population: Population) -> Params {
        Params::new(population, self.times, self.factors, self.threshold)
    }
}

/// How much a deviation of a single reading counts beside one that lasts ten minutes.
pub(super) const INSTANT_FACTOR: f64 = 0.6;

/// What one step in time does to the averages: a function of the step alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Decay {
    step_ms: i64,
    base: f64,
    fast: f64,
    slow: f64,
    /// The step's worth in independent readings, 0 to 1: `tanh(step / 2 apart)`, the share of an independent reading
    /// that each reading of an AR(1) process is worth.
    weight: f64,
}

impl Default for Decay {
    fn default() -> Self {
        Decay { step_ms: 0, base: 1.0, fast: 1.0, slow: 1.0, weight: 0.0 }
    }
}

impl Decay {
    fn of(step_ms: i64, times: &Times) -> Decay {
        let hours = step_ms as f64 / 3_600_000.0;
        // libm's and not the platform's, so that every machine gets the same bits.
        let after = |memory_h: f64| libm::exp(-hours / memory_h);
        let correlation = after(times.apart_h);
        Decay {
            step_ms,
            base: after(times.base_h),
            fast: after(times.fast_h),
            slow: after(times.slow_h),
            weight: (1.0 - correlation) / (1.0 + correlation),
        }
    }

    /// For a vital that is seen for the first time: nothing to forget, one independent reading, and for the slow average
    /// as if an hour of it had passed.
    fn first(times: &Times) -> Decay {
        Decay { step_ms: 0, base: 1.0, fast: 0.0, slow: libm::exp(-1.0 / times.slow_h), weight: 1.0 }
    }
}

/// What a reading is, before any threshold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Assessment {
    /// Per vital, signed.
    pub contributions: [f64; VITALS],
    /// Per vital, the parts before their factors (for calibration).
    pub parts: [[f64; PARTS]; VITALS],
    /// The usual level per vital, in its unit.
    pub usual: [f64; VITALS],
    pub faults: [Option<Cause>; VITALS],
    /// L2 of all contributions, and of those without fault: the latter decides about outliers.
    pub score: f64,
    pub decision: f64,
    /// The vital without fault that contributes most, and the first one with a fault.
    pub top: Option<Vital>,
    pub faulty: Option<(Vital, Cause)>,
    pub risk: f64,
}

/// Judges a reading and, unless it is late, lets the state learn from it.
pub(super) fn assess(params: &Params, state: &mut DeviceState, ts_ms: i64, vitals: &Vitals) -> Assessment {
    let late = state.newest_ms.is_some_and(|newest| ts_ms <= newest);
    let mut result = Assessment {
        contributions: [0.0; VITALS],
        parts: [[0.0; PARTS]; VITALS],
        usual: [f64::NAN; VITALS],
        faults: [None; VITALS],
        score: 0.0,
        decision: 0.0,
        top: None,
        faulty: None,
        risk: 0.0,
    };
    let (mut squares, mut sound_squares, mut largest) = (0.0, 0.0, -1.0);
    for vital in Vital::ALL {
        let j = vital.index();
        let value = vitals[j];
        if value.is_nan() {
            continue;
        }
        let own = &mut state.vitals[j];
        let fault = rules::value_fault(vital, vitals)
            .or_else(|| if late { None } else { rules::course_fault(vital, value, ts_ms, own) });
        let decay = step(own, ts_ms, &params.times, &mut state.decay);
        let view = View::of(&params.prepared[j], own, &decay, value);

        let contribution = view.contribution(&params.factors[j]);
        result.parts[j] = view.parts;
        result.contributions[j] = contribution;
        result.usual[j] = view.centre + view.offset;
        result.faults[j] = fault;
        squares += contribution * contribution;
        if let Some(cause) = fault {
            result.faulty = result.faulty.or(Some((vital, cause)));
            if cause == Cause::Flatline {
                fade(own, &decay);
                rules::remember(value, ts_ms, own);
            }
            continue;
        }
        sound_squares += contribution * contribution;
        if contribution.abs() > largest {
            largest = contribution.abs();
            result.top = Some(vital);
        }
        if !late {
            view.learn(own, &decay);
            rules::remember(value, ts_ms, own);
        }
    }
    if !late {
        state.newest_ms = Some(ts_ms);
    }
    result.score = f64::sqrt(squares);
    result.decision = f64::sqrt(sound_squares);
    result.risk = risk(params, state);
    result
}

/// The decay since this vital was last seen. A late reading's distance counts the same in either direction.
fn step(own: &VitalState, ts_ms: i64, times: &Times, cached: &mut Decay) -> Decay {
    let Some(seen_ms) = own.seen_ms else { return Decay::first(times) };
    let step_ms = ts_ms.saturating_sub(seen_ms).saturating_abs();
    if cached.step_ms != step_ms {
        *cached = Decay::of(step_ms, times);
    }
    *cached
}

/// One vital of one reading, seen from the device's baseline.
struct View {
    centre: f64,
    /// The device's own level, relative to the population's centre.
    offset: f64,
    /// The reading's distance from it, clipped for learning.
    clipped: f64,
    /// instant, fast, slow; in own spreads.
    parts: [f64; PARTS],
}

impl View {
    fn of(population: &Prepared, own: &VitalState, decay: &Decay, value: f64) -> View {
        let weight = f64::from(own.weight) * decay.base;
        // One over the readings that the level rests on.
        let share = 1.0 / (population.level_readings + weight);
        let offset = f64::from(own.shift) * decay.base * share;
        let variance = (population.squares + f64::from(own.square) * decay.base) / (SPREAD_READINGS + weight);
        // What the next reading may do, and how little is known of the level yet.
        let sd = (variance * (1.0 + share)).sqrt();
        let distance = value - population.centre - offset;
        let z = (distance / sd).clamp(-LARGEST_Z, LARGEST_Z);
        View {
            centre: population.centre,
            offset,
            clipped: distance.clamp(-HUBER * sd, HUBER * sd),
            parts: [
                z,
                f64::from(own.fast) * decay.fast + z * (1.0 - decay.fast),
                f64::from(own.slow) * decay.slow + z * (1.0 - decay.slow),
            ],
        }
    }

    /// The part that stands out most, scaled.
    fn contribution(&self, factors: &[f64; PARTS]) -> f64 {
        let scaled = [self.parts[0] * factors[0], self.parts[1] * factors[1], self.parts[2] * factors[2]];
        scaled.into_iter().fold(0.0, |most: f64, part| if part.abs() > most.abs() { part } else { most })
    }

    fn learn(&self, own: &mut VitalState, decay: &Decay) {
        own.shift = (f64::from(own.shift) * decay.base + decay.weight * (self.offset + self.clipped)) as f32;
        own.square = (f64::from(own.square) * decay.base + decay.weight * self.clipped * self.clipped) as f32;
        own.weight = (f64::from(own.weight) * decay.base + decay.weight) as f32;
        own.fast = self.parts[FAST] as f32;
        own.slow = self.parts[SLOW] as f32;
    }
}

/// Lets time pass for a vital without learning from it.
fn fade(own: &mut VitalState, decay: &Decay) {
    let fade = |value: &mut f32, part: f64| *value = (f64::from(*value) * part) as f32;
    fade(&mut own.shift, decay.base);
    fade(&mut own.square, decay.base);
    fade(&mut own.weight, decay.base);
    fade(&mut own.fast, decay.fast);
    fade(&mut own.slow, decay.slow);
}

/// The slow risk index: how far the vitals have been from their usual levels over the last hours, and how far the
/// device's own levels lie on the population's bad side. It ranks people, not moments, and is no part of the score.
fn risk(params: &Params, state: &DeviceState) -> f64 {
    let (mut squares, mut levels) = (0.0, 0.0);
    for (own, population) in state.vitals.iter().zip(&params.prepared) {
        let slow = f64::from(own.slow);
        squares += slow * slow;
        let offset = f64::from(own.shift) / (population.level_readings + f64::from(own.weight));
        levels += f64::max(0.0, population.risk * offset);
    }
    squares.sqrt() + levels / 2.5
}

/// Whether a vital's level is the device's own by now.
pub(super) fn is_personal(state: &DeviceState, vital: Vital) -> bool {
    f64::from(state.vitals[vital.index()].weight) > PERSONAL_WEIGHT
}
