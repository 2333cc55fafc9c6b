//! What can go wrong with a spool.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why the spool could not do what was asked. It can be cloned, as every record of a group gets the group's outcome.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SpoolError {
    /// Another process, or another [`Spool`](super::Spool) of this one, has it open.
    #[error("the spool `{}` is in use by {owner}: stop that one first, or choose another lake", dir.display())]
    Locked { dir: PathBuf, owner: String },
    /// A file that was complete is no longer what was written.
    #[error(
        "`{}` is damaged: {what} at byte {byte}; put an intact copy in its place, or move it away, which leaves a gap in \
         the log",
        path.display()
    )]
    Damaged { path: PathBuf, byte: u64, what: &'static str },
    /// The spool's own description is missing or of another kind.
    #[error("`{}` does not describe a spool of this version: {what}", path.display())]
    Foreign { path: PathBuf, what: String },
    /// The disk is full. Nothing that was refused is stored; appending works again once there is space.
    #[error("no space left to write `{}`: free some space on that disk", path.display())]
    Full { path: PathBuf },
    /// The file system failed otherwise.
    #[error("could not {doing} `{}`", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
    /// The spool was closed; nothing more can be appended.
    #[error("the spool is closed")]
    Closed,
}

impl SpoolError {
    /// An error of the file system while `doing` something to `path`.
    pub(super) fn io(doing: &'static str, path: &Path, source: io::Error) -> SpoolError {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SpoolError::Full { path },
            _ => SpoolError::Io { doing, path, source: Arc::new(source) },
        }
    }
}
