//! Segments: the files that a spool is made of, and how they are found again after a crash.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::SpoolError;
use super::frame::{self, Decoded, Frame, MAX_FRAME};

/// A new segment is begun before one would grow beyond this.
pub const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

/// How much of a segment is read at once; no frame is longer.
const CHUNK: u64 = 1024 * 1024;
const _: () = assert!(MAX_FRAME as u64 <= CHUNK);

/// A segment as readers may see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// No record in it, nor after it, has a lower offset. It is the file's name.
    pub first: i64,
    /// How many bytes of it are stored for good.
    pub bytes: u64,
}

/// What a spool's folder held.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Segments that hold records, in order.
    pub segments: Vec<Segment>,
    /// The segment to go on with, where there is one. It may be without records yet.
    pub open: Option<Segment>,
    /// The offset after the last record.
    pub next: i64,
    /// When the last record arrived, milliseconds since 1970 UTC.
    pub arrived_ms: i64,
}

/// The file of the segment that begins at `first`.
pub fn path(dir: &Path, first: i64) -> PathBuf {
    dir.join(format!("{first:020}.log"))
}

/// A folder's changes are lost in a power cut unless the folder is synced itself.
pub fn sync_dir(dir: &Path) -> Result<(), SpoolError> {
    // Only Unix lets a folder be opened for this; elsewhere the file system sees to it.
    if cfg!(unix) {
        File::open(dir).and_then(|folder| folder.sync_all()).map_err(|e| SpoolError::io("sync the folder", dir, e))?;
    }
    Ok(())
}

/// The segments in a folder, in order, with the lengths of their files.
fn list(dir: &Path) -> Result<Vec<Segment>, SpoolError> {
    let failed = |e| SpoolError::io("list the folder", dir, e);
    let mut segments = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let digits = name.to_str().and_then(|name| name.strip_suffix(".log")).filter(|digits| digits.len() == 20);
        if let Some(first) = digits.and_then(|digits| digits.parse().ok()) {
            segments.push(Segment { first, bytes: entry.metadata().map_err(failed)?.len() });
        }
    }
    segments.sort_unstable_by_key(|segment| segment.first);
    Ok(segments)
}

/// Whether a folder holds segments.
pub fn any(dir: &Path) -> Result<bool, SpoolError> {
    Ok(!list(dir)?.is_empty())
}

/// Finds what a folder holds and makes it ready to go on with: the last segment loses what a crash left half-written at
/// its end (a copy stays in `torn.bin`, for whoever wants to look), and what is left is synced before anybody reads it.
///
/// Only the last segment is read. Those before it were synced whole before the next was begun; damage in them is found
/// by whoever reads them.
pub fn recover(dir: &Path) -> Result<Recovered, SpoolError> {
    let mut segments = list(dir)?;
    let Some(last) = segments.pop() else {
        return Ok(Recovered::default());
    };
    // A crash between creating a segment and its first record can leave a file without any.
    segments.retain(|segment| segment.bytes > 0);
    let scan = scan(dir, last)?;
    if let Some(what) = scan.torn {
        cut(dir, last, scan.bytes, what)?;
    }
    let open = Segment { first: last.first, bytes: scan.bytes };
    let file = path(dir, open.first);
    File::open(&file).and_then(|f| f.sync_all()).map_err(|e| SpoolError::io("sync", &file, e))?;
    sync_dir(dir)?;
    if let Some((offset, arrived_ms)) = scan.last {
        segments.push(open);
        return Ok(Recovered { segments, open: Some(open), next: offset + 1, arrived_ms });
    }
    // The crash came before the first record of a new segment. The time of the last record is in the one before.
    let arrived_ms = match segments.last() {
        None => 0,
        Some(&before) => last_of_complete(dir, before)?,
    };
    Ok(Recovered { segments, open: Some(open), next: open.first, arrived_ms })
}

/// The arrival time of the last record of a segment that was synced whole.
fn last_of_complete(dir: &Path, segment: Segment) -> Result<i64, SpoolError> {
    let scan = scan(dir, segment)?;
    match (scan.torn, scan.last) {
        (None, Some((_, arrived_ms))) => Ok(arrived_ms),
        (torn, _) => {
            let what = torn.unwrap_or("no record");
            Err(SpoolError::Damaged { path: path(dir, segment.first), byte: scan.bytes, what })
        }
    }
}

/// How much of a segment is whole.
struct Scan {
    bytes: u64,
    /// Offset and arrival time of the last whole record.
    last: Option<(i64, i64)>,
    /// Why what follows is not whole; `None` where nothing follows.
    torn: Option<&'static str>,
}

fn scan(dir: &Path, segment: Segment) -> Result<Scan, SpoolError> {
    let file = path(dir, segment.first);
    let mut reader = File::open(&file).map_err(|e| SpoolError::io("open", &file, e))?;
    let mut scan = Scan { bytes: 0, last: None, torn: None };
    while scan.bytes < segment.bytes {
        let chunk = read_chunk(&mut reader, &file, scan.bytes, segment.bytes)?;
        let floor = scan.last.map_or(segment.first, |(offset, _)| offset + 1);
        let (used, stop) = frames(&chunk, floor, |frame| scan.last = Some((frame.offset, frame.arrived_ms)));
        scan.bytes += used as u64;
        scan.torn = match stop {
            Stop::Whole => None,
            Stop::Partial if used > 0 => None,
            Stop::Partial => Some("an incomplete record"),
            Stop::Damaged(what) => Some(what),
        };
        if scan.torn.is_some() {
            break;
        }
    }
    Ok(scan)
}

/// Cuts a segment to its first `bytes`, with a copy of the rest beside it.
fn cut(dir: &Path, segment: Segment, bytes: u64, what: &str) -> Result<(), SpoolError> {
    let file = path(dir, segment.first);
    let dropped = segment.bytes - bytes;
    let aside = dir.join("torn.bin");
    tracing::warn!(
        "the spool's last segment {} ends in {what} at byte {bytes}, as a crash leaves it: cut there, with the {dropped} \
         bytes that followed kept in {}",
        file.display(),
        aside.display()
    );
    if let Err(e) = copy_tail(&file, bytes, &aside) {
        // The copy is a courtesy; on a full disk it must not keep the log from starting.
        tracing::warn!("could not keep them in {}: {e}", aside.display());
    }
    OpenOptions::new()
        .write(true)
        .open(&file)
        .and_then(|f| f.set_len(bytes).and_then(|()| f.sync_all()))
        .map_err(|e| SpoolError::io("cut the torn end of", &file, e))
}

fn copy_tail(file: &Path, from: u64, aside: &Path) -> io::Result<()> {
    let mut reader = File::open(file)?;
    reader.seek(SeekFrom::Start(from))?;
    io::copy(&mut reader, &mut File::create(aside)?).map(drop)
}

/// Up to [`CHUNK`] bytes of `[from, end)`.
fn read_chunk(reader: &mut File, file: &Path, from: u64, end: u64) -> Result<Vec<u8>, SpoolError> {
    let mut chunk = vec![0; end.saturating_sub(from).min(CHUNK) as usize];
    reader
        .seek(SeekFrom::Start(from))
        .and_then(|_| reader.read_exact(&mut chunk))
        .map_err(|e| SpoolError::io("read", file, e))?;
    Ok(chunk)
}

/// Why [`frames`] came to an end.
enum Stop {
    Whole,
    Partial,
    Damaged(&'static str),
}

/// Visits the frames of a chunk. Their offsets rise and none is below `floor`. Gives the bytes visited.
fn frames<'a>(chunk: &'a [u8], mut floor: i64, mut visit: impl FnMut(Frame<'a>)) -> (usize, Stop) {
    let mut used = 0;
    while used < chunk.len() {
        match frame::decode(&chunk[used..]) {
            Decoded::Partial => return (used, Stop::Partial),
            Decoded::Damaged(what) => return (used, Stop::Damaged(what)),
            Decoded::Frame(frame, _) if frame.offset < floor || frame.offset == i64::MAX => {
                return (used, Stop::Damaged("a record out of order"));
            }
            Decoded::Frame(frame, size) => {
                floor = frame.offset + 1;
                used += size;
                visit(frame);
            }
        }
    }
    (used, Stop::Whole)
}

/// The whole frames from byte `from` of a segment, about a megabyte of them and at least one: calls `visit` with
/// each. Gives the byte after the last.
pub fn read(
    reader: &mut File,
    file: &Path,
    from: u64,
    segment: Segment,
    visit: impl FnMut(Frame<'_>),
) -> Result<u64, SpoolError> {
    let chunk = read_chunk(reader, file, from, segment.bytes)?;
    let (used, stop) = frames(&chunk, segment.first, visit);
    let what = match stop {
        Stop::Damaged(what) => what,
        Stop::Partial if used == 0 => "an incomplete record",
        Stop::Whole | Stop::Partial => return Ok(from + used as u64),
    };
    Err(SpoolError::Damaged { path: file.to_path_buf(), byte: from + used as u64, what })
}

/// A segment that is being written. A trait, because tests need disks that fail.
pub trait SegmentFile: Send {
    /// Writes all of `bytes` at the end, or fails having written any part of them.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Returns once everything appended is on the disk.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file to its first `len` bytes.
    fn cut(&mut self, len: u64) -> io::Result<()>;
}

impl SegmentFile for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }
}

/// How the writer gets at a segment's file.
pub type OpenFile = Box<dyn FnMut(&Path) -> io::Result<Box<dyn SegmentFile>> + Send>;

/// A file on the disk, created where it is not there. In append mode a write goes to the end also after a cut.
pub fn open_file(path: &Path) -> io::Result<Box<dyn SegmentFile>> {
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    Ok(Box::new(file))
}
