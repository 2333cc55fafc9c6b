//! What is kept of one device between its readings: about 500 bytes, whatever the device sent.
//!
//! # Stored form
//!
//! [`DeviceState::to_bytes`], all little-endian, [`STATE_BYTES`] in all. Moments other than the newest reading's and
//! starts of episodes are stored as `u32` milliseconds before the newest reading; what is older than that can hold
//! makes no difference to any score.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, [`STATE_VERSION`] |
//! | 8 | tag of the model that it belongs to: the first 8 bytes of the SHA-256 of its artifact |
//! | 8 | `i64` time of the newest reading, milliseconds since 1970; `i64::MIN` before the first |
//! | 1 | bit 0: the alarm is on; 1 and 2: there is a running outlier, artifact episode; 3: the course has begun |
//! | 24 | 2 × (`i64` start, `u32` end) of the running outlier and artifact episodes |
//! | 12 | the course of the score: `f32` short and long average, `u32` moment of its last tick |
//! | 6 × 76 | per vital: `u32` last seen (`u32::MAX` for never), last tick, start of the run of equal values; `u16` length of that run; `f32` last value; `u16` changes and repetitions of the value, in 64ths; `f32` level, offset, last tick's value, average of close values; 19 × 16 bits: the rest of the filter, in the order and on the grids of `Track::fields_mut` |

use thiserror::Error;

use crate::reading::VITALS;

use super::episodes::{Running, Span};
use super::filter::{Smooth, Track, Unit};

/// The version of the stored form.
pub const STATE_VERSION: u8 = 2;

/// The length of the stored form.
pub const STATE_BYTES: usize = 1 + 8 + 8 + 1 + 24 + 12 + VITALS * 76;

/// What is kept of one vital of one device.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct VitalState {
    /// When it was last seen sound.
    pub seen_ms: Option<i64>,
    /// The filter, as of `tick_ms`.
    pub track: Track,
    pub tick_ms: i64,
    /// The average over close values, as of `seen_ms`.
    pub smooth: Smooth,
    /// Since when it has stood at `last`, and for how many readings.
    pub run_start_ms: i64,
    pub run: u16,
    /// The last sound value.
    pub last: f32,
    /// Steps without and with a change of value, with forgetting.
    pub same: f32,
    pub changed: f32,
}

/// How the score has gone of late: see [`super::score`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Course {
    pub short: f32,
    pub long: f32,
    pub tick_ms: Option<i64>,
}

/// What is kept of one device. Made by [`Model::new_state`](super::Model::new_state), advanced by
/// [`Model::score`](super::Model::score).
#[derive(Debug, Clone)]
pub struct DeviceState {
    /// Which model the numbers belong to.
    pub(super) model: u64,
    /// The newest reading's time.
    pub(super) newest_ms: Option<i64>,
    /// The alarm is on: hysteresis applies.
    pub(super) alarmed: bool,
    pub(super) outlier: Running,
    pub(super) artifact: Running,
    pub(super) course: Course,
    pub(super) vitals: [VitalState; VITALS],
}

impl PartialEq for DeviceState {
    fn eq(&self, other: &Self) -> bool {
        self.to_array() == other.to_array()
    }
}

/// Why stored bytes are not a device's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StateError {
    #[error(
        "reading a device's state: {found} bytes where a state has {STATE_BYTES}; the checkpoint is damaged, score from the start"
    )]
    Length { found: usize },
    #[error(
        "reading a device's state: version {found}, this program knows version {STATE_VERSION}; use the program that wrote it, or score from the start"
    )]
    Version { found: u8 },
    #[error("reading a device's state: a value in it can't be; the checkpoint is damaged, score from the start")]
    Damaged,
    #[error("reading a device's state: it belongs to another model; score with that model, or from the start")]
    OtherModel,
}

const NEVER: i64 = i64::MIN;
/// How far back from the newest reading moments are stored, in milliseconds: 49 days. One more says "never".
const REACH_MS: u32 = u32::MAX - 1;

impl DeviceState {
    pub(super) fn new(model: u64, units: &[Unit; VITALS]) -> DeviceState {
        let vital = |j: usize| VitalState { track: Track::new(&units[j]), ..VitalState::default() };
        DeviceState {
            model,
            newest_ms: None,
            alarmed: false,
            outlier: Running::default(),
            artifact: Running::default(),
            course: Course::START,
            vitals: std::array::from_fn(vital),
        }
    }

    /// Notes the newest reading's time. Moments that its stored form can't reach are moved up to what it can, so that
    /// scoring goes on from a stored state as if it had never been stored.
    pub(super) fn set_newest(&mut self, newest_ms: i64) {
        self.newest_ms = Some(newest_ms);
        let reach_ms = newest_ms.saturating_sub(i64::from(REACH_MS));
        let runs = [&mut self.outlier, &mut self.artifact].into_iter().filter_map(|running| running.0.as_mut());
        runs.for_each(|span| span.end_ms = span.end_ms.max(reach_ms));
        if let Some(tick_ms) = &mut self.course.tick_ms {
            *tick_ms = (*tick_ms).max(reach_ms);
        }
        for vital in &mut self.vitals {
            let Some(seen_ms) = &mut vital.seen_ms else { continue };
            for moment in [seen_ms, &mut vital.tick_ms, &mut vital.run_start_ms] {
                *moment = (*moment).max(reach_ms);
            }
        }
    }

    /// The time of the newest reading that the state has seen.
    pub fn newest_ms(&self) -> Option<i64> {
        self.newest_ms
    }

    /// Appends the stored form, [`STATE_BYTES`] long, to `out`.
    pub fn to_bytes(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_array());
    }

    /// A state from its stored form. That it is of the right model, [`Model::read_state`](super::Model::read_state)
    /// checks.
    ///
    /// # Errors
    /// [`StateError`] when the bytes are of another length or version, or hold what no state holds.
    pub fn from_bytes(bytes: &[u8]) -> Result<DeviceState, StateError> {
        let Ok(bytes) = <&[u8; STATE_BYTES]>::try_from(bytes) else {
            return Err(match bytes.first() {
                Some(&version) if version != STATE_VERSION => StateError::Version { found: version },
                _ => StateError::Length { found: bytes.len() },
            });
        };
        let mut fields = Fields { bytes, at: 0, newest_ms: 0 };
        let [version] = fields.take();
        if version != STATE_VERSION {
            return Err(StateError::Version { found: version });
        }
        let model = u64::from_le_bytes(fields.take());
        let newest_ms = Some(fields.long()).filter(|&ms| ms != NEVER);
        fields.newest_ms = newest_ms.unwrap_or(0);
        let [flags] = fields.take();
        let flag = |bit: u8| flags >> bit & 1 == 1;
        let mut span = |running: bool| {
            let (start_ms, end_ms) = (fields.long(), fields.moment());
            Running(running.then_some(Span { start_ms, end_ms }))
        };
        let (outlier, artifact) = (span(flag(1)), span(flag(2)));
        let (short, long) = (fields.float(), fields.float());
        let course = Course { short, long, tick_ms: Some(fields.moment()).filter(|_| flag(3)) };
        let vitals = std::array::from_fn(|_| fields.vital());
        let state = DeviceState { model, newest_ms, alarmed: flag(0), outlier, artifact, course, vitals };
        if flags < 16 && state.is_sound() { Ok(state) } else { Err(StateError::Damaged) }
    }

    /// The stored form.
    pub fn to_array(&self) -> [u8; STATE_BYTES] {
        let newest_ms = self.newest_ms.unwrap_or(0);
        let before = |ms: i64| u32::try_from(newest_ms.saturating_sub(ms)).unwrap_or(REACH_MS).min(REACH_MS);
        let mut array = [0; STATE_BYTES];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            array[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&[STATE_VERSION]);
        put(&self.model.to_le_bytes());
        put(&self.newest_ms.unwrap_or(NEVER).to_le_bytes());
        let flags = [self.alarmed, self.outlier.0.is_some(), self.artifact.0.is_some(), self.course.tick_ms.is_some()];
        put(&[flags.iter().enumerate().fold(0, |all, (bit, &flag)| all | u8::from(flag) << bit)]);
        for running in [&self.outlier, &self.artifact] {
            let span = running.0.unwrap_or(Span { start_ms: 0, end_ms: newest_ms });
            put(&span.start_ms.to_le_bytes());
            put(&before(span.end_ms).to_le_bytes());
        }
        put(&self.course.short.to_le_bytes());
        put(&self.course.long.to_le_bytes());
        put(&before(self.course.tick_ms.unwrap_or(newest_ms)).to_le_bytes());
        for vital in &self.vitals {
            let seen = vital.seen_ms.is_some();
            put(&vital.seen_ms.map_or(u32::MAX, before).to_le_bytes());
            put(&(if seen { before(vital.tick_ms) } else { 0 }).to_le_bytes());
            put(&(if seen { before(vital.run_start_ms) } else { 0 }).to_le_bytes());
            put(&vital.run.to_le_bytes());
            put(&vital.last.to_le_bytes());
            put(&((vital.changed * 64.0) as u16).to_le_bytes());
            put(&((vital.same * 64.0) as u16).to_le_bytes());
            let mut track = vital.track;
            for value in [track.level, track.offset, track.value, vital.smooth.0] {
                put(&value.to_le_bytes());
            }
            for (field, grid) in track.fields_mut() {
                put(&grid.code(*field).to_le_bytes());
            }
        }
        array
    }

    /// Whether scoring can go on from these numbers.
    fn is_sound(&self) -> bool {
        let vital = |v: &VitalState| {
            let numbers = [v.last, v.smooth.0, v.track.level, v.track.offset, v.track.value];
            numbers.iter().all(|value| value.is_finite()) && v.track.surprise >= 1.0 && v.track.surprises >= 1.0
        };
        [self.course.short, self.course.long].iter().all(|value| value.is_finite()) && self.vitals.iter().all(vital)
    }
}

/// Fields of the stored form, from front to back. The array is exactly as long as the fields that are taken.
struct Fields<'a> {
    bytes: &'a [u8; STATE_BYTES],
    at: usize,
    newest_ms: i64,
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut field = [0; N];
        field.copy_from_slice(&self.bytes[self.at..self.at + N]);
        self.at += N;
        field
    }

    fn long(&mut self) -> i64 {
        i64::from_le_bytes(self.take())
    }

    fn float(&mut self) -> f32 {
        f32::from_le_bytes(self.take())
    }

    fn short(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn moment(&mut self) -> i64 {
        self.newest_ms.saturating_sub(i64::from(u32::from_le_bytes(self.take())))
    }

    fn vital(&mut self) -> VitalState {
        let seen = self.bytes[self.at..self.at + 4] != [0xff; 4];
        let seen_ms = Some(self.moment()).filter(|_| seen);
        let (tick_ms, run_start_ms) = (self.moment(), self.moment());
        let (run, last) = (self.short(), self.float());
        let (changed, same) = (f32::from(self.short()) / 64.0, f32::from(self.short()) / 64.0);
        let (level, offset, value, smooth) = (self.float(), self.float(), self.float(), Smooth(self.float()));
        let mut track = Track { level, offset, value, ..Track::default() };
        for (field, grid) in track.fields_mut() {
            *field = grid.value(self.short());
        }
        VitalState { seen_ms, track, tick_ms, smooth, run_start_ms, run, last, same, changed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::population::adults;

    #[test]
    fn a_state_fits_its_budget() {
        const { assert!(STATE_BYTES <= 512) };
    }

    #[test]
    fn foreign_and_damaged_bytes_are_refused() {
        let mut bytes = Vec::new();
        DeviceState::new(7, &adults().map(|own| Unit::of(&own))).to_bytes(&mut bytes);
        assert_eq!(bytes.len(), STATE_BYTES);
        assert_eq!(DeviceState::from_bytes(&[]).unwrap_err(), StateError::Length { found: 0 });
        assert!(matches!(DeviceState::from_bytes(&bytes[1..]), Err(StateError::Version { .. })));
        assert!(matches!(DeviceState::from_bytes(&bytes[..80]), Err(StateError::Length { found: 80 })));
        let mut newer = bytes.clone();
        newer[0] = STATE_VERSION + 1;
        assert_eq!(DeviceState::from_bytes(&newer).unwrap_err(), StateError::Version { found: STATE_VERSION + 1 });
        let mut not_a_number = bytes;
        not_a_number[42..46].copy_from_slice(&f32::NAN.to_le_bytes());
        assert_eq!(DeviceState::from_bytes(&not_a_number).unwrap_err(), StateError::Damaged);
    }
}
