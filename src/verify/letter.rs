//! Which readings a dead letter was: its times and counts, as far as its payload still says them.

use serde_json::Value;

use crate::reading::time::{is_sane_ms, parse_rfc3339_ms};

/// What is known of one reading: its `ts`, milliseconds since 1970 UTC, and its `seq`.
pub(super) type Known = (Option<i64>, Option<i64>);

/// The readings that a payload holds; at least one, of which nothing may be known.
pub(super) fn readings(payload: &[u8]) -> Vec<Known> {
    match serde_json::from_slice(payload) {
        Ok(Value::Object(packet)) => match packet.get("readings") {
            Some(Value::Array(readings)) if !readings.is_empty() => readings.iter().map(known).collect(),
            _ => vec![known(&Value::Object(packet))],
        },
        _ => vec![(None, None)],
    }
}

fn known(reading: &Value) -> Known {
    let time = match reading.get("timestamp").or_else(|| reading.get("ts")) {
        Some(Value::String(text)) => parse_rfc3339_ms(text.as_bytes()),
        Some(number) => whole(number),
        None => None,
    };
    (time.filter(|ms| is_sane_ms(*ms)), reading.get("seq").and_then(whole))
}

fn whole(number: &Value) -> Option<i64> {
    let float = || number.as_f64().filter(|f| f.fract() == 0.0 && f.abs() <= (1_i64 << 53) as f64).map(|f| f as i64);
    number.as_i64().or_else(float)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_says_what_it_can() {
        let at = 1_795_410_000_000;
        let whole = br#"{"timestamp":"2026-11-23T05:00:00Z","seq":7,"heart_rate":"x"}"#;
        assert_eq!(readings(whole), [(Some(at), Some(7))]);
        let batch = br#"{"readings":[{"ts":1795410000000},{"seq":8.0,"timestamp":-1},5]}"#;
        assert_eq!(readings(batch), [(Some(at), None), (None, Some(8)), (None, None)]);
        for nothing in [&b"\xff"[..], b"", b"[1]", b"{\"timestamp\":\"2026", b"{}", b"{\"readings\":[]}"] {
            assert_eq!(readings(nothing), [(None, None)]);
        }
    }
}
