//! Moments on the command line: `24h` (that long ago), `2026-01-31`, `2026-01-31T05:00:00Z`, `now`.

use std::{fmt, time::Duration};

use super::duration::{parse_duration, short};
use crate::reading::time::{format_rfc3339_ms, is_sane_ms, parse_lenient_ms};

/// A moment, in words that are given their meaning when the command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Milliseconds since 1970 UTC.
    At(i64),
    /// So many milliseconds before now.
    Ago(i64),
}

impl Moment {
    /// Milliseconds since 1970 UTC, where it is `now_ms`.
    pub fn ms(self, now_ms: i64) -> i64 {
        match self {
            Moment::At(ms) => ms,
            Moment::Ago(ms) => now_ms.saturating_sub(ms),
        }
    }
}

/// As [`parse_moment`] reads it.
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Moment::At(ms) => f.write_str(&format_rfc3339_ms(ms)),
            Moment::Ago(0) => f.write_str("now"),
            Moment::Ago(ms) => f.write_str(&short(Duration::from_millis(ms.unsigned_abs()))),
        }
    }
}

/// A moment from its text: a duration before now (`24h`, `7d`, bare seconds), `now`, a day in UTC (its start), or a time
/// in RFC 3339, in UTC where it names no zone.
///
/// # Errors
/// When the text is none of these, or a time outside the years 1970 to 9999.
pub fn parse_moment(text: &str) -> Result<Moment, String> {
    let text = text.trim();
    if text == "now" {
        return Ok(Moment::Ago(0));
    }
    if let Ok(ago) = parse_duration(text) {
        return Ok(Moment::Ago(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX)));
    }
    match parse_lenient_ms(text.as_bytes()).filter(|ms| is_sane_ms(*ms)) {
        Some(ms) => Ok(Moment::At(ms)),
        None => Err(format!("`{text}` is no moment: write 24h, 7d, 2026-01-31, 2026-01-31T05:00:00Z or now")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read() {
        let now = 2_000_000_000_000;
        let cases = [
            ("24h", now - 86_400_000),
            ("90", now - 90_000),
            ("1d12h", now - 129_600_000),
            ("now", now),
            ("2023-11-14", 1_699_920_000_000),
            ("2023-11-14T22:13:20Z", 1_700_000_000_000),
            ("2023-11-14 22:13:20", 1_700_000_000_000),
            ("2023-11-14T23:13:20+01:00", 1_700_000_000_000),
        ];
        for (text, ms) in cases {
            let moment = parse_moment(text).unwrap();
            assert_eq!(moment.ms(now), ms, "{text}");
            assert_eq!(parse_moment(&moment.to_string()), Ok(moment), "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in ["", "yesterday", "2023-13-01", "2023-02-30", "24", "1e3", "-1h", "2023", "12:00", "1969-12-31"] {
            let read = parse_moment(text);
            // A bare number is seconds.
            assert_eq!(read.is_ok(), matches!(text, "24" | "2023"), "{text}: {read:?}");
        }
    }
}
