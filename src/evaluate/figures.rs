//! From scores to figures, and to intervals around them.
//!
//! Intervals are of a bootstrap over devices, not readings: readings of one device are alike. Each resample draws as many
//! devices as there are, with repeats; thresholds are chosen anew in it, as they would be on other devices.

use crate::model::threads;
use serde::Serialize;

use crate::model::evaluate::watched_ms;

use super::alarms::{self, BUDGETS, Sweep};
use super::cases::Case;
use super::chance::{self, Use};
use super::kinds::KINDS;
use super::methods::Scored;
use super::ranking::Ranking;

/// The budget at which delay and the recall of each kind are given: the second one.
pub(super) const USUAL_BUDGET: usize = 1;

/// What is measured of one method on one list of cases: numbers, or intervals of them. NaN where nothing can be said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Figures<T> {
    pub auroc: T,
    pub auprc: T,
    /// Part of events with an alarm inside them, per budget.
    pub recall: [T; BUDGETS.len()],
    /// Median hours from an event's onset to the first alarm in it, of those found.
    pub delay_hours: T,
    pub top1: T,
    /// Recall of each kind.
    pub kinds: [T; KINDS],
}

/// A figure and where it lies in 95 of 100 resamples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// One method's scores of all cases, in the form from which figures are quickly made for any weights of cases.
pub(super) struct Measured {
    ranking: Ranking,
    sweep: Sweep,
    events: Vec<Found>,
}

/// What is needed of one event.
struct Found {
    case: usize,
    kind: usize,
    top_right: Option<bool>,
    /// Hours since the onset and score of each reading inside that is higher than all before it: the first of them above a
    /// limit is the first alarm.
    records: Vec<(f32, f32)>,
}

/// For how long each case's device was watched.
pub(super) fn days(cases: &[Case<'_>]) -> Vec<f64> {
    let times = |case: &Case<'_>| watched_ms(case.history.readings.iter().map(|reading| reading.ts_ms));
    cases.iter().map(|case| times(case) as f64 / 86_400_000.0).collect()
}

impl Measured {
    pub fn of(cases: &[Case<'_>], scored: &[&Scored], threads: usize) -> Measured {
        let rows: Vec<(usize, &Case<'_>, &Scored)> =
            cases.iter().zip(scored).enumerate().map(|(i, (case, scored))| (i, case, *scored)).collect();
        let changes = threads::map(&rows, threads, |(i, case, scored)| {
            let event = case.event.as_ref().map(|event| event.span);
            alarms::changes(*i as u32, &case.history.readings, &scored.scores, event)
        });
        Measured {
            ranking: Ranking::of(cases, scored),
            sweep: Sweep::of(changes.into_iter().flatten().collect(), days(cases)),
            events: rows.iter().filter_map(|(i, case, scored)| Found::of(*i, case, scored)).collect(),
        }
    }

    /// The figures when each case counts so many times.
    pub fn figures(&self, weights: &[u32]) -> Figures<f64> {
        let areas = self.ranking.areas(weights);
        let limits = self.sweep.limits(weights);
        let limit = limits[USUAL_BUDGET];
        let weight = |event: &Found| weights.get(event.case).copied().unwrap_or(0);
        let share = |of: &dyn Fn(&Found) -> Option<bool>| {
            let judged = self.events.iter().filter_map(|event| of(event).map(|yes| (yes, u64::from(weight(event)))));
            let (yes, all) =
                judged.fold((0, 0), |(yes, all), (is, weight)| (yes + u64::from(is) * weight, all + weight));
            yes as f64 / all as f64
        };
        let delays = self.events.iter().filter_map(|event| Some((event.delay_hours(limit)?, weight(event))));
        Figures {
            auroc: areas.auroc,
            auprc: areas.auprc,
            // Where even "everything alarms" keeps the budget, as episodes merge, a recall says nothing.
            recall: limits.map(|limit| share(&|event| (limit > f32::NEG_INFINITY).then(|| event.is_found(limit)))),
            delay_hours: weighted_median(delays.collect()),
            top1: share(&|event| event.top_right),
            kinds: std::array::from_fn(|k| share(&|event| (event.kind == k).then(|| event.is_found(limit)))),
        }
    }

    /// How many events of each kind there are.
    pub fn events_by_kind(&self) -> [usize; KINDS] {
        std::array::from_fn(|k| self.events.iter().filter(|event| event.kind == k).count())
    }
}

impl Found {
    fn of(i: usize, case: &Case<'_>, scored: &Scored) -> Option<Found> {
        let event = case.event.as_ref()?;
        let mut records: Vec<(f32, f32)> = Vec::new();
        for (reading, &score) in case.history.readings.iter().zip(&scored.scores) {
            if case.is_inside(reading.ts_ms) && records.last().is_none_or(|highest| score > highest.1) {
                let hours = reading.ts_ms.saturating_sub(event.span.start_ms) as f64 / 3_600_000.0;
                records.push((hours as f32, score));
            }
        }
        Some(Found { case: i, kind: event.kind, top_right: scored.top_right, records })
    }

    fn is_found(&self, limit: f32) -> bool {
        self.records.last().is_some_and(|highest| highest.1 > limit)
    }

    fn delay_hours(&self, limit: f32) -> Option<f32> {
        self.records.iter().find(|record| record.1 > limit).map(|record| record.0)
    }
}

/// The median of values that each count so many times; NaN of none.
fn weighted_median(mut values: Vec<(f32, u32)>) -> f64 {
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    let total: u64 = values.iter().map(|value| u64::from(value.1)).sum();
    let at = |place: u64| {
        let mut seen = 0;
        let value = values.iter().find(|value| {
            seen += u64::from(value.1);
            seen > place
        });
        value.map_or(f64::NAN, |value| f64::from(value.0))
    };
    0.5 * (at(total.saturating_sub(1) / 2) + at(total / 2))
}

/// How often each of `cases` devices is drawn, per resample.
pub(super) fn resamples(cases: usize, resamples: usize, seed: u64) -> Vec<Vec<u32>> {
    let hash = chance::hash(seed, Use::Resample, "");
    let resample = |nth| {
        let mut rng = chance::draws(hash, nth);
        let mut weights = vec![0; cases];
        (0..cases).for_each(|_| weights[chance::place(&mut rng, cases)] += 1);
        weights
    };
    (0..resamples as u64).map(resample).collect()
}

/// A figure of all devices, and its interval from those of resamples. Resamples without one don't count.
pub(super) fn interval(value: f64, resampled: impl Iterator<Item = f64>) -> Interval {
    let mut values: Vec<f64> = resampled.filter(|value| !value.is_nan()).collect();
    values.sort_by(f64::total_cmp);
    let quantile = |part: f64| {
        let place = part * values.len().saturating_sub(1) as f64;
        let (low, high) = (values.get(place.floor() as usize), values.get(place.ceil() as usize));
        low.zip(high).map_or(f64::NAN, |(low, high)| low + (high - low) * (place - place.floor()))
    };
    if value.is_nan() {
        return Interval { value, low: f64::NAN, high: f64::NAN };
    }
    Interval { value, low: quantile(0.025), high: quantile(0.975) }
}

/// Each figure with its interval.
pub(super) fn intervals(
    measured: &Measured,
    cases: usize,
    resamples: &[Vec<u32>],
    threads: usize,
) -> Figures<Interval> {
    let all = measured.figures(&vec![1; cases]);
    let drawn = threads::map(resamples, threads, |weights| measured.figures(weights));
    let of = |get: &dyn Fn(&Figures<f64>) -> f64| interval(get(&all), drawn.iter().map(get));
    Figures {
        auroc: of(&|figures| figures.auroc),
        auprc: of(&|figures| figures.auprc),
        recall: std::array::from_fn(|b| of(&|figures| figures.recall[b])),
        delay_hours: of(&|figures| figures.delay_hours),
        top1: of(&|figures| figures.top1),
        kinds: std::array::from_fn(|k| of(&|figures| figures.kinds[k])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::bodies::fleet;
    use crate::evaluate::cases::cases;
    use crate::evaluate::kinds::Set;
    use crate::evaluate::spreads::spreads;
    use crate::model::History;

    #[test]
    fn a_perfect_score_finds_every_event_at_once() {
        let fleet = fleet(60, 48, 3_600_000, 4);
        let histories: Vec<&History> = fleet.iter().collect();
        let cases = cases(&histories, &spreads(&histories, 1), Set::Other, 1);
        let perfect = |case: &Case<'_>| Scored {
            scores: case.history.readings.iter().map(|r| f32::from(u8::from(case.is_inside(r.ts_ms)))).collect(),
            top_right: case.event.as_ref().map(|_| true),
        };
        let scored: Vec<Scored> = cases.iter().map(perfect).collect();
        let measured = Measured::of(&cases, &scored.iter().collect::<Vec<_>>(), 1);
        let figures = intervals(&measured, cases.len(), &resamples(cases.len(), 20, 1), 2);
        let sure = |value| Interval { value, low: value, high: value };
        assert_eq!(figures.auroc, sure(1.0));
        // One false episode of all day long is within the larger budgets, of which nothing can be said then.
        assert_eq!(figures.recall[..2], [sure(1.0); 2]);
        assert!(figures.recall[3].value.is_nan());
        assert_eq!((figures.delay_hours, figures.top1), (sure(0.0), sure(1.0)));
        assert_eq!(figures.kinds, [sure(1.0); KINDS]);
    }

    #[test]
    fn a_score_that_is_always_the_same_finds_nothing_within_a_small_budget() {
        let fleet = fleet(10, 24, 3_600_000, 4);
        let histories: Vec<&History> = fleet.iter().collect();
        let cases = cases(&histories, &spreads(&histories, 1), Set::Clinical, 1);
        let scored: Vec<Scored> = cases
            .iter()
            .map(|case| Scored { scores: vec![1.0; case.history.readings.len()], top_right: None })
            .collect();
        let figures = Measured::of(&cases, &scored.iter().collect::<Vec<_>>(), 1).figures(&[1; 10]);
        assert_eq!((figures.auroc, figures.recall[0], figures.recall[1]), (0.5, 0.0, 0.0));
        assert!(figures.delay_hours.is_nan() && figures.top1.is_nan());
    }

    #[test]
    fn medians_and_quantiles_by_hand() {
        assert_eq!(weighted_median(vec![(3.0, 1), (1.0, 2), (9.0, 0), (2.0, 1)]), 1.5);
        assert!(weighted_median(vec![(1.0, 0)]).is_nan());
        let interval = interval(2.0, (0..=40).map(f64::from).chain([f64::NAN]));
        assert_eq!(interval, Interval { value: 2.0, low: 1.0, high: 39.0 });
    }

    #[test]
    fn each_resample_draws_as_many_devices() {
        let drawn = resamples(7, 5, 1);
        assert!(drawn.len() == 5 && drawn.iter().all(|weights| weights.iter().sum::<u32>() == 7));
        assert_eq!(resamples(0, 1, 1), [Vec::<u32>::new()]);
    }
}
