//! How good is the model? Measured on devices that it has not learnt from, with events put into their histories, beside
//! plain methods in the same run.
//!
//! | room | holds |
//! |---|---|
//! | [`kinds`] | which events there are, as a table |
//! | [`cases`] | test devices, and how an event is put into a history |
//! | [`spreads`] | what the vitals of a group of devices are like |
//! | `methods`, `forest` | the model, personal EWMA-z, isolation forest, NEWS2: ways to score readings |
//! | `ranking`, [`alarms`] | areas under curves; false alarms under every threshold |
//! | [`figures`] | scores to figures, and their intervals |
//! | [`compare`] | two models on the same cases |
//! | [`report`] | the result, in JSON and words |
//!
//! Events are made, not observed: figures tell methods apart, they do not tell how many patients would be helped. The same
//! histories, options and seed give the same report on every machine and any number of threads.

use thiserror::Error;

use crate::model::{History, Model, TrainError, TrainOptions, threads, train};

pub mod alarms;
pub mod cases;
mod chance;
pub mod compare;
pub mod figures;
mod forest;
pub mod kinds;
mod methods;
mod ranking;
mod realised;
pub mod report;
pub mod spreads;

#[cfg(test)]
mod bodies;
#[cfg(test)]
mod tests;

pub use compare::{Comparison, Scores, Summary, compare, figures_of, measure};
pub use report::Report;

use cases::{Case, cases};
use chance::Use;
use figures::Measured;
use forest::Forest;
use kinds::Set;
use methods::{EwmaZ, Method, PartialNews2, RawForest, Scored};
use report::{KindReport, MethodReport, SetReport};
use spreads::{Spreads, spreads};

/// How to evaluate.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluateOptions {
    /// Deals devices into those to learn from and those to test on, and draws events and resamples.
    pub seed: u64,
    /// Threads to use; 0 for as many as the machine has. Changes the speed only.
    pub threads: usize,
    /// Resamples of devices behind each interval; 0 for no intervals.
    pub resamples: usize,
    /// How to train the model.
    pub train: TrainOptions,
}

/// Resamples behind each interval when nobody says otherwise.
pub const DEFAULT_RESAMPLES: usize = 200;

impl Default for EvaluateOptions {
    fn default() -> Self {
        EvaluateOptions { seed: 1, threads: 0, resamples: DEFAULT_RESAMPLES, train: TrainOptions::default() }
    }
}

/// Why there is no report.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum EvaluateError {
    #[error(
        "dealing devices: of {devices} with readings, {learn} are to learn from and {test} to test on, and neither may be \
         none; give readings of more devices"
    )]
    TooFewDevices { devices: usize, learn: usize, test: usize },
    #[error(
        "no event could be put into the histories of {test} test devices: they are too short, or too few; give more"
    )]
    NoEvents { test: usize },
    #[error(transparent)]
    Train(#[from] TrainError),
}

/// One of so many devices is tested on, the others are learnt from.
const TEST_ONE_OF: u64 = 3;

/// Trains on some of the devices, and measures the model and plain methods on the others.
///
/// # Errors
/// [`EvaluateError`] when there are too few devices, or no model can be trained.
pub fn evaluate(histories: &[History], options: &EvaluateOptions) -> Result<Report, EvaluateError> {
    let (learn, test) = deal(histories, options.seed);
    if learn.is_empty() || test.is_empty() {
        let (devices, learn, test) = (learn.len() + test.len(), learn.len(), test.len());
        return Err(EvaluateError::TooFewDevices { devices, learn, test });
    }
    let spreads = spreads(&learn, options.threads);
    let sets = Set::ALL.map(|set| (set, cases(&test, &spreads, set, options.seed)));
    if sets.iter().all(|(_, cases)| cases.iter().all(|case| case.event.is_none())) {
        return Err(EvaluateError::NoEvents { test: test.len() });
    }
    let model = train_on(&learn, &options.train)?;
    let forest = RawForest(Forest::grow(&learn, &spreads, options.seed));
    let resamples = figures::resamples(test.len(), options.resamples, options.seed);
    let bench = Bench { model: &model, forest, spreads, resamples, threads: options.threads };
    Ok(Report {
        seed: options.seed,
        resamples: options.resamples,
        model: model.id().to_owned(),
        train_devices: learn.len(),
        test_devices: test.len(),
        test_readings: test.iter().map(|history| history.readings.len()).sum(),
        test_device_days: figures::days(&sets[0].1).iter().sum(),
        budgets: alarms::BUDGETS,
        sets: sets.iter().map(|(set, cases)| bench.measure(*set, cases)).collect(),
        realised: realised::rates(&model, &test, &bench.resamples, options.threads)?,
    })
}

/// Devices to learn from and devices to test on, both in the order of their names, by a hash of the name.
fn deal(histories: &[History], seed: u64) -> (Vec<&History>, Vec<&History>) {
    let mut histories: Vec<&History> = histories.iter().filter(|history| history.has_vitals()).collect();
    histories.sort_by(|a, b| a.device_id.cmp(&b.device_id));
    let is_test = |history: &&History| chance::hash(seed, Use::Split, &history.device_id).is_multiple_of(TEST_ONE_OF);
    let (test, learn) = histories.into_iter().partition(is_test);
    (learn, test)
}

fn train_on(learn: &[&History], options: &TrainOptions) -> Result<Model, TrainError> {
    let learn: Vec<History> = learn.iter().map(|history| (*history).clone()).collect();
    train(&learn, options)
}

/// What every set is measured with.
struct Bench<'a> {
    model: &'a Model,
    forest: RawForest,
    spreads: Spreads,
    resamples: Vec<Vec<u32>>,
    threads: usize,
}

impl Bench<'_> {
    /// Measures every method on one set of cases.
    fn measure(&self, set: Set, cases: &[Case<'_>]) -> SetReport {
        let ewma = EwmaZ(self.spreads);
        let methods: [&dyn Method; 4] = [self.model, &ewma, &self.forest, &PartialNews2];
        let scored: Vec<Vec<Scored>> = threads::map(cases, self.threads, |case| methods::score(&methods, case));
        let mut events = [0; kinds::KINDS];
        let mut measure = |(m, method): (usize, &&dyn Method)| {
            let own: Vec<&Scored> = scored.iter().filter_map(|case| case.get(m)).collect();
            let measured = Measured::of(cases, &own, self.threads);
            events = measured.events_by_kind();
            let figures = figures::intervals(&measured, cases.len(), &self.resamples, self.threads);
            MethodReport {
                method: method.name(),
                auroc: figures.auroc,
                auprc: figures.auprc,
                recall: figures.recall,
                delay_hours: figures.delay_hours,
                top1: method.names_vitals().then_some(figures.top1),
                recall_of_kinds: figures.kinds,
            }
        };
        let methods: Vec<MethodReport> = methods.iter().enumerate().map(&mut measure).collect();
        let kinds = set.kinds().iter().zip(events).map(|(kind, events)| KindReport { kind: kind.name, events });
        SetReport { set: set.name(), events: events.iter().sum(), kinds: kinds.collect(), methods }
    }
}
