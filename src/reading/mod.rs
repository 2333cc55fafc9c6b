//! A reading: what one device measured at one moment, and what every stage agrees on about it.
//!
//! - [`Vital`] and [`Vitals`]: the six vital signs, their names, units and sensor resolutions.
//! - [`Reading`]: a moment of one device; the device's name travels beside it.
//! - [`DeviceId`] rules: [`valid_device_id`].
//! - [`packet`]: the JSON that a device publishes, to readings or to a [`Reason`].
//! - [`columns`]: the same readings as Arrow columns, in the shapes that the lake stores.
//! - [`file`]: readings in CSV, NDJSON and Parquet files of other people.

use std::fmt;

pub mod columns;
pub mod file;
pub mod packet;
pub mod time;

/// How many vital signs a reading has.
pub const VITALS: usize = 6;

/// Values of the six vitals in the order of [`Vital::ALL`]; NaN where the device did not say.
pub type Vitals = [f64; VITALS];

/// A reading whose every vital is absent.
pub const NO_VITALS: Vitals = [f64::NAN; VITALS];

/// The largest packet that is read, in bytes. AWS IoT Core's limit is the same.
pub const MAX_PACKET_BYTES: usize = 128 * 1024;

/// How far a device's clock may run ahead of its packet's arrival before the reading has no place in time.
pub const MAX_CLOCK_AHEAD_MS: i64 = 24 * 3_600_000;

/// The longest device id, in characters.
pub const MAX_DEVICE_ID: usize = 128;

/// One of the six vital signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Vital {
    HeartRate,
    Systolic,
    Diastolic,
    Temperature,
    Spo2,
    RespiratoryRate,
}

impl Vital {
    /// All vitals, in the order of columns and of [`Vitals`].
    pub const ALL: [Vital; VITALS] =
        [Vital::HeartRate, Vital::Systolic, Vital::Diastolic, Vital::Temperature, Vital::Spo2, Vital::RespiratoryRate];

    /// The place of this vital in [`Vitals`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name of its column and of its JSON field.
    pub const fn column(self) -> &'static str {
        match self {
            Vital::HeartRate => "heart_rate",
            Vital::Systolic => "systolic",
            Vital::Diastolic => "diastolic",
            Vital::Temperature => "temperature",
            Vital::Spo2 => "spo2",
            Vital::RespiratoryRate => "respiratory_rate",
        }
    }

    /// Its name in a sentence.
    pub const fn label(self) -> &'static str {
        match self {
            Vital::HeartRate => "heart rate",
            Vital::Systolic => "systolic pressure",
            Vital::Diastolic => "diastolic pressure",
            Vital::Temperature => "temperature",
            Vital::Spo2 => "SpO2",
            Vital::RespiratoryRate => "respiratory rate",
        }
    }

    /// The unit of its values.
    pub const fn unit(self) -> &'static str {
        match self {
            Vital::HeartRate => "bpm",
            Vital::Systolic | Vital::Diastolic => "mmHg",
            Vital::Temperature => "°C",
            Vital::Spo2 => "%",
            Vital::RespiratoryRate => "/min",
        }
    }

    /// The usual step of a sensor of this vital, in its unit.
    pub const fn resolution(self) -> f64 {
        match self {
            Vital::Temperature => 0.1,
            _ => 1.0,
        }
    }

    /// The vital with this column name.
    pub fn from_column(name: &str) -> Option<Vital> {
        Vital::ALL.into_iter().find(|vital| vital.column() == name)
    }
}

/// What one device measured at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// When the device measured, milliseconds since 1970 UTC, by the device's clock.
    pub ts_ms: i64,
    /// When the log took it, milliseconds since 1970 UTC, by the log's clock.
    pub arrived_ms: i64,
    /// The device's own count, where it keeps one.
    pub seq: Option<i64>,
    /// The six vitals; NaN where absent.
    pub vitals: Vitals,
}

impl PartialEq for Reading {
    /// Equal in every field; two absent vitals are equal.
    fn eq(&self, other: &Self) -> bool {
        self.ts_ms == other.ts_ms
            && self.arrived_ms == other.arrived_ms
            && self.seq == other.seq
            && same_vitals(&self.vitals, &other.vitals)
    }
}

/// Whether two sets of vitals are the same, absent ones included.
pub fn same_vitals(a: &Vitals, b: &Vitals) -> bool {
    a.iter().zip(b).all(|(x, y)| x == y || (x.is_nan() && y.is_nan()))
}

/// Whether `id` may name a device: 1 to 128 of `[A-Za-z0-9:_-]`, AWS IoT's rule for the name of a thing.
pub fn valid_device_id(id: &str) -> bool {
    (1..=MAX_DEVICE_ID).contains(&id.len()) && id.bytes().all(|byte| IN_DEVICE_ID[usize::from(byte)])
}

/// Which bytes a device's id may have. Ids are looked at for every packet.
const IN_DEVICE_ID: [bool; 256] = {
    let (mut legal, mut byte) = ([false; 256], 0);
    while byte < 256 {
        legal[byte] = (byte as u8).is_ascii_alphanumeric() || matches!(byte as u8, b':' | b'_' | b'-');
        byte += 1;
    }
    legal
};

/// Why something that arrived is not a reading. The codes are stable: they are stored, queried and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Over [`MAX_PACKET_BYTES`].
    TooLarge,
    /// The bytes are not UTF-8.
    NotUtf8,
    /// Not JSON, or not one JSON value.
    NotJson,
    /// Nested deeper than a packet can be.
    TooDeep,
    /// JSON, but not an object.
    NotAnObject,
    /// A field that is known appears twice.
    DuplicateKey,
    /// Neither the topic nor the packet names a device.
    NoDevice,
    /// The device's id is empty, too long, or has a character that ids may not have.
    BadDeviceId,
    /// The packet names another device than the topic that it came on.
    WrongDevice,
    /// `readings` is there and has nothing in it.
    EmptyBatch,
    /// No timestamp.
    NoTimestamp,
    /// A timestamp that can't be read, or is outside the years 1970 to 9999.
    BadTimestamp,
    /// The timestamp is more than [`MAX_CLOCK_AHEAD_MS`] ahead of arrival.
    ClockAhead,
    /// A known field has a value of the wrong type.
    WrongType,
    /// A row of a file that can't be split into its columns.
    BadRow,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Reason; 15] = [
        Reason::TooLarge,
        Reason::NotUtf8,
        Reason::NotJson,
        Reason::TooDeep,
        Reason::NotAnObject,
        Reason::DuplicateKey,
        Reason::NoDevice,
        Reason::BadDeviceId,
        Reason::WrongDevice,
        Reason::EmptyBatch,
        Reason::NoTimestamp,
        Reason::BadTimestamp,
        Reason::ClockAhead,
        Reason::WrongType,
        Reason::BadRow,
    ];

    /// The stable code that the lake stores.
    pub const fn code(self) -> &'static str {
        match self {
            Reason::TooLarge => "too_large",
            Reason::NotUtf8 => "not_utf8",
            Reason::NotJson => "not_json",
            Reason::TooDeep => "too_deep",
            Reason::NotAnObject => "not_an_object",
            Reason::DuplicateKey => "duplicate_key",
            Reason::NoDevice => "no_device",
            Reason::BadDeviceId => "bad_device_id",
            Reason::WrongDevice => "wrong_device",
            Reason::EmptyBatch => "empty_batch",
            Reason::NoTimestamp => "no_timestamp",
            Reason::BadTimestamp => "bad_timestamp",
            Reason::ClockAhead => "clock_ahead",
            Reason::WrongType => "wrong_type",
            Reason::BadRow => "bad_row",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_ids_follow_the_rule() {
        for good in ["device_1", "a", "A:b-c_9", &"x".repeat(128)] {
            assert!(valid_device_id(good), "{good}");
        }
        for bad in ["", "a b", "ä", "a/b", "a'b", "..", &"x".repeat(129)] {
            assert!(!valid_device_id(bad), "{bad}");
        }
    }

    #[test]
    fn codes_are_distinct() {
        let mut codes: Vec<_> = Reason::ALL.iter().map(|r| r.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Reason::ALL.len());
    }
}
