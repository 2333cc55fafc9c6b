//! Chance that can be asked about any moment: every draw is a function of a key and a number, never of what was drawn
//! before. So a simulated body is the same whatever the fleet's size, and two runs that overlap in time agree.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// Names one independent family of draws: a fleet, a device of it, one process of that device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key(u64);

impl Key {
    /// The key of everything that `seed` decides.
    pub(super) fn new(seed: u64) -> Self {
        Key(mix(seed))
    }

    /// The key of one part of what this key names.
    pub(super) fn part(self, part: u64) -> Self {
        Key(mix(self.0 ^ mix(part.wrapping_add(0x9e37_79b9_7f4a_7c15))))
    }

    /// The generator of draw number `n` of this family.
    pub(super) fn rng(self, n: i64) -> Pcg64Mcg {
        Pcg64Mcg::seed_from_u64(self.part(n as u64).0)
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection that spreads every bit over all bits.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A draw from the standard normal distribution.
pub(super) fn gaussian(rng: &mut Pcg64Mcg) -> f64 {
    // Half a step up: 0 has no place on the normal axis.
    normal_quantile(rng.random::<f64>() + 0.5 * f64::EPSILON / 2.0)
}

/// A draw from `low..high`.
pub(super) fn uniform(rng: &mut Pcg64Mcg, low: f64, high: f64) -> f64 {
    low + (high - low) * rng.random::<f64>()
}

/// A draw from `low..high` whose logarithm is uniform.
pub(super) fn log_uniform(rng: &mut Pcg64Mcg, low: f64, high: f64) -> f64 {
    low * libm::pow(high / low, rng.random::<f64>())
}

/// The quantile of the standard normal distribution at `p` in (0, 1), by P. J. Acklam's rational approximation
/// (relative error below 1.2e-9). Plain arithmetic, so that a seed means the same on every machine.
fn normal_quantile(p: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969683028665376e+01,
        2.209460984245205e+02,
        -2.759285104469687e+02,
        1.38357751867269e+02,
        -3.066479806614716e+01,
        2.506628277459239e+00,
    ];
    const B: [f64; 5] = [
        -5.447609879822406e+01,
        1.615858368580409e+02,
        -1.556989798598866e+02,
        6.680131188771972e+01,
        -1.328068155288572e+01,
    ];
    const C: [f64; 6] = [
        -7.784894002430293e-03,
        -3.223964580411365e-01,
        -2.400758277161838e+00,
        -2.549732539343734e+00,
        4.374664141464968e+00,
        2.938163982698783e+00,
    ];
    const D: [f64; 4] = [7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e+00, 3.754408661907416e+00];
    const TAIL: f64 = 0.02425;

    let poly = |coefficients: &[f64], x: f64| coefficients.iter().fold(0.0, |sum, c| sum * x + c);
    if (TAIL..=1.0 - TAIL).contains(&p) {
        let q = p - 0.5;
        let r = q * q;
        return q * poly(&A, r) / (poly(&B, r) * r + 1.0);
    }
    let tail = if p < TAIL { p } else { 1.0 - p };
    let q = libm::sqrt(-2.0 * libm::log(tail.max(f64::MIN_POSITIVE)));
    let x = poly(&C, q) / (poly(&D, q) * q + 1.0);
    if p < TAIL { x } else { -x }
}

/// Knots per time constant of a [`Wander`], and how many time constants back its past still counts (e⁻⁸ of it is left).
const KNOTS_PER_TAU: i64 = 8;
const BLOCK: i64 = 8 * KNOTS_PER_TAU;

/// An Ornstein–Uhlenbeck process of mean 0 and variance 1: what drifts by itself and forgets with a time constant.
///
/// It is an AR(1) series on knots an eighth of the time constant apart, joined by straight lines. Every 64th knot is
/// computed from the 64 draws before it, so any moment can be asked for at bounded cost and always has the same value.
#[derive(Debug, Clone)]
pub(super) struct Wander {
    key: Key,
    knot_ms: i64,
    phi: f64,
    step: f64,
    /// The last two knots that were asked for: the number of the left one, and both values.
    left: i64,
    values: [f64; 2],
}

impl Wander {
    /// A process that forgets with time constant `tau_ms`.
    pub(super) fn new(key: Key, tau_ms: i64) -> Self {
        let phi = libm::exp(-1.0 / KNOTS_PER_TAU as f64);
        let mut wander = Wander {
            key,
            knot_ms: (tau_ms / KNOTS_PER_TAU).max(1),
            phi,
            step: libm::sqrt(1.0 - phi * phi),
            left: 0,
            values: [0.0; 2],
        };
        wander.values = [wander.anchor(0), 0.0];
        wander.values[1] = wander.after(0, wander.values[0]);
        wander
    }

    /// Its value at `t_ms`. Cheapest when times rise.
    pub(super) fn at(&mut self, t_ms: i64) -> f64 {
        let knot = t_ms.div_euclid(self.knot_ms);
        if knot != self.left {
            self.move_to(knot);
        }
        let along = t_ms.rem_euclid(self.knot_ms) as f64 / self.knot_ms as f64;
        self.values[0] + (self.values[1] - self.values[0]) * along
    }

    fn move_to(&mut self, knot: i64) {
        let block = knot.div_euclid(BLOCK) * BLOCK;
        let right = self.left + 1;
        let (mut at, mut value) =
            if (block..=knot).contains(&right) { (right, self.values[1]) } else { (block, self.anchor(block)) };
        while at < knot {
            value = self.after(at, value);
            at += 1;
        }
        self.left = knot;
        self.values = [value, self.after(knot, value)];
    }

    /// The value of the knot after `knot`, which has `value`.
    fn after(&self, knot: i64, value: f64) -> f64 {
        if (knot + 1).rem_euclid(BLOCK) == 0 {
            return self.anchor(knot + 1);
        }
        self.phi * value + self.step * self.shock(knot + 1)
    }

    fn anchor(&self, knot: i64) -> f64 {
        let oldest_first = (0..BLOCK).rev().map(|back| self.shock(knot - back));
        self.step * oldest_first.fold(0.0, |sum, shock| self.phi * sum + shock)
    }

    fn shock(&self, knot: i64) -> f64 {
        gaussian(&mut self.key.rng(knot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_normal_distribution() {
        for (p, z) in [(0.5, 0.0), (0.975, 1.959963985), (0.001, -3.090232306), (0.02, -2.053748911)] {
            assert!((normal_quantile(p) - z).abs() < 1e-7, "{p}: {}", normal_quantile(p));
        }
        assert!(normal_quantile(f64::EPSILON / 4.0).is_finite());
        assert!(normal_quantile(1.0).is_finite());
    }

    #[test]
    fn a_moment_has_one_value_in_whatever_order_it_is_asked_for() {
        let key = Key::new(7).part(3);
        let mut forward = Wander::new(key, 1_800_000);
        let times: Vec<i64> = (-500..500).map(|i| i * 61_003).collect();
        let values: Vec<f64> = times.iter().map(|&t| forward.at(t)).collect();
        let mut backward = Wander::new(key, 1_800_000);
        for (t, value) in times.iter().zip(&values).rev() {
            assert_eq!(backward.at(*t), *value);
        }
        for (t, value) in times.iter().zip(&values).step_by(97) {
            assert_eq!(Wander::new(key, 1_800_000).at(*t), *value);
        }
    }

    #[test]
    fn it_wanders_with_unit_variance_and_forgets_with_its_time_constant() {
        let tau = 600_000;
        let mut wander = Wander::new(Key::new(1), tau);
        let knots: Vec<f64> = (0..400_000).map(|i| wander.at(i * tau / 8)).collect();
        let n = knots.len() as f64;
        let mean = knots.iter().sum::<f64>() / n;
        let variance = knots.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        let lagged = knots.iter().zip(&knots[8..]).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>() / (n - 8.0);
        assert!(mean.abs() < 0.03, "{mean}");
        assert!((variance - 1.0).abs() < 0.03, "{variance}");
        assert!((lagged / variance - (-1.0f64).exp()).abs() < 0.03, "{}", lagged / variance);
    }
}
