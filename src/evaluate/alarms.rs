//! False alarm episodes under every threshold, and the thresholds that keep a budget.
//!
//! An alarm is a score above a limit. Alarms of one device at most two hours apart are one episode, and an episode is
//! false when it does not overlap the event. As the limit falls, readings join the alarms one after the other, and
//! episodes begin, grow and merge: [`changes`] notes by how many the false ones change at which score, so that any number
//! of thresholds is seen in one go.

use std::collections::BTreeMap;

use crate::model::episodes::{MERGE_GAP_MS, Span};
use crate::reading::Reading;

/// False alarm episodes per device and day for which events are counted.
pub const BUDGETS: [f64; 4] = [0.1, 0.25, 0.5, 1.0];

/// By how much the number of false episodes of one case changes when readings of this score alarm too.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Change {
    pub score: f32,
    pub case: u32,
    pub false_episodes: i32,
}

/// The changes of one case, highest score first.
pub(super) fn changes(case: u32, readings: &[Reading], scores: &[f32], event: Option<Span>) -> Vec<Change> {
    let mut rows: Vec<(f32, i64)> =
        scores.iter().zip(readings).map(|(&score, reading)| (score, reading.ts_ms)).collect();
    rows.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut episodes = Episodes { ends: BTreeMap::new(), event };
    let mut changes: Vec<Change> = Vec::new();
    for (score, ts_ms) in rows {
        let false_episodes = episodes.alarm(ts_ms);
        match changes.last_mut().filter(|last| last.score == score) {
            Some(last) => last.false_episodes += false_episodes,
            None if false_episodes != 0 => changes.push(Change { score, case, false_episodes }),
            None => {}
        }
    }
    changes.retain(|change| change.false_episodes != 0);
    changes
}

/// One device's alarm episodes: from start to end.
struct Episodes {
    ends: BTreeMap<i64, i64>,
    event: Option<Span>,
}

impl Episodes {
    /// Adds an alarm; gives by how much the number of false episodes changes.
    fn alarm(&mut self, ts_ms: i64) -> i32 {
        let near = |a: i64, b: i64| b.saturating_sub(a) <= MERGE_GAP_MS;
        let before = self.ends.range(..=ts_ms).next_back().map(|(&start_ms, &end_ms)| Span { start_ms, end_ms });
        let before = before.filter(|before| near(before.end_ms, ts_ms));
        if before.is_some_and(|before| ts_ms <= before.end_ms) {
            return 0;
        }
        let after = self.ends.range(ts_ms..).next().map(|(&start_ms, &end_ms)| Span { start_ms, end_ms });
        let after = after.filter(|after| near(ts_ms, after.start_ms));
        let merged = Span {
            start_ms: before.map_or(ts_ms, |before| before.start_ms),
            end_ms: after.map_or(ts_ms, |after| after.end_ms),
        };
        let gone: i32 = before.iter().chain(&after).map(|episode| self.is_false(episode)).sum();
        if let Some(after) = after {
            self.ends.remove(&after.start_ms);
        }
        self.ends.insert(merged.start_ms, merged.end_ms);
        self.is_false(&merged) - gone
    }

    fn is_false(&self, episode: &Span) -> i32 {
        let overlaps = |event: Span| episode.start_ms <= event.end_ms && episode.end_ms >= event.start_ms;
        i32::from(!self.event.is_some_and(overlaps))
    }
}

/// Changes of all cases, and for how long each case was watched.
pub(super) struct Sweep {
    changes: Vec<Change>,
    days: Vec<f64>,
}

impl Sweep {
    pub fn of(mut changes: Vec<Change>, days: Vec<f64>) -> Sweep {
        changes.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.case.cmp(&b.case)));
        Sweep { changes, days }
    }

    /// The limit of every budget when each case counts so many times: scores above it alarm. It is the lowest of which, and
    /// of every higher one, false episodes per device and day are within the budget. (Far lower ones may be so again, when
    /// everything alarms and merges into one episode; that is no use to anybody.)
    pub fn limits(&self, weights: &[u32]) -> [f32; BUDGETS.len()] {
        let weight = |case: usize| weights.get(case).copied().unwrap_or(0);
        let days: f64 = self.days.iter().enumerate().map(|(case, days)| f64::from(weight(case)) * days).sum();
        let mut limits = [f32::NEG_INFINITY; BUDGETS.len()];
        let mut broken = 0;
        let mut episodes = 0_i64;
        for score_changes in self.changes.chunk_by(|a, b| a.score == b.score) {
            let change = |change: &Change| i64::from(change.false_episodes) * i64::from(weight(change.case as usize));
            episodes += score_changes.iter().map(change).sum::<i64>();
            while broken < BUDGETS.len() && episodes as f64 > BUDGETS[broken] * days {
                limits[broken] = score_changes[0].score;
                broken += 1;
            }
            if broken == BUDGETS.len() {
                break;
            }
        }
        limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::bodies::reading;
    use crate::reading::NO_VITALS;

    const HOUR_MS: i64 = 3_600_000;

    fn hours(hours: &[i64]) -> Vec<Reading> {
        hours.iter().map(|hour| reading(hour * HOUR_MS, NO_VITALS)).collect()
    }

    /// False episodes under every limit, by counting them anew.
    fn counted(readings: &[Reading], scores: &[f32], event: Option<Span>, least: f32) -> i32 {
        let mut episodes: Vec<Span> = Vec::new();
        for (reading, _) in readings.iter().zip(scores).filter(|(_, score)| **score >= least) {
            match episodes.last_mut().filter(|last| reading.ts_ms - last.end_ms <= MERGE_GAP_MS) {
                Some(last) => last.end_ms = reading.ts_ms,
                None => episodes.push(Span { start_ms: reading.ts_ms, end_ms: reading.ts_ms }),
            }
        }
        let overlaps = |e: &&Span| !event.is_some_and(|event| e.start_ms <= event.end_ms && e.end_ms >= event.start_ms);
        episodes.iter().filter(overlaps).count() as i32
    }

    #[test]
    fn changes_add_up_to_the_episodes_of_every_threshold() {
        let readings = hours(&(0..60).map(|i| i * 3 / 2).collect::<Vec<_>>());
        let event = Some(Span { start_ms: 20 * HOUR_MS, end_ms: 26 * HOUR_MS });
        let scores: Vec<f32> = (0..60).map(|i| (i * 37 % 23) as f32).collect();
        for event in [None, event] {
            let changes = changes(0, &readings, &scores, event);
            for least in 0..24 {
                let least = least as f32;
                let sum: i32 = changes.iter().filter(|c| c.score >= least).map(|c| c.false_episodes).sum();
                assert_eq!(sum, counted(&readings, &scores, event, least), "{least}");
            }
        }
    }

    #[test]
    fn a_false_episode_that_grows_into_the_event_is_false_no_more() {
        let readings = hours(&[0, 2, 4]);
        let event = Some(Span { start_ms: 4 * HOUR_MS, end_ms: 5 * HOUR_MS });
        let changes = changes(7, &readings, &[3.0, 1.0, 2.0], event);
        let change = |score, false_episodes| Change { score, case: 7, false_episodes };
        assert_eq!(changes, [change(3.0, 1), change(1.0, -1)]);
    }

    #[test]
    fn limits_are_the_lowest_of_which_all_above_keep_the_budget() {
        let change = |score, case, false_episodes| Change { score, case, false_episodes };
        let changes = vec![change(9.0, 0, 1), change(5.0, 1, 3), change(2.0, 1, -4), change(1.0, 0, 7)];
        let sweep = Sweep::of(changes, vec![4.0, 4.0]);
        // 1 in 8 days breaks the first budget, 4 in 8 the second and just not the third, 7 in 8 the third.
        assert_eq!(sweep.limits(&[1, 1]), [9.0, 5.0, 1.0, f32::NEG_INFINITY]);
        assert_eq!(sweep.limits(&[1, 0]), [9.0, 1.0, 1.0, 1.0]);
        assert_eq!(sweep.limits(&[0, 0]), [f32::NEG_INFINITY; 4]);
        assert_eq!(Sweep::of(vec![change(1.0, 0, 1)], vec![0.0]).limits(&[1]), [1.0; 4]);
    }

    #[test]
    fn times_at_the_ends_of_the_range_do_not_overflow() {
        let readings = [i64::MIN, i64::MAX, 0, 0].map(|ts_ms| reading(ts_ms, NO_VITALS));
        let changes = changes(0, &readings, &[1.0, 2.0, 3.0, f32::NEG_INFINITY], None);
        assert_eq!(changes.len(), 3);
    }
}
