//! `vitals.toml` as it is read: which settings it gives to which command, each with its line. Everything that is wrong
//! with it is told at once.

use std::{
    any::TypeId,
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt,
    fs::File,
    io::{self, Read},
    ops::Range,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, Command};
use toml_edit::{Document, Item, TableLike, Value};

use super::value;
use crate::query::nearest;

/// The file that is looked for in the current folder.
pub const DEFAULT_FILE: &str = "vitals.toml";

/// A configuration is written by hand; whatever is larger is something else.
const MAX_BYTES: u64 = 1 << 20;

/// The most problems of one file that are told.
const MAX_TOLD: usize = 20;

/// Commands about the configuration and the command line themselves, which have no settings.
pub const WITHOUT_SETTINGS: [&str; 3] = ["config", "completions", "man"];

/// The names of commands from the program downwards; the program itself is the empty path.
pub type CommandPath = Vec<String>;

/// A setting that the file gives to one command.
#[derive(Debug, Clone)]
pub struct Given {
    /// The words of the flag's value, checked with the flag's own parser.
    ///
    /// They live as long as the program: clap takes defaults only so. The file is read once, so this is bounded by it.
    pub words: Vec<&'static str>,
    pub line: usize,
    /// How many names its table has: the nearest table wins.
    depth: usize,
    /// The flag, where it belongs to a command above and holds for all below (such as `--log-format`).
    pub inherited: Option<Arg>,
}

/// What a file says.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    given: BTreeMap<CommandPath, BTreeMap<String, Given>>,
    /// How many lines of the file set something.
    pub count: usize,
}

impl Settings {
    /// What it gives to one command, by the argument's id.
    pub fn at(&self, path: &[String]) -> Option<&BTreeMap<String, Given>> {
        self.given.get(path)
    }

    /// What it gives to one argument of a command, or of a command above where the argument is inherited.
    pub fn of(&self, path: &[String], arg: &Arg) -> Option<&Given> {
        let id = arg.get_id().as_str();
        let own = self.at(path).and_then(|given| given.get(id));
        let above = || (0..path.len()).rev().find_map(|n| self.at(&path[..n])?.get(id));
        own.or_else(|| if arg.is_global_set() { above() } else { None })
    }

    /// Leaves one setting out.
    pub fn remove(&mut self, path: &[String], id: &str) {
        if let Some(given) = self.given.get_mut(path) {
            given.remove(id);
        }
    }
}

/// A file that can't be used, and why.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It can't be read at all.
    #[error("can't use `{}` as configuration: {what}", path.display())]
    Unreadable { path: PathBuf, what: String },
    /// It says what can't be.
    #[error("{}", listed(path, problems))]
    Wrong { path: PathBuf, problems: Vec<Problem> },
}

/// One thing that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub line: usize,
    pub what: String,
    pub hint: Option<String>,
}

fn listed(path: &Path, problems: &[Problem]) -> String {
    let told = |problem: &Problem| {
        let hint = problem.hint.as_ref().map_or_else(String::new, |hint| format!("\nhint: {hint}"));
        format!("{}:{}: {}{hint}", path.display(), problem.line, problem.what)
    };
    let mut lines: Vec<String> = problems.iter().take(MAX_TOLD).map(told).collect();
    if problems.len() > MAX_TOLD {
        lines.push(format!("and {} more", problems.len() - MAX_TOLD));
    }
    lines.join("\n")
}

/// The file that a command line or the environment names, or the one of the current folder where there is one.
///
/// The words are searched as they are, since the file decides how they are parsed: no flag takes a value that begins with
/// `--`, so `--config` before a bare `--` can be nothing else.
pub fn named(words: &[OsString], environment: Option<OsString>) -> Option<PathBuf> {
    let mut words = words.iter().skip(1).take_while(|word| *word != "--");
    while let Some(word) = words.next() {
        if word == "--config" {
            return words.next().map(PathBuf::from);
        }
        if let Some(path) = word.to_str().and_then(|word| word.strip_prefix("--config=")) {
            return Some(PathBuf::from(path));
        }
    }
    environment.map(PathBuf::from)
}

/// The text of a file that was named, which must be there; without a name that of [`DEFAULT_FILE`], where there is one.
pub fn read(named: Option<&Path>) -> Result<Option<(PathBuf, String)>, ConfigError> {
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    let unreadable = |what: String| ConfigError::Unreadable { path: path.to_owned(), what };
    let failed = |e: io::Error| unreadable(e.to_string());
    match path.metadata() {
        Ok(there) if there.is_dir() => return Err(unreadable("it is a folder".to_owned())),
        // Opening a pipe waits for who writes it: only one that was named may.
        Ok(there) if named.is_none() && !there.is_file() => return Err(unreadable("it is no file".to_owned())),
        Ok(_) => {}
        Err(e) if named.is_none() && e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(unreadable("it is larger than 1 MiB".to_owned()));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        unreadable(format!("line {line} is not UTF-8"))
    })?;
    Ok(Some((path.to_owned(), text)))
}

/// What a text says, checked against the commands that there are.
pub fn check(path: &Path, text: &str, program: &Command) -> Result<Settings, ConfigError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let line = |span: Option<Range<usize>>| {
        let end = span.map_or(0, |span| span.start.min(text.len()));
        1 + text.as_bytes()[..end].iter().filter(|byte| **byte == b'\n').count()
    };
    let wrong = |problems| ConfigError::Wrong { path: path.to_owned(), problems };
    let document = Document::parse(text).map_err(|e| {
        let what = e.message().lines().next().unwrap_or("this is not TOML").to_owned();
        wrong(vec![Problem { line: line(e.span()), what, hint: None }])
    })?;
    let mut reader = Reader { line: &line, settings: Settings::default(), problems: Vec::new() };
    reader.table(document.as_table(), &Place { command: program, path: Vec::new(), inherited: Vec::new() });
    reader.conflicts(program, &mut Vec::new());
    let Reader { settings, mut problems, .. } = reader;
    if problems.is_empty() {
        return Ok(settings);
    }
    problems.sort_by_key(|problem| problem.line);
    Err(wrong(problems))
}

/// A command, its path, and the flags that hold for it from above.
struct Place<'c> {
    command: &'c Command,
    path: CommandPath,
    inherited: Vec<&'c Arg>,
}

impl<'c> Place<'c> {
    fn below(&self, name: &str) -> Option<Place<'c>> {
        let command = subcommands(self.command).find(|command| command.get_name() == name)?;
        let path = self.path.iter().cloned().chain([name.to_owned()]).collect();
        let globals = self.command.get_arguments().filter(|arg| arg.is_global_set());
        Some(Place { command, path, inherited: self.inherited.iter().copied().chain(globals).collect() })
    }

    /// The flags of this command and of all below it, each with its command's path.
    fn flags(&self) -> Vec<(CommandPath, &'c Arg)> {
        let mut flags: Vec<_> = self.inherited.iter().map(|arg| (self.path.clone(), *arg)).collect();
        flags.extend(flags_below(self.command, &self.path));
        flags
    }

    fn name(&self) -> String {
        in_words(&self.path)
    }
}

/// The commands of a command that have settings.
pub fn subcommands(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| !WITHOUT_SETTINGS.contains(&command.get_name()))
}

/// A command as it is written.
pub fn in_words(path: &[String]) -> String {
    std::iter::once("vitals").chain(path.iter().map(String::as_str)).collect::<Vec<_>>().join(" ")
}

fn flags_below<'c>(command: &'c Command, path: &[String]) -> Vec<(CommandPath, &'c Arg)> {
    let own = command.get_arguments().filter(|arg| is_setting(arg)).map(|arg| (path.to_vec(), arg));
    let below = subcommands(command).flat_map(|command| {
        let path: CommandPath = path.iter().cloned().chain([command.get_name().to_owned()]).collect();
        flags_below(command, &path)
    });
    own.chain(below).collect()
}

/// Whether a file may set an argument: flags that take a value, that count, or that are either there or not.
pub fn is_setting(arg: &Arg) -> bool {
    let action = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append | ArgAction::SetTrue | ArgAction::Count);
    action && arg.get_long().is_some_and(|long| long != "config")
}

/// Whether a name is that of a secret. `--password-file` and `--token-env` say where one is, which is none.
pub fn is_secret(name: &str) -> bool {
    const SECRETS: [&str; 8] =
        ["password", "passwd", "passphrase", "secret", "token", "credential", "apikey", "privatekey"];
    let letters: String = name.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect();
    SECRETS.iter().any(|secret| letters.contains(secret)) && !letters.ends_with("file") && !letters.ends_with("env")
}

/// Whether a text is an address with a password in it, `mqtt://user:password@host`.
fn has_password(text: &str) -> bool {
    let authority = text.split_once("://").map(|(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or(rest));
    authority.and_then(|authority| authority.rsplit_once('@')).is_some_and(|(user, _)| user.contains(':'))
}

const SECRETS_ELSEWHERE: &str = "files like this one are shared: put it in an environment variable, or in a file of its \
                                 own that only you can read";

struct Reader<'l> {
    line: &'l dyn Fn(Option<Range<usize>>) -> usize,
    settings: Settings,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn problem(&mut self, line: usize, what: String, hint: Option<String>) {
        self.problems.push(Problem { line, what, hint });
    }

    fn table(&mut self, table: &dyn TableLike, place: &Place<'_>) {
        let line = |key: &str, item: &Item| (self.line)(table.key(key).and_then(|key| key.span()).or(item.span()));
        let items: Vec<_> = table.iter().map(|(key, item)| (key, item, line(key, item))).collect();
        // Settings first: those of tables further in take their place.
        for (key, item, line) in &items {
            if let Some(value) = item.as_value().filter(|value| !value.is_inline_table()) {
                self.setting(key, value, *line, place);
            }
        }
        for (key, item, line) in items {
            match (item.as_table_like(), place.below(key)) {
                (Some(table), Some(place)) => self.table(table, &place),
                (Some(_), None) => self.unknown_table(key, line, place),
                (None, _) if item.is_array_of_tables() => {
                    self.problem(line, format!("`[[{key}]]` is a list of tables: write `[{key}]`"), None);
                }
                (None, _) => {}
            }
        }
    }

    fn setting(&mut self, key: &str, value: &Value, line: usize, place: &Place<'_>) {
        if is_secret(key) {
            return self.problem(line, format!("`{key}` is a secret"), Some(SECRETS_ELSEWHERE.to_owned()));
        }
        let flags = place.flags();
        let mut holders = flags.iter().filter(|(_, arg)| arg.get_long() == Some(key)).peekable();
        if holders.peek().is_none() {
            return self.unknown_setting(key, line, place, &flags);
        }
        self.settings.count += 1;
        for (path, arg) in holders {
            let words = match words(value, arg) {
                Ok(words) => words,
                Err(what) => {
                    let whose = if *path == place.path { String::new() } else { format!(" for `{}`", in_words(path)) };
                    let many = path.len() > place.path.len();
                    let hint =
                        many.then(|| format!("a table of its own sets it for one command: `[{}]`", path.join(".")));
                    return self.problem(line, format!("`{key}`{whose}: {what}"), hint);
                }
            };
            let own =
                path.len() > place.path.len() || !place.inherited.iter().any(|above| above.get_id() == arg.get_id());
            let inherited = (!own).then(|| (*arg).clone());
            let words = words.into_iter().map(|word| &*word.leak()).collect();
            let given = Given { words, line, depth: place.path.len(), inherited };
            self.settings.given.entry(path.clone()).or_default().insert(arg.get_id().to_string(), given);
        }
    }

    fn unknown_setting(&mut self, key: &str, line: usize, place: &Place<'_>, flags: &[(CommandPath, &Arg)]) {
        let whose = place.name();
        if place.below(key).is_some() {
            let table = place.path.iter().map(String::as_str).chain([key]).collect::<Vec<_>>().join(".");
            let hint = format!("its settings stand under `[{table}]`");
            return self.problem(line, format!("`{key}` is a command, not a setting of `{whose}`"), Some(hint));
        }
        let known = flags.iter().filter_map(|(_, arg)| arg.get_long());
        let dashed = key.replace('_', "-");
        let hint = match nearest(&dashed, known, 1).first() {
            Some(near) => format!("did you mean `{near}`?"),
            None => "a setting has the name of a flag: `vitals config show` lists all".to_owned(),
        };
        self.problem(line, format!("`{whose}` has no setting `{key}`"), Some(hint));
    }

    fn unknown_table(&mut self, key: &str, line: usize, place: &Place<'_>) {
        let whose = place.name();
        let known: Vec<&str> = subcommands(place.command).map(Command::get_name).collect();
        let is_flag = place.flags().iter().any(|(_, arg)| arg.get_long() == Some(key));
        let hint = match nearest(key, known.iter().copied(), 1).first() {
            _ if is_flag => format!("`{key}` is a setting: write `{key} = …`"),
            Some(near) => format!("did you mean `{near}`?"),
            None if WITHOUT_SETTINGS.contains(&key) && place.path.is_empty() => {
                format!("`vitals {key}` has no settings")
            }
            None if known.is_empty() => format!("`{whose}` has no commands of its own"),
            None => format!("the commands are {}", known.join(", ")),
        };
        self.problem(line, format!("`{whose}` has no command `{key}`"), Some(hint));
    }

    /// Settings of one command that exclude each other: of different tables the nearer one holds, in one table neither can.
    fn conflicts(&mut self, command: &Command, path: &mut CommandPath) {
        let given: Vec<(String, Given)> =
            self.settings.at(path).into_iter().flatten().map(|(id, given)| (id.clone(), given.clone())).collect();
        for (i, (id, one)) in given.iter().enumerate() {
            for (other_id, other) in &given[i + 1..] {
                let Some((a, b)) = pair(command, id, other_id) else { continue };
                if !clash(command, a, b) || is_default(a, one) || is_default(b, other) {
                    continue;
                }
                if one.depth != other.depth {
                    let further = if one.depth < other.depth { id } else { other_id };
                    self.settings.remove(path, further);
                    continue;
                }
                let (first, last) = if one.line < other.line { (a, b) } else { (b, a) };
                let name = |arg: &Arg| arg.get_long().unwrap_or_default().to_owned();
                let what =
                    format!("`{}` does not go with `{}` of line {}", name(last), name(first), one.line.min(other.line));
                self.problem(one.line.max(other.line), what, None);
            }
        }
        for command in subcommands(command) {
            path.push(command.get_name().to_owned());
            self.conflicts(command, path);
            path.pop();
        }
    }
}

fn pair<'c>(command: &'c Command, one: &str, other: &str) -> Option<(&'c Arg, &'c Arg)> {
    let find = |id: &str| command.get_arguments().find(|arg| arg.get_id() == id);
    Some((find(one)?, find(other)?))
}

/// Whether two arguments of a command exclude each other.
pub fn clash(command: &Command, one: &Arg, other: &Arg) -> bool {
    let excludes = |one: &Arg, other: &Arg| {
        // What holds for all commands below is not looked up among this command's arguments.
        !one.is_global_set() && command.get_arg_conflicts_with(one).iter().any(|arg| arg.get_id() == other.get_id())
    };
    let both_in = |group: &clap::ArgGroup| {
        let has = |arg: &Arg| group.get_args().any(|id| id == arg.get_id());
        has(one) && has(other) && !group.clone().is_multiple()
    };
    excludes(one, other) || excludes(other, one) || command.get_groups().any(both_in)
}

/// Whether a setting says only what holds anyway; such a one excludes nothing.
fn is_default(arg: &Arg, given: &Given) -> bool {
    match arg.get_action() {
        ArgAction::SetTrue => given.words == ["false"],
        ArgAction::Count => given.words == ["0"],
        _ => arg.get_default_values().iter().map(|word| word.as_os_str()).eq(given.words.iter().map(OsStr::new)),
    }
}

/// The words that a flag would be given for a value, checked with the flag's own parser.
fn words(value: &Value, arg: &Arg) -> Result<Vec<String>, String> {
    match (arg.get_action(), value) {
        (ArgAction::SetTrue, Value::Boolean(value)) => Ok(vec![value.value().to_string()]),
        (ArgAction::SetTrue, _) => Err(format!("it takes true or false, not {}", value::kind(value))),
        (ArgAction::Count, Value::Integer(value)) => Ok(vec![checked(value.value().to_string(), arg)?]),
        (ArgAction::Count, _) => Err(format!("it takes a whole number, not {}", value::kind(value))),
        (_, Value::Array(values)) if value::is_repeatable(arg) => {
            values.iter().map(|value| checked(word(value, arg)?, arg)).collect()
        }
        (_, Value::Array(_)) => Err("it takes one value, not an array".to_owned()),
        _ => Ok(vec![checked(word(value, arg)?, arg)?]),
    }
}

fn word(value: &Value, arg: &Arg) -> Result<String, String> {
    let parser = arg.get_value_parser().type_id();
    // These take any text, so that a forgotten pair of quotes would make a folder named `true`.
    let any_text =
        parser == TypeId::of::<PathBuf>() || parser == TypeId::of::<String>() || parser == TypeId::of::<OsString>();
    let text = match value {
        Value::String(text) => text.value().clone(),
        Value::Boolean(value) if parser == TypeId::of::<bool>() => value.value().to_string(),
        Value::Boolean(_) | Value::Array(_) | Value::InlineTable(_) => {
            return Err(format!("it takes a text or a number, not {}", value::kind(value)));
        }
        _ if any_text => return Err(format!("it takes a text in quotes, not {}", value::kind(value))),
        Value::Integer(value) => value.value().to_string(),
        Value::Float(value) => value.value().to_string(),
        Value::Datetime(value) => value.value().to_string(),
    };
    if has_password(&text) {
        return Err(format!("there is a password in it; {SECRETS_ELSEWHERE}"));
    }
    Ok(text)
}

/// A word that the flag takes, or what its parser says against it.
fn checked(word: String, arg: &Arg) -> Result<String, String> {
    value::parse(arg, &word).map(|()| word)
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}
