//! Records that can't be read.

use anyhow::bail;

use crate::{
    log::Record,
    reading::{Reason, packet::Parser},
};

/// What is done with a record that can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnBad {
    /// It becomes a dead letter.
    Keep,
    /// The worker stops before it.
    Fail,
}

/// Stops before a record that is, or holds, no reading.
///
/// # Errors
/// Which record it is, and why it can't be read.
pub(super) fn refuse(parser: &mut Parser, record: Record<'_>) -> anyhow::Result<()> {
    let bad: Option<Reason> = match parser.parse(record.device, record.payload, record.arrived_ms) {
        Ok(packet) => packet.items().find_map(|item| item.outcome.err()),
        Err(reason) => Some(reason),
    };
    match bad {
        None => Ok(()),
        Some(reason) => bail!(
            "record {} of partition {} can't be read: {reason}; everything before it is stored, and `--on-bad keep` \
             stores it as a dead letter",
            record.offset,
            record.partition
        ),
    }
}
