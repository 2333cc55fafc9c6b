//! The keys that are known, and a quick look whether one of them comes next.
//!
//! Packets of one make are alike: the same keys, in the same order, without spaces. To compare a key with the one that came
//! there in the packet before is cheaper than to look for its end and then for its name.

use super::Field;
use crate::reading::Vital;

/// A field and its key as it mostly stands in the text: in quotes, with its colon.
pub(super) struct Key {
    pub name: &'static str,
    pub field: Field,
    /// Bytes of its text.
    pub len: usize,
    /// Its text, then zeros.
    words: [u64; WORDS],
    /// All bits of the bytes that it has.
    masks: [u64; WORDS],
}

/// The longest, `"respiratory_rate":`, has 19 bytes.
const WORDS: usize = 3;

/// The fields of a reading. `readings` is not one of them.
pub(super) static KEYS: [Key; 10] = [
    Key::new("device_id", Field::Device),
    Key::new("timestamp", Field::Timestamp),
    Key::vital(Vital::HeartRate),
    Key::new("blood_pressure", Field::Pressure),
    Key::vital(Vital::Temperature),
    Key::vital(Vital::Spo2),
    Key::vital(Vital::RespiratoryRate),
    Key::new("seq", Field::Seq),
    Key::vital(Vital::Systolic),
    Key::vital(Vital::Diastolic),
];

/// Which of [`KEYS`] has this name.
pub(super) fn number(name: &str) -> Option<u8> {
    KEYS.iter().zip(0..).find_map(|(key, number)| (key.name == name).then_some(number))
}

impl Key {
    const fn vital(vital: Vital) -> Key {
        Key::new(vital.column(), Field::Vital(vital))
    }

    const fn new(name: &'static str, field: Field) -> Key {
        let mut text = [0u8; WORDS * 8];
        let len = name.len() + 3;
        (text[0], text[len - 2], text[len - 1]) = (b'"', b'"', b':');
        let (mut words, mut masks) = ([0; WORDS], [0; WORDS]);
        let mut at = 0;
        while at < len {
            if at > 0 && at < len - 2 {
                text[at] = name.as_bytes()[at - 1];
            }
            words[at / 8] |= (text[at] as u64) << (at % 8 * 8);
            masks[at / 8] |= 0xFF << (at % 8 * 8);
            at += 1;
        }
        Key { name, field, len, words, masks }
    }

    /// Whether `bytes` begin with its text. Where only a few bytes are left it says no for long ones.
    #[inline(always)]
    pub fn begins(&self, bytes: &[u8]) -> bool {
        let other = |at: usize, word: &[u8; 8]| (u64::from_le_bytes(*word) & self.masks[at]) ^ self.words[at];
        match bytes.as_chunks().0 {
            [a, b, c, ..] => other(0, a) | other(1, b) | other(2, c) == 0,
            // The last key of a packet is often a short one.
            [a, ..] if self.len <= 8 => other(0, a) == 0,
            _ => false,
        }
    }
}
