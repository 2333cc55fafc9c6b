//! Whether readings still look like those that the model learnt from.
//!
//! A [`Profile`] counts values in fixed bins: of the score, of each vital's position, surprise and presence, and of the
//! time between readings. The profile of training is kept in the model's card; [`Check::of`] compares a recent one with
//! it, by the population stability index of each count: Σ (p − q) ln(p / q) over the bins. The usual rule reads it as
//! stable below 0.1, moved below 0.25, changed above (Siddiqi, Credit Risk Scorecards, Wiley 2006). For a position, 0.1
//! is about a third of a standard deviation, 0.25 a half.
//!
//! What chance gives, as readings of one device resemble each other, is taken off: see `histogram.rs`.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use crate::reading::{VITALS, Vital};

mod histogram;
#[cfg(test)]
mod tests;

use histogram::{Bins, Histogram, Index, LEAST_DEVICES, LEAST_VALUES};

/// Bins of the score double in width.
const SCORE_EDGES: [f64; 11] = [0.03125, 0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0];
/// Bins of positions and surprises, in standard deviations.
const SD_EDGES: [f64; 10] = [-3.0, -2.0, -1.25, -0.75, -0.25, 0.25, 0.75, 1.25, 2.0, 3.0];
/// Bins of intervals: 6 and 40 seconds, 3, 7, 13, 22 and 45 minutes, 1.5, 3, 7 and 18 hours. They lie between the usual
/// intervals, not on them, where a clock's jitter would carry readings from one bin to the next.
const INTERVAL_EDGES_H: [f64; 11] =
    [6.0 / 3600.0, 40.0 / 3600.0, 0.05, 7.0 / 60.0, 13.0 / 60.0, 22.0 / 60.0, 0.75, 1.5, 3.0, 7.0, 18.0];
/// Presence: not there, there.
const PRESENCE_EDGES: [f64; 1] = [0.5];

/// From this index on, something has moved.
const MOVED: f64 = 0.1;
/// From this index on, it has changed.
const CHANGED: f64 = 0.25;
/// From this index on, a change of what devices send is a large one: about half of them send something else.
const LARGE: f64 = 1.0;
/// Changes besides the score's that are reason enough to train again.
const CHANGES: usize = 2;
/// Counts that are named in the advice.
const MOST_NAMES: usize = 4;

/// What is counted of one reading.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// The score; NaN where there is none.
    pub score: f64,
    /// Distance of each value from the population's centre, in standard deviations; NaN where it is absent.
    pub positions: [f64; VITALS],
    /// The filter's standardised innovation of each value; NaN where it is absent.
    pub surprises: [f64; VITALS],
    /// Hours since the device's last reading; NaN for its first.
    pub interval_h: f64,
}

/// How the readings of a fleet are distributed. The sum of two profiles is that of their devices together, in whatever
/// order they are added.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Profile {
    score: Histogram<{ SCORE_EDGES.len() + 1 }>,
    position: [Histogram<{ SD_EDGES.len() + 1 }>; VITALS],
    surprise: [Histogram<{ SD_EDGES.len() + 1 }>; VITALS],
    presence: [Histogram<{ PRESENCE_EDGES.len() + 1 }>; VITALS],
    interval: Histogram<{ INTERVAL_EDGES_H.len() + 1 }>,
}

impl Profile {
    /// The profile of all the samples of one device.
    pub fn of_device(samples: impl IntoIterator<Item = Sample>) -> Profile {
        let mut profile = Profile::default();
        samples.into_iter().for_each(|sample| profile.take(&sample));
        profile.close();
        profile
    }

    /// Adds the devices of another profile, which must be others than those that are in already.
    pub fn add(&mut self, other: &Profile) {
        self.score.add(&other.score);
        self.interval.add(&other.interval);
        for j in 0..VITALS {
            self.position[j].add(&other.position[j]);
            self.surprise[j].add(&other.surprise[j]);
            self.presence[j].add(&other.presence[j]);
        }
    }

    /// How many readings were counted.
    pub fn readings(&self) -> u64 {
        self.presence[0].bins().values()
    }

    fn take(&mut self, sample: &Sample) {
        self.score.take(&SCORE_EDGES, sample.score);
        self.interval.take(&INTERVAL_EDGES_H, sample.interval_h);
        for j in 0..VITALS {
            self.position[j].take(&SD_EDGES, sample.positions[j]);
            self.surprise[j].take(&SD_EDGES, sample.surprises[j]);
            self.presence[j].take(&PRESENCE_EDGES, f64::from(u8::from(!sample.positions[j].is_nan())));
        }
    }

    /// Makes what was taken one device's.
    fn close(&mut self) {
        self.score.close();
        self.interval.close();
        self.position.iter_mut().chain(&mut self.surprise).for_each(Histogram::close);
        self.presence.iter_mut().for_each(Histogram::close);
    }

    /// Whether there is enough to say anything of.
    fn is_enough(&self) -> bool {
        self.presence[0].bins().devices().is_some()
    }

    /// The counts, in an order that is always the same.
    fn subjects(&self) -> impl Iterator<Item = (Subject, Bins<'_>)> {
        let of_vitals = Vital::ALL.into_iter().flat_map(|vital| {
            let j = vital.index();
            [
                (Subject::Position(vital), self.position[j].bins()),
                (Subject::Surprise(vital), self.surprise[j].bins()),
                (Subject::Presence(vital), self.presence[j].bins()),
            ]
        });
        [(Subject::Score, self.score.bins()), (Subject::Interval, self.interval.bins())].into_iter().chain(of_vitals)
    }
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    Score,
    /// How far a vital lies from the population's centre.
    Position(Vital),
    /// How far a vital lies from what was expected of the device.
    Surprise(Vital),
    /// Whether readings have a vital.
    Presence(Vital),
    /// The time between readings.
    Interval,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Score => f.write_str("score"),
            Subject::Position(vital) => write!(f, "{} position", vital.column()),
            Subject::Surprise(vital) => write!(f, "{} surprise", vital.column()),
            Subject::Presence(vital) => write!(f, "{} presence", vital.column()),
            Subject::Interval => f.write_str("interval"),
        }
    }
}

impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What became of a count since training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Movement {
    Stable,
    Moved,
    Changed,
    /// It may have moved, but chance gives as much; or there are too few values or devices to tell.
    Unclear,
}

impl fmt::Display for Movement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Movement::Stable => "stable",
            Movement::Moved => "moved",
            Movement::Changed => "changed",
            Movement::Unclear => "unclear",
        })
    }
}

/// How far one count has moved since training.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Shift {
    #[serde(rename = "name")]
    pub subject: Subject,
    /// The index less what chance gives, 0 at least; `None` if there are too few values or devices to tell.
    pub psi: Option<f64>,
    /// How many values were counted in training, and recently.
    pub reference: u64,
    pub recent: u64,
    pub verdict: Movement,
}

impl Shift {
    fn of(subject: Subject, reference: Bins, recent: Bins) -> Shift {
        let index = Index::of(reference, recent);
        let psi = index.map(|index| (index.psi - index.by_chance).max(0.0));
        let verdict = match (psi, index) {
            (Some(psi), _) if psi < MOVED => Movement::Stable,
            (_, Some(index)) if !index.is_beyond_chance() => Movement::Unclear,
            (Some(psi), _) if psi < CHANGED => Movement::Moved,
            (Some(_), _) => Movement::Changed,
            (None, _) => Movement::Unclear,
        };
        Shift { subject, psi, reference: reference.values(), recent: recent.values(), verdict }
    }

    /// Whether devices send other vitals, or at another pace, than the model has seen.
    fn is_another_input(&self) -> bool {
        let of_input = matches!(self.subject, Subject::Presence(_) | Subject::Interval);
        of_input && self.verdict == Movement::Changed && self.psi.is_some_and(|psi| psi >= LARGE)
    }
}

/// How far everything has moved, the farthest first. What is on neither side is left out.
pub fn compare(reference: &Profile, recent: &Profile) -> Vec<Shift> {
    let pairs = reference.subjects().zip(recent.subjects());
    let mut shifts: Vec<Shift> = pairs
        .map(|((subject, reference), (_, recent))| Shift::of(subject, reference, recent))
        .filter(|shift| shift.reference > 0 || shift.recent > 0)
        .collect();
    let psi = |shift: &Shift| shift.psi.unwrap_or(-1.0);
    shifts.sort_by(|a, b| psi(b).total_cmp(&psi(a)));
    shifts
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Advice {
    /// Nothing has moved that matters.
    Keep,
    /// Something has moved: look again.
    Watch,
    /// The score has changed, or two others, or devices send something else.
    Retrain,
    /// There are too few readings or devices to tell, now or in training.
    TooFew,
}

/// What came of comparing recent readings with those of training.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// The farthest first.
    pub shifts: Vec<Shift>,
    pub advice: Advice,
}

impl Check {
    /// Compares a recent profile with the one of training.
    pub fn of(reference: &Profile, recent: &Profile) -> Check {
        let shifts = compare(reference, recent);
        let is_enough = reference.is_enough() && recent.is_enough();
        let advice = if is_enough { advice(&shifts) } else { Advice::TooFew };
        Check { shifts, advice }
    }

    /// The advice in a sentence.
    pub fn sentence(&self) -> String {
        match self.advice {
            Advice::Keep => "Recent readings look like those of training: keep the model.".to_owned(),
            Advice::Watch => {
                format!("Something has moved, too little to train again: look again in some days ({}).", self.names())
            }
            Advice::Retrain => {
                format!(
                    "Recent readings are not like those of training: train again, with `vitals train` ({}).",
                    self.names()
                )
            }
            Advice::TooFew => format!(
                "There is too little to compare: it takes {LEAST_VALUES} readings, and {LEAST_DEVICES} devices that \
                 send about as much as each other, both recently and in training."
            ),
        }
    }

    /// What has moved or changed, the farthest first.
    fn names(&self) -> String {
        let moved = |shift: &&Shift| matches!(shift.verdict, Movement::Moved | Movement::Changed);
        let names: Vec<String> = self.shifts.iter().filter(moved).map(|shift| shift.subject.to_string()).collect();
        match names.split_at_checked(MOST_NAMES) {
            Some((named, [_, ..])) => format!("{} and {} more", named.join(", "), names.len() - named.len()),
            _ => names.join(", "),
        }
    }
}

fn advice(shifts: &[Shift]) -> Advice {
    let changed = || shifts.iter().filter(|shift| shift.verdict == Movement::Changed);
    let score = changed().any(|shift| shift.subject == Subject::Score);
    if score || changed().count() >= CHANGES || shifts.iter().any(Shift::is_another_input) {
        return Advice::Retrain;
    }
    let moved = shifts.iter().any(|shift| matches!(shift.verdict, Movement::Moved | Movement::Changed));
    if moved { Advice::Watch } else { Advice::Keep }
}
