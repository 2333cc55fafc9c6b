//! Putting a model in force: by scoring everything here, or, where a process follows the lake, by asking that one.

use std::time::Duration;

use anyhow::Context;

use super::{LakeArgs, progress::Progress, score::report};
use crate::{
    lake::{State, Store},
    model::Model,
    score::{
        ScoreOptions, Scored,
        follow::{Share, announce},
        lock::{LockError, ScorerLock},
        score_lake, shards,
    },
};

/// How often it is asked whether the process that follows the lake has come so far.
const ASK: Duration = Duration::from_millis(300);

/// Scores the lake with `model` and puts it in force, or waits until the process that follows the lake has.
pub async fn put_in_force(lake: &LakeArgs, store: &Store, model: &Model) -> anyhow::Result<()> {
    let mut asked = None;
    let mut progress = Progress::spinner("score");
    loop {
        match ScorerLock::take(&lake.lake, Share::WHOLE) {
            Ok(_lock) => {
                let scored = score_lake(store, model, ScoreOptions::default(), telling(&mut progress)).await?;
                progress.done(&report(&scored));
                return Ok(());
            }
            Err(LockError::Held { process, .. }) => {
                if asked.is_none() {
                    announce(store, model.id()).await?;
                    asked = Some(process);
                }
            }
            Err(e) => return Err(e.into()),
        }
        if State::load(store).await?.model() == model.id() {
            let process = asked.unwrap_or_default();
            progress.done(&format!(
                "{} is in force; process {process}, which follows the lake, scored with it",
                model.id()
            ));
            return Ok(());
        }
        progress
            .at(0, || format!("waiting for process {} to take {} over", asked.as_deref().unwrap_or("?"), model.id()));
        tokio::time::sleep(ASK).await;
    }
}

/// Puts `model` in force with what the shares of a job have found, and what has come since.
pub async fn put_shares_in_force(lake: &LakeArgs, store: &Store, model: &Model, job: &str) -> anyhow::Result<()> {
    let lock = ScorerLock::take(&lake.lake, Share::WHOLE);
    let _lock = lock.context("putting a job's verdicts in force; stop that process first")?;
    let mut progress = Progress::spinner("score");
    let scored = shards::put_in_force(store, model, job, telling(&mut progress)).await?;
    progress.done(&report(&scored));
    Ok(())
}

/// Shows how scoring goes.
pub fn telling(progress: &mut Progress) -> impl FnMut(&Scored) + '_ {
    |done| progress.at(done.readings, || format!("{} readings", done.readings))
}
