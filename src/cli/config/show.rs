//! What holds, in the form of `vitals.toml`, so that it can be used as one, and as JSON.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::Command;
use serde::Serialize;

use super::{
    Origin, Setting,
    file::{CommandPath, Settings, is_secret, subcommands},
    merge::{Settled, settle_incomplete},
    value::Shown,
};

/// The settings of one command.
#[derive(Debug)]
pub struct Table {
    pub command: CommandPath,
    pub settings: Vec<Setting>,
}

/// What holds for the command that the words name and for each below it; without words for all.
///
/// # Errors
/// clap's, where the words are no command line.
pub fn tables(program: &Command, file: &Settings, words: &[OsString]) -> Result<Vec<Table>, clap::Error> {
    let line = |below: &[String]| -> Vec<OsString> {
        let name = OsString::from(program.get_name());
        std::iter::once(name).chain(words.iter().cloned()).chain(below.iter().map(OsString::from)).collect()
    };
    let named = settle_incomplete(program, file, &line(&[]))?;
    let command = named.path.iter().try_fold(program, |command, name| command.find_subcommand(name));
    let mut tables: Vec<Table> = Vec::new();
    for setting in &named.settings {
        add(&mut tables, setting.command.clone(), setting.clone());
    }
    for below in command.map(leaves).unwrap_or_default().iter().filter(|below| !below.is_empty()) {
        let settled = settle_incomplete(program, file, &line(below))?;
        for setting in settled.settings.iter().filter(|setting| setting.command.len() > named.path.len()) {
            add(&mut tables, setting.command.clone(), setting.clone());
        }
        // What holds for all commands, where the file says otherwise for this one.
        for setting in others(&named, &settled) {
            add(&mut tables, settled.path.clone(), setting.clone());
        }
    }
    Ok(tables)
}

fn add(tables: &mut Vec<Table>, command: CommandPath, setting: Setting) {
    match tables.iter_mut().find(|table| table.command == command) {
        Some(table) if table.settings.iter().any(|there| there.arg.get_id() == setting.arg.get_id()) => {}
        Some(table) => table.settings.push(setting),
        None => tables.push(Table { command, settings: vec![setting] }),
    }
}

fn others<'s>(named: &Settled, below: &'s Settled) -> impl Iterator<Item = &'s Setting> {
    let same = |setting: &Setting| {
        let there = named.settings.iter().find(|there| there.arg.get_id() == setting.arg.get_id());
        there.is_none_or(|there| there.words == setting.words)
    };
    let differs: Vec<&Setting> =
        below.settings.iter().filter(|setting| setting.arg.is_global_set() && !same(setting)).collect();
    differs.into_iter()
}

/// The commands below a command that have none below them, or itself (the empty path).
fn leaves(command: &Command) -> Vec<CommandPath> {
    let mut paths = Vec::new();
    for below in subcommands(command) {
        let name = below.get_name().to_owned();
        paths.extend(leaves(below).into_iter().map(|path| [vec![name.clone()], path].concat()));
    }
    if paths.is_empty() { vec![Vec::new()] } else { paths }
}

/// Whether a setting's value is kept to itself.
fn is_hidden(setting: &Setting) -> bool {
    setting.arg.is_hide_env_values_set() || setting.arg.get_long().is_some_and(is_secret)
}

/// As a file, with origins as comments where they are wanted. What is not set is a comment too.
pub fn toml(tables: &[Table], file: Option<&Path>, with_origins: bool) -> String {
    let mut lines = Vec::new();
    for table in tables {
        if !table.command.is_empty() {
            lines.extend([String::new(), format!("[{}]", table.command.join("."))]);
        }
        let written: Vec<(String, &Setting)> =
            table.settings.iter().map(|setting| (assignment(setting), setting)).collect();
        let width = written.iter().map(|(text, _)| text.chars().count()).max().unwrap_or(0).min(40);
        for (text, setting) in written {
            // A default that is not set needs no origin.
            let origin = Some(&setting.origin).filter(|_| with_origins && !setting.words.is_empty());
            lines.push(match origin {
                Some(origin) => format!("{text:width$}  # {}", one_line(&origin.describe(file))),
                None => text,
            });
        }
    }
    lines.join("\n")
}

/// A comment ends with its line, and takes no control characters.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn assignment(setting: &Setting) -> String {
    let name = setting.arg.get_long().unwrap_or_default();
    match &setting.value {
        _ if is_hidden(setting) => format!("# {name} is not shown"),
        Some(value) => format!("{name} = {}", value.toml()),
        None if setting.words.is_empty() => format!("# {name} is not set"),
        None => format!("# {name} is no text, so it can't be written here"),
    }
}

/// The settings as a document.
#[derive(Debug, Serialize)]
pub struct Document {
    schema_version: u32,
    /// The configuration file in use.
    file: Option<PathBuf>,
    settings: Vec<Row>,
}

/// One setting.
#[derive(Debug, Serialize)]
struct Row {
    /// The command's words; empty for what holds for all.
    command: String,
    flag: String,
    /// Its value; `null` where it is not set.
    value: Option<Shown>,
    /// `default`, `file`, `env` or `flag`.
    origin: &'static str,
    /// The file with its line, or the environment variable.
    place: Option<String>,
}

/// As a document.
pub fn json(tables: &[Table], file: Option<&Path>) -> Document {
    let row = |table: &Table, setting: &Setting| {
        let (origin, place) = match &setting.origin {
            Origin::Default => ("default", None),
            Origin::File { .. } => ("file", Some(setting.origin.describe(file))),
            Origin::Environment(name) => ("env", Some(name.clone())),
            Origin::Flag => ("flag", None),
        };
        let value = setting.value.clone().filter(|_| !is_hidden(setting));
        let flag = setting.arg.get_long().unwrap_or_default().to_owned();
        Row { command: table.command.join(" "), flag, value, origin, place }
    };
    let settings = tables.iter().flat_map(|table| table.settings.iter().map(move |setting| row(table, setting)));
    Document { schema_version: 1, file: file.map(Path::to_owned), settings: settings.collect() }
}
