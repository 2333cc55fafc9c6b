//! What a check found: for people as aligned lines, for programs as one document.

use std::{collections::BTreeMap, fmt::Write};

use serde::Serialize;

use crate::reading::time::format_rfc3339_ms;

/// The most examples of one finding.
pub const EXAMPLES: usize = 5;

/// What a check found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The version of this document.
    pub schema_version: u32,
    /// Whether every promise was kept.
    pub kept: bool,
    /// The lake.
    pub lake: String,
    /// What was found of the chains of landing files.
    pub chains: Chains,
    /// What was found of the readings; `None` without a file of what was sent.
    pub readings: Option<Readings>,
    /// What people should know beside it.
    pub warnings: Vec<String>,
}

/// The chains of landing files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Chains {
    /// How many partitions of how many logs there are.
    pub chains: u64,
    /// Landing files.
    pub files: u64,
    /// Log records that retention took before they could be read: known, and no promise of the lake.
    pub gap: Broken,
    /// Records that two files cover, so that they are stored twice: a broken promise.
    pub overlap: Broken,
    /// Records at or above the cut that no file covers: a broken promise.
    pub hole: Broken,
    /// Files at or above the cut that can't be read: a broken promise. Counted in files.
    pub damaged: Broken,
}

/// Places in chains.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// How many log records.
    pub count: u64,
    /// Some of the places.
    pub examples: Vec<Place>,
}

/// A place in a chain: the records `[first, next)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    pub chain: String,
    pub partition: i32,
    pub first: i64,
    pub next: i64,
    /// What is wrong there.
    pub what: String,
}

/// The readings of a file of what was sent, and what became of them.
///
/// `sent.readings` is the sum of `found`, `altered`, `dead_lettered`, `lost` and `missing`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Readings {
    /// What the file has.
    pub sent: Sent,
    /// Readings stored of these devices in this span.
    pub stored: u64,
    /// Sent readings that are stored as they were sent.
    pub found: u64,
    /// Acknowledged, and not there: a broken promise.
    pub lost: Found,
    /// Never acknowledged, and not there: lost before an acknowledgement, which may be.
    pub missing: Found,
    /// Rows beyond the number of times that a reading was sent: a broken promise.
    pub stored_twice: Found,
    /// Rows beyond the first, of readings that were sent as often: closing their day makes them one.
    pub sent_twice: Found,
    /// There, with other vitals than were sent: a broken promise.
    pub altered: Found,
    /// Arrived long after they were published.
    pub late: Late,
    /// Found among the dead letters instead.
    pub dead_lettered: DeadLettered,
    /// Stored of these devices in this span, and not in the file.
    pub unexpected: Found,
}

/// The file of what was sent.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Sent {
    pub file: String,
    pub readings: u64,
    pub devices: u64,
    /// The least and greatest `ts`, as text.
    pub first: String,
    pub last: String,
}

/// Readings of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    /// How many.
    pub count: u64,
    /// Some of them.
    pub examples: Vec<Example>,
}

/// One reading.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Example {
    pub device_id: String,
    pub timestamp: String,
    pub seq: Option<i64>,
    /// What there is to say of it.
    pub what: String,
}

/// Readings that arrived late.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Late {
    /// What counts as late.
    pub over_ms: i64,
    pub count: u64,
    pub worst_ms: Option<i64>,
    /// The latest ones.
    pub examples: Vec<Example>,
    /// How late the examples are.
    #[serde(skip)]
    late_ms: Vec<i64>,
}

/// Dead letters of the file's devices.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DeadLettered {
    /// Sent readings that were found there.
    #[serde(flatten)]
    pub found: Found,
    pub by_reason: BTreeMap<&'static str, u64>,
    /// Dead letters that are none of the readings looked for, as far as they can be read.
    pub unmatched: u64,
    pub unmatched_by_reason: BTreeMap<&'static str, u64>,
}

impl Found {
    pub(super) fn add(
        &mut self,
        count: u64,
        device: &str,
        ts_ms: i64,
        seq: Option<i64>,
        what: impl FnOnce() -> String,
    ) {
        self.count += count;
        if self.examples.len() < EXAMPLES {
            self.examples.push(example(device, ts_ms, seq, what()));
        }
    }
}

fn example(device: &str, ts_ms: i64, seq: Option<i64>, what: String) -> Example {
    Example { device_id: device.to_owned(), timestamp: format_rfc3339_ms(ts_ms), seq, what }
}

impl Late {
    pub(super) fn add(&mut self, device: &str, facts: &super::bucket::Facts, late_ms: i64, published_ms: i64) {
        self.count += 1;
        self.worst_ms = self.worst_ms.max(Some(late_ms));
        let place = self.late_ms.partition_point(|known| *known >= late_ms);
        if place < EXAMPLES {
            let what = format!("published {}, {} before it arrived", format_rfc3339_ms(published_ms), span(late_ms));
            self.late_ms.insert(place, late_ms);
            self.examples.insert(place, example(device, facts.ts_ms.unwrap_or(0), facts.seq, what));
            self.late_ms.truncate(EXAMPLES);
            self.examples.truncate(EXAMPLES);
        }
    }
}

impl Broken {
    pub(super) fn add(&mut self, count: u64, place: Place) {
        self.count += count;
        if self.examples.len() < EXAMPLES {
            self.examples.push(place);
        }
    }
}

impl Report {
    /// The broken promises, in words.
    pub fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let mut tell = |count: u64, one: &str, many: &str| match count {
            0 => {}
            1 => broken.push(format!("1 {one}")),
            count => broken.push(format!("{count} {many}")),
        };
        if let Some(readings) = &self.readings {
            tell(readings.lost.count, "reading lost", "readings lost");
            tell(readings.stored_twice.count, "row stored twice", "rows stored twice");
            tell(readings.altered.count, "reading altered", "readings altered");
        }
        tell(self.chains.overlap.count, "log record in two files", "log records in two files");
        tell(self.chains.hole.count, "log record in no file", "log records in no file");
        tell(self.chains.damaged.count, "damaged landing file", "damaged landing files");
        broken
    }

    /// For people: a line for each finding, examples below it, and the verdict.
    pub fn text(&self) -> String {
        let mut lines = Lines::default();
        let chains = &self.chains;
        lines.say("landing files", chains.files, &format!("of {} partitions of logs", chains.chains));
        lines.places("overlap", &chains.overlap, "log records in two files");
        lines.places("hole", &chains.hole, "log records in no file");
        lines.places("damaged", &chains.damaged, "landing files that can't be read");
        lines.places("gap", &chains.gap, "log records gone before they could be read: known, no fault of the lake");
        if let Some(readings) = &self.readings {
            lines.readings(readings);
        }
        let broken = self.broken();
        let verdict = match (broken.is_empty(), &self.readings) {
            (false, _) => format!("Broken: {}.", broken.join(", ")),
            (true, Some(_)) => "Every promise was kept.".to_owned(),
            (true, None) => "The chains are whole; `--sent FILE` compares readings as well.".to_owned(),
        };
        format!("{}\n{verdict}", lines.0)
    }
}

/// Lines of a name, a count and a remark.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn say(&mut self, name: &str, count: u64, remark: &str) {
        // Writing to a text can't fail.
        let _ = writeln!(self.0, "{name:>13} {count:>9}  {remark}");
    }

    fn below(&mut self, text: &str) {
        let _ = writeln!(self.0, "{:>25}{text}", "");
    }

    fn places(&mut self, name: &str, broken: &Broken, remark: &str) {
        if broken.count == 0 {
            return;
        }
        self.say(name, broken.count, remark);
        for place in &broken.examples {
            let Place { chain, partition, first, next, what } = place;
            self.below(&format!("{chain}/{partition} from {first} to {next}: {what}"));
        }
    }

    fn found(&mut self, name: &str, count: u64, examples: &[Example], remark: &str) {
        self.say(name, count, remark);
        for Example { device_id, timestamp, seq, what } in examples {
            let seq = seq.map_or_else(String::new, |seq| format!(" seq {seq}"));
            self.below(&format!("{device_id} {timestamp}{seq}: {what}"));
        }
    }

    fn readings(&mut self, readings: &Readings) {
        let Sent { file, devices, first, last, .. } = &readings.sent;
        self.say("sent", readings.sent.readings, &format!("of {devices} devices, {first} to {last}, `{file}`"));
        self.say("stored", readings.stored, "of these devices in this span");
        self.say("found", readings.found, "as they were sent");
        let Readings { lost, missing, stored_twice, sent_twice, altered, late, unexpected, .. } = readings;
        self.found("lost", lost.count, &lost.examples, "acknowledged, and not there");
        self.found("stored twice", stored_twice.count, &stored_twice.examples, "rows more than were sent");
        self.found("altered", altered.count, &altered.examples, "stored with other vitals than were sent");
        self.found("missing", missing.count, &missing.examples, "lost before an acknowledgement, which may be");
        self.found("sent twice", sent_twice.count, &sent_twice.examples, "rows more, sent as often");
        let dead = &readings.dead_lettered;
        let reasons = |reasons: &BTreeMap<&str, u64>| {
            reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect::<Vec<_>>().join(", ")
        };
        let found = if dead.found.count == 0 { "none".to_owned() } else { reasons(&dead.by_reason) };
        self.found("dead letters", dead.found.count, &dead.found.examples, &format!("found there instead: {found}"));
        if dead.unmatched > 0 {
            let remark = format!("more dead letters, none of those looked for: {}", reasons(&dead.unmatched_by_reason));
            self.say("", dead.unmatched, &remark);
        }
        let worst = late.worst_ms.map_or_else(String::new, |worst| format!("; the worst {}", span(worst)));
        let remark = format!("arrived over {} after they were published{worst}", span(late.over_ms));
        self.found("late", late.count, &late.examples, &remark);
        self.found("unexpected", unexpected.count, &unexpected.examples, "stored, but not in the file");
    }
}

/// A length of time in its two largest units.
fn span(ms: i64) -> String {
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
    let Some(largest) = units.iter().position(|(_, unit)| ms >= *unit) else { return format!("{ms}ms") };
    let mut rest = ms;
    let mut text = Vec::new();
    for (name, unit) in units.iter().skip(largest).take(2) {
        if rest >= *unit {
            text.push(format!("{}{name}", rest / unit));
            rest %= unit;
        }
    }
    text.join(" ")
}
