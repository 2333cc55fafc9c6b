//! Where a packet ends, and what is kept of one that is too long.

use bytes::BytesMut;

/// The length of the packet that `input` begins with; `None` where its length is not there yet, more than any packet's
/// where it has no end.
pub fn packet_len(input: &[u8]) -> Option<usize> {
    if let Some((rest, length)) = varint(input.get(1..)?) {
        return Some(1 + length + rest);
    }
    (input.len() > 4).then_some(usize::MAX)
}

/// A number of variable length and its length in bytes; `None` where it is not complete.
pub fn varint(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (place, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((value, place + 1));
        }
    }
    None
}

/// The beginning of a longer packet as a packet of its own.
pub fn cut(packet: &[u8]) -> BytesMut {
    let length_bytes = varint(packet.get(1..).unwrap_or_default()).map_or(0, |(_, length)| length);
    let body = packet.get(1 + length_bytes..).unwrap_or_default();
    let mut whole = BytesMut::with_capacity(packet.len());
    whole.extend_from_slice(packet.get(..1).unwrap_or_default());
    let mut rest = body.len();
    loop {
        let more = if rest > 0x7f { 0x80 } else { 0 };
        whole.extend_from_slice(&[(rest & 0x7f) as u8 | more]);
        rest >>= 7;
        if rest == 0 {
            break;
        }
    }
    whole.extend_from_slice(body);
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_told_apart_by_their_lengths() {
        assert_eq!(packet_len(&[]), None);
        assert_eq!(packet_len(&[0x30]), None);
        assert_eq!(packet_len(&[0xc0, 0]), Some(2));
        assert_eq!(packet_len(&[0x30, 0x80]), None);
        assert_eq!(packet_len(&[0x30, 0x80, 0x01]), Some(3 + 128));
        assert_eq!(packet_len(&[0x30, 0xff, 0xff, 0xff, 0x7f]), Some(5 + 268_435_455));
        assert_eq!(packet_len(&[0x30, 0xff, 0xff, 0xff]), None);
        assert_eq!(packet_len(&[0x30, 0xff, 0xff, 0xff, 0xff]), Some(usize::MAX));
    }
}
