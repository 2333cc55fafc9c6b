//! The kinds of events that are put into the histories of test devices.
//!
//! Two sets: courses that a ward knows, and others, among them faults of sensors, that were chosen apart from them. Sizes
//! are in spreads within one person (see [`super::spreads`]), before the strength that is drawn for every event.

use std::f64::consts::PI;

use crate::reading::VITALS;

/// A set of kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    Clinical,
    Other,
}

impl Set {
    pub const ALL: [Set; 2] = [Set::Clinical, Set::Other];

    /// Its name in JSON and in a heading.
    pub const fn name(self) -> &'static str {
        match self {
            Set::Clinical => "clinical courses",
            Set::Other => "other events",
        }
    }

    /// Its kinds.
    pub const fn kinds(self) -> &'static [Kind; KINDS] {
        match self {
            Set::Clinical => &CLINICAL,
            Set::Other => &OTHER,
        }
    }

    /// How strong its events are, from and to: chosen so that plain methods find some and miss some of every kind (in
    /// hourly readings of intensive care, personal EWMA-z has an AUROC of about .72 and .67).
    pub const fn strength(self) -> (f64, f64) {
        match self {
            Set::Clinical => (1.75 * 0.7, 1.75 * 1.8),
            Set::Other => (1.3 * 0.7, 1.3 * 1.8),
        }
    }
}

/// How many kinds a set has.
pub const KINDS: usize = 10;

/// A kind of event.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kind {
    pub name: &'static str,
    /// How long it lasts, in hours, from and to.
    pub hours: (f64, f64),
    pub on: On,
    pub course: Course,
}

/// Which vitals an event is on, and by how many spreads at its height.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum On {
    /// Heart rate, systolic, diastolic, temperature, SpO2, respiratory rate; 0 for those it leaves alone.
    These([f64; VITALS]),
    /// One that is drawn, in a direction that is drawn.
    One(f64),
    /// Two that are drawn, both in one direction that is drawn.
    Two(f64),
    /// Every one.
    All,
}

/// What happens over the event's time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Course {
    /// There at once, and stays.
    Step,
    /// Rises evenly, to its height after this part of its time.
    Rise(f64),
    /// Comes near its height at this rate, ever more slowly.
    Settle(f64),
    /// There at once, and fades at this rate.
    Fade(f64),
    /// Up and down again.
    Hump,
    /// Goes up and down every three hours without ever going away.
    Restless,
    /// Two hours there, one hour not.
    OnAndOff,
    /// Values are too large or too small by this part of them.
    Gain(f64),
    /// Values are scattered by the size of the event.
    Noise,
    /// Values are another device's.
    Swap,
}

impl Course {
    /// The part of its height that an event has after `hours`, which are the part `gone` of its time; `phase`, 0 to 1, is
    /// drawn per event.
    pub fn height(self, gone: f64, hours: f64, phase: f64) -> f64 {
        match self {
            Course::Step | Course::Gain(_) | Course::Noise | Course::Swap => 1.0,
            Course::Rise(until) => (gone / until).min(1.0),
            Course::Settle(rate) => 1.0 - libm::exp(-rate * gone),
            Course::Fade(rate) => libm::exp(-rate * gone),
            Course::Hump => libm::sin((0.8 * gone + 0.1) * PI),
            Course::Restless => 0.6 + 0.4 * libm::sin(2.0 * hours + 6.0 * phase),
            Course::OnAndOff => f64::from(u8::from((hours + 3.0 * phase) as i64 % 3 != 0)),
        }
    }
}

const HOURS: (f64, f64) = (3.0, 10.0);

const fn kind(name: &'static str, hours: (f64, f64), on: On, course: Course) -> Kind {
    Kind { name, hours, on, course }
}

use Course::{Fade, Gain, Hump, Noise, OnAndOff, Restless, Rise, Settle, Step, Swap};
use On::{All, One, These, Two};

/// Courses that a ward knows. Numbers: heart rate, systolic, diastolic, temperature, SpO2, respiratory rate.
const CLINICAL: [Kind; KINDS] = [
    kind("sepsis", HOURS, These([1.0, -1.0, -0.8, 1.2, 0.0, 1.0]), Rise(0.6)),
    kind("bleeding", HOURS, These([1.2, -1.3, -1.0, 0.0, 0.0, 0.0]), Settle(3.0)),
    kind("hypoxia", HOURS, These([0.6, 0.0, 0.0, 0.0, -1.6, 1.0]), Rise(0.25)),
    kind("fever", HOURS, These([0.0, 0.0, 0.0, 1.7, 0.0, 0.0]), Rise(0.5)),
    kind("slow drift", (10.0, 20.0), One(1.5), Rise(1.0)),
    kind("spike", (0.5, 1.5), One(2.2), Step),
    kind("step", HOURS, One(1.5), Step),
    kind("hypertension", HOURS, These([0.0, 1.4, 1.2, 0.0, 0.0, 0.0]), Hump),
    kind("bradycardia", HOURS, These([-1.6, -0.5, 0.0, 0.0, 0.0, 0.0]), Step),
    kind("respiratory depression", HOURS, These([0.0, 0.0, 0.0, 0.0, -1.2, -1.4]), Step),
];

/// Others. Numbers as above.
const OTHER: [Kind; KINDS] = [
    kind("agitation", HOURS, These([1.0, 0.9, 0.0, 0.0, 0.0, 0.9]), Restless),
    kind("low diastolic", HOURS, These([0.0, 0.0, -1.5, 0.0, 0.0, 0.0]), Step),
    kind("gain error", HOURS, One(1.0), Gain(0.14)),
    kind("noisy sensor", HOURS, Two(1.5), Noise),
    kind("swapped device", HOURS, All, Swap),
    kind("hypothermia", HOURS, These([-0.9, 0.0, 0.0, -1.4, 0.0, 0.0]), Settle(2.0)),
    kind("intermittent desaturation", HOURS, These([0.0, 0.0, 0.0, 0.0, -1.8, 0.0]), OnAndOff),
    kind("tamponade", HOURS, These([0.8, -1.0, 0.6, 0.0, 0.0, 0.0]), Step),
    kind("decaying offset", HOURS, Two(1.6), Fade(2.0)),
    kind("Cushing response", HOURS, These([-1.1, 1.2, 0.0, 0.0, 0.0, -0.6]), Step),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_names_of_their_own_and_last() {
        let kinds: Vec<&Kind> = Set::ALL.iter().flat_map(|set| set.kinds()).collect();
        let mut names: Vec<&str> = kinds.iter().map(|kind| kind.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 2 * KINDS);
        assert!(kinds.iter().all(|kind| 0.0 < kind.hours.0 && kind.hours.0 < kind.hours.1));
    }

    #[test]
    fn no_course_is_ever_higher_than_its_height() {
        for kind in Set::ALL.iter().flat_map(|set| set.kinds()) {
            for step in 0..=100 {
                let gone = f64::from(step) / 100.0;
                let height = kind.course.height(gone, gone * kind.hours.1, 0.3);
                assert!((-1e-9..=1.0).contains(&height), "{} {gone} {height}", kind.name);
            }
        }
    }
}
