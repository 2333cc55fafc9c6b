//! What is kept of one device between its readings: a few hundred bytes, whatever the device sent.
//!
//! # Stored form
//!
//! [`DeviceState::to_bytes`], all little-endian, [`STATE_BYTES`] in all:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, [`STATE_VERSION`] |
//! | 8 | tag of the model that it belongs to: the first 8 bytes of the SHA-256 of its artifact |
//! | 8 | `i64` time of the newest reading, milliseconds since 1970; `i64::MIN` before the first |
//! | 1 | bit 0: the alarm is on |
//! | 32 | 2 × (`i64` start, `i64` end) of the running outlier and artifact episodes; `i64::MIN` for none |
//! | 6 × 52 | per vital: `i64` last seen, `i64` start of the run of equal values, `u32` length of that run, then `f32` last value, weight, shift, square, fast, slow, same, changed |

use thiserror::Error;

use crate::reading::VITALS;

use super::episodes::{Running, Span};

/// The version of the stored form.
pub const STATE_VERSION: u8 = 1;

/// The length of the stored form.
pub const STATE_BYTES: usize = 1 + 8 + 8 + 1 + 32 + VITALS * 52;

/// What is kept of one vital of one device.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct VitalState {
    /// When it was last seen sound.
    pub seen_ms: Option<i64>,
    /// Since when it has stood at `last`, and for how many readings.
    pub run_start_ms: i64,
    pub run: u32,
    /// The last sound value.
    pub last: f32,
    /// How many independent readings the baseline holds, with forgetting.
    pub weight: f32,
    /// Their weighted sum, relative to the population's centre.
    pub shift: f32,
    /// The weighted sum of their squared distances from the level of their time.
    pub square: f32,
    /// Deviation over minutes, in own spreads.
    pub fast: f32,
    /// Deviation over hours, in own spreads.
    pub slow: f32,
    /// Steps without and with a change of value, with forgetting.
    pub same: f32,
    pub changed: f32,
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
    pub(super) vitals: [VitalState; VITALS],
    /// Decay factors of the last step: a function of the step alone, kept because devices send at even intervals.
    pub(super) decay: super::score::Decay,
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

impl DeviceState {
    pub(super) fn new(model: u64) -> DeviceState {
        DeviceState {
            model,
            newest_ms: None,
            alarmed: false,
            outlier: Running::default(),
            artifact: Running::default(),
            vitals: [VitalState::default(); VITALS],
            decay: Default::default(),
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
        let mut fields = Fields { bytes, at: 0 };
        let [version] = fields.take();
        if version != STATE_VERSION {
            return Err(StateError::Version { found: version });
        }
        let mut state = DeviceState::new(u64::from_le_bytes(fields.take()));
        state.newest_ms = fields.time();
        let [flags] = fields.take();
        state.alarmed = flags & 1 == 1;
        state.outlier = Running(fields.span());
        state.artifact = Running(fields.span());
        for vital in &mut state.vitals {
            *vital = fields.vital();
        }
        let sound = flags <= 1 && state.vitals.iter().all(VitalState::is_sound);
        if sound { Ok(state) } else { Err(StateError::Damaged) }
    }

    fn to_array(&self) -> [u8; STATE_BYTES] {
        let mut array = [0; STATE_BYTES];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            array[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&[STATE_VERSION]);
        put(&self.model.to_le_bytes());
        put(&self.newest_ms.unwrap_or(NEVER).to_le_bytes());
        put(&[u8::from(self.alarmed)]);
        for running in [&self.outlier, &self.artifact] {
            let (start, end) = running.0.map_or((NEVER, NEVER), |span| (span.start_ms, span.end_ms));
            put(&start.to_le_bytes());
            put(&end.to_le_bytes());
        }
        for v in &self.vitals {
            put(&v.seen_ms.unwrap_or(NEVER).to_le_bytes());
            put(&v.run_start_ms.to_le_bytes());
            put(&v.run.to_le_bytes());
            for value in [v.last, v.weight, v.shift, v.square, v.fast, v.slow, v.same, v.changed] {
                put(&value.to_le_bytes());
            }
        }
        array
    }
}

impl VitalState {
    /// Whether scoring can go on from these numbers.
    fn is_sound(&self) -> bool {
        let numbers = [self.last, self.weight, self.shift, self.square, self.fast, self.slow, self.same, self.changed];
        numbers.iter().all(|value| value.is_finite())
            && [self.weight, self.square, self.same, self.changed].iter().all(|value| *value >= 0.0)
    }
}

/// Fields of the stored form, from front to back. The array is exactly as long as the fields that are taken.
struct Fields<'a> {
    bytes: &'a [u8; STATE_BYTES],
    at: usize,
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut field = [0; N];
        field.copy_from_slice(&self.bytes[self.at..self.at + N]);
        self.at += N;
        field
    }

    fn int(&mut self) -> i64 {
        i64::from_le_bytes(self.take())
    }

    fn float(&mut self) -> f32 {
        f32::from_le_bytes(self.take())
    }

    fn time(&mut self) -> Option<i64> {
        Some(self.int()).filter(|&ms| ms != NEVER)
    }

    fn span(&mut self) -> Option<Span> {
        let (start, end_ms) = (self.time(), self.int());
        start.map(|start_ms| Span { start_ms, end_ms })
    }

    fn vital(&mut self) -> VitalState {
        VitalState {
            seen_ms: self.time(),
            run_start_ms: self.int(),
            run: u32::from_le_bytes(self.take()),
            last: self.float(),
            weight: self.float(),
            shift: self.float(),
            square: self.float(),
            fast: self.float(),
            slow: self.float(),
            same: self.float(),
            changed: self.float(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_fits_its_budget() {
        assert!(STATE_BYTES <= 512 && size_of::<DeviceState>() <= 512, "{}", size_of::<DeviceState>());
    }

    #[test]
    fn foreign_and_damaged_bytes_are_refused() {
        let mut bytes = Vec::new();
        DeviceState::new(7).to_bytes(&mut bytes);
        assert_eq!(bytes.len(), STATE_BYTES);
        assert_eq!(DeviceState::from_bytes(&[]).unwrap_err(), StateError::Length { found: 0 });
        assert!(matches!(DeviceState::from_bytes(&bytes[1..]), Err(StateError::Version { .. })));
        assert!(matches!(DeviceState::from_bytes(&bytes[..80]), Err(StateError::Length { found: 80 })));
        let mut newer = bytes.clone();
        newer[0] = 2;
        assert_eq!(DeviceState::from_bytes(&newer).unwrap_err(), StateError::Version { found: 2 });
        let mut not_a_number = bytes;
        not_a_number[STATE_BYTES - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        assert_eq!(DeviceState::from_bytes(&not_a_number).unwrap_err(), StateError::Damaged);
    }
}
