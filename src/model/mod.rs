//! The outlier model: which readings are unusual for *this* device, and why.
//!
//! Scoring is causal and streaming. A [`Model`] is immutable and cheap to clone; a [`DeviceState`] is what it remembers
//! of one device (at most 512 bytes); [`Model::score`] takes a reading and gives a [`Verdict`].
//!
//! | room | holds |
//! |---|---|
//! | [`population`] | what adults' vitals are like, before and after training |
//! | [`rules`] | artifacts: what comes from the sensor, not from the body |
//! | `filter` | one vital of one device through time |
//! | `features`, `forest` | what the trees are asked, and the trees |
//! | [`score`] | a reading against its device's past: the score |
//! | [`state`] | what is kept per device, and its stored form |
//! | [`verdict`] | what is said of a reading, in codes and words |
//! | [`episodes`] | readings to episodes: hysteresis, merging |
//! | [`news2`] | the early warning score that nurses know, for comparison |
//! | [`training`] | unlabelled histories to a model |
//! | `learn`, `inject`, `grow` | forests: rows to learn from, the synthetic events in them, growing |
//! | [`grown`] | trees of a training that was interrupted |
//! | `synthetic` | simulated bodies, from which the built-in model's forests learnt |
//! | [`calibrate`] | the alarm budget: a threshold from held-back devices |
//! | [`evaluate`] | alarms against labels |
//! | [`drift`] | recent readings beside those of training |
//! | [`artifact`] | the model as a file |
//!
//! Not a medical device: nothing here is validated for care.

use std::fmt;
use std::sync::Arc;

use crate::reading::{Vital, Vitals};

pub mod artifact;
pub mod calibrate;
pub mod drift;
pub mod episodes;
pub mod evaluate;
mod features;
mod filter;
pub mod forest;
mod grow;
pub mod grown;
mod inject;
mod learn;
pub mod news2;
pub mod population;
pub mod rules;
pub mod score;
pub mod state;
mod synthetic;
pub(crate) mod threads;
pub mod training;
pub mod verdict;

#[cfg(test)]
mod bodies;
#[cfg(test)]
mod tests;

pub use artifact::{ArtifactError, Card, Comparison};
pub use state::{DeviceState, StateError};
pub use training::{History, TrainError, TrainOptions, train};
pub use verdict::{Cause, Verdict};

use calibrate::Curve;
use episodes::RELEASE;
use score::Params;

/// A model in use. Clones share one copy.
#[derive(Clone)]
pub struct Model {
    inner: Arc<Inner>,
}

impl fmt::Debug for Model {
    /// By name: its numbers are many.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Model").field(&self.id()).finish()
    }
}

struct Inner {
    params: Params,
    curve: Curve,
    card: Card,
    bytes: Vec<u8>,
    id: String,
    tag: u64,
}

impl Model {
    /// The model of an empty lake: healthy and sick adults from published ranges, forests that learnt from simulated
    /// bodies, and thresholds that keep the budget on patients of intensive care, so that healthier fleets get fewer alarms
    /// than the budget allows.
    pub fn builtin() -> Model {
        // Made by [`training::make_builtin`]; a test reads it, so this can't fail in a program that was tested.
        Model::from_bytes(include_bytes!("builtin.bin")).expect("the built-in model is a sound artifact")
    }

    /// The model of these parts at this budget.
    fn assemble(mut params: Params, curve: Curve, mut card: Card, alarms_per_device_day: f64) -> Model {
        let (point, kept) = curve.at_budget(alarms_per_device_day);
        params.threshold = point.threshold;
        card.set_budget(alarms_per_device_day, &point, kept);
        let bytes = artifact::write(&params, &curve, &card);
        Model::from_parts(params, curve, card, bytes)
    }

    fn from_parts(params: Params, curve: Curve, card: Card, bytes: Vec<u8>) -> Model {
        let (id, tag) = artifact::name(&bytes, &card);
        Model { inner: Arc::new(Inner { params, curve, card, bytes, id, tag }) }
    }

    /// `builtin`, or `m-` and 12 hex digits of the artifact's checksum: the same for the same data, options and seed.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// Where the model comes from, and what to expect of it.
    pub fn card(&self) -> &Card {
        &self.inner.card
    }

    /// The artifact: see [`artifact`] for the format.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.inner.bytes.clone()
    }

    /// A model from its artifact.
    ///
    /// # Errors
    /// [`ArtifactError`] when the bytes are not a model, damaged, or of a version that this program does not know.
    pub fn from_bytes(bytes: &[u8]) -> Result<Model, ArtifactError> {
        let (params, curve, card) = artifact::read(bytes)?;
        Ok(Model::from_parts(params, curve, card, bytes.to_vec()))
    }

    /// The same model with another alarm budget, by the calibration curve that it keeps. It gives other verdicts, so it has
    /// another id.
    ///
    /// # Errors
    /// [`TrainError::Budget`] when the budget is not a number above 0.
    pub fn with_budget(&self, alarms_per_device_day: f64) -> Result<Model, TrainError> {
        let budget = training::sound_budget(alarms_per_device_day)?;
        let Inner { params, curve, card, .. } = &*self.inner;
        Ok(Model::assemble(params.clone(), curve.clone(), card.clone(), budget))
    }

    /// The same model with what came of comparing it with the one in force: kept in the card, so it has another id.
    pub fn with_comparison(&self, comparison: Comparison) -> Model {
        let Inner { params, curve, card, .. } = &*self.inner;
        let card = Card { comparison: Some(comparison), ..card.clone() };
        let bytes = artifact::write(params, curve, &card);
        Model::from_parts(params.clone(), curve.clone(), card, bytes)
    }

    /// How many inputs the head and the row forest have.
    pub const FOREST_INPUTS: [usize; 2] = [features::HEAD, features::ROW];

    /// The head and the row forest: see [`forest`].
    pub fn forests(&self) -> [&forest::Forest; 2] {
        [&self.inner.params.head, &self.inner.params.row]
    }

    /// The state of a device that was never seen.
    pub fn new_state(&self) -> DeviceState {
        DeviceState::new(self.inner.tag, &self.inner.params.units)
    }

    /// A stored state of this model.
    ///
    /// # Errors
    /// [`StateError`] when the bytes are no state, or another model's.
    pub fn read_state(&self, bytes: &[u8]) -> Result<DeviceState, StateError> {
        let state = DeviceState::from_bytes(bytes)?;
        if state.model == self.inner.tag { Ok(state) } else { Err(StateError::OtherModel) }
    }

    /// The verdict on a reading of `ts_ms` (milliseconds since 1970), given what the device sent before. A reading that
    /// is not newer than the newest is scored against what is known and leaves the state as it is. The state must be of
    /// this model.
    pub fn score(&self, state: &mut DeviceState, ts_ms: i64, vitals: &Vitals) -> Verdict {
        let params = &self.inner.params;
        let threshold = params.threshold;
        let late = state.newest_ms.is_some_and(|newest| ts_ms <= newest);
        let rested = state.newest_ms.is_none_or(|newest| ts_ms.saturating_sub(newest) > episodes::MERGE_GAP_MS);
        let seen = score::assess(params, state, ts_ms, vitals);

        let alarmed = state.alarmed && !rested;
        let outlier = seen.top.is_some() && (seen.score >= threshold || (alarmed && seen.score >= RELEASE * threshold));
        let artifact = seen.faulty.is_some();
        let episode_start_ms = match (late, outlier, artifact) {
            (_, false, false) => None,
            (true, true, _) => Some(state.outlier.start_of(ts_ms)),
            (true, false, true) => Some(state.artifact.start_of(ts_ms)),
            (false, true, true) => {
                state.artifact.alarm(ts_ms);
                Some(state.outlier.alarm(ts_ms))
            }
            (false, true, false) => Some(state.outlier.alarm(ts_ms)),
            (false, false, true) => Some(state.artifact.alarm(ts_ms)),
        };
        if !late {
            // A reading without sound vitals says nothing of the alarm.
            state.alarmed = if seen.top.is_some() { outlier } else { alarmed };
        }
        seen.verdict(state, threshold, outlier, episode_start_ms, vitals)
    }
}

impl score::Assessment {
    fn verdict(
        &self,
        state: &DeviceState,
        threshold: f64,
        outlier: bool,
        episode_start_ms: Option<i64>,
        vitals: &Vitals,
    ) -> Verdict {
        let (vital, cause) = match (outlier, self.faulty, self.top) {
            (false, Some((vital, cause)), _) => (Some(vital), cause),
            (true, _, Some(vital)) => (Some(vital), self.cause(vital)),
            (_, _, top) => (top, Cause::None),
        };
        let of = |values: &[f64]| vital.map_or(f64::NAN, |vital| values[vital.index()]);
        let artifact = self.faulty.is_some();
        Verdict {
            score: if artifact { self.score.max(threshold) } else { self.score },
            outlier,
            artifact,
            cause,
            vital,
            usual: of(&self.usual),
            observed: if artifact && !outlier { of(vitals) } else { of(&self.latest) },
            deviation: of(&self.deviations),
            contributions: self.contributions,
            risk: self.risk,
            news2: news2::partial(&self.sound(vitals)),
            episode_start_ms,
            personal: vital.is_some_and(|vital| score::is_personal(state, vital)),
        }
    }

    /// The vitals without those that have a fault.
    fn sound(&self, vitals: &Vitals) -> Vitals {
        std::array::from_fn(|j| if self.faults[j].is_some() { f64::NAN } else { vitals[j] })
    }

    /// The cause of an outlier whose largest contribution is `top`'s.
    fn cause(&self, top: Vital) -> Cause {
        let largest = self.contributions[top.index()];
        let others = Vital::ALL.into_iter().filter(|&vital| {
            vital != top
                && self.faults[vital.index()].is_none()
                && verdict::stands_out_with(self.contributions[vital.index()], largest)
        });
        // The two pressures go together: both high is one finding.
        let pressure = |vital| matches!(vital, Vital::Systolic | Vital::Diastolic);
        let distinct = others.filter(|&vital| !(pressure(vital) && pressure(top))).count();
        if distinct > 0 { Cause::SeveralVitals } else { Cause::of(top, largest > 0.0, self.latest[top.index()]) }
    }
}
