//! NEWS2, the early warning score that nurses know, as a familiar reference beside the model's own score.
//!
//! Royal College of Physicians, *National Early Warning Score (NEWS) 2* (2017). Partial: a packet carries neither
//! supplementary oxygen nor consciousness, so the sum here is a lower bound of the score at the bedside. SpO2 is read on
//! scale 1.

use crate::reading::{Vital, Vitals};

/// The sub-score, 0 to 3, of one vital; `None` where it is absent. Diastolic pressure has none in NEWS2.
pub fn sub_score(vital: Vital, value: f64) -> Option<u8> {
    if value.is_nan() || vital == Vital::Diastolic {
        return None;
    }
    // The chart has whole numbers, and tenths of a degree; what lies between belongs to the nearer row.
    let v = if vital == Vital::Temperature { value } else { value.round() };
    let points = match vital {
        Vital::RespiratoryRate => match v {
            _ if v <= 8.0 => 3,
            _ if v <= 11.0 => 1,
            _ if v <= 20.0 => 0,
            _ if v <= 24.0 => 2,
            _ => 3,
        },
        Vital::Spo2 => match v {
            _ if v <= 91.0 => 3,
            _ if v <= 93.0 => 2,
            _ if v <= 95.0 => 1,
            _ => 0,
        },
        Vital::Systolic => match v {
            _ if v <= 90.0 => 3,
            _ if v <= 100.0 => 2,
            _ if v <= 110.0 => 1,
            _ if v <= 219.0 => 0,
            _ => 3,
        },
        Vital::HeartRate => match v {
            _ if v <= 40.0 => 3,
            _ if v <= 50.0 => 1,
            _ if v <= 90.0 => 0,
            _ if v <= 110.0 => 1,
            _ if v <= 130.0 => 2,
            _ => 3,
        },
        Vital::Temperature => match v {
            _ if v < 35.05 => 3,
            _ if v < 36.05 => 1,
            _ if v < 38.05 => 0,
            _ if v < 39.05 => 1,
            _ => 2,
        },
        Vital::Diastolic => return None,
    };
    Some(points)
}

/// The sum of the sub-scores of the vitals that are there; `None` when none of NEWS2's is. 5 or more, or a single 3, is
/// urgent; 7 or more an emergency.
pub fn partial(vitals: &Vitals) -> Option<u8> {
    Vital::ALL
        .into_iter()
        .filter_map(|vital| sub_score(vital, vitals[vital.index()]))
        .fold(None, |sum: Option<u8>, points| Some(sum.unwrap_or(0) + points))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::NO_VITALS;

    #[test]
    fn every_edge_of_the_chart() {
        let chart: [(Vital, &[(f64, u8)]); 5] = [
            (
                Vital::RespiratoryRate,
                &[(8.0, 3), (9.0, 1), (11.0, 1), (12.0, 0), (20.0, 0), (21.0, 2), (24.0, 2), (25.0, 3)],
            ),
            (Vital::Spo2, &[(91.0, 3), (92.0, 2), (93.0, 2), (94.0, 1), (95.0, 1), (96.0, 0), (100.0, 0)]),
            (
                Vital::Systolic,
                &[(90.0, 3), (91.0, 2), (100.0, 2), (101.0, 1), (110.0, 1), (111.0, 0), (219.0, 0), (220.0, 3)],
            ),
            (
                Vital::HeartRate,
                &[
                    (40.0, 3),
                    (41.0, 1),
                    (50.0, 1),
                    (51.0, 0),
                    (90.0, 0),
                    (91.0, 1),
                    (110.0, 1),
                    (111.0, 2),
                    (130.0, 2),
                    (131.0, 3),
                ],
            ),
            (
                Vital::Temperature,
                &[(35.0, 3), (35.1, 1), (36.0, 1), (36.1, 0), (38.0, 0), (38.1, 1), (39.0, 1), (39.1, 2)],
            ),
        ];
        for (vital, rows) in chart {
            for &(value, points) in rows {
                assert_eq!(sub_score(vital, value), Some(points), "{vital:?} {value}");
            }
        }
    }

    #[test]
    fn absent_vitals_add_nothing_and_no_vital_gives_no_score() {
        assert_eq!(partial(&NO_VITALS), None);
        assert_eq!(partial(&[f64::NAN, f64::NAN, 80.0, f64::NAN, f64::NAN, f64::NAN]), None);
        assert_eq!(partial(&[131.0, f64::NAN, 80.0, f64::NAN, 97.0, f64::NAN]), Some(3));
        assert_eq!(partial(&[131.0, 90.0, 50.0, 39.5, 90.0, 30.0]), Some(14));
    }
}
