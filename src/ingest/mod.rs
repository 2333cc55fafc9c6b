//! Ingest: log → landing files, every record exactly once.
//!
//! | room | what it does |
//! |---|---|
//! | [`core`] | the rules of one partition, pure: events in, actions out |
//! | [`slice`] | the outcomes of one partition's records, gathered and then written as one Parquet file |
//! | [`bad`] | records that can't be read |
//! | [`worker`] | drives the rules with a real log and a real lake |
//! | `options` | how a worker cuts slices, and how long it tries |
//! | [`writing`] | what a worker does beside the reading: heads, encoding, writes, and trying again |
//! | [`metrics`] | all that as Prometheus reads it |
//! | [`standing`] | what a worker has done, and how its partitions stand |

pub mod bad;
pub mod core;
#[cfg(test)]
mod interleavings;
pub mod metrics;
mod options;
pub mod slice;
pub mod standing;
pub mod worker;
pub mod writing;
