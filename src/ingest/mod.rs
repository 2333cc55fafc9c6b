//! Ingest: log → landing files, every record exactly once.
//!
//! | room | what it does |
//! |---|---|
//! | [`core`] | the rules of one partition, pure: events in, actions out |
//! | [`slice`] | the outcomes of one partition's records, gathered and then written as one Parquet file |
//! | [`worker`] | drives the rules with a real log and a real lake |

pub mod core;
#[cfg(test)]
mod interleavings;
pub mod slice;
pub mod worker;
