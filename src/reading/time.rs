//! Times as text and back, without allocation on the way in: the packet path reads one per reading.
//!
//! A time is milliseconds since 1970 in UTC. Text is RFC 3339; the calendar is the proleptic Gregorian one, by the
//! algorithms of Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms" (2013).

/// The last millisecond of the year 9999: later times have no RFC 3339 text.
pub const MAX_TIME_MS: i64 = 253_402_300_799_999;

/// One day.
pub const DAY_MS: i64 = 86_400_000;

/// Whether a time lies in the years 1970 to 9999, the only ones in which a reading can have been made.
pub fn is_sane_ms(ms: i64) -> bool {
    (0..=MAX_TIME_MS).contains(&ms)
}

/// Reads an RFC 3339 date and time as milliseconds since 1970 UTC, `None` where it isn't one.
///
/// The separator may be `T`, `t` or a space; the zone is `Z`, `z` or an offset of at most 23:59. Any number of fraction
/// digits is taken and those below a millisecond are dropped. Second 60 is the next minute's second 0.
pub fn parse_rfc3339_ms(text: &[u8]) -> Option<i64> {
    let (local_ms, zone) = parse_local(text)?;
    let offset_minutes = match zone {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (two(*h1, *h2)?, two(*m1, *m2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let offset = hours * 60 + minutes;
            if *sign == b'+' { offset } else { -offset }
        }
        _ => return None,
    };
    Some(local_ms - offset_minutes * 60_000)
}

/// Like [`parse_rfc3339_ms`], but a missing zone means UTC and a date alone is its midnight, as in many CSV files.
pub fn parse_lenient_ms(text: &[u8]) -> Option<i64> {
    if text.len() == 10 {
        return Some(parse_date(text)? * DAY_MS);
    }
    match parse_local(text)? {
        (local_ms, []) => Some(local_ms),
        _ => parse_rfc3339_ms(text),
    }
}

/// The text of a time, as `2026-11-23T05:00:00.000Z`.
pub fn format_rfc3339_ms(ms: i64) -> String {
    let (days, in_day) = (ms.div_euclid(DAY_MS), ms.rem_euclid(DAY_MS));
    let (year, month, day) = civil_from_days(days);
    let (h, m, s, milli) = (in_day / 3_600_000, in_day / 60_000 % 60, in_day / 1000 % 60, in_day % 1000);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{milli:03}Z")
}

/// The text of the day that a time lies in, as `2026-11-23`.
pub fn format_day(ms: i64) -> String {
    let (year, month, day) = civil_from_days(ms.div_euclid(DAY_MS));
    format!("{year:04}-{month:02}-{day:02}")
}

/// Date and time of day as if in UTC, and what follows them: the zone.
fn parse_local(text: &[u8]) -> Option<(i64, &[u8])> {
    let (date, rest) = text.split_at_checked(10)?;
    let [b'T' | b't' | b' ', h1, h2, b':', m1, m2, b':', s1, s2, rest @ ..] = rest else { return None };
    let (hour, minute, second) = (two(*h1, *h2)?, two(*m1, *m2)?, two(*s1, *s2)?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (milli, zone) = match rest {
        [b'.', fraction @ ..] => {
            let digits = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
            let milli = fraction[..digits].iter().chain(b"00").take(3).fold(0, |ms, b| ms * 10 + i64::from(b - b'0'));
            (digits > 0).then_some((milli, &fraction[digits..]))?
        }
        zone => (0, zone),
    };
    // A leap second belongs to the next minute, fraction or not.
    Some((parse_date(date)? * DAY_MS + ((hour * 60 + minute) * 60 + second) * 1000 + milli, zone))
}

/// Days since 1970 of a date written `2026-11-23`.
fn parse_date(text: &[u8]) -> Option<i64> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text else { return None };
    let (year, month, day) = (two(*y1, *y2)? * 100 + two(*y3, *y4)?, two(*m1, *m2)?, two(*d1, *d2)?);
    let last = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => return None,
    };
    (1..=last).contains(&day).then(|| days_from_civil(year, month, day))
}

fn two(tens: u8, units: u8) -> Option<i64> {
    (tens.is_ascii_digit() && units.is_ascii_digit()).then(|| i64::from(tens - b'0') * 10 + i64::from(units - b'0'))
}

/// Hinnant's `days_from_civil`, for years from 0 on.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Hinnant's `civil_from_days`: year, month, day.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, SecondsFormat, Utc};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms_of_rfc3339_are_read() {
        let base = 1_795_410_000_000;
        for (text, ms) in [
            ("2026-11-23T05:00:00.000Z", base),
            ("2026-11-23T05:00:00Z", base),
            ("2026-11-23t05:00:00z", base),
            ("2026-11-23 05:00:00Z", base),
            ("2026-11-23T05:00:00.1Z", base + 100),
            ("2026-11-23T05:00:00.123456789012Z", base + 123),
            ("2026-11-23T07:30:00.5+02:30", base + 500),
            ("2026-11-22T23:00:00-06:00", base),
            ("2026-11-23T04:59:60Z", base),
            ("1970-01-01T00:00:00Z", 0),
            ("9999-12-31T23:59:59.999Z", MAX_TIME_MS),
            ("2024-02-29T00:00:00Z", 1_709_164_800_000),
        ] {
            assert_eq!(parse_rfc3339_ms(text.as_bytes()), Some(ms), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_time_is_refused() {
        for text in [
            "",
            "yesterday",
            "2026-11-23",
            "2026-11-23T05:00:00",
            "2026-11-23T05:00Z",
            "2026-11-23T05:00:00.Z",
            "2026-11-23T05:00:00,5Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2026-11-23T24:00:00Z",
            "2026-11-23T05:60:00Z",
            "2026-11-23T05:00:61Z",
            "2026-11-23T05:00:00+24:00",
            "2026-11-23T05:00:00+0200",
            "2026-11-23T05:00:00ZZ",
            " 2026-11-23T05:00:00Z",
            "+026-11-23T05:00:00Z",
            "2026-11-23T05:00:00é",
        ] {
            assert_eq!(parse_rfc3339_ms(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn files_may_leave_out_the_zone() {
        assert_eq!(parse_lenient_ms(b"1970-01-02"), Some(DAY_MS));
        assert_eq!(parse_lenient_ms(b"1970-01-02 00:00:01.25"), Some(DAY_MS + 1250));
        assert_eq!(parse_lenient_ms(b"1970-01-02T01:00:00+01:00"), Some(DAY_MS));
        assert_eq!(parse_lenient_ms(b"1970-01-02 00:00"), None);
    }

    #[test]
    fn years_that_rfc3339_cannot_write_do_not_panic() {
        for ms in [i64::MIN, -1, MAX_TIME_MS + 1, i64::MAX] {
            assert!(!is_sane_ms(ms));
            assert!(format_rfc3339_ms(ms).ends_with('Z'));
        }
    }

    proptest! {
        #[test]
        fn text_and_back_agrees_with_chrono(ms in 0..=MAX_TIME_MS, offset_min in -1439i32..=1439) {
            let text = format_rfc3339_ms(ms);
            let there = DateTime::<Utc>::from_timestamp_millis(ms).unwrap();
            prop_assert_eq!(&text, &there.to_rfc3339_opts(SecondsFormat::Millis, true));
            prop_assert_eq!(parse_rfc3339_ms(text.as_bytes()), Some(ms));
            prop_assert_eq!(&format_day(ms), &text[..10]);
            let zone = chrono::FixedOffset::east_opt(offset_min * 60).unwrap();
            let local = there.with_timezone(&zone).to_rfc3339_opts(SecondsFormat::Millis, false);
            if local.as_bytes()[0] != b'+' {
                prop_assert_eq!(parse_rfc3339_ms(local.as_bytes()), Some(ms), "{}", local);
            }
        }

        /// Where both read a text they read the same; we read all that chrono does, but for its laxer forms.
        #[test]
        fn readers_agree_on_text_like_times(text in "[0-9]{4}-[01][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{1,12})?([Zz]|[+-][0-2][0-9]:[0-6][0-9])") {
            let chrono = DateTime::parse_from_rfc3339(&text).ok().map(|t| t.timestamp_millis());
            let ours = parse_rfc3339_ms(text.as_bytes());
            // chrono refuses second 60 elsewhere than it can be, and keeps it inside its own second.
            if !text[17..].starts_with("60") {
                prop_assert_eq!(ours, chrono);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = parse_rfc3339_ms(&bytes);
            let _ = parse_lenient_ms(&bytes);
        }
    }
}
