//! Growing forests: gradient boosting for the log loss, on histograms of at most 63 bins.
//!
//! Gradients are rounded to whole numbers, and sums of whole numbers do not depend on their order: the same rows and seed
//! give the same trees to the bit, whatever the number of threads and the machine.

use std::ops::Range;
use std::thread;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::forest::{DEPTH, Forest, LEAVES, Question, Tree};
use super::threads;

/// Bins of an input; the first is for what is absent.
const BINS: usize = 64;
/// Fewer rows than this are not shared out to threads.
const LEAST_SHARED: usize = 4096;

/// How to grow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct GrowOptions {
    pub trees: usize,
    /// What a tree's leaves are multiplied by.
    pub rate: f64,
    /// Added to the second derivative of every leaf.
    pub l2: f64,
    /// Share of the inputs that a tree may ask about.
    pub inputs: f64,
    /// Share of the rows that a tree learns from.
    pub rows: f64,
    pub seed: u64,
    pub threads: usize,
}

/// Edges between bins, per input: bin `b` holds what is above edge `b − 1` and not above edge `b`.
#[derive(Debug, Clone)]
pub(super) struct Edges(Vec<Vec<f32>>);

impl Edges {
    /// Quantiles of rows of `inputs` values each.
    pub fn of(rows: &[f32], inputs: usize) -> Edges {
        Edges((0..inputs).map(|input| Edges::of_input(rows.iter().skip(input).step_by(inputs))).collect())
    }

    fn of_input<'a>(values: impl Iterator<Item = &'a f32>) -> Vec<f32> {
        let mut values: Vec<f32> = values.copied().filter(|value| !value.is_nan()).collect();
        values.sort_unstable_by(f32::total_cmp);
        let Some(&last) = values.last() else { return Vec::new() };
        let mut edges = vec![f32::NEG_INFINITY];
        for bin in 1..BINS - 1 {
            let edge = values[bin * values.len() / (BINS - 1)];
            if edge > edges[edges.len() - 1] && edge < last {
                edges.push(edge);
            }
        }
        edges
    }

    fn bin(&self, input: usize, value: f32) -> u8 {
        if value.is_nan() { 0 } else { self.0[input].partition_point(|edge| *edge < value) as u8 }
    }
}

/// Rows to learn from, as bins.
#[derive(Debug)]
pub(super) struct Rows {
    edges: Edges,
    /// Row by row.
    bins: Vec<u8>,
    labels: Vec<bool>,
}

impl Rows {
    pub fn new(edges: Edges) -> Rows {
        Rows { edges, bins: Vec::new(), labels: Vec::new() }
    }

    pub fn push(&mut self, row: &[f32], label: bool) {
        self.bins.extend(row.iter().enumerate().map(|(input, value)| self.edges.bin(input, *value)));
        self.labels.push(label);
    }

    /// Appends rows that were binned by the same edges.
    pub fn append(&mut self, other: Rows) {
        self.bins.extend(other.bins);
        self.labels.extend(other.labels);
    }

    pub fn len(&self) -> usize {
        self.labels.len()
    }

    fn inputs(&self) -> usize {
        self.edges.0.len()
    }

    fn row(&self, row: u32) -> &[u8] {
        let inputs = self.inputs();
        &self.bins[row as usize * inputs..][..inputs]
    }
}

/// Grows a forest. `grown` are its first trees, where the same rows and options have given them before: the forest is the
/// same to the bit as without. `told` of every tree.
pub(super) fn grow(rows: &Rows, options: &GrowOptions, grown: &[Tree], told: &mut dyn FnMut(&Tree)) -> Forest {
    let positive = rows.labels.iter().filter(|&&label| label).count() as f64;
    let share = (positive + 1.0) / (rows.len() as f64 + 2.0);
    let base = libm::log(share / (1.0 - share)) as f32;
    let mut growing = Growing {
        rows,
        options,
        scale: scale(rows.len()),
        margins: vec![base; rows.len()],
        slopes: vec![Slope(0); rows.len()],
    };
    let mut rng = Pcg64Mcg::seed_from_u64(options.seed);
    let mut forest = Forest { base, trees: Vec::with_capacity(options.trees) };
    // A tree that these rows can't have given, and those after it, are grown anew.
    let mut grown =
        grown.iter().map_while(|tree| Some((growing.cuts(tree)?, tree.clone()))).collect::<Vec<_>>().into_iter();
    for _ in 0..options.trees {
        // Drawn for trees that are there already, too: what comes after depends on it.
        let key = rng.random();
        let inputs = growing.choose_inputs(&mut rng);
        let Some((cuts, tree)) = grown.next().or_else(|| growing.next_tree(key, &inputs)) else { break };
        growing.add(&cuts, &tree);
        told(&tree);
        forest.trees.push(tree);
    }
    forest
}

/// Steps of a gradient: so many that a sum over all rows stays within 31 bits.
fn scale(rows: usize) -> f32 {
    (i32::MAX as f64 / (rows as f64 + 16.0)).min(8192.0) as f32
}

/// Rows that a tree learns from, by a hash of their number (SplitMix64's finaliser).
fn bag(rows: usize, share: f64, key: u64) -> Vec<u32> {
    let limit = (share * f64::from(u32::MAX)) as u32;
    let hash = |row: u32| {
        let mut x = (u64::from(row) ^ key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 32) as u32
    };
    (0..rows as u32).filter(|&row| hash(row) <= limit).collect()
}

/// First and second derivative of the loss, whole numbers in one: the first in the upper half, signed.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Slope(i64);

impl Slope {
    fn of(first: f32, second: f32) -> Slope {
        Slope(((first.round_ties_even() as i64) << 32) + second.round_ties_even() as i64)
    }

    fn parts(self) -> (f64, f64) {
        let second = self.0 & 0xffff_ffff;
        (((self.0 - second) >> 32) as f64, second as f64)
    }
}

/// "Is the bin of this input above `bin`?"
#[derive(Debug, Clone, Copy)]
struct Cut {
    input: usize,
    bin: u8,
}

type Histogram = Vec<i64>;

struct Growing<'a> {
    rows: &'a Rows,
    options: &'a GrowOptions,
    /// Steps of a first derivative; a second one has four times as many, as it is a quarter at most.
    scale: f32,
    margins: Vec<f32>,
    slopes: Vec<Slope>,
}

impl Growing<'_> {
    fn update_slopes(&mut self) {
        let share = self.rows.len().div_ceil(self.options.threads).max(1);
        let scale = self.scale;
        thread::scope(|scope| {
            let parts = self.slopes.chunks_mut(share).zip(self.margins.chunks(share));
            for ((slopes, margins), labels) in parts.zip(self.rows.labels.chunks(share)) {
                scope.spawn(move || {
                    for ((slope, &margin), &label) in slopes.iter_mut().zip(margins).zip(labels) {
                        let p = 1.0 / (1.0 + libm::expf(-margin));
                        let first = p - f32::from(u8::from(label));
                        *slope = Slope::of(first * scale, p * (1.0 - p) * 4.0 * scale);
                    }
                });
            }
        });
    }

    /// The inputs that a tree may ask about, of those that have any value.
    fn choose_inputs(&self, rng: &mut Pcg64Mcg) -> Vec<usize> {
        let mut inputs: Vec<usize> = (0..self.rows.inputs()).filter(|&i| !self.rows.edges.0[i].is_empty()).collect();
        let wanted = ((inputs.len() as f64 * self.options.inputs).ceil() as usize).min(inputs.len());
        for i in 0..wanted {
            let other = rng.random_range(i..inputs.len());
            inputs.swap(i, other);
        }
        inputs.truncate(wanted);
        inputs.sort_unstable();
        inputs
    }

    /// The next tree, on a share of the rows; `None` when no question helps.
    fn next_tree(&mut self, key: u64, inputs: &[usize]) -> Option<(Vec<Cut>, Tree)> {
        self.update_slopes();
        self.tree(bag(self.rows.len(), self.options.rows, key), inputs)
    }

    /// The cuts behind a tree's questions; `None` where a question is between no two bins of these rows.
    fn cuts(&self, tree: &Tree) -> Option<Vec<Cut>> {
        let asked = tree.questions.iter().filter(|&&question| question != Question::NONE);
        let cut = |question: &Question| {
            let input = usize::from(question.input);
            let edges = self.rows.edges.0.get(input)?;
            let bin = edges.iter().position(|edge| *edge == question.threshold)?;
            Some(Cut { input, bin: bin as u8 })
        };
        asked.map(cut).collect()
    }

    /// One tree on the rows of `bag`; `None` when no question helps.
    fn tree(&self, bag: Vec<u32>, inputs: &[usize]) -> Option<(Vec<Cut>, Tree)> {
        let mut leaves = vec![Leaf { histogram: self.histogram(&bag, inputs), rows: bag, place: 0 }];
        let mut cuts = Vec::with_capacity(DEPTH);
        for level in 0..DEPTH {
            let Some(cut) = self.best_cut(&leaves, inputs) else { break };
            cuts.push(cut);
            let last = level + 1 == DEPTH;
            leaves = leaves.into_iter().flat_map(|leaf| self.split(leaf, cut, level, inputs, last)).collect();
        }
        if cuts.is_empty() {
            return None;
        }
        let mut tree = Tree { questions: [Question::NONE; DEPTH], leaves: [0.0; LEAVES] };
        for (question, cut) in tree.questions.iter_mut().zip(&cuts) {
            let threshold = self.rows.edges.0[cut.input][usize::from(cut.bin)];
            *question = Question { input: cut.input as u16, threshold };
        }
        for leaf in &leaves {
            tree.leaves[leaf.place] = self.step(&leaf.rows);
        }
        Some((cuts, tree))
    }

    /// A leaf's value: a Newton step.
    fn step(&self, rows: &[u32]) -> f32 {
        let sum = rows.iter().map(|&row| self.slopes[row as usize].0).sum();
        let (first, second) = Slope(sum).parts();
        let scale = f64::from(self.scale);
        (-self.options.rate * (first / scale) / (second / (4.0 * scale) + self.options.l2)) as f32
    }

    fn split(&self, leaf: Leaf, cut: Cut, level: usize, inputs: &[usize], last: bool) -> [Leaf; 2] {
        let (yes, no): (Vec<u32>, Vec<u32>) =
            leaf.rows.iter().partition(|&&row| self.rows.row(row)[cut.input] > cut.bin);
        let mut histograms = [Histogram::new(), Histogram::new()];
        if !last {
            // The larger side is what the smaller one leaves of the whole.
            let yes_is_small = yes.len() < no.len();
            let small = self.histogram(if yes_is_small { &yes } else { &no }, inputs);
            let mut large = leaf.histogram;
            large.iter_mut().zip(&small).for_each(|(sum, part)| *sum -= part);
            histograms = if yes_is_small { [large, small] } else { [small, large] };
        }
        let [no_histogram, yes_histogram] = histograms;
        [
            Leaf { rows: no, histogram: no_histogram, place: leaf.place },
            Leaf { rows: yes, histogram: yes_histogram, place: leaf.place | 1 << level },
        ]
    }

    /// Sums of slopes by input and bin.
    fn histogram(&self, part: &[u32], inputs: &[usize]) -> Histogram {
        let fill = |part: &[u32]| {
            let mut histogram = vec![0; inputs.len() * BINS];
            for &row in part {
                let slope = self.slopes[row as usize].0;
                let bins = self.rows.row(row);
                for (sums, &input) in histogram.chunks_exact_mut(BINS).zip(inputs) {
                    sums[usize::from(bins[input]) % BINS] += slope;
                }
            }
            histogram
        };
        if part.len() < LEAST_SHARED || self.options.threads < 2 {
            return fill(part);
        }
        let share = part.len().div_ceil(self.options.threads);
        let parts = threads::each(part.chunks(share).map(|part| move || fill(part)));
        parts
            .into_iter()
            .reduce(|mut sum, part| {
                sum.iter_mut().zip(&part).for_each(|(sum, part)| *sum += part);
                sum
            })
            .unwrap_or_default()
    }

    /// The cut that gains most over all leaves.
    fn best_cut(&self, leaves: &[Leaf], inputs: &[usize]) -> Option<Cut> {
        let share = inputs.len().div_ceil(self.options.threads).max(1);
        let ranges = (0..inputs.len()).step_by(share).map(|from| from..(from + share).min(inputs.len()));
        let search = |range| self.best_cut_of(leaves, inputs, range);
        let bests = threads::each(ranges.map(|range| move || search(range)));
        // The first of equals, so that shares don't matter.
        let best = bests.into_iter().reduce(|best, other| if other.0 > best.0 { other } else { best })?;
        (best.0 > 0.0).then_some(best.1)
    }

    fn best_cut_of(&self, leaves: &[Leaf], inputs: &[usize], range: Range<usize>) -> (f64, Cut) {
        let l2 = self.options.l2 * f64::from(self.scale);
        let gain = |(first, second): (f64, f64)| first * first / (second / 4.0 + l2);
        let mut best = (0.0, Cut { input: 0, bin: 0 });
        for place in range {
            let input = inputs[place];
            let bins = self.rows.edges.0[input].len() + 1;
            let mut gains = [0.0; BINS];
            for leaf in leaves {
                let sums = &leaf.histogram[place * BINS..][..bins];
                let all = Slope(sums.iter().sum()).parts();
                let mut below = 0;
                for (bin, sum) in sums[..bins - 1].iter().enumerate() {
                    below += sum;
                    let low = Slope(below).parts();
                    gains[bin] += gain(low) + gain((all.0 - low.0, all.1 - low.1)) - gain(all);
                }
            }
            for (bin, &gain) in gains[..bins - 1].iter().enumerate() {
                if gain > best.0 {
                    best = (gain, Cut { input, bin: bin as u8 });
                }
            }
        }
        best
    }

    /// Adds a tree to every row's margin.
    fn add(&mut self, cuts: &[Cut], tree: &Tree) {
        let share = self.rows.len().div_ceil(self.options.threads).max(1);
        let rows = self.rows;
        thread::scope(|scope| {
            for (part, margins) in self.margins.chunks_mut(share).enumerate() {
                scope.spawn(move || {
                    for (i, margin) in margins.iter_mut().enumerate() {
                        let bins = rows.row((part * share + i) as u32);
                        let place = cuts
                            .iter()
                            .enumerate()
                            .fold(0, |place, (d, cut)| place | usize::from(bins[cut.input] > cut.bin) << d);
                        *margin += tree.leaves[place];
                    }
                });
            }
        });
    }
}

struct Leaf {
    /// In order.
    rows: Vec<u32>,
    histogram: Histogram,
    place: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two inputs and one that is often absent; the label is a corner of them.
    fn corner(rows: usize) -> Rows {
        let mut rng = Pcg64Mcg::seed_from_u64(1);
        let values: Vec<[f32; 3]> = (0..rows)
            .map(|_| [rng.random(), rng.random(), if rng.random::<bool>() { f32::NAN } else { rng.random() }])
            .collect();
        let mut rows = Rows::new(Edges::of(values.as_flattened(), 3));
        values.iter().for_each(|v| rows.push(v, v[0] > 0.5 && v[1] > 0.5 && !v[2].is_nan()));
        rows
    }

    const OPTIONS: GrowOptions =
        GrowOptions { trees: 20, rate: 0.3, l2: 1.0, inputs: 1.0, rows: 0.7, seed: 3, threads: 1 };

    fn grow_all(rows: &Rows, options: &GrowOptions) -> Forest {
        grow(rows, options, &[], &mut |_| ())
    }

    #[test]
    fn a_forest_learns_a_corner() {
        let forest = grow_all(&corner(20_000), &OPTIONS);
        assert!(forest.is_sound(3));
        for (row, inside) in
            [([0.9, 0.9, 0.5], true), ([0.1, 0.9, 0.5], false), ([0.9, 0.1, 0.5], false), ([0.9, 0.9, f32::NAN], false)]
        {
            let sum = forest.sum(&row);
            assert_eq!(sum > 0.0, inside, "{row:?}: {sum}");
        }
    }

    #[test]
    fn threads_make_no_difference() {
        let rows = corner(20_000);
        let one = grow_all(&rows, &OPTIONS);
        assert_eq!(one, grow_all(&rows, &GrowOptions { threads: 3, ..OPTIONS }));
        assert_ne!(one, grow_all(&rows, &GrowOptions { seed: 4, ..OPTIONS }));
    }

    #[test]
    fn a_forest_goes_on_from_its_first_trees_to_the_bit() {
        let rows = corner(5_000);
        let whole = grow_all(&rows, &OPTIONS);
        for known in [0, 1, 13, whole.trees.len()] {
            let mut told = Vec::new();
            let resumed = grow(&rows, &OPTIONS, &whole.trees[..known], &mut |tree| told.push(tree.clone()));
            assert!(resumed == whole && told == whole.trees, "{known}");
        }
        // What other rows gave does not fit, and makes no difference.
        let foreign = grow_all(&corner(4_000), &OPTIONS);
        assert_eq!(grow(&rows, &OPTIONS, &foreign.trees, &mut |_| ()), whole);
    }

    #[test]
    fn rows_that_teach_nothing_give_no_trees() {
        let mut rows = Rows::new(Edges::of(&[1.0, f32::NAN], 2));
        (0..10).for_each(|i| rows.push(&[1.0, f32::NAN], i % 2 == 0));
        assert!(grow_all(&rows, &OPTIONS).trees.is_empty());
        assert!(grow_all(&Rows::new(Edges::of(&[], 2)), &OPTIONS).trees.is_empty());
    }

    #[test]
    fn lanes_are_sums_to_the_bit() {
        let forest = grow_all(&corner(5000), &OPTIONS);
        let rows: [[f32; 3]; 8] = std::array::from_fn(|i| [i as f32 / 8.0, 0.7, if i == 3 { f32::NAN } else { 0.2 }]);
        let lanes: [[f32; 8]; 3] = std::array::from_fn(|input| std::array::from_fn(|lane| rows[lane][input]));
        let sums = forest.sums(&lanes);
        for (row, sum) in rows.iter().zip(sums) {
            assert_eq!(forest.sum(row).to_bits(), sum.to_bits());
        }
    }
}
