//! Counts of values in fixed bins, and the index of two of them.
//!
//! Two samples of one fleet differ by chance, the more so as readings of one device resemble each other: a thousand of
//! ten people say little more of people than ten. How much they do is not assumed but measured, for every count apart.
//! Beside its counts a histogram keeps the sums over devices of their squares, from which follows how far apart devices
//! are, and so the index to expect of two samples of one fleet: the first-order correction of Rao and Scott, J Am Stat
//! Assoc 76:221–230 (1981). For independent values it is (bins − 1)(1/n + 1/m).
//!
//! Recent devices are taken to be others than those of training. Where they are the same ones chance gives less, so a
//! small fleet must change more than it should before that counts.

use serde::{Deserialize, Serialize};

/// With fewer values than this on either side nothing is said of a count.
pub(super) const LEAST_VALUES: u64 = 200;
/// Nor with fewer devices; one that sends more than others counts for more, and makes the number of devices smaller.
pub(super) const LEAST_DEVICES: f64 = 5.0;

/// Counts of values in bins, and what tells how far apart devices are in them. In JSON it is one text, so that the card
/// stays readable: the counts; the squares; the squares of devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(super) struct Histogram<const BINS: usize> {
    counts: [u64; BINS],
    /// Per bin, the sum over devices of their squared counts.
    squares: [u64; BINS],
    /// The sum over devices of the square of how many values each has.
    device_squares: u64,
}

impl<const BINS: usize> Default for Histogram<BINS> {
    fn default() -> Self {
        Histogram { counts: [0; BINS], squares: [0; BINS], device_squares: 0 }
    }
}

impl<const BINS: usize> Histogram<BINS> {
    /// Counts a value in the bin that `edges` say: bin `i` is what lies above `i` of them.
    pub fn take(&mut self, edges: &[f64], value: f64) {
        if value.is_nan() {
            return;
        }
        if let Some(count) = self.counts.get_mut(edges.partition_point(|edge| *edge < value)) {
            *count += 1;
        }
    }

    /// Makes what was taken one device's.
    pub fn close(&mut self) {
        let square = |count: u64| count.saturating_mul(count);
        self.squares = self.counts.map(square);
        self.device_squares = square(self.counts.iter().sum());
    }

    pub fn add(&mut self, other: &Self) {
        let add = |sum: &mut u64, more: &u64| *sum = sum.saturating_add(*more);
        self.counts.iter_mut().zip(&other.counts).for_each(|(sum, more)| add(sum, more));
        self.squares.iter_mut().zip(&other.squares).for_each(|(sum, more)| add(sum, more));
        add(&mut self.device_squares, &other.device_squares);
    }

    pub fn bins(&self) -> Bins<'_> {
        Bins { counts: &self.counts, squares: &self.squares, device_squares: self.device_squares }
    }
}

impl<const BINS: usize> From<Histogram<BINS>> for String {
    fn from(own: Histogram<BINS>) -> String {
        let text = |counts: [u64; BINS]| counts.map(|count| count.to_string()).join(" ");
        format!("{}; {}; {}", text(own.counts), text(own.squares), own.device_squares)
    }
}

impl<const BINS: usize> TryFrom<String> for Histogram<BINS> {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let numbers: Option<Vec<Vec<u64>>> =
            text.split(';').map(|part| part.split_whitespace().map(|count| count.parse().ok()).collect()).collect();
        if let Some([counts, squares, device_squares]) = numbers.as_deref()
            && let (Ok(counts), Ok(squares)) = (counts.as_slice().try_into(), squares.as_slice().try_into())
            && let &[device_squares] = device_squares.as_slice()
        {
            return Ok(Histogram { counts, squares, device_squares });
        }
        Err(format!("`{text}` is no histogram of {BINS} bins"))
    }
}

/// A histogram of any number of bins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bins<'a> {
    counts: &'a [u64],
    squares: &'a [u64],
    device_squares: u64,
}

impl Bins<'_> {
    pub fn values(self) -> u64 {
        self.counts.iter().fold(0, |sum, &count| sum.saturating_add(count))
    }

    /// The number of devices, were all to send as much (Kish's effective number); `None` if there are too few values or
    /// devices to tell anything.
    pub fn devices(self) -> Option<f64> {
        let values = self.values() as f64;
        let devices = values * values / self.device_squares as f64;
        (self.values() >= LEAST_VALUES && (LEAST_DEVICES..=values).contains(&devices)).then_some(devices)
    }

    /// How far devices are from these shares on average, weighted by the squares of their values: over the bins,
    /// Σ (own share − share)² / share, which comes to Σ (squares / share) / squares of devices − 1.
    fn spread(self, shares: &[f64]) -> f64 {
        let squares = self.squares.iter().zip(shares).filter(|(_, share)| **share > 0.0);
        squares.map(|(&square, share)| square as f64 / share).sum::<f64>() / self.device_squares as f64 - 1.0
    }
}

/// An index, and what it would be if nothing but chance made the difference.
#[derive(Debug, Clone, Copy)]
pub(super) struct Index {
    pub psi: f64,
    pub by_chance: f64,
    /// Bins that have anything.
    bins: f64,
}

impl Index {
    /// `None` if there are too few values or devices to tell.
    pub fn of(reference: Bins, recent: Bins) -> Option<Index> {
        let (devices, recent_devices) = (reference.devices()?, recent.devices()?);
        let all = devices + recent_devices;
        let (weight, recent_weight) =
            (devices / all / reference.values() as f64, recent_devices / all / recent.values() as f64);
        let pairs = || reference.counts.iter().zip(recent.counts);
        let shares: Vec<f64> = pairs().map(|(&a, &b)| a as f64 * weight + b as f64 * recent_weight).collect();
        let bins = shares.iter().filter(|share| **share > 0.0).count() as f64;

        // If nothing but chance made the difference, all are one fleet's, and all tell how far apart devices are. Those
        // of one side may be further apart still, with fewer values each; but no further than if all values of a device
        // were the same one, which makes one for each degree of freedom.
        let (own, recent_own) = (reference.spread(&shares), recent.spread(&shares));
        let pooled = (devices * own + recent_devices * recent_own) / (all - 1.0);
        let spread = |own: f64| own.min(bins - 1.0).max(pooled);
        let p = Shares::of(reference, bins, spread(own) / devices);
        let q = Shares::of(recent, bins, spread(recent_own) / recent_devices);
        let terms = pairs().filter(|(a, b)| **a > 0 || **b > 0).map(|(&a, &b)| {
            let (p, q) = (p.of_bin(a), q.of_bin(b));
            (p - q) * libm::log(p / q)
        });
        Some(Index { psi: terms.sum(), by_chance: p.by_chance + q.by_chance, bins })
    }

    /// Whether chance gives such an index in one case of a hundred at most. Over what is expected it goes about like χ²
    /// over its degrees of freedom, whose quantile is Wilson and Hilferty's (1931). Devices differ in fewer ways than
    /// there are bins, high or low above all: half as many degrees.
    pub fn is_beyond_chance(self) -> bool {
        const ONE_IN_A_HUNDRED: f64 = 2.33;
        let part = 2.0 / (9.0 * (0.5 * (self.bins - 1.0)).max(1.0));
        let root = 1.0 - part + ONE_IN_A_HUNDRED * part.sqrt();
        self.psi > self.by_chance * root * root * root
    }
}

/// Counts to shares of all, none of them 0.
struct Shares {
    /// What is added to each count: half a value that is independent of the others (Jeffreys), so half of as many
    /// values as are worth one such.
    added: f64,
    all: f64,
    /// What chance adds to the index.
    by_chance: f64,
}

impl Shares {
    /// Chance gives no less than with independent values.
    fn of(own: Bins, bins: f64, by_chance: f64) -> Shares {
        let (values, freedom) = (own.values() as f64, bins - 1.0);
        let by_chance = by_chance.max(freedom / values);
        let added = if freedom > 0.0 { 0.5 * values * by_chance / freedom } else { 0.5 };
        Shares { added, all: values + added * bins, by_chance }
    }

    fn of_bin(&self, count: u64) -> f64 {
        (count as f64 + self.added) / self.all
    }
}
