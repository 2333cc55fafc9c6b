//! The model as a file, and its card.
//!
//! # Format
//!
//! All numbers little-endian; `f64` by IEEE 754.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `VITALSMD` |
//! | 4 | `u32` format version, [`VERSION`] |
//! | 4 | `u32` length of the card |
//! | 4 | `u32` length of the parameters |
//! | … | the card: UTF-8 JSON, [`Card`] |
//! | … | the parameters, below |
//! | 32 | SHA-256 of everything before |
//!
//! Parameters, version 2, every one an `f64` unless said otherwise:
//!
//! 1. the budget (alarms per device and day), the threshold;
//! 2. for each of heart rate, systolic, diastolic, temperature, SpO2, respiratory rate: the population's centre, SD,
//!    variances of levels, wander and noise, and the wander's time constant in hours;
//! 3. the head forest, then the row forest: `f32` base, `u32` number of trees, then per tree 6 × (`u16` input, `f32`
//!    threshold) and 64 × `f32` leaves. Inputs are numbered as in `features.rs`; an input above the threshold sets the
//!    question's bit in the leaf's place; an absent one does not;
//! 4. the calibration curve: device-days, `u32` number of points, then per point threshold, alarm episodes
//!    per device-day, those charged to the budget.
//!
//! Where a number stands in the card too, the parameters count. The model's id is `m-` and the first 12 hex digits of the
//! SHA-256; that of the built-in model at its own budget is `builtin`.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::reading::Vital;

use super::calibrate::{Curve, Point};
use super::drift::Profile;
use super::features::{HEAD, ROW};
use super::forest::{DEPTH, Forest, LEAVES, Question, Tree};
use super::population::{VitalPopulation, adults};
use super::score::Params;
use super::training::DEFAULT_BUDGET;

/// The format version that this program writes, and the only one that it reads.
pub const VERSION: u32 = 2;

const MAGIC: [u8; 8] = *b"VITALSMD";
const HEADER: usize = 20;
const SUM: usize = 32;

/// The largest artifact that is read, in bytes.
pub const MAX_BYTES: usize = 16 << 20;

/// Why bytes are not a model that can be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ArtifactError {
    #[error("reading a model: this is not a model artifact of vitals (it does not start with `VITALSMD`)")]
    Foreign,
    #[error(
        "reading a model: format version {found}, this program knows version {VERSION}; use the version of vitals that trained it, or train again"
    )]
    Version { found: u32 },
    #[error("reading a model: the artifact is damaged ({what}); copy it again, or train again")]
    Damaged { what: &'static str },
}

const NOTICE: &str = "Not a medical device: nothing here is validated for care.";

/// Where a model comes from, and what to expect of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// Made from published ranges, not from data.
    pub builtin: bool,
    pub notice: String,
    pub trained_on: TrainedOn,
    pub seed: u64,
    /// The budget: false alarm episodes per device and day.
    pub alarms_per_device_day: f64,
    /// The score from which a reading raises an alarm.
    pub threshold: f64,
    pub held_back: HeldBack,
    pub population: Vec<CardVital>,
    pub warnings: Vec<String>,
    /// What came of comparing the model with the one that was in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
    /// How the readings of training are distributed: what [`super::drift`] compares recent ones with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
}

/// Two models on the same events, put into devices that were held back from the candidate. The champion may have learnt
/// from them, in a training of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The name of the model that was in force.
    pub champion: String,
    pub champion_figures: Figures,
    pub candidate_figures: Figures,
    /// How many devices the events were put into.
    pub devices: u64,
}

/// How well a model finds events; `None` where nothing could be said.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    pub auroc: Option<f64>,
    pub auprc: Option<f64>,
    /// Part of events found within 0.1, 0.25, 0.5 and 1 false alarms per device and day.
    pub recall: [Option<f64>; 4],
    pub top1: Option<f64>,
}

impl Figures {
    /// Figures as a card has them: three decimals, nothing for NaN.
    pub fn new(auroc: f64, auprc: f64, recall: [f64; 4], top1: f64) -> Figures {
        let own = |value: f64| value.is_finite().then(|| rounded(value));
        Figures { auroc: own(auroc), auprc: own(auprc), recall: recall.map(own), top1: own(top1) }
    }

    /// What a model is preferred by: how well its scores are sorted, and what it finds within the default budget.
    pub fn worth(&self) -> Option<f64> {
        Some(self.auprc? + self.recall[1]?)
    }
}

/// What the model learned from.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct TrainedOn {
    pub devices: u64,
    pub readings: u64,
    /// The first and last reading, milliseconds since 1970.
    pub from_ms: Option<i64>,
    pub to_ms: Option<i64>,
    /// Whether the forests learnt from these devices; otherwise they are the built-in model's.
    pub forests_learnt: bool,
}

/// What the threshold did on devices while they were held back. Rates are episodes per device and day.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct HeldBack {
    pub devices: u64,
    pub device_days: f64,
    /// All outlier episodes, true events among them.
    pub alarms_per_device_day: f64,
    /// Those charged to the budget: each with the probability that it is no event.
    pub charged_per_device_day: f64,
    /// Artifact episodes: counted apart, not charged.
    pub artifacts_per_device_day: f64,
}

/// A vital's population, for people to read; the parameters hold the exact numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CardVital {
    pub vital: String,
    pub unit: String,
    pub centre: f64,
    pub between_sd: f64,
    pub within_sd: f64,
}

const OVER_BUDGET: &str = "no threshold keeps the budget with enough certainty on this data: the highest was taken; train on more devices or days";

impl Card {
    pub(super) fn new(params: &Params, seed: u64, trained_on: TrainedOn, held_back: HeldBack) -> Card {
        let population = Vital::ALL.into_iter().zip(&params.population).map(|(vital, own)| CardVital {
            vital: vital.column().to_owned(),
            unit: vital.unit().to_owned(),
            centre: rounded(own.centre),
            between_sd: rounded(own.between.sqrt()),
            within_sd: rounded(own.within_sd()),
        });
        Card {
            builtin: false,
            notice: NOTICE.to_owned(),
            trained_on,
            seed,
            alarms_per_device_day: DEFAULT_BUDGET,
            threshold: params.threshold,
            held_back,
            population: population.collect(),
            warnings: Vec::new(),
            comparison: None,
            profile: None,
        }
    }

    pub(super) fn builtin(params: &Params) -> Card {
        let mut card = Card::new(params, 0, TrainedOn::default(), HeldBack::default());
        card.builtin = true;
        card.warnings
            .push("not trained: population and threshold come from published ranges, forests from simulated bodies; run `vitals train`".to_owned());
        card
    }

    /// Notes the budget, and the point of the curve that was taken for it.
    pub(super) fn set_budget(&mut self, alarms_per_device_day: f64, point: &Point, kept: bool) {
        self.alarms_per_device_day = alarms_per_device_day;
        self.threshold = point.threshold;
        self.held_back.alarms_per_device_day = point.all;
        self.held_back.charged_per_device_day = point.charged;
        self.warnings.retain(|warning| warning != OVER_BUDGET);
        if !kept {
            self.warnings.push(OVER_BUDGET.to_owned());
        }
    }
}

/// To what people read, and to what JSON gives back to the bit.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// The artifact of a model.
pub(super) fn write(params: &Params, curve: &Curve, card: &Card) -> Vec<u8> {
    // Strings and finite numbers: that can't fail, and an empty card would be refused by whoever reads it.
    let json = serde_json::to_vec_pretty(card).unwrap_or_default();
    let mut numbers = Vec::new();
    let mut put = |values: &[f64]| values.iter().for_each(|value| numbers.extend_from_slice(&value.to_le_bytes()));
    put(&[card.alarms_per_device_day, params.threshold]);
    for own in &params.population {
        put(&[own.centre, own.sd, own.between, own.wander, own.noise, own.tau_h]);
    }
    for forest in [&params.head, &params.row] {
        put_forest(&mut numbers, forest);
    }
    let mut put = |values: &[f64]| values.iter().for_each(|value| numbers.extend_from_slice(&value.to_le_bytes()));
    put(&[curve.device_days]);
    numbers.extend_from_slice(&(curve.points.len() as u32).to_le_bytes());
    for point in &curve.points {
        for value in [point.threshold, point.all, point.charged] {
            numbers.extend_from_slice(&value.to_le_bytes());
        }
    }

    let mut bytes = Vec::with_capacity(HEADER + json.len() + numbers.len() + SUM);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(json.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&(numbers.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&json);
    bytes.extend_from_slice(&numbers);
    let sum = Sha256::digest(&bytes);
    bytes.extend_from_slice(&sum);
    bytes
}

fn put_forest(out: &mut Vec<u8>, forest: &Forest) {
    out.extend_from_slice(&forest.base.to_le_bytes());
    put_trees(out, &forest.trees);
}

/// The number of trees, then each of them.
pub(super) fn put_trees(out: &mut Vec<u8>, trees: &[Tree]) {
    out.extend_from_slice(&(trees.len() as u32).to_le_bytes());
    for tree in trees {
        for question in &tree.questions {
            out.extend_from_slice(&question.input.to_le_bytes());
            out.extend_from_slice(&question.threshold.to_le_bytes());
        }
        tree.leaves.iter().for_each(|leaf| out.extend_from_slice(&leaf.to_le_bytes()));
    }
}

/// The id and the tag of an artifact's model: both from its checksum.
pub(super) fn name(bytes: &[u8], card: &Card) -> (String, u64) {
    let sum = &bytes[bytes.len().saturating_sub(SUM)..];
    let tag = sum.iter().take(8).fold(0, |tag, &byte| tag << 8 | u64::from(byte));
    let builtin = card.builtin && card.alarms_per_device_day == DEFAULT_BUDGET;
    let id = if builtin { "builtin".to_owned() } else { format!("m-{:012x}", tag >> 16) };
    (id, tag)
}

/// What an artifact holds.
pub(super) fn read(bytes: &[u8]) -> Result<(Params, Curve, Card), ArtifactError> {
    let damaged = |what| ArtifactError::Damaged { what };
    if !bytes.starts_with(&MAGIC) {
        return Err(ArtifactError::Foreign);
    }
    if bytes.len() < HEADER + SUM || bytes.len() > MAX_BYTES {
        return Err(damaged("its length"));
    }
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    // The version comes before the checksum: a later format may end otherwise.
    if word(8) != VERSION {
        return Err(ArtifactError::Version { found: word(8) });
    }
    let (body, sum) = bytes.split_at(bytes.len() - SUM);
    if Sha256::digest(body).as_slice() != sum {
        return Err(damaged("its checksum"));
    }
    let (card, numbers) = (word(12) as usize, word(16) as usize);
    if card.checked_add(numbers) != Some(body.len() - HEADER) {
        return Err(damaged("the length of a section"));
    }
    let (card, numbers) = body[HEADER..].split_at(card);
    let mut card: Card = serde_json::from_slice(card).map_err(|_| damaged("its card"))?;
    let (budget, params, curve) = Numbers(numbers).all().ok_or(damaged("its parameters"))?;
    // Numbers in text may lose their last bit.
    (card.alarms_per_device_day, card.threshold) = (budget, params.threshold);
    if is_sound(budget, &params) { Ok((params, curve, card)) } else { Err(damaged("a parameter that can't be")) }
}

fn is_sound(budget: f64, params: &Params) -> bool {
    params.population.iter().all(VitalPopulation::is_sound)
        && [budget, params.threshold].into_iter().all(|value| value > 0.0 && value.is_finite())
        && params.head.is_sound(HEAD)
        && params.row.is_sound(ROW)
}

/// The section of parameters, taken from the front.
pub(super) struct Numbers<'a>(pub &'a [u8]);

impl Numbers<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<f64> {
        self.take().map(f64::from_le_bytes)
    }

    fn float(&mut self) -> Option<f32> {
        self.take().map(f32::from_le_bytes)
    }

    fn count(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn forest(&mut self) -> Option<Forest> {
        let base = self.float()?;
        Some(Forest { base, trees: self.trees()? })
    }

    /// What [`put_trees`] has put.
    pub(super) fn trees(&mut self) -> Option<Vec<Tree>> {
        let count = self.count()?;
        (0..count).map(|_| self.tree()).collect()
    }

    fn tree(&mut self) -> Option<Tree> {
        let mut tree = Tree { questions: [Question::NONE; DEPTH], leaves: [0.0; LEAVES] };
        for question in &mut tree.questions {
            *question = Question { input: u16::from_le_bytes(self.take()?), threshold: self.float()? };
        }
        for leaf in &mut tree.leaves {
            *leaf = self.float()?;
        }
        Some(tree)
    }

    /// Budget, parameters, curve.
    fn all(mut self) -> Option<(f64, Params, Curve)> {
        let (budget, threshold) = (self.number()?, self.number()?);
        let mut population = adults();
        for own in &mut population {
            *own = VitalPopulation {
                centre: self.number()?,
                sd: self.number()?,
                between: self.number()?,
                wander: self.number()?,
                noise: self.number()?,
                tau_h: self.number()?,
            };
        }
        let (head, row) = (self.forest()?, self.forest()?);
        let device_days = self.number()?;
        let points = self.count()?;
        let points = (0..points)
            .map(|_| Some(Point { threshold: self.number()?, all: self.number()?, charged: self.number()? }))
            .collect::<Option<Vec<_>>>()?;
        let params = Params { threshold, ..Params::new(population, head, row) };
        self.0.is_empty().then_some((budget, params, Curve { points, device_days }))
    }
}
