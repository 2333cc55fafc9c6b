//! Test cases: a device's history, and in every second one an event that is put into it.
//!
//! An event changes what the device did send: absent values stay absent, changed ones have the sensor's resolution and
//! stay within what a body can have, so that nothing but their course gives them away. A case holds a plan, not a copy of
//! the history; the changed readings are made when a device is scored.

use std::borrow::Cow;

use rand::RngExt;
use rand_pcg::Pcg64Mcg;

use crate::model::episodes::Span;
use crate::model::{History, rules};
use crate::reading::{Reading, VITALS, Vital, Vitals, same_vitals};

use super::chance::{self, Use};
use super::kinds::{Course, KINDS, Kind, On, Set};
use super::spreads::Spreads;

/// A test device.
#[derive(Debug, Clone)]
pub struct Case<'a> {
    pub history: &'a History,
    pub event: Option<Event<'a>>,
}

/// An event in a test device's history.
#[derive(Debug, Clone)]
pub struct Event<'a> {
    /// From its onset to the last reading that it may have changed.
    pub span: Span,
    /// Its place among the kinds of its set.
    pub kind: usize,
    /// Vitals with at least one changed value.
    pub affected: [bool; VITALS],
    plan: Plan<'a>,
}

#[derive(Debug, Clone)]
struct Plan<'a> {
    kind: &'static Kind,
    /// The reading at which it begins.
    onset: usize,
    hours: f64,
    /// Per vital, the signed size at its height in the vital's unit; for a gain, the signed part of the value.
    sizes: [f64; VITALS],
    /// 0 to 1: where something that comes and goes begins.
    phase: f64,
    /// Whose values a swapped device has, and from which of its readings on.
    donor: &'a History,
    donor_onset: usize,
    /// Of what is drawn per reading.
    seed: u64,
}

const HOUR_MS: i64 = 3_600_000;
/// No event begins in a device's first hours, where no method knows it: in this many, or in its first tenth if that is
/// shorter.
const LEAD_MS: i64 = 4 * HOUR_MS;
/// At least this much of a history is left when an event begins, or a tenth of it if that is shorter.
const REST_MS: i64 = HOUR_MS;
/// And at least this many later readings.
const LATER_READINGS: usize = 2;
/// An event that would change nothing, because its vitals are absent then, is drawn anew this often.
const DRAWS: u64 = 8;

/// One case per history: every second device has an event, the devices in order of their names, kinds dealt in turn. In
/// the two sets it is the other half of the devices that has one.
pub fn cases<'a>(histories: &[&'a History], spreads: &Spreads, set: Set, seed: u64) -> Vec<Case<'a>> {
    let mut histories = histories.to_vec();
    histories.sort_by(|a, b| a.device_id.cmp(&b.device_id));
    let (purpose, turn) = match set {
        Set::Clinical => (Use::Clinical, 0),
        Set::Other => (Use::Other, 1),
    };
    let first_kind = (chance::hash(seed, purpose, "") % KINDS as u64) as usize;
    let event = |i: usize| {
        let hash = chance::hash(seed, purpose, &histories[i].device_id);
        let kind = (first_kind + i / 2) % KINDS;
        (0..DRAWS).find_map(|draw| draw_event(&histories, i, spreads, set, kind, &mut chance::draws(hash, draw)))
    };
    (0..histories.len())
        .map(|i| Case { history: histories[i], event: if i % 2 == turn { event(i) } else { None } })
        .collect()
}

impl<'a> Case<'a> {
    /// What the device sends in this case.
    pub fn readings(&self) -> Cow<'a, [Reading]> {
        match &self.event {
            Some(event) => Cow::Owned(event.plan.applied(self.history)),
            None => Cow::Borrowed(&self.history.readings),
        }
    }

    /// Whether a reading of this time is inside the case's event.
    pub fn is_inside(&self, ts_ms: i64) -> bool {
        self.event.as_ref().is_some_and(|event| (event.span.start_ms..=event.span.end_ms).contains(&ts_ms))
    }
}

/// An event of this kind for one device; `None` when the history is too short, or nothing of it would change.
fn draw_event<'a>(
    histories: &[&'a History],
    device: usize,
    spreads: &Spreads,
    set: Set,
    kind: usize,
    rng: &mut Pcg64Mcg,
) -> Option<Event<'a>> {
    let history = histories[device];
    let onsets = onsets(&history.readings)?;
    let donor = histories[(device + 1 + chance::place(rng, histories.len().saturating_sub(1))) % histories.len()];
    let what = &set.kinds()[kind];
    let plan = Plan {
        kind: what,
        onset: onsets.start + chance::place(rng, onsets.len()),
        hours: chance::between(rng, what.hours),
        sizes: sizes(what, chance::between(rng, set.strength()), spreads, rng),
        phase: rng.random::<f64>(),
        donor,
        // From its first half, so that some of it is left.
        donor_onset: chance::place(rng, donor.readings.len() / 2 + 1),
        seed: rng.random::<u64>(),
    };
    plan.event(history, kind)
}

/// The readings at which an event may begin.
fn onsets(readings: &[Reading]) -> Option<std::ops::Range<usize>> {
    let (oldest, newest) = (readings.first()?.ts_ms, readings.last()?.ts_ms);
    let tenth_ms = newest.saturating_sub(oldest) / 10;
    let from_ms = oldest.saturating_add(LEAD_MS.min(tenth_ms));
    let to_ms = newest.saturating_sub(REST_MS.min(tenth_ms));
    let start = readings.partition_point(|reading| reading.ts_ms < from_ms).max(1);
    let end = readings.partition_point(|reading| reading.ts_ms <= to_ms);
    let end = end.min(readings.len().saturating_sub(LATER_READINGS));
    (start < end).then_some(start..end)
}

/// Per vital, the signed size of an event at its height.
fn sizes(kind: &Kind, strength: f64, spreads: &Spreads, rng: &mut Pcg64Mcg) -> [f64; VITALS] {
    let sign = if rng.random::<bool>() { 1.0 } else { -1.0 };
    let one = chance::place(rng, VITALS);
    let two = (one + 1 + chance::place(rng, VITALS - 1)) % VITALS;
    std::array::from_fn(|j| {
        let spreads_high = match kind.on {
            On::These(sizes) => sizes[j],
            On::One(size) if j == one => sign * size,
            On::Two(size) if j == one || j == two => sign * size,
            On::One(_) | On::Two(_) => 0.0,
            On::All => 1.0,
        };
        let unit = match kind.course {
            Course::Gain(part) => part,
            // A vital of which nothing is known can't be changed by a sensible amount.
            _ => spreads[j].map_or(0.0, |spread| spread.within),
        };
        spreads_high * strength * unit
    })
}

impl<'a> Plan<'a> {
    /// The event that this plan makes, if it changes anything.
    fn event(self, history: &History, kind: usize) -> Option<Event<'a>> {
        let changed = self.applied(history);
        let start_ms = history.readings.get(self.onset)?.ts_ms;
        let mut end_ms = start_ms;
        let mut affected = [false; VITALS];
        for (before, after) in history.readings.iter().zip(&changed).skip(self.onset) {
            if self.hours_at(start_ms, before.ts_ms).is_none() {
                break;
            }
            end_ms = end_ms.max(before.ts_ms);
            for (affected, (x, y)) in affected.iter_mut().zip(before.vitals.iter().zip(&after.vitals)) {
                *affected |= !x.is_nan() && x != y;
            }
        }
        let span = Span { start_ms, end_ms };
        affected.contains(&true).then_some(Event { span, kind, affected, plan: self })
    }

    /// Hours since the onset; `None` when the event is over.
    fn hours_at(&self, start_ms: i64, ts_ms: i64) -> Option<f64> {
        let hours = ts_ms.saturating_sub(start_ms) as f64 / HOUR_MS as f64;
        (hours <= self.hours).then_some(hours.max(0.0))
    }

    /// The history's readings with the event in them.
    fn applied(&self, history: &History) -> Vec<Reading> {
        let mut readings = history.readings.clone();
        let mut rng = chance::draws(self.seed, 0);
        let Some(start_ms) = readings.get(self.onset).map(|reading| reading.ts_ms) else { return readings };
        for reading in readings.iter_mut().skip(self.onset) {
            let Some(hours) = self.hours_at(start_ms, reading.ts_ms) else { break };
            let changed = self.changed(&reading.vitals, hours, &mut rng);
            if !same_vitals(&reading.vitals, &changed) {
                reading.vitals = in_order(&reading.vitals, changed);
            }
        }
        readings
    }

    /// One reading's vitals, changed.
    fn changed(&self, vitals: &Vitals, hours: f64, rng: &mut Pcg64Mcg) -> Vitals {
        let height = self.kind.course.height(hours / self.hours, hours, self.phase);
        let donor = if self.kind.course == Course::Swap { self.donor_at(hours) } else { None };
        std::array::from_fn(|j| {
            let (before, size) = (vitals[j], self.sizes[j]);
            if before.is_nan() || size == 0.0 {
                return before;
            }
            let after = match self.kind.course {
                Course::Gain(_) => before * (1.0 + size),
                Course::Noise => before + size * chance::normal(rng),
                Course::Swap => donor.map_or(f64::NAN, |vitals| vitals[j]),
                _ => before + height * size,
            };
            if after.is_nan() || after == before { before } else { rules::shown(Vital::ALL[j], after) }
        })
    }

    /// What the donor sent last, this long after the place from which on its values are taken.
    fn donor_at(&self, hours: f64) -> Option<&'a Vitals> {
        let donor = &self.donor.readings;
        let start_ms = donor.get(self.donor_onset)?.ts_ms;
        let at_ms = start_ms.saturating_add((hours * HOUR_MS as f64) as i64);
        let later = donor.partition_point(|reading| reading.ts_ms <= at_ms);
        let over = later == donor.len() && donor.last()?.ts_ms < at_ms;
        if over { None } else { donor.get(later.checked_sub(1)?).map(|reading| &reading.vitals) }
    }
}

/// Systolic pressure stays above diastolic where it was: else the rule for pressures the wrong way round would find an
/// event that should be found by its course.
fn in_order(before: &Vitals, mut after: Vitals) -> Vitals {
    let (systolic, diastolic) = (Vital::Systolic.index(), Vital::Diastolic.index());
    if before[systolic] > before[diastolic] && after[systolic] <= after[diastolic] {
        if after[systolic] != before[systolic] {
            after[systolic] = after[diastolic] + Vital::Systolic.resolution();
        } else {
            after[diastolic] = after[systolic] - Vital::Diastolic.resolution();
        }
    }
    after
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::bodies::{fleet, history, reading};
    use crate::evaluate::spreads::spreads;
    use crate::reading::NO_VITALS;

    const MINUTE_MS: i64 = 60_000;

    #[test]
    fn events_never_fill_absent_values_nor_have_a_finer_resolution() {
        for interval_ms in [1000, MINUTE_MS, HOUR_MS] {
            let fleet = fleet(44, 400, interval_ms, 5);
            let histories: Vec<&History> = fleet.iter().collect();
            // Fast devices have not hours enough to measure spreads on.
            let spreads = spreads(&fleet_of_hours().iter().collect::<Vec<_>>(), 1);
            for set in Set::ALL {
                let cases = cases(&histories, &spreads, set, 3);
                let mut seen = [false; KINDS];
                for case in &cases {
                    let Some(event) = &case.event else { continue };
                    seen[event.kind] = true;
                    check(case, event);
                }
                assert!(seen.iter().filter(|seen| **seen).count() >= KINDS - 1, "{interval_ms} {set:?} {seen:?}");
            }
        }
    }

    fn fleet_of_hours() -> Vec<History> {
        fleet(20, 48, HOUR_MS, 8)
    }

    fn check(case: &Case<'_>, event: &Event<'_>) {
        let mut changed = [false; VITALS];
        for (before, after) in case.history.readings.iter().zip(case.readings().iter()) {
            for vital in Vital::ALL {
                let (x, y) = (before.vitals[vital.index()], after.vitals[vital.index()]);
                assert_eq!(x.is_nan(), y.is_nan());
                if x.is_nan() || x == y {
                    continue;
                }
                changed[vital.index()] = true;
                assert!(case.is_inside(before.ts_ms));
                assert!(rules::is_possible(vital, y));
                let steps = y / vital.resolution();
                assert!((steps - steps.round()).abs() < 1e-6, "{vital:?} {y}");
            }
            assert!(after.vitals[1] > after.vitals[2] || after.vitals[1].is_nan() || after.vitals[2].is_nan());
        }
        assert_eq!(changed, event.affected);
        assert!(event.span.start_ms < event.span.end_ms || event.plan.hours < 1.5);
    }

    #[test]
    fn every_second_device_has_an_event_and_the_sets_take_turns() {
        let fleet = fleet_of_hours();
        let histories: Vec<&History> = fleet.iter().collect();
        let spreads = spreads(&histories, 1);
        let [clinical, other] = Set::ALL.map(|set| cases(&histories, &spreads, set, 1));
        assert!(clinical.iter().zip(&other).all(|(a, b)| a.event.is_none() || b.event.is_none()));
        assert!(clinical.iter().filter(|case| case.event.is_some()).count() >= 9);
        assert!(other.iter().filter(|case| case.event.is_some()).count() >= 9);
    }

    #[test]
    fn short_or_empty_histories_have_no_event() {
        let none = history("none", vec![]);
        let two = history("two", vec![reading(0, [80.0; 6]), reading(i64::MAX, NO_VITALS)]);
        let odd =
            history("odd", vec![reading(i64::MIN, [80.0; 6]), reading(0, [80.0; 6]), reading(i64::MAX, [1e308; 6])]);
        let spreads = spreads(&fleet_of_hours().iter().collect::<Vec<_>>(), 1);
        for histories in [vec![], vec![&none], vec![&two, &none], vec![&odd, &two, &none]] {
            for set in Set::ALL {
                let cases = cases(&histories, &spreads, set, 1);
                assert_eq!(cases.len(), histories.len());
                assert!(cases.iter().all(|case| case.event.is_none()));
            }
        }
    }

    #[test]
    fn a_swapped_device_has_its_donors_values() {
        let fleet = fleet_of_hours();
        let kind = Set::Other.kinds().iter().position(|kind| kind.course == Course::Swap).unwrap();
        let histories: Vec<&History> = fleet.iter().collect();
        let spreads = spreads(&histories, 1);
        let event = (0..9)
            .find_map(|draw| draw_event(&histories, 0, &spreads, Set::Other, kind, &mut chance::draws(1, draw)))
            .unwrap();
        let Plan { onset, donor, donor_onset, .. } = event.plan;
        let after = event.plan.applied(&fleet[0])[onset].vitals;
        let (own, others) = (fleet[0].readings[onset].vitals, donor.readings[donor_onset].vitals);
        assert!((0..VITALS).all(|j| own[j].is_nan() || others[j].is_nan() || after[j] == others[j]));
    }
}
