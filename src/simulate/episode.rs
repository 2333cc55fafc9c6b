//! Episodes: what happens to a simulated body or its sensors that somebody should notice, and when.
//!
//! Every kind is equally likely. Sizes and lengths are drawn evenly (lengths evenly in their logarithm) from:
//!
//! | kind | what changes at its height | length | onset, recovery |
//! |---|---|---|---|
//! | `tachycardia` | heart rate +30 to +55 bpm, respiratory rate +2 to +5 | 20 min to 3 h | 2 to 10 min |
//! | `fever` | temperature +1.3 to +2.5 °C; per °C heart rate +8, respiratory rate +2 | 4 to 9 h | 1 to 2 h |
//! | `hypoxia` | SpO2 −6 to −14 %; per % heart rate +1.2, respiratory rate +0.5 | 15 min to 2 h | 3 to 10 min |
//! | `hypotension` | systolic −25 to −40 % of the person's own, diastolic 0.8 of that share; heart rate +8 to +18 | 20 min to 3 h | 5 to 15 min |
//! | `drift` | one vital, away and ever further: heart rate ±25 to 40, systolic ±30 to 50 (diastolic half), temperature ±1.2 to 2.0, SpO2 −6 to −10, respiratory rate +8 to +14 | 3 to 8 h | grows to its end, then back within 5 min |
//! | `spike` | one vital in 1 to 3 readings: heart rate ±40 to 70, systolic ±45 to 80 (diastolic half), temperature ±2 to 3, SpO2 −12 to −25, respiratory rate +15 to +25 | 1 to 3 readings | at once |
//! | `flatline` | a stuck sensor repeats its last value: one of the five, or in two of five cases all of them | 2 to 5 h | at once |
//!
//! These are clinically plain sizes, four and more of a person's own standard deviations. A beginning fever or drift is
//! small nevertheless, and is labelled from the first reading that it changes.
//!
//! Time is cut into blocks of twelve hours (shorter at more than 1.6 episodes a day), at another place for every device;
//! a block has an episode with the probability that gives the asked rate, at an even place within it. So episodes are
//! close to a Poisson process, never overlap, and can be known for any moment without playing what was before.

use rand::{Rng, RngExt};
use rand_pcg::Pcg64Mcg;
use serde::Serialize;

use super::chance::{Key, log_uniform, uniform};
use crate::reading::{VITALS, Vital, Vitals};

const MINUTE_MS: f64 = 60_000.0;
const HOUR_MS: f64 = 60.0 * MINUTE_MS;
const DAY_MS: f64 = 24.0 * HOUR_MS;

/// The most episodes per device-day that can be asked for.
pub const MAX_EPISODES_PER_DEVICE_DAY: f64 = 24.0;

/// What kind of thing an episode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EpisodeKind {
    Tachycardia,
    Fever,
    Hypoxia,
    Hypotension,
    Drift,
    Spike,
    Flatline,
}

impl EpisodeKind {
    /// Every kind.
    pub const ALL: [EpisodeKind; 7] = [
        EpisodeKind::Tachycardia,
        EpisodeKind::Fever,
        EpisodeKind::Hypoxia,
        EpisodeKind::Hypotension,
        EpisodeKind::Drift,
        EpisodeKind::Spike,
        EpisodeKind::Flatline,
    ];

    /// Its name in files and tables.
    pub const fn code(self) -> &'static str {
        match self {
            EpisodeKind::Tachycardia => "tachycardia",
            EpisodeKind::Fever => "fever",
            EpisodeKind::Hypoxia => "hypoxia",
            EpisodeKind::Hypotension => "hypotension",
            EpisodeKind::Drift => "drift",
            EpisodeKind::Spike => "spike",
            EpisodeKind::Flatline => "flatline",
        }
    }
}

/// One planned episode of one device.
#[derive(Debug, Clone)]
pub(super) struct Episode {
    pub(super) kind: EpisodeKind,
    pub(super) start_ms: i64,
    pub(super) end_ms: i64,
    rise_ms: f64,
    fall_ms: f64,
    /// What it adds to each vital at its height.
    height: Vitals,
    /// The vital that it is about, and what it adds to that one at its height (0 for a flatline).
    pub(super) vital: Vital,
    pub(super) size: f64,
    /// The sensors that it holds at their last value.
    pub(super) stuck: [bool; VITALS],
}

impl Episode {
    /// What it adds to each vital at `t_ms`.
    pub(super) fn adds(&self, t_ms: i64) -> Vitals {
        if !(self.start_ms..self.end_ms).contains(&t_ms) {
            return [0.0; VITALS];
        }
        let rise = (t_ms - self.start_ms) as f64 / self.rise_ms;
        let fall = (self.end_ms - t_ms) as f64 / self.fall_ms;
        let part = rise.min(fall).clamp(0.0, 1.0);
        // A drift goes straight; bodies start and stop gently.
        let level = if self.kind == EpisodeKind::Drift { part } else { part * part * (3.0 - 2.0 * part) };
        self.height.map(|height| height * level)
    }

    /// The same episode, `by_ms` later.
    pub(super) fn moved(self, by_ms: i64) -> Self {
        Episode { start_ms: self.start_ms + by_ms, end_ms: self.end_ms + by_ms, ..self }
    }

    fn draw(rng: &mut Pcg64Mcg, resting: &Vitals, interval_ms: i64, room_ms: f64) -> Plan {
        use Vital::*;
        let kind = EpisodeKind::ALL[rng.random_range(0..EpisodeKind::ALL.len())];
        let mut plan = Plan {
            kind,
            length_ms: 0.0,
            rise_ms: 1.0,
            fall_ms: 1.0,
            height: [0.0; VITALS],
            stuck: [false; VITALS],
            vital: HeartRate,
        };
        match kind {
            EpisodeKind::Tachycardia => {
                plan.height[HeartRate.index()] = uniform(rng, 30.0, 55.0);
                plan.height[RespiratoryRate.index()] = uniform(rng, 2.0, 5.0);
                plan.length_ms = log_uniform(rng, 20.0, 180.0) * MINUTE_MS;
                plan.ramps(rng, 2.0, 10.0);
            }
            EpisodeKind::Fever => {
                let celsius = uniform(rng, 1.3, 2.5);
                plan.vital = Temperature;
                plan.height[Temperature.index()] = celsius;
                plan.height[HeartRate.index()] = 8.0 * celsius;
                plan.height[RespiratoryRate.index()] = 2.0 * celsius;
                plan.length_ms = log_uniform(rng, 4.0, 9.0) * HOUR_MS;
                plan.ramps(rng, 60.0, 120.0);
            }
            EpisodeKind::Hypoxia => {
                let percent = uniform(rng, 6.0, 14.0);
                plan.vital = Spo2;
                plan.height[Spo2.index()] = -percent;
                plan.height[HeartRate.index()] = 1.2 * percent;
                plan.height[RespiratoryRate.index()] = 0.5 * percent;
                plan.length_ms = log_uniform(rng, 15.0, 120.0) * MINUTE_MS;
                plan.ramps(rng, 3.0, 10.0);
            }
            EpisodeKind::Hypotension => {
                let share = uniform(rng, 0.25, 0.40);
                plan.vital = Systolic;
                plan.height[Systolic.index()] = -share * resting[Systolic.index()];
                plan.height[Diastolic.index()] = -0.8 * share * resting[Diastolic.index()];
                plan.height[HeartRate.index()] = uniform(rng, 8.0, 18.0);
                plan.length_ms = log_uniform(rng, 20.0, 180.0) * MINUTE_MS;
                plan.ramps(rng, 5.0, 15.0);
            }
            EpisodeKind::Drift => {
                plan.one_vital(rng, [(25.0, 40.0), (30.0, 50.0), (1.2, 2.0), (6.0, 10.0), (8.0, 14.0)]);
                plan.length_ms = log_uniform(rng, 3.0, 8.0) * HOUR_MS;
                plan.fall_ms = 5.0 * MINUTE_MS;
                // It grows until it falls: cut to what the length leaves, below.
                plan.rise_ms = plan.length_ms;
            }
            EpisodeKind::Spike => {
                plan.one_vital(rng, [(40.0, 70.0), (45.0, 80.0), (2.0, 3.0), (12.0, 25.0), (15.0, 25.0)]);
                plan.length_ms = (rng.random_range(1..=3) * interval_ms) as f64;
            }
            EpisodeKind::Flatline => {
                plan.stick(rng);
                plan.length_ms = log_uniform(rng, 2.0, 5.0) * HOUR_MS;
            }
        }
        plan.length_ms = plan.length_ms.min(room_ms);
        plan.fall_ms = plan.fall_ms.min(plan.length_ms / 3.0);
        let share = if kind == EpisodeKind::Drift { plan.length_ms - plan.fall_ms } else { plan.length_ms / 3.0 };
        plan.rise_ms = plan.rise_ms.min(share);
        plan
    }
}

/// An episode before it has its place in time.
struct Plan {
    kind: EpisodeKind,
    length_ms: f64,
    rise_ms: f64,
    fall_ms: f64,
    height: Vitals,
    stuck: [bool; VITALS],
    vital: Vital,
}

/// The vital that stands for each sensor: a cuff measures both pressures.
const SENSORS: [Vital; 5] =
    [Vital::HeartRate, Vital::Systolic, Vital::Temperature, Vital::Spo2, Vital::RespiratoryRate];

impl Plan {
    /// Let it rise and fall within `low` to `high` minutes each.
    fn ramps(&mut self, rng: &mut Pcg64Mcg, low: f64, high: f64) {
        self.rise_ms = uniform(rng, low, high) * MINUTE_MS;
        self.fall_ms = uniform(rng, low, high) * MINUTE_MS;
    }

    /// Let it be about one sensor, with a size drawn from that sensor's range in `sizes`.
    fn one_vital(&mut self, rng: &mut Pcg64Mcg, sizes: [(f64, f64); SENSORS.len()]) {
        let sensor = rng.random_range(0..SENSORS.len());
        let (low, high) = sizes[sensor];
        let size = uniform(rng, low, high);
        let up = rng.random_bool(0.5);
        self.vital = SENSORS[sensor];
        self.height[self.vital.index()] = match self.vital {
            // Saturation has no room above; nobody breathes much less than at rest and is well.
            Vital::Spo2 => -size,
            Vital::RespiratoryRate => size,
            _ if up => size,
            _ => -size,
        };
        if self.vital == Vital::Systolic {
            self.height[Vital::Diastolic.index()] = 0.5 * self.height[Vital::Systolic.index()];
        }
    }

    fn stick(&mut self, rng: &mut Pcg64Mcg) {
        let sensor = rng.random_range(0..SENSORS.len());
        if rng.random_bool(0.4) {
            self.stuck = [true; VITALS];
            return;
        }
        self.vital = SENSORS[sensor];
        self.stuck[self.vital.index()] = true;
        self.stuck[Vital::Diastolic.index()] = self.vital == Vital::Systolic;
    }
}

/// When one device has which episodes. Any moment can be asked for.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    key: Key,
    resting: Vitals,
    interval_ms: i64,
    block_ms: i64,
    offset_ms: i64,
    probability: f64,
    cached: Option<(i64, Option<Episode>)>,
}

impl Schedule {
    /// `per_day` episodes a day on average (0 to [`MAX_EPISODES_PER_DEVICE_DAY`]) of a body with these resting levels
    /// that is measured every `interval_ms`.
    pub(super) fn new(key: Key, per_day: f64, resting: Vitals, interval_ms: i64) -> Self {
        let block = if per_day > 0.0 { (0.8 * DAY_MS / per_day).min(12.0 * HOUR_MS) } else { 12.0 * HOUR_MS };
        let block_ms = block as i64;
        Schedule {
            key: key.part(1),
            resting,
            interval_ms,
            block_ms,
            offset_ms: (key.part(0).rng(0).next_u64() % block_ms as u64) as i64,
            probability: (per_day * block / DAY_MS).clamp(0.0, 1.0),
            cached: None,
        }
    }

    /// The episode at `t_ms`, if there is one.
    pub(super) fn at(&mut self, t_ms: i64) -> Option<&Episode> {
        let block = self.block(t_ms);
        if self.cached.as_ref().is_none_or(|(cached, _)| *cached != block) {
            self.cached = Some((block, self.draw(block)));
        }
        let episode = self.cached.as_ref()?.1.as_ref()?;
        (episode.start_ms..episode.end_ms).contains(&t_ms).then_some(episode)
    }

    /// The episodes that touch `[start_ms, end_ms)`, in order.
    pub(super) fn between(&self, start_ms: i64, end_ms: i64) -> impl Iterator<Item = Episode> + '_ {
        (self.block(start_ms)..=self.block(end_ms))
            .filter_map(|block| self.draw(block))
            .filter(move |episode| episode.start_ms < end_ms && episode.end_ms > start_ms)
    }

    fn block(&self, t_ms: i64) -> i64 {
        (t_ms - self.offset_ms).div_euclid(self.block_ms)
    }

    fn draw(&self, block: i64) -> Option<Episode> {
        let mut rng = self.key.rng(block);
        if rng.random::<f64>() >= self.probability {
            return None;
        }
        // Some room is left at the end, so that two episodes never touch.
        let room = 0.95 * self.block_ms as f64;
        let plan = Episode::draw(&mut rng, &self.resting, self.interval_ms, 0.9 * self.block_ms as f64);
        let start_ms = block * self.block_ms + self.offset_ms + uniform(&mut rng, 0.0, room - plan.length_ms) as i64;
        Some(Episode {
            kind: plan.kind,
            start_ms,
            end_ms: start_ms + plan.length_ms as i64,
            rise_ms: plan.rise_ms.max(1.0),
            fall_ms: plan.fall_ms.max(1.0),
            size: plan.height[plan.vital.index()],
            height: plan.height,
            vital: plan.vital,
            stuck: plan.stuck,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESTING: Vitals = [70.0, 120.0, 75.0, 36.6, 97.0, 15.0];
    const DAY: i64 = 86_400_000;

    #[test]
    fn episodes_come_at_the_asked_rate_in_all_kinds_and_never_overlap() {
        for rate in [0.1, 0.5, 2.0, 24.0] {
            let mut count = [0usize; 7];
            let days = 40;
            let devices = 200;
            for device in 0..devices {
                let schedule = Schedule::new(Key::new(5).part(device), rate, RESTING, 60_000);
                let mut before = i64::MIN;
                for episode in schedule.between(0, days * DAY) {
                    assert!(episode.start_ms > before && episode.end_ms > episode.start_ms);
                    before = episode.end_ms;
                    count[EpisodeKind::ALL.iter().position(|k| *k == episode.kind).unwrap()] += 1;
                }
            }
            let total = count.iter().sum::<usize>() as f64;
            let expected = rate * (days * devices as i64) as f64;
            assert!((total / expected - 1.0).abs() < 0.1, "{rate}: {total} of {expected}");
            assert!(count.iter().all(|&n| (n as f64 - total / 7.0).abs() < 0.3 * total / 7.0), "{count:?}");
        }
    }

    #[test]
    fn without_episodes_there_are_none() {
        let schedule = Schedule::new(Key::new(5), 0.0, RESTING, 60_000);
        assert_eq!(schedule.between(0, 1000 * DAY).count(), 0);
    }

    #[test]
    fn an_episode_reaches_its_size_and_is_nothing_outside() {
        let schedule = Schedule::new(Key::new(6), 2.0, RESTING, 60_000);
        for episode in schedule.between(0, 400 * DAY) {
            assert_eq!(episode.adds(episode.start_ms - 1), [0.0; VITALS]);
            assert_eq!(episode.adds(episode.end_ms), [0.0; VITALS]);
            let peak = (0..=1000)
                .map(|i| episode.start_ms + (episode.end_ms - episode.start_ms) * i / 1000)
                .map(|t| episode.adds(t)[episode.vital.index()])
                .fold(0.0, |peak: f64, value| if value.abs() > peak.abs() { value } else { peak });
            assert!((peak - episode.size).abs() <= 0.05 * episode.size.abs(), "{episode:?}: {peak}");
        }
    }
}
