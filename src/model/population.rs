//! What adults' vital signs are like before anything is known of one device.
//!
//! Per vital: where the population's centre is, how far people's own levels lie apart, and how far one person strays
//! from their own level. A device that was never seen is judged against all three; with every hour of its own history
//! the first two matter less.

use crate::reading::{VITALS, Vital};

/// What is known of one vital in a population. All in the vital's unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VitalPopulation {
    /// The middle of people's own levels.
    pub centre: f64,
    /// Standard deviation of people's own levels around the centre.
    pub between_sd: f64,
    /// Standard deviation of one person's readings around their own level, over a day.
    pub within_sd: f64,
}

impl VitalPopulation {
    /// How many independent readings of a device the population's centre is worth when the device's own level is
    /// estimated: the ratio of the two variances, as for any normal prior.
    pub fn prior_readings(&self) -> f64 {
        let ratio = self.within_sd / self.between_sd;
        ratio * ratio
    }

    /// Standard deviation of one reading of somebody unknown.
    pub fn total_sd(&self) -> f64 {
        (self.between_sd * self.between_sd + self.within_sd * self.within_sd).sqrt()
    }

    /// Whether every number is one that can be divided by.
    pub(super) fn is_sound(&self) -> bool {
        let spread = |sd: f64| sd.is_finite() && sd > 1e-6 && sd < 1e6;
        self.centre.is_finite() && self.centre.abs() < 1e6 && spread(self.between_sd) && spread(self.within_sd)
    }
}

/// The six vitals of a population, in the order of [`Vital::ALL`].
pub type Population = [VitalPopulation; VITALS];

/// Healthy and sick adults together, from what has been published; what the model knows before it was trained.
///
/// | vital | sources |
/// |---|---|
/// | heart rate | Ostchega et al., Natl Health Stat Report 41 (2011): resting, mean 72; Avram et al., NPJ Digit Med 2:58 (2019): daily life, 79 ± 14.5 |
/// | pressure | Wright et al., Natl Health Stat Report 35 (2011): adults, mean 122/71; Mena et al., J Am Heart Assoc 6:e006895 (2017): variability over 24 h |
/// | temperature | Obermeyer et al., BMJ 359:j5468 (2017): mean 36.6, 95 % of readings in 35.7–37.3 |
/// | SpO2, respiratory rate | Royal College of Physicians, NEWS2 (2017): the ranges that score 0, ≥ 96 % and 12–20 /min |
/// | the sick among them | Reyna et al., Crit Care Med 48(2):210–217 (2020): hourly vital signs in intensive care |
///
/// Centres and spreads lie between those of the healthy and those of intensive care. Where sources give a total spread
/// only, a third to a half of its variance is taken as within one person.
pub fn adults() -> Population {
    let vital = |centre, between_sd, within_sd| VitalPopulation { centre, between_sd, within_sd };
    [
        vital(76.0, 12.0, 9.0),
        vital(122.0, 16.0, 12.0),
        vital(71.0, 10.0, 8.5),
        vital(36.7, 0.35, 0.35),
        vital(97.0, 1.4, 1.4),
        vital(16.5, 3.0, 2.5),
    ]
}

/// One device's level and spread of one vital.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OwnLevel {
    pub level: f64,
    pub spread: f64,
}

/// Fewer values than this say nothing of a device's level and spread.
pub const LEAST_VALUES: usize = 8;

/// How many devices the population of [`adults`] is worth when devices to learn from are few.
pub const PRIOR_DEVICES: f64 = 4.0;

impl OwnLevel {
    /// From one device's values, spaced widely enough to be worth counting; they are sorted in place. `None` when they
    /// are fewer than [`LEAST_VALUES`].
    pub fn of(values: &mut [f64]) -> Option<OwnLevel> {
        if values.len() < LEAST_VALUES {
            return None;
        }
        values.sort_unstable_by(f64::total_cmp);
        Some(OwnLevel { level: quantile(values, 0.5), spread: half_spread(values) })
    }
}

/// Half the distance between the quantiles that a normal distribution has at ±1 SD: its SD, untouched by outliers as
/// long as they are fewer than a sixth on either side.
fn half_spread(sorted: &[f64]) -> f64 {
    (quantile(sorted, 0.8413) - quantile(sorted, 0.1587)) / 2.0
}

/// The quantile `q` of sorted values, linear between neighbours; 0 of none.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = q * last as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

/// The population of these devices. Few devices are shrunk to `prior`, which is worth `prior_devices` of them.
pub fn estimate<'a>(
    devices: impl Iterator<Item = &'a [Option<OwnLevel>; VITALS]> + Clone,
    prior: &Population,
    prior_devices: f64,
) -> Population {
    let mut population = *prior;
    for vital in Vital::ALL {
        let own: Vec<OwnLevel> = devices.clone().filter_map(|device| device[vital.index()]).collect();
        if !own.is_empty() {
            population[vital.index()] = pool(&own, vital, &prior[vital.index()], prior_devices);
        }
    }
    population
}

/// Devices' levels and spreads, to a population.
fn pool(own: &[OwnLevel], vital: Vital, prior: &VitalPopulation, prior_devices: f64) -> VitalPopulation {
    let mut levels: Vec<f64> = own.iter().map(|own| own.level).collect();
    levels.sort_unstable_by(f64::total_cmp);
    let centre = quantile(&levels, 0.5);
    let between = half_spread(&levels);
    // The mean of the squares, without the most restless tenth: it is to stand for the usual device.
    let mut squares: Vec<f64> = own.iter().map(|own| own.spread * own.spread).collect();
    squares.sort_unstable_by(f64::total_cmp);
    let kept = squares.len() - squares.len() / 10;
    let within = squares[..kept].iter().sum::<f64>() / kept as f64;

    // Below what the sensor resolves there is no spread to speak of.
    let floor = vital.resolution() * vital.resolution() / 4.0;
    let devices = own.len() as f64;
    let shrink = |sample: f64, prior: f64| (devices * sample + prior_devices * prior) / (devices + prior_devices);
    VitalPopulation {
        centre: shrink(centre, prior.centre),
        between_sd: shrink(between * between, prior.between_sd * prior.between_sd).max(floor).sqrt(),
        within_sd: shrink(within, prior.within_sd * prior.within_sd).max(floor).sqrt(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Devices whose heart rates have levels evenly over 60 to 80 and a spread of 4, the first hours of each replaced.
    fn fleet(devices: usize, outliers: usize) -> Vec<[Option<OwnLevel>; VITALS]> {
        let heart = |device: usize| {
            let level = 60.0 + 20.0 * (device as f64 + 0.5) / devices as f64;
            let mut values: Vec<f64> = (0..72).map(|hour| level + [-4.0, -1.0, 1.0, 4.0][hour % 4]).collect();
            values[..outliers].fill(190.0);
            OwnLevel::of(&mut values)
        };
        (0..devices).map(|device| [heart(device), None, None, None, None, None]).collect()
    }

    fn estimated(devices: &[[Option<OwnLevel>; VITALS]]) -> Population {
        estimate(devices.iter(), &adults(), PRIOR_DEVICES)
    }

    #[test]
    fn outliers_in_the_training_window_hardly_move_the_population() {
        let clean = estimated(&fleet(200, 0))[0];
        let dirty = estimated(&fleet(200, 7))[0];
        assert!((clean.centre - 70.0).abs() < 0.5, "{clean:?}");
        assert!((clean.within_sd - 4.0).abs() < 0.5, "{clean:?}");
        assert!((dirty.centre - clean.centre).abs() < 1.5, "{dirty:?}");
        assert!(dirty.within_sd < 1.2 * clean.within_sd, "{dirty:?}");
    }

    #[test]
    fn a_vital_that_nobody_measured_keeps_its_prior() {
        assert_eq!(estimated(&fleet(10, 0))[3], adults()[3]);
    }

    #[test]
    fn one_device_does_not_make_a_population() {
        let one = estimated(&fleet(1, 0))[0];
        assert!(one.is_sound() && one.between_sd > 8.0, "{one:?}");
    }

    #[test]
    fn constant_values_leave_a_spread_to_divide_by() {
        let constant = [OwnLevel::of(&mut [97.0; 50]); VITALS];
        assert!(estimated(&vec![constant; 1000]).iter().all(VitalPopulation::is_sound));
    }
}
