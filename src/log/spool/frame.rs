//! One record as bytes in a segment.
//!
//! ```text
//! length u32 | crc32 u32 | offset i64 | arrived_ms i64 | device length u16 | device | payload
//! ```
//!
//! All numbers are little-endian. `length` counts what follows the checksum, and the checksum covers the length too, so
//! that a run of zeros (what a power cut leaves of a file that had grown) is never taken for a record. The offset stands
//! in every record, so a log may have holes: offsets that were given to records whose write failed are not used again.

use crate::reading::MAX_PACKET_BYTES;

/// The longest payload that is kept whole, and one byte: a longer one is cut to this, by which it is still known to be
/// too large.
pub const MAX_PAYLOAD: usize = MAX_PACKET_BYTES + 1;

/// The longest device name that is kept; MQTT topics are not longer, and valid ids are much shorter.
pub const MAX_DEVICE: usize = u16::MAX as usize;

/// Length and checksum.
const HEADER: usize = 8;
/// Offset, arrival and the device's length.
const FIXED: usize = 18;
/// The longest frame.
pub const MAX_FRAME: usize = HEADER + FIXED + MAX_DEVICE + MAX_PAYLOAD;

/// A record, borrowed from the bytes that it was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    pub offset: i64,
    /// Milliseconds since 1970 UTC.
    pub arrived_ms: i64,
    pub device: &'a str,
    pub payload: &'a [u8],
}

/// What stands at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A record, and the length of its frame in bytes.
    Frame(Frame<'a>, usize),
    /// The beginning of a record.
    Partial,
    /// No record, and why.
    Damaged(&'static str),
}

/// The part of `device` and of `payload` that a record keeps.
pub fn kept<'a>(device: &'a str, payload: &'a [u8]) -> (&'a str, &'a [u8]) {
    let device = &device[..device.floor_char_boundary(MAX_DEVICE)];
    (device, &payload[..payload.len().min(MAX_PAYLOAD)])
}

/// The length in bytes of the frame that [`encode`] makes of these.
pub fn encoded_len(device: &str, payload: &[u8]) -> usize {
    let (device, payload) = kept(device, payload);
    HEADER + FIXED + device.len() + payload.len()
}

/// Appends a record to `out`, cut to what [`kept`] leaves of it.
pub fn encode(out: &mut Vec<u8>, offset: i64, arrived_ms: i64, device: &str, payload: &[u8]) {
    let (device, payload) = kept(device, payload);
    let start = out.len();
    let length = (FIXED + device.len() + payload.len()) as u32;
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&offset.to_le_bytes());
    out.extend_from_slice(&arrived_ms.to_le_bytes());
    out.extend_from_slice(&(device.len() as u16).to_le_bytes());
    out.extend_from_slice(device.as_bytes());
    out.extend_from_slice(payload);
    let crc = checksum(length, &out[start + HEADER..]);
    out[start + 4..start + HEADER].copy_from_slice(&crc.to_le_bytes());
}

/// The record at the beginning of `bytes`.
pub fn decode(bytes: &[u8]) -> Decoded<'_> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
        return Decoded::Partial;
    };
    let [l0, l1, l2, l3, c0, c1, c2, c3] = *header;
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    let size = length as usize;
    if !(FIXED..=MAX_FRAME - HEADER).contains(&size) {
        return Decoded::Damaged("a record of an impossible length");
    }
    let Some(body) = rest.get(..size) else {
        return Decoded::Partial;
    };
    if checksum(length, body) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Decoded::Damaged("a checksum that does not match");
    }
    match body_of(body) {
        Some(frame) => Decoded::Frame(frame, HEADER + size),
        None => Decoded::Damaged("a record with an impossible device"),
    }
}

fn body_of(body: &[u8]) -> Option<Frame<'_>> {
    let (offset, rest) = body.split_first_chunk()?;
    let (arrived_ms, rest) = rest.split_first_chunk()?;
    let (device_len, rest) = rest.split_first_chunk()?;
    let (device, payload) = rest.split_at_checked(u16::from_le_bytes(*device_len) as usize)?;
    Some(Frame {
        offset: i64::from_le_bytes(*offset),
        arrived_ms: i64::from_le_bytes(*arrived_ms),
        device: std::str::from_utf8(device).ok()?,
        payload,
    })
}

fn checksum(length: u32, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            offset in 0..i64::MAX,
            arrived_ms in any::<i64>(),
            device in "\\PC{0,40}",
            payload in prop::collection::vec(any::<u8>(), 0..300),
            rest in prop::collection::vec(any::<u8>(), 0..30),
        ) {
            let mut bytes = Vec::new();
            encode(&mut bytes, offset, arrived_ms, &device, &payload);
            let size = bytes.len();
            prop_assert_eq!(size, encoded_len(&device, &payload));
            bytes.extend_from_slice(&rest);
            let frame = Frame { offset, arrived_ms, device: &device, payload: &payload };
            prop_assert_eq!(decode(&bytes), Decoded::Frame(frame, size));
            for cut in 0..size {
                prop_assert_eq!(decode(&bytes[..cut]), Decoded::Partial);
            }
        }

        #[test]
        fn a_changed_bit_is_noticed(payload in prop::collection::vec(any::<u8>(), 0..60), bit in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            encode(&mut bytes, 7, 8, "device_1", &payload);
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!matches!(decode(&bytes), Decoded::Frame(..)));
        }

        #[test]
        fn any_bytes_decode_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(!matches!(decode(&bytes), Decoded::Frame(..)));
        }
    }

    #[test]
    fn zeros_are_not_a_record() {
        assert!(matches!(decode(&[0; 64]), Decoded::Damaged(_)));
    }

    #[test]
    fn what_is_too_long_is_cut_and_still_known_to_be_too_long() {
        let device = "ä".repeat(40_000);
        let payload = vec![b'x'; 200_000];
        let mut bytes = Vec::new();
        encode(&mut bytes, 1, 2, &device, &payload);
        let Decoded::Frame(frame, size) = decode(&bytes) else { panic!("{:?}", decode(&bytes)) };
        assert_eq!((size, bytes.len()), (encoded_len(&device, &payload), size));
        assert_eq!(frame.device.len(), 65_534);
        assert_eq!(frame.payload.len(), MAX_PACKET_BYTES + 1);
        assert!(size <= MAX_FRAME);
    }
}
