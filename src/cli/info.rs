//! `vitals info`: which program, which configuration, which lake, and how it stands.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, ValueEnum};
use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;

use super::{
    LakeArgs,
    config::Origins,
    target::{Target, TargetArgs},
};
use crate::{
    lake::{Place, State, Store, layout::Day},
    reading::time::format_rfc3339_ms,
};

mod lake;
mod machine;

use lake::{Contents, Held};
use machine::Machine;

/// Say which program, configuration and lake this is, and how the lake stands
///
/// Examples:
///
///   vitals info
///   vitals info --lake ward7 --output json
///
/// Nothing is changed, and no readings are read: counts are those that files carry. A lake that is not there is told and
/// is no failure; a damaged one ends with 1.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct InfoArgs {
    #[command(flatten)]
    lake: LakeArgs,

    #[command(flatten)]
    target: TargetArgs,

    /// How it is written
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value = "text")]
    output: Output,
}

/// The form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// The answer.
#[derive(Debug, Serialize)]
struct Info {
    schema_version: u32,
    version: &'static str,
    /// Where commands work.
    target: &'static str,
    /// Which setting says so.
    target_why: String,
    /// The stack in AWS, where that is the target.
    stack: Option<String>,
    /// The configuration file in use.
    config: Option<PathBuf>,
    lake: Lake,
    machine: Machine,
    /// What is wrong, in words.
    problems: Vec<String>,
}

/// The lake, as far as it can be seen.
#[derive(Debug, Serialize)]
struct Lake {
    /// As `--lake` would name it.
    place: String,
    /// `None` where it is no folder.
    folder: Option<PathBuf>,
    /// Which setting named it.
    origin: String,
    exists: bool,
    held: Vec<Held>,
    /// The number of the state in force; 0 where nothing has been decided yet.
    state: Option<u64>,
    state_written: Option<String>,
    model: Option<String>,
    closed_days: Option<usize>,
    first_day: Option<Day>,
    last_day: Option<Day>,
    #[serde(flatten)]
    contents: Contents,
}

/// Runs the command.
pub async fn run(args: InfoArgs, origins: &Origins) -> anyhow::Result<ExitCode> {
    let info = gather(&args, origins).await;
    super::say(&match args.output {
        Output::Text => text(&info),
        Output::Json => serde_json::to_string_pretty(&info)?,
    })?;
    info.problems.iter().for_each(|problem| eprintln!("error: {problem}"));
    Ok(if info.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn gather(args: &InfoArgs, origins: &Origins) -> Info {
    let mut problems: Vec<String> = origins.problem.iter().cloned().collect();
    let place = &args.lake.lake;
    let mut lake = Lake {
        place: place.to_string(),
        folder: place.folder().map(Path::to_owned),
        origin: origins.of("lake").unwrap_or_else(|| "default".to_owned()),
        exists: false,
        held: Vec::new(),
        state: None,
        state_written: None,
        model: None,
        closed_days: None,
        first_day: None,
        last_day: None,
        contents: Contents::default(),
    };
    match open(place, &mut lake, &mut problems).await {
        Ok(Some(store)) => look(&store, &mut lake, &mut problems).await,
        Ok(None) => {}
        Err(why) => problems.push(why),
    }
    let machine = Machine::of_this_process();
    problems.extend(machine.problem());
    Info {
        schema_version: 1,
        version: env!("CARGO_PKG_VERSION"),
        target: match args.target.target {
            Target::Local => "local",
            Target::Aws => "aws",
        },
        target_why: origins.of("target").unwrap_or_else(|| "default".to_owned()),
        stack: (args.target.target == Target::Aws).then(|| args.target.stack.stack.clone()),
        config: origins.file.clone(),
        lake,
        machine,
        problems,
    }
}

/// The lake to look at, where there is one, and who holds it.
async fn open(place: &Place, lake: &mut Lake, problems: &mut Vec<String>) -> Result<Option<Store>, String> {
    let folder = match place {
        Place::Folder(folder) => folder,
        Place::S3 { .. } => {
            let (store, exists) = super::reach(place).await.map_err(|e| e.to_string())?;
            lake.exists = exists;
            return Ok(exists.then_some(store));
        }
    };
    lake.exists = super::is_lake(folder);
    lake.held = lake::held(folder, problems);
    let cant = |error: &dyn std::fmt::Display| format!("can't use `{place}` as a lake: {error}");
    match folder.read_dir() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cant(&error)),
        Ok(_) if lake.exists => lake::open(folder).map(Some).map_err(|e| cant(&e)),
        Ok(_) => Ok(None),
    }
}

/// Fills in what the lake's state and the footers of its files say.
async fn look(store: &Store, lake: &mut Lake, problems: &mut Vec<String>) {
    let state = match State::load(store).await {
        Ok(state) => state,
        // Nothing else means anything without it.
        Err(error) => return problems.push(error.to_string()),
    };
    lake.state = Some(state.n);
    lake.state_written = (state.n > 0).then(|| format_rfc3339_ms(state.written_ms));
    lake.model = Some(state.model().to_owned());
    lake.closed_days = Some(state.days.len());
    lake.first_day = state.days.keys().next().copied();
    lake.last_day = state.days.keys().next_back().copied();
    if let Err(error) = crate::score::load_model(store, state.model()).await {
        problems.push(format!("the model in force: {error:#}"));
    }
    lake.contents = lake::contents(store, &state, problems).await;
}

fn text(info: &Info) -> String {
    let mut lines = Vec::new();
    let mut line = |what: &str, said: String| lines.push(format!("{what:<10} {said}"));
    line("vitals", info.version.to_owned());
    let stack = info.stack.as_ref().map_or_else(String::new, |stack| format!(", stack {stack}"));
    line("target", format!("{} ({}){stack}", info.target, info.target_why));
    let config = info.config.as_ref().map(|file| file.display().to_string());
    line("config", config.unwrap_or_else(|| "no file".to_owned()));
    let lake = &info.lake;
    line("lake", format!("{} ({})", lake.place, lake.origin));
    if !lake.exists {
        let makers = if lake.folder.is_some() { "`vitals import FILE` or `vitals up`" } else { "`vitals import FILE`" };
        line("", format!("there is no lake there: {makers} makes one"));
    }
    for held in &lake.held {
        line("held", held.describe());
    }
    if let (Some(n), Some(model)) = (lake.state, &lake.model) {
        let written = lake.state_written.as_ref().map_or_else(String::new, |at| format!(", written {at}"));
        line("state", format!("{n}{written}"));
        line("model", model.clone());
        line("closed", days(lake));
        line("readings", readings(&lake.contents));
        let nothing = || match lake.last_day {
            Some(_) => "nothing since days were closed".to_owned(),
            None => "nothing yet".to_owned(),
        };
        line("arrived", lake.contents.last_arrival.clone().unwrap_or_else(nothing));
    }
    line("machine", info.machine.describe());
    lines.join("\n")
}

fn days(lake: &Lake) -> String {
    match (lake.first_day, lake.last_day) {
        (Some(first), Some(last)) if first != last => {
            format!("{} days, {first} to {last}", lake.closed_days.unwrap_or_default())
        }
        (Some(day), _) => day.to_string(),
        _ => "no days".to_owned(),
    }
}

fn readings(contents: &Contents) -> String {
    let about = if contents.exact { "" } else { "at most " };
    format!(
        "{about}{}, {} of them in closed days; {} in files of readings",
        HumanCount(contents.readings),
        HumanCount(contents.closed_readings),
        HumanBytes(contents.bytes)
    )
}

#[cfg(test)]
mod tests;
