//! Boosted oblivious trees: all nodes of a level ask the same question, so a tree is a handful of comparisons that do
//! not wait for each other, and a table of leaves. Eight inputs side by side are asked at once.

/// Questions of a tree.
pub const DEPTH: usize = 6;
/// Leaves of a tree.
pub const LEAVES: usize = 1 << DEPTH;
/// Inputs that are asked together.
pub const LANES: usize = 8;

/// One input of eight lanes.
pub type Lanes = [f32; LANES];

/// "Is input `input` above `threshold`?" An absent input (NaN) is not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Question {
    pub input: u16,
    pub threshold: f32,
}

impl Question {
    /// What no input is above: for a tree that has too little to ask.
    pub const NONE: Question = Question { input: 0, threshold: f32::INFINITY };
}

/// A leaf's place has bit `d` set when question `d` was answered with yes.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree {
    pub questions: [Question; DEPTH],
    pub leaves: [f32; LEAVES],
}

/// A sum of trees, on the logit scale.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Forest {
    pub base: f32,
    pub trees: Vec<Tree>,
}

impl Forest {
    /// Whether every question is about one of `inputs` inputs and every leaf a number.
    pub fn is_sound(&self, inputs: usize) -> bool {
        let tree = |tree: &Tree| {
            tree.questions.iter().all(|question| usize::from(question.input) < inputs && !question.threshold.is_nan())
                && tree.leaves.iter().all(|leaf| leaf.is_finite())
        };
        self.base.is_finite() && self.trees.iter().all(tree)
    }

    /// The sum for one row of inputs.
    pub fn sum(&self, inputs: &[f32]) -> f32 {
        self.trees.iter().fold(self.base, |sum, tree| {
            let leaf = tree.questions.iter().enumerate().fold(0, |leaf, (d, question)| {
                leaf | usize::from(inputs[usize::from(question.input)] > question.threshold) << d
            });
            sum + tree.leaves[leaf]
        })
    }

    /// The sums for eight rows of inputs, each as [`sum`](Self::sum) would have it to the bit.
    pub fn sums(&self, inputs: &[Lanes]) -> Lanes {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has what the function was compiled for.
            return unsafe { sums_by_avx2(self, inputs) };
        }
        sums(self, inputs)
    }
}

/// The same, eight lanes in one register: comparisons and sums in the same order give the same bits.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sums_by_avx2(forest: &Forest, inputs: &[Lanes]) -> Lanes {
    use std::arch::x86_64::*;

    let mut sums = _mm256_set1_ps(forest.base);
    for tree in &forest.trees {
        let mut places = _mm256_setzero_si256();
        for (d, question) in tree.questions.iter().enumerate() {
            let [a, b, c, d4, e, f, g, h] = inputs[usize::from(question.input)];
            let values = _mm256_setr_ps(a, b, c, d4, e, f, g, h);
            let above = _mm256_cmp_ps::<_CMP_GT_OQ>(values, _mm256_set1_ps(question.threshold));
            let bit = _mm256_set1_epi32(1 << d);
            places = _mm256_or_si256(places, _mm256_and_si256(_mm256_castps_si256(above), bit));
        }
        // SAFETY: places have no bits but the lowest `DEPTH`, so they lie within the tree's leaves.
        let leaves = unsafe { _mm256_i32gather_ps::<4>(tree.leaves.as_ptr(), places) };
        sums = _mm256_add_ps(sums, leaves);
    }
    // SAFETY: both are 32 bytes that any bits are valid for.
    unsafe { std::mem::transmute::<__m256, Lanes>(sums) }
}

fn sums(forest: &Forest, inputs: &[Lanes]) -> Lanes {
    let mut sums = [forest.base; LANES];
    for tree in &forest.trees {
        let mut places = [0u32; LANES];
        for (d, question) in tree.questions.iter().enumerate() {
            let values = inputs[usize::from(question.input)];
            let bit = 1 << d;
            for lane in 0..LANES {
                places[lane] |= if values[lane] > question.threshold { bit } else { 0 };
            }
        }
        for lane in 0..LANES {
            sums[lane] += tree.leaves[places[lane] as usize % LEAVES];
        }
    }
    sums
}
