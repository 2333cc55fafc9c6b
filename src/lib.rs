//! **vitals** carries human vital signs from a fleet of small devices to answers.
//!
//! ```text
//! devices ──MQTT──▶ broker ──▶ log ──▶ ingest ──▶ lake ◀── import (files)
//! (simulate)        (local)   (spool)     │         │
//!                                         ▼         ▼
//!                                landing/ slices ─ compact ─▶ closed days
//!                                         │                      │
//!                                         └──── train ── model ──┤
//!                                                score ──────────┴─▶ outliers ──▶ query
//! ```
//!
//! Stages talk only through the log and the lake; none waits for another.
//!
//! | module | what it is |
//! |---|---|
//! | [`reading`] | the packet: JSON, files and Arrow ⇄ readings, and why something is none |
//! | [`simulate`] | bodies, episodes, a fleet that publishes, and the truth about it |
//! | [`log`] | where packets wait in order: the spool, and what any log must do |
//! | [`ingest`] | log → landing files, every record exactly once |
//! | [`lake`] | layout, store, chain, state, views, compaction, import |
//! | [`model`] | what is normal for a device, what is an outlier, and why |
//! | [`evaluate`] | what the model finds of events put into held-back devices, beside plainer methods |
//! | [`train`] | a sample of the lake → a model |
//! | [`score`] | verdicts on everything stored, and on what is being stored |
//! | [`query`] | SQL over the views, and how answers are shown |
//! | [`report`] | what the lake says of devices, as one HTML page, in a file or served |
//! | [`verify`] | what was sent against what is stored |
//! | [`local`] | the embedded broker, and the stages in one process |
//! | [`aws`] | credentials, region and endpoints of AWS |
//! | [`cli`] | one file per command |

pub mod aws;
pub mod cli;
pub mod evaluate;
pub mod ingest;
pub mod lake;
pub mod local;
pub mod log;
pub mod model;
pub mod query;
pub mod reading;
pub mod report;
pub mod score;
pub mod simulate;
pub mod train;
pub mod verify;
