//! What the vitals of a group of devices are like, measured here and not taken from the model: events must have the same
//! size whatever model is tested, and plain methods must not borrow from it.

use crate::model::threads;
use crate::model::{History, rules};
use crate::reading::{VITALS, Vital, Vitals};

/// One vital of a group of devices. All in the vital's unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The median of devices' own medians.
    pub centre: f64,
    /// The spread of devices' own medians (1.4826 median absolute deviations).
    pub between: f64,
    /// The spread within one device: the median of devices' standard deviations about their own medians.
    pub within: f64,
}

/// The six vitals; `None` where no device has enough values.
pub type Spreads = [Option<Spread>; VITALS];

/// Fewer hourly values than this say nothing of a device's spread.
const LEAST_VALUES: usize = 4;
const HOUR_MS: i64 = 3_600_000;

/// Measures these devices: at most one value of each vital an hour, so that quick devices have no more weight than slow
/// ones and what is near in time does not pass for a small spread.
pub fn spreads(histories: &[&History], threads: usize) -> Spreads {
    let devices = threads::map(histories, threads, |history| own_levels(history));
    std::array::from_fn(|j| {
        let levels: Vec<(f64, f64)> = devices.iter().filter_map(|device| device[j]).collect();
        let mut medians: Vec<f64> = levels.iter().map(|level| level.0).collect();
        let centre = median(&mut medians)?;
        let within = median(&mut levels.iter().map(|level| level.1).collect::<Vec<_>>())?;
        // A sensor's step hides what is smaller.
        let within = within.max(0.5 * Vital::ALL[j].resolution());
        let away = median(&mut medians.iter().map(|level| (level - centre).abs()).collect::<Vec<_>>())?;
        Some(Spread { centre, between: (1.4826 * away).max(within), within })
    })
}

/// A device's median and standard deviation about it, per vital.
fn own_levels(history: &History) -> [Option<(f64, f64)>; VITALS] {
    std::array::from_fn(|j| {
        let mut values = hourly(history, Vital::ALL[j]);
        if values.len() < LEAST_VALUES {
            return None;
        }
        let level = median(&mut values)?;
        let squares: f64 = values.iter().map(|value| (value - level) * (value - level)).sum();
        Some((level, (squares / values.len() as f64).sqrt()))
    })
}

/// The first possible value of every hour.
fn hourly(history: &History, vital: Vital) -> Vec<f64> {
    let mut newest = None;
    let sound = history.readings.iter().filter(|reading| rules::is_possible(vital, reading.vitals[vital.index()]));
    sound
        .filter_map(|reading| {
            let hour = Some(reading.ts_ms.div_euclid(HOUR_MS));
            let first = hour != newest;
            newest = hour;
            first.then_some(reading.vitals[vital.index()])
        })
        .collect()
}

/// Sorts the values; gives their median, `None` of none.
fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2)?;
    let lower = values.get(values.len().saturating_sub(1) / 2)?;
    Some(0.5 * (lower + upper))
}

/// A reading's vitals within what bodies can have, so that one mad value does not spoil a plain method's averages.
pub(super) fn within_possible(vitals: &Vitals) -> Vitals {
    std::array::from_fn(|j| {
        let (low, high) = rules::possible(Vital::ALL[j]);
        vitals[j].clamp(low, high)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::bodies::{history, reading};
    use crate::reading::NO_VITALS;

    #[test]
    fn spreads_are_of_hours_and_of_people() {
        let device = |level: f64| {
            let values = [level - 2.0, level + 2.0, level - 2.0, level + 2.0];
            // Sixty readings an hour, all but the first of each mad: only the first counts.
            let readings = (0..240).map(|minute| {
                let value = if minute % 60 == 0 { values[minute / 60] } else { 200.0 };
                let mut vitals = NO_VITALS;
                vitals[0] = value;
                reading(minute as i64 * 60_000, vitals)
            });
            history("d", readings.collect())
        };
        let devices = [device(60.0), device(70.0), device(90.0)];
        let measured = spreads(&devices.iter().collect::<Vec<_>>(), 2);
        let Spread { centre, between, within } = measured[0].unwrap();
        assert_eq!((centre, within), (70.0, 2.0));
        assert!((between - 14.826).abs() < 1e-9);
        assert!(measured[1..].iter().all(Option::is_none));
    }

    #[test]
    fn nothing_and_mad_values_give_none() {
        let mad = history("d", (0..9).map(|hour| reading(hour * HOUR_MS, [f64::INFINITY; 6])).collect());
        assert_eq!(spreads(&[], 1), [None; VITALS]);
        assert_eq!(spreads(&[&mad], 1), [None; VITALS]);
    }
}
