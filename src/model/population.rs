//! What a population's vital signs are like before anything is known of one device, and how they move.
//!
//! Per vital a model of three parts: a level of one's own, which hardly moves; an offset from it that comes and goes over
//! hours; and noise. `x = m + level + offset + noise`, with variances `between`, `wander`, `noise`, and the offset an
//! Ornstein–Uhlenbeck process of time constant `tau_h`. The last three are fitted to the variogram, half the mean squared
//! difference of one device's values at a given distance in time, which knows nothing of anybody's level.

use crate::reading::{VITALS, Vital};

/// What is known of one vital in a population. Variances in the vital's unit squared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VitalPopulation {
    /// The median.
    pub centre: f64,
    /// Standard deviation of a reading of somebody unknown.
    pub sd: f64,
    /// Variance of people's own levels.
    pub between: f64,
    /// Variance of the offset that comes and goes.
    pub wander: f64,
    /// The offset's time constant, in hours: one of [`TAUS_H`].
    pub tau_h: f64,
    /// Variance of what has no memory: the sensor's noise, and what a body does within an hour.
    pub noise: f64,
}

impl VitalPopulation {
    /// Standard deviation of a reading of somebody whose level is known.
    pub fn within_sd(&self) -> f64 {
        (self.wander + self.noise).sqrt()
    }

    /// The mean of both, weighted by how many devices each rests on.
    fn shrunk_to(&self, prior: &VitalPopulation, devices: f64, prior_devices: f64) -> VitalPopulation {
        let mean = |own: f64, prior: f64| (devices * own + prior_devices * prior) / (devices + prior_devices);
        VitalPopulation {
            centre: mean(self.centre, prior.centre),
            sd: mean(self.sd, prior.sd),
            between: mean(self.between, prior.between),
            wander: mean(self.wander, prior.wander),
            tau_h: if devices > prior_devices { self.tau_h } else { prior.tau_h },
            noise: mean(self.noise, prior.noise),
        }
    }

    /// Whether every number is one that can be divided by.
    pub(super) fn is_sound(&self) -> bool {
        let sound = |value: f64| value.is_finite() && value > 1e-9 && value < 1e9;
        self.centre.is_finite()
            && self.centre.abs() < 1e6
            && [self.sd, self.between, self.wander, self.noise].into_iter().all(sound)
            && TAUS_H.contains(&self.tau_h)
    }
}

/// The six vitals of a population, in the order of [`Vital::ALL`].
pub type Population = [VitalPopulation; VITALS];

/// Time constants that are tried, in hours. Divisors of 48, so that one exponential serves all decays.
pub const TAUS_H: [f64; 9] = [2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 48.0];

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
/// only, a third to a half of its variance is taken as within one person, and of that 60 % as what comes and goes over
/// eight hours.
pub fn adults() -> Population {
    let vital = |centre, between_sd: f64, within_sd: f64| {
        let (between, within) = (between_sd * between_sd, within_sd * within_sd);
        VitalPopulation {
            centre,
            sd: (between + within).sqrt(),
            between,
            wander: 0.6 * within,
            tau_h: 8.0,
            noise: 0.4 * within,
        }
    };
    [
        vital(76.0, 12.0, 9.0),
        vital(122.0, 16.0, 12.0),
        vital(71.0, 10.0, 8.5),
        vital(36.7, 0.35, 0.35),
        vital(97.0, 1.4, 1.4),
        vital(16.5, 3.0, 2.5),
    ]
}

/// Distances of the variogram, in hours; a pair counts for one when it is within a tenth of it.
const LAGS_H: [f64; 10] = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 18.0, 24.0, 36.0];
const TOLERANCE: f64 = 0.1;
/// A lag with fewer pairs is left out.
const LEAST_PAIRS: u64 = 100;

/// One device's values of one vital: hours and values, in order of time, [`APART_H`] apart at least.
pub type Series = Vec<(f64, f64)>;

/// Values of a device closer than this, in hours, are not worth counting separately.
pub const APART_H: f64 = 0.9;

/// How many devices the population of [`adults`] is worth when devices to learn from are few.
pub const PRIOR_DEVICES: f64 = 4.0;

/// Fewer values than this, of all devices together, say nothing of a vital.
pub const LEAST_VALUES: usize = 50;

/// The population of these devices. Few devices are shrunk to `prior`, which is worth `prior_devices` of them.
pub fn estimate(devices: &[&[Series; VITALS]], prior: &Population, prior_devices: f64) -> Population {
    let mut population = *prior;
    for vital in Vital::ALL {
        let series: Vec<&Series> =
            devices.iter().map(|device| &device[vital.index()]).filter(|own| !own.is_empty()).collect();
        if let Some(fitted) = fit(vital, &series) {
            let own = &mut population[vital.index()];
            *own = fitted.shrunk_to(own, series.len() as f64, prior_devices);
        }
    }
    population
}

/// Fits one vital to devices' series. `None` when there is too little.
fn fit(vital: Vital, series: &[&Series]) -> Option<VitalPopulation> {
    let mut values: Vec<f64> = series.iter().flat_map(|own| own.iter()).map(|&(_, value)| value).collect();
    if values.len() < LEAST_VALUES {
        return None;
    }
    values.sort_unstable_by(f64::total_cmp);
    let resolution = vital.resolution();
    let centre = quantile(&values, 0.5);
    let robust_sd = ((quantile(&values, 0.8413) - quantile(&values, 0.1587)) / 2.0).max(resolution / 2.0);
    let (low, high) = (quantile(&values, 0.001), quantile(&values, 0.999));
    let clipped = || values.iter().map(|value| value.clamp(low, high));
    let mean = clipped().sum::<f64>() / values.len() as f64;
    let squares: f64 = clipped().map(|value| (value - mean) * (value - mean)).sum();
    let total = (squares / values.len() as f64).max(resolution * resolution);

    let gram = variogram(series, 4.0 * robust_sd);
    let least_noise = (0.02 * total).max(resolution * resolution / 12.0);
    let (wander, tau_h, noise) = fit_gram(&gram, 0.02 * total, least_noise)?;
    let between = (total - wander - noise).max(0.2 * total);
    Some(VitalPopulation { centre, sd: total.sqrt(), between, wander, tau_h, noise })
}

/// Per lag: pairs and the sum of half their squared differences.
fn variogram(series: &[&Series], clip: f64) -> [(u64, f64); LAGS_H.len()] {
    let mut gram = [(0, 0.0); LAGS_H.len()];
    for own in series {
        for (i, &(t, x)) in own.iter().enumerate() {
            for &(later, y) in &own[i + 1..] {
                let hours = later - t;
                if hours > LAGS_H[LAGS_H.len() - 1] * (1.0 + TOLERANCE) {
                    break;
                }
                for (lag, (pairs, sum)) in LAGS_H.iter().zip(&mut gram) {
                    if (hours - lag).abs() <= TOLERANCE * lag {
                        let d = (y - x).clamp(-clip, clip);
                        *pairs += 1;
                        *sum += 0.5 * d * d;
                    }
                }
            }
        }
    }
    gram
}

/// Weighted least squares of `noise + wander (1 − exp(−h/tau))` over the grid of tau; gives wander, tau, noise.
fn fit_gram(gram: &[(u64, f64)], least_wander: f64, least_noise: f64) -> Option<(f64, f64, f64)> {
    let points: Vec<(f64, f64, f64)> = LAGS_H
        .iter()
        .zip(gram)
        .filter(|(_, (pairs, _))| *pairs > LEAST_PAIRS)
        .map(|(&lag, &(pairs, sum))| (lag, pairs as f64, sum / pairs as f64))
        .collect();
    if points.len() < 3 {
        return None;
    }
    let candidates = TAUS_H.iter().map(|&tau| {
        let (mut w, mut wf, mut wff, mut wg, mut wfg) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for &(lag, weight, g) in &points {
            let f = 1.0 - libm::exp(-lag / tau);
            w += weight;
            wf += weight * f;
            wff += weight * f * f;
            wg += weight * g;
            wfg += weight * f * g;
        }
        let determinant = w * wff - wf * wf;
        let slope = if determinant.abs() < 1e-12 { 0.0 } else { (w * wfg - wf * wg) / determinant };
        let wander = slope.max(least_wander);
        let noise = ((wg - wander * wf) / w).max(least_noise);
        let error: f64 = points
            .iter()
            .map(|&(lag, weight, g)| {
                let miss = noise + wander * (1.0 - libm::exp(-lag / tau)) - g;
                weight * miss * miss
            })
            .sum();
        (error, (wander, tau, noise))
    });
    candidates.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, fit)| fit)
}

/// The quantile `q` of sorted values, linear between neighbours; 0 of none.
pub(super) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = q * last as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}
