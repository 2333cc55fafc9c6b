//! Models from the command line: evaluated, compared, promoted, checked.

use std::{fs, path::Path};

use crate::program::vitals;

/// Readings of some devices in one file: three days, every half hour.
pub fn fleet_csv(folder: &Path, devices: u32) {
    let mut text = "device_id,timestamp,heart_rate,systolic,diastolic,temperature,spo2,respiratory_rate\n".to_owned();
    for device in 0..devices {
        for step in 0..144_u32 {
            let wave = f64::from((step * 7 + device * 13) % 11) - 5.0;
            let level = f64::from(device % 5) * 3.0;
            let (day, hour, minute) = (1 + step / 48, step % 48 / 2, step % 2 * 30);
            text.push_str(&format!(
                "d{device},2024-03-{day:02}T{hour:02}:{minute:02}:00Z,{},{},{},{:.1},{},{}\n",
                70.0 + level + wave,
                120.0 + level - wave,
                75.0 + wave,
                36.6 + wave / 20.0,
                (97.0 + wave / 3.0).round(),
                15.0 + (wave / 2.0).round()
            ));
        }
    }
    fs::write(folder.join("fleet.csv"), text).unwrap();
}

#[test]
fn evaluate_measures_the_model_beside_plain_methods() {
    let folder = tempfile::tempdir().unwrap();
    fleet_csv(folder.path(), 30);
    let words = ["evaluate", "--data", "fleet.csv", "--resamples", "20", "--output", "json"];
    let ran = vitals(folder.path(), &words);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(ran.out, vitals(folder.path(), &words).out, "the same data and seed give the same report");
    let text = report.to_string();
    for method in ["EWMA", "solation", "NEWS2"] {
        assert!(text.contains(method), "{method}: {text}");
    }
    let ran = vitals(folder.path(), &["evaluate", "--data", "fleet.csv", "--resamples", "0"]);
    assert!(ran.code == Some(0) && ran.out.contains("AUROC") && !ran.out.contains("NaN"), "{ran:?}");
    fleet_csv(folder.path(), 1);
    let ran = vitals(folder.path(), &["evaluate", "--data", "fleet.csv"]);
    assert!(ran.code == Some(1) && ran.err.starts_with("error: ") && ran.out.is_empty(), "{ran:?}");
}

#[test]
fn a_challenger_is_compared_kept_and_promoted_as_asked() {
    let folder = tempfile::tempdir().unwrap();
    fleet_csv(folder.path(), 30);
    assert_eq!(vitals(folder.path(), &["import", "fleet.csv"]).code, Some(0));
    let in_force = || {
        let shown = vitals(folder.path(), &["models", "show"]);
        serde_json::from_str::<serde_json::Value>(&shown.out).unwrap()
    };
    let never = vitals(folder.path(), &["train", "--promote", "never"]);
    assert!(never.code == Some(0) && never.err.contains("vitals models promote m-"), "{never:?}");
    assert_eq!(in_force()["builtin"], true);
    let checked = vitals(folder.path(), &["models", "check"]);
    assert!(checked.code == Some(0) && checked.out.is_empty() && checked.err.contains("`builtin`"), "{checked:?}");

    let always = vitals(folder.path(), &["train", "--promote", "always"]);
    assert!(always.code == Some(0) && always.err.contains("compare"), "{always:?}");
    let card = in_force();
    assert_eq!(card["comparison"]["champion"], "builtin", "{card}");
    assert!(card["comparison"]["devices"].as_u64() > Some(0) && card["profile"].is_null(), "{card}");
    // The same readings are no change.
    let checked = vitals(folder.path(), &["models", "check", "--since", "2024-01-01", "--output", "json"]);
    let check: serde_json::Value = serde_json::from_str(&checked.out).unwrap();
    assert!(check["advice"] == "keep" || check["advice"] == "too_few", "{check}");
    // Back to an older one.
    assert_eq!(vitals(folder.path(), &["models", "promote", "builtin"]).code, Some(0));
    assert_eq!(in_force()["builtin"], true);
}
