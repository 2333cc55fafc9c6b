//! An isolation forest on raw vitals: the usual way to look for outliers in a table, which knows of no device.
//!
//! Liu, Ting and Zhou, *Isolation Forest* (ICDM 2008): trees of random splits; what is alone soon is unusual.

use rand_pcg::Pcg64Mcg;

use crate::model::History;
use crate::reading::{VITALS, Vitals};

use super::chance::{self, Use};
use super::spreads::{Spreads, within_possible};

const TREES: u64 = 100;
/// Readings that a tree is grown from.
const SAMPLE: usize = 256;
/// The average depth at which [`SAMPLE`] readings are told apart: no tree is deeper.
const DEEPEST: u32 = 8;

/// A grown forest.
pub(super) struct Forest {
    /// What an absent value is taken for.
    absent: Vitals,
    trees: Vec<Vec<Node>>,
}

/// A node; the one for lower values follows it.
#[derive(Clone, Copy)]
struct Node {
    /// Which vital is split; [`LEAF`] for none.
    vital: u8,
    /// Values from here on go to `upper`; of a leaf, the length of the path to it.
    split: f64,
    upper: u32,
}

const LEAF: u8 = u8::MAX;

impl Forest {
    /// Grows a forest from these devices' readings. Absent values are the group's medians.
    pub fn grow(histories: &[&History], spreads: &Spreads, seed: u64) -> Forest {
        let absent = spreads.map(|spread| spread.map_or(0.0, |spread| spread.centre));
        let mut ends = Vec::with_capacity(histories.len());
        let total = histories.iter().fold(0, |sum, history| {
            ends.push(sum + history.readings.len());
            sum + history.readings.len()
        });
        let draw = |rng: &mut Pcg64Mcg| {
            let place = chance::place(rng, total);
            let history = ends.partition_point(|&end| end <= place);
            let begin = history.checked_sub(1).map_or(0, |before| ends[before]);
            histories.get(history).and_then(|history| history.readings.get(place - begin))
        };
        let hash = chance::hash(seed, Use::Forest, "");
        let tree = |nth| {
            let mut rng = chance::draws(hash, nth);
            let mut points: Vec<Vitals> =
                (0..SAMPLE).filter_map(|_| draw(&mut rng)).map(|reading| filled(&absent, &reading.vitals)).collect();
            let mut nodes = Vec::new();
            grow(&mut nodes, &mut points, 0, &mut rng);
            nodes
        };
        Forest { absent, trees: (0..TREES).map(tree).collect() }
    }

    /// How unusual a reading is, 0 to 1.
    pub fn score(&self, vitals: &Vitals) -> f64 {
        let point = filled(&self.absent, vitals);
        let depth: f64 = self.trees.iter().map(|tree| path(tree, &point)).sum();
        libm::exp2(-depth / (TREES as f64 * usual_path(SAMPLE)))
    }
}

fn filled(absent: &Vitals, vitals: &Vitals) -> Vitals {
    let vitals = within_possible(vitals);
    std::array::from_fn(|j| if vitals[j].is_nan() { absent[j] } else { vitals[j] })
}

fn grow(nodes: &mut Vec<Node>, points: &mut [Vitals], depth: u32, rng: &mut Pcg64Mcg) {
    let ranges = ranges(points);
    let splittable: Vec<usize> = (0..VITALS).filter(|&j| ranges[j].0 < ranges[j].1).collect();
    if depth == DEEPEST || points.len() < 2 || splittable.is_empty() {
        nodes.push(Node { vital: LEAF, split: f64::from(depth) + usual_path(points.len()), upper: 0 });
        return;
    }
    let vital = splittable[chance::place(rng, splittable.len())];
    let split = chance::between(rng, ranges[vital]);
    let place = nodes.len();
    nodes.push(Node { vital: vital as u8, split, upper: 0 });
    points.sort_by(|a, b| a[vital].total_cmp(&b[vital]));
    let (lower, upper) = points.split_at_mut(points.partition_point(|point| point[vital] < split));
    grow(nodes, lower, depth + 1, rng);
    nodes[place].upper = nodes.len() as u32;
    grow(nodes, upper, depth + 1, rng);
}

fn ranges(points: &[Vitals]) -> [(f64, f64); VITALS] {
    std::array::from_fn(|j| {
        points
            .iter()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), point| (low.min(point[j]), high.max(point[j])))
    })
}

fn path(tree: &[Node], point: &Vitals) -> f64 {
    let mut place = 0;
    while let Some(node) = tree.get(place) {
        match point.get(usize::from(node.vital)) {
            None => return node.split,
            Some(value) if *value < node.split => place += 1,
            Some(_) => place = node.upper as usize,
        }
    }
    0.0
}

/// The average path in a tree of `points` that were told apart to the last.
fn usual_path(points: usize) -> f64 {
    const EULER: f64 = 0.577_215_664_901_532_9;
    let n = points as f64;
    match points {
        0 | 1 => 0.0,
        2 => 1.0,
        _ => 2.0 * (libm::log(n - 1.0) + EULER) - 2.0 * (n - 1.0) / n,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::bodies::{fleet, history};
    use crate::evaluate::spreads::spreads;
    use crate::reading::NO_VITALS;

    #[test]
    fn a_far_point_is_alone_soon() {
        let fleet = fleet(10, 100, 3_600_000, 1);
        let histories: Vec<&History> = fleet.iter().collect();
        let spreads = spreads(&histories, 1);
        let forest = Forest::grow(&histories, &spreads, 1);
        let near = forest.score(&forest.absent);
        let far = forest.score(&[180.0, 60.0, 30.0, 41.0, 70.0, 45.0]);
        assert!(near < 0.5 && far > 0.65, "{near} {far}");
        assert_eq!(forest.score(&NO_VITALS), near);
        assert!(forest.score(&[f64::INFINITY; 6]).is_finite());
        assert_eq!(far, Forest::grow(&histories, &spreads, 1).score(&[180.0, 60.0, 30.0, 41.0, 70.0, 45.0]));
    }

    #[test]
    fn a_forest_of_nothing_scores_all_alike() {
        for histories in [vec![], vec![history("empty", vec![])]] {
            let forest = Forest::grow(&histories.iter().collect::<Vec<_>>(), &[None; VITALS], 1);
            assert_eq!(forest.score(&[80.0; 6]), forest.score(&NO_VITALS));
        }
    }
}
