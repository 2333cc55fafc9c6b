//! Archives in the form `ustar`, of which the same content gives the same bytes.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

use super::copy;

/// Writes one archive. Everything in it belongs to 0:0 and is of one time.
pub struct Archive<W> {
    to: W,
    time_s: u64,
}

/// What follows a header is filled up to a multiple of this.
const BLOCK: usize = 512;

impl<W: Write> Archive<W> {
    /// An archive whose entries are all of this time, in seconds since 1970 UTC.
    pub fn new(to: W, time_s: u64) -> Archive<W> {
        Archive { to, time_s }
    }

    /// A folder. Paths have no `/` at either end.
    pub fn folder(&mut self, path: &str, mode: u32) -> io::Result<()> {
        self.header(&format!("{path}/"), mode, 0, b'5')
    }

    /// A file of these bytes.
    pub fn bytes(&mut self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        self.header(path, mode, bytes.len() as u64, b'0')?;
        self.to.write_all(bytes)?;
        self.fill(bytes.len() as u64)
    }

    /// A file with the content of another.
    pub fn file(&mut self, path: &str, mode: u32, content: &Path) -> io::Result<()> {
        let mut file = File::open(content)?;
        let size = file.metadata()?.len();
        self.header(path, mode, size, b'0')?;
        copy(&mut file, size, &mut self.to)?;
        self.fill(size)
    }

    /// Ends the archive, and gives back where it went.
    pub fn finish(mut self) -> io::Result<W> {
        self.to.write_all(&[0; 2 * BLOCK])?;
        Ok(self.to)
    }

    fn header(&mut self, path: &str, mode: u32, size: u64, kind: u8) -> io::Result<()> {
        let mut block = [0_u8; BLOCK];
        let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
        // 8 GiB is what eleven octal digits hold.
        if path.len() > 100 || size >= 1 << 33 || self.time_s >= 1 << 33 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too large for an archive"));
        }
        put(0, path);
        put(100, &format!("{mode:07o}"));
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{size:011o}"));
        put(136, &format!("{:011o}", self.time_s));
        // The sum is made with blanks in its own place.
        put(148, "        ");
        put(257, "ustar\x0000");
        block[156] = kind;
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.to.write_all(&block)
    }

    fn fill(&mut self, size: u64) -> io::Result<()> {
        let over = (size % BLOCK as u64) as usize;
        if over > 0 { self.to.write_all(&[0; BLOCK][over..]) } else { Ok(()) }
    }
}
