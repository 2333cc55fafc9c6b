//! Everything on one machine: an embedded broker, the spool, and the stages in one process.

pub mod broker;
pub mod demo;
pub mod pipeline;
pub mod stages;
pub mod subscriber;
