//! The tables of the known queries: which columns, in which form, and which give way first on a narrow terminal.

use super::{Shape, Show, Shown};

const fn shown(title: &'static str, column: &'static str, show: Show, floor: usize, rank: usize) -> Shown {
    Shown { title, column, show, floor, rank }
}

/// Episodes of outliers.
pub const EPISODES: Shape = &[
    shown("DEVICE", "device_id", Show::Plain, 16, 0),
    shown("START", "started_at", Show::Plain, 0, 0),
    shown("LASTED", "started_at", Show::Lasted, 0, 3),
    shown("READINGS", "readings", Show::Plain, 0, 6),
    shown("PEAK", "peak_score", Show::Decimals(1), 0, 0),
    shown("CAUSE", "cause", Show::Plain, 12, 0),
    shown("STANDS OUT", "vital", Show::StandsOut, 18, 2),
    shown("NEWS2", "news2", Show::News2, 0, 5),
    shown("FAULT", "artifact", Show::Flag("sensor"), 0, 7),
    shown("WHY", "why", Show::Plain, 22, 4),
];

/// Outlying readings.
pub const OUTLIERS: Shape = &[
    shown("DEVICE", "device_id", Show::Plain, 16, 0),
    shown("TIME", "ts", Show::Plain, 0, 0),
    shown("SCORE", "score", Show::Decimals(1), 0, 0),
    shown("CAUSE", "cause", Show::Plain, 12, 0),
    shown("STANDS OUT", "vital", Show::StandsOut, 18, 2),
    shown("NEWS2", "news2", Show::News2, 0, 4),
    shown("FAULT", "artifact", Show::Flag("sensor"), 0, 5),
    shown("WHY", "why", Show::Plain, 22, 3),
];

/// Devices.
pub const DEVICES: Shape = &[
    shown("DEVICE", "device_id", Show::Plain, 16, 0),
    shown("EPISODES", "episodes", Show::Plain, 0, 0),
    shown("PEAK", "peak_score", Show::Decimals(1), 0, 0),
    shown("NEWS2", "news2", Show::News2, 0, 4),
    shown("LAST OUTLIER", "last_outlier", Show::Plain, 0, 2),
    shown("FAULTS", "artifacts", Show::Plain, 0, 5),
    shown("READINGS", "readings", Show::Plain, 0, 3),
    shown("LAST SEEN", "last_seen", Show::Plain, 0, 1),
];

/// The readings of one device.
pub const HISTORY: Shape = &[
    shown("TIME", "ts", Show::Plain, 0, 0),
    shown("HR", "heart_rate", Show::Plain, 0, 0),
    shown("SYS", "systolic", Show::Plain, 0, 0),
    shown("DIA", "diastolic", Show::Plain, 0, 0),
    shown("TEMP", "temperature", Show::Decimals(1), 0, 0),
    shown("SPO2", "spo2", Show::Plain, 0, 0),
    shown("RR", "respiratory_rate", Show::Plain, 0, 0),
    shown("SCORE", "score", Show::Decimals(1), 0, 1),
    shown("CAUSE", "cause", Show::Plain, 12, 2),
    shown("NEWS2", "news2", Show::News2, 0, 4),
    shown("WHY", "why", Show::Plain, 22, 3),
];
