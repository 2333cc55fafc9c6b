//! Simulated bodies of a population: what the built-in model's forests learnt from, before there is any data.
//!
//! Apart from the simulator's bodies, on which the model is shown, and from those of the model's tests: nothing should be
//! tested on what it was made from.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::inject::normal;
use super::population::{Population, VitalPopulation};
use super::rules;
use super::training::History;
use crate::reading::{NO_VITALS, Reading, VITALS, Vital, Vitals};

const HOUR_MS: i64 = 3_600_000;

/// How much of one vital's offset and level goes with another's (its place and the share).
const FOLLOWS: [Option<(usize, f64)>; VITALS] = [None, None, Some((1, 0.65)), Some((0, 0.25)), None, Some((0, 0.35))];

/// Bodies of the population, each watched for some days, most about once an hour: levels of their own, offsets that come
/// and go, a day's rhythm, bouts of work, noise with the odd large error, vitals that are measured rarely.
pub fn bodies(population: &Population, devices: u64, seed: u64) -> Vec<History> {
    (0..devices).map(|device| body(population, device, seed)).collect()
}

fn body(population: &Population, device: u64, seed: u64) -> History {
    let mut rng = Pcg64Mcg::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ device);
    let interval_ms = [HOUR_MS, HOUR_MS, HOUR_MS, HOUR_MS / 2, HOUR_MS / 4, HOUR_MS / 12][rng.random_range(0..6)];
    let length_ms = HOUR_MS * rng.random_range(20..90);
    let level = followed(population, &mut rng, |own| own.between);
    let rhythm: f64 = rng.random::<f64>() * 0.7;
    let unrest: Vitals = std::array::from_fn(|_| libm::exp(0.3 * normal(&mut rng)));
    // Some vitals are measured at every so many readings only.
    let every: [u32; VITALS] =
        std::array::from_fn(|_| if rng.random::<f64>() < 0.6 { 1 } else { rng.random_range(2..7) });
    let mut offset = followed(population, &mut rng, |own| own.wander);
    let vigour = 2.5 * rng.random::<f64>();
    let (mut work, mut bout) = (0.0, 0);
    let mut readings = Vec::new();
    let mut ts_ms = 0;
    while ts_ms < length_ms {
        let passed_h = interval_ms as f64 / HOUR_MS as f64;
        let fresh = followed(population, &mut rng, |own| own.wander);
        for (j, own) in population.iter().enumerate() {
            let keep = libm::exp(-passed_h / own.tau_h);
            offset[j] = keep * offset[j] + (1.0 - keep * keep).sqrt() * fresh[j];
        }
        let day = libm::sin(ts_ms as f64 / (24 * HOUR_MS) as f64 * std::f64::consts::TAU);
        if bout == 0 && rng.random::<f64>() < 0.08 * passed_h * (1.0 + day) {
            bout = 1 + (rng.random::<f64>() / passed_h) as u32;
        }
        bout = bout.saturating_sub(1);
        let settles = libm::exp(-passed_h / 0.1);
        work = settles * work + if bout > 0 { (1.0 - settles) * vigour } else { 0.0 };
        let mut vitals = NO_VITALS;
        for (j, own) in population.iter().enumerate() {
            let error = normal(&mut rng) * if rng.random::<f64>() < 0.03 { 2.5 } else { 0.95 };
            if rng.random_range(0..every[j]) != 0 {
                continue;
            }
            let moved =
                unrest[j] * (offset[j] + own.noise.sqrt() * error) + own.within_sd() * (rhythm * day + WORK[j] * work);
            vitals[j] = rules::shown(Vital::ALL[j], own.centre + level[j] + moved);
        }
        readings.push(Reading { ts_ms, arrived_ms: ts_ms, seq: None, vitals });
        ts_ms += interval_ms;
    }
    History { device_id: format!("synthetic_{device}"), readings }
}

/// What an hour's work does, in standard deviations within a person.
const WORK: Vitals = [1.8, 1.0, 0.4, 0.3, -0.3, 1.5];

/// A draw per vital of the given variance; what goes together shares a part.
fn followed(population: &Population, rng: &mut Pcg64Mcg, variance: impl Fn(&VitalPopulation) -> f64) -> Vitals {
    let draws: Vitals = std::array::from_fn(|_| normal(rng));
    std::array::from_fn(|j| {
        let draw = match FOLLOWS[j] {
            Some((other, share)) => share * draws[other] + (1.0 - share * share).sqrt() * draws[j],
            None => draws[j],
        };
        draw * variance(&population[j]).sqrt()
    })
}
