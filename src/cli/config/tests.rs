use std::{fs, path::Path};

use clap::{Arg, ArgAction};
use proptest::prelude::*;

use super::{file::subcommands, merge::settle, show::Table, *};

/// A small program with each kind of flag.
fn example() -> Command {
    let word = |name: &'static str| Arg::new(name).long(name);
    let whole = |name: &'static str| word(name).value_parser(clap::value_parser!(u32).range(1..=100));
    let flag = |name: &'static str| word(name).action(ArgAction::SetTrue);
    let send = Command::new("send")
        .arg(whole("limit").default_value("10"))
        // A variable that every test has.
        .arg(word("path").env("PATH").default_value("somewhere"))
        .arg(flag("fast").conflicts_with("slow"))
        .arg(flag("slow"))
        .arg(word("tag").action(ArgAction::Append))
        .arg(word("data").requires("out"))
        .arg(word("out"))
        .arg(word("key").required(true))
        .arg(word("rate").value_parser(clap::value_parser!(f64)));
    let get = Command::new("get").arg(whole("limit").default_value("20")).arg(word("form").value_parser(["a", "b"]));
    let ask = Command::new("ask").subcommand(get).subcommand(Command::new("put").arg(whole("limit")));
    Command::new("example")
        .arg(word("tone").global(true).default_value("plain"))
        .arg(Arg::new("more").long("more").action(ArgAction::Count).global(true))
        .subcommand(send)
        .subcommand(ask)
}

fn read(text: &str) -> Result<Settings, String> {
    file::check(Path::new("vitals.toml"), text, &example()).map_err(|e| e.to_string())
}

fn refused(text: &str) -> String {
    read(text).expect_err(text)
}

fn words(line: &str) -> Vec<OsString> {
    std::iter::once("example").chain(line.split_whitespace()).map(OsString::from).collect()
}

/// What a flag comes to: its value as TOML, and where it comes from.
fn outcome(text: &str, line: &str, flag: &str) -> (String, String) {
    let settled = settle(&example(), &read(text).unwrap(), &words(line)).unwrap_or_else(|e| panic!("{line}: {e}"));
    let setting = settled.settings.iter().find(|setting| setting.arg.get_long() == Some(flag)).unwrap();
    let value = setting.value.as_ref().map_or_else(|| "-".to_owned(), Shown::toml);
    (value, setting.origin.describe(None))
}

fn is(value: &str, origin: &str) -> (String, String) {
    (value.to_owned(), origin.to_owned())
}

#[test]
fn each_layer_goes_before_the_next() {
    let file = "[send]\nlimit = 7\npath = \"here\"";
    assert_eq!(outcome("", "send --key k", "limit"), is("10", "default"));
    assert_eq!(outcome(file, "send --key k", "limit"), is("7", "vitals.toml:2"));
    assert_eq!(outcome(file, "send --key k --limit 5", "limit"), is("5", "flag"));
    let (value, origin) = outcome(file, "send --key k", "path");
    assert_eq!(origin, "env PATH");
    assert_ne!(value, "\"here\"");
    assert_eq!(outcome(file, "send --key k --path there", "path"), is("\"there\"", "flag"));
}

#[test]
fn the_nearest_table_wins() {
    let file = "limit = 1\n[ask]\nlimit = 2\ntone = \"loud\"\n[ask.get]\nlimit = 3";
    assert_eq!(outcome(file, "send --key k", "limit"), is("1", "vitals.toml:1"));
    assert_eq!(outcome(file, "ask put", "limit"), is("2", "vitals.toml:3"));
    assert_eq!(outcome(file, "ask get", "limit"), is("3", "vitals.toml:6"));
    assert_eq!(outcome(file, "ask get", "tone"), is("\"loud\"", "vitals.toml:4"));
    assert_eq!(outcome(file, "send --key k", "tone"), is("\"plain\"", "default"));
    assert_eq!(outcome(file, "--tone soft ask get", "tone"), is("\"soft\"", "flag"));
    // The same, however the tables are written.
    for same in ["ask.get.limit = 3\nask.limit = 2", "ask = { get = { limit = 3 }, limit = 2 }"] {
        assert_eq!(outcome(same, "ask get", "limit").0, "3", "{same}");
        assert_eq!(outcome(same, "ask put", "limit").0, "2", "{same}");
    }
}

#[test]
fn every_kind_of_value_is_taken() {
    let file = "more = 2\n[send]\nfast = true\nslow = false\ntag = [\"a\", \"b\"]\nrate = 1e-3\nkey = \"k\"";
    for (flag, value) in
        [("more", "2"), ("fast", "true"), ("slow", "false"), ("tag", "[\"a\", \"b\"]"), ("rate", "0.001")]
    {
        assert_eq!(outcome(file, "send --key k", flag).0, value, "{flag}");
    }
    assert_eq!(outcome("[send]\ntag = \"one\"", "send --key k", "tag").0, "[\"one\"]");
    assert_eq!(outcome("[send]\nrate = 2", "send --key k", "rate").0, "2");
    assert_eq!(outcome("[send]\nout = \"-x\"", "send --key k", "out").0, "\"-x\"");
}

#[test]
fn what_was_said_outdoes_a_value_of_the_file_that_excludes_it() {
    let file = "[send]\nfast = true";
    assert_eq!(outcome(file, "send --key k --slow", "fast"), is("false", "default"));
    assert_eq!(outcome(file, "send --key k", "fast"), is("true", "vitals.toml:2"));
    // It is declared at the other one only.
    assert_eq!(outcome("[send]\nslow = true", "send --key k --fast", "slow"), is("false", "default"));
    let both = refused("[send]\nfast = true\nslow = true");
    assert_eq!(both, "vitals.toml:3: `slow` does not go with `fast` of line 2");
    assert!(read("[send]\nfast = true\nslow = false").is_ok());
    let nearer = "slow = true\n[send]\nfast = true";
    assert_eq!(outcome(nearer, "send --key k", "slow").0, "false");
}

#[test]
fn a_value_of_the_file_is_there_for_a_flag_that_requires_it() {
    let file = "[send]\nout = \"o\"\nkey = \"k\"";
    assert_eq!(outcome(file, "send", "key"), is("\"k\"", "vitals.toml:3"));
    assert_eq!(outcome(file, "send --data d", "out"), is("\"o\"", "vitals.toml:2"));
    assert_eq!(outcome(file, "send --key mine --data d", "key"), is("\"mine\"", "flag"));
    let error = settle(&example(), &read("[send]\nkey = \"k\"").unwrap(), &words("send --data d")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MissingRequiredArgument);
    // The file alone requires nothing.
    assert_eq!(outcome("[send]\nkey = \"k\"\ndata = \"d\"", "send", "data").0, "\"d\"");
}

#[test]
fn what_is_unknown_is_refused_with_the_nearest() {
    for (text, said) in [
        ("\nlimt = 3", "vitals.toml:2: `vitals` has no setting `limt`\nhint: did you mean `limit`?"),
        ("[send]\nLimit = 3", "vitals.toml:2: `vitals send` has no setting `Limit`\nhint: did you mean `limit`?"),
        ("[sned]\nlimit = 3", "vitals.toml:1: `vitals` has no command `sned`\nhint: did you mean `send`?"),
        ("[ask.gt]", "vitals.toml:1: `vitals ask` has no command `gt`\nhint: did you mean `get`?"),
        ("[limit]", "vitals.toml:1: `vitals` has no command `limit`\nhint: `limit` is a setting: write `limit = …`"),
        (
            "send = 1",
            "vitals.toml:1: `send` is a command, not a setting of `vitals`\nhint: its settings stand under `[send]`",
        ),
        ("[[send]]", "vitals.toml:1: `[[send]]` is a list of tables: write `[send]`"),
    ] {
        assert_eq!(refused(text), said);
    }
    assert!(refused("[ask.get]\nform = \"a\"\nfast = true").contains("`vitals ask get` has no setting `fast`"));
    for name in ["help", "version"] {
        assert!(refused(&format!("{name} = true")).contains("has no setting"), "{name}");
    }
}

#[test]
fn bad_values_and_wrong_types_are_refused_in_the_parsers_words() {
    for (text, said) in [
        ("[send]\nlimit = 0", "vitals.toml:2: `limit`: 0 is not in 1..=100"),
        ("[send]\nlimit = \"many\"", "vitals.toml:2: `limit`: invalid digit found in string"),
        ("[send]\nlimit = true", "vitals.toml:2: `limit`: it takes a text or a number, not true or false"),
        ("[send]\nlimit = [1]", "vitals.toml:2: `limit`: it takes one value, not an array"),
        ("[send]\nout = 3", "vitals.toml:2: `out`: it takes a text in quotes, not a whole number"),
        ("[send]\nfast = 1", "vitals.toml:2: `fast`: it takes true or false, not a whole number"),
        ("more = 1.5", "vitals.toml:1: `more`: it takes a whole number, not a number"),
        ("[send]\ntag = [[\"a\"]]", "vitals.toml:2: `tag`: it takes a text or a number, not an array"),
        ("[ask.get]\nform = \"c\"", "vitals.toml:2: `form`: `c` is none of `a`, `b`"),
        (
            "[ask]\nform = \"c\"",
            "vitals.toml:2: `form` for `vitals ask get`: `c` is none of `a`, `b`\nhint: a table of its own sets it for one command: `[ask.get]`",
        ),
    ] {
        assert_eq!(refused(text), said);
    }
    let all = refused("limt = 1\n[send]\nfast = 2\nlimit = 0");
    assert_eq!(all.lines().filter(|line| line.starts_with("vitals.toml:")).count(), 3, "{all}");
}

#[test]
fn secrets_are_refused_but_where_they_are_may_be_said() {
    for text in ["password = \"x\"", "[send]\nApi_Key = \"x\"", "broker-token = \"x\"", "[send]\nclient.secret = 1"] {
        let said = refused(text);
        let secret = said.contains("is a secret") && said.contains("environment variable");
        // A table is no value, and is unknown all the same.
        assert!(secret || said.contains("no command `client`"), "{said}");
        assert!(!said.contains("\"x\""), "{said}");
    }
    let said = refused("[send]\nout = \"mqtt://me:hunter2@host\"");
    assert!(said.contains("password") && !said.contains("hunter2"), "{said}");
    assert!(read("[send]\nout = \"mqtt://me@host/a:b@c\"").is_ok());
    assert!(!file::is_secret("password-file") && !file::is_secret("token-env") && file::is_secret("pass-phrase"));
}

#[test]
fn no_toml_is_refused_with_its_line() {
    for (text, line) in [("a = 1\n= 2", 2), ("limit = 1\r\nlimit = 2", 2), ("[send\n", 1), ("x = \"\n", 1)] {
        let said = refused(text);
        assert!(said.starts_with(&format!("vitals.toml:{line}: ")), "{said}");
    }
    // Neither is a stack that overflows.
    assert!(read(&format!("a = {}", "[".repeat(100_000))).is_err());
    assert!(read(&"a.".repeat(100_000)).is_err());
}

#[test]
fn a_byte_order_mark_and_windows_lines_are_taken() {
    let file = "\u{feff}# first\r\n[send]\r\nlimit = 7\r\n";
    assert_eq!(outcome(file, "send --key k", "limit"), is("7", "vitals.toml:3"));
}

#[test]
fn what_is_no_text_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.toml");
    let said = |path: &Path| file::read(Some(path)).map(|_| ()).unwrap_err().to_string();
    assert!(said(folder.path()).ends_with("it is a folder"));
    assert!(said(&path).contains(&format!("can't use `{}`", path.display())));
    fs::write(&path, b"a = 1\nb = \"\xff\"\n").unwrap();
    assert!(said(&path).ends_with("line 2 is not UTF-8"));
    fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
    assert!(said(&path).ends_with("larger than 1 MiB"));
    fs::write(&path, vec![b'#'; 1 << 20]).unwrap();
    assert!(file::read(Some(&path)).unwrap().is_some());
}

#[test]
fn the_file_is_the_one_that_was_named() {
    let named = |line: &str| file::named(&words(line), Some("env.toml".into()));
    for line in ["up --config a.toml", "--config=a.toml up", "config show up --config a.toml"] {
        assert_eq!(named(line), Some(PathBuf::from("a.toml")), "{line}");
    }
    assert_eq!(named("up"), Some(PathBuf::from("env.toml")));
    assert_eq!(named("query sql -- --config"), Some(PathBuf::from("env.toml")));
    assert_eq!(named("up --config"), None);
    assert_eq!(file::named(&words("up"), None), None);
}

fn parse_line(line: &str, file: &Path) -> Result<(Cli, Origins), Refused> {
    let words: Vec<OsString> = std::iter::once("vitals").chain(line.split_whitespace()).map(OsString::from).collect();
    super::parse_with(&words, Some(file))
}

#[test]
fn the_program_takes_its_own_flags_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ward.toml");
    fs::write(&path, "lake = \"ward7\"\n[compact]\nlog-format = \"json\"\n[evaluate]\ndata = \"a.csv\"\n").unwrap();
    let (cli, origins) = parse_line("compact", &path).unwrap();
    assert_eq!(cli.log_format, super::super::LogFormat::Json);
    assert_eq!(origins.of("lake"), Some(format!("{}:1", path.display())));
    // It has a flag that must be given.
    assert!(parse_line("evaluate", &path).is_ok());
    let usage = parse_line("evaluate --seed x", &path).unwrap_err();
    assert!(matches!(&usage, Refused::Usage(error) if error.exit_code() == 2), "{usage}");
    let help = parse_line("compact --help", &path).unwrap_err().to_string();
    assert!(help.contains("[default: ward7]"), "{help}");
}

#[test]
fn a_wrong_file_stops_everything_but_help_and_what_needs_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wrong.toml");
    fs::write(&path, "lak = 1").unwrap();
    for line in ["compact", "config check", "config show", "compact --nwo"] {
        assert!(matches!(parse_line(line, &path), Err(Refused::Configuration(_))), "{line}");
    }
    for line in ["--help", "compact --help", "--version"] {
        let refused = parse_line(line, &path).unwrap_err();
        assert!(matches!(&refused, Refused::Usage(error) if error.exit_code() == 0), "{line}");
    }
    for line in ["completions bash", "man", "info", "doctor"] {
        let (_, origins) = parse_line(line, &path).unwrap();
        assert!(origins.problem.is_some_and(|problem| problem.contains("`lak`")), "{line}");
    }
}

/// A file's text, what `config show` makes of it, and that again.
fn shown(program: &Command, text: &str) -> Result<(String, Vec<Table>), ConfigError> {
    let settings = file::check(Path::new("vitals.toml"), text, program)?;
    let tables = show::tables(program, &settings, &[]).unwrap_or_else(|e| panic!("{text}\n{e}"));
    Ok((show::toml(&tables, None, true), tables))
}

fn values(tables: &[Table]) -> Vec<(String, String, Vec<OsString>)> {
    let of = |table: &Table, setting: &Setting| {
        (table.command.join(" "), setting.arg.get_id().to_string(), setting.words.clone())
    };
    tables.iter().flat_map(|table| table.settings.iter().map(move |setting| of(table, setting))).collect()
}

/// Whether what is shown of a file, as a file, gives the same again.
fn goes_round(program: &Command, text: &str) -> Result<(), ConfigError> {
    let (once, tables) = shown(program, text)?;
    let (_, again) = shown(program, &once).unwrap_or_else(|e| panic!("{once}\n{e}"));
    let (tables, again) = (values(&tables), values(&again));
    for value in &tables {
        // A flag that is given only where another is, as `[ask] tone`, stands in the tables of the commands below.
        assert!(again.contains(value), "{value:?} of\n{text}\nshown as\n{once}\ngives {again:?}");
    }
    assert_eq!(tables.len(), again.len());
    Ok(())
}

#[test]
fn what_is_shown_is_a_file_that_gives_the_same() {
    for text in
        ["", "limit = 3\nmore = 2", "[ask]\ntone = \"a\\\"b\\\\ \\u0000 # \\n\"", "[send]\nfast = true\ntag = [\"x\"]"]
    {
        goes_round(&example(), text).unwrap();
    }
    goes_round(&Cli::command(), "").unwrap();
}

#[test]
fn one_command_is_shown_as_its_command_line_has_it() {
    let settings = read("[send]\nlimit = 7\n[ask.get]\nlimit = 8").unwrap();
    let show = |line: &str| {
        let line: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        show::tables(&example(), &settings, &line).map(|tables| show::toml(&tables, None, true))
    };
    let text = show("ask get --form b").unwrap();
    assert!(text.contains("[ask.get]\nlimit = 8   # vitals.toml:4\nform = \"b\"  # flag"), "{text}");
    assert!(!text.contains("[send]") && !text.contains("[ask.put]"), "{text}");
    // A flag that must be given need not be, to be shown.
    assert!(show("send").unwrap().contains("# key is not set"));
    assert!(show("ask").unwrap().contains("[ask.put]"));
    assert_eq!(show("ask get --from b").unwrap_err().exit_code(), 2);
}

/// Every flag of a program with words that it takes.
fn choices(command: &Command, path: &[String], found: &mut Vec<(CommandPath, Arg, Vec<&'static str>)>) {
    const WORDS: [&str; 26] = [
        "64MB",
        "client.id=x",
        "1/2",
        "1",
        "2",
        "0.5",
        "30s",
        "3h",
        "2026-01-31",
        "json",
        "csv",
        "text",
        "never",
        "max",
        "true",
        "a b",
        "\"\\\u{7}#\n",
        "127.0.0.1:1999",
        "-1",
        "1e-9",
        "mqtt://h:1",
        "kafka://h:1/t",
        "127.0.0.1:5000/a",
        "18446744073709551615",
        "arn:aws:states:r:1:execution:m:n",
        "ü",
    ];
    for arg in command.get_arguments().filter(|arg| file::is_setting(arg)) {
        let words: Vec<&str> = match arg.get_action() {
            ArgAction::SetTrue => vec!["true", "false"],
            _ => {
                let own = arg.get_possible_values().into_iter().map(|value| &*value.get_name().to_owned().leak());
                let words = WORDS.into_iter().chain(own.filter(|word| !WORDS.contains(word)));
                words.filter(|word| value::parse(arg, word).is_ok()).collect()
            }
        };
        assert!(!words.is_empty(), "no word for {}", arg.get_id());
        found.push((path.to_vec(), arg.clone(), words));
    }
    for below in subcommands(command) {
        let path = [path, &[below.get_name().to_owned()]].concat();
        choices(below, &path, found);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_settings_go_round(picks in proptest::collection::vec((0..8_u8, any::<prop::sample::Index>()), 600)) {
        let program = Cli::command();
        let mut found = Vec::new();
        choices(&program, &[], &mut found);
        prop_assert!(found.len() < picks.len());
        let (mut text, mut table) = (String::new(), Vec::new());
        for ((path, arg, words), (_, pick)) in found.iter().zip(&picks).filter(|(_, (take, _))| *take == 0) {
            if *path != table {
                text.push_str(&format!("[{}]\n", path.join(".")));
                table.clone_from(path);
            }
            let word = OsString::from(words[pick.index(words.len())]);
            let value = Shown::of(arg, std::iter::once(word.as_os_str())).unwrap();
            text.push_str(&format!("{} = {}\n", arg.get_long().unwrap(), value.toml()));
        }
        match goes_round(&program, &text) {
            Ok(()) => {}
            Err(ConfigError::Wrong { problems, .. }) => {
                prop_assert!(problems.iter().all(|problem| problem.what.contains("does not go with")), "{problems:?}\n{text}");
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "([a-z\\[\\]\\{\\}=\\.\"'\n# 0-9,-]|limit|send|ask){0,60}") {
        let _ = read(&text);
    }
}
