//! Unlabelled histories to a model.
//!
//! 1. Each device gives at most one value per vital and hour to the estimate of the population, so that talkative
//!    devices do not outweigh the others; medians and quantiles, so that the window's outliers don't matter.
//! 2. Each part of the score is scaled to its own usual size: a quantile of it over time, on all devices.
//! 3. Devices are dealt into folds by their names and the seed. Each fold is held back once: scored with the population
//!    of the others, and counted under every threshold. From these counts comes the threshold ([`super::calibrate`]).
//!
//! The same data, options and seed give the same bits, whatever the order of the histories, the number of threads or the
//! machine: sums over devices are of whole numbers or in order of the devices' names, and functions come from `libm`.

use std::thread;

use thiserror::Error;

use crate::reading::{Reading, VITALS, Vital};

use super::Model;
use super::artifact::{Card, HeldBack, TrainedOn};
use super::calibrate::{Counts, Curve, GRID, Watch, grid};
use super::population::{self, LEAST_VALUES, OwnLevel, adults};
use super::rules;
use super::score::{self, FAST, INSTANT, INSTANT_FACTOR, PARTS, Params, Times};
use super::state::DeviceState;

/// False alarm episodes per device and day when nobody says otherwise.
pub const DEFAULT_BUDGET: f64 = 0.25;

/// What one device sent.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub device_id: String,
    /// In order of their time: one that is older than its predecessor teaches nothing.
    pub readings: Vec<Reading>,
}

/// How to train.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOptions {
    /// Deals devices into folds.
    pub seed: u64,
    /// The alarm budget: false alarm episodes per device and day.
    pub alarms_per_device_day: f64,
    /// How long the averages remember.
    pub times: Times,
    /// Threads to use; 0 for as many as the machine has. Changes the speed only.
    pub threads: usize,
}

impl Default for TrainOptions {
    fn default() -> Self {
        TrainOptions { seed: 1, alarms_per_device_day: DEFAULT_BUDGET, times: Times::default(), threads: 0 }
    }
}

/// Why there is no model.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum TrainError {
    #[error("training a model: there are no readings with vitals to learn from; import or ingest some first")]
    NoData,
    #[error("setting the alarm budget: {budget} alarms per device and day can't be kept; give a number above 0")]
    Budget { budget: f64 },
    #[error(
        "training a model: a time constant is not a positive number of hours; leave them as they are, or correct it"
    )]
    Times,
}

/// Devices are dealt into this many folds.
const FOLDS: u64 = 4;
/// With fewer devices, none is held back.
const LEAST_DEVICES: usize = 8;
/// Hourly values of one device that count towards the population, at most.
const MOST_VALUES: usize = 1024;
const HOUR_MS: i64 = 3_600_000;

/// Trains a model on what devices sent, without labels.
///
/// # Errors
/// [`TrainError`] when there is nothing to learn from, or an option can't be.
pub fn train(histories: &[History], options: &TrainOptions) -> Result<Model, TrainError> {
    let budget = sound_budget(options.alarms_per_device_day)?;
    if !options.times.are_sound() {
        return Err(TrainError::Times);
    }
    let mut histories: Vec<&History> = histories.iter().filter(|history| has_vitals(history)).collect();
    histories.sort_by(|a, b| a.device_id.cmp(&b.device_id));
    if histories.is_empty() {
        return Err(TrainError::NoData);
    }
    let own_levels: Vec<[Option<OwnLevel>; VITALS]> =
        by_thread(&histories, options.threads, |levels: &mut Vec<_>, history| levels.push(own_levels(history)))
            .into_iter()
            .flatten()
            .collect();
    let hold_back = histories.len() >= LEAST_DEVICES;
    let population = |held: Option<u64>| {
        let kept =
            histories.iter().zip(&own_levels).filter(|(history, _)| Some(fold_of(options.seed, history)) != held);
        // The prior weighs as much beside fewer devices, or scores of a fold would be a little lower than the model's.
        let prior_devices = population::PRIOR_DEVICES * kept.clone().count() as f64 / histories.len() as f64;
        population::estimate(kept.map(|(_, levels)| levels), &adults(), prior_devices)
    };
    let mut params = Params::untrained(options.times).with_population(population(None));
    params.factors = factors(&histories, &params, options.threads);

    let held: Vec<Params> = (0..FOLDS)
        .map(|fold| if hold_back { params.with_population(population(Some(fold))) } else { params.clone() })
        .collect();
    let counts = count_alarms(&histories, options, &held);

    let held_back = HeldBack {
        devices: if hold_back { counts.devices } else { 0 },
        device_days: counts.device_days(),
        artifacts_per_device_day: counts.rate(counts.artifacts as f64),
        ..HeldBack::default()
    };
    let mut card = Card::new(&params, options.seed, trained_on(&histories), held_back);
    card.warnings = warnings(&histories, &own_levels, hold_back);
    Ok(Model::assemble(params, Curve::of(&counts), card, budget))
}

/// The budget, if it is one.
pub(super) fn sound_budget(budget: f64) -> Result<f64, TrainError> {
    if budget > 0.0 && budget.is_finite() { Ok(budget) } else { Err(TrainError::Budget { budget }) }
}

fn has_vitals(history: &History) -> bool {
    history.readings.iter().any(|reading| reading.vitals.iter().any(|value| !value.is_nan()))
}

/// A device's fold: FNV-1a of its name, then a finaliser (SplitMix64's) so that all bits count.
fn fold_of(seed: u64, history: &History) -> u64 {
    let hash = history
        .device_id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325 ^ seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) % FOLDS
}

/// What each thread makes of its share of the histories: a `T` that `work` adds every history to. Shares are consecutive
/// and in order.
fn by_thread<T: Default + Send>(
    histories: &[&History],
    threads: usize,
    work: impl Fn(&mut T, &History) + Sync,
) -> Vec<T> {
    let threads = match threads {
        0 => thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let share = histories.len().div_ceil(threads).max(1);
    let work = &work;
    let fold = |part: &[&History]| {
        let mut sum = T::default();
        part.iter().for_each(|history| work(&mut sum, history));
        sum
    };
    thread::scope(|scope| {
        let parts: Vec<_> = histories.chunks(share).map(|part| scope.spawn(move || fold(part))).collect();
        // A thread's panic is this thread's: there is nothing sensible to go on with.
        parts.into_iter().map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

/// One device's own levels, from the first sound value of every hour; of a long history, every so many hours.
fn own_levels(history: &History) -> [Option<OwnLevel>; VITALS] {
    let mut values: [Vec<f64>; VITALS] = Default::default();
    let mut hours: [Option<i64>; VITALS] = [None; VITALS];
    for reading in &history.readings {
        let hour = Some(reading.ts_ms.div_euclid(HOUR_MS));
        for vital in Vital::ALL {
            let j = vital.index();
            let value = reading.vitals[j];
            if !value.is_nan() && hours[j] != hour && rules::value_fault(vital, &reading.vitals).is_none() {
                values[j].push(value);
                hours[j] = hour;
            }
        }
    }
    values.map(|all| {
        let step = all.len().div_ceil(MOST_VALUES).max(1);
        OwnLevel::of(&mut all.into_iter().step_by(step).collect::<Vec<_>>())
    })
}

/// Bins of a part's absolute size, in own spreads.
const BINS: usize = 240;
const BIN: f64 = score::LARGEST_Z / BINS as f64;
/// The quantile of a part's absolute size that gives its scale: low enough not to be moved by a fleet whose devices spend
/// a tenth of their time in events.
const SCALE_QUANTILE: f64 = 0.8;
/// That quantile of a normal distribution's absolute values.
const NORMAL_QUANTILE: f64 = 1.2816;

/// One over each part's usual size, times its importance.
fn factors(histories: &[&History], params: &Params, threads: usize) -> [[f64; PARTS]; VITALS] {
    let mut sum = Sizes::default();
    for part in by_thread(histories, threads, |sizes: &mut Sizes, history| sizes.add(history, params)) {
        for (sum, part) in sum.0.iter_mut().flatten().flatten().zip(part.0.iter().flatten().flatten()) {
            *sum += part;
        }
    }
    let mut factors = params.factors;
    for (j, vital) in sum.0.iter().enumerate() {
        for (part, sizes) in vital.iter().enumerate() {
            let importance = if part == INSTANT { INSTANT_FACTOR } else { 1.0 };
            factors[j][part] = importance / scale(sizes).unwrap_or(1.0);
        }
        // An instant is made of the same stuff as the minutes around it: never scaled to less than they are.
        factors[j][INSTANT] = factors[j][INSTANT].min(INSTANT_FACTOR * factors[j][FAST]);
    }
    factors
}

/// A part's usual size, from its histogram, in own spreads; kept within a quarter and three.
fn scale(sizes: &[u64; BINS]) -> Option<f64> {
    let total: u64 = sizes.iter().sum();
    let wanted = (total as f64 * SCALE_QUANTILE) as u64;
    let mut seen = 0;
    let bin = sizes.iter().position(|&size| {
        seen += size;
        seen > wanted
    })?;
    Some(((bin as f64 + 0.5) * BIN / NORMAL_QUANTILE).clamp(0.25, 3.0))
}

/// For how long (in milliseconds, at most an hour a reading) each part of each vital had which size.
struct Sizes(Vec<[[u64; BINS]; PARTS]>);

impl Default for Sizes {
    fn default() -> Self {
        Sizes(vec![[[0; BINS]; PARTS]; VITALS])
    }
}

impl Sizes {
    fn add(&mut self, history: &History, params: &Params) {
        let mut state = DeviceState::new(0);
        for reading in &history.readings {
            let newest = state.newest_ms();
            let seen = score::assess(params, &mut state, reading.ts_ms, &reading.vitals);
            let Some(step_ms) = newest.map(|newest| reading.ts_ms.saturating_sub(newest)) else { continue };
            let weight = step_ms.clamp(0, HOUR_MS) as u64;
            for j in 0..VITALS {
                if reading.vitals[j].is_nan() || seen.faults[j].is_some() {
                    continue;
                }
                for (sizes, part) in self.0[j].iter_mut().zip(seen.parts[j]) {
                    sizes[((part.abs() / BIN) as usize).min(BINS - 1)] += weight;
                }
            }
        }
    }
}

/// Alarm episodes of every device under every threshold, each scored by the model of the other folds.
fn count_alarms(histories: &[&History], options: &TrainOptions, held: &[Params]) -> Counts {
    let thresholds: [f64; GRID] = std::array::from_fn(grid);
    let mut sum = Counts::default();
    for part in by_thread(histories, options.threads, |counts: &mut Counts, history| {
        let params = &held[fold_of(options.seed, history) as usize];
        let mut watch = Watch::new(&thresholds, counts);
        let mut state = DeviceState::new(0);
        for reading in &history.readings {
            let seen = score::assess(params, &mut state, reading.ts_ms, &reading.vitals);
            watch.take(reading.ts_ms, seen.top.map(|_| seen.decision), seen.faulty.is_some());
        }
        watch.finish();
    }) {
        sum.add(&part);
    }
    sum
}

fn trained_on(histories: &[&History]) -> TrainedOn {
    let times = || histories.iter().flat_map(|history| &history.readings).map(|reading| reading.ts_ms);
    TrainedOn {
        devices: histories.len() as u64,
        readings: histories.iter().map(|history| history.readings.len() as u64).sum(),
        from_ms: times().min(),
        to_ms: times().max(),
    }
}

fn warnings(histories: &[&History], levels: &[[Option<OwnLevel>; VITALS]], hold_back: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    if !hold_back {
        warnings.push(format!(
            "trained on {} of the {LEAST_DEVICES} devices that it takes to hold some back: the threshold was set on the devices that the model learned from",
            histories.len()
        ));
    }
    for vital in Vital::ALL {
        if levels.iter().all(|device| device[vital.index()].is_none()) {
            warnings.push(format!(
                "no device has sound values of {} in {LEAST_VALUES} hours: its population is the published one",
                vital.label()
            ));
        }
    }
    warnings
}
