use proptest::prelude::*;

use super::*;

/// Readings in order of time: times, and values of two vitals of which some are absent.
fn readings(most: usize) -> impl Strategy<Value = Vec<(i64, Vitals)>> {
    let value = prop_oneof![3 => (30.0..220.0f64).prop_map(f64::round), 1 => Just(f64::NAN)];
    let one = (0..5_000i64, value.clone(), value);
    prop::collection::vec(one, 1..most).prop_map(|ones| {
        let mut ts_ms = 1_700_000_000_000;
        ones.into_iter()
            .map(|(pause, heart_rate, systolic)| {
                ts_ms += pause;
                let mut vitals = NO_VITALS;
                vitals[Vital::HeartRate.index()] = heart_rate;
                vitals[Vital::Systolic.index()] = systolic;
                (ts_ms, vitals)
            })
            .collect()
    })
}

fn thin(readings: &[(i64, Vitals)], span: (i64, i64), outliers: &[i64]) -> Series {
    let mut thinner = Thinner::new(span.0, span.1, outliers.iter().copied());
    readings.iter().for_each(|(ts, vitals)| thinner.push(*ts, vitals, outliers.contains(ts)));
    thinner.finish()
}

fn span(readings: &[(i64, Vitals)]) -> (i64, i64) {
    (readings[0].0, readings[readings.len() - 1].0)
}

fn extremes(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values
        .filter(|value| !value.is_nan())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_thinned_series_is_sorted_bounded_and_keeps_extremes_and_outliers(
        readings in readings(6_000),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        wrong_span in any::<bool>(),
    ) {
        let outliers: Vec<i64> = picks.iter().map(|pick| readings[pick.index(readings.len())].0).collect();
        // A span that does not hold the readings makes a coarser picture, never a wrong one.
        let span = if wrong_span { (0, 1_000) } else { span(&readings) };
        let series = thin(&readings, span, &outliers);
        prop_assert!(series.ts.len() <= MAX_POINTS, "{} points", series.ts.len());
        prop_assert!(series.ts.is_sorted());
        prop_assert_eq!(series.ts.first(), readings.first().map(|(ts, _)| ts));
        prop_assert_eq!(series.ts.last(), readings.last().map(|(ts, _)| ts));
        for ts in &outliers {
            prop_assert!(series.ts.contains(ts), "the outlier of {ts} is gone");
        }
        for vital in [Vital::HeartRate, Vital::Systolic] {
            let had = extremes(readings.iter().map(|(_, vitals)| vitals[vital.index()]));
            let shown = series.vitals.get(vital.column());
            prop_assert_eq!(shown.is_some(), had.0.is_finite());
            if let Some(shown) = shown {
                prop_assert_eq!(shown.len(), series.ts.len());
                prop_assert_eq!(extremes(shown.iter().map(|value| value.unwrap_or(f64::NAN))), had);
            }
        }
        prop_assert!(!series.vitals.contains_key("temperature"));
        prop_assert!(!series.thinned || readings.len() > MAX_POINTS);
        // Some readings of one moment may have become one.
        prop_assert!(series.thinned || series.ts.len() + 50 >= readings.len());
    }

    #[test]
    fn every_point_was_sent(readings in readings(4_000)) {
        let series = thin(&readings, span(&readings), &[]);
        let sent: BTreeSet<(i64, u64)> =
            readings.iter().map(|(ts, vitals)| (*ts, vitals[0].to_bits())).collect();
        for (ts, value) in series.ts.iter().zip(series.vitals.get("heart_rate").into_iter().flatten()) {
            prop_assert!(value.is_none_or(|value| sent.contains(&(*ts, value.to_bits()))), "{value:?} at {ts}");
        }
    }

    #[test]
    fn a_band_is_around_the_median_and_outliers_do_not_widen_it(
        values in prop::collection::vec(50.0..100.0f64, 40..200),
        outliers in prop::collection::vec(1_000.0..1e9f64, 0..4),
    ) {
        let plain = band(values.clone(), 1.0).unwrap();
        prop_assert!(plain.low < plain.usual && plain.usual < plain.high);
        let below = values.iter().filter(|value| **value <= plain.usual).count();
        let above = values.iter().filter(|value| **value >= plain.usual).count();
        prop_assert!(below * 2 >= values.len() && above * 2 >= values.len());
        let with = band(values.iter().copied().chain(outliers).collect(), 1.0).unwrap();
        prop_assert!(with.high < 300.0, "{with:?}");
    }
}

fn beat(ts_ms: i64, heart_rate: f64) -> (i64, Vitals) {
    let mut vitals = NO_VITALS;
    vitals[0] = heart_rate;
    (ts_ms, vitals)
}

#[test]
fn one_spike_in_days_of_readings_each_second_is_kept() {
    let day = 86_400_000;
    let mut thinner = Thinner::new(0, 2 * day, []);
    for ts in (0..2 * day).step_by(1_000) {
        thinner.push(ts, &beat(0, if ts == 77_777_000 { 199.0 } else { 70.0 }).1, false);
    }
    let series = thinner.finish();
    let peak = series.ts.iter().position(|ts| *ts == 77_777_000).unwrap();
    assert_eq!(series.vitals["heart_rate"][peak], Some(199.0));
    assert!(series.thinned && series.ts.len() <= MAX_POINTS);
    // Nothing is missing, so no pause between two points may look like a gap.
    let longest = series.ts.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(longest <= series.gap_ms, "{longest} > {}", series.gap_ms);
}

#[test]
fn more_outliers_than_room_stay_within_the_bound() {
    let readings: Vec<_> = (0..20_000).map(|i| beat(i * 1_000, f64::from((i * 7_919 % 101) as i32))).collect();
    let all: Vec<i64> = readings.iter().map(|(ts, _)| *ts).collect();
    assert!(thin(&readings, span(&readings), &all).ts.len() <= MAX_POINTS);
    // A clock that stands still gives every reading the same time.
    let same: Vec<_> = readings.iter().map(|(_, vitals)| (5, *vitals)).collect();
    assert!(thin(&same, (5, 5), &[5]).ts.len() <= MAX_POINTS);
}

#[test]
fn vitals_sent_one_by_one_at_one_moment_are_one_point_and_contradictions_are_two() {
    let (mut temperature, heart_rate) = (NO_VITALS, beat(10, 70.0));
    temperature[Vital::Temperature.index()] = 36.6;
    let series = thin(&[heart_rate, (10, temperature), heart_rate, beat(10, 90.0)], (0, 20), &[]);
    assert_eq!(series.ts, [10, 10]);
    assert_eq!(series.vitals["heart_rate"], [Some(70.0), Some(90.0)]);
    assert_eq!(series.vitals["temperature"], [Some(36.6), None]);
}

#[test]
fn a_pause_well_over_the_usual_ones_is_a_gap() {
    let minute = 60_000;
    let times = (0..60).chain(200..260).map(|i| i * minute);
    let readings: Vec<_> = times.map(|ts| beat(ts, 70.0)).collect();
    let series = thin(&readings, span(&readings), &[]);
    assert!(series.gap_ms > minute && series.gap_ms < 140 * minute, "{}", series.gap_ms);
    assert!(thin(&readings[..1], (0, 0), &[]).gap_ms >= MIN_GAP_MS);
}

#[test]
fn outlying_readings_are_not_in_the_band() {
    let calm = (0..30).map(|i| beat(i * 1_000, 70.0 + (i % 3) as f64));
    let readings: Vec<_> = calm.chain((30..90).map(|i| beat(i * 1_000, 180.0))).collect();
    let outliers: Vec<i64> = (30..90).map(|i| i * 1_000).collect();
    let band = thin(&readings, span(&readings), &outliers).bands["heart_rate"];
    assert!(band.usual == 71.0 && band.high < 90.0, "{band:?}");
}

#[test]
fn a_long_history_is_sampled_evenly_for_its_bands() {
    let mut sample = Sample::default();
    for i in 0..100_000 {
        sample.push(&beat(0, f64::from(i)).1);
    }
    assert!(sample.kept.len() <= SAMPLE);
    let steps: BTreeSet<u64> = sample.kept.windows(2).map(|pair| (pair[1][0] - pair[0][0]) as u64).collect();
    assert_eq!(steps, BTreeSet::from([sample.every]));
}

#[test]
fn values_that_json_has_not_are_absent() {
    let series = thin(&[beat(1, f64::INFINITY), beat(2, 70.0)], (1, 2), &[]);
    assert_eq!(series.vitals["heart_rate"], [None, Some(70.0)]);
    assert_eq!(band(vec![f64::MAX, -f64::MAX, f64::MAX, -f64::MAX, 1.0, 2.0, f64::MAX, -f64::MAX], 1.0), None);
}
