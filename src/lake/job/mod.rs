//! A day that is closed by a job of many machines, such as Spark's (`templates/spark/compact.py`).
//!
//! Whoever leads the job asks for a [`Plan`]: which day, which files, which offsets of them. The job brings the rows of a
//! device and time together and sorts them ([`Staged`] files, outside the lake). All that is a rule stays here:
//!
//! ```text
//! plan ─▶ the job sorts ─▶ seal: a sorted file becomes a part of a run; rows that were sent twice go
//!      ─▶ count: what was to be sorted, file by file, read beside the job
//!                                        └─▶ commit: is it all there? is nothing twice? then the next state
//! ```
//!
//! What the job does is checked and not believed. Rows that go in and rows that come out are summed up ([`Sum`]): each row
//! is hashed with its place in the log, and hashes are added, so the order in which machines do it makes no difference. A row
//! that is lost, comes twice or was changed makes another sum. `seal` refuses rows out of order and `commit` reads the
//! parts again before it lets them count. What was written for a day that somebody else has closed meanwhile is never named
//! by a state, and [`super::clean`] removes it.

use std::collections::BTreeMap;

use arrow::{
    array::RecordBatch,
    error::ArrowError,
    row::{RowConverter, SortField},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    layout::{Day, Table},
    state::Run,
    store::StoreError,
};

pub mod commit;
pub mod count;
mod order;
pub mod plan;
pub mod seal;

/// The version of what is said between a job and this program.
pub const SCHEMA_VERSION: u32 = 1;

/// How long after its begin a job may put its runs in force, milliseconds: they are removed as strays after twice that.
pub const PATIENCE_MS: i64 = 24 * 3_600_000;

/// Why a job can't go on.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What the job wrote is not what it was to write.
    #[error("{what} of {day} is not put in force: {why}\nhint: nothing has changed; run the job again")]
    Refused { what: String, day: Day, why: String },
    /// The job took so long that what it wrote may be removed.
    #[error("the job began over 24 h ago ({run}): its runs may be removed at any time\nhint: run it again")]
    TooOld { run: String },
}

/// A day that is to be closed, and everything that goes into it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub schema_version: u32,
    /// The number of the state that it starts from: another one in force makes it void.
    pub state: u64,
    pub day: Day,
    /// Whether the day has not ended yet.
    pub early: bool,
    /// The name of the runs to write.
    pub run: String,
    /// The model whose verdicts the day has then, if it has any.
    pub scored_by: Option<String>,
    pub takes: Vec<Taken>,
    /// The readings of the day before: what is there goes before whatever is sent again.
    pub before: Option<Run>,
    /// Every file of which rows go into the day, in the order in which their rows go before each other.
    pub files: Vec<Input>,
}

/// How much of a partition goes into the day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    pub chain: String,
    pub partition: i32,
    /// Offsets `[from, to)`.
    pub from: i64,
    pub to: i64,
    /// The first offset of the landing file that holds `to`.
    pub first: i64,
}

/// What kind of a file goes into a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Landing,
    Scored,
    /// A part of the run of readings, outliers or dead letters that the day has already.
    Readings,
    Outliers,
    DeadLetters,
}

impl Kind {
    /// The tables into which its rows go.
    pub fn tables(self) -> &'static [Table] {
        match self {
            Kind::Landing => &[Table::Readings, Table::DeadLetters],
            Kind::Readings => &[Table::Readings],
            Kind::Scored | Kind::Outliers => &[Table::Outliers],
            Kind::DeadLetters => &[Table::DeadLetters],
        }
    }
}

/// A file of which rows go into a day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    pub kind: Kind,
    pub key: String,
    pub bytes: u64,
    /// Of landing and scored files: whose they are, and which offsets are taken, `[from, to)`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub chain: String,
    #[serde(default)]
    pub partition: i32,
    #[serde(default)]
    pub from: i64,
    #[serde(default)]
    pub to: i64,
}

/// Rows, summed up so that any order gives the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    pub rows: u64,
    #[serde(with = "hex")]
    pub hash: u128,
}

impl Sum {
    /// Adds every row of a batch, with all its columns.
    pub fn add(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        let fields = batch.columns().iter().map(|column| SortField::new(column.data_type().clone())).collect();
        let rows = RowConverter::new(fields)?.convert_columns(batch.columns())?;
        for row in &rows {
            let digest = Sha256::digest(row.as_ref());
            let hash = digest.iter().take(16).fold(0, |hash, byte| (hash << 8) | u128::from(*byte));
            self.hash = self.hash.wrapping_add(hash);
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// Adds what another sum has.
    pub fn join(&mut self, other: Sum) {
        self.rows += other.rows;
        self.hash = self.hash.wrapping_add(other.hash);
    }
}

/// A sum's hash as text: JSON's numbers are too short for it.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(hash: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{hash:032x}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        let text = String::deserialize(deserializer)?;
        u128::from_str_radix(&text, 16).map_err(|_| D::Error::custom(format!("`{text}` is not a sum")))
    }
}

/// What a file has for each table: see [`count::count`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    pub key: String,
    pub sums: BTreeMap<Table, Sum>,
}

/// A file that the job has sorted, which is to become a part: see [`seal::seal`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Staged {
    pub table: Table,
    /// The number of the part.
    pub part: usize,
    /// Its key in the place where the job works.
    pub key: String,
    pub day: Day,
    pub run: String,
    /// The readings of the day before.
    #[serde(default)]
    pub before: Option<Run>,
    /// For outliers: the parts of readings of which rows were dropped.
    #[serde(default)]
    pub dropped_in: Vec<usize>,
}

/// A part of a run, as it was written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sealed {
    pub table: Table,
    pub part: usize,
    /// The part's size.
    pub bytes: u64,
    /// What the sorted file had, with each row's place in the log.
    pub staged: Sum,
    /// What the part has.
    pub rows: Sum,
    /// Rows that were sent twice, or are of such; the part lacks them.
    pub dropped: u64,
    /// The least and greatest time (`ts`; dead letters: `arrived_at`), milliseconds since 1970 UTC; of no rows, none.
    pub times: Option<(i64, i64)>,
    /// The device and time of the first and of the last row; of dead letters, none.
    pub ends: Option<[(String, i64); 2]>,
}

/// What a job has done, for [`commit::commit`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Work {
    pub plan: Plan,
    /// What the files of the plan have. A file that nobody has counted is read when the work is put in force.
    #[serde(default)]
    pub counted: Vec<Counted>,
    pub sealed: Vec<Sealed>,
}
