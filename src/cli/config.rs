//! `vitals.toml`: values for the flags of any command. `vitals config`: what holds, where it comes from, whether it is good.
//!
//! There is no list of settings here: a setting is a flag, by its name. At the top of the file it holds for every command
//! that has the flag, in the table of a command for that one and those below it; the nearest table wins. A value means what
//! it means on the command line (so a path is one from the current folder). Over it stand the environment and the command
//! line, under it the flag's own default.
//!
//! ```toml
//! lake = "ward7"
//!
//! [up]
//! window = "30s"
//!
//! [query.outliers]
//! limit = 100
//! ```
//!
//! | part | what it does |
//! |---|---|
//! | [`file`] | reads and checks the file |
//! | [`merge`] | lays flags, environment, file and defaults over each other |
//! | [`show`] | writes what holds |
//! | [`value`] | values as TOML, words and JSON |

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Arg, Args, Command, CommandFactory, FromArgMatches, Subcommand, ValueEnum, error::ErrorKind};

use super::Cli;

pub mod file;
pub mod merge;
pub mod show;
#[cfg(test)]
mod tests;
pub mod value;

use file::{CommandPath, ConfigError, DEFAULT_FILE, Settings};
use value::Shown;

/// The exit code for a configuration that is wrong.
const CONFIGURATION: u8 = 4;

/// Commands that work beside a file that is wrong: shells call them at their start, or they are asked what is wrong.
const WITHOUT_FILE: [&str; 4] = ["completions", "man", "info", "doctor"];

/// Show and check the configuration: vitals.toml, the environment and defaults
///
/// Examples:
///
///   # everything that can be set, as a file to begin with
///   vitals config show > vitals.toml
///
///   # what holds for a command line, and where it comes from
///   vitals config show --origin
///   vitals config show --origin up --window 5
///
///   vitals config check
///
/// Settings are flags by their names. At the top of vitals.toml they hold for every command that has the flag, under
/// `[up]` or `[query.outliers]` for that command. Flags go before the environment, that goes before vitals.toml of the
/// current folder (or `--config FILE`), and that before defaults.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Every setting that holds, in the form of vitals.toml
    Show(ShowArgs),
    /// Whether the file can be used; ends with 4 if not
    Check,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// Also say where each comes from: default, vitals.toml with the line, environment or flag
    #[arg(long)]
    origin: bool,

    /// How it is written
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value = "toml")]
    output: Output,

    /// Of this command only, as its command line would have it
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

/// The form of the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// As vitals.toml
    Toml,
    /// One document, always with origins
    Json,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    /// The file, in this line.
    File {
        line: usize,
    },
    /// The environment variable of this name.
    Environment(String),
    Flag,
}

impl Origin {
    /// In words; `file` is the one in use.
    pub fn describe(&self, file: Option<&Path>) -> String {
        match self {
            Origin::Default => "default".to_owned(),
            Origin::File { line } => format!("{}:{line}", file.unwrap_or(Path::new(DEFAULT_FILE)).display()),
            Origin::Environment(name) => format!("env {name}"),
            Origin::Flag => "flag".to_owned(),
        }
    }
}

/// A setting that holds.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The command that has the flag; empty for the program's own.
    pub command: CommandPath,
    pub arg: Arg,
    /// The words of its value; none where it is not set.
    pub words: Vec<OsString>,
    /// Its value; `None` where it is not set, or is no text.
    pub value: Option<Shown>,
    pub origin: Origin,
}

/// Where the values of this run come from.
#[derive(Debug, Default)]
pub struct Origins {
    /// The configuration file in use.
    pub file: Option<PathBuf>,
    /// Why a file is not in use, for a command that works without it.
    pub problem: Option<String>,
    /// What holds for this run's command.
    pub settings: Vec<Setting>,
    given: Settings,
}

impl Origins {
    /// Whether a flag stands on the command line.
    pub fn is_flag(&self, flag: &str) -> bool {
        self.origin(flag) == Some(&Origin::Flag)
    }

    /// Whether somebody has set a flag, be it in the environment or in the file.
    pub fn is_given(&self, flag: &str) -> bool {
        self.origin(flag).is_some_and(|origin| *origin != Origin::Default)
    }

    fn origin(&self, flag: &str) -> Option<&Origin> {
        let setting = self.settings.iter().find(|setting| setting.arg.get_long() == Some(flag))?;
        Some(&setting.origin).filter(|_| !setting.words.is_empty())
    }

    /// Where the value of a flag comes from, in words.
    pub fn of(&self, flag: &str) -> Option<String> {
        let setting = self.settings.iter().find(|setting| setting.arg.get_long() == Some(flag))?;
        Some(setting.origin.describe(self.file.as_deref()))
    }
}

/// Why a command line is not run.
#[derive(Debug)]
pub enum Refused {
    /// It is not understood, or asks for help or the version.
    Usage(clap::Error),
    /// The configuration is wrong.
    Configuration(ConfigError),
}

impl Refused {
    /// Says why; gives the exit code.
    pub fn tell(self) -> ExitCode {
        match self {
            Refused::Usage(error) => tell_usage(&error),
            Refused::Configuration(error) => {
                eprintln!("error: {error}");
                ExitCode::from(CONFIGURATION)
            }
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Usage(error) => error.fmt(f),
            Refused::Configuration(error) => error.fmt(f),
        }
    }
}

fn tell_usage(error: &clap::Error) -> ExitCode {
    // That nobody reads on is no fault.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1))
}

/// Reads the command line, over the environment and the configuration file.
///
/// # Errors
/// Help, version, and what is wrong with either of them.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<(Cli, Origins), Refused> {
    let words: Vec<OsString> = words.into_iter().collect();
    let named = file::named(&words, std::env::var_os("VITALS_CONFIG"));
    parse_with(&words, named.as_deref())
}

fn parse_with(words: &[OsString], named: Option<&Path>) -> Result<(Cli, Origins), Refused> {
    let program = Cli::command();
    let (file, given, problem) = match load(named, &program) {
        Ok((file, given)) => (file, given, None),
        Err(error) if works_without_file(&program, words)? => (None, Settings::default(), Some(error.to_string())),
        Err(error) => return Err(Refused::Configuration(error)),
    };
    let mut settled = merge::settle(&program, &given, words).map_err(Refused::Usage)?;
    let cli = Cli::from_arg_matches_mut(&mut settled.matches)
        .map_err(|error| Refused::Usage(error.format(&mut program.clone())))?;
    Ok((cli, Origins { file, problem, settings: settled.settings, given }))
}

fn load(named: Option<&Path>, program: &Command) -> Result<(Option<PathBuf>, Settings), ConfigError> {
    match file::read(named)? {
        Some((path, text)) => file::check(&path, &text, program).map(|given| (Some(path), given)),
        None => Ok((None, Settings::default())),
    }
}

/// Whether a command line is run although the file is wrong; the error is help or version, which need no file either.
fn works_without_file(program: &Command, words: &[OsString]) -> Result<bool, Refused> {
    match merge::settle(program, &Settings::default(), words) {
        Ok(settled) => Ok(settled.path.first().is_some_and(|name| WITHOUT_FILE.contains(&name.as_str()))),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Err(Refused::Usage(error))
        }
        Err(_) => Ok(false),
    }
}

/// Runs the command.
pub fn run(args: ConfigArgs, origins: &Origins) -> anyhow::Result<ExitCode> {
    match args.command {
        ConfigCommand::Show(args) => show(&args, origins),
        ConfigCommand::Check => {
            super::say(&match &origins.file {
                Some(file) => format!("{}: {}", file.display(), settings_in_words(origins.given.count)),
                None => format!("there is no {DEFAULT_FILE} here; `--config FILE` names one"),
            })?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn settings_in_words(count: usize) -> String {
    match count {
        1 => "1 setting, nothing wrong".to_owned(),
        many => format!("{many} settings, nothing wrong"),
    }
}

fn show(args: &ShowArgs, origins: &Origins) -> anyhow::Result<ExitCode> {
    let program = Cli::command();
    let named = args.words.first().and_then(|word| word.to_str());
    if let Some(name) = named.filter(|name| file::WITHOUT_SETTINGS.contains(name)) {
        return Err(super::Exit::usage(format!("`vitals {name}` has no settings")));
    }
    let tables = match show::tables(&program, &origins.given, &args.words) {
        Ok(tables) => tables,
        Err(error) => return Ok(tell_usage(&error)),
    };
    let file = origins.file.as_deref();
    super::say(&match args.output {
        Output::Toml => show::toml(&tables, file, args.origin),
        Output::Json => serde_json::to_string_pretty(&show::json(&tables, file))?,
    })?;
    Ok(ExitCode::SUCCESS)
}
