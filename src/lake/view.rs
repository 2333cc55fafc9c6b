//! A view: one consistent picture of the lake, as the files that make it up.
//!
//! - `readings`: closed days from their runs, and landing rows with `offset ≥ cut` and no reason, from files whose `first`
//!   is not below that of the file holding the cut;
//! - `dead_letters`: the same with a reason;
//! - `outliers`: closed days from their runs, and the rows with `offset ≥ cut` of what the model in force has scored.
//!
//! All of it follows from one state, so no compaction that goes on meanwhile shows a row twice or not at all.

use object_store::path::Path;

use super::{
    landing::{self, SliceFile},
    layout::{self, Day, Table},
    state::State,
    store::{Store, StoreError},
};

/// One part of the run of a closed day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFile {
    pub table: Table,
    pub day: Day,
    pub key: Path,
    pub bytes: u64,
    /// The least and greatest `ts` of the whole run, milliseconds since 1970 UTC.
    pub min_ts: i64,
    pub max_ts: i64,
}

/// A consistent picture of the lake.
#[derive(Debug, Clone)]
pub struct View {
    pub state: State,
    /// Landing files that may hold rows at or above their partition's cut.
    pub landing: Vec<SliceFile>,
    /// The scored files of the model in force, likewise.
    pub scored: Vec<SliceFile>,
}

impl View {
    /// The picture as it is now.
    pub async fn open(store: &Store) -> Result<View, StoreError> {
        // The state first: a landing file that a later state retires stays for a day, so it is still there to be listed.
        View::of(store, State::load(store).await?).await
    }

    /// The picture as a state of the last day had it.
    pub async fn at(store: &Store, n: u64) -> Result<View, StoreError> {
        let state = if n == 0 { State::default() } else { State::read(store, &layout::state_file(n)).await? };
        View::of(store, state).await
    }

    async fn of(store: &Store, state: State) -> Result<View, StoreError> {
        let above_cut = |file: &SliceFile| file.first >= state.cut(&file.chain, file.partition).first;
        let landing = landing::list(store, &layout::LANDING.into()).await?.into_iter().filter(above_cut).collect();
        let scored_folder = Path::from_iter([layout::SCORED, state.model()]);
        let scored = landing::list(store, &scored_folder).await?.into_iter().filter(above_cut).collect();
        Ok(View { landing, scored, state })
    }

    /// The parts of the closed days of one table, by day.
    pub fn run_files(&self, table: Table) -> Vec<RunFile> {
        let mut files = Vec::new();
        for (&day, runs) in &self.state.days {
            let Some(run) = runs.of(table) else { continue };
            files.extend(run.parts.iter().enumerate().map(|(part, &bytes)| RunFile {
                table,
                day,
                key: layout::run_part(table, day, &run.run, part),
                bytes,
                min_ts: run.min_ts,
                max_ts: run.max_ts,
            }));
        }
        files
    }

    /// Whether the lake has nothing in it at all.
    pub fn is_empty(&self) -> bool {
        self.state.days.is_empty() && self.landing.is_empty()
    }
}
