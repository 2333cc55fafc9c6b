//! What a report says, in the form in which the page reads it: JSON, version [`SCHEMA_VERSION`].
//!
//! Times are milliseconds since 1970 UTC. Every list is bounded by whoever fills it ([`super::collect`],
//! [`super::series`]). A number that is not finite becomes `null`.

use std::collections::BTreeMap;

use serde::Serialize;

/// The version of this form.
pub const SCHEMA_VERSION: u32 = 1;

/// A whole report.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Data {
    pub schema_version: u32,
    /// Of the program.
    pub version: String,
    pub generated_ms: i64,
    /// The lake's name, for people.
    pub lake: String,
    /// Whether the page fetches newer data by itself, and how often.
    pub live: bool,
    pub refresh_s: u32,
    pub window: Window,
    pub freshness: Freshness,
    /// Worst first.
    pub devices: Vec<Device>,
    /// How many devices are not in the list.
    pub devices_more: u64,
    pub days: Vec<DayCauses>,
    pub causes: Vec<CauseCount>,
    pub model: ModelCard,
    pub series: BTreeMap<String, Series>,
    /// What people should know beside all this: files that were left out, and why.
    pub warnings: Vec<String>,
}

/// The time that a report is about, by the readings' own time: `[since, until)`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Window {
    pub since_ms: i64,
    pub until_ms: i64,
}

/// Whether anything arrives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Something arrived lately.
    Fresh,
    /// The last arrival is too long ago.
    Stale,
    /// There is nothing to show.
    #[default]
    NoData,
}

/// How fresh and how complete the readings are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Freshness {
    pub status: Status,
    /// When the newest reading of the lake arrived, and when the one with the newest time was measured.
    pub last_arrived_ms: Option<i64>,
    pub last_ts_ms: Option<i64>,
    /// In the window.
    pub readings: u64,
    pub devices: u64,
    /// Devices that sent in the window, but nothing in its last quarter.
    pub silent_devices: u64,
    /// Readings that no model has looked at; an estimate where very many files wait.
    pub unscored_readings: u64,
    /// Numbers missing in devices' own counts.
    pub seq_missing: u64,
    /// Log records that were gone before they could be read, as far as landing files still tell.
    pub gap_records: u64,
    /// By arrival in the window, most frequent first.
    pub dead_letters: Vec<DeadLetters>,
}

/// What was no reading.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadLetters {
    pub reason: String,
    pub count: u64,
}

/// One device in the window.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Device {
    pub device_id: String,
    /// Episodes that are not about the sensor.
    pub episodes: u64,
    /// Episodes that are.
    pub artifacts: u64,
    pub peak_score: Option<f64>,
    pub news2: Option<i64>,
    pub readings: u64,
    pub last_seen_ms: i64,
    pub last_outlier_ms: Option<i64>,
    /// Of its worst outlier.
    pub cause: Option<String>,
    pub why: Option<String>,
}

/// Episodes by the day on which they began (UTC).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DayCauses {
    pub day: String,
    pub causes: BTreeMap<String, u64>,
}

/// Episodes by cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CauseCount {
    pub cause: String,
    pub artifact: bool,
    pub episodes: u64,
}

/// The model in force.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ModelCard {
    pub id: String,
    pub trained_on: TrainedOn,
    /// `None` where the model can't be read; `warnings` says why.
    pub threshold: Option<f64>,
    pub alarms_per_device_day: Option<f64>,
    pub warnings: Vec<String>,
    /// Closed days whose verdicts are its own.
    pub scored_days: u64,
    /// On events put into devices that were held back, where the model was compared.
    pub figures: Option<Figures>,
}

/// What the model learned from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TrainedOn {
    pub devices: u64,
    pub readings: u64,
    pub since_ms: Option<i64>,
    pub until_ms: Option<i64>,
}

/// How well the model finds events.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figures {
    pub auroc: Option<f64>,
    pub recall_at_budget: Option<f64>,
}

/// One device, drawn.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Series {
    /// Sorted.
    pub ts: Vec<i64>,
    /// As long as `ts` each; a vital that was never sent is absent.
    pub vitals: BTreeMap<&'static str, Vec<Option<f64>>>,
    /// A longer pause between two points is one in which nothing was sent.
    pub gap_ms: i64,
    pub bands: BTreeMap<&'static str, Band>,
    pub outliers: Vec<Outlier>,
    pub episodes: Vec<Episode>,
    /// Whether some readings, outliers or episodes were left out.
    pub thinned: bool,
}

/// Where a vital of a device usually is: median ± 2 robust standard deviations of readings that are no outliers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Band {
    pub low: f64,
    pub usual: f64,
    pub high: f64,
}

/// One outlying reading.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outlier {
    pub ts: i64,
    pub score: f64,
    pub cause: String,
    pub vital: Option<String>,
    pub artifact: bool,
    pub news2: Option<i64>,
    pub why: String,
}

/// Outliers of a device that belong together; cause and reason are those of the highest score.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Episode {
    pub start_ms: i64,
    pub end_ms: i64,
    pub cause: String,
    pub vital: Option<String>,
    pub artifact: bool,
    pub peak_score: f64,
    pub why: String,
}
