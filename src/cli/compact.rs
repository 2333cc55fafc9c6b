//! `vitals compact`: closed days become large sorted files.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;
use serde::Deserialize;

use super::{
    Exit, LakeArgs,
    force::telling,
    progress::Progress,
    score::report,
    target::{Target, TargetArgs},
    tell,
};
use crate::{
    aws::{
        catalogue::{Catalogue, InForce},
        deployed::Deployed,
        glue::Glue,
    },
    lake::{
        Place, State, Store, catalogue, clean,
        compact::{CompactOptions, compact},
        job::{self, Input, Staged, Work},
        now_ms,
    },
    score::{
        ScoreOptions,
        follow::Share,
        is_unordered, load_model,
        lock::{LockError, ScorerLock},
        score_lake,
    },
};

/// Turn closed days into large sorted files
///
/// Examples:
///
///   vitals compact
///
///   # today as well, so far
///   vitals compact --now
///
///   # a lake in S3, whose tables and views Athena then shows
///   vitals compact --lake s3://wards/lake --catalogue wards
///
/// Readings land in small files as they come. Compaction sorts those of a day that is over by device and time, drops what
/// a device sent twice, and writes few large files. Nothing that asks the lake meanwhile sees a reading twice or not at
/// all, and a crash at any moment loses nothing: run it again.
///
/// A job of many machines closes days in steps, each of which is this program's: what a job has sorted is checked before
/// it counts.
///
/// With `--catalogue`, or on a deployed stack, the tables and views in Glue's catalogue are then made to show what is in
/// force; files that a query may still be at stay.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct CompactArgs {
    #[command(flatten)]
    lake: LakeArgs,

    /// Also close the running day; what comes later is merged into it, or goes into the next one where a catalogue shows the
    /// lake
    #[arg(long)]
    now: bool,

    /// Let the tables and views of this database in Glue's catalogue show the lake, which is in S3
    #[arg(long, value_name = "DATABASE", env = "VITALS_CATALOGUE")]
    catalogue: Option<String>,

    /// Close no day: only let the catalogue show what is in force; what it shows already is not touched
    #[arg(long, conflicts_with = "now")]
    catalogue_only: bool,

    /// Close no day: say as JSON which one a job is to close, and what goes into it
    #[arg(long, conflicts_with_all = ["catalogue_only", "task", "commit"], help_heading = JOBS)]
    plan: bool,

    /// Do a task of such a job, which standard input says as JSON: count a file of the plan, or make a part of a sorted file
    #[arg(long, conflicts_with_all = ["catalogue_only", "now", "commit"], help_heading = JOBS)]
    task: bool,

    /// Check what a job has written, by its JSON in a file (`-`: standard input), and put it in force
    #[arg(long, value_name = "FILE", conflicts_with_all = ["catalogue_only", "now"], help_heading = JOBS)]
    commit: Option<PathBuf>,

    #[command(flatten)]
    target: TargetArgs,
}

/// Under what the help shows the flags that Spark's job uses.
const JOBS: &str = "Steps of a job (spark/compact.py)";

/// What a task is to do.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Task {
    /// Sum up these files.
    Count(Vec<Input>),
    /// Make a part of a file that lies in `place`.
    Seal { place: String, staged: Box<Staged> },
}

/// Does a task, and says what came of it.
async fn do_task(store: &Store) -> anyhow::Result<()> {
    let task = serde_json::from_reader(std::io::stdin().lock()).context("reading the task")?;
    match task {
        Task::Count(files) => {
            let mut counted = Vec::with_capacity(files.len());
            for file in &files {
                counted.push(job::count::count(store, file).await?);
            }
            super::say(&serde_json::to_string(&counted)?)
        }
        Task::Seal { place, staged } => {
            let place: Place = place.parse().with_context(|| format!("`place` of the task: `{place}`"))?;
            let sealed = job::seal::seal(store, &Store::at(&place).await?, &staged).await?;
            super::say(&serde_json::to_string(&sealed)?)
        }
    }
}

/// Puts the work of a job in force, and says what came of it.
async fn commit(store: &Store, path: &Path) -> anyhow::Result<()> {
    let json = if path == Path::new("-") {
        std::io::read_to_string(std::io::stdin().lock())
    } else {
        super::check_file(path)?;
        std::fs::read_to_string(path)
    };
    let of = || format!("reading the work of a job in `{}`", path.display());
    let work: Work = serde_json::from_str(&json.with_context(of)?).with_context(of)?;
    let closed = job::commit::commit(store, &work, now_ms()).await?;
    let day = work.plan.day;
    let answer = match closed {
        Some(closed) => {
            eprintln!("{:>10} {day} with {} readings", "closed", closed.readings);
            serde_json::json!({
                "schema_version": job::SCHEMA_VERSION, "committed": true, "day": day,
                "readings": closed.readings, "outliers": closed.outliers, "dead_letters": closed.dead_letters,
                "sent_twice": closed.sent_twice, "bytes": closed.bytes,
            })
        }
        None => {
            tell(&format!("the lake has changed since the plan: {day} is not closed by this job, which can plan anew"));
            serde_json::json!({ "schema_version": job::SCHEMA_VERSION, "committed": false, "day": day })
        }
    };
    super::say(&answer.to_string())
}

/// A database in Glue's catalogue that is to show the lake.
struct Shows {
    glue: Glue,
    database: String,
}

impl CompactArgs {
    /// The lake, and the database that is to show it.
    async fn places(&self) -> anyhow::Result<(LakeArgs, Option<Shows>)> {
        let region = self.target.stack.region.as_deref();
        let in_s3 = matches!(self.lake.lake, Place::S3 { .. });
        let (lake, region, database) = if self.target.target == Target::Aws {
            let deployed =
                Deployed::of(&self.target.stack.stack, region, Some(&self.lake.lake).filter(|_| in_s3)).await?;
            let database = self.catalogue.clone().unwrap_or(deployed.database);
            (LakeArgs { lake: deployed.lake }, deployed.region, database)
        } else if let Some(database) = &self.catalogue {
            if !in_s3 {
                return Err(Exit::usage(format!(
                    "`--catalogue {database}`: Athena reads no folder of this machine\nhint: `--lake s3://BUCKET/PREFIX`"
                )));
            }
            (self.lake.clone(), crate::aws::region_or(region).await?, database.clone())
        } else if self.catalogue_only {
            return Err(Exit::usage(
                "`--catalogue-only` needs a catalogue\nhint: `--catalogue DATABASE`, or `--target aws`",
            ));
        } else {
            return Ok((self.lake.clone(), None));
        };
        let glue = Glue::in_region(&region).await?;
        Ok((lake, Some(Shows { glue, database })))
    }
}

impl Shows {
    /// Lets the catalogue show what is in force, and says so.
    async fn put_in_force(&self, lake: &LakeArgs, store: &Store) -> anyhow::Result<InForce> {
        let in_force = Catalogue::new(&self.glue, &self.database, store, &lake.lake).put_in_force().await?;
        let InForce { n, steps, .. } = in_force;
        let changes = if steps == 0 { "nothing had to change".to_owned() } else { format!("{steps} changes") };
        eprintln!("{:>10} `{}` shows state {n}; {changes}", "catalogue", self.database);
        Ok(in_force)
    }
}

/// What a clean-up has to know of the catalogue; `None` where it must not be done now.
fn cleaned_up_to(in_force: Option<InForce>) -> Option<Option<u64>> {
    match in_force {
        None => Some(None),
        Some(in_force) => in_force.settled.map(Some),
    }
}

/// In a lake that is scored as it fills, days close only up to where the scorer has come. Where no process does that now,
/// it is done here.
async fn score_first(lake: &LakeArgs, store: &Store) -> anyhow::Result<()> {
    let state = State::load(store).await?;
    if !state.scoring {
        return Ok(());
    }
    match ScorerLock::take(&lake.lake, Share::WHOLE) {
        Ok(_lock) => {
            let model = load_model(store, state.model()).await?;
            let mut progress = Progress::spinner("score");
            match score_lake(store, &model, ScoreOptions::default(), telling(&mut progress)).await {
                Ok(scored) => progress.done(&report(&scored)),
                // Closing days is what helps then.
                Err(e) if is_unordered(&e) => eprintln!("warning: {}", super::in_words(&e)),
                Err(e) => return Err(e),
            }
            Ok(())
        }
        Err(LockError::Held { .. }) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Runs the command.
pub async fn run(args: CompactArgs) -> anyhow::Result<ExitCode> {
    let (lake, shows) = args.places().await?;
    let store = lake.open().await?;
    if let (true, Some(shows)) = (args.catalogue_only, &shows) {
        shows.put_in_force(&lake, &store).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let options = CompactOptions { now_ms: now_ms(), running_day: args.now };
    if args.plan {
        let plan = job::plan::plan(&store, options).await?;
        let state = State::load(&store).await?.n;
        let nothing = || serde_json::json!({ "schema_version": job::SCHEMA_VERSION, "state": state, "day": null });
        let json = plan.map_or_else(|| Ok(nothing()), serde_json::to_value)?;
        super::say(&json.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.task {
        do_task(&store).await?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(path) = &args.commit {
        commit(&store, path).await?;
        if let Some(shows) = &shows {
            shows.put_in_force(&lake, &store).await?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    score_first(&lake, &store).await?;
    let mut progress = Progress::spinner("compact");
    let mut days = 0;
    let closed = compact(&store, options, |day| {
        days += 1;
        progress.at(days, || format!("{} closed", day.day));
    })
    .await?;
    let readings: u64 = closed.iter().map(|day| day.readings).sum();
    let twice: u64 = closed.iter().map(|day| day.sent_twice).sum();
    let words = match closed.as_slice() {
        [] if !args.now => "no day to close; `--now` closes the running one".to_owned(),
        [] => "nothing to close".to_owned(),
        [one] => format!("closed {} with {readings} readings; {twice} sent twice were dropped", one.day),
        [first, .., last] => format!(
            "closed {} days, {} to {}, with {readings} readings; {twice} sent twice were dropped",
            closed.len(),
            first.day,
            last.day
        ),
    };
    progress.done(&words);
    let in_force = match &shows {
        Some(shows) => Some(shows.put_in_force(&lake, &store).await?),
        None => None,
    };
    if let Some(shown) = cleaned_up_to(in_force) {
        let removed = clean::clean(&store, options.now_ms, shown).await?;
        if removed > 0 {
            eprintln!("{:>10} {removed} files that nothing needs any more", "removed");
        }
    }
    if shows.is_none() && catalogue::shows(&store).await? {
        tell(
            "hint: a catalogue shows this lake: `--catalogue DATABASE` brings it up to date, and removes what nothing needs any more",
        );
    }
    Ok(ExitCode::SUCCESS)
}
