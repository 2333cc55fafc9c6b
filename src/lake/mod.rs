//! The lake: plain Parquet files that are their own commit log.
//!
//! | room | what it holds |
//! |---|---|
//! | [`place`] | where a lake is: a folder, a bucket |
//! | [`layout`] | where everything lies: every key is made and read there |
//! | [`store`] | the object store beneath, and what the lake relies on |
//! | [`landing`] | the chain of slices of one partition: one create-only write commits each |
//! | [`state`] | what is in force: closed days, cuts, models, imports |
//! | [`epoch`] | how far models have followed the log |
//! | [`catalogue`] | the same as tables and views of a catalogue, for Athena |
//! | [`view`] | one consistent picture of it all |
//! | [`scan`] | the rows of that picture, streamed |
//! | [`merge`] | sorted rows of many files into one sorted stream, sent-twice rows dropped |
//! | [`spill`] | rows that do not fit in memory, in temporary files |
//! | [`run`] | the sorted files of a closed day |
//! | [`compact`] | closed days: landing → runs |
//! | [`job`] | the same where another engine sorts: planned, counted, checked, put in force |
//! | [`clean`] | files that nothing needs any more |
//! | [`import`] | history from files → the days when it happened |
//! | [`encoding`] | how the Parquet files are written |

pub mod catalogue;
pub mod clean;
pub mod compact;
pub mod encoding;
pub mod epoch;
pub mod import;
pub mod job;
pub mod landing;
pub mod layout;
pub mod merge;
pub mod place;
pub mod run;
pub mod scan;
pub mod spill;
pub mod state;
pub mod store;
pub mod view;

pub use layout::{Day, Table};
pub use place::Place;
pub use state::State;
pub use store::{Created, Store, StoreError};
pub use view::View;

/// Milliseconds since 1970 UTC by this machine's clock.
pub fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// A short random name, of 12 hexadecimal digits.
pub fn random_name() -> String {
    use rand::TryRng;
    // Without the system's randomness the clock and the process tell two names apart well enough.
    let poor = || now_ms().unsigned_abs().wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(std::process::id());
    let random = rand::rngs::SysRng.try_next_u64().unwrap_or_else(|_| poor());
    format!("{:012x}", random >> 16)
}
