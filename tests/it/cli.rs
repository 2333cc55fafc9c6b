//! What people see: answers on standard output, everything else on standard error, and the exit code.

use std::{fs, io::Read, path::Path, process::Stdio};

use insta::assert_snapshot;
use tempfile::TempDir;
use vitals::{lake::now_ms, reading::time::format_rfc3339_ms};

use crate::program::{Ran, Up, interrupt, program, vitals};

/// What a command showed, without what differs from run to run: durations, bytes, and the name of the folder.
fn shown(folder: &Path, words: &[&str]) -> String {
    let Ran { code, out, err } = vitals(folder, words);
    let line = |line: &str| {
        let line = line.split(" · ").next().unwrap_or(line);
        let timed = line.rsplit_once(" (").filter(|(_, end)| end.ends_with(" s)"));
        timed.map_or(line, |(start, _)| start).trim_end().to_owned() + "\n"
    };
    let steady = |text: String| text.lines().map(line).collect::<String>();
    let (out, err) = (steady(out), steady(err));
    let folder = folder.canonicalize().unwrap();
    format!("exit {}\n{out}---\n{err}", code.unwrap_or(-1)).replace(folder.to_str().unwrap(), "FOLDER")
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A lake of two days of 2024: ten devices with a reading every ten minutes, one of which has a fast heart for two hours.
fn lake() -> TempDir {
    let folder = folder();
    let mut text = String::from("device_id,timestamp,heart_rate,temperature,ward\n");
    for device in 0..10 {
        for step in 0..288 {
            let fast = device == 7 && (200..212).contains(&step);
            let rate = if fast { 160 } else { 62 + device + (step * 7 + device) % 5 };
            let time = format_rfc3339_ms(1_709_251_200_000 + step * 600_000);
            text.push_str(&format!("device_{device},{time},{rate},36.{},W1\n", 5 + (step + device) % 3));
        }
    }
    text.push_str("device_1,soon,70,36.6,W1\n,2024-03-01T00:00:00Z,70,36.6,W1\n");
    fs::write(folder.path().join("readings.csv"), text).unwrap();
    assert_eq!(vitals(folder.path(), &["import", "readings.csv"]).code, Some(0));
    folder
}

/// The names in the list of commands of a help text.
fn commands_in(help: &str) -> Vec<String> {
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = list.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect()
}

#[test]
fn every_command_explains_itself_with_examples_first() {
    let folder = folder();
    let help = |words: &[&str]| {
        let ran = vitals(folder.path(), &[words, &["--help"]].concat());
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{words:?}");
        ran.out
    };
    let examples = |text: &str| text.lines().nth(2) == Some("Examples:");
    let all = help(&[]);
    assert!(examples(&all), "{all}");
    let commands = commands_in(&all);
    assert!(commands.len() >= 10, "{commands:?}");
    for command in &commands {
        let text = help(&[command]);
        assert!(examples(&text) && text.contains(&format!("  vitals {command}")), "{text}");
        // Those below may leave the examples to the command that they belong to.
        for below in commands_in(&text) {
            let own = help(&[command, &below]);
            assert!(examples(&own) || text.contains(&format!("  vitals {command} {below}")), "{own}");
        }
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "help leaves nothing behind");
}

#[test]
fn without_a_lake_the_next_command_is_named() {
    let folder = folder();
    assert_snapshot!(shown(folder.path(), &["query", "outliers"]), @r"
    exit 3
    ---
    error: there is no lake in `.vitals`
    hint: `vitals import FILE` makes one of your readings, `vitals up` takes those of devices, `vitals demo --keep .vitals` simulates some; `--lake DIR` names another
    ");
    fs::create_dir(folder.path().join("notes")).unwrap();
    let asked =
        ["train", "score", "compact", "ingest", "models list", "models show", "query devices", "query history a"];
    for words in asked {
        for lake in [".vitals", "notes"] {
            let words: Vec<&str> = words.split(' ').chain(["--lake", lake]).collect();
            let ran = vitals(folder.path(), &words);
            assert_eq!((ran.code, ran.out.as_str()), (Some(3), ""), "{words:?}");
            assert!(ran.err.contains(&format!("no lake in `{lake}`")) && ran.err.contains("vitals import"), "{ran:?}");
        }
    }
    assert!(!folder.path().join(".vitals").exists(), "asking makes no lake");
}

#[test]
fn an_empty_lake_says_what_fills_it() {
    let folder = folder();
    fs::create_dir_all(folder.path().join(".vitals/landing")).unwrap();
    assert_snapshot!(shown(folder.path(), &["query", "outliers"]), @r"
    exit 0
    ---
    0 episodes
    the lake `FOLDER/.vitals` is empty: fill it with `vitals import FILE`, or run `vitals up` and `vitals simulate`; `vitals demo` shows it all
    ");
    assert_snapshot!(shown(folder.path(), &["score"]), @r"
    exit 0
    ---
    the lake is empty: `vitals import FILE` or `vitals up` fill it
    ");
    for (words, code) in [
        ("query devices", 0),
        ("query history device_1", 3),
        ("compact --now", 0),
        ("train", 1),
        ("ingest", 0),
        ("models list", 0),
        ("models show", 0),
        ("models show m-0", 3),
        ("models promote m-0", 3),
        ("models check", 0),
        ("models check m-0", 3),
    ] {
        let ran = vitals(folder.path(), &words.split(' ').collect::<Vec<_>>());
        assert_eq!(ran.code, Some(code), "{words}: {ran:?}");
    }
}

#[test]
fn what_is_not_understood_is_exit_code_2() {
    let folder = lake();
    for words in [
        "",
        "fly",
        "models",
        "query",
        "query history",
        "import",
        "up --broker 0.0.0.0:1883",
        "up --broker nowhere",
        "up --window 0.5",
        "ingest --from http://a",
        "simulate --qos 3",
        "simulate --to kafka://127.0.0.1:1/x --broker 127.0.0.1:1",
        "simulate --speed 0",
        "train --since yesterday",
        "train --data readings.csv",
        "train --alarms-per-device-day 0",
        "score --out scores.csv",
        "demo --devices 0",
        "demo --duration 1h",
        "demo --episodes-per-device-day nan",
        "demo --alarms-per-device-day 1000",
        "demo --keep .vitals",
        "query outliers --since soon",
        "query outliers --output xml",
        "query outliers --readings --episodes",
    ] {
        let ran = vitals(folder.path(), &words.split_whitespace().collect::<Vec<_>>());
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{words}: {ran:?}");
        assert!(!ran.err.is_empty() && !ran.err.contains("panicked"), "{words}: {ran:?}");
    }
}

#[test]
fn who_compacts_a_lake_that_a_catalogue_shows_without_it_is_told() {
    let folder = lake();
    let compacted = || vitals(folder.path(), &["compact"]);
    assert!(!compacted().err.contains("catalogue"));
    fs::create_dir_all(folder.path().join(".vitals/cuts")).unwrap();
    fs::write(folder.path().join(".vitals/cuts/0000000001.parquet"), "").unwrap();
    let ran = compacted();
    assert!(ran.code == Some(0) && ran.err.contains("a catalogue shows this lake"), "{ran:?}");
}

#[test]
fn from_a_file_to_reasons() {
    let folder = folder();
    fs::rename(lake().path().join("readings.csv"), folder.path().join("readings.csv")).unwrap();
    let shown = |words: &[&str]| shown(folder.path(), words);
    assert_snapshot!(shown(&["import", "readings.csv"]), @r"
    exit 0
    ---
        import readings.csv: 2880 readings of 2 days, 2024-03-01 to 2024-03-02
      rejected 2 of 2882 rows: 1 no_device, 1 bad_timestamp
    hint: `vitals query sql 'SELECT * FROM dead_letters'` shows them
       ignored columns ward
    hint: `vitals train` learns what is normal and scores them
    ");
    assert_snapshot!(shown(&["query", "outliers"]), @r"
    exit 0
    ---
    0 episodes
    nothing has been scored yet: run `vitals score` (with the built-in model), or `vitals train` first
    ");
    let trained = vitals(folder.path(), &["train"]);
    assert_eq!((trained.code, trained.out.as_str()), (Some(0), ""));
    assert!(trained.err.contains("vitals query outliers"), "{trained:?}");
    assert_snapshot!(shown(&["import", "readings.csv"]), @r"
    exit 0
    ---
        import readings.csv: the lake has this file already, nothing added
    hint: `vitals train` learns what is normal and scores them
    ");
    // Nothing in the last day: what there is instead, and the flag that shows it.
    let empty = shown(&["query", "outliers"]);
    assert!(
        empty.contains("the newest is of 2024-03-02") && empty.contains("`--since 2024-03-02` shows it"),
        "{empty}"
    );
    let answer = vitals(folder.path(), &["query", "outliers", "--since", "2024-01-01", "--output", "json"]);
    let answer: serde_json::Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!(answer["schema_version"], 1);
    let episode = &answer["rows"][0];
    assert_eq!(
        (&episode["device_id"], &episode["started_at"]),
        (&"device_7".into(), &"2024-03-02T09:30:00.000Z".into())
    );
    assert_eq!((&episode["vital"], &episode["observed"]), (&"heart_rate".into(), &160.0.into()));
    assert!(episode["why"].as_str().is_some_and(|why| why.contains("heart rate 160 bpm")), "{episode}");
}

#[test]
fn sql_only_reads_and_only_the_tables() {
    let folder = lake();
    let (path, before) = (folder.path(), files(folder.path()));
    for sql in [
        "INSERT INTO readings SELECT * FROM readings",
        "COPY readings TO 'stolen.csv'",
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
        "CREATE TABLE t AS SELECT 1",
        "SELECT * FROM 'readings.csv'",
        "SELECT * FROM \"/etc/passwd\"",
        "SELECT 1; DROP TABLE readings",
        "SELECT 1; SELECT 2",
        "SELECT * INTO t FROM readings",
        "SET datafusion.execution.batch_size = 1",
        "EXPLAIN ANALYZE INSERT INTO readings SELECT * FROM readings",
        "",
    ] {
        let ran = vitals(path, &["query", "sql", sql]);
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{sql}: {ran:?}");
        assert!(ran.err.starts_with("error: "), "{sql}: {ran:?}");
    }
    assert_eq!(files(path), before);
    let ran = vitals(path, &["query", "sql", "SELECT count(*) AS n FROM readings", "--output", "csv"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "n\n2880\n"));
    let ran = vitals(path, &["query", "sql", "SELECT heart_rat FROM readings"]);
    assert!(ran.code == Some(1) && ran.err.contains("did you mean `heart_rate`"), "{ran:?}");
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path().display().to_string()),
        }
    }
    found.sort();
    found
}

#[test]
fn a_device_is_a_value_and_never_part_of_sql_or_a_path() {
    let folder = lake();
    for device in ["x' OR 1=1 --", "'; DROP TABLE readings; --", "../../etc/passwd", "$since", "dévice", "a\nb", "*"] {
        let ran = vitals(folder.path(), &["query", "history", device]);
        assert_eq!((ran.code, ran.out.as_str()), (Some(3), ""), "{device}: {ran:?}");
        assert!(ran.err.contains(&format!("no device `{device}`")), "{ran:?}");
        let ran = vitals(folder.path(), &["query", "outliers", "--since", "2024-01-01", "--device", device]);
        assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""), "{device}: {ran:?}");
    }
    let near = vitals(folder.path(), &["query", "history", "device-7"]);
    assert!(near.code == Some(3) && near.err.contains("did you mean `device_7`"), "{near:?}");
}

#[test]
fn a_damaged_file_is_named_and_left_out_by_queries_and_stops_everything_else() {
    let folder = lake();
    let run =
        files(&folder.path().join(".vitals/readings")).into_iter().find(|path| path.contains("2024-03-01")).unwrap();
    let key = run.split_once(".vitals/").unwrap().1;
    let whole = fs::read(&run).unwrap();
    let count = ["query", "sql", "SELECT count(*) AS n FROM readings", "--output", "csv"];
    for damaged in [&whole[..whole.len() / 2], &[], b"PAR1 something else"] {
        fs::write(&run, damaged).unwrap();
        let ran = vitals(folder.path(), &count);
        assert_eq!((ran.code, ran.out.as_str()), (Some(0), "n\n1440\n"), "{ran:?}");
        assert!(ran.err.contains(&format!("warning: left out `{key}`: ")), "{ran:?}");
        for words in ["train", "score"] {
            let ran = vitals(folder.path(), &[words]);
            assert!(ran.code == Some(1) && ran.err.contains(key) && !ran.err.contains("panicked"), "{words}: {ran:?}");
        }
    }
    fs::write(&run, &whole).unwrap();
    // A landing file: the two dead letters of the import.
    let landed = files(&folder.path().join(".vitals/landing")).remove(0);
    fs::write(&landed, "").unwrap();
    let key = landed.split_once(".vitals/").unwrap().1;
    let ran = vitals(folder.path(), &count);
    assert!(ran.code == Some(0) && ran.out == "n\n2880\n" && ran.err.contains(key), "{ran:?}");
    fs::write(folder.path().join("more.csv"), "device_id,timestamp,spo2\na,2024-03-01T00:00:00Z,97\n").unwrap();
    for words in [&["compact", "--now"][..], &["import", "more.csv"]] {
        let ran = vitals(folder.path(), words);
        assert!(ran.code == Some(1) && ran.err.contains(key), "{words:?}: {ran:?}");
    }
}

#[test]
fn what_can_not_be_written_is_named() {
    let folder = lake();
    let text = fs::read(folder.path().join("readings.csv")).unwrap();
    for words in [
        "import readings.csv --lake readings.csv",
        "import readings.csv --lake readings.csv/below",
        "up --broker 127.0.0.1:0 --lake readings.csv",
        "demo --devices 1 --duration 2h --keep readings.csv",
        "train --data readings.csv --out readings.csv",
    ] {
        let ran = vitals(folder.path(), &words.split(' ').collect::<Vec<_>>());
        assert!(ran.code == Some(1) && ran.err.contains("`readings.csv"), "{words}: {ran:?}");
    }
    let ran = vitals(folder.path(), &["score", "--data", "readings.csv", "--out", "nowhere/scores.csv"]);
    assert!(ran.code == Some(1) && ran.err.contains("writing `nowhere/scores.csv`"), "{ran:?}");
    for gone in [&["import", "gone.csv"][..], &["train", "--data", "gone.csv", "--out", "m"]] {
        let ran = vitals(folder.path(), gone);
        assert!(ran.code == Some(3) && ran.err.contains("can't read `gone.csv`"), "{ran:?}");
    }
    assert_eq!(fs::read(folder.path().join("readings.csv")).unwrap(), text);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_and_a_reader_that_leaves_is_none() {
    let folder = lake();
    for format in ["table", "json", "ndjson", "csv", "markdown", "parquet"] {
        let words = ["query", "sql", "SELECT * FROM readings", "--limit", "0", "--output", format];
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let ran: Ran = program(folder.path()).args(words).stdout(full).output().unwrap().into();
        assert!(ran.code == Some(1) && ran.err.contains("No space left"), "{format}: {ran:?}");

        // As `| head -c 9` does.
        let mut child =
            program(folder.path()).args(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut start = [0; 9];
        child.stdout.take().unwrap().read_exact(&mut start).unwrap();
        let ran: Ran = child.wait_with_output().unwrap().into();
        assert_eq!(ran.code, Some(0), "{format}: {ran:?}");
        assert!(!ran.err.contains("error") && !ran.err.contains("panicked"), "{format}: {ran:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_terminal_gets_text_and_colour_but_no_parquet() {
    use std::process::Command;

    let folder = lake();
    let on_a_terminal = |words: &str, no_colour: bool| {
        let line = format!("stty cols 60; {} query {words}", env!("CARGO_BIN_EXE_vitals"));
        let mut script = Command::new("script");
        script.args(["-qec", &line, "/dev/null"]).current_dir(folder.path()).stdin(Stdio::null()).env_remove("COLUMNS");
        match no_colour {
            true => script.env("NO_COLOR", "1"),
            false => script.env_remove("NO_COLOR"),
        };
        let output = script.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = on_a_terminal("devices --output parquet", false);
    assert!(code == Some(2) && text.contains("--out FILE") && !text.contains("PAR1"), "{text}");
    let (code, text) = on_a_terminal("history device_1", false);
    assert!(code == Some(0) && text.contains("\u{1b}["), "{text}");
    let (code, text) = on_a_terminal("sql 'SELECT *, 1 AS one, 2 AS two FROM readings LIMIT 9'", true);
    assert!(code == Some(0) && !text.contains("\u{1b}["), "{text}");
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("device_")).collect();
    assert!(rows.len() == 10 && rows.iter().all(|row| row.trim_end().chars().count() <= 60), "{text}");
    assert!(text.contains("table cut to 60 characters"), "{text}");
}

#[test]
fn a_port_or_a_spool_in_use_is_named() {
    let folder = folder();
    let up = Up::start(folder.path());
    let (busy, other) = (format!("127.0.0.1:{}", up.port), ["--broker", "127.0.0.1:0"]);
    let ran = vitals(folder.path(), &["up", "--lake", "another", "--broker", &busy, "--listen", "off"]);
    assert!(ran.code == Some(1) && ran.err.contains(&format!("{busy} is in use")), "{ran:?}");
    for words in [
        &["up", other[0], other[1], "--listen", "off"][..],
        &["ingest"],
        &["ingest", "--from", &format!("mqtt://{busy}")],
    ] {
        let ran = vitals(folder.path(), words);
        assert!(ran.code == Some(1) && ran.err.contains("is in use by process"), "{words:?}: {ran:?}");
    }
    assert_eq!(up.interrupt().code, Some(0));
    // The one that asked next gets it.
    assert_eq!(vitals(folder.path(), &["ingest"]).code, Some(0));
    for words in [&["simulate", "--broker", &busy][..], &["ingest", "--from", &format!("mqtt://{busy}")]] {
        let ran = vitals(folder.path(), words);
        assert!(ran.code == Some(1) && ran.err.contains(&busy), "{words:?}: {ran:?}");
    }
}

/// Waits until something is in the spool of a lake.
fn wait_for_packets(lake: &Path) {
    for _ in 0..600 {
        let logs = fs::read_dir(lake.join("spool")).into_iter().flatten().flatten();
        let sizes = logs.filter(|entry| entry.path().extension().is_some_and(|end| end == "log"));
        if sizes.flat_map(|entry| entry.metadata()).any(|file| file.len() > 2_000) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("nothing was published to the lake `{}`", lake.display());
}

#[test]
fn one_ctrl_c_ends_in_good_order() {
    let folder = folder();
    let up = Up::start(folder.path());
    let broker = format!("127.0.0.1:{}", up.port);
    let interrupted = |words: &[&str], lake: &str| -> Ran {
        let child = program(folder.path()).args(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for_packets(&folder.path().join(lake));
        interrupt(&child);
        child.wait_with_output().unwrap().into()
    };
    let words = ["simulate", "--devices", "3", "--interval", "0.1", "--batch", "1", "--broker", &broker];
    let ran = interrupted(&words, ".vitals");
    assert!(ran.code == Some(130) && ran.out.contains("interrupted before the end"), "{ran:?}");
    let acknowledged = ran.out.lines().find_map(|line| line.strip_prefix("acknowledged")).unwrap().trim();
    let said = up.interrupt();
    assert!(said.code == Some(0) && said.err.contains(&format!("stored {acknowledged} readings")), "{said:?} {ran:?}");

    let ran = interrupted(&["demo", "--devices", "200", "--duration", "60d", "--keep", "kept"], "kept");
    assert!(ran.code == Some(130) && ran.err.trim_end().ends_with("interrupted"), "{ran:?}");
    assert!(!ran.err.contains("ERROR"), "{ran:?}");
    // What was published is there, and the lake can be used.
    let ran = vitals(folder.path(), &["query", "sql", "SELECT count(*) FROM readings", "--lake", "kept", "-o", "csv"]);
    assert!(ran.code == Some(0) && !ran.out.ends_with("\n0\n"), "{ran:?}");
}

#[test]
fn a_kill_of_an_import_and_a_repeat_store_everything_once() {
    let folder = folder();
    let today = now_ms() - now_ms() % 86_400_000;
    let rows: String = (0..60_000).map(|n| format!("device_{},{},{}\n", n % 9, today - 17_000 * n, n % 90)).collect();
    fs::write(folder.path().join("big.csv"), format!("device_id,timestamp,heart_rate\n{rows}")).unwrap();
    let mut killed = 0;
    for milliseconds in (5..).step_by(40) {
        let mut child = program(folder.path()).args(["import", "big.csv"]).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            break;
        }
        killed += 1;
    }
    assert!(killed > 0, "nothing was killed, so this shows nothing");
    let again = vitals(folder.path(), &["import", "big.csv"]);
    assert!(again.err.contains("nothing added"), "{again:?}");
    let sql = "SELECT count(*) AS n, count(DISTINCT ts) AS times FROM readings";
    let ran = vitals(folder.path(), &["query", "sql", sql, "--output", "csv"]);
    assert_eq!((ran.out.as_str(), ran.code), ("n,times\n60000,60000\n", Some(0)));
}
