//! `vitals compact`: closed days become large sorted files.

use std::process::ExitCode;

use clap::Args;

use super::{LakeArgs, force::telling, progress::Progress, score::report};
use crate::{
    lake::{
        State, Store, clean,
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
/// Readings land in small files as they come. Compaction sorts those of a day that is over by device and time, drops what
/// a device sent twice, and writes few large files. Nothing that asks the lake meanwhile sees a reading twice or not at
/// all, and a crash at any moment loses nothing: run it again.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct CompactArgs {
    #[command(flatten)]
    lake: LakeArgs,

    /// Also close the running day; what comes later is merged into it
    #[arg(long)]
    now: bool,
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
    let store = args.lake.open().await?;
    score_first(&args.lake, &store).await?;
    let options = CompactOptions { now_ms: now_ms(), running_day: args.now };
    let mut progress = Progress::spinner("compact");
    let mut days = 0;
    let closed = compact(&store, options, |day| {
        days += 1;
        progress.at(days, || format!("{} closed", day.day));
    })
    .await?;
    let removed = clean::clean(&store, options.now_ms).await?;
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
    if removed > 0 {
        eprintln!("{:>10} {removed} files that nothing needs any more", "removed");
    }
    Ok(ExitCode::SUCCESS)
}
