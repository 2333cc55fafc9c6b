//! Answers: one SQL, more than one engine.
//!
//! | room | what it holds |
//! |---|---|
//! | [`statement`] | the statements of `templates/`, their parameters, and each engine's placeholders |
//! | [`readonly`] | what a person's own SQL may be |
//! | [`engine`] | what an engine does: a statement in, rows out |
//! | [`datafusion`] | the engine of this machine, over one consistent picture of the lake |
//! | [`athena`] | the engine of a deployed stack, which bills what it reads |
//! | `table`, `files` | the lake's files as tables for it; damaged ones are named and left out |
//! | [`standing`] | what a lake can't answer yet, and what to run then |
//! | [`output`] | rows as table, JSON, NDJSON, CSV, Markdown, Parquet |
//! | `hint` | an engine's errors in words that help |

pub mod athena;
pub mod datafusion;
pub mod engine;
mod files;
mod hint;
pub mod output;
pub mod readonly;
pub mod standing;
pub mod statement;
mod table;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

pub use self::{
    datafusion::{LocalEngine, Options},
    engine::{Answer, Engine},
    hint::nearest,
    statement::{Statement, Value},
};

use crate::lake::StoreError;

/// Why a query has no answer, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The lake could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A person's SQL asks for more than reading.
    #[error("this SQL is not run: {what}")]
    NotReadOnly {
        /// What is in the way.
        what: String,
    },
    /// The SQL can't be understood, or can't be computed.
    #[error("{message}")]
    Sql {
        /// What is wrong, in one line.
        message: String,
        /// What may help.
        hint: Option<String>,
    },
    /// A statement of ours was run without one of its parameters.
    #[error("the statement needs a value for `${name}`")]
    Unbound {
        /// The parameter.
        name: String,
    },
    /// The query needs more memory than it may have.
    #[error("the query needs more than the {limit_mib} MiB of memory that it may use")]
    OutOfMemory {
        /// The limit.
        limit_mib: usize,
    },
    /// A file turned out to be damaged when rows had already been handed out.
    #[error("the answer is incomplete: {what}; run the query again, it then leaves the file out")]
    Incomplete {
        /// Which files, and what is wrong with them.
        what: String,
    },
    /// The engine failed.
    #[error("the query engine failed: {0}")]
    Failed(String),
    /// AWS did not do what it was asked.
    #[error("{what}")]
    Refused {
        /// What it said.
        what: String,
        /// What may help.
        hint: Option<String>,
        /// Whether it is for want of credentials that are good.
        no_access: bool,
    },
    /// There is no query of this id.
    #[error("Athena knows no query `{id}`")]
    NoSuchQuery {
        /// The id.
        id: String,
    },
    /// Somebody interrupted it.
    #[error("{0}")]
    Interrupted(String),
}

impl QueryError {
    /// What may help, where anything is known to.
    pub fn hint(&self) -> Option<String> {
        match self {
            QueryError::Sql { hint, .. } | QueryError::Refused { hint, .. } => hint.clone(),
            QueryError::NoSuchQuery { .. } => {
                Some("ids are kept for 45 days, in the region and the account where the query ran".to_owned())
            }
            QueryError::NotReadOnly { .. } => Some(format!("one SELECT over {}", readonly::TABLES_IN_WORDS)),
            QueryError::OutOfMemory { .. } => {
                Some("ask for fewer rows: a shorter time (`--since`, `--until`, `WHERE ts >= …`), or LIMIT".to_owned())
            }
            _ => None,
        }
    }
}
