//! Cleaning up: files that no picture of the lake needs any more.
//!
//! - Landing and scored files below the cut go a day after the state that moved the cut, but never a chain's head (it says
//!   where the chain goes on), and, where a scorer follows, no landing file that it would need after a crash.
//! - Runs go when their name says that they were begun over two days ago and no state of the last two days names them.
//! - States go after two days, but for the newest.
//! - What shares of a job have found of closed days goes two days after the last of it was written, unless its model is to
//!   take over: who puts a model in force deletes it, and who never came to that left it behind.
//!
//! Where a catalogue shows the lake to another engine, what it has shown of late counts like what states say: nothing goes
//! that a query may still be at.

use std::collections::{HashMap, HashSet};

use object_store::path::Path;

use super::{
    catalogue,
    epoch::Epoch,
    landing::{self, SliceFile},
    layout::{self, Table},
    run,
    state::State,
    store::{Store, StoreError},
};

const DAY_MS: i64 = 24 * 3_600_000;

/// How long a file below the cut is kept.
const LANDING_KEPT_MS: i64 = DAY_MS;

/// How long a run that no state names is kept: whoever writes it may still be at it.
const RUN_KEPT_MS: i64 = 2 * DAY_MS;

/// How long what shares of a job have found is kept after the last word of them: a share may take half a day.
const JOB_KEPT_MS: i64 = 2 * DAY_MS;

/// Removes what nothing needs any more, and says how many files that were. `shown` is the number of the oldest state that a
/// catalogue may still show to anybody; none where there is no catalogue. Where there is one after all, nothing is removed.
pub async fn clean(store: &Store, now_ms: i64, shown: Option<u64>) -> Result<u64, StoreError> {
    if shown.is_none() && catalogue::shows(store).await? {
        return Ok(0);
    }
    let states = states(store).await?;
    let mut goes = Vec::new();
    let passed = |state: &State| shown.is_none_or(|shown| state.n <= shown);
    // Whoever opened the lake within the last day may still be reading what the state of then shows.
    if let Some(old) = states.iter().rev().find(|state| now_ms - state.written_ms >= LANDING_KEPT_MS && passed(state)) {
        let scorers = scorers(store, &states).await?;
        let landing = below_cut(store, old, layout::LANDING).await?.into_iter();
        let needed = |file: &SliceFile| {
            scorers.iter().any(|epoch| {
                epoch.as_ref().is_none_or(|epoch| file.first >= epoch.needs_from(&file.chain, file.partition))
            })
        };
        goes.extend(landing.filter(|file| !needed(file)).map(|file| file.key));
        goes.extend(below_cut(store, old, layout::SCORED).await?.into_iter().map(|file| file.key));
    }
    // A state is in force until the next one is written.
    let has_ended = |pair: &&[State]| now_ms - pair[1].written_ms >= RUN_KEPT_MS && passed(&pair[1]);
    let ended = states.windows(2).take_while(has_ended).count();
    goes.extend(states[..ended].iter().map(|state| layout::state_file(state.n)));
    let named = states[ended..].iter().flat_map(|state| state.days.values());
    let named = named.flat_map(|runs| Table::ALL.iter().filter_map(|&table| runs.of(table)));
    let named: HashSet<&str> = named.map(|run| run.run.as_str()).collect();
    goes.extend(stray_runs(store, &named, now_ms).await?);
    let candidate = states.last().and_then(|state| state.candidate.as_deref());
    goes.extend(left_jobs(store, candidate, now_ms).await?);
    let count = goes.len() as u64;
    if !goes.is_empty() {
        store.delete(goes).await?;
    }
    Ok(count)
}

/// Where a scorer follows: how far the model in force and the one that is to take over have come, each `None` where it has
/// not begun.
async fn scorers(store: &Store, states: &[State]) -> Result<Vec<Option<Epoch>>, StoreError> {
    let mut scorers = Vec::new();
    if let Some(state) = states.last().filter(|state| state.scoring) {
        for model in [Some(state.model()), state.candidate.as_deref()].into_iter().flatten() {
            scorers.push(Epoch::newest(store, model).await?);
        }
    }
    Ok(scorers)
}

/// Every state that is kept, oldest first.
async fn states(store: &Store) -> Result<Vec<State>, StoreError> {
    let mut states = Vec::new();
    for entry in store.list(&layout::STATE.into()).await? {
        if layout::parse_state(&entry.key).is_some() {
            states.push(State::read(store, &entry.key).await?);
        }
    }
    states.sort_by_key(|state: &State| state.n);
    Ok(states)
}

/// Files of slices that end at or below their cut, but for each chain's last.
async fn below_cut(store: &Store, state: &State, folder: &str) -> Result<Vec<SliceFile>, StoreError> {
    let files = landing::list(store, &folder.into()).await?;
    let same_chain = |a: &SliceFile, b: &SliceFile| {
        // Scored files of different models are different chains.
        a.key.prefix_matches(&parent(&b.key))
    };
    let not_heads = files.windows(2).filter(|pair| same_chain(&pair[0], &pair[1])).map(|pair| &pair[0]);
    let goes = not_heads.filter(|file| file.first < state.cut(&file.chain, file.partition).first);
    Ok(goes.cloned().collect())
}

fn parent(key: &Path) -> Path {
    let parts: Vec<_> = key.parts().collect();
    Path::from_iter(parts[..parts.len().saturating_sub(1)].iter().cloned())
}

/// Files of jobs that nobody has gone on with for long.
async fn left_jobs(store: &Store, candidate: Option<&str>, now_ms: i64) -> Result<Vec<Path>, StoreError> {
    let mut jobs: HashMap<Path, (i64, Vec<Path>)> = HashMap::new();
    for entry in store.list(&layout::MODELS.into()).await? {
        let Some((model, job)) = layout::parse_job(&entry.key) else { continue };
        if candidate != Some(model.as_str()) {
            let (newest, files) = jobs.entry(layout::job_folder(&model, &job)).or_default();
            *newest = entry.modified_ms.max(*newest);
            files.push(entry.key);
        }
    }
    let left = jobs.into_values().filter(|(newest, _)| now_ms - newest >= JOB_KEPT_MS);
    Ok(left.flat_map(|(_, files)| files).collect())
}

/// Parts of runs that are old and that no recent state names.
async fn stray_runs(store: &Store, named: &HashSet<&str>, now_ms: i64) -> Result<Vec<Path>, StoreError> {
    let mut goes = Vec::new();
    for table in Table::ALL {
        for entry in store.list(&table.name().into()).await? {
            let parts: Vec<_> = entry.key.parts().collect();
            let [_, _, name, _] = parts.as_slice() else { continue };
            let old = run::begun_ms(name.as_ref()).is_some_and(|begun| now_ms - begun >= RUN_KEPT_MS);
            if old && !named.contains(name.as_ref()) {
                goes.push(entry.key);
            }
        }
    }
    Ok(goes)
}
