//! How a worker cuts slices, and how long it tries.

use std::time::Duration;

use tokio::sync::watch;

use super::bad::OnBad;
#[cfg(doc)]
use super::writing::LAST_TRIES;

/// How a worker cuts slices.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// A slice is closed this long after its first record.
    pub window: Duration,
    /// … or when it has this many rows.
    pub slice_rows: usize,
    /// … or when it takes an eighth of this much memory, in bytes. All slices together take up to half of it, and
    /// encoding some more for moments.
    pub memory_bytes: usize,
    /// How long a failing store is tried before the worker gives up; `None` for ever.
    pub patience: Option<Duration>,
    /// Once this turns true, a failing store is tried for [`LAST_TRIES`] only: somebody wants to go.
    pub hurry: Option<watch::Receiver<bool>>,
    pub on_bad: OnBad,
    /// A worker that has not seen the head of a chain for this long looks again before it writes: what was below the head
    /// may be in closed days and deleted by now, and its keys are free again.
    pub fresh: Duration,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        WorkerOptions {
            window: Duration::from_secs(3_600),
            slice_rows: 1_000_000,
            memory_bytes: 512 * 1024 * 1024,
            patience: None,
            hurry: None,
            on_bad: OnBad::Keep,
            fresh: Duration::from_secs(12 * 3_600),
        }
    }
}
