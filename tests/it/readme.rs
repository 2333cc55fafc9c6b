//! The README's commands, run in their order: what they print must be what stands there.
//!
//! Every `$ …` line of a block marked `console` is run by a shell in one temporary folder, with the program in its path. It
//! must succeed, and print the lines that follow it. In these, `…` stands for anything within a line, and a line of its
//! own for any number of lines. What differs from run to run (dates, clock times, seconds, sizes in bytes, models' names) is
//! compared only as such, so that the README can show what really was printed.
//!
//! Blocks marked `console no-run` (several terminals, `git`, `cargo`) are not run; that their `vitals` commands are ones
//! is checked by asking for `--help`.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");

/// More blocks than these should not escape being run.
const MOST_NOT_RUN: usize = 9;

/// No command of the README takes longer, even beside other tests.
const PATIENCE: Duration = Duration::from_secs(120);

/// A command of the README and what it is said to print.
#[derive(Debug)]
struct Example {
    line: usize,
    command: String,
    expected: Vec<String>,
    run: bool,
}

/// The commands of a Markdown text, and how many blocks are not to be run.
fn examples(text: &str) -> (Vec<Example>, usize) {
    let (mut found, mut not_run) = (Vec::<Example>::new(), 0);
    let mut block = None;
    let mut lines = text.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        match (block, line.strip_prefix("```")) {
            (None, Some("console")) => block = Some(true),
            (None, Some("console no-run")) => (block, not_run) = (Some(false), not_run + 1),
            (None, _) => {}
            (Some(_), Some(_)) => block = None,
            (Some(run), None) => match line.strip_prefix("$ ") {
                Some(command) => {
                    let mut command = command.to_owned();
                    // A quotation may go on over lines.
                    while command.matches('\'').count() % 2 == 1 {
                        let (more, _) =
                            lines.next().unwrap_or_else(|| panic!("README line {number}: an open quotation"));
                        command = format!("{command}\n{more}");
                    }
                    found.push(Example { line: number, command, expected: Vec::new(), run });
                }
                None => match found.last_mut() {
                    Some(example) => example.expected.push(line.to_owned()),
                    None => panic!("README line {number}: output without a command"),
                },
            },
        }
    }
    (found, not_run)
}

/// Runs a command in `folder`; gives whether it succeeded and what it printed.
fn run(folder: &Path, command: &str) -> (bool, String) {
    let program = Path::new(env!("CARGO_BIN_EXE_vitals")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap_or_default());
    // Both streams into one file: nobody has to read them while the command runs, and they keep their order.
    let printed = tempfile::NamedTempFile::new().unwrap();
    let stream = |file: &File| Stdio::from(file.try_clone().unwrap());
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).current_dir(folder).env("PATH", path).env("NO_COLOR", "1");
    for variable in ["COLUMNS", "VITALS_LAKE", "VITALS_BROKER", "VITALS_LOG", "VITALS_LOG_FORMAT"] {
        shell.env_remove(variable);
    }
    shell.stdin(Stdio::null()).stdout(stream(printed.as_file())).stderr(stream(printed.as_file()));
    let (mut child, begun) = (shell.spawn().unwrap(), Instant::now());
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if begun.elapsed() > PATIENCE => {
                child.kill().unwrap();
                break child.wait().unwrap();
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    (status.success(), String::from_utf8_lossy(&fs::read(printed.path()).unwrap()).into_owned())
}

/// A line with all that differs from run to run replaced by its kind, and runs of spaces by one.
fn normal(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line.trim();
    while let Some(first) = rest.chars().next() {
        let inside = out.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '.');
        let (kind, length) = match if inside { None } else { changing(rest) } {
            Some((kind, length)) => (kind, length),
            None if first == ' ' => (" ", rest.len() - rest.trim_start_matches(' ').len()),
            None => (&rest[..first.len_utf8()], first.len_utf8()),
        };
        out.push_str(kind);
        rest = &rest[length..];
    }
    out
}

/// The kind and length of what differs from run to run, where `text` begins with such.
fn changing(text: &str) -> Option<(&'static str, usize)> {
    if let Some(date) = shaped(text, "0000-00-00") {
        let clock = text[date..].strip_prefix(['T', ' ']).and_then(clock).map_or(0, |length| length + 1);
        return Some(if clock > 0 { ("<time>", date + clock) } else { ("<date>", date) });
    }
    if let Some(length) = clock(text) {
        return Some(("<time>", length));
    }
    if let Some(name) = text.strip_prefix("m-") {
        let digits = name.bytes().take_while(u8::is_ascii_hexdigit).count();
        return (digits == 12).then_some(("<model>", 2 + digits));
    }
    let number = text.bytes().take_while(|b| b.is_ascii_digit() || matches!(b, b'.' | b',')).count();
    let (kind, unit) = match text[number..].strip_prefix(' ')? {
        after if number > 0 => {
            [("<seconds>", "s"), ("<size>", "B"), ("<size>", "KiB"), ("<size>", "MiB"), ("<size>", "bytes")]
                .into_iter()
                .find(|(_, unit)| {
                    let end = after.strip_prefix(unit);
                    end.is_some_and(|end| !end.starts_with(|c: char| c.is_ascii_alphanumeric()))
                })?
        }
        _ => return None,
    };
    Some((kind, number + 1 + unit.len()))
}

/// The length of a time of day at the beginning of `text`, like `05:00:00` or `05:00:00.123Z`.
fn clock(text: &str) -> Option<usize> {
    let mut length = shaped(text, "00:00:00")?;
    length += shaped(&text[length..], ".000").unwrap_or(0);
    Some(length + usize::from(text[length..].starts_with('Z')))
}

/// The length of `shape` where `text` begins like it, with digits for its zeros.
fn shaped(text: &str, shape: &str) -> Option<usize> {
    let like = |(have, want): (u8, u8)| if want == b'0' { have.is_ascii_digit() } else { have == want };
    (text.len() >= shape.len() && text.bytes().zip(shape.bytes()).all(like)).then_some(shape.len())
}

/// Whether a line is as expected; `…` is any text.
fn line_matches(expected: &str, line: &str) -> bool {
    let (expected, line) = (normal(expected), normal(line));
    let mut parts = expected.split('…').map(str::trim);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

/// Whether lines are as expected; a line `…` is any number of lines.
fn matches(expected: &[String], lines: &[&str]) -> bool {
    match expected.split_first() {
        None => lines.is_empty(),
        Some((any, expected)) if any.trim() == "…" => (0..=lines.len()).any(|n| matches(expected, &lines[n..])),
        Some((one, expected)) => {
            lines.split_first().is_some_and(|(line, lines)| line_matches(one, line) && matches(expected, lines))
        }
    }
}

/// Comes back when it is not about midnight UTC: a run that reaches over it prints other days than one that does not.
fn away_from_midnight() {
    const DAY_S: u64 = 86_400;
    const MARGIN_S: u64 = 60;
    let of_day = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() % DAY_S;
    let wait = (MARGIN_S + DAY_S - of_day) % DAY_S;
    if wait < 2 * MARGIN_S {
        std::thread::sleep(Duration::from_secs(wait));
    }
}

#[test]
fn the_readme_shows_what_its_commands_print() {
    let text = fs::read_to_string(README).unwrap();
    let (examples, not_run) = examples(&text);
    assert!(not_run <= MOST_NOT_RUN, "{not_run} blocks of the README are not run");
    assert!(examples.iter().any(|example| example.run));
    away_from_midnight();
    let folder = tempfile::tempdir().unwrap();
    for Example { line, command, expected, .. } in examples.iter().filter(|example| example.run) {
        let (success, printed) = run(folder.path(), command);
        let lines: Vec<&str> = printed.lines().collect();
        assert!(success, "README line {line}: `{command}` failed:\n{printed}");
        assert!(
            matches(expected, &lines),
            "README line {line}: `{command}` is said to print\n\n{}\n\nand prints\n\n{printed}",
            expected.join("\n")
        );
    }
}

#[test]
fn commands_that_the_readme_only_shows_are_commands() {
    let text = fs::read_to_string(README).unwrap();
    let (examples, _) = examples(&text);
    let folder = tempfile::tempdir().unwrap();
    for Example { line, command, .. } in examples.iter().filter(|e| !e.run && e.command.starts_with("vitals ")) {
        let (success, printed) = run(folder.path(), &format!("{command} --help"));
        assert!(success, "README line {line}: `{command}` is no command:\n{printed}");
    }
}

#[test]
fn files_that_the_readme_links_to_are_there() {
    let text = fs::read_to_string(README).unwrap();
    let targets = text.split("](").skip(1).filter_map(|after| after.split(')').next());
    for target in targets.filter(|target| !target.starts_with('#') && !target.contains("://")) {
        assert!(Path::new(README).with_file_name(target).exists(), "the README links to `{target}`");
    }
}

#[test]
fn what_differs_from_run_to_run_is_compared_by_its_kind() {
    let same = [
        ("closed 2026-11-23 (0.1 s)", "closed 2027-01-02 (12.0 s)"),
        ("a  2026-11-23 13:07:17.435Z   3h 1m", "a 2026-11-24 03:07:17Z  3h 1m"),
        ("2026-11-22T16:16:36.159Z,80", "2026-11-22T16:16:36.001Z,80"),
        ("train m-822cb8c94fc1 from", "train m-0123456789ab from"),
        ("3 rows · 894 B scanned · 0.02 s", "3 rows · 1.02 KiB scanned · 1.00 s"),
        ("stored 5 readings in … files", "stored 5 readings in 12 files"),
        ("{…\"cause\":\"fever\"…}", "{\"a\":1,\"cause\":\"fever\",\"b\":2}"),
    ];
    for (expected, line) in same {
        assert!(line_matches(expected, line), "{} {}", normal(expected), normal(line));
    }
    for (expected, line) in [("3 rows", "4 rows"), ("3 rows …", "4 rows x"), ("… of 10", "1 of 100"), ("a…b…c", "abd")]
    {
        assert!(!line_matches(expected, line), "{expected} {line}");
    }
    let expected = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    assert!(matches(&expected(&["a", "…", "d"]), &["a", "b", "c", "d"]));
    assert!(matches(&expected(&["a", "…"]), &["a"]));
    assert!(!matches(&expected(&["a", "…", "d"]), &["a", "b"]));
    assert!(!matches(&expected(&["a"]), &["a", "b"]));
}
