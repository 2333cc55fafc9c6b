//! One scorer at a time in a lake's folder.
//!
//! Whoever follows the log, or scores everything, holds `scorer.lock` (of a share of the partitions,
//! `scorer-<i>-of-<n>.lock`), and the file says which process that is. The system lets go of it when the process ends,
//! however it ends. On S3 there is no lock: see [`ScorerLock::take`].

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

use super::follow::Share;
use crate::lake::Place;

/// The right to score a lake, or a share of it. Dropping it lets the next one in.
#[derive(Debug)]
pub struct ScorerLock {
    _files: Vec<File>,
}

/// Why the lake can't be scored now.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process scores it.
    #[error("process {process} scores the lake in `{folder}`")]
    Held {
        /// The lake's folder.
        folder: String,
        /// The process, or `?`.
        process: String,
    },
    /// The lock's file can't be used.
    #[error("can't use `{path}`: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

impl ScorerLock {
    /// Takes a share of a lake for this process; the whole of it excludes every share.
    ///
    /// # Errors
    /// [`LockError::Held`] where another process has it.
    pub fn take(lake: &Place, share: Share) -> Result<ScorerLock, LockError> {
        match lake {
            Place::Folder(folder) => ScorerLock::take_folder(folder, share),
            // S3 has nothing that is let go of when a process ends. None is needed for what is kept to be right: scored
            // files are create-only and follow from the log, so two scorers do the same work twice. What the lock spares
            // is that, and that a model is put in force here while a process follows the lake elsewhere, which then goes
            // through the days again.
            Place::S3 { .. } => Ok(ScorerLock { _files: Vec::new() }),
        }
    }

    fn take_folder(folder: &Path, share: Share) -> Result<ScorerLock, LockError> {
        let mut files = vec![lock(folder, &folder.join(name(share)))?];
        // The whole and a share exclude each other; shares of different counts are told apart by nobody but people.
        let others = shares(folder).into_iter().filter(|path| path.file_name() != Some(name(share).as_ref()));
        for path in others.filter(|path| share.is_whole() || path.ends_with(WHOLE)) {
            files.push(lock(folder, &path)?);
        }
        if !share.is_whole() {
            // Held only to see that nobody has the whole.
            files.truncate(1);
        }
        Ok(ScorerLock { _files: files })
    }
}

const WHOLE: &str = "scorer.lock";

fn name(share: Share) -> String {
    if share.is_whole() { WHOLE.to_owned() } else { format!("scorer-{}-of-{}.lock", share.index, share.of) }
}

/// The lock files that there are.
fn shares(folder: &Path) -> Vec<PathBuf> {
    let entries = folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    let is_lock = |path: &PathBuf| {
        path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("scorer") && n.ends_with(".lock"))
    };
    entries.filter(is_lock).collect()
}

fn lock(folder: &Path, path: &Path) -> Result<File, LockError> {
    let failed = |source| LockError::Io { path: path.display().to_string(), source };
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut process = String::new();
            // Only the message depends on it.
            let _ = file.take(20).read_to_string(&mut process);
            let process = if process.trim().is_empty() { "?".to_owned() } else { process.trim().to_owned() };
            return Err(LockError::Held { folder: folder.display().to_string(), process });
        }
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(failed)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_excludes_every_share_and_shares_exclude_themselves() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::Folder(folder.path().to_owned());
        let take = |share| ScorerLock::take(&place, share);
        let half = |index| Share { index, of: 2 };
        let whole = take(Share::WHOLE).unwrap();
        let held = take(Share::WHOLE).unwrap_err();
        assert!(held.to_string().contains(&std::process::id().to_string()), "{held}");
        assert!(matches!(take(half(0)), Err(LockError::Held { .. })));
        drop(whole);
        let (first, _second) = (take(half(0)).unwrap(), take(half(1)).unwrap());
        assert!(matches!(take(half(0)), Err(LockError::Held { .. })));
        assert!(matches!(take(Share::WHOLE), Err(LockError::Held { .. })));
        drop(first);
        assert!(take(half(0)).is_ok());
    }

    #[test]
    fn on_s3_there_is_no_lock() {
        let place: Place = "s3://ward/lake".parse().unwrap();
        let _first = ScorerLock::take(&place, Share::WHOLE).unwrap();
        ScorerLock::take(&place, Share::WHOLE).unwrap();
    }
}
