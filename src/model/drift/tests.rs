//! Fleets that stay as they are, and fleets that change.

use super::*;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

/// Devices of one fleet: `change` may alter what each sends.
fn fleet(seed: u64, devices: u64, readings: u64, change: impl Fn(&mut Sample)) -> Profile {
    let mut fleet = Profile::default();
    for device in 0..devices {
        let mut random = Random(seed << 32 | device << 16);
        let levels: [f64; VITALS] = std::array::from_fn(|_| 0.8 * random.normal());
        let own = Profile::of_device((0..readings).map(|i| {
            let mut sample = Sample {
                score: libm::exp2(random.normal() - 3.0),
                positions: levels.map(|level| level + 0.6 * random.normal()),
                surprises: std::array::from_fn(|_| random.normal()),
                interval_h: if i == 0 { f64::NAN } else { 1.0 + 0.02 * random.normal() },
            };
            change(&mut sample);
            sample
        }));
        fleet.add(&own);
    }
    fleet
}

fn check(recent: &Profile) -> Check {
    Check::of(&fleet(1, 100, 200, |_| {}), recent)
}

fn shift(check: &Check, subject: Subject) -> &Shift {
    check.shifts.iter().find(|shift| shift.subject == subject).unwrap()
}

#[test]
fn the_same_fleet_keeps_its_model() {
    for (devices, readings) in [(100, 200), (12, 168), (40, 6), (6, 40)] {
        let advised = (2..32).map(|seed| check(&fleet(seed, devices, readings, |_| {})).advice);
        let advised: Vec<Advice> = advised.collect();
        let moved = advised.iter().filter(|advice| **advice == Advice::Watch).count();
        // Each of twenty counts may move by chance, one time in a hundred.
        assert!(moved <= 3, "{devices} devices of {readings} readings: {moved}");
        assert!(!advised.contains(&Advice::Retrain) && !advised.contains(&Advice::TooFew), "{advised:?}");
    }
}

#[test]
fn a_vital_that_is_higher_is_named() {
    let check = check(&fleet(2, 60, 168, |sample| sample.positions[0] += 1.0));
    assert_eq!(check.shifts[0].subject, Subject::Position(Vital::HeartRate));
    assert_eq!(check.shifts[0].verdict, Movement::Changed);
    assert!(check.shifts[0].psi.is_some_and(|psi| psi > 0.7 && psi < 1.3), "{:?}", check.shifts[0]);
    assert_eq!(check.advice, Advice::Watch);
    assert!(check.sentence().contains("(heart_rate position)"), "{}", check.sentence());
}

#[test]
fn changes_of_two_vitals_or_of_the_score_are_reason_to_train() {
    let higher = fleet(2, 60, 168, |sample| (0..2).for_each(|j| sample.positions[j] += 1.0));
    assert_eq!(check(&higher).advice, Advice::Retrain);
    let all = fleet(2, 60, 168, |sample| sample.positions = sample.positions.map(|position| position + 1.0));
    assert!(check(&all).sentence().ends_with(" and 2 more)."), "{}", check(&all).sentence());
    let stranger = fleet(2, 60, 168, |sample| sample.score *= 2.0);
    assert_eq!(check(&stranger).advice, Advice::Retrain);
}

#[test]
fn a_vital_that_vanished_is_reason_to_train() {
    for devices in [6, 60] {
        let check = check(&fleet(2, devices, 168, |sample| {
            (sample.positions[4], sample.surprises[4]) = (f64::NAN, f64::NAN);
        }));
        let vital = Vital::Spo2;
        assert_eq!(check.shifts[0].subject, Subject::Presence(vital));
        assert_eq!(check.shifts[0].verdict, Movement::Changed);
        assert_eq!(shift(&check, Subject::Position(vital)).verdict, Movement::Unclear);
        assert_eq!(check.advice, Advice::Retrain);
    }
}

#[test]
fn another_pace_is_reason_to_train() {
    let check = check(&fleet(2, 20, 1_000, |sample| sample.interval_h /= 60.0));
    assert_eq!((check.shifts[0].subject, check.advice), (Subject::Interval, Advice::Retrain));
}

#[test]
fn too_few_readings_or_devices_say_nothing() {
    let empty = Profile::default();
    let (few, one) = (fleet(2, 10, 10, |_| {}), fleet(2, 1, 5_000, |_| {}));
    for (reference, recent) in [(&empty, &empty), (&empty, &few), (&few, &empty), (&few, &few), (&one, &one)] {
        let check = Check::of(reference, recent);
        assert_eq!(check.advice, Advice::TooFew);
        assert!(check.shifts.iter().all(|shift| shift.psi.is_none()));
        assert!(check.sentence().contains("200 readings, and 5 devices"), "{}", check.sentence());
    }
    assert!(Check::of(&empty, &empty).shifts.is_empty());
}

#[test]
fn a_profile_is_small_json() {
    // A sample as large as they get.
    let mut profile = fleet(1, 100, 200, |_| {});
    (0..12).for_each(|_| profile.add(&profile.clone()));
    assert!(profile.readings() > 50_000_000);
    let json = serde_json::to_string(&profile).unwrap();
    assert!(json.len() < 6_000, "{} bytes", json.len());
    assert_eq!(serde_json::from_str::<Profile>(&json).unwrap(), profile);
}

#[test]
fn what_is_no_profile_is_refused_and_what_no_fleet_sends_does_no_harm() {
    let json = serde_json::to_string(&Profile::default()).unwrap();
    assert!(serde_json::from_str::<Profile>(&json.replacen("0 0; ", "0 0 0; ", 1)).is_err());
    assert!(serde_json::from_str::<Profile>(&json.replacen("0;", "-1;", 1)).is_err());
    for number in ["9", "1000000", "18446744073709551615"] {
        let mut odd: Profile = serde_json::from_str(&json.replace('0', number)).unwrap();
        odd.add(&odd.clone());
        for check in [Check::of(&odd, &odd), check(&odd), Check::of(&odd, &Profile::default())] {
            assert!(check.shifts.iter().all(|shift| shift.psi.is_none_or(f64::is_finite)));
        }
    }
    let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, f64::MAX].map(|x| Sample {
        score: x,
        positions: [x; VITALS],
        surprises: [x; VITALS],
        interval_h: x,
    });
    assert_eq!(Profile::of_device(odd).readings(), 5);
}
