//! What the trees are asked about: six vitals' features as two kinds of inputs.
//!
//! The *head* is one forest for all vitals: it sees one vital's features, turned so that the deviation is upwards, and a
//! little of what the others do, and says how likely that vital is in an event. The *row* forest sees everything at once,
//! and aggregates over the vitals, and says how likely the device is.

use super::filter::{
    AGE, CHANGE, DOWN, E2, E2P, E5, FADING, FEATURES, FS, FS24, INN, INN0, OBSERVED, SCALE, UNREST, UP, VitalFeatures,
    Z24, ZMU, ZPOP,
};
use super::forest::Lanes;
use super::news2;
use crate::reading::{VITALS, Vital, Vitals};

/// The direction in which each vital goes when a body gets worse.
const ADVERSE: [f32; VITALS] = [1.0, -1.0, -0.5, 1.0, -1.0, 1.0];

/// Six vitals' features.
pub(super) type Features = [VitalFeatures; VITALS];

/// What the head sees of a vital: 15 signed and 4 unsigned features, the turn, the vital's number and one bit for each,
/// and the most that any other vital shows of four.
pub(super) const HEAD: usize = SCALE + 4 + 2 + VITALS + 4;

/// The features of which the head sees the most that any other vital shows.
const OTHERS: [usize; 4] = [ZMU, E2, FS24, INN];

/// The direction in which a vital deviates: 1 or −1.
pub(super) fn turn(f: &VitalFeatures) -> f32 {
    if f[ZMU] + f[E2] + f[FS24] < 0.0 { -1.0 } else { 1.0 }
}

/// The head's inputs for all vitals, input by input: what is side by side is asked together.
pub(super) fn head_inputs(features: &Features, out: &mut [Lanes; HEAD]) {
    for (j, f) in features.iter().enumerate() {
        let turn = turn(f);
        let signed = f[..SCALE].iter().map(|value| value * turn);
        let unsigned = [f[SCALE], f[AGE], f[OBSERVED], f[UNREST], turn, j as f32];
        let which = (0..VITALS).map(|k| f32::from(u8::from(j == k)));
        // `max` passes over what is absent.
        let most = |i: usize| {
            features.iter().enumerate().filter(|(k, _)| *k != j).fold(0.0, |most: f32, (_, f)| most.max(f[i].abs()))
        };
        let all = signed.chain(unsigned).chain(which).chain(OTHERS.map(most));
        out.iter_mut().zip(all).for_each(|(input, value)| input[j] = value);
    }
}

/// The features of which the row forest sees aggregates over the vitals.
const AGGREGATED: [usize; 10] = [ZMU, E2, FS, INN, ZPOP, Z24, E5, FS24, E2P, CHANGE];
/// How many of a vital's features the row forest sees: all but how long it was observed.
const ROW_FEATURES: usize = FEATURES - 1;

/// What the row forest sees: every vital's features, shock index, pulse pressure and its deviation from the own levels',
/// NEWS2, aggregates, how long the device was observed, and the most unrest.
pub(super) const ROW: usize = VITALS * ROW_FEATURES + 4 + 4 * AGGREGATED.len() + 2;

/// The row forest's inputs: `latest` are the latest values, `levels` the own levels, in the vitals' units.
pub(super) fn row_inputs(features: &Features, latest: &Vitals, levels: &Vitals, out: &mut [f32; ROW]) {
    let (own, rest) = out.split_at_mut(VITALS * ROW_FEATURES);
    for (out, f) in own.chunks_exact_mut(ROW_FEATURES).zip(features) {
        out.copy_from_slice(&f[..ROW_FEATURES]);
    }
    let of = |values: &Vitals, vital: Vital| values[vital.index()] as f32;
    let pulse = |values| of(values, Vital::Systolic) - of(values, Vital::Diastolic);
    rest[0] = of(latest, Vital::HeartRate) / of(latest, Vital::Systolic);
    rest[1] = pulse(latest);
    rest[2] = pulse(latest) - pulse(levels);
    rest[3] = news2::partial(latest).map_or(f32::NAN, f32::from);
    for (out, i) in rest[4..].chunks_exact_mut(4).zip(AGGREGATED) {
        out.copy_from_slice(&aggregate(features, i));
    }
    let most = |i: usize| features.iter().fold(0.0, |most: f32, f| most.max(f[i]));
    rest[4 + 4 * AGGREGATED.len()] = most(OBSERVED);
    rest[5 + 4 * AGGREGATED.len()] = most(UNREST);
}

/// Of one feature over the vitals: L2 norm, largest and second largest size, sum towards the bad side.
fn aggregate(features: &Features, i: usize) -> [f32; 4] {
    let (mut squares, mut first, mut second, mut adverse) = (0f32, 0f32, 0f32, 0f32);
    for (f, direction) in features.iter().zip(ADVERSE) {
        if f[i].is_nan() {
            continue;
        }
        let value = f[i].clamp(-8.0, 8.0);
        let size = value.abs();
        squares += size * size;
        second = second.max(size.min(first));
        first = first.max(size);
        adverse += direction * value;
    }
    [squares.sqrt(), first, second, adverse]
}

const _: () = assert!(INN0 < ROW_FEATURES && FADING < ROW_FEATURES && UP < ROW_FEATURES && DOWN < ROW_FEATURES);
const _: () = assert!(OBSERVED == FEATURES - 1, "the row forest's inputs leave the last one out");
