//! What was really done to the readings: the truth that detections are compared with.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde::Serialize;

use super::episode::EpisodeKind;
use super::fleet::{Device, FleetOptions, device_id};
use crate::reading::Vital;
use crate::reading::time::format_rfc3339_ms;

/// One episode of one device, as it shows in the readings.
#[derive(Debug, Clone, PartialEq)]
pub struct Label {
    pub device_id: String,
    pub kind: EpisodeKind,
    /// Time of the first reading that the episode changed, milliseconds since 1970 UTC.
    pub start_ms: i64,
    /// Time of the last reading that it changed, milliseconds since 1970 UTC.
    pub end_ms: i64,
    /// How many readings it changed.
    pub readings: u64,
    /// The vitals that it changed in at least one reading; the one that it is about comes first.
    pub vitals: Vec<Vital>,
    /// What it adds to the first of `vitals` at its height, in that vital's unit; 0 for a flatline.
    pub size: f64,
}

/// The labels of one device, in the order of time, of what was measured before `until_ms` (at most the options' end).
pub fn device_labels(options: &FleetOptions, index: u32, until_ms: i64) -> Vec<Label> {
    let mut device = Device::new(options, index);
    let until_ms = until_ms.min(options.end_ms);
    let mut labels = Vec::new();
    for episode in device.episodes(options, options.start_ms, until_ms) {
        let mut changed = [false; Vital::ALL.len()];
        let mut span: Option<(i64, i64)> = None;
        let mut readings = 0;
        let numbers = device.numbers(options, episode.start_ms, episode.end_ms.min(until_ms));
        for number in numbers {
            let shown = device.show(options, number);
            let mut any = false;
            for (i, changed) in changed.iter_mut().enumerate() {
                let (with, without) = (shown.reading.vitals[i], shown.plain[i]);
                // Where the sensor had no value, an episode has none either.
                let differs = !with.is_nan() && with != without;
                *changed |= differs;
                any |= differs;
            }
            if any {
                let start_ms = span.map_or(shown.reading.ts_ms, |(start_ms, _)| start_ms);
                span = Some((start_ms, shown.reading.ts_ms));
                readings += 1;
            }
        }
        let Some((start_ms, end_ms)) = span else { continue };
        let mut vitals: Vec<Vital> = Vital::ALL.into_iter().filter(|vital| changed[vital.index()]).collect();
        vitals.sort_by_key(|vital| *vital != episode.vital);
        labels.push(Label {
            device_id: device_id(index),
            kind: episode.kind,
            start_ms,
            end_ms,
            readings,
            vitals,
            size: episode.size,
        });
    }
    labels
}

/// The labels of all devices, device by device.
pub fn labels(options: &FleetOptions) -> impl Iterator<Item = Label> + '_ {
    (0..options.devices).flat_map(|index| device_labels(options, index, options.end_ms))
}

#[derive(Serialize)]
struct Row<'a> {
    device_id: &'a str,
    kind: EpisodeKind,
    start: String,
    end: String,
    readings: u64,
    vitals: Vec<&'static str>,
    size: f64,
}

/// Write one JSON object per line and label to `path`, which is made anew. Answers how many were written.
///
/// # Errors
/// When the file can't be made or written.
pub fn write_labels(path: &Path, labels: impl Iterator<Item = Label>) -> io::Result<u64> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut count = 0;
    for label in labels {
        let row = Row {
            device_id: &label.device_id,
            kind: label.kind,
            start: format_rfc3339_ms(label.start_ms),
            end: format_rfc3339_ms(label.end_ms),
            readings: label.readings,
            vitals: label.vitals.iter().map(|vital| vital.column()).collect(),
            size: (label.size * 100.0).round() / 100.0,
        };
        serde_json::to_writer(&mut file, &row)?;
        file.write_all(b"\n")?;
        count += 1;
    }
    file.flush()?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::fleet::{Fleet, tests::options};
    use super::*;
    use crate::reading::Vitals;

    const HOUR_MS: i64 = 3_600_000;

    fn cells(options: FleetOptions) -> HashMap<(u32, i64), Vitals> {
        Fleet::new(options).unwrap().map(|(device, r)| ((device, r.ts_ms), r.vitals)).collect()
    }

    fn with_and_without(options: &FleetOptions) -> Vec<(u32, i64, Vital)> {
        let with = cells(options.clone());
        let without = cells(FleetOptions { episodes_per_device_day: 0.0, ..options.clone() });
        assert_eq!(with.len(), without.len());
        let mut changed = Vec::new();
        for ((device, ts_ms), vitals) in &with {
            let plain = &without[&(*device, *ts_ms)];
            for vital in Vital::ALL {
                let (a, b) = (vitals[vital.index()], plain[vital.index()]);
                if a != b && !(a.is_nan() && b.is_nan()) {
                    changed.push((*device, *ts_ms, vital));
                }
            }
        }
        changed.sort_unstable();
        changed
    }

    #[test]
    fn labels_are_exactly_what_differs_from_a_run_without_episodes() {
        for warmup_ms in [0, 12 * HOUR_MS] {
            let options = FleetOptions { warmup_ms, ..options(15, 48) };
            let changed = with_and_without(&options);
            let labels: Vec<Label> = labels(&options).collect();
            assert!(labels.len() > 60, "{}", labels.len());
            assert!(EpisodeKind::ALL.iter().all(|kind| labels.iter().any(|label| label.kind == *kind)));

            let covers = |label: &Label, device: u32, ts_ms: i64, vital: Vital| {
                label.device_id == device_id(device)
                    && (label.start_ms..=label.end_ms).contains(&ts_ms)
                    && label.vitals.contains(&vital)
            };
            for (device, ts_ms, vital) in &changed {
                let covering = labels.iter().filter(|label| covers(label, *device, *ts_ms, *vital)).count();
                assert_eq!(covering, 1, "{device} {ts_ms} {vital:?}");
            }
            for label in &labels {
                let index = (0..15).find(|i| device_id(*i) == label.device_id).unwrap();
                let of_it = |vital| changed.iter().filter(move |(d, t, v)| covers(label, *d, *t, *v) && *v == vital);
                assert!(label.vitals.iter().all(|vital| of_it(*vital).next().is_some()), "{label:?}");
                for edge in [label.start_ms, label.end_ms] {
                    assert!(changed.iter().any(|(d, t, _)| (*d, *t) == (index, edge)), "{label:?}");
                }
            }
        }
    }

    #[test]
    fn a_warm_up_has_no_episodes_and_none_is_cut_by_the_end() {
        let options = FleetOptions { warmup_ms: 12 * HOUR_MS, ..options(50, 48) };
        let first = labels(&options).map(|label| label.start_ms).min().unwrap();
        assert!(first >= options.start_ms + options.warmup_ms);
        let longer = FleetOptions { end_ms: options.end_ms + 48 * HOUR_MS, ..options.clone() };
        let all: Vec<Label> = labels(&longer).collect();
        assert!(labels(&options).all(|label| all.contains(&label)));
    }

    #[test]
    fn labels_stop_where_a_device_stopped() {
        let options = options(20, 48);
        let until_ms = options.start_ms + 20 * HOUR_MS;
        let cut: Vec<Label> = (0..20).flat_map(|index| device_labels(&options, index, until_ms)).collect();
        assert!(!cut.is_empty() && cut.len() < labels(&options).count());
        assert!(cut.iter().all(|label| label.end_ms < until_ms));
        let short = FleetOptions { end_ms: until_ms, ..options };
        assert_eq!(labels(&short).collect::<Vec<_>>(), cut);
    }

    #[test]
    fn the_file_has_one_json_object_per_label() {
        let options = options(3, 48);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.ndjson");
        let count = write_labels(&path, labels(&options)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows.len() as u64, count);
        assert!(rows.iter().all(|row| row["start"].as_str() <= row["end"].as_str() && row["kind"].is_string()));
    }
}
