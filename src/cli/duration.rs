//! Durations on the command line: `60`, `90s`, `5m`, `12h`, `3d`, `1h30m`. Bare numbers are seconds.

use std::time::Duration;

/// The longest duration that is taken: a hundred years.
const LONGEST_S: f64 = 100.0 * 365.25 * 86_400.0;

/// A duration from its text: numbers with units (`ms`, `s`, `m`, `h`, `d`, `w`), or a bare number of seconds.
///
/// # Errors
/// When the text is no duration, or is longer than a hundred years.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let wrong = || format!("`{text}` is no duration: write 60, 90s, 5m, 12h, 3d or 1h30m");
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    if !text.is_empty() && text.chars().all(is_number) {
        return text.parse().map_err(|_| wrong()).and_then(|seconds| limited(seconds, text));
    }
    let mut seconds = 0.0;
    let mut rest = text;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c| !is_number(c)).unwrap_or(rest.len()));
        let (unit, after) = after.split_at(after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len()));
        let number: f64 = number.parse().map_err(|_| wrong())?;
        seconds += number
            * match unit {
                "ms" => 0.001,
                "s" => 1.0,
                "m" | "min" => 60.0,
                "h" => 3_600.0,
                "d" => 86_400.0,
                "w" => 604_800.0,
                _ => return Err(wrong()),
            };
        rest = after;
    }
    limited(seconds, text)
}

/// How often something is done: a second or more.
///
/// # Errors
/// When the text is no duration, or is shorter.
pub fn parse_period(text: &str) -> Result<Duration, String> {
    let period = parse_duration(text)?;
    if period < Duration::from_secs(1) { Err("must be 1 second or longer".to_owned()) } else { Ok(period) }
}

/// A duration in words, to its greatest whole unit: `1 d`, `90 s`.
pub fn words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    for (unit, length) in [("d", 86_400), ("h", 3_600), ("min", 60)] {
        if seconds >= length && seconds.is_multiple_of(length) {
            return format!("{} {unit}", seconds / length);
        }
    }
    format!("{seconds} s")
}

/// A duration as [`parse_duration`] reads it, in its greatest whole unit: `30d`, `90s`, `250ms`.
pub fn short(duration: Duration) -> String {
    if duration.subsec_nanos() > 0 { format!("{}ms", duration.as_millis()) } else { words(duration).replace(' ', "") }
}

fn limited(seconds: f64, text: &str) -> Result<Duration, String> {
    if !(0.0..=LONGEST_S).contains(&seconds) {
        return Err(format!("`{text}` is longer than a hundred years"));
    }
    // To the microsecond, so that 0.1s is a tenth of a second.
    Ok(Duration::from_micros((seconds * 1e6).round() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_told_in_whole_units() {
        let told = |s| words(Duration::from_secs(s));
        assert_eq!([told(86_400), told(7_200), told(90), told(120), told(0)], ["1 d", "2 h", "90 s", "2 min", "0 s"]);
        assert!(parse_period("0.5").is_err() && parse_period("1").is_ok());
    }

    #[test]
    fn durations_are_read() {
        let cases: [(&str, u64); 11] = [
            ("60", 60_000),
            ("0.5", 500),
            ("90s", 90_000),
            ("250ms", 250),
            ("5m", 300_000),
            ("5min", 300_000),
            ("1.5h", 5_400_000),
            ("3d", 259_200_000),
            ("2w", 1_209_600_000),
            ("1h30m", 5_400_000),
            (" 0 ", 0),
        ];
        for (text, ms) in cases {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", " ", "s", "-5", "5 m", "5x", "1h30", "1..5", ".", "1e9", "inf", "NaN", "9999999d", "5mm", "五"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
