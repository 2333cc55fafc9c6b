//! Rules before the model: what comes from the sensor rather than from the body.
//!
//! | fault | rule |
//! |---|---|
//! | unit error | outside what a body can have, and plausible in another unit |
//! | impossible | outside what a living body can have, or systolic not above diastolic |
//! | jump | a change larger than [`largest_change`] allows for the time since the last sound value |
//! | flat line | the same value for so long that this device, by its own history, would have changed it often |
//!
//! A vital with a fault is left out of the outlier decision and of the baseline; the rest of the reading is judged as
//! usual.

use crate::reading::{Vital, Vitals};

use super::state::VitalState;
use super::verdict::Cause;

/// What a living adult body can have, inclusive. Wider than any clinical range.
pub const fn possible(vital: Vital) -> (f64, f64) {
    match vital {
        Vital::HeartRate => (10.0, 300.0),
        Vital::Systolic => (30.0, 300.0),
        Vital::Diastolic => (10.0, 220.0),
        Vital::Temperature => (24.0, 45.0),
        Vital::Spo2 => (30.0, 100.0),
        Vital::RespiratoryRate => (0.0, 90.0),
    }
}

/// Whether a living adult body can have this value.
pub fn is_possible(vital: Vital, value: f64) -> bool {
    within(possible(vital), value)
}

/// A value as a sensor of this vital would show it: to its resolution, within what a body can have.
pub(crate) fn shown(vital: Vital, value: f64) -> f64 {
    let (low, high) = possible(vital);
    let steps = (1.0 / vital.resolution()).round();
    (value.clamp(low, high) * steps).round() / steps
}

fn within((low, high): (f64, f64), value: f64) -> bool {
    (low..=high).contains(&value)
}

/// The unit in which `value`, impossible in its own, would be plausible, and its value in the vital's own unit.
pub fn other_unit(vital: Vital, value: f64) -> Option<(&'static str, f64)> {
    let candidates: &[(&'static str, f64, f64, (f64, f64))] = match vital {
        // (unit, offset, factor, plausible range): own = (value − offset) × factor
        Vital::Temperature => &[("Fahrenheit", 32.0, 5.0 / 9.0, (30.0, 44.0)), ("kelvin", 273.15, 1.0, (30.0, 44.0))],
        Vital::Systolic => &[("kPa", 0.0, 7.500_62, (60.0, 224.0))],
        Vital::Diastolic => &[("kPa", 0.0, 7.500_62, (30.0, 75.0))],
        Vital::Spo2 => &[("fractions of 1", 0.0, 100.0, (50.0, 100.0))],
        Vital::HeartRate => &[("beats per second", 0.0, 60.0, (30.0, 240.0))],
        Vital::RespiratoryRate => &[],
    };
    if is_possible(vital, value) {
        return None;
    }
    candidates.iter().find_map(|&(unit, offset, factor, plausible)| {
        let own = (value - offset) * factor;
        within(plausible, own).then_some((unit, own))
    })
}

/// The fault of one value by itself and beside its siblings, if any.
pub(super) fn value_fault(vital: Vital, vitals: &Vitals) -> Option<Cause> {
    let value = vitals[vital.index()];
    if !is_possible(vital, value) {
        return Some(if other_unit(vital, value).is_some() { Cause::UnitError } else { Cause::Impossible });
    }
    // The two pressures come from one cuff: when they are the wrong way round, neither can be believed.
    let pressure = matches!(vital, Vital::Systolic | Vital::Diastolic);
    (pressure && vitals[Vital::Systolic.index()] <= vitals[Vital::Diastolic.index()]).then_some(Cause::Impossible)
}

/// The largest change that a body can make in `minutes`, in the vital's unit: a step that even a good sensor may show
/// from one reading to the next, and a rate.
pub fn largest_change(vital: Vital, minutes: f64) -> f64 {
    let (step, per_minute) = match vital {
        Vital::HeartRate => (60.0, 30.0),
        Vital::Systolic => (60.0, 20.0),
        Vital::Diastolic => (50.0, 15.0),
        Vital::Temperature => (1.0, 0.1),
        Vital::Spo2 => (25.0, 10.0),
        Vital::RespiratoryRate => (25.0, 10.0),
    };
    step + per_minute * minutes
}

/// The fault of a sound value in the light of the device's last one.
pub(super) fn course_fault(vital: Vital, value: f64, ts_ms: i64, state: &VitalState) -> Option<Cause> {
    let passed_ms = ts_ms.saturating_sub(state.seen_ms?);
    let change = (value - f64::from(state.last)).abs();
    // The first test is the second's at no time passed: it saves a division for nearly every reading.
    if change > largest_change(vital, 0.0) && change > largest_change(vital, passed_ms as f64 / 60_000.0) {
        return Some(Cause::Jump);
    }
    is_flat(vital, value, ts_ms, state).then_some(Cause::Flatline)
}

/// A run counts as flat when the device would have changed the value this many times by now, by its own history.
const EXPECTED_CHANGES: f32 = 12.0;
/// And not before it has been seen to change this often at all: a device that only ever sends one value never alarms.
const LEAST_CHANGES: f32 = 10.0;
/// A run that goes on for longer has become how this device is, and alarms no more.
const LONGEST_FLAT_MS: i64 = 24 * 3_600_000;
/// A run does not reach over a silence longer than this.
const LONGEST_SILENCE_MS: i64 = 6 * 3_600_000;
/// From here on, oxygen saturation may stand still: it is at its ceiling.
const SPO2_CEILING: f64 = 97.0;

/// The shortest time for which a vital must stand still before it is called flat.
const fn shortest_flat_ms(vital: Vital) -> i64 {
    match vital {
        // These move by less than a sensor's step for an hour in a body at rest.
        Vital::Temperature | Vital::Spo2 => 3 * 3_600_000,
        _ => 30 * 60_000,
    }
}

fn is_flat(vital: Vital, value: f64, ts_ms: i64, state: &VitalState) -> bool {
    if value as f32 != state.last || (vital == Vital::Spo2 && value >= SPO2_CEILING) {
        return false;
    }
    let stood_ms = ts_ms.saturating_sub(state.run_start_ms);
    let steps = f32::from(state.run);
    let rate = state.changed / (state.changed + state.same + 1.0);
    state.changed >= LEAST_CHANGES
        && (shortest_flat_ms(vital)..=LONGEST_FLAT_MS).contains(&stood_ms)
        && steps * rate >= EXPECTED_CHANGES
}

/// Notes that a value was seen, how long it has stood, and how often this device changes it. About the last 500 steps are
/// remembered.
pub(super) fn remember(value: f64, ts_ms: i64, state: &mut VitalState) {
    let value = value as f32;
    let silent = state.seen_ms.is_none_or(|seen| ts_ms.saturating_sub(seen) > LONGEST_SILENCE_MS);
    state.seen_ms = Some(ts_ms);
    if !silent && value == state.last {
        state.run = state.run.saturating_add(1);
        return;
    }
    if !silent {
        // No single run may outweigh the device's whole history.
        state.same += f32::from(state.run.saturating_sub(1).min(128));
        state.changed += 1.0;
        if state.same + state.changed > 512.0 {
            // Whole 64ths, as in the stored form.
            state.same = (state.same * 32.0).floor() / 64.0;
            state.changed = (state.changed * 32.0).floor() / 64.0;
        }
    }
    state.last = value;
    state.run = 1;
    state.run_start_ms = ts_ms;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::NO_VITALS;

    fn with(vital: Vital, value: f64) -> Vitals {
        let mut vitals = NO_VITALS;
        vitals[vital.index()] = value;
        vitals
    }

    #[test]
    fn values_in_another_unit_are_told_from_impossible_ones() {
        let cases = [
            (Vital::Temperature, 98.6, Some(Cause::UnitError)),
            (Vital::Temperature, 310.0, Some(Cause::UnitError)),
            (Vital::Temperature, 60.0, Some(Cause::Impossible)),
            (Vital::Temperature, 41.9, None),
            (Vital::HeartRate, 900.0, Some(Cause::Impossible)),
            (Vital::HeartRate, 1.2, Some(Cause::UnitError)),
            (Vital::HeartRate, -0.0, Some(Cause::Impossible)),
            (Vital::HeartRate, 190.0, None),
            (Vital::Systolic, 16.0, Some(Cause::UnitError)),
            (Vital::Spo2, 0.97, Some(Cause::UnitError)),
            (Vital::Spo2, 104.0, Some(Cause::Impossible)),
            (Vital::RespiratoryRate, 0.0, None),
            (Vital::RespiratoryRate, f64::INFINITY, Some(Cause::Impossible)),
            (Vital::RespiratoryRate, 1e308, Some(Cause::Impossible)),
        ];
        for (vital, value, fault) in cases {
            assert_eq!(value_fault(vital, &with(vital, value)), fault, "{vital:?} {value}");
        }
    }

    #[test]
    fn pressures_the_wrong_way_round_are_impossible() {
        let mut vitals = with(Vital::Systolic, 80.0);
        assert_eq!(value_fault(Vital::Systolic, &vitals), None);
        vitals[Vital::Diastolic.index()] = 85.0;
        assert_eq!(value_fault(Vital::Systolic, &vitals), Some(Cause::Impossible));
        assert_eq!(value_fault(Vital::Diastolic, &vitals), Some(Cause::Impossible));
    }

    /// Feeds `values` a minute apart; gives the faults.
    fn run(vital: Vital, values: impl IntoIterator<Item = f64>) -> Vec<Option<Cause>> {
        let mut state = VitalState::default();
        let mut judge = |(minute, value): (usize, f64)| {
            let ts_ms = minute as i64 * 60_000;
            let fault = course_fault(vital, value, ts_ms, &state);
            if fault != Some(Cause::Jump) {
                remember(value, ts_ms, &mut state);
            }
            fault
        };
        values.into_iter().enumerate().map(&mut judge).collect()
    }

    fn restless(n: usize) -> impl Iterator<Item = f64> {
        (0..n).map(|i| 70.0 + (i % 3) as f64)
    }

    #[test]
    fn a_hanging_sensor_is_flat_after_half_an_hour_and_not_for_ever() {
        let faults =
            run(Vital::HeartRate, restless(300).chain(std::iter::repeat_n(71.0, 3 * 1440)).chain(restless(60)));
        let first = faults.iter().position(Option::is_some);
        assert_eq!(first, Some(300 + 30), "flat after 30 minutes");
        let flat = faults.iter().filter(|f| **f == Some(Cause::Flatline)).count();
        assert!((1380..1440).contains(&flat), "{flat} minutes: no longer than a day");
        assert!(faults[300 + 3 * 1440 + 1..].iter().all(Option::is_none));
    }

    #[test]
    fn a_device_that_only_ever_sends_one_value_never_alarms() {
        assert!(run(Vital::HeartRate, std::iter::repeat_n(70.0, 5000)).iter().all(Option::is_none));
    }

    #[test]
    fn coarse_sensors_and_saturation_at_its_ceiling_never_alarm() {
        // Steps of 5, each standing for 40 minutes: slow by nature.
        let coarse = (0..5000).map(|minute| 60.0 + 5.0 * ((minute / 40) % 4) as f64);
        assert!(run(Vital::HeartRate, coarse).iter().all(Option::is_none));
        let ceiling = (0..200).map(|i| 98.0 + (i % 3) as f64).chain(std::iter::repeat_n(100.0, 3000));
        assert!(run(Vital::Spo2, ceiling).iter().all(Option::is_none));
    }

    #[test]
    fn a_jump_is_the_one_wrong_value_and_a_new_level_is_believed_in_the_end() {
        let spike = run(Vital::Temperature, [36.6, 36.7, 41.0, 36.7, 36.6]);
        assert_eq!(spike, [None, None, Some(Cause::Jump), None, None]);
        let level = run(Vital::Temperature, std::iter::once(36.6).chain(std::iter::repeat_n(39.0, 30)));
        assert_eq!(level[1], Some(Cause::Jump));
        assert_eq!(level[20], None);
    }
}
