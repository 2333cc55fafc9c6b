//! Unlabelled histories to a model.
//!
//! 1. Each device gives at most one value per vital and hour to the population ([`super::population`]), so that talkative
//!    devices do not outweigh the others; medians and clipped differences, so that the window's outliers don't matter.
//! 2. Devices are dealt into folds by their names and the seed. With enough history, all folds but one teach the forests
//!    ([`super::learn`]); the last is held back. With less, the built-in model's forests are taken: what they are asked
//!    is in the population's and the device's own units, so they fit any fleet.
//! 3. Held-back devices are scored and counted under every threshold; from these counts comes the threshold
//!    ([`super::calibrate`]). Forests that have seen none of the devices leave every fold to be held back once, scored
//!    with the population of the others.
//!
//! The same data, options and seed give the same bits, whatever the order of the histories, the number of threads or the
//! machine: sums are of whole numbers or in order of the devices' names, and functions come from `libm`.

use std::sync::OnceLock;

use thiserror::Error;

use crate::reading::{Reading, VITALS, Vital};

use super::Model;
use super::artifact::{Card, HeldBack, TrainedOn};
use super::calibrate::{Counts, Curve, GRID, Watch, grid};
use super::drift::{Profile, Sample};
use super::grown::Growth;
use super::learn::{self, Forests, learn};
use super::population::{self, APART_H, LEAST_VALUES, Series, adults};
use super::rules;
use super::score::{self, Assessment, Params};
use super::state::DeviceState;
use super::synthetic;
use super::threads;

/// False alarm episodes per device and day when nobody says otherwise.
pub const DEFAULT_BUDGET: f64 = 0.25;

/// What one device sent.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub device_id: String,
    /// In order of their time: one that is older than its predecessor teaches nothing.
    pub readings: Vec<Reading>,
}

impl History {
    /// Whether any reading has any vital.
    pub fn has_vitals(&self) -> bool {
        self.readings.iter().any(|reading| reading.vitals.iter().any(|value| !value.is_nan()))
    }
}

/// How to train.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOptions {
    /// Deals devices into folds, and draws the synthetic events.
    pub seed: u64,
    /// The alarm budget: false alarm episodes per device and day.
    pub alarms_per_device_day: f64,
    /// Threads to use; 0 for as many as the machine has. Changes the speed only.
    pub threads: usize,
}

impl Default for TrainOptions {
    fn default() -> Self {
        TrainOptions { seed: 1, alarms_per_device_day: DEFAULT_BUDGET, threads: 0 }
    }
}

/// Why there is no model.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum TrainError {
    #[error("training a model: there are no readings with vitals to learn from; import or ingest some first")]
    NoData,
    #[error("setting the alarm budget: {budget} alarms per device and day can't be kept; give a number above 0")]
    Budget { budget: f64 },
}

/// Devices are dealt into this many folds.
const FOLDS: u64 = 5;
/// The fold that is held back when forests are learnt.
const HELD_FOLD: u64 = 0;
/// With fewer devices, none is held back.
const LEAST_DEVICES: usize = 8;
/// With fewer rows than this (about one an hour of each device), forests are not learnt.
const LEAST_ROWS: usize = 10_000;
/// Nor with fewer devices.
const LEAST_FOREST_DEVICES: usize = 100;
/// Hourly values of one device that count towards the population, at most.
const MOST_VALUES: usize = 1024;

/// Trains a model on what devices sent, without labels.
///
/// # Errors
/// [`TrainError`] when there is nothing to learn from, or an option can't be.
pub fn train(histories: &[History], options: &TrainOptions) -> Result<Model, TrainError> {
    train_on(histories, options, &mut Growth::anew(&mut |_, _| ()))
}

/// The same, from trees that an interrupted training of the same histories and options has grown, and telling of every
/// tree. The model is the same to the bit as without them.
///
/// # Errors
/// As [`train`].
pub fn train_on(histories: &[History], options: &TrainOptions, growth: &mut Growth<'_>) -> Result<Model, TrainError> {
    let budget = sound_budget(options.alarms_per_device_day)?;
    let mut histories: Vec<&History> = histories.iter().filter(|history| history.has_vitals()).collect();
    histories.sort_by(|a, b| a.device_id.cmp(&b.device_id));
    if histories.is_empty() {
        return Err(TrainError::NoData);
    }
    let fleet = Fleet::of(histories, options);
    let taught: usize = fleet.devices.iter().filter(|d| d.fold != HELD_FOLD).map(|d| learn::rows_of(d.history)).sum();
    let learns = fleet.devices.len() >= LEAST_FOREST_DEVICES && taught >= LEAST_ROWS;
    let (params, Watched { counts, profile }) =
        if learns { fleet.learn_forests(growth) } else { fleet.with_builtin_forests() };

    let held_back = HeldBack {
        devices: if fleet.holds_back() { counts.devices } else { 0 },
        device_days: counts.device_days(),
        artifacts_per_device_day: counts.rate(counts.artifacts as f64),
        ..HeldBack::default()
    };
    let trained_on = TrainedOn { forests_learnt: learns, ..fleet.trained_on() };
    let mut card = Card::new(&params, options.seed, trained_on, held_back);
    card.warnings = fleet.warnings();
    card.profile = Some(profile);
    Ok(Model::assemble(params, Curve::of(&counts), card, budget))
}

/// The built-in model, made anew: published ranges, and forests that learnt from simulated bodies.
pub fn make_builtin(threads: usize) -> Model {
    let population = adults();
    let histories = synthetic::bodies(&population, 3_000, 1);
    let histories: Vec<&History> = histories.iter().collect();
    let Forests { head, row } = learn(&histories, &population, 1, threads, &mut Growth::anew(&mut |_, _| ()));
    let params = Params::new(population, head, row);
    let card = Card::builtin(&params);
    Model::assemble(params, Curve::builtin(), card, DEFAULT_BUDGET)
}

/// The devices that training with this seed holds back from the forests, if there are enough to hold any back.
pub fn held_back(histories: &[History], seed: u64) -> Vec<&History> {
    histories.iter().filter(|history| history.has_vitals() && fold_of(seed, &history.device_id) == HELD_FOLD).collect()
}

/// How a model sees these readings: what [`super::drift`] compares.
pub fn profile(model: &Model, histories: &[History]) -> Profile {
    let histories: Vec<&History> = histories.iter().collect();
    profile_of(&model.inner.params, &histories, 0)
}

fn profile_of(params: &Params, histories: &[&History], threads: usize) -> Profile {
    let of_device = |history: &&History| {
        let (mut state, mut sampling) = (DeviceState::new(0, &params.units), Sampling::default());
        let samples = history.readings.iter().filter_map(|reading| {
            let seen = score::assess(params, &mut state, reading.ts_ms, &reading.vitals);
            sampling.take(reading.ts_ms, &seen)
        });
        Profile::of_device(samples)
    };
    let mut sum = Profile::default();
    for part in histories.chunks(COUNT_DEVICES) {
        threads::map(part, threads, of_device).iter().for_each(|profile| sum.add(profile));
    }
    sum
}

/// Which of a device's readings count for a profile: talkative devices count no more than others, and late readings are
/// not news.
#[derive(Debug, Default)]
struct Sampling {
    first_ms: Option<i64>,
    newest_ms: Option<i64>,
    sampled_ms: Option<i64>,
}

impl Sampling {
    fn take(&mut self, ts_ms: i64, seen: &Assessment) -> Option<Sample> {
        let since = |ms: i64| ts_ms.saturating_sub(ms);
        let first_ms = *self.first_ms.get_or_insert(ts_ms);
        let interval_h = self.newest_ms.map_or(f64::NAN, |newest| since(newest) as f64 / 3_600_000.0);
        self.newest_ms = self.newest_ms.max(Some(ts_ms));
        if since(first_ms) < WARM_MS || self.sampled_ms.is_some_and(|sampled| since(sampled) < SAMPLED_MS) {
            return None;
        }
        self.sampled_ms = Some(ts_ms);
        let score = if seen.top.is_some() { seen.score } else { f64::NAN };
        Some(Sample { score, positions: seen.positions, surprises: seen.surprises, interval_h })
    }
}

/// One reading of a device in so much time counts for a profile, in milliseconds.
const SAMPLED_MS: i64 = 45 * 60_000;
/// And none in its first hours, which look different to a model that does not know it yet.
const WARM_MS: i64 = 6 * 3_600_000;

/// The budget, if it is one.
pub(super) fn sound_budget(budget: f64) -> Result<f64, TrainError> {
    if budget > 0.0 && budget.is_finite() { Ok(budget) } else { Err(TrainError::Budget { budget }) }
}

/// Devices to learn from, in order of their names.
struct Fleet<'a> {
    devices: Vec<Device<'a>>,
    options: &'a TrainOptions,
}

struct Device<'a> {
    history: &'a History,
    series: [Series; VITALS],
    fold: u64,
}

/// What was seen of devices while they were held back.
#[derive(Default)]
struct Watched {
    counts: Counts,
    profile: Profile,
}

impl<'a> Fleet<'a> {
    fn of(histories: Vec<&'a History>, options: &'a TrainOptions) -> Fleet<'a> {
        let device = |history: &&'a History| Device {
            history,
            series: series(history),
            fold: fold_of(options.seed, &history.device_id),
        };
        Fleet { devices: threads::map(&histories, options.threads, device), options }
    }

    fn holds_back(&self) -> bool {
        self.devices.len() >= LEAST_DEVICES
    }

    /// The population of all devices but those of a fold.
    fn population(&self, without: Option<u64>) -> population::Population {
        let kept: Vec<&[Series; VITALS]> =
            self.devices.iter().filter(|device| Some(device.fold) != without).map(|device| &device.series).collect();
        // The prior weighs as much beside fewer devices, or scores of a fold would be a little lower than the model's.
        let prior_devices = population::PRIOR_DEVICES * kept.len() as f64 / self.devices.len() as f64;
        population::estimate(&kept, &adults(), prior_devices)
    }

    fn learn_forests(&self, growth: &mut Growth<'_>) -> (Params, Watched) {
        let population = self.population(Some(HELD_FOLD));
        let taught: Vec<&History> =
            self.devices.iter().filter(|device| device.fold != HELD_FOLD).map(|device| device.history).collect();
        let forests = learn(&taught, &population, self.options.seed, self.options.threads, growth);
        let params = Params::new(population, forests.head, forests.row);
        let watched = self.watch(|device| (device.fold == HELD_FOLD).then_some(&params));
        (params, watched)
    }

    fn with_builtin_forests(&self) -> (Params, Watched) {
        static BUILTIN: OnceLock<Model> = OnceLock::new();
        let builtin = &BUILTIN.get_or_init(Model::builtin).inner.params;
        let params = builtin.with_population(self.population(None));
        let held: Vec<Params> =
            (0..FOLDS)
                .map(|fold| {
                    if self.holds_back() { params.with_population(self.population(Some(fold))) } else { params.clone() }
                })
                .collect();
        let watched = self.watch(|device| held.get(device.fold as usize));
        (params, watched)
    }

    /// Watches devices under every threshold, each scored by the parameters that are given for it.
    fn watch<'p>(&self, params: impl Fn(&Device) -> Option<&'p Params> + Sync) -> Watched {
        let thresholds: [f64; GRID] = std::array::from_fn(grid);
        let watch = |device: &Device| {
            let params = params(device)?;
            let mut counts = Counts::default();
            let mut watch = Watch::new(&thresholds, &mut counts);
            let (mut state, mut sampling) = (DeviceState::new(0, &params.units), Sampling::default());
            let profile = Profile::of_device(device.history.readings.iter().filter_map(|reading| {
                let seen = score::assess(params, &mut state, reading.ts_ms, &reading.vitals);
                watch.take(reading.ts_ms, seen.top.map(|_| seen.score), seen.faulty.is_some());
                sampling.take(reading.ts_ms, &seen)
            }));
            watch.finish();
            Some(Watched { counts, profile })
        };
        let mut sum = Watched::default();
        for part in self.devices.chunks(COUNT_DEVICES) {
            for one in threads::map(part, self.options.threads, watch).iter().flatten() {
                sum.counts.add(&one.counts);
                sum.profile.add(&one.profile);
            }
        }
        sum
    }

    fn trained_on(&self) -> TrainedOn {
        let times = || self.devices.iter().flat_map(|device| &device.history.readings).map(|reading| reading.ts_ms);
        TrainedOn {
            devices: self.devices.len() as u64,
            readings: self.devices.iter().map(|device| device.history.readings.len() as u64).sum(),
            from_ms: times().min(),
            to_ms: times().max(),
            forests_learnt: false,
        }
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.holds_back() {
            warnings.push(format!(
                "trained on {} of the {LEAST_DEVICES} devices that it takes to hold some back: the threshold was set on the devices that the model learned from",
                self.devices.len()
            ));
        }
        for vital in Vital::ALL {
            let values: usize = self.devices.iter().map(|device| device.series[vital.index()].len()).sum();
            if values < LEAST_VALUES {
                warnings.push(format!(
                    "there are fewer than {LEAST_VALUES} sound hourly values of {}: its population is the published one",
                    vital.label()
                ));
            }
        }
        warnings
    }
}

/// Devices whose counts are held at the same time.
const COUNT_DEVICES: usize = 64;

/// A device's fold: FNV-1a of its name, then a finaliser (SplitMix64's) so that all bits count.
fn fold_of(seed: u64, device_id: &str) -> u64 {
    let hash = device_id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325 ^ seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) % FOLDS
}

/// One device's sound values, about one an hour of each vital; of a long history, the newest.
fn series(history: &History) -> [Series; VITALS] {
    let mut series: [Series; VITALS] = Default::default();
    for reading in &history.readings {
        let hours = reading.ts_ms as f64 / 3_600_000.0;
        for (vital, own) in Vital::ALL.into_iter().zip(&mut series) {
            let value = reading.vitals[vital.index()];
            let apart = own.last().is_none_or(|(last, _)| hours - last >= APART_H);
            if !value.is_nan() && apart && rules::value_fault(vital, &reading.vitals).is_none() {
                own.push((hours, value));
            }
        }
    }
    // The newest, in one piece: the variogram looks at neighbours.
    series.map(|mut own| own.split_off(own.len().saturating_sub(MOST_VALUES)))
}
