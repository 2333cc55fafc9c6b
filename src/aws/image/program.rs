//! What the header of a binary says of it: for which machines it is, and whether it runs in an empty root.

use std::{
    fmt,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use anyhow::Context;

/// The command that links this program statically. Only the last link is made anew, so it takes no second build of all
/// that the program is made of.
pub const STATIC_BUILD: &str = "cargo rustc --release --bin vitals -- -C target-feature=+crt-static -C strip=symbols";

/// The processors that an image may be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    Amd64,
    Arm64,
}

impl fmt::Display for Architecture {
    /// As images have it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Architecture::Amd64 => "amd64",
            Architecture::Arm64 => "arm64",
        })
    }
}

/// A program of Linux that an image can be made of.
#[derive(Debug, Clone)]
pub struct Program {
    /// Where it is read.
    pub(super) path: PathBuf,
    /// What it is called in messages.
    name: String,
    /// The processors it is for.
    pub architecture: Architecture,
    /// The loader it asks for; `None` where it is linked statically.
    pub interpreter: Option<String>,
}

/// A binary that no image can be made of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    #[error(
        "`{name}` is {what}, and a container runs programs of Linux\nhint: `--linux-binary FILE` names one; on Linux it is \
         made with `{STATIC_BUILD}`"
    )]
    NotLinux { name: String, what: String },
    #[error("`{name}` is for processors of ELF machine {machine}; images are made for amd64 (62) and arm64 (183)")]
    OtherMachine { name: String, machine: u16 },
    #[error(
        "`{name}` is linked dynamically (it asks for {interpreter}), and in an image of its own there is no such thing\n\
         hint: `{STATIC_BUILD}` makes one that needs nothing, at target/release/vitals; name it with `--linux-binary`, or \
         name an image with `--base-image` that has a glibc no older than this one's, CA certificates and a /tmp"
    )]
    Dynamic { name: String, interpreter: String },
}

impl Program {
    /// The program that runs now.
    ///
    /// # Errors
    /// Where it can't be read, or is of another system: then one has to be named.
    pub fn running() -> anyhow::Result<Program> {
        let path = std::env::current_exe().map_err(|e| anyhow::anyhow!("can't find this program's own file: {e}"))?;
        // Also where the file has been replaced or removed since it was started.
        let own = Path::new("/proc/self/exe");
        let read = if own.exists() { own } else { &path };
        Program::from(read, &path)
    }

    /// A program in a file.
    ///
    /// # Errors
    /// Where it can't be read, is no program of Linux, or is for other processors.
    pub fn read(path: &Path) -> anyhow::Result<Program> {
        Program::from(path, path)
    }

    /// Reads a file that is known under another name.
    fn from(path: &Path, name: &Path) -> anyhow::Result<Program> {
        let (path, name) = (path.to_owned(), name.display().to_string());
        let reading = || format!("reading `{name}`");
        let mut file = File::open(&path).with_context(reading)?;
        let mut start = Vec::new();
        (&mut file).take(HEADER as u64).read_to_end(&mut start).with_context(reading)?;
        let header = match Header::parse(&start) {
            Ok(header) => header,
            Err(what) => return Err(ProgramError::NotLinux { name, what: what.to_owned() }.into()),
        };
        let architecture = match header.machine {
            62 => Architecture::Amd64,
            183 => Architecture::Arm64,
            machine => return Err(ProgramError::OtherMachine { name, machine }.into()),
        };
        let interpreter = header.interpreter(&mut file).with_context(reading)?;
        Ok(Program { path, name, architecture, interpreter })
    }

    /// Where it is read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it needs nothing of the image around it.
    ///
    /// # Errors
    /// Where it is linked dynamically; says how one is made that is not.
    pub fn runs_alone(&self) -> Result<(), ProgramError> {
        match &self.interpreter {
            Some(interpreter) => {
                Err(ProgramError::Dynamic { name: self.name.clone(), interpreter: interpreter.clone() })
            }
            None => Ok(()),
        }
    }
}

/// The length of the header of a 64-bit ELF file.
const HEADER: usize = 64;

/// What is needed of the header of a 64-bit ELF file.
struct Header {
    machine: u16,
    /// Where the program headers are, how long one is, and how many there are.
    segments: (u64, u16, u16),
}

impl Header {
    /// Reads a header, or says what the file is instead.
    fn parse(start: &[u8]) -> Result<Header, &'static str> {
        match start {
            [0x7f, b'E', b'L', b'F', ..] if start.len() == HEADER => {}
            [0xcf | 0xce, 0xfa, 0xed, 0xfe, ..] | [0xca, 0xfe, 0xba, 0xbe, ..] => return Err("a program of macOS"),
            [b'M', b'Z', ..] => return Err("a program of Windows"),
            [b'#', b'!', ..] => return Err("a script"),
            [] => return Err("an empty file"),
            _ => return Err("no program"),
        }
        let number = |at: usize| u16::from_le_bytes([start[at], start[at + 1]]);
        let long = |at: usize| start[at..at + 8].iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        let (class, order, system) = (start[4], start[5], start[7]);
        match (class, order, system, number(16)) {
            // Executables, and those that can be loaded anywhere; libraries have no entry.
            (2, 1, 0 | 3, 2 | 3) if long(24) != 0 => {}
            (1, ..) => return Err("a program of 32 bits"),
            (2, 1, 0 | 3, _) => return Err("a library or a part of a program"),
            _ => return Err("a program of another system"),
        }
        Ok(Header { machine: number(18), segments: (long(32), number(54), number(56)) })
    }

    /// The loader that the program asks for.
    fn interpreter(&self, file: &mut File) -> io::Result<Option<String>> {
        const INTERPRETER: u32 = 3;
        let (start, length, count) = self.segments;
        for segment in 0..u64::from(count) {
            let mut entry = [0; 56];
            let at = start.checked_add(segment * u64::from(length));
            file.seek(SeekFrom::Start(at.ok_or(io::ErrorKind::InvalidData)?))?;
            file.read_exact(&mut entry)?;
            let [kind, offset, size] = [(0, 4), (8, 8), (32, 8)].map(|(at, length): (usize, usize)| {
                entry[at..at + length].iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
            });
            if kind == u64::from(INTERPRETER) {
                let mut path = Vec::new();
                file.seek(SeekFrom::Start(offset))?;
                file.take(size.min(4096)).read_to_end(&mut path)?;
                let path = String::from_utf8_lossy(&path);
                return Ok(Some(path.trim_end_matches('\0').to_owned()));
            }
        }
        Ok(None)
    }
}
