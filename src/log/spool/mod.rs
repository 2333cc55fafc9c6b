//! The spool: the log of one machine, an append-only file beside the lake.
//!
//! It makes one machine behave like the deployed system: whoever takes packets from devices appends them here and
//! acknowledges them once they are synced; ingest reads them like a partition of Kafka, and what the lake has is
//! deleted.
//!
//! ```text
//! Appender ──► group being collected ──► writer: one write and one sync a group ──► segments ──► SpoolSource
//!    ▲           (16 MiB budget)               │
//!    └──────────────── Ticket::stored ◄────────┘
//! ```
//!
//! - `frame`: a record as bytes. `segment`: the files, and what a crash leaves of them.
//! - `queue`: how records become groups. `writer`: how groups become files. `source`: how they are read.
//!
//! The folder holds `spool.json` (the log's name), `spool.lock` (one process at a time), and the segments, each named by
//! the offset that it begins with. There is one partition, 0. Offsets rise, but not always by one: those of records that
//! could not be stored are left out, and so is what lies between the log's end and the lake's head where a disk lost
//! records that the lake already has.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use rand::TryRng;
use serde::{Deserialize, Serialize};

mod error;
mod frame;
mod queue;
mod segment;
mod source;
mod writer;

#[cfg(test)]
pub(crate) mod tests;

pub use error::SpoolError;
pub(super) use frame::kept;
pub use queue::{BUDGET_BYTES, Ticket};
pub use source::SpoolSource;

use queue::Shared;
use writer::Writer;

/// The only partition of a spool.
pub const PARTITION: i32 = 0;

/// The version of `spool.json` and of the segments.
const FORMAT: u32 = 1;

/// What `spool.json` says.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    format: u32,
    /// 12 random hexadecimal digits: a spool that is made anew is another log.
    id: String,
}

/// How much a spool has done since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpoolStats {
    /// Records stored.
    pub records: u64,
    /// Bytes stored, with what frames records.
    pub bytes: u64,
    /// Groups stored, each with one sync.
    pub groups: u64,
    /// Records that could not be stored, whose senders were told so.
    pub refused: u64,
}

/// An open spool. Dropping it writes what was appended and lets the next one in.
pub struct Spool {
    dir: PathBuf,
    chain: String,
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
    /// Held for as long as the spool is open; the system lets go of it when the process ends, however it ends.
    _lock: File,
}

impl Spool {
    /// Opens the spool in `dir`, or makes one there, and mends what a crash has left.
    ///
    /// # Errors
    /// [`SpoolError::Locked`] where another one has it open.
    pub fn open(dir: &Path) -> Result<Spool, SpoolError> {
        Spool::open_with(dir, |writer| writer, Box::new(segment::open_file))
    }

    fn open_with(
        dir: &Path,
        adjust: impl FnOnce(Writer) -> Writer,
        open_file: segment::OpenFile,
    ) -> Result<Spool, SpoolError> {
        fs::create_dir_all(dir).map_err(|e| SpoolError::io("create the folder", dir, e))?;
        let lock = lock(dir)?;
        let chain = chain(dir)?;
        let found = segment::recover(dir)?;
        let ahead_ms = found.arrived_ms.saturating_sub(queue::now_ms());
        if ahead_ms > 60_000 {
            tracing::warn!(
                "the last record of the spool {} arrived {} s ahead of this machine's clock: new ones get its time until \
                 the clock is there",
                dir.display(),
                ahead_ms / 1000
            );
        }
        let shared = Arc::new(Shared::new(found.segments, found.next, found.arrived_ms));
        let writer = adjust(Writer::new(dir, Arc::clone(&shared), found.open, open_file)?);
        let thread = std::thread::Builder::new()
            .name("spool-writer".into())
            .spawn(move || writer.run())
            .map_err(|e| SpoolError::io("start the writer of", dir, e))?;
        Ok(Spool { dir: dir.to_path_buf(), chain, shared, writer: Some(thread), _lock: lock })
    }

    /// The log's name in the lake, `spool-<id>`.
    pub fn chain(&self) -> &str {
        &self.chain
    }

    /// Says that the lake holds everything of this log below `head`, to be called before anything is appended. Where a
    /// power cut took records that the lake already has, the log goes on after them, so that no offset names two records.
    pub fn resume_at(&self, head: i64) {
        self.shared.resume_at(head);
    }

    /// A handle to append with, which can be cloned and sent.
    pub fn appender(&self) -> Appender {
        Appender { shared: Arc::clone(&self.shared) }
    }

    /// A reader of the log.
    pub fn source(&self) -> SpoolSource {
        SpoolSource::new(self.dir.clone(), self.chain.clone(), Arc::clone(&self.shared))
    }

    /// What was done so far.
    pub fn stats(&self) -> SpoolStats {
        self.shared.stats()
    }

    /// Takes nothing more, writes what was taken, and lets readers come to an end. Returns when it is all on the disk.
    pub async fn close(&self) {
        self.shared.close();
        // The sender is in `shared`, so waiting can't fail.
        let _ = self.shared.synced.subscribe().wait_for(|synced| synced.closed).await;
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.shared.close();
        if let Some(writer) = self.writer.take() {
            // A panic in the writer was already reported to everybody who waits, as a closed spool.
            let _ = writer.join();
        }
    }
}

/// Appends records to a spool.
#[derive(Clone)]
pub struct Appender {
    shared: Arc<Shared>,
}

impl Appender {
    /// Appends a record and waits until it is stored for good; gives its offset.
    ///
    /// `device` may be anything: what is not a valid id becomes a dead letter. So does a payload over 128 KB, of which
    /// the first 128 KB and one byte are kept.
    ///
    /// # Errors
    /// Whatever the error, the record is not in the log.
    pub async fn append(&self, device: &str, payload: &[u8]) -> Result<i64, SpoolError> {
        self.enqueue(device, payload).await?.stored().await
    }

    /// Takes a record and gives a ticket to wait for it with, so that one sender can have many on their way. Records of
    /// one sender keep their order. Waits while the records that wait for the disk fill [`BUDGET_BYTES`].
    pub async fn enqueue(&self, device: &str, payload: &[u8]) -> Result<Ticket, SpoolError> {
        self.shared.enqueue(device, payload).await
    }
}

/// Takes the folder for this process.
fn lock(dir: &Path) -> Result<File, SpoolError> {
    let path = dir.join("spool.lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|e| SpoolError::io("open", &path, e))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // Only the message depends on it.
            let _ = file.take(20).read_to_string(&mut pid);
            let owner = match pid.trim() {
                "" => "another process".into(),
                pid => format!("process {pid}"),
            };
            return Err(SpoolError::Locked { dir: dir.to_path_buf(), owner });
        }
        Err(TryLockError::Error(e)) => return Err(SpoolError::io("lock", &path, e)),
    }
    let named = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    named.map_err(|e| SpoolError::io("write", &path, e))?;
    Ok(file)
}

/// The name of the log in `dir`, which gets one if it is new.
fn chain(dir: &Path) -> Result<String, SpoolError> {
    let path = dir.join("spool.json");
    let foreign = |what: String| SpoolError::Foreign { path: path.clone(), what };
    let id = match fs::read_to_string(&path) {
        Ok(text) => {
            let description: Description = serde_json::from_str(&text).map_err(|e| foreign(e.to_string()))?;
            if description.format != FORMAT {
                return Err(foreign(format!("its format is {}, not {FORMAT}", description.format)));
            }
            if description.id.len() != 12 || !description.id.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(foreign(format!("its id {:?} is not 12 hexadecimal digits", description.id)));
            }
            description.id
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            if segment::any(dir)? {
                return Err(foreign("it is missing, but there are segments: put it back, or move them away".into()));
            }
            describe(dir, &path)?
        }
        Err(e) => return Err(SpoolError::io("read", &path, e)),
    };
    Ok(format!("spool-{id}"))
}

/// Writes a new `spool.json`, whole or not at all, and gives the new id.
fn describe(dir: &Path, path: &Path) -> Result<String, SpoolError> {
    let random = rand::rngs::SysRng.try_next_u64();
    let random = random.map_err(|e| SpoolError::io("draw a random id for", path, std::io::Error::other(e)))?;
    let id = format!("{:012x}", random >> 16);
    let text = format!("{{\"format\":{FORMAT},\"id\":\"{id}\"}}\n");
    let staged = dir.join("spool.json.new");
    File::create(&staged)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&staged, path))
        .map_err(|e| SpoolError::io("write", path, e))?;
    segment::sync_dir(dir)?;
    Ok(id)
}
