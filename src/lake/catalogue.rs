//! The lake as tables and views of a catalogue, for engines that keep one (Athena, Trino): what there is, and what has to
//! change so that it shows a state.
//!
//! ```text
//! landing, scored             everything below those folders
//! cuts                        the cuts of every state, by its number: one small file each
//! <table>_days                the closed days, one registered partition each: the folder of the run in force
//! readings, outliers, …       views over these, with the number of one state in their text
//! ```
//!
//! What is shown moves in this order: the state itself, its cuts, the days, the views. A day after a view's last is not seen,
//! so all of it shows the older picture, whole, until the views change, each in one step; past days that an import
//! changed move one by one, each whole. A crash in between leaves the older picture too, and the next to come goes on.
//! Rows of the log never go into a day that is shown already: between its step and that of the view they would be seen twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};

use arrow::{
    array::{Int32Array, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema, SchemaRef},
    error::ArrowError,
};
use bytes::Bytes;
use object_store::path::Path;
use parquet::{arrow::ArrowWriter, errors::ParquetError};

use super::{
    layout::{self, Day, Table},
    state::{Run, State},
    store::{Store, StoreError},
};
use crate::reading::columns;

/// The column that says in which day a row is stored.
pub const DAY: &str = "dt";

/// A column of a table or a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// Its type as Glue and Hive write it.
    pub hive: &'static str,
    /// Its type as Athena and Trino write it.
    pub engine: &'static str,
}

impl Column {
    fn new(name: &str, kind: &DataType) -> Column {
        let (hive, engine) = match kind {
            DataType::Boolean => ("boolean", "boolean"),
            DataType::Int32 => ("int", "integer"),
            DataType::Int64 => ("bigint", "bigint"),
            DataType::Float64 => ("double", "double"),
            DataType::Binary => ("binary", "varbinary"),
            DataType::Timestamp(..) => ("timestamp", "timestamp(3)"),
            // The lake has no other types.
            _ => ("string", "varchar"),
        };
        Column { name: name.to_owned(), hive, engine }
    }

    fn all(schema: &Schema) -> Vec<Column> {
        schema.fields().iter().map(|field| Column::new(field.name(), field.data_type())).collect()
    }
}

/// A table over files of the lake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Base {
    Landing,
    Scored,
    Cuts,
    /// The closed days of a table.
    Days(Table),
}

impl Base {
    /// Every one.
    pub const ALL: [Base; 6] = [
        Base::Landing,
        Base::Scored,
        Base::Cuts,
        Base::Days(Table::Readings),
        Base::Days(Table::Outliers),
        Base::Days(Table::DeadLetters),
    ];

    /// Its name in the catalogue.
    pub const fn name(self) -> &'static str {
        match self {
            Base::Landing => "landing",
            Base::Scored => "scored",
            Base::Cuts => "cuts",
            Base::Days(Table::Readings) => "readings_days",
            Base::Days(Table::Outliers) => "outliers_days",
            Base::Days(Table::DeadLetters) => "dead_letters_days",
        }
    }

    /// The folder of the lake in which its files lie.
    pub const fn folder(self) -> &'static str {
        match self {
            Base::Landing => layout::LANDING,
            Base::Scored => layout::SCORED,
            Base::Cuts => layout::CUTS,
            Base::Days(table) => table.name(),
        }
    }

    /// The columns of its files.
    pub fn columns(self) -> Vec<Column> {
        let schema = match self {
            Base::Landing => Arc::clone(&columns::LANDING),
            Base::Scored => Arc::clone(&columns::SCORED),
            Base::Cuts => Arc::clone(&CUTS),
            Base::Days(table) => table.schema(),
        };
        Column::all(&schema)
    }

    /// The columns that its partitions are known by.
    pub fn partition_keys(self) -> Vec<Column> {
        match self {
            Base::Days(_) => vec![Column::new(DAY, &DataType::Utf8)],
            _ => Vec::new(),
        }
    }
}

/// The columns of the view of a table.
pub fn view_columns(table: Table) -> Vec<Column> {
    let mut columns = Column::all(&table.schema());
    columns.push(Column::new(DAY, &DataType::Utf8));
    columns
}

/// The columns of the table of cuts: the state's number, and where its closed days end in each partition.
pub static CUTS: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("n", DataType::Int64, false),
        Field::new("chain", DataType::Utf8, false),
        Field::new("partition", DataType::Int32, false),
        Field::new("first", DataType::Int64, false),
        Field::new("offset", DataType::Int64, false),
    ]))
});

/// The cuts of a state.
///
/// # Errors
/// None that the lake can give rise to.
pub fn cuts(state: &State) -> Result<RecordBatch, ArrowError> {
    let cuts: Vec<_> = state
        .cut
        .iter()
        .flat_map(|(chain, partitions)| partitions.iter().map(move |(partition, cut)| (chain, *partition, *cut)))
        .collect();
    let n = i64::try_from(state.n).unwrap_or(i64::MAX);
    RecordBatch::try_new(
        Arc::clone(&CUTS),
        vec![
            Arc::new(Int64Array::from_iter_values(cuts.iter().map(|_| n))),
            Arc::new(StringArray::from_iter_values(cuts.iter().map(|(chain, ..)| chain))),
            Arc::new(Int32Array::from_iter_values(cuts.iter().map(|(_, partition, _)| *partition))),
            Arc::new(Int64Array::from_iter_values(cuts.iter().map(|(.., cut)| cut.first))),
            Arc::new(Int64Array::from_iter_values(cuts.iter().map(|(.., cut)| cut.offset))),
        ],
    )
}

/// The file of a state's cuts.
///
/// # Errors
/// None that the lake can give rise to.
pub fn cuts_file(state: &State) -> Result<Bytes, ParquetError> {
    let mut writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&CUTS), None)?;
    writer.write(&cuts(state)?)?;
    writer.into_inner().map(Bytes::from)
}

/// Whether a catalogue shows a lake, or has once.
pub async fn shows(store: &Store) -> Result<bool, StoreError> {
    Ok(store.folders().await?.iter().any(|folder| folder.as_ref() == layout::CUTS))
}

/// The folder of a run, with `/` at its end, below the root of the lake.
pub fn run_folder(table: Table, day: Day, run: &Run) -> String {
    let folder = Path::from_iter([table.name(), &format!("{DAY}={day}"), &run.run]);
    format!("{folder}/")
}

/// What a catalogue shows.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// The tables that there are.
    pub tables: BTreeSet<Base>,
    /// The closed days of each table, with the folder that each shows, as of [`run_folder`].
    pub days: BTreeMap<(Table, Day), String>,
    /// The views that there are, each with the number of the state that it shows.
    pub views: BTreeMap<Table, u64>,
    /// The states whose cuts are there.
    pub cuts: BTreeSet<u64>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make a table.
    Make(Base),
    /// Write the file of the state's cuts.
    Cuts,
    /// Let a day show a folder; `is_new` where it shows none yet.
    Set { table: Table, day: Day, folder: String, is_new: bool },
    /// Let a day show nothing.
    Drop { table: Table, day: Day },
    /// Let a view show the state.
    View { table: Table, is_new: bool },
}

/// What has to change so that a catalogue shows `state`, in order; what has been done is not done again. A view that shows
/// a later state stays, and then so does everything else: `None`.
pub fn steps(state: &State, shown: &Shown) -> Option<Vec<Step>> {
    if shown.views.values().any(|&n| n > state.n) {
        return None;
    }
    let mut steps: Vec<_> = Base::ALL.into_iter().filter(|base| !shown.tables.contains(base)).map(Step::Make).collect();
    if !state.cut.is_empty() && !shown.cuts.contains(&state.n) {
        steps.push(Step::Cuts);
    }
    for table in Table::ALL {
        for (&day, runs) in &state.days {
            let Some(folder) = runs.of(table).map(|run| run_folder(table, day, run)) else { continue };
            let there = shown.days.get(&(table, day));
            if there != Some(&folder) {
                steps.push(Step::Set { table, day, folder, is_new: there.is_none() });
            }
        }
    }
    let has_run = |table, day| state.days.get(day).is_some_and(|runs| runs.of(table).is_some());
    let gone = shown.days.keys().filter(|(table, day)| !has_run(*table, day));
    steps.extend(gone.map(|&(table, day)| Step::Drop { table, day }));
    let views = Table::ALL.into_iter().filter(|table| shown.views.get(table) != Some(&state.n));
    steps.extend(views.map(|table| Step::View { table, is_new: !shown.views.contains_key(&table) }));
    Some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lake::state::{Cut, DayRuns};

    fn state(n: u64, days: &[(i64, &str, Option<&str>)]) -> State {
        let run = |name: &str| Run { run: name.to_owned(), rows: 1, parts: vec![1], min_ts: 0, max_ts: 0 };
        let mut state = State { n, ..State::default() };
        for (day, readings, outliers) in days {
            let runs = DayRuns { readings: Some(run(readings)), outliers: outliers.map(run), ..DayRuns::default() };
            state.days.insert(Day::of(day * 86_400_000), runs);
            state.upto = Some(Day::of(day * 86_400_000));
        }
        if n > 0 {
            state.cut.entry("c".to_owned()).or_default().insert(0, Cut { offset: n as i64, first: 0 });
        }
        state
    }

    /// Does what a step says.
    fn done(step: &Step, state: &State, shown: &mut Shown) {
        match step.clone() {
            Step::Make(base) => drop(shown.tables.insert(base)),
            Step::Cuts => drop(shown.cuts.insert(state.n)),
            Step::Set { table, day, folder, .. } => drop(shown.days.insert((table, day), folder)),
            Step::Drop { table, day } => drop(shown.days.remove(&(table, day))),
            Step::View { table, .. } => drop(shown.views.insert(table, state.n)),
        }
    }

    /// What a query sees of a table: the days up to the last of the state that the view shows, each with its run.
    fn seen(table: Table, shown: &Shown, states: &[State]) -> Option<(u64, Vec<(Day, String)>)> {
        let n = *shown.views.get(&table)?;
        let state = states.iter().find(|state| state.n == n).unwrap();
        assert!(state.cut.is_empty() || shown.cuts.contains(&n), "the cuts of {n} are there before its view");
        let days = shown.days.iter().filter(|((of, day), _)| *of == table && Some(*day) <= state.upto);
        Some((n, days.map(|((_, day), folder)| (*day, folder.clone())).collect()))
    }

    fn meant(table: Table, state: &State) -> (u64, Vec<(Day, String)>) {
        let runs = state.days.iter().filter_map(|(&day, runs)| Some((day, run_folder(table, day, runs.of(table)?))));
        (state.n, runs.collect())
    }

    #[test]
    fn whatever_is_done_last_before_a_crash_each_table_shows_one_whole_state() {
        // Days are only added, as compaction adds them.
        let states = [
            state(0, &[]),
            state(1, &[(1, "a", None)]),
            state(2, &[(1, "a", None), (2, "b", Some("b"))]),
            state(3, &[(1, "a", None), (2, "b", Some("b")), (5, "c", Some("c"))]),
        ];
        for crash in 0..40 {
            let (mut shown, mut left) = (Shown::default(), crash);
            for state in &states {
                for step in steps(state, &shown).unwrap() {
                    if left == 0 {
                        break;
                    }
                    left -= 1;
                    done(&step, state, &mut shown);
                    for table in Table::ALL {
                        if let Some(seen) = seen(table, &shown, &states) {
                            assert_eq!(seen, meant(table, &states[seen.0 as usize]), "{table:?} after {step:?}");
                        }
                    }
                }
            }
            // The next to come finishes what was begun.
            let last = &states[3];
            for step in steps(last, &shown).unwrap() {
                done(&step, last, &mut shown);
            }
            assert_eq!(steps(last, &shown), Some(vec![]));
            for table in Table::ALL {
                assert_eq!(seen(table, &shown, &states), Some(meant(table, last)));
            }
        }
    }

    #[test]
    fn a_past_day_that_changed_moves_and_one_without_rows_goes() {
        let (before, after) = (state(1, &[(1, "a", Some("a"))]), state(2, &[(1, "b", None)]));
        let mut shown = Shown::default();
        steps(&before, &shown).unwrap().iter().for_each(|step| done(step, &before, &mut shown));
        let day = Day::of(86_400_000);
        let folder = "readings/dt=1970-01-02/b/".to_owned();
        let changes = steps(&after, &shown).unwrap();
        assert_eq!(
            changes[..3],
            [
                Step::Cuts,
                Step::Set { table: Table::Readings, day, folder, is_new: false },
                Step::Drop { table: Table::Outliers, day },
            ]
        );
        assert_eq!(changes.len(), 6);
    }

    #[test]
    fn a_later_state_is_never_taken_back() {
        let (old, new) = (state(1, &[(1, "a", None)]), state(2, &[(1, "b", None)]));
        let mut shown = Shown::default();
        steps(&new, &shown).unwrap().iter().for_each(|step| done(step, &new, &mut shown));
        assert_eq!(steps(&old, &shown), None);
    }
}
