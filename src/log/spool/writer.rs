//! The thread that writes groups of records and syncs them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::SpoolError;
use super::queue::{Group, Shared};
use super::segment::{self, OpenFile, SEGMENT_BYTES, Segment, SegmentFile};

/// The segment that is being written.
struct Open {
    path: PathBuf,
    file: Box<dyn SegmentFile>,
    segment: Segment,
    /// The file may hold more than the segment's bytes: a write failed in its middle, and cutting it off did too.
    torn: bool,
}

/// Owns the end of the log. Dropping it tells everybody that nothing more will be written.
pub struct Writer {
    dir: PathBuf,
    shared: Arc<Shared>,
    open_file: OpenFile,
    open: Option<Open>,
    segment_bytes: u64,
    /// The last group could not be stored.
    failing: bool,
}

impl Writer {
    /// Goes on with `segment`, or begins a new one with the first record.
    pub fn new(
        dir: &Path,
        shared: Arc<Shared>,
        segment: Option<Segment>,
        mut open_file: OpenFile,
    ) -> Result<Writer, SpoolError> {
        let open = match segment {
            None => None,
            Some(segment) => {
                let path = segment::path(dir, segment.first);
                let file = open_file(&path).map_err(|e| SpoolError::io("open", &path, e))?;
                Some(Open { path, file, segment, torn: false })
            }
        };
        let dir = dir.to_path_buf();
        Ok(Writer { dir, shared, open_file, open, segment_bytes: SEGMENT_BYTES, failing: false })
    }

    /// Begins a new segment before one would grow beyond `bytes`.
    #[cfg(test)]
    pub fn with_segment_bytes(mut self, bytes: u64) -> Writer {
        self.segment_bytes = bytes;
        self
    }

    /// Writes what is appended until the spool is closed and nothing is left.
    pub fn run(mut self) {
        let mut spare = Vec::new();
        while let Some(group) = self.shared.take(spare) {
            let outcome = self.store(&group);
            self.report(&outcome, &group);
            spare = self.shared.finish(group, outcome);
        }
    }

    /// Writes a group and syncs it, or leaves the log as it was.
    fn store(&mut self, group: &Group) -> Result<(), SpoolError> {
        let size = group.bytes.len() as u64;
        let open = self.room_for(size, group.first)?;
        open.torn = true;
        if let Err(error) = open.append(&group.bytes) {
            // What stands there of this group must not be taken for records, nor be written behind.
            if let Err(e) = open.mend() {
                tracing::warn!("could not cut a half-written group off {} yet: {e}", open.path.display());
            }
            return Err(error);
        }
        open.torn = false;
        open.segment.bytes += size;
        let segment = open.segment;
        self.shared.synced.send_modify(|synced| {
            match synced.segments.last_mut().filter(|last| last.first == segment.first) {
                Some(last) => *last = segment,
                None => synced.segments.push(segment),
            }
            synced.next = group.next;
        });
        Ok(())
    }

    /// The segment that `size` more bytes go into: the present one, mended, or a new one that begins at `first`.
    fn room_for(&mut self, size: u64, first: i64) -> Result<&mut Open, SpoolError> {
        // Also before a new one is begun: a segment that is not the last must end in a whole record.
        if let Some(open) = &mut self.open
            && open.torn
        {
            open.mend()?;
        }
        let open = match self.open.take() {
            Some(open) if open.segment.bytes == 0 || open.segment.bytes + size <= self.segment_bytes => open,
            full => match self.begin(first) {
                Ok(open) => open,
                Err(error) => {
                    self.open = full;
                    return Err(error);
                }
            },
        };
        Ok(self.open.insert(open))
    }

    fn begin(&mut self, first: i64) -> Result<Open, SpoolError> {
        let path = segment::path(&self.dir, first);
        let file = (self.open_file)(&path).map_err(|e| SpoolError::io("create", &path, e))?;
        segment::sync_dir(&self.dir)?;
        Ok(Open { path, file, segment: Segment { first, bytes: 0 }, torn: false })
    }

    /// Says when storing begins to fail and when it works again, not for every group.
    fn report(&mut self, outcome: &Result<(), SpoolError>, group: &Group) {
        match outcome {
            Err(error) if !self.failing => {
                tracing::error!("the spool can't store records, so none is acknowledged: {:#}", Chain(error));
                self.failing = true;
            }
            Ok(()) if self.failing => {
                tracing::info!("the spool stores records again, from offset {}", group.first);
                self.failing = false;
            }
            _ => {}
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.writer_gone();
    }
}

impl Open {
    fn append(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        self.file.append(bytes).map_err(|e| SpoolError::io("write", &self.path, e))?;
        self.file.sync().map_err(|e| SpoolError::io("sync", &self.path, e))
    }

    /// Cuts off what is not part of the segment.
    fn mend(&mut self) -> Result<(), SpoolError> {
        let cut = self.file.cut(self.segment.bytes).and_then(|()| self.file.sync());
        cut.map_err(|e| SpoolError::io("cut a half-written group off", &self.path, e))?;
        self.torn = false;
        Ok(())
    }
}

/// An error with its causes in one line.
struct Chain<'a>(&'a SpoolError);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = std::error::Error::source(self.0);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
