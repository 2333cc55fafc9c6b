//! The state: what is in force, in one small file that is complete in itself.
//!
//! `state/<n>.json` is written create-only; the highest `n` is in force. Who wants to change something reads the state,
//! writes what it prepared, and creates number `n + 1`; who finds that taken reads again and decides anew. So moving from
//! one picture of the lake to the next is one atomic step.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::{
    layout::{self, Day, Table},
    store::{Created, Store, StoreError},
};

/// The version of the state's format.
pub const FORMAT: u32 = 1;

/// What is in force. See the module's documentation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The version of this format.
    pub format: u32,
    /// This state's number; 0 is the lake in which nothing has been decided, and has no file.
    pub n: u64,
    /// When it was written, milliseconds since 1970 UTC.
    pub written_ms: i64,
    /// The last closed day.
    pub upto: Option<Day>,
    /// Whether `upto` was closed before it ended, so that more may be merged into it.
    #[serde(default)]
    pub early: bool,
    /// Per chain and partition, the offset below which everything is in closed days.
    pub cut: BTreeMap<String, BTreeMap<i32, Cut>>,
    /// The closed days that have anything.
    pub days: BTreeMap<Day, DayRuns>,
    /// The model in force; `None` is the built-in one.
    #[serde(default)]
    pub model: Option<String>,
    /// Models that were in force before, oldest first.
    #[serde(default)]
    pub models_before: Vec<String>,
    /// A model that is to take over: whoever follows the log scores with it as well, and puts it in force when it has come
    /// as far as the one that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<String>,
    /// Whether a scorer follows the landing files: then days close only up to where it has come.
    #[serde(default)]
    pub scoring: bool,
    /// Files that were imported, by the hash of their content.
    #[serde(default)]
    pub imports: BTreeMap<String, Imported>,
}

/// Where the closed days end in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Everything below this offset is in closed days.
    pub offset: i64,
    /// The first offset of the landing file that holds it; files before that one are no longer looked at.
    pub first: i64,
}

/// The runs of one closed day.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DayRuns {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readings: Option<Run>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outliers: Option<Run>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<Run>,
    /// The model whose verdicts `outliers` holds (with no run: it found none); `None` where the day was not scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scored_by: Option<String>,
}

impl DayRuns {
    /// The run of one table.
    pub fn of(&self, table: Table) -> Option<&Run> {
        match table {
            Table::Readings => self.readings.as_ref(),
            Table::Outliers => self.outliers.as_ref(),
            Table::DeadLetters => self.dead_letters.as_ref(),
        }
    }

    /// The place of one table's run.
    pub fn of_mut(&mut self, table: Table) -> &mut Option<Run> {
        match table {
            Table::Readings => &mut self.readings,
            Table::Outliers => &mut self.outliers,
            Table::DeadLetters => &mut self.dead_letters,
        }
    }
}

/// The sorted files of one table of one closed day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Its folder's name.
    pub run: String,
    pub rows: u64,
    /// The size of each part in bytes.
    pub parts: Vec<u64>,
    /// The least and greatest `ts` (dead letters: `arrived_at`), milliseconds since 1970 UTC.
    pub min_ts: i64,
    pub max_ts: i64,
}

impl Run {
    /// The bytes of all parts.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().sum()
    }
}

/// A file that was imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    pub file: String,
    pub at_ms: i64,
    pub readings: u64,
    pub dead: u64,
}

impl Default for State {
    fn default() -> State {
        State {
            format: FORMAT,
            n: 0,
            written_ms: 0,
            upto: None,
            early: false,
            cut: BTreeMap::new(),
            days: BTreeMap::new(),
            model: None,
            models_before: Vec::new(),
            candidate: None,
            scoring: false,
            imports: BTreeMap::new(),
        }
    }
}

/// What came of [`State::commit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// The new state is in force.
    Done,
    /// Somebody else was first: load the state again and decide anew.
    Raced,
}

impl State {
    /// The state in force.
    pub async fn load(store: &Store) -> Result<State, StoreError> {
        let Some(n) = State::newest(store).await? else { return Ok(State::default()) };
        let key = layout::state_file(n);
        let state = State::read(store, &key).await?;
        if state.n != n {
            return Err(StoreError::Damaged { key, what: format!("it says that it is number {}", state.n) });
        }
        Ok(state)
    }

    /// The number of the state in force, where there is one.
    pub async fn newest(store: &Store) -> Result<Option<u64>, StoreError> {
        let entries = store.list(&layout::STATE.into()).await?;
        Ok(entries.iter().filter_map(|entry| layout::parse_state(&entry.key)).max())
    }

    /// The state at `key`.
    pub(super) async fn read(store: &Store, key: &Path) -> Result<State, StoreError> {
        let bytes = store.get(key).await?;
        let damaged = |what: String| StoreError::Damaged { key: key.clone(), what };
        let state: State = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        if state.format != FORMAT {
            let what = format!("it has format {}, this program reads format {FORMAT}: use a newer one", state.format);
            return Err(damaged(what));
        }
        Ok(state)
    }

    /// Puts this changed state in force as the one after `self.n`.
    pub async fn commit(mut self, store: &Store) -> Result<Commit, StoreError> {
        self.n += 1;
        self.written_ms = super::now_ms();
        let key = layout::state_file(self.n);
        let json = serde_json::to_vec_pretty(&self)
            .map_err(|e| StoreError::Damaged { key: key.clone(), what: e.to_string() })?;
        match store.create(&key, Bytes::from(json)).await? {
            Created::New => Ok(Commit::Done),
            // A taken key may be our own, after an answer that was lost; then the state there is this one.
            Created::Taken => match State::load(store).await? {
                there if there == self => Ok(Commit::Done),
                _ => Ok(Commit::Raced),
            },
        }
    }

    /// The cut of a partition; offset 0 where nothing of it is in closed days.
    pub fn cut(&self, chain: &str, partition: i32) -> Cut {
        let cut = self.cut.get(chain).and_then(|partitions| partitions.get(&partition));
        cut.copied().unwrap_or(Cut { offset: 0, first: 0 })
    }

    /// The closed days of a table that may hold a moment of `[since, until)`, milliseconds since 1970 UTC.
    pub fn days_with(&self, table: Table, (since, until): (i64, i64)) -> BTreeSet<Day> {
        let runs = self.days.iter().filter_map(|(day, runs)| Some((*day, runs.of(table)?)));
        runs.filter(|(_, run)| run.max_ts >= since && run.min_ts < until).map(|(day, _)| day).collect()
    }

    /// The name of the model in force.
    pub fn model(&self) -> &str {
        self.model.as_deref().unwrap_or(BUILTIN_MODEL)
    }

    /// The first day into which rows may still go.
    pub fn open_day(&self) -> Option<Day> {
        self.upto.map(|upto| if self.early { upto } else { upto.next() })
    }
}

/// The name of the model that serves a lake in which none was trained.
pub const BUILTIN_MODEL: &str = "builtin";
