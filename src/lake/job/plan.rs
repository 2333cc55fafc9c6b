//! Which day a job is to close, and what goes into it.

use super::{Input, Kind, Plan, SCHEMA_VERSION, Taken};
use crate::lake::{
    compact::{self, CompactOptions, Take, Work},
    landing::SliceFile,
    layout::{self, Day, Table},
    run,
    scan::Offsets,
    state::{Cut, State},
    store::{Store, StoreError},
    view::View,
};

/// The next day that can be closed; `None` where there is none.
pub async fn plan(store: &Store, options: CompactOptions) -> Result<Option<Plan>, StoreError> {
    let view = View::open(store).await?;
    let Some(Work { day, early, takes }) = compact::work(store, &view, options).await? else { return Ok(None) };
    Ok(Some(Plan {
        schema_version: SCHEMA_VERSION,
        state: view.state.n,
        day,
        early,
        run: run::new_name(crate::lake::now_ms()),
        scored_by: compact::scored_by(store, &view, day, &takes).await?,
        before: view.state.days.get(&day.previous()).and_then(|runs| runs.readings.clone()),
        files: files(&view, day, &takes),
        takes: takes.into_iter().map(Taken::from).collect(),
    }))
}

impl From<Take> for Taken {
    fn from(take: Take) -> Taken {
        let Take { chain, partition, offsets, cut, .. } = take;
        Taken { chain, partition, from: offsets.from, to: offsets.to, first: cut.first }
    }
}

impl Taken {
    /// Where the closed days end in the partition afterwards.
    pub fn cut(&self) -> Cut {
        Cut { offset: self.to, first: self.first }
    }

    /// The offsets that are taken.
    pub fn offsets(&self) -> Offsets {
        Offsets { from: self.from, to: self.to }
    }
}

/// The files of which rows go into `day`: what it has already, then what is taken.
pub(super) fn files(view: &View, day: Day, takes: &[Take]) -> Vec<Input> {
    let mut files = held(&view.state, day);
    for take in takes {
        files.extend(take.files.iter().map(|file| slice(Kind::Landing, file, take.offsets)));
        files.extend(compact::scored_of(view, take).map(|file| slice(Kind::Scored, file, take.offsets)));
    }
    files
}

fn slice(kind: Kind, file: &SliceFile, Offsets { from, to }: Offsets) -> Input {
    let (chain, partition) = (file.chain.clone(), file.partition);
    Input { kind, key: file.key.to_string(), bytes: file.bytes, chain, partition, from, to }
}

/// The parts that `day` has already.
fn held(state: &State, day: Day) -> Vec<Input> {
    let Some(runs) = state.days.get(&day) else { return Vec::new() };
    let kinds =
        [(Table::Readings, Kind::Readings), (Table::Outliers, Kind::Outliers), (Table::DeadLetters, Kind::DeadLetters)];
    let mut files = Vec::new();
    for (table, kind) in kinds {
        let Some(run) = runs.of(table) else { continue };
        files.extend(run.parts.iter().enumerate().map(|(part, &bytes)| Input {
            kind,
            key: layout::run_part(table, day, &run.run, part).to_string(),
            bytes,
            chain: String::new(),
            partition: 0,
            from: 0,
            to: 0,
        }));
    }
    files
}
