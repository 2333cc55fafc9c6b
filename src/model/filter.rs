//! One vital of one device through time: what is kept of it, and how a value changes that.
//!
//! All values are in the population's units: distance from its centre in standard deviations.
//!
//! A two-component Kalman filter splits each value into the device's own level, an offset that comes and goes over hours
//! (an Ornstein–Uhlenbeck process) and noise; a deviation beyond 2.5 of its standard deviations is clipped (Huber), so
//! that an outlier moves the level by little. Beside it run averages of several memories, from an hour to two days, of
//! the value, of its distance from the level and of the filter's surprise.
//!
//! Time constants are in hours and not in readings. Values closer than [`TICK_H`] are averaged ([`Smooth`]) and judged
//! against the last tick, and only a tick is learnt from: so a device that sends every second learns neither faster nor
//! a smaller spread than one that sends every quarter of an hour.

use super::population::VitalPopulation;

/// Memory of the average over close values, in hours.
const SMOOTH_H: f64 = 0.1;
/// After a silence longer than this nothing of it is left.
const SMOOTH_REACH_H: f64 = 0.5;
/// What is learnt from is at least this far apart, in hours: a little under a quarter, as clocks jitter.
pub(super) const TICK_H: f64 = 0.24;
/// A tick is taken to be no shorter than this, in hours, when its change is judged.
const SHORTEST_H: f64 = 0.05;
/// No value counts as further from the population's centre than this many standard deviations.
const FARTHEST: f64 = 16.0;
/// Independent values that the population's spread is worth when a device's own is estimated.
const SPREAD_VALUES: f64 = 6.0;
/// The level takes no deviation larger than this many standard deviations.
const HUBER: f64 = 2.5;
/// An own level wanders by the population's variance of levels in this many hours.
const LEVEL_WANDER_H: f64 = 400.0;

/// A vital's population in its own units, and what follows from it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Unit {
    pub centre: f64,
    pub sd: f64,
    /// Variances, see [`VitalPopulation`].
    between: f64,
    wander: f64,
    noise: f64,
    within: f64,
    between_sd: f64,
    wander_sd: f64,
    pub within_sd: f64,
    /// The offset's decay is the 48-hour decay to this power.
    power: u32,
}

impl Unit {
    pub fn of(population: &VitalPopulation) -> Unit {
        let variance = population.sd * population.sd;
        let (between, wander, noise) =
            (population.between / variance, population.wander / variance, population.noise / variance);
        Unit {
            centre: population.centre,
            sd: population.sd,
            between,
            wander,
            noise,
            within: wander + noise,
            between_sd: between.sqrt(),
            wander_sd: wander.sqrt(),
            within_sd: (wander + noise).sqrt(),
            power: (48.0 / population.tau_h).round() as u32,
        }
    }

    /// A value in the population's units.
    pub fn of_value(&self, value: f64) -> f64 {
        ((value - self.centre) / self.sd).clamp(-FARTHEST, FARTHEST)
    }
}

/// What a step in time leaves of averages of 48, 24, … hours: powers of one exponential, libm's and not the platform's, so
/// that every machine gets the same bits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Decay {
    pub hours: f64,
    k48: f64,
    pub k24: f64,
    k12: f64,
    k6: f64,
    k5: f64,
    k3: f64,
    k2: f64,
    /// Of 1.5 hours.
    pub k1: f64,
}

impl Decay {
    pub fn of(hours: f64) -> Decay {
        let k48 = libm::exp(-hours / 48.0);
        let k24 = k48 * k48;
        let k12 = k24 * k24;
        let k6 = k12 * k12;
        let k3 = k6 * k6;
        // 4.8 and 2 hours are called 5 and 2.
        Decay { hours, k48, k24, k12, k6, k5: k6 * k24, k3, k2: k3 * k6, k1: k3 * k3 }
    }

    /// The 48-hour decay to a power, by squaring.
    fn power(&self, mut power: u32) -> f64 {
        let (mut result, mut base) = (1.0, self.k48);
        while power > 0 {
            if power & 1 == 1 {
                result *= base;
            }
            base *= base;
            power >>= 1;
        }
        result
    }
}

/// The average over close values.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Smooth(pub f32);

impl Smooth {
    /// The average with a value that came `hours` after the last one.
    pub fn with(self, x: f64, hours: f64) -> Smooth {
        let keep = if hours < SMOOTH_REACH_H { libm::exp(-hours / SMOOTH_H) } else { 0.0 };
        Smooth((x + keep * (f64::from(self.0) - x)) as f32)
    }
}

/// What is kept of one vital. Every field lies on the grid of its stored form, see [`Track::on_grid`].
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Track {
    /// Hours that were observed, the first value counting for one; 0 before it. At most 1,000.
    pub observed_h: f32,
    /// The own level, and the offset from it.
    pub level: f32,
    pub offset: f32,
    /// Their covariance.
    pub p11: f32,
    pub p12: f32,
    pub p22: f32,
    /// Sum of squared surprises and their number, over two days: the own spread against the population's.
    pub surprise: f32,
    pub surprises: f32,
    /// Averages of the value over 24, 6, 3 and 1.5 hours.
    pub l24: f32,
    pub l6: f32,
    pub l3: f32,
    pub l1: f32,
    /// Averages of the distance from the own level over 2, 5 and 12 hours, and of that from the centre over 2.
    pub e2: f32,
    pub e5: f32,
    pub e12: f32,
    pub e2p: f32,
    /// Cumulated sums of what lies above and below the own level.
    pub up: f32,
    pub down: f32,
    /// Average of the squared surprise over 5 hours.
    pub unrest: f32,
    /// The last tick's value, surprise and change.
    pub value: f32,
    pub inn0: f32,
    pub change: f32,
}

/// Places of a vital's features. Those before [`SCALE`] turn their sign with the deviation.
pub(super) const ZPOP: usize = 0;
pub(super) const INN: usize = 1;
pub(super) const ZMU: usize = 2;
pub(super) const Z24: usize = 3;
const Z6: usize = 4;
pub(super) const E2: usize = 5;
pub(super) const E5: usize = 6;
const E12: usize = 7;
pub(super) const CHANGE: usize = 8;
pub(super) const FS: usize = 9;
const OFFSET: usize = 10;
const LEVEL: usize = 11;
pub(super) const FS24: usize = 12;
pub(super) const E2P: usize = 13;
const FS3: usize = 14;
pub(super) const SCALE: usize = 15;
pub(super) const AGE: usize = 16;
pub(super) const UNREST: usize = 17;
pub(super) const INN0: usize = 18;
pub(super) const FADING: usize = 19;
pub(super) const UP: usize = 20;
pub(super) const DOWN: usize = 21;
pub(super) const OBSERVED: usize = 22;
/// How many features a vital has.
pub(super) const FEATURES: usize = 23;

/// A vital's features; all NaN before its first value.
pub(super) type VitalFeatures = [f32; FEATURES];

impl Track {
    pub fn new(unit: &Unit) -> Track {
        Track {
            p11: unit.between as f32,
            p22: unit.wander as f32,
            surprise: SPREAD_VALUES as f32,
            surprises: SPREAD_VALUES as f32,
            ..Track::default()
        }
        .on_grid()
    }

    pub fn is_new(&self) -> bool {
        self.observed_h == 0.0
    }

    /// The track after the value `x`, a step of `decay` after the last tick.
    pub fn step(&self, unit: &Unit, decay: &Decay, x: f64) -> Track {
        let old = |value: f32| f64::from(value);
        let first = self.is_new();
        let hours = decay.hours.max(SHORTEST_H);
        // What the value is worth beside one that stands for an hour.
        let worth = if first { 1.0 } else { hours.min(1.0) };

        // Predict.
        let keep = decay.power(unit.power);
        let (level, offset) = (old(self.level), old(self.offset) * keep);
        let p12 = old(self.p12) * keep;
        let p22 = old(self.p22) * keep * keep + unit.wander * (1.0 - keep * keep);
        let p11 = (old(self.p11) + unit.between * (hours / LEVEL_WANDER_H).min(1.0)).min(2.0 * unit.between);
        let variance = p11 + 2.0 * p12 + p22 + unit.noise;
        let sd = variance.sqrt();
        let surprise = x - level - offset;
        let spread = (old(self.surprise) / old(self.surprises)).sqrt();
        let inn0 = surprise / sd;

        // Correct.
        let clip = (HUBER * sd * spread / surprise.abs().max(1e-12)).min(1.0) * worth;
        let (gain1, gain2) = ((p11 + p12) / variance, (p12 + p22) / variance);

        let z = ((x - level) / (p11 + unit.within).sqrt()).clamp(-6.0, 6.0);
        let change =
            if first { 0.0 } else { (x - old(self.value)) / (2.0 * (unit.noise + unit.wander * (1.0 - keep))).sqrt() };
        let mix = |k: f64, before: f32, value: f64| (k * old(before) + (1.0 - k) * value) as f32;
        let start = |part: f64, k: f64, before: f32, value: f64| {
            if first { (part * value) as f32 } else { mix(k, before, value) }
        };
        let observed_h = old(self.observed_h) + worth;
        // As an average of everything while young, worth `prior` hours at the centre at first.
        let average = |before: f32, k: f64, prior: f64| {
            let gain = (1.0 - k).max((worth / (observed_h + prior)).min(1.0));
            (old(before) + gain * (x - old(before))) as f32
        };
        let cumulate =
            |before: f32, z: f64| (old(before) * decay.k24 + hours.min(3.0) * (z - 0.5)).clamp(0.0, 20.0) as f32;
        let calm = (inn0 / spread).clamp(-4.0, 4.0);
        Track {
            observed_h: observed_h.min(1000.0) as f32,
            level: (level + gain1 * clip * surprise) as f32,
            offset: (offset + gain2 * clip * surprise) as f32,
            p11: (p11 - clip * gain1 * (p11 + p12)) as f32,
            p12: (p12 - clip * gain1 * (p12 + p22)) as f32,
            p22: (p22 - clip * gain2 * (p12 + p22)) as f32,
            surprise: (SPREAD_VALUES
                + decay.k48 * (old(self.surprise) - SPREAD_VALUES)
                + worth * (inn0 * inn0).min(9.0)) as f32,
            surprises: (SPREAD_VALUES + decay.k48 * (old(self.surprises) - SPREAD_VALUES) + worth) as f32,
            l24: average(self.l24, decay.k24, 2.0),
            l6: average(self.l6, decay.k6, 1.0),
            l3: average(self.l3, decay.k3, 0.0),
            l1: average(self.l1, decay.k1, 0.0),
            e2: start(0.3, decay.k2, self.e2, z),
            e5: start(0.2, decay.k5, self.e5, z),
            e12: start(0.1, decay.k12, self.e12, z),
            e2p: start(0.5, decay.k2, self.e2p, x.clamp(-6.0, 6.0)),
            up: cumulate(self.up, z),
            down: cumulate(self.down, -z),
            unrest: if first { 1.0 } else { mix(decay.k5, self.unrest, calm * calm) },
            value: x as f32,
            inn0: inn0 as f32,
            change: change as f32,
        }
        .on_grid()
    }

    /// The features of the last tick, `age_h` hours after the vital was last seen.
    pub fn features(&self, unit: &Unit, age_h: f64) -> VitalFeatures {
        if self.is_new() {
            return [f32::NAN; FEATURES];
        }
        let within_sd = unit.within_sd as f32;
        let spread = (self.surprise / self.surprises).sqrt();
        let held = (self.observed_h + 2.0).min(24.5);
        let between_share = (2.0 * unit.between / (unit.between + unit.within)) as f32;
        let mut f = [0.0; FEATURES];
        f[ZPOP] = self.value;
        f[INN] = self.inn0 / spread;
        f[ZMU] = self.distance(unit, self.value);
        f[Z24] = (self.value - self.l24) / (within_sd * (1.0 + between_share / held).sqrt());
        f[Z6] = (self.value - self.l6) / within_sd;
        f[E2] = self.e2;
        f[E5] = self.e5;
        f[E12] = self.e12;
        f[CHANGE] = self.change;
        f[FS] = (self.l1 - self.l6) / within_sd;
        f[OFFSET] = self.offset / unit.wander_sd as f32;
        f[LEVEL] = self.level / unit.between_sd as f32;
        f[FS24] = (self.l1 - self.l24) / within_sd;
        f[E2P] = self.e2p;
        f[FS3] = (self.l3 - self.l24) / within_sd;
        f[SCALE] = spread;
        f[AGE] = age_h.min(48.0) as f32;
        f[UNREST] = self.unrest.sqrt();
        f[INN0] = self.inn0;
        f[FADING] = self.e12 - self.e2;
        f[UP] = self.up;
        f[DOWN] = self.down;
        f[OBSERVED] = self.observed_h.min(30.0);
        f
    }

    /// How far a value lies from the own level, in standard deviations.
    pub fn distance(&self, unit: &Unit, value: f32) -> f32 {
        (value - self.level) / (self.p11 + unit.within as f32).sqrt()
    }

    /// The usual value of the device, and its own standard deviation around it.
    pub fn usual(&self, unit: &Unit) -> (f64, f64) {
        let spread = f64::from(self.surprise / self.surprises).sqrt();
        (unit.centre + f64::from(self.level) * unit.sd, unit.within_sd * spread * unit.sd)
    }

    /// How far the level and the offset lie from the population's centre.
    pub fn standing(&self) -> f64 {
        f64::from(self.level + self.offset)
    }

    /// The numbers with the fineness that the stored form has: scoring goes on from a stored state to the bit.
    fn on_grid(mut self) -> Track {
        for (field, grid) in self.fields_mut() {
            *field = grid.nearest(*field);
        }
        self
    }

    /// The fields that are stored in 16 bits, and the grid of each.
    pub(super) fn fields_mut(&mut self) -> [(&mut f32, Grid); 19] {
        const HOURS: Grid = Grid { steps: 64.0, signed: false };
        const VARIANCE: Grid = Grid { steps: 30_000.0, signed: false };
        const COVARIANCE: Grid = Grid { steps: 30_000.0, signed: true };
        const SUM: Grid = Grid { steps: 128.0, signed: false };
        const VALUE: Grid = Grid { steps: 2_000.0, signed: true };
        const DISTANCE: Grid = Grid { steps: 4_096.0, signed: true };
        const CUMULATED: Grid = Grid { steps: 2_048.0, signed: false };
        const SQUARE: Grid = Grid { steps: 4_000.0, signed: false };
        const SURPRISE: Grid = Grid { steps: 1_000.0, signed: true };
        [
            (&mut self.observed_h, HOURS),
            (&mut self.p11, VARIANCE),
            (&mut self.p12, COVARIANCE),
            (&mut self.p22, VARIANCE),
            (&mut self.surprise, SUM),
            (&mut self.surprises, SUM),
            (&mut self.l24, VALUE),
            (&mut self.l6, VALUE),
            (&mut self.l3, VALUE),
            (&mut self.l1, VALUE),
            (&mut self.e2, DISTANCE),
            (&mut self.e5, DISTANCE),
            (&mut self.e12, DISTANCE),
            (&mut self.e2p, DISTANCE),
            (&mut self.up, CUMULATED),
            (&mut self.down, CUMULATED),
            (&mut self.unrest, SQUARE),
            (&mut self.inn0, SURPRISE),
            (&mut self.change, SURPRISE),
        ]
    }
}

/// A grid of numbers that fit in 16 bits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    /// Steps per unit.
    steps: f32,
    signed: bool,
}

impl Grid {
    fn nearest(self, value: f32) -> f32 {
        self.value(self.code(value))
    }

    /// The place of a value on the grid, the nearest end for one beyond it.
    pub fn code(self, value: f32) -> u16 {
        let steps = (value * self.steps).round_ties_even();
        // `as` saturates, and takes NaN to 0.
        if self.signed { (steps as i16).cast_unsigned() } else { steps as u16 }
    }

    /// The value at a place.
    pub fn value(self, code: u16) -> f32 {
        let steps = if self.signed { f32::from(code.cast_signed()) } else { f32::from(code) };
        steps / self.steps
    }
}
