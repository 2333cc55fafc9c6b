//! Whether the model keeps its own alarm budget on devices that it has not learnt from: with the thresholds that training
//! set, on readings as they were sent, without any event put in.

use crate::model::episodes::Gather;
use crate::model::evaluate::watched_ms;
use crate::model::threads;
use crate::model::{History, Model, TrainError};

use super::alarms::BUDGETS;
use super::figures::interval;
use super::report::Realised;

/// False alarm episodes per device and day under each budget. What really happened to the devices counts as false too.
pub(super) fn rates(
    model: &Model,
    histories: &[&History],
    resamples: &[Vec<u32>],
    threads: usize,
) -> Result<Vec<Realised>, TrainError> {
    let days: Vec<f64> = histories.iter().map(|history| watched_days(history)).collect();
    let rate = |budget: f64| {
        let model = model.with_budget(budget)?;
        let episodes = threads::map(histories, threads, |history| episodes(&model, history));
        let rate = |weight: &dyn Fn(usize) -> f64| {
            let sum = |of: &dyn Fn(usize) -> f64| (0..days.len()).map(|i| weight(i) * of(i)).sum::<f64>();
            let (episodes, days) = (sum(&|i| episodes[i] as f64), sum(&|i| days[i]));
            if days > 0.0 { episodes / days } else { f64::NAN }
        };
        let resampled = resamples.iter().map(|weights| rate(&|i| weights.get(i).copied().map_or(0.0, f64::from)));
        Ok(Realised { budget, alarms_per_device_day: interval(rate(&|_| 1.0), resampled) })
    };
    BUDGETS.into_iter().map(rate).collect()
}

fn watched_days(history: &History) -> f64 {
    watched_ms(history.readings.iter().map(|reading| reading.ts_ms)) as f64 / 86_400_000.0
}

/// A device's outlier episodes. Those about the sensor are not counted against the budget.
fn episodes(model: &Model, history: &History) -> usize {
    let mut state = model.new_state();
    let mut gather = Gather::default();
    for reading in &history.readings {
        gather.take(reading.ts_ms, &model.score(&mut state, reading.ts_ms, &reading.vitals));
    }
    gather.finish().iter().filter(|episode| !episode.artifact).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::bodies::{fleet, history, reading};
    use crate::reading::NO_VITALS;

    #[test]
    fn rates_rise_with_the_budget() {
        let fleet = fleet(12, 72, 3_600_000, 6);
        let histories: Vec<&History> = fleet.iter().collect();
        let rates = rates(&Model::builtin(), &histories, &[vec![1; 12]], 2).unwrap();
        assert_eq!(rates.len(), BUDGETS.len());
        let values: Vec<f64> = rates.iter().map(|rate| rate.alarms_per_device_day.value).collect();
        assert!(values.is_sorted() && values.iter().all(|rate| rate.is_finite()), "{values:?}");
    }

    #[test]
    fn devices_that_were_watched_for_no_time_have_no_rate() {
        let once = history("once", vec![reading(0, NO_VITALS)]);
        let rates = rates(&Model::builtin(), &[&once], &[], 1).unwrap();
        assert!(rates.iter().all(|rate| rate.alarms_per_device_day.value.is_nan()));
    }
}
