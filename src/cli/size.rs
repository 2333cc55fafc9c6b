//! Sizes of memory on the command line: `512MB`, `2GiB`, `1g`. Bare numbers are bytes.

/// A size from its text, in bytes. Units are powers of 1024, however they are written.
///
/// # Errors
/// When the text is no size, or is over 16 TB.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let wrong = || format!("`{text}` is no size: write 512MB, 2GB or a number of bytes");
    let (number, unit) =
        text.trim().split_at(text.trim().find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.trim().len()));
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    let exponent = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        _ => return Err(wrong()),
    };
    let bytes = number * 1024f64.powi(exponent);
    if (0.0..=16.0 * 1024f64.powi(4)).contains(&bytes) { Ok(bytes as usize) } else { Err(wrong()) }
}

/// What this process may use: the container's limit where it has one, else the machine's memory; `None` where neither is
/// known.
pub fn memory_here() -> Option<u64> {
    let number = |path: &str| std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok();
    let total = meminfo.as_deref().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
    });
    let container =
        number("/sys/fs/cgroup/memory.max").or_else(|| number("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
    total.into_iter().chain(container).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_size("512MB"), Ok(512 << 20));
        assert_eq!(parse_size("1.5g"), Ok(3 << 29));
        assert_eq!(parse_size(" 64 kib "), Ok(64 << 10));
        assert_eq!(parse_size("1000"), Ok(1000));
        for wrong in ["", "MB", "12 parsecs", "-1", "1e9TB", "NaN"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
