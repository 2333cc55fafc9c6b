//! The command line: one file per command, with its arguments and a `run` that a library user could call as well.
//!
//! Answers go to standard output, everything said on the way to standard error. Exit codes: 0 done (an empty answer too),
//! 1 failed, 2 the command was not understood, 3 what was asked for is not there, 4 the configuration is wrong, 5 no
//! access to AWS, 130 interrupted.

use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use anyhow::Context;
use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{OsStringValueParser, TypedValueParser},
};

use crate::{
    aws::{
        NoCredentials,
        clients::{CallFailed, NoRegion},
        deployed::NoStack,
        image::RegistryError,
    },
    lake::{
        Place, Store, StoreError,
        store::{Refusal, S3Error},
    },
};

pub mod archived;
pub mod bridge;
pub mod compact;
pub mod completions;
pub mod config;
pub mod demo;
pub mod deploy;
pub mod destroy;
pub mod devices;
pub mod doctor;
pub mod duration;
pub mod evaluate;
pub mod force;
pub mod image;
pub mod import;
pub mod info;
pub mod ingest;
pub mod kafka;
pub mod man;
pub mod models;
pub mod models_adopt;
pub mod models_check;
pub mod moment;
pub mod plan;
pub mod progress;
pub mod query;
pub mod report;
pub mod restore;
pub mod score;
pub mod simulate;
pub mod size;
pub mod stack;
pub mod status;
pub mod status_line;
pub mod target;
pub mod template;
pub mod train;
pub mod up;
pub mod verify;
pub mod why;

/// Carries human vital signs from a fleet of small devices to answers
///
/// Examples:
///
///   # everything at once, on this machine, in about a minute
///   vitals demo
///
///   # your own readings: into a lake, learn what is normal, ask what is not
///   vitals import readings.csv
///   vitals train
///   vitals query outliers --since 30d
///
///   # live: a broker for devices in one terminal, simulated devices in another
///   vitals up
///   vitals simulate --devices 100 --duration 60
///
/// Not a medical device: what it finds is for people to look at.
#[derive(Debug, Parser)]
#[command(version, verbatim_doc_comment, max_term_width = 120, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,

    /// Say more about what is being done (twice: everything)
    #[arg(long, short, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,

    /// How to write messages
    #[arg(long, value_enum, default_value_t = LogFormat::Text, global = true, env = "VITALS_LOG_FORMAT")]
    pub log_format: LogFormat,

    /// Take values for flags from this file [default: vitals.toml of the current folder, where there is one]
    // Read before everything else is parsed, by `config::parse`: it decides what the defaults are.
    #[arg(long, value_name = "FILE", global = true, env = "VITALS_CONFIG")]
    pub config: Option<PathBuf>,
}

/// The form of messages on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// The program: reads the command line, runs the command, and turns its outcome into an exit code.
pub fn main() -> ExitCode {
    let (cli, origins) = match config::parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(refused) => return refused.tell(),
    };
    start_logging(cli.verbose, cli.log_format);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("error: can't start: {e}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(cli.run(&origins));
    // Reads and writes still under way on other threads have nobody left who waits for them.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(error) => match explain(&error) {
            Some((code, text)) => {
                tell_as("ERROR", &text);
                ExitCode::from(code)
            }
            None => ExitCode::SUCCESS,
        },
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    Demo(demo::DemoArgs),
    Up(Box<up::UpArgs>),
    Simulate(Box<simulate::SimulateArgs>),
    Devices(devices::DevicesArgs),
    Bridge(Box<bridge::BridgeArgs>),
    Ingest(Box<ingest::IngestArgs>),
    Import(import::ImportArgs),
    Compact(compact::CompactArgs),
    Train(Box<train::TrainArgs>),
    Evaluate(evaluate::EvaluateArgs),
    Score(score::ScoreArgs),
    Models(models::ModelsArgs),
    Query(query::QueryArgs),
    Report(report::ReportArgs),
    Restore(restore::RestoreArgs),
    Verify(verify::VerifyArgs),
    Plan(plan::PlanArgs),
    Deploy(Box<deploy::DeployArgs>),
    Status(status::StatusArgs),
    Why(why::WhyArgs),
    Destroy(destroy::DestroyArgs),
    Template(template::TemplateArgs),
    Image(image::ImageArgs),
    Info(info::InfoArgs),
    Doctor(doctor::DoctorArgs),
    Config(config::ConfigArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

impl Cli {
    /// Does what was asked; `origins` say where its settings come from.
    pub async fn run(self, origins: &config::Origins) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Demo(args) => demo::run(args).await,
            Command::Up(args) => up::run(*args).await,
            Command::Simulate(args) => simulate::run(*args, origins).await,
            Command::Devices(args) => devices::run(args).await,
            Command::Bridge(args) => bridge::run(*args).await,
            Command::Ingest(args) => ingest::run(*args).await,
            Command::Import(args) => import::run(args).await,
            Command::Compact(args) => compact::run(args).await,
            Command::Train(args) => train::run(*args, origins).await,
            Command::Evaluate(args) => evaluate::run(args).await,
            Command::Score(args) => score::run(args).await,
            Command::Models(args) => models::run(args).await,
            Command::Query(args) => query::run(args).await,
            Command::Report(args) => report::run(args).await,
            Command::Restore(args) => restore::run(args).await,
            Command::Verify(args) => verify::run(args).await,
            Command::Plan(args) => plan::run(args).await,
            Command::Deploy(args) => deploy::run(*args).await,
            Command::Status(args) => status::run(args).await,
            Command::Why(args) => why::run(args).await,
            Command::Destroy(args) => destroy::run(args).await,
            Command::Template(args) => template::run(args),
            Command::Image(args) => image::run(args).await,
            Command::Info(args) => info::run(args, origins).await,
            Command::Doctor(args) => doctor::run(args, origins).await,
            Command::Config(args) => config::run(args, origins),
            Command::Completions(args) => completions::run(args),
            Command::Man(args) => man::run(args),
        }
    }
}

/// The form of an answer that people or machines read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Lines for people
    Text,
    /// One document
    Json,
}

/// Where the lake is.
#[derive(Debug, Clone, Args)]
pub struct LakeArgs {
    /// The lake: a folder, or s3://BUCKET/PREFIX
    #[arg(
        long,
        value_name = "LAKE",
        env = "VITALS_LAKE",
        default_value = ".vitals",
        value_parser = OsStringValueParser::new().try_map(Place::try_from)
    )]
    pub lake: Place,
}

impl LakeArgs {
    /// The lake, which must be there.
    pub async fn open(&self) -> anyhow::Result<Store> {
        let store = match &self.lake {
            Place::Folder(folder) if is_lake(folder) => Some(Store::folder(folder)?),
            Place::Folder(_) => None,
            Place::S3 { .. } => Some(reach(&self.lake).await?).filter(|(_, is_lake)| *is_lake).map(|(store, _)| store),
        };
        store.ok_or_else(|| self.no_lake())
    }

    fn no_lake(&self) -> anyhow::Error {
        let lake = &self.lake;
        Exit::not_found(match lake {
            Place::Folder(_) => format!(
                "there is no lake in `{lake}`\nhint: `vitals import FILE` makes one of your readings, `vitals up` takes \
                 those of devices, `vitals demo --keep {lake}` simulates some; `--lake DIR` names another"
            ),
            Place::S3 { .. } => format!(
                "there is no lake in `{lake}`\nhint: `vitals import FILE --lake {lake}` makes one of your readings; \
                 `--lake` names another"
            ),
        })
    }

    /// The lake, made where it is not there.
    pub async fn create(&self) -> anyhow::Result<Store> {
        match &self.lake {
            Place::Folder(folder) => Ok(Store::folder(folder)?),
            // A bucket that can't be used is better noticed before anything is read.
            Place::S3 { .. } => Ok(reach(&self.lake).await?.0),
        }
    }

    /// The lake's folder, for a command that keeps more in it than the lake; `why` ends the sentence "… must be a folder".
    pub fn folder(&self, why: &str) -> anyhow::Result<&Path> {
        let why = || Exit::usage(format!("`--lake {}`: the lake must be a folder of this machine {why}", self.lake));
        self.lake.folder().ok_or_else(why)
    }
}

/// Whether a folder has anything of a lake in it.
fn is_lake(folder: &Path) -> bool {
    ["landing", "state", "spool", "models"].iter().any(|name| folder.join(name).is_dir())
}

/// How long it takes until somebody who waits for S3 is told so.
const SILENCE: Duration = Duration::from_secs(4);

/// The lake on S3, and whether anything of one is there: one short listing.
async fn reach(lake: &Place) -> Result<(Store, bool), StoreError> {
    let reach = async {
        let store = Store::at(lake).await?;
        let folders = store.folders().await?;
        let is_lake = folders.iter().any(|folder| ["landing", "state", "models"].contains(&folder.as_ref()));
        Ok((store, is_lake))
    };
    tokio::pin!(reach);
    tokio::select! {
        reached = &mut reach => return reached,
        () = tokio::time::sleep(SILENCE) => tell(&format!("{lake} does not answer yet; waiting for up to a minute")),
    }
    reach.await
}

/// Whether a file that is named on the command line can be read. Pipes can't: files are read more than once.
pub fn check_file(path: &Path) -> anyhow::Result<()> {
    let cant = |why: &dyn std::fmt::Display| format!("can't read `{}`: {why}", path.display());
    let there = path.metadata().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Exit::not_found(cant(&e)),
        _ => anyhow::anyhow!(cant(&e)),
    })?;
    if !there.is_file() {
        return Err(anyhow::anyhow!(cant(&"it is no file, but a folder, a pipe or a device")));
    }
    std::fs::File::open(path).map(drop).map_err(|e| anyhow::anyhow!(cant(&e)))
}

/// An error with an exit code of its own.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Exit {
    /// The exit code.
    pub code: u8,
    message: String,
}

impl Exit {
    /// What was asked for is not there: exit code 3.
    pub fn not_found(message: impl Into<String>) -> anyhow::Error {
        Exit { code: 3, message: message.into() }.into()
    }

    /// AWS is not open to us: exit code 5.
    pub fn no_access(message: impl Into<String>) -> anyhow::Error {
        Exit { code: 5, message: message.into() }.into()
    }

    /// Somebody interrupted it: exit code 130.
    pub fn interrupted(message: impl Into<String>) -> anyhow::Error {
        Exit { code: 130, message: message.into() }.into()
    }

    /// The command can't be understood: exit code 2.
    pub fn usage(message: impl Into<String>) -> anyhow::Error {
        Exit { code: 2, message: message.into() }.into()
    }
}

/// The exit code of an error, and its text; `None` where whoever read our output has gone, which is not an error.
pub fn explain(error: &anyhow::Error) -> Option<(u8, String)> {
    let broken_pipe = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(broken_pipe) {
        return None;
    }
    let code = error.chain().find_map(code_of).unwrap_or(1);
    Some((code, in_words(error)))
}

/// An error with what it came from.
pub fn in_words(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        // Many errors repeat their cause in their own text.
        if !text.contains(&cause) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&cause);
        }
    }
    text
}

/// The exit code of one cause, where it has one of its own.
fn code_of(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    let no_access = || cause.downcast_ref::<NoCredentials>().map(|_| 5);
    let registry = || match cause.downcast_ref::<RegistryError>()? {
        RegistryError::NotThere { .. } => Some(3),
        RegistryError::Refused { .. } => Some(5),
        _ => None,
    };
    let exit = cause.downcast_ref::<Exit>().map(|exit| exit.code);
    let refused = || cause.downcast_ref::<CallFailed>().filter(|refused| refused.is_about_credentials()).map(|_| 5);
    let no_region = || cause.downcast_ref::<NoRegion>().map(|_| 4);
    let no_stack = || cause.downcast_ref::<NoStack>().map(|_| 3);
    let of_aws = || no_access().or_else(refused).or_else(no_region).or_else(no_stack).or_else(registry);
    exit.or_else(of_aws).or_else(|| match S3Error::within(cause)?.refusal {
        Refusal::NoBucket => Some(3),
        Refusal::NoCredentials => Some(5),
        _ => None,
    })
}

/// Sends messages to standard error.
pub fn start_logging(verbose: u8, format: LogFormat) {
    use tracing_subscriber::EnvFilter;
    JSON_MESSAGES.store(format == LogFormat::Json, Relaxed);
    let level = match verbose {
        // Where AWS's chain looks in vain for credentials is no news: what comes of it is said.
        0 => "warn,aws_config=error",
        1 => "vitals=info,warn,aws_config=error",
        _ => "vitals=debug,info",
    };
    let filter = EnvFilter::try_from_env("VITALS_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // A second start, as in tests, changes nothing.
    let _ = match format {
        LogFormat::Json => log.json().try_init(),
        LogFormat::Text => {
            let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            log.with_ansi(colours).without_time().with_target(false).try_init()
        }
    };
}

/// Whether messages are to be read by machines.
static JSON_MESSAGES: AtomicBool = AtomicBool::new(false);

/// Says something to people on standard error; to machines, in the form of the log, where they asked for it.
pub fn tell(text: &str) {
    tell_as("INFO", text);
}

fn tell_as(level: &str, text: &str) {
    if JSON_MESSAGES.load(Relaxed) {
        let timestamp = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        let line = serde_json::json!({
            "timestamp": timestamp, "level": level, "fields": { "message": text }, "target": "vitals"
        });
        eprintln!("{line}");
    } else if level == "ERROR" {
        eprintln!("error: {text}");
    } else {
        eprintln!("{text}");
    }
}

/// Writes a file whole or not at all: beside its place first, then renamed.
pub fn write_whole(path: &Path, write: impl FnOnce(&mut dyn io::Write) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let doing = || format!("writing `{}`", path.display());
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    // Others may read it as any other file, unlike what is only temporary.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = io::BufWriter::new(builder.tempfile_in(folder).with_context(doing)?);
    write(&mut file)?;
    let file = file.into_inner().map_err(io::IntoInnerError::into_error).with_context(doing)?;
    file.persist(path).with_context(doing)?;
    Ok(())
}

/// Writes an answer to standard output.
pub fn say(text: &str) -> anyhow::Result<()> {
    use io::Write;
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).context("writing to standard output")
}

/// Turns true with the first Ctrl-C (or SIGTERM); the second one ends the process at once.
pub fn on_interrupt() -> tokio::sync::watch::Receiver<bool> {
    let (sender, receiver) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        interrupted().await;
        let _ = sender.send(true);
        interrupted().await;
        std::process::exit(130);
    });
    receiver
}

async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! { _ = tokio::signal::ctrl_c() => {}, _ = terminate.recv() => {} }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
