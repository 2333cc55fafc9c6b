//! A simulated adult at rest and in daily life: six vital signs that hang together, as a function of time.
//!
//! Resting levels differ between people as published adult ranges do; within one person the spread is about half the
//! population's. What moves a vital:
//!
//! | part | heart rate | systolic | diastolic | temperature | SpO2 | respiratory rate |
//! |---|---|---|---|---|---|---|
//! | resting level (mean ± SD between people) | 68 ± 8.7 | 120 ± 11 | 75 ± 6.5 | 36.6 ± 0.27 | 97 ± 1.0 | 15.5 ± 2.1 |
//! | time of day (amplitude) | 3.5 | 4.5 | 2.5 | 0.2 | 0.2 | 0.6 |
//! | arousal (OU, 40 min) | 2.0 | 2.0 | | | | 0.5 |
//! | pressure (OU, 90 min) | | 4.5 | 2.5 | | | |
//! | its own wandering (OU, 30 min to 4 h) | 2.6 | | 1.5 | 0.09 | 0.35 | 0.6 |
//! | activity (a bout of 10 to 35 min, at most) | +12 | +8 | +2 | +0.1 | −0.8 | +3 |
//! | per °C of wandering temperature | +8 | | | | | +1.5 |
//!
//! Units: bpm, mmHg, °C, %, breaths a minute. OU is an Ornstein–Uhlenbeck process, the number its standard deviation;
//! each person's parts are scaled by one factor (log-normal, σ = 0.2, cut at 1.5 σ; resting levels are cut at 2.2).
//! Sources of the orders of magnitude: resting heart rate 65 ± 8 between adults (Quer et al., PLoS ONE 15(2):e0227709),
//! temperature 36.6 with most of its spread between people and hours (Obermeyer et al., BMJ 359:j5468), blood pressure
//! by NHANES, 8 to 10 bpm per °C (Karjalainen and Viitasalo, Arch Intern Med 146:1169).
//!
//! Over 400 bodies, five days, a reading every five minutes, that makes (standard deviations of the population, within
//! one body): heart rate 9.7, 4.9; systolic 12.3, 6.5; diastolic 7.4, 4.0; temperature 0.33, 0.18; SpO2 1.15, 0.63;
//! respiratory rate 2.4, 1.25. These are healthy adults: patients of an intensive care unit vary about twice as much.

use std::f64::consts::TAU;

use rand::RngExt;

use super::chance::{Key, Wander, gaussian, uniform};
use crate::reading::{VITALS, Vital, Vitals};

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;

/// Mean and standard deviation between people of the resting levels, by [`Vital::ALL`].
const RESTING: [(f64, f64); VITALS] = [(68.0, 8.7), (120.0, 11.0), (75.0, 6.5), (36.6, 0.27), (97.0, 1.0), (15.5, 2.1)];

/// How far a resting level may lie from the mean, in standard deviations.
const RESTING_LIMIT: f64 = 2.2;

/// The standard deviation of a sensor's own noise, by [`Vital::ALL`].
const SENSOR_NOISE: Vitals = [1.2, 2.5, 2.0, 0.05, 0.4, 0.6];

/// How often a sensor has no value, by [`Vital::ALL`]. The two pressures are one cuff.
const MISSING: Vitals = [0.003, 0.01, 0.01, 0.005, 0.005, 0.005];

/// The least and greatest value that each sensor can show, by [`Vital::ALL`].
const RANGE: [(f64, f64); VITALS] =
    [(20.0, 250.0), (40.0, 260.0), (20.0, 180.0), (30.0, 43.0), (50.0, 100.0), (3.0, 70.0)];

/// When no bout of activity begins, and how long one slot for at most one bout is.
const BOUT_SLOT_MS: i64 = 90 * MINUTE_MS;

/// One person: resting levels, habits, and where the slow processes stand. About 600 bytes.
#[derive(Debug, Clone)]
pub(super) struct Body {
    key: Key,
    /// Levels at rest, averaged over the day.
    pub(super) resting: Vitals,
    /// How lively this body is: the factor of everything that moves it.
    scale: f64,
    /// How late this person lives.
    chronotype_ms: i64,
    arousal: Wander,
    pressure: Wander,
    heart: Wander,
    diastolic: Wander,
    temperature: Wander,
    spo2: Wander,
    breath: Wander,
    bout: Bout,
}

impl Body {
    pub(super) fn new(key: Key) -> Self {
        let mut rng = key.part(0).rng(0);
        let mut z: Vitals = std::array::from_fn(|_| gaussian(&mut rng));
        // People with a high systolic pressure have a high diastolic one: correlation 0.65.
        z[Vital::Diastolic.index()] = 0.65 * z[Vital::Systolic.index()] + 0.76 * z[Vital::Diastolic.index()];
        let mut resting: Vitals = std::array::from_fn(|i| {
            let (mean, sd) = RESTING[i];
            mean + sd * z[i].clamp(-RESTING_LIMIT, RESTING_LIMIT)
        });
        // Saturation ends at 100, and a healthy adult's does not rest below 94.
        let spo2 = &mut resting[Vital::Spo2.index()];
        *spo2 = spo2.clamp(94.5, 98.8);
        let wander = |part, tau_ms| Wander::new(key.part(part), tau_ms);
        Body {
            key: key.part(9),
            resting,
            scale: libm::exp(0.2 * gaussian(&mut rng).clamp(-1.5, 1.5)),
            chronotype_ms: (gaussian(&mut rng).clamp(-2.5, 2.5) * HOUR_MS as f64) as i64,
            arousal: wander(1, 40 * MINUTE_MS),
            pressure: wander(2, 90 * MINUTE_MS),
            heart: wander(3, 4 * HOUR_MS),
            diastolic: wander(4, HOUR_MS),
            temperature: wander(5, 4 * HOUR_MS),
            spo2: wander(6, HOUR_MS),
            breath: wander(7, 30 * MINUTE_MS),
            bout: Bout::NONE,
        }
    }

    /// The vitals at `t_ms`, as they are before a sensor looks. Day and night follow `t_ms`: 0 is a midnight.
    pub(super) fn levels(&mut self, t_ms: i64) -> Vitals {
        let hour = (t_ms - self.chronotype_ms).rem_euclid(DAY_MS) as f64 / HOUR_MS as f64;
        // +1 in the afternoon, −1 before dawn; temperature comes two hours later.
        let day = libm::cos((hour - 16.0) / 24.0 * TAU);
        let warmth = libm::cos((hour - 18.0) / 24.0 * TAU);
        let arousal = self.arousal.at(t_ms);
        let pressure = self.pressure.at(t_ms);
        let warm = 0.09 * self.temperature.at(t_ms);
        let activity = self.activity(t_ms, day);

        let moved = [
            3.5 * day + 2.0 * arousal + 2.6 * self.heart.at(t_ms) + 8.0 * warm + 12.0 * activity,
            4.5 * day + 2.0 * arousal + 4.5 * pressure + 8.0 * activity,
            2.5 * day + 2.5 * pressure + 1.5 * self.diastolic.at(t_ms) + 2.0 * activity,
            0.2 * warmth + warm + 0.1 * activity,
            0.2 * day + 0.35 * self.spo2.at(t_ms) - 0.8 * activity,
            0.6 * day + 0.5 * arousal + 0.6 * self.breath.at(t_ms) + 1.5 * warm + 3.0 * activity,
        ];
        std::array::from_fn(|i| self.resting[i] + self.scale * moved[i])
    }

    /// How active this body is, 0 to 1.
    fn activity(&mut self, t_ms: i64, day: f64) -> f64 {
        let slot = t_ms.div_euclid(BOUT_SLOT_MS);
        if self.bout.slot != slot {
            self.bout = Bout::of(self.key, slot);
        }
        // By day about two slots in five have a bout, by night almost none.
        if self.bout.chance > 0.03 + 0.2 * (1.0 + day) { 0.0 } else { self.bout.at(t_ms) }
    }
}

/// A bout of activity within its slot.
#[derive(Debug, Clone)]
struct Bout {
    slot: i64,
    chance: f64,
    start_ms: i64,
    end_ms: i64,
    intensity: f64,
}

impl Bout {
    const NONE: Bout = Bout { slot: i64::MIN, chance: 1.0, start_ms: 0, end_ms: 0, intensity: 0.0 };
    const RISE_MS: i64 = 3 * MINUTE_MS;
    const REST_MS: i64 = 10 * MINUTE_MS;

    fn of(key: Key, slot: i64) -> Self {
        let mut rng = key.rng(slot);
        let length_ms = rng.random_range(10 * MINUTE_MS..=35 * MINUTE_MS);
        let latest_ms = BOUT_SLOT_MS - length_ms - Self::REST_MS;
        let start_ms = slot * BOUT_SLOT_MS + rng.random_range(0..=latest_ms);
        Bout {
            slot,
            chance: rng.random(),
            start_ms,
            end_ms: start_ms + length_ms,
            intensity: uniform(&mut rng, 0.35, 1.0),
        }
    }

    fn at(&self, t_ms: i64) -> f64 {
        let up = (t_ms - self.start_ms) as f64 / Self::RISE_MS as f64;
        let down = (self.end_ms + Self::REST_MS - t_ms) as f64 / Self::REST_MS as f64;
        self.intensity * up.min(down).clamp(0.0, 1.0)
    }
}

/// What the sensors add to one reading: noise, and values that are missing.
#[derive(Debug, Clone)]
pub(super) struct Sensors {
    noise: Vitals,
    missing: [bool; VITALS],
}

impl Sensors {
    /// The sensors at reading `number` of the device with this key.
    pub(super) fn new(key: Key, number: i64) -> Self {
        let mut rng = key.rng(number);
        let noise = std::array::from_fn(|i| SENSOR_NOISE[i] * gaussian(&mut rng));
        let mut missing: [bool; VITALS] = std::array::from_fn(|i| rng.random_bool(MISSING[i]));
        missing[Vital::Diastolic.index()] = missing[Vital::Systolic.index()];
        Sensors { noise, missing }
    }

    /// What they show of `levels`: with noise, within their range, at their resolution; NaN where missing.
    pub(super) fn show(&self, levels: &Vitals) -> Vitals {
        let mut shown: Vitals = std::array::from_fn(|i| {
            let (least, greatest) = RANGE[i];
            (levels[i] + self.noise[i]).clamp(least, greatest)
        });
        // A cuff that finds no pulse between its two pressures shows neither: they keep a little apart.
        let systolic = shown[Vital::Systolic.index()];
        let diastolic = &mut shown[Vital::Diastolic.index()];
        *diastolic = diastolic.min(systolic - 8.0);
        for vital in Vital::ALL {
            let value = &mut shown[vital.index()];
            // The reciprocal: 367 / 10 is 36.7, 367 × 0.1 is 36.7 and a bit.
            let steps = (1.0 / vital.resolution()).round();
            *value = if self.missing[vital.index()] { f64::NAN } else { (*value * steps).round() / steps };
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLEET: u64 = 200;

    /// Rows of `vitals` of several people over three days, every ten minutes.
    fn people() -> Vec<Vec<Vitals>> {
        (0..FLEET)
            .map(|person| {
                let key = Key::new(11).part(person);
                let mut body = Body::new(key);
                (0..432).map(|i| Sensors::new(key.part(50), i).show(&body.levels(i * 10 * MINUTE_MS))).collect()
            })
            .collect()
    }

    fn mean_sd(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
        let present = values.filter(|v| !v.is_nan());
        let n = present.clone().count() as f64;
        let mean = present.clone().sum::<f64>() / n;
        (mean, (present.map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt())
    }

    #[test]
    fn bodies_are_like_healthy_adults_and_vary_half_as_much_as_the_population() {
        let people = people();
        let plausible = [(60.0, 76.0), (114.0, 126.0), (70.0, 80.0), (36.4, 36.8), (96.0, 98.0), (14.0, 17.0)];
        for vital in Vital::ALL {
            let i = vital.index();
            let (mean, all) = mean_sd(people.iter().flatten().map(|v| v[i]));
            let within = people.iter().map(|p| mean_sd(p.iter().map(|v| v[i])).1).sum::<f64>() / FLEET as f64;
            println!("{:18} mean {mean:7.2}  population SD {all:6.2}  within SD {within:6.2}", vital.label());
            assert!((plausible[i].0..plausible[i].1).contains(&mean), "{}: {mean}", vital.label());
            assert!((0.4..0.65).contains(&(within / all)), "{}: {within} of {all}", vital.label());
        }
    }

    #[test]
    fn vitals_hang_together() {
        let people = people();
        let correlation = |a: Vital, b: Vital| {
            let of_one = |rows: &Vec<Vitals>| {
                let rows: Vec<(f64, f64)> =
                    rows.iter().map(|v| (v[a.index()], v[b.index()])).filter(|(x, y)| !(x + y).is_nan()).collect();
                let (mx, sx) = mean_sd(rows.iter().map(|r| r.0));
                let (my, sy) = mean_sd(rows.iter().map(|r| r.1));
                rows.iter().map(|(x, y)| (x - mx) * (y - my)).sum::<f64>() / rows.len() as f64 / (sx * sy)
            };
            people.iter().map(of_one).sum::<f64>() / FLEET as f64
        };
        assert!(correlation(Vital::Systolic, Vital::Diastolic) > 0.4);
        assert!(correlation(Vital::HeartRate, Vital::RespiratoryRate) > 0.3);
        assert!(correlation(Vital::HeartRate, Vital::Temperature) > 0.3);
    }

    #[test]
    fn sensors_show_steps_of_their_resolution_within_their_range() {
        for rows in people() {
            for vitals in rows {
                for vital in Vital::ALL {
                    let value = vitals[vital.index()];
                    let steps = value / vital.resolution();
                    assert!(value.is_nan() || (steps - steps.round()).abs() < 1e-6, "{value}");
                    assert!(value.is_nan() || format!("{value}").len() <= 5, "{value}");
                    assert!(value.is_nan() || (RANGE[vital.index()].0..=RANGE[vital.index()].1).contains(&value));
                }
                assert!(vitals[0].is_nan() || vitals[1].is_nan() || vitals[1] > vitals[2]);
            }
        }
    }
}
