//! How well scores tell readings inside events from all others: the areas under two curves, whatever the threshold.
//!
//! Every reading counts, one without any vital too: what a method says while nothing is measured is part of what it says
//! of the device.

use super::cases::Case;
use super::methods::Scored;

/// Readings of all cases, highest score first, sorted once. Each is packed into a number: its case, whether it is the last
/// of its score, whether it is inside an event.
pub(super) struct Ranking(Vec<u32>);

const INSIDE: u32 = 1;
const LAST_OF_SCORE: u32 = 2;
const CASE_SHIFT: u32 = 2;

/// The areas under the two curves; NaN when there are no readings inside events, or none outside.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Areas {
    pub auroc: f64,
    pub auprc: f64,
}

impl Ranking {
    pub fn of(cases: &[Case<'_>], scored: &[&Scored]) -> Ranking {
        let mut readings: Vec<(f32, u32)> = Vec::new();
        for (i, (case, scored)) in cases.iter().zip(scored).enumerate() {
            let packed = |ts_ms| ((i as u32) << CASE_SHIFT) | if case.is_inside(ts_ms) { INSIDE } else { 0 };
            let rows = case.history.readings.iter().zip(&scored.scores);
            readings.extend(rows.map(|(reading, &score)| (score, packed(reading.ts_ms))));
        }
        readings.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let next = readings.iter().skip(1).map(|reading| Some(reading.0)).chain([None]);
        let mark = |(&(score, packed), next)| if next == Some(score) { packed } else { packed | LAST_OF_SCORE };
        Ranking(readings.iter().zip(next).map(mark).collect())
    }

    /// The areas when each case counts so many times. Readings of one score are one point of the curves.
    pub fn areas(&self, weights: &[u32]) -> Areas {
        let (mut inside, mut outside) = (0_u64, 0_u64);
        let (mut inside_before, mut outside_before) = (0_u64, 0_u64);
        let (mut auroc, mut auprc) = (0.0, 0.0);
        for packed in &self.0 {
            let weight = u64::from(weights.get((packed >> CASE_SHIFT) as usize).copied().unwrap_or(0));
            if packed & INSIDE == 0 {
                outside += weight;
            } else {
                inside += weight;
            }
            if packed & LAST_OF_SCORE == 0 {
                continue;
            }
            let (more_inside, more_outside) = ((inside - inside_before) as f64, (outside - outside_before) as f64);
            auroc += more_outside * (inside_before as f64 + 0.5 * more_inside);
            if more_inside > 0.0 {
                auprc += more_inside * inside as f64 / (inside + outside) as f64;
            }
            (inside_before, outside_before) = (inside, outside);
        }
        let both = if inside > 0 && outside > 0 { 1.0 } else { f64::NAN };
        Areas { auroc: both * auroc / (inside as f64 * outside as f64), auprc: both * auprc / inside as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::bodies::{fleet, history, reading};
    use crate::evaluate::cases::cases;
    use crate::evaluate::kinds::Set;
    use crate::evaluate::spreads::spreads;
    use crate::model::History;
    use crate::reading::NO_VITALS;

    /// A ranking of (score, inside) in descending order of score, all of case 0.
    fn ranking(readings: &[(u32, bool)]) -> Ranking {
        let last = |i: usize| readings.get(i + 1).is_none_or(|next| next.0 != readings[i].0);
        let packed = |i: usize| if last(i) { LAST_OF_SCORE } else { 0 } | u32::from(readings[i].1);
        Ranking((0..readings.len()).map(packed).collect())
    }

    #[test]
    fn ties_by_hand() {
        // Above 1 pair won, at 2 a tie of one inside and two outside: AUROC = (2·1 + 2·½ + 1·2) / (2·3).
        let areas = ranking(&[(3, true), (2, true), (2, false), (2, false), (1, false)]).areas(&[1]);
        assert!((areas.auroc - 5.0 / 6.0).abs() < 1e-12);
        // Half of those inside at precision 1, half at precision 2/4.
        assert!((areas.auprc - 0.75).abs() < 1e-12);
        assert_eq!(ranking(&[(3, true), (3, false)]).areas(&[1]), Areas { auroc: 0.5, auprc: 0.5 });
    }

    #[test]
    fn one_kind_of_readings_only_has_no_areas() {
        for readings in [vec![], vec![(1, true)], vec![(1, false)]] {
            let areas = ranking(&readings).areas(&[1]);
            assert!(areas.auroc.is_nan() && areas.auprc.is_nan());
        }
        assert!(ranking(&[(1, true), (0, false)]).areas(&[0]).auroc.is_nan());
    }

    #[test]
    fn a_perfect_score_has_all_the_area_and_a_random_one_half() {
        let fleet = fleet(40, 48, 3_600_000, 2);
        let histories: Vec<&History> = fleet.iter().collect();
        let cases = cases(&histories, &spreads(&histories, 1), Set::Clinical, 1);
        let by = |score: &dyn Fn(&Case<'_>, i64) -> f32| {
            let scored = |case: &Case<'_>| Scored {
                scores: case.history.readings.iter().map(|reading| score(case, reading.ts_ms)).collect(),
                top_right: None,
            };
            let scored: Vec<Scored> = cases.iter().map(scored).collect();
            Ranking::of(&cases, &scored.iter().collect::<Vec<_>>()).areas(&vec![1; cases.len()])
        };
        let perfect = by(&|case, ts_ms| f32::from(u8::from(case.is_inside(ts_ms))));
        assert_eq!(perfect, Areas { auroc: 1.0, auprc: 1.0 });
        let random = by(&|_, ts_ms| (ts_ms / 3_600_000 * 7919 % 101) as f32);
        assert!((random.auroc - 0.5).abs() < 0.06, "{random:?}");
    }

    #[test]
    fn weights_count_a_case_so_often() {
        let one = history("one", vec![reading(0, NO_VITALS), reading(1, NO_VITALS)]);
        let cases: Vec<Case<'_>> = vec![Case { history: &one, event: None }; 2];
        let scored = [
            Scored { scores: vec![2.0, 1.0], top_right: None },
            Scored { scores: vec![1.0, f32::NEG_INFINITY], top_right: None },
        ];
        let Ranking(order) = Ranking::of(&cases, &scored.iter().collect::<Vec<_>>());
        assert_eq!(order, [LAST_OF_SCORE, 0, 4 | LAST_OF_SCORE, 4 | LAST_OF_SCORE]);
        let twice = Ranking(vec![1 | LAST_OF_SCORE, 4 | LAST_OF_SCORE, LAST_OF_SCORE | 1]);
        assert_eq!(twice.areas(&[1, 2]).auroc, 0.5);
    }
}
