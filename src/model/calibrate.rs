//! The alarm budget: from unlabelled, held-back devices to a threshold.
//!
//! The budget is a number of *false* alarm episodes per device and day, but nobody has labelled the held-back devices:
//! among their alarms are true events, and a fleet with half an event per device and day would have no room for a quarter
//! of a false alarm beside them. So alarms are counted per threshold, and those that are *clearly* events are not
//! charged:
//!
//! 1. Every threshold of a fixed grid runs over the held-back devices with the hysteresis and the merging of real alarms.
//!    Each alarm episode is counted by its threshold and by its peak score.
//! 2. The peaks above the body's foot (where [`BODY_RATE`] per device and day, or [`BODY_SHARE`] of the most, are left)
//!    are taken for a mixture of two kinds. *Ordinary* peaks fall off as a power law: a heavier tail than bodies at rest
//!    and at work have, and the one that 5,000 patients of intensive care were found to have. *Events* have any size
//!    alike: evenly spread in the logarithm of the score. Power and share are fitted by expectation–maximisation. A tail
//!    that falls as a power law or faster leaves no share for events; a shelf in it does.
//! 3. Each alarm episode is charged to the budget with the probability that its peak is ordinary.
//! 4. The threshold is the lowest from which every higher one charges no more than the budget, with a margin for the
//!    number of episodes that it rests on ([`MARGIN`]).
//!
//! Since the tail of ordinary peaks is taken for heavy, the method errs towards charging events: towards fewer alarms. It
//! charges nearly all where events are hardly larger than what bodies do anyway, or are more frequent than ordinary peaks.
//!
//! Artifact episodes are not charged: a broken sensor is a finding of its own, counted apart in the model's card.

use super::episodes::{MERGE_GAP_MS, RELEASE};
use super::evaluate::LONGEST_SILENCE_MS;

/// Thresholds of the grid: score `LOWEST × RATIO^i`.
pub(super) const GRID: usize = 128;
const LOWEST: f64 = 0.25;
const RATIO: f64 = 1.05;

/// The grid's threshold `i`.
pub(super) fn grid(i: usize) -> f64 {
    // Repeated multiplication rather than a power function: the same bits everywhere.
    (0..i).fold(LOWEST, |threshold, _| threshold * RATIO)
}

/// Alarm episodes of held-back devices, by threshold and peak.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Counts {
    /// `[threshold][peak]`: the peak's place is the highest threshold that it reaches.
    episodes: Vec<[u32; GRID]>,
    pub artifacts: u64,
    pub watched_ms: i64,
    pub devices: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Counts { episodes: vec![[0; GRID]; GRID], artifacts: 0, watched_ms: 0, devices: 0 }
    }
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        for (row, more) in self.episodes.iter_mut().zip(&other.episodes) {
            for (count, more) in row.iter_mut().zip(more) {
                *count = count.saturating_add(*more);
            }
        }
        self.artifacts += other.artifacts;
        self.watched_ms = self.watched_ms.saturating_add(other.watched_ms);
        self.devices += other.devices;
    }

    pub fn device_days(&self) -> f64 {
        self.watched_ms as f64 / 86_400_000.0
    }

    /// So many per device and day; 0 when no device was watched.
    pub fn rate(&self, episodes: f64) -> f64 {
        if self.watched_ms > 0 { episodes / self.device_days() } else { 0.0 }
    }

    /// Episodes at threshold `i`.
    pub fn all(&self, i: usize) -> u64 {
        self.episodes[i].iter().map(|&count| u64::from(count)).sum()
    }

    /// Peaks of threshold `i`'s episodes, by grid place.
    pub fn peaks(&self, i: usize) -> &[u32; GRID] {
        &self.episodes[i]
    }
}

/// One held-back device under every threshold at once.
pub(super) struct Watch<'a> {
    thresholds: &'a [f64; GRID],
    counts: &'a mut Counts,
    on: [bool; GRID],
    /// Above this place no alarm is on.
    top: usize,
    last_ms: [i64; GRID],
    peak: [usize; GRID],
    newest_ms: Option<i64>,
    artifact_ms: Option<i64>,
}

const NO_EPISODE: usize = usize::MAX;

impl<'a> Watch<'a> {
    pub fn new(thresholds: &'a [f64; GRID], counts: &'a mut Counts) -> Self {
        counts.devices += 1;
        Watch {
            thresholds,
            counts,
            on: [false; GRID],
            top: 0,
            last_ms: [0; GRID],
            peak: [NO_EPISODE; GRID],
            newest_ms: None,
            artifact_ms: None,
        }
    }

    /// Takes a reading's decision score (`None` when it has no sound vital) and whether it is an artifact.
    pub fn take(&mut self, ts_ms: i64, decision: Option<f64>, artifact: bool) {
        let step_ms = self.newest_ms.map_or(0, |newest| ts_ms.saturating_sub(newest));
        if step_ms < 0 {
            return;
        }
        self.newest_ms = Some(ts_ms);
        self.counts.watched_ms = self.counts.watched_ms.saturating_add(step_ms.min(LONGEST_SILENCE_MS));
        if artifact {
            self.counts.artifacts +=
                u64::from(self.artifact_ms.is_none_or(|last| ts_ms.saturating_sub(last) > MERGE_GAP_MS));
            self.artifact_ms = Some(ts_ms);
        }
        let Some(decision) = decision else { return };
        if step_ms > MERGE_GAP_MS {
            self.release(0);
        }
        let reached = self.thresholds.partition_point(|&threshold| threshold <= decision);
        let held = self.thresholds.partition_point(|&threshold| RELEASE * threshold <= decision);
        self.release(held);
        for i in 0..held.min(self.top.max(reached)) {
            if i < reached || self.on[i] {
                self.flag(i, ts_ms, reached);
            }
        }
        self.top = self.top.max(reached);
    }

    /// Switches alarms off from threshold `from` up.
    fn release(&mut self, from: usize) {
        if from < self.top {
            self.on[from..self.top].fill(false);
            self.top = from;
        }
    }

    fn flag(&mut self, i: usize, ts_ms: i64, reached: usize) {
        let place = reached.saturating_sub(1);
        if self.peak[i] == NO_EPISODE || ts_ms.saturating_sub(self.last_ms[i]) > MERGE_GAP_MS {
            self.close(i);
            self.peak[i] = place;
        } else {
            self.peak[i] = self.peak[i].max(place);
        }
        self.on[i] = true;
        self.last_ms[i] = ts_ms;
    }

    fn close(&mut self, i: usize) {
        if let Some(count) = self.counts.episodes[i].get_mut(self.peak[i]) {
            *count = count.saturating_add(1);
        }
    }

    /// Closes the episodes that run at the end.
    pub fn finish(mut self) {
        (0..GRID).for_each(|i| self.close(i));
    }
}

/// The body of the peaks has its foot where this many episodes per device and day are left, or [`BODY_SHARE`] of the most.
pub const BODY_RATE: f64 = 1.0;
/// See [`BODY_RATE`]: nearer to the fullest threshold, episodes run into each other.
pub const BODY_SHARE: f64 = 0.7;
/// Events' peaks reach from so many places above the foot of the body (2.6 times its score) to the end of the grid,
/// evenly in the logarithm.
const EVENTS_FROM: usize = 20;
/// A share of events as small as this may as well be the tail's own heaviness: it is taken off the fitted share.
const DOUBT: f64 = 0.05;
/// Fewer peaks than this are not taken apart: all are charged.
const LEAST_PEAKS: u64 = 40;
/// Normal deviate of the margin: in five of six fleets the realised rate is within the budget.
pub const MARGIN: f64 = 1.0;

/// How many device-days the prior curve is worth beside held-back ones.
const PRIOR_DAYS: f64 = 20.0;

/// Alarm episodes per device and day at a threshold before any were counted: what simulated adults at rest and at work
/// and patients of intensive care have alike, within a factor of two.
fn prior_rate(threshold: f64) -> f64 {
    0.25 * libm::pow(1.6 / threshold, 1.8)
}

/// Alarm rates by threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub threshold: f64,
    /// Alarm episodes per device and day, on held-back devices.
    pub all: f64,
    /// Those that are charged to the budget.
    pub charged: f64,
}

/// What held-back devices say about thresholds: kept in the artifact, so that the budget can be changed later.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// By rising threshold.
    pub points: Vec<Point>,
    pub device_days: f64,
}

/// Peaks above the body's foot as a mixture of ordinary ones, exponential in the logarithm of the score, and of events,
/// even in it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Mixture {
    /// Grid place of the foot.
    from: usize,
    /// The power with which ordinary peaks fall off.
    power: f64,
    /// The share of events.
    events: f64,
}

impl Mixture {
    /// Fits the peaks; `None` when they are too few to be taken apart.
    fn fit(counts: &Counts) -> Option<Mixture> {
        let all: Vec<u64> = (0..GRID).map(|i| counts.all(i)).collect();
        let (fullest, &most) = all.iter().enumerate().max_by_key(|(_, count)| **count)?;
        let foot = (BODY_RATE * counts.device_days()).min(BODY_SHARE * most as f64);
        let from = (fullest..GRID).find(|&i| all[i] as f64 <= foot)?;
        if all[from] < LEAST_PEAKS {
            return None;
        }
        let mut mixture = Mixture { from, power: 4.0, events: 0.3 };
        for _ in 0..EM_STEPS {
            mixture = mixture.step(counts.peaks(from));
        }
        mixture.events = (mixture.events - DOUBT).max(0.0);
        Some(mixture)
    }

    /// One step of expectation and maximisation.
    fn step(self, peaks: &[u32; GRID]) -> Mixture {
        let (mut events, mut ordinary, mut height) = (0.0, 0.0, 0.0);
        for (place, &count) in peaks.iter().enumerate() {
            let event = f64::from(count) * self.event_probability(place);
            events += event;
            ordinary += f64::from(count) - event;
            height += (f64::from(count) - event) * self.height(place);
        }
        Mixture { power: (ordinary / height.max(1e-9)).clamp(1.0, 50.0), events: events / (events + ordinary), ..self }
    }

    /// Logarithm of a peak over the foot.
    fn height(&self, place: usize) -> f64 {
        (place.saturating_sub(self.from) as f64 + 0.5) * libm::log(RATIO)
    }

    /// The probability that a peak is an event's.
    fn event_probability(&self, place: usize) -> f64 {
        if place < self.from + EVENTS_FROM {
            return 0.0;
        }
        let places = GRID.saturating_sub(self.from + EVENTS_FROM).max(1);
        let event = self.events / (places as f64 * libm::log(RATIO));
        let ordinary = (1.0 - self.events) * self.power * libm::exp(-self.power * self.height(place));
        event / (event + ordinary)
    }
}

/// Enough for the share to stand still to three digits.
const EM_STEPS: usize = 500;

impl Curve {
    /// The curve of held-back devices.
    pub(super) fn of(counts: &Counts) -> Curve {
        let mixture = Mixture::fit(counts);
        let charge: Vec<f64> =
            (0..GRID).map(|place| 1.0 - mixture.map_or(0.0, |mixture| mixture.event_probability(place))).collect();
        let points = (0..GRID).map(|i| {
            let charged: f64 =
                counts.peaks(i).iter().zip(&charge).map(|(&count, charge)| f64::from(count) * charge).sum();
            Point { threshold: grid(i), all: counts.rate(counts.all(i) as f64), charged: counts.rate(charged) }
        });
        Curve { points: points.collect(), device_days: counts.device_days() }
    }

    /// Of the untrained model, before any data: about what 5,000 patients of intensive care were found to have, to whom
    /// the published population does not fit.
    pub(super) fn builtin() -> Curve {
        let points = (0..GRID).map(|i| {
            let rate = 0.25 * libm::pow(8.7 / grid(i), 0.85);
            Point { threshold: grid(i), all: rate, charged: rate }
        });
        Curve { points: points.collect(), device_days: f64::INFINITY }
    }

    /// The charged rate of a point as far as the prior and the margin for chance allow.
    fn bound(&self, point: &Point) -> f64 {
        if self.device_days.is_infinite() {
            return point.charged;
        }
        let episodes = point.charged * self.device_days + prior_rate(point.threshold) * PRIOR_DAYS;
        (episodes + MARGIN * episodes.sqrt()) / (self.device_days + PRIOR_DAYS)
    }

    /// The point of the lowest threshold from which every higher one is within the budget; the highest of all where none
    /// is, then with `false`.
    pub fn at_budget(&self, alarms_per_device_day: f64) -> (Point, bool) {
        let within = self.points.iter().rev().take_while(|point| self.bound(point) <= alarms_per_device_day).last();
        let highest = self.points.last().copied().unwrap_or(Point { threshold: f64::INFINITY, all: 0.0, charged: 0.0 });
        within.map_or((highest, false), |point| (*point, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAYS: i64 = 1000;

    /// Counts of 1,000 device-days: ordinary peaks that fall off with `power` above score 0.8 (one a day there), and
    /// `events` a day evenly in the logarithm from 4 to 64.
    fn counts(power: f64, events: f64) -> Counts {
        let mut counts = Counts { watched_ms: DAYS * 86_400_000, devices: 100, ..Counts::default() };
        let rate_above = |score: f64| {
            let ordinary = if score < 0.8 { 1.0 } else { libm::pow(0.8 / score, power) };
            ordinary + events * (libm::log(64.0 / score) / libm::log(16.0)).clamp(0.0, 1.0)
        };
        for i in 0..GRID {
            for (place, count) in counts.episodes[i].iter_mut().enumerate().skip(i) {
                *count = ((rate_above(grid(place)) - rate_above(grid(place + 1))) * DAYS as f64).round() as u32;
            }
        }
        counts
    }

    fn at(curve: &Curve, threshold: f64) -> &Point {
        curve.points.iter().find(|point| point.threshold >= threshold).unwrap()
    }

    #[test]
    fn a_tail_that_falls_as_a_power_or_faster_is_charged_in_full() {
        for power in [1.6, 2.0, 4.0] {
            let curve = Curve::of(&counts(power, 0.0));
            let point = at(&curve, 1.6);
            assert!(point.charged > 0.97 * point.all, "{power}: {point:?}");
        }
    }

    #[test]
    fn events_apart_from_the_body_are_not_charged() {
        let (quiet, eventful) = (Curve::of(&counts(2.0, 0.0)), Curve::of(&counts(2.0, 0.5)));
        for threshold in [1.2, 1.6, 2.4] {
            let (ordinary, point) = (at(&quiet, threshold).all, at(&eventful, threshold));
            assert!(point.all > ordinary + 0.3, "{point:?}");
            assert!(point.charged >= 0.75 * ordinary && point.charged < ordinary + 0.12, "{point:?} beside {ordinary}");
        }
        let thresholds = [&quiet, &eventful].map(|curve| curve.at_budget(0.25).0.threshold);
        assert!((thresholds[1] / thresholds[0]) < 1.3, "{thresholds:?}");
    }

    #[test]
    fn a_budget_that_nothing_keeps_gets_the_highest_threshold_and_says_so() {
        let curve = Curve::of(&counts(2.0, 0.5));
        assert!(curve.at_budget(0.25).1);
        let (point, kept) = curve.at_budget(1e-9);
        assert!(!kept && point.threshold == grid(GRID - 1));
    }

    #[test]
    fn without_data_the_prior_decides() {
        let (point, kept) = Curve::of(&Counts::default()).at_budget(0.25);
        assert!(kept && (1.2..4.0).contains(&point.threshold), "{point:?}");
    }
}
