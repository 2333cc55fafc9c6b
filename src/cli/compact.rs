//! `vitals compact`: closed days become large sorted files.

use std::process::ExitCode;

use clap::Args;

use super::{
    Exit, LakeArgs,
    force::telling,
    progress::Progress,
    score::report,
    target::{Target, TargetArgs},
};
use crate::{
    aws::{
        catalogue::{Catalogue, InForce},
        deployed::Deployed,
        glue::Glue,
    },
    lake::{
        Place, State, Store, clean,
        compact::{CompactOptions, compact},
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
/// With `--catalogue`, or on a deployed stack, the tables and views in Glue's catalogue are then made to show what is in
/// force; files that a query may still be at stay.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct CompactArgs {
    #[command(flatten)]
    lake: LakeArgs,

    /// Also close the running day; what comes later is merged into it
    #[arg(long)]
    now: bool,

    /// Let the tables and views of this database in Glue's catalogue show the lake, which is in S3
    #[arg(long, value_name = "DATABASE", env = "VITALS_CATALOGUE")]
    catalogue: Option<String>,

    /// Close no day: only let the catalogue show what is in force; what it shows already is not touched
    #[arg(long, conflicts_with = "now")]
    catalogue_only: bool,

    #[command(flatten)]
    target: TargetArgs,
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
    score_first(&lake, &store).await?;
    let options = CompactOptions { now_ms: now_ms(), running_day: args.now };
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
    Ok(ExitCode::SUCCESS)
}
