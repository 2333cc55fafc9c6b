//! Seeds and draws: what is drawn for a device follows from the seed and the device's name, so that it does not depend on
//! which other devices there are, nor on threads.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// What a seed is used for. Each use has draws of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Use {
    Split = 1,
    Clinical = 2,
    Other = 3,
    Forest = 4,
    Resample = 5,
}

/// A number that depends on every bit of the seed, the use and the name: FNV-1a, then the finaliser of SplitMix64.
pub(super) fn hash(seed: u64, purpose: Use, name: &str) -> u64 {
    let start = mix(seed ^ mix(purpose as u64));
    mix(name.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)))
}

fn mix(hash: u64) -> u64 {
    let mixed = (hash ^ (hash >> 30)).wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The draws number `nth` of this use.
pub(super) fn draws(hash: u64, nth: u64) -> Pcg64Mcg {
    Pcg64Mcg::seed_from_u64(mix(hash ^ mix(nth)))
}

/// An even draw from `low` to `high`.
pub(super) fn between(rng: &mut Pcg64Mcg, (low, high): (f64, f64)) -> f64 {
    low + (high - low) * rng.random::<f64>()
}

/// A place in a list of `len`; 0 for an empty one.
pub(super) fn place(rng: &mut Pcg64Mcg, len: usize) -> usize {
    rng.random_range(0..(len as u64).max(1)) as usize
}

/// The sum of twelve even draws: near enough to a normal distribution here.
pub(super) fn normal(rng: &mut Pcg64Mcg) -> f64 {
    (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_seeds_and_uses_all_count() {
        let base = hash(1, Use::Split, "a");
        assert_eq!(base, hash(1, Use::Split, "a"));
        for other in [hash(2, Use::Split, "a"), hash(1, Use::Forest, "a"), hash(1, Use::Split, "b")] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn an_empty_list_has_the_place_0() {
        assert_eq!(place(&mut draws(1, 1), 0), 0);
    }
}
