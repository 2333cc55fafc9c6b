//! Two models on the same cases: is the candidate better than the champion?

use crate::model::threads;
use crate::model::{History, Model};

use super::cases::{Case, cases};
use super::figures::{Figures, Measured};
use super::kinds::Set;
use super::methods::{self, Scored};
use super::spreads::spreads;

/// What one model says of a list of cases: a score per reading.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores(Vec<Scored>);

/// The figures of one model. NaN where nothing can be said, as without any event.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Summary {
    pub auroc: f64,
    pub auprc: f64,
    /// Part of events found within each of [`super::alarms::BUDGETS`].
    pub recall: [f64; 4],
    /// Part of events whose highest reading names a vital that the event is on.
    pub top1: f64,
}

/// Two models on the same cases.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Comparison {
    pub champion: Summary,
    pub candidate: Summary,
}

/// Scores every case, by as many threads as the machine has.
pub fn measure(model: &Model, cases: &[Case<'_>]) -> Scores {
    let score = |case: &Case<'_>| methods::score(&[model], case).pop().unwrap_or_default();
    Scores(threads::map(cases, 0, score))
}

impl Scores {
    /// The figures of these scores of the same cases.
    pub fn summary(&self, cases: &[Case<'_>]) -> Summary {
        let scored: Vec<&Scored> = self.0.iter().collect();
        let Figures { auroc, auprc, recall, top1, .. } = Measured::of(cases, &scored, 0).figures(&vec![1; cases.len()]);
        Summary { auroc, auprc, recall, top1 }
    }
}

/// Measures both models on events of both sets, put into these histories, which the candidate should not have learnt from. Sizes of
/// events follow from these histories too.
pub fn compare(champion: &Model, candidate: &Model, histories: &[&History], seed: u64) -> Comparison {
    let cases = all_cases(histories, seed);
    let summary = |model| measure(model, &cases).summary(&cases);
    Comparison { champion: summary(champion), candidate: summary(candidate) }
}

/// The figures of one model alone, as [`compare`] has them.
pub fn figures_of(model: &Model, histories: &[&History], seed: u64) -> Summary {
    let cases = all_cases(histories, seed);
    measure(model, &cases).summary(&cases)
}

fn all_cases<'a>(histories: &'a [&'a History], seed: u64) -> Vec<Case<'a>> {
    let spreads = spreads(histories, 0);
    Set::ALL.into_iter().flat_map(|set| cases(histories, &spreads, set, seed)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::bodies::fleet;
    use crate::model::{TrainOptions, train};

    #[test]
    fn a_model_is_as_good_as_itself_and_an_event_makes_a_difference() {
        let learn = fleet(20, 48, 3_600_000, 9);
        let test = fleet(30, 48, 3_600_000, 10);
        let histories: Vec<&History> = test.iter().collect();
        let model = train(&learn, &TrainOptions::default()).unwrap();
        let same = compare(&model, &model, &histories, 1);
        assert_eq!(same.champion, same.candidate);
        assert!(same.champion.auroc > 0.6, "{same:?}");
        assert!(same.champion.recall.is_sorted());
        let other = compare(&Model::builtin(), &model, &histories, 1);
        assert_eq!(other.candidate, same.champion);
        assert_ne!(other.champion, other.candidate);
        assert_eq!(figures_of(&model, &histories, 1), other.candidate);
    }

    #[test]
    fn without_devices_nothing_can_be_said() {
        let nothing = compare(&Model::builtin(), &Model::builtin(), &[], 1).champion;
        assert!(nothing.auroc.is_nan() && nothing.top1.is_nan() && nothing.recall[0].is_nan());
    }
}
