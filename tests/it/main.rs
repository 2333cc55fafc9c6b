//! Tests at the level where promises are made: one binary, a module per area.

mod compaction;
mod faults;
mod kill;
mod readme;
mod store;
mod support;
mod worker;
