//! Devices and their readings: one device as an endless series that can be entered at any number, and many devices
//! merged in the order of time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::{Rng, RngExt};

use super::body::{Body, Sensors};
use super::chance::Key;
use super::episode::{Episode, MAX_EPISODES_PER_DEVICE_DAY, Schedule};
use crate::reading::{Reading, VITALS, Vitals};

/// The most devices of one fleet.
pub const MAX_DEVICES: u32 = 10_000_000;

/// How many readings a stuck sensor looks back for the value that it repeats.
const STUCK_LOOKS_BACK: i64 = 20;

/// Which devices are simulated, over which time.
///
/// A seed names a world: device k of seed s is the same body with the same episodes whatever the fleet's size, and
/// readings are a function of the time since `origin_ms`. Runs with the same seed, interval and origin that overlap in
/// time have the same readings there.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetOptions {
    /// How many devices, at least 1.
    pub devices: u32,
    pub seed: u64,
    /// Time between two readings of a device, milliseconds, at least 1.
    pub interval_ms: i64,
    /// The first moment, milliseconds since 1970 UTC.
    pub start_ms: i64,
    /// The first moment that is no longer simulated, milliseconds since 1970 UTC.
    pub end_ms: i64,
    /// The world's zero, a midnight of its bodies. 0 ties the world to the calendar; `start_ms` makes a run that is the
    /// same whenever it is played.
    pub origin_ms: i64,
    /// Episodes per device and day, 0 (none) to [`MAX_EPISODES_PER_DEVICE_DAY`].
    pub episodes_per_device_day: f64,
    /// With 0, episodes happen as they fall, so one may be cut off by the start or the end of the simulated time.
    /// With more, only episodes happen that lie whole between `start_ms + warmup_ms` and `end_ms`: whoever judges a
    /// device by its own history has some, and every labelled episode can be seen whole.
    pub warmup_ms: i64,
}

/// What is wrong with [`FleetOptions`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FleetError {
    #[error("a fleet has 1 to {MAX_DEVICES} devices, not {0}")]
    Devices(u32),
    #[error("the interval between readings must be 1 ms to 10 years, not {0} ms")]
    Interval(i64),
    #[error("the simulated time must begin after 1970, end after its start and before the year 9999")]
    Span,
    #[error("episodes per device-day must be 0 to {MAX_EPISODES_PER_DEVICE_DAY}, not {0}")]
    Episodes(f64),
    #[error("the warm-up must not be negative")]
    Warmup,
}

impl FleetOptions {
    /// Whether these options describe a fleet.
    pub fn check(&self) -> Result<(), FleetError> {
        const TEN_YEARS_MS: i64 = 3_653 * 86_400_000;
        const YEAR_9999_MS: i64 = 253_370_764_800_000;
        if !(1..=MAX_DEVICES).contains(&self.devices) {
            return Err(FleetError::Devices(self.devices));
        }
        if !(1..=TEN_YEARS_MS).contains(&self.interval_ms) {
            return Err(FleetError::Interval(self.interval_ms));
        }
        let times = 0..=YEAR_9999_MS;
        let in_time = [self.start_ms, self.end_ms, self.origin_ms].iter().all(|t| times.contains(t));
        if !in_time || self.end_ms <= self.start_ms {
            return Err(FleetError::Span);
        }
        if !(0.0..=MAX_EPISODES_PER_DEVICE_DAY).contains(&self.episodes_per_device_day) {
            return Err(FleetError::Episodes(self.episodes_per_device_day));
        }
        if !(0..=YEAR_9999_MS).contains(&self.warmup_ms) {
            return Err(FleetError::Warmup);
        }
        Ok(())
    }

    /// Whether this episode happens in the simulated time.
    fn happens(&self, episode: &Episode) -> bool {
        let (start_ms, end_ms) = (episode.start_ms + self.origin_ms, episode.end_ms + self.origin_ms);
        self.warmup_ms == 0 || (start_ms >= self.start_ms + self.warmup_ms && end_ms <= self.end_ms)
    }
}

/// The id of the device with this index: `device_1` for 0.
pub fn device_id(index: u32) -> String {
    format!("device_{}", u64::from(index) + 1)
}

/// One reading as a device shows it, and as it would have been without episodes.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub(super) reading: Reading,
    pub(super) plain: Vitals,
}

/// One device. About 1 KB.
#[derive(Debug, Clone)]
pub(super) struct Device {
    sensors: Key,
    body: Body,
    schedule: Schedule,
    clock: Clock,
    /// What stuck sensors repeat, and since when.
    held: Option<(i64, Vitals)>,
    next: i64,
}

/// When a device measures: on its own phase of the interval, a little late each time.
#[derive(Debug, Clone)]
struct Clock {
    key: Key,
    origin_ms: i64,
    phase_ms: i64,
    interval_ms: i64,
    /// A reading comes up to this much after its nominal time.
    jitter_ms: i64,
}

impl Clock {
    fn new(key: Key, options: &FleetOptions) -> Self {
        let phase_ms = (key.part(0).rng(0).next_u64() % options.interval_ms as u64) as i64;
        let jitter_ms = (options.interval_ms / 50).min(200);
        let interval_ms = options.interval_ms;
        Clock { key: key.part(1), origin_ms: options.origin_ms, phase_ms, interval_ms, jitter_ms }
    }

    fn time_of(&self, number: i64) -> i64 {
        let late_ms = self.key.rng(number).random_range(0..=self.jitter_ms);
        self.origin_ms + self.phase_ms + number * self.interval_ms + late_ms
    }

    /// The number of the first reading that is not nominally before `t_ms`.
    fn first_from(&self, t_ms: i64) -> i64 {
        (t_ms - self.origin_ms - self.phase_ms + self.interval_ms - 1).div_euclid(self.interval_ms)
    }
}

impl Device {
    pub(super) fn new(options: &FleetOptions, index: u32) -> Self {
        let key = Key::new(options.seed).part(u64::from(index));
        let body = Body::new(key.part(0));
        let clock = Clock::new(key.part(1), options);
        let schedule = Schedule::new(key.part(2), options.episodes_per_device_day, body.resting, options.interval_ms);
        let next = clock.first_from(options.start_ms);
        Device { sensors: key.part(3), body, schedule, clock, held: None, next }
    }

    /// The next reading before the fleet's end.
    pub(super) fn advance(&mut self, options: &FleetOptions) -> Option<Reading> {
        if self.clock.time_of(self.next) >= options.end_ms {
            return None;
        }
        self.next += 1;
        Some(self.show(options, self.next - 1).reading)
    }

    /// Reading `number`, whichever was asked for before.
    pub(super) fn show(&mut self, options: &FleetOptions, number: i64) -> Shown {
        let ts_ms = self.clock.time_of(number);
        let t_ms = ts_ms - options.origin_ms;
        let sensors = Sensors::new(self.sensors, number);
        let levels = self.body.levels(t_ms);
        let plain = sensors.show(&levels);
        let mut vitals = plain;
        let episode = self.schedule.at(t_ms).filter(|episode| options.happens(episode)).cloned();
        if let Some(episode) = episode {
            let adds = episode.adds(t_ms);
            vitals = sensors.show(&std::array::from_fn(|i| levels[i] + adds[i]));
            if episode.stuck.contains(&true) {
                let held = self.held(options, &episode);
                for (i, value) in vitals.iter_mut().enumerate() {
                    // Where there was no value, a stuck sensor has none either.
                    if episode.stuck[i] && !value.is_nan() {
                        *value = held[i];
                    }
                }
            }
        }
        Shown { reading: Reading { ts_ms, arrived_ms: ts_ms, seq: Some(number), vitals }, plain }
    }

    /// The numbers of this run's readings within `[start_ms, end_ms)`.
    pub(super) fn numbers(
        &self,
        options: &FleetOptions,
        start_ms: i64,
        end_ms: i64,
    ) -> impl Iterator<Item = i64> + use<> {
        let clock = self.clock.clone();
        // One that is due just before the start can come late, so it is looked at too.
        let first = (clock.first_from(start_ms) - 1).max(clock.first_from(options.start_ms));
        (first..clock.first_from(end_ms)).filter(move |&number| (start_ms..end_ms).contains(&clock.time_of(number)))
    }

    /// This device's episodes that happen and touch `[start_ms, end_ms)`, their times since 1970.
    pub(super) fn episodes(&self, options: &FleetOptions, start_ms: i64, end_ms: i64) -> Vec<Episode> {
        let origin_ms = options.origin_ms;
        self.schedule
            .between(start_ms - origin_ms, end_ms - origin_ms)
            .filter(|episode| options.happens(episode))
            .map(|episode| episode.moved(origin_ms))
            .collect()
    }

    /// The last value of each sensor before this episode stuck it.
    fn held(&mut self, options: &FleetOptions, episode: &Episode) -> Vitals {
        if let Some((since, held)) = self.held
            && since == episode.start_ms
        {
            return held;
        }
        let first = self.clock.first_from(episode.start_ms + options.origin_ms);
        let mut held = [f64::NAN; VITALS];
        for number in (first - STUCK_LOOKS_BACK..first).rev() {
            let before = Sensors::new(self.sensors, number)
                .show(&self.body.levels(self.clock.time_of(number) - options.origin_ms));
            for (value, before) in held.iter_mut().zip(before) {
                if value.is_nan() {
                    *value = before;
                }
            }
            if !held.iter().any(|value| value.is_nan()) {
                break;
            }
        }
        self.held = Some((episode.start_ms, held));
        held
    }
}

/// Readings of many devices in the order of time: an iterator over (device index, reading). It keeps about 1 KB per
/// device, however long the simulated time is.
pub struct Fleet {
    options: FleetOptions,
    devices: Vec<(u32, Device)>,
    /// Each device's next reading, the earliest on top.
    upcoming: BinaryHeap<Reverse<(i64, usize)>>,
    readings: Vec<Option<Reading>>,
}

impl Fleet {
    /// All devices of these options.
    ///
    /// # Errors
    /// When the options describe no fleet.
    pub fn new(options: FleetOptions) -> Result<Self, FleetError> {
        let everyone = 0..options.devices;
        Fleet::of(options, everyone)
    }

    /// Only the devices with these indices; each has the readings that it has in the whole fleet.
    ///
    /// # Errors
    /// When the options describe no fleet.
    pub fn of(options: FleetOptions, indices: impl IntoIterator<Item = u32>) -> Result<Self, FleetError> {
        options.check()?;
        let mut fleet = Fleet { options, devices: Vec::new(), upcoming: BinaryHeap::new(), readings: Vec::new() };
        for index in indices {
            fleet.devices.push((index, Device::new(&fleet.options, index)));
            fleet.readings.push(None);
            fleet.refill(fleet.devices.len() - 1);
        }
        Ok(fleet)
    }

    fn refill(&mut self, place: usize) {
        let reading = self.devices[place].1.advance(&self.options);
        if let Some(reading) = &reading {
            self.upcoming.push(Reverse((reading.ts_ms, place)));
        }
        self.readings[place] = reading;
    }
}

impl Iterator for Fleet {
    type Item = (u32, Reading);

    fn next(&mut self) -> Option<Self::Item> {
        let Reverse((_, place)) = self.upcoming.pop()?;
        let reading = self.readings[place].take()?;
        self.refill(place);
        Some((self.devices[place].0, reading))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::reading::{same_vitals, valid_device_id};

    pub(crate) const START_MS: i64 = 1_780_000_000_000;
    const HOUR_MS: i64 = 3_600_000;

    pub(crate) fn options(devices: u32, hours: i64) -> FleetOptions {
        FleetOptions {
            devices,
            seed: 42,
            interval_ms: 60_000,
            start_ms: START_MS,
            end_ms: START_MS + hours * HOUR_MS,
            origin_ms: 0,
            episodes_per_device_day: 4.0,
            warmup_ms: 0,
        }
    }

    fn play(options: FleetOptions) -> Vec<(u32, Reading)> {
        Fleet::new(options).unwrap().collect()
    }

    #[test]
    fn a_seed_gives_the_same_readings_again_and_another_seed_others() {
        let again = play(options(5, 24));
        assert_eq!(play(options(5, 24)), again);
        assert_ne!(play(FleetOptions { seed: 43, ..options(5, 24) }), again);
    }

    #[test]
    fn a_device_is_the_same_in_a_fleet_of_any_size() {
        let of_three = |readings: Vec<(u32, Reading)>| -> Vec<_> {
            readings.into_iter().filter(|(device, _)| *device == 3).collect()
        };
        let small = of_three(play(options(4, 24)));
        assert_eq!(of_three(play(options(40, 24))), small);
        assert_eq!(Fleet::of(options(40, 24), [3]).unwrap().collect::<Vec<_>>(), small);
        assert!(small.len() >= 1439, "{}", small.len());
    }

    #[test]
    fn runs_that_overlap_in_time_agree_where_they_do() {
        let early = play(options(5, 24));
        let later = FleetOptions { start_ms: START_MS + 7 * HOUR_MS + 12_345, ..options(5, 48) };
        let shared: Vec<_> = early.iter().filter(|(_, reading)| reading.ts_ms >= later.start_ms + 200).collect();
        let later = play(later);
        assert!(shared.len() > 4_000);
        assert!(shared.iter().all(|reading| later.contains(reading)));
    }

    #[test]
    fn readings_come_in_time_order_and_never_ahead_of_the_end() {
        for (interval_ms, hours) in [(1_000, 1), (60_000, 24), (3_600_000, 240), (7, 0)] {
            let mut options = FleetOptions { interval_ms, ..options(7, hours) };
            options.end_ms += 1_001;
            let readings = play(options.clone());
            let expected = 7 * (options.end_ms - options.start_ms) / interval_ms;
            assert!((readings.len() as i64 - expected).abs() <= 14, "{} of {expected}", readings.len());
            assert!(readings.is_sorted_by_key(|(_, reading)| reading.ts_ms));
            assert!(readings.iter().all(|(_, r)| (options.start_ms..options.end_ms).contains(&r.ts_ms)));
        }
    }

    #[test]
    fn the_same_origin_gives_the_same_story_at_another_time() {
        let story = |start_ms: i64| {
            let moved = FleetOptions {
                start_ms,
                end_ms: start_ms + 24 * HOUR_MS,
                origin_ms: start_ms,
                warmup_ms: 6 * HOUR_MS,
                ..options(5, 24)
            };
            play(moved)
                .into_iter()
                .map(move |(device, r)| (device, r.ts_ms - start_ms, r.seq, format!("{:?}", r.vitals)))
        };
        assert!(story(START_MS).eq(story(START_MS + 987_654_321)));
    }

    #[test]
    fn a_stuck_sensor_repeats_one_value() {
        let options = FleetOptions { episodes_per_device_day: 2.0, ..options(60, 48) };
        let mut stuck = 0;
        for index in 0..options.devices {
            let mut device = Device::new(&options, index);
            for episode in device.episodes(&options, options.start_ms, options.end_ms) {
                let mut seen = [const { Vec::new() }; VITALS];
                for number in device.numbers(&options, episode.start_ms, episode.end_ms) {
                    let shown = device.show(&options, number);
                    for i in (0..VITALS).filter(|&i| episode.stuck[i] && !shown.reading.vitals[i].is_nan()) {
                        seen[i].push(shown.reading.vitals[i]);
                    }
                }
                for values in seen.iter().filter(|values| !values.is_empty()) {
                    stuck += 1;
                    assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
                }
            }
        }
        assert!(stuck > 20, "{stuck}");
    }

    #[test]
    fn absent_vitals_are_occasional_and_the_same_with_and_without_episodes() {
        let with = play(options(5, 48));
        let without = play(FleetOptions { episodes_per_device_day: 0.0, ..options(5, 48) });
        let absent = |reading: &Reading| reading.vitals.map(f64::is_nan);
        let count: usize = with.iter().map(|(_, r)| absent(r).iter().filter(|a| **a).count()).sum();
        assert!((0.002..0.02).contains(&(count as f64 / (with.len() * VITALS) as f64)), "{count}");
        assert!(with.iter().zip(&without).all(|((_, a), (_, b))| absent(a) == absent(b) && a.ts_ms == b.ts_ms));
        assert!(with.iter().zip(&without).any(|((_, a), (_, b))| !same_vitals(&a.vitals, &b.vitals)));
    }

    #[test]
    fn options_that_describe_no_fleet_are_refused() {
        let good = options(1, 1);
        assert_eq!(good.check(), Ok(()));
        let bad = [
            FleetOptions { devices: 0, ..good.clone() },
            FleetOptions { interval_ms: 0, ..good.clone() },
            FleetOptions { end_ms: good.start_ms, ..good.clone() },
            FleetOptions { start_ms: -1, ..good.clone() },
            FleetOptions { episodes_per_device_day: f64::NAN, ..good.clone() },
            FleetOptions { episodes_per_device_day: 25.0, ..good.clone() },
            FleetOptions { warmup_ms: -1, ..good.clone() },
        ];
        for options in bad {
            assert!(options.check().is_err(), "{options:?}");
            assert!(Fleet::new(options).is_err());
        }
    }

    #[test]
    fn device_ids_are_valid() {
        assert_eq!(device_id(0), "device_1");
        assert!(valid_device_id(&device_id(u32::MAX)));
    }
}
