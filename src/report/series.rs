//! One device as few points that still show what matters: extremes of every vital, and outliers.
//!
//! A device may have sent a reading a second for days. Its readings come in order of time and are thinned as they come:
//! time is cut into [`BUCKETS`], of each of which the readings with the least and greatest value of every vital stay, and
//! with them every listed outlier. So a spike of one reading is never lost, however long the time shown is.

use std::collections::{BTreeMap, BTreeSet};

use super::data::{Band, Series};
use crate::reading::{NO_VITALS, VITALS, Vital, Vitals, same_vitals};

/// How many points a device has at most.
pub const MAX_POINTS: usize = 1_500;
/// How many outliers of a device are listed at most; their readings stay.
pub const MAX_OUTLIERS: usize = 400;
/// How many episodes of a device are listed at most.
pub const MAX_EPISODES: usize = 300;

/// Into how many stretches the time of a device is cut: each keeps at most two readings a vital.
const BUCKETS: i64 = 90;

// What a device can have at most: listed outliers, the extremes of all buckets, the first and the last reading.
const _: () = assert!(MAX_OUTLIERS + BUCKETS as usize * 2 * VITALS + 2 <= MAX_POINTS);

/// How many readings bands are made from at most.
const SAMPLE: usize = 4_096;
/// The fewest values of a vital that make a band.
const BAND_VALUES: usize = 8;
/// From a median absolute deviation to the standard deviation of a normal distribution.
const MAD_TO_SD: f64 = 1.4826;

/// A pause is a gap when it is this much longer than nine out of ten.
const GAP_FACTOR: i64 = 3;
/// The shortest pause that is a gap.
const MIN_GAP_MS: i64 = 60_000;

/// A reading that is drawn.
#[derive(Debug, Clone, Copy)]
struct Point {
    ts_ms: i64,
    vitals: Vitals,
}

/// Takes the readings of one device in order of time, and keeps few of them.
#[derive(Debug)]
pub struct Thinner {
    /// Times of outliers, of which one reading each is kept.
    outliers: BTreeSet<i64>,
    start_ms: i64,
    bucket_ms: i64,
    /// All readings while they are few; then what previous buckets have left.
    points: Vec<Point>,
    /// The running bucket, once there are too many readings to keep all.
    bucket: Option<Bucket>,
    last: Option<Point>,
    sample: Sample,
    pauses: Pauses,
}

impl Thinner {
    /// For readings of about `[start_ms, end_ms]`; beyond that they are drawn more coarsely. Of `outliers`, which are the
    /// times of outlying readings, [`MAX_OUTLIERS`] are kept.
    pub fn new(start_ms: i64, end_ms: i64, outliers: impl IntoIterator<Item = i64>) -> Thinner {
        let bucket_ms = end_ms.saturating_sub(start_ms).max(0) / BUCKETS + 1;
        let outliers = outliers.into_iter().take(MAX_OUTLIERS).collect();
        Thinner {
            outliers,
            start_ms,
            bucket_ms,
            points: Vec::new(),
            bucket: None,
            last: None,
            sample: Sample::default(),
            pauses: Pauses::default(),
        }
    }

    /// The next reading, not before the last one; `outlying` keeps it out of the bands.
    pub fn push(&mut self, ts_ms: i64, vitals: &Vitals, outlying: bool) {
        // Infinite values can't be drawn, and JSON has none.
        let vitals = vitals.map(|value| if value.is_finite() { value } else { f64::NAN });
        if !outlying {
            self.sample.push(&vitals);
        }
        let Some(last) = &mut self.last else {
            self.last = Some(Point { ts_ms, vitals });
            return;
        };
        if last.ts_ms == ts_ms && merged(&mut last.vitals, &vitals) {
            return;
        }
        let done = std::mem::replace(last, Point { ts_ms, vitals });
        self.pauses.push(ts_ms.saturating_sub(done.ts_ms));
        self.take(done);
    }

    fn take(&mut self, point: Point) {
        if self.bucket.is_some() {
            return self.place(point);
        }
        self.points.push(point);
        // The last reading is still to come.
        if self.points.len() >= MAX_POINTS {
            let points = std::mem::take(&mut self.points);
            // The first reading is where the device begins; no bucket may drop it.
            self.points.extend(points.first());
            self.bucket = Some(Bucket::new(0));
            points.into_iter().skip(1).for_each(|point| self.place(point));
        }
    }

    fn place(&mut self, point: Point) {
        let since_start = point.ts_ms.saturating_sub(self.start_ms);
        let number = (since_start / self.bucket_ms).clamp(0, BUCKETS - 1);
        let keep = self.outliers.remove(&point.ts_ms);
        let bucket = self.bucket.get_or_insert_with(|| Bucket::new(number));
        if bucket.number != number {
            let done = std::mem::replace(bucket, Bucket::new(number));
            done.empty_into(&mut self.points);
        }
        bucket.push(point, keep);
    }

    /// The points, bands and gap; outliers and episodes are still to be put in.
    pub fn finish(mut self) -> Series {
        let thinned = self.bucket.is_some();
        if let Some(bucket) = self.bucket.take() {
            bucket.empty_into(&mut self.points);
        }
        self.points.extend(self.last);
        let gap_ms = self.pauses.gap_ms();
        // Points of two neighbouring buckets may be that far apart without anything missing between them.
        let gap_ms = if thinned { gap_ms.max(self.bucket_ms.saturating_mul(2)) } else { gap_ms };
        let mut vitals = BTreeMap::new();
        for vital in Vital::ALL {
            let values: Vec<Option<f64>> =
                self.points.iter().map(|point| present(point.vitals[vital.index()])).collect();
            if values.iter().any(Option::is_some) {
                vitals.insert(vital.column(), values);
            }
        }
        Series {
            ts: self.points.iter().map(|point| point.ts_ms).collect(),
            vitals,
            gap_ms,
            bands: self.sample.bands(),
            thinned,
            ..Series::default()
        }
    }
}

fn present(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

/// Puts `more`, of the same moment, into `vitals` where the two do not contradict each other: a device may send its
/// vitals one by one, or a reading twice.
fn merged(vitals: &mut Vitals, more: &Vitals) -> bool {
    let mut both = *vitals;
    both.iter_mut().zip(more).filter(|(one, _)| one.is_nan()).for_each(|(one, &other)| *one = other);
    let mut all = *more;
    all.iter_mut().zip(vitals.iter()).filter(|(one, _)| one.is_nan()).for_each(|(one, &other)| *one = other);
    let agree = same_vitals(&both, &all);
    if agree {
        *vitals = both;
    }
    agree
}

/// What stays of a stretch of time.
#[derive(Debug)]
struct Bucket {
    number: i64,
    /// The readings with the least and greatest value of each vital, with their place in the order of arrival.
    extremes: [[Option<(u64, Point)>; 2]; VITALS],
    kept: Vec<(u64, Point)>,
    readings: u64,
}

impl Bucket {
    fn new(number: i64) -> Bucket {
        Bucket { number, extremes: Default::default(), kept: Vec::new(), readings: 0 }
    }

    fn push(&mut self, point: Point, keep: bool) {
        let placed = (self.readings, point);
        self.readings += 1;
        if keep {
            self.kept.push(placed);
        }
        for (index, [least, greatest]) in self.extremes.iter_mut().enumerate() {
            let value = point.vitals[index];
            if value.is_nan() {
                continue;
            }
            if least.is_none_or(|(_, there)| value < there.vitals[index]) {
                *least = Some(placed);
            }
            if greatest.is_none_or(|(_, there)| value > there.vitals[index]) {
                *greatest = Some(placed);
            }
        }
    }

    fn empty_into(self, points: &mut Vec<Point>) {
        let mut all = self.kept;
        all.extend(self.extremes.into_iter().flatten().flatten());
        all.sort_by_key(|(place, _)| *place);
        all.dedup_by_key(|(place, _)| *place);
        points.extend(all.into_iter().map(|(_, point)| point));
    }
}

/// Every n-th reading, with n doubled whenever there are too many.
#[derive(Debug)]
struct Sample {
    kept: Vec<Vitals>,
    every: u64,
    seen: u64,
}

impl Default for Sample {
    fn default() -> Sample {
        Sample { kept: Vec::new(), every: 1, seen: 0 }
    }
}

impl Sample {
    fn push(&mut self, vitals: &Vitals) {
        if self.seen.is_multiple_of(self.every) {
            if self.kept.len() == SAMPLE {
                let mut place = 0;
                self.kept.retain(|_| {
                    place += 1;
                    place % 2 == 1
                });
                self.every *= 2;
            }
            // The sample's length is even, so the reading that finds it full has its turn under the doubled n as well.
            self.kept.push(*vitals);
        }
        self.seen += 1;
    }

    fn bands(&self) -> BTreeMap<&'static str, Band> {
        let of = |vital: Vital| {
            let values: Vec<f64> = self.kept.iter().filter_map(|vitals| present(vitals[vital.index()])).collect();
            Some((vital.column(), band(values, vital.resolution())?))
        };
        Vital::ALL.into_iter().filter_map(of).collect()
    }
}

/// Median ± 2 robust standard deviations, of which half a step of the sensor is the least; `None` of too few values.
pub fn band(mut values: Vec<f64>, resolution: f64) -> Option<Band> {
    if values.len() < BAND_VALUES {
        return None;
    }
    let usual = median(&mut values);
    let mut distances: Vec<f64> = values.iter().map(|value| (value - usual).abs()).collect();
    let sd = (MAD_TO_SD * median(&mut distances)).max(resolution / 2.0);
    let band = Band { low: usual - 2.0 * sd, usual, high: usual + 2.0 * sd };
    (band.low.is_finite() && band.high.is_finite()).then_some(band)
}

/// The median of some finite values, of which there is at least one.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { values[middle - 1] / 2.0 + values[middle] / 2.0 }
}

/// How long pauses between readings are, to a fifth.
#[derive(Debug)]
struct Pauses {
    /// By four steps for each doubling.
    counts: [u64; 256],
    all: u64,
}

impl Default for Pauses {
    fn default() -> Pauses {
        Pauses { counts: [0; 256], all: 0 }
    }
}

impl Pauses {
    fn push(&mut self, pause_ms: i64) {
        if pause_ms > 0 {
            let step = ((pause_ms as f64).log2() * 4.0).round() as usize;
            self.counts[step.min(255)] += 1;
            self.all += 1;
        }
    }

    /// A pause from which on nothing was sent: well over what nine of ten are.
    fn gap_ms(&self) -> i64 {
        let mut below = 0;
        let ninth = self.counts.iter().position(|count| {
            below += count;
            below * 10 >= self.all * 9
        });
        let usual_ms = if self.all == 0 { 0 } else { ninth.map_or(0, |step| 2f64.powf(step as f64 / 4.0) as i64) };
        usual_ms.saturating_mul(GAP_FACTOR).max(MIN_GAP_MS)
    }
}

/// The vitals of a reading of which some are absent.
pub(super) fn vitals_of(value: impl Fn(usize) -> Option<f64>) -> Vitals {
    let mut vitals = NO_VITALS;
    vitals.iter_mut().enumerate().for_each(|(index, vital)| *vital = value(index).unwrap_or(f64::NAN));
    vitals
}

#[cfg(test)]
mod tests;
