//! The layers over each other: flag, environment, file, default.
//!
//! The file's values become the defaults of the command tree before it parses, so clap itself keeps the order, and
//! `--help` shows the defaults that hold. Two things clap does not do with defaults are done here: a value of the file
//! gives way to a flag that excludes it, and it counts as there for a flag that requires it.

use std::ffi::OsString;

use clap::{
    Arg, ArgAction, ArgMatches, Command,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};

use super::{
    Origin, Setting,
    file::{CommandPath, Settings, clash, is_setting},
    value::Shown,
};

/// What a command line comes to with a file beneath it.
#[derive(Debug)]
pub struct Settled {
    pub matches: ArgMatches,
    /// The command that was named.
    pub path: CommandPath,
    /// Every setting that holds for it; those of the program first.
    pub settings: Vec<Setting>,
}

/// Parses a command line over the values of a file.
///
/// # Errors
/// clap's own: usage errors, help and version.
pub fn settle(program: &Command, file: &Settings, words: &[OsString]) -> Result<Settled, clap::Error> {
    let mut file = file.clone();
    let mut words = words.to_vec();
    // What was added to the words because a flag requires it.
    let mut added: Vec<String> = Vec::new();
    // Each turn takes a value out of the file or adds one of it to the words, so there are few.
    loop {
        let matches = match with_defaults(program, &file).try_get_matches_from(&words) {
            Ok(matches) => matches,
            Err(error) => {
                if !add_required(program, &file, &error, &mut words, &mut added) {
                    return Err(error);
                }
                continue;
            }
        };
        let path = path_of(&matches);
        let excluded = excluded(program, &file, &matches, &path, &added);
        if excluded.is_empty() {
            let settings = settings(program, &file, &matches, &path, &added);
            return Ok(Settled { matches, path, settings });
        }
        excluded.iter().for_each(|(path, id)| file.remove(path, id));
    }
}

/// The same of a command line that need not be complete: its files or subcommands may be missing.
///
/// # Errors
/// As [`settle`].
pub fn settle_incomplete(program: &Command, file: &Settings, words: &[OsString]) -> Result<Settled, clap::Error> {
    use ErrorKind::{DisplayHelpOnMissingArgumentOrSubcommand, MissingRequiredArgument, MissingSubcommand};
    match settle(program, file, words) {
        Err(error)
            if matches!(
                error.kind(),
                DisplayHelpOnMissingArgumentOrSubcommand | MissingRequiredArgument | MissingSubcommand
            ) =>
        {
            settle(&program.clone().ignore_errors(true), file, words)
        }
        settled => settled,
    }
}

/// The command tree with the file's values as defaults.
fn with_defaults(program: &Command, file: &Settings) -> Command {
    fn dress(command: Command, path: &mut CommandPath, file: &Settings) -> Command {
        let given = file.at(path);
        let mut command = command.mut_args(|arg| match given.and_then(|given| given.get(arg.get_id().as_str())) {
            // What is required must be said: the file's value is added to the words then.
            Some(given) if !arg.is_required_set() => arg.default_values(given.words.iter().copied()),
            _ => arg,
        });
        for given in given.into_iter().flat_map(|given| given.values()) {
            if let Some(arg) = &given.inherited {
                command = command.arg(arg.clone().default_values(given.words.iter().copied()));
            }
        }
        command.mut_subcommands(|command| {
            path.push(command.get_name().to_owned());
            let command = dress(command, path, file);
            path.pop();
            command
        })
    }
    dress(program.clone(), &mut Vec::new(), file)
}

/// The names of the commands that were found in the words.
fn path_of(matches: &ArgMatches) -> CommandPath {
    let below = std::iter::successors(matches.subcommand(), |(_, matches)| matches.subcommand());
    below.map(|(name, _)| name.to_owned()).collect()
}

/// The program and the commands of a path, each with its own path and matches.
fn levels<'c>(
    program: &'c Command,
    matches: &'c ArgMatches,
    path: &[String],
) -> Vec<(&'c Command, &'c ArgMatches, CommandPath)> {
    let mut levels = vec![(program, matches, Vec::new())];
    let (mut command, mut matches) = (program, matches);
    for (depth, name) in path.iter().enumerate() {
        let (Some(below), Some(matched)) = (command.find_subcommand(name), matches.subcommand_matches(name)) else {
            break;
        };
        (command, matches) = (below, matched);
        levels.push((command, matches, path[..=depth].to_vec()));
    }
    levels
}

fn is_explicit(matches: &ArgMatches, arg: &Arg) -> bool {
    let source = matches.value_source(arg.get_id().as_str());
    matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
}

/// Values of the file that do not go with what was said.
fn excluded(
    program: &Command,
    file: &Settings,
    matches: &ArgMatches,
    path: &[String],
    added: &[String],
) -> Vec<(CommandPath, String)> {
    let mut excluded = Vec::new();
    for (command, matches, path) in levels(program, matches, path) {
        let said = |arg: &&Arg| is_explicit(matches, arg) && !added.iter().any(|id| arg.get_id() == id);
        let said: Vec<&Arg> = command.get_arguments().filter(said).collect();
        for id in file.at(&path).into_iter().flat_map(|given| given.keys()) {
            let Some(arg) = command.get_arguments().find(|arg| arg.get_id() == id) else { continue };
            if !is_explicit(matches, arg) && said.iter().any(|said| clash(command, arg, said)) {
                excluded.push((path.clone(), id.clone()));
            }
        }
    }
    excluded
}

/// Adds those values of the file to the words that are missing there; whether there are any.
fn add_required(
    program: &Command,
    file: &Settings,
    error: &clap::Error,
    words: &mut Vec<OsString>,
    added: &mut Vec<String>,
) -> bool {
    let (ErrorKind::MissingRequiredArgument, Some(ContextValue::Strings(missing))) =
        (error.kind(), error.get(ContextKind::InvalidArg))
    else {
        return false;
    };
    // The error does not say which command it is about.
    let Ok(matches) = with_defaults(program, file).ignore_errors(true).try_get_matches_from(&*words) else {
        return false;
    };
    let path = path_of(&matches);
    let Some((command, _, _)) = levels(program, &matches, &path).pop() else { return false };
    let is_missing = |arg: &Arg| {
        let flag = |usage: &str| usage.split([' ', '=']).next()?.strip_prefix("--").map(str::to_owned);
        missing.iter().any(|usage| flag(usage).as_deref() == arg.get_long() && arg.get_long().is_some())
    };
    let before = added.len();
    for arg in command.get_arguments().filter(|arg| is_missing(arg)) {
        let id = arg.get_id().to_string();
        let (Some(given), Some(long)) = (file.of(&path, arg), arg.get_long()) else { continue };
        if added.contains(&id) {
            continue;
        }
        // Behind a bare `--` it would be no flag any more.
        let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
        let flags: Vec<OsString> = match arg.get_action() {
            ArgAction::SetTrue if given.words == ["true"] => vec![format!("--{long}").into()],
            ArgAction::SetTrue | ArgAction::Count => continue,
            _ => given.words.iter().map(|word| format!("--{long}={word}").into()).collect(),
        };
        words.splice(end..end, flags);
        added.push(id);
    }
    added.len() > before
}

/// Every setting that holds for a command, with where it comes from.
fn settings(
    program: &Command,
    file: &Settings,
    matches: &ArgMatches,
    path: &[String],
    added: &[String],
) -> Vec<Setting> {
    let mut settings = Vec::new();
    let levels = levels(program, matches, path);
    for (command, matches, own) in &levels {
        for arg in command.get_arguments().filter(|arg| is_setting(arg)) {
            let id = arg.get_id().as_str();
            // What holds for all commands below is the program's, unless the file says otherwise for this command.
            let given = file.of(if arg.is_global_set() { path } else { own }, arg);
            let from_file = || given.map_or(Origin::Default, |given| Origin::File { line: given.line });
            let origin = match matches.value_source(id) {
                Some(ValueSource::CommandLine) if added.iter().any(|added| added == id) => from_file(),
                Some(ValueSource::CommandLine) => Origin::Flag,
                Some(ValueSource::EnvVariable) => {
                    Origin::Environment(arg.get_env().unwrap_or_default().to_string_lossy().into_owned())
                }
                _ => from_file(),
            };
            let words: Vec<OsString> = matches.get_raw(id).into_iter().flatten().map(OsString::from).collect();
            let value = Shown::of(arg, words.iter().map(OsString::as_os_str));
            settings.push(Setting { command: own.clone(), arg: arg.clone(), words, value, origin });
        }
    }
    settings
}
