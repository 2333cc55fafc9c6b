//! Tests at the level where promises are made: one binary, a module per area.

mod bad_input;
mod cli;
mod compaction;
mod container;
mod faults;
mod follow;
mod import;
mod job;
mod kill;
mod models;
mod program;
mod readme;
mod s3;
mod store;
mod support;
mod train_aws;
mod worker;
