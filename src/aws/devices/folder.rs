//! The folder of identities: keys, certificates, an index that the simulator reads, a journal of work under way.
//!
//! ```text
//! .vitals-devices/          0700
//!   devices.json            what there is, and where it publishes
//!   device_1.key            0600
//!   device_1.pem
//!   amazon-root-ca1.pem     what the broker's certificate is checked against
//!   unfinished.ndjson       only while `vitals devices add` runs, or after it was interrupted
//!   .gitignore              keys are not for a repository
//! ```

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

/// The folder that is taken where none is named; beside the lake, not in it, so that keys don't travel with data.
pub const DEFAULT: &str = ".vitals-devices";

const INDEX: &str = "devices.json";
const JOURNAL: &str = "unfinished.ndjson";
const LOCK: &str = "lock";
const SCHEMA_VERSION: u32 = 1;

/// What IoT Core's certificates lead to.
const AMAZON_ROOT: (&str, &str) = ("amazon-root-ca1.pem", include_str!("../../../templates/amazon-root-ca1.pem"));

/// The port of MQTT with TLS.
const PORT: u16 = 8883;

/// What is in the folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    pub schema_version: u32,
    /// The stack that the devices belong to, and its region.
    pub stack: String,
    pub region: String,
    /// The host that devices connect to.
    pub endpoint: String,
    #[serde(default = "mqtts")]
    pub port: u16,
    /// The rule of Basic Ingest: devices publish to `$aws/rules/<rule>/iot/device/<id>`.
    pub rule: String,
    /// The file of authorities that may have signed the endpoint's certificate.
    pub ca: String,
    pub devices: Vec<Device>,
}

fn mqtts() -> u16 {
    PORT
}

/// One device: its thing's name, which is its client id and its device id, and its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub thing: String,
    pub certificate: String,
    pub key: String,
    /// `None` where it is of no AWS account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_arn: Option<String>,
}

impl Device {
    /// With its files named after the thing.
    pub fn new(thing: &str, certificate_arn: &str) -> Device {
        // A colon is no part of a file's name everywhere.
        let file = thing.replace(':', "=");
        Device {
            thing: thing.to_owned(),
            certificate: format!("{file}.pem"),
            key: format!("{file}.key"),
            certificate_arn: Some(certificate_arn.to_owned()),
        }
    }
}

/// Why a folder of identities can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("there are no devices in `{folder}`")]
    NotThere { folder: String },
    #[error("`{path}` can't be read: {reason}")]
    Damaged { path: String, reason: String },
    #[error("another `vitals devices` works on `{folder}`")]
    Locked { folder: String },
    #[error("`{path}`: {error}")]
    Io { path: String, error: io::Error },
}

impl Index {
    /// Reads the index of a folder.
    ///
    /// # Errors
    /// [`FolderError::NotThere`] where there is none; [`FolderError::Damaged`].
    pub fn read(folder: &Path) -> Result<Index, FolderError> {
        let path = folder.join(INDEX);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(FolderError::NotThere { folder: folder.display().to_string() });
            }
            other => other.map_err(at(&path))?,
        };
        let damaged = |reason: String| FolderError::Damaged { path: path.display().to_string(), reason };
        let index: Index = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
        if index.schema_version != SCHEMA_VERSION {
            return Err(damaged(format!(
                "it is of version {}, this program reads {SCHEMA_VERSION}",
                index.schema_version
            )));
        }
        // A name with a folder in it would lead out of this one.
        let files = index.devices.iter().flat_map(|device| [&device.certificate, &device.key]).chain([&index.ca]);
        if let Some(odd) = files.into_iter().find(|name| Path::new(name).file_name() != Some(name.as_ref())) {
            return Err(damaged(format!("`{odd}` is no file's name")));
        }
        Ok(index)
    }
}

/// A folder that this process works on. Others wait until it is dropped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    journal: Mutex<Option<File>>,
    _lock: File,
}

/// What an interrupted run left behind.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// When certificates were asked for, first and last, milliseconds since 1970 UTC.
    pub asked_ms: Option<(i64, i64)>,
    /// Devices whose key and certificate are here.
    pub issued: BTreeMap<String, Device>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Issued(Device),
    Asked { asked_ms: i64 },
}

impl Folder {
    /// Opens a folder, made where it is not there.
    ///
    /// # Errors
    /// Where it can't be used, or another process works on it.
    pub fn open(path: &Path) -> Result<Folder, FolderError> {
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(path).map_err(at(path))?;
        let lock = private(&path.join(LOCK), OpenOptions::new().write(true).create(true).truncate(false))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(FolderError::Locked { folder: path.display().to_string() }),
            Err(TryLockError::Error(error)) => return Err(at(path)(error)),
        }
        Ok(Folder { path: path.to_owned(), journal: Mutex::new(None), _lock: lock })
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is in it; `None` where nothing is yet.
    ///
    /// # Errors
    /// Where it can't be read.
    pub fn index(&self) -> Result<Option<Index>, FolderError> {
        match Index::read(&self.path) {
            Err(FolderError::NotThere { .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Writes the index, and beside it what is the same for all.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn write_index(&self, index: &Index) -> Result<(), FolderError> {
        self.write(".gitignore", b"*\n")?;
        if index.ca == AMAZON_ROOT.0 {
            self.write(AMAZON_ROOT.0, AMAZON_ROOT.1.as_bytes())?;
        }
        let text = serde_json::to_vec_pretty(index).map_err(|e| at(&self.path)(e.into()))?;
        self.write(INDEX, &text)
    }

    /// An index without devices.
    pub fn new_index(stack: &str, region: &str, endpoint: &str, rule: &str) -> Index {
        Index {
            schema_version: SCHEMA_VERSION,
            stack: stack.to_owned(),
            region: region.to_owned(),
            endpoint: endpoint.to_owned(),
            port: PORT,
            rule: rule.to_owned(),
            ca: AMAZON_ROOT.0.to_owned(),
            devices: Vec::new(),
        }
    }

    /// Keeps a device's key and certificate, and says so in the journal: after that they can't be lost.
    ///
    /// # Errors
    /// Where they can't be written.
    pub fn keep(&self, device: &Device, certificate: &str, key: &str) -> Result<(), FolderError> {
        self.write(&device.key, key.as_bytes())?;
        self.write(&device.certificate, certificate.as_bytes())?;
        self.note(&Line::Issued(device.clone()))
    }

    /// Says in the journal that a certificate is asked for now.
    ///
    /// # Errors
    /// Where that can't be written.
    pub fn asks(&self, asked_ms: i64) -> Result<(), FolderError> {
        self.note(&Line::Asked { asked_ms })
    }

    /// Whether a device's key and certificate are here.
    pub fn has(&self, device: &Device) -> bool {
        [&device.key, &device.certificate].iter().all(|file| self.path.join(file).is_file())
    }

    /// Removes a device's key and certificate.
    ///
    /// # Errors
    /// Where they are there and stay.
    pub fn forget(&self, device: &Device) -> Result<(), FolderError> {
        [&device.key, &device.certificate].into_iter().try_for_each(|file| self.remove(file))
    }

    /// What an interrupted run left behind.
    ///
    /// # Errors
    /// Where the journal can't be read.
    pub fn unfinished(&self) -> Result<Unfinished, FolderError> {
        let path = self.path.join(JOURNAL);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Unfinished::default()),
            other => other.map_err(at(&path))?,
        };
        let mut left = Unfinished::default();
        // A line that is cut off was not noted, so what it would have said did not happen yet.
        for line in text.lines().filter_map(|line| serde_json::from_str(line).ok()) {
            match line {
                Line::Asked { asked_ms } => {
                    let (first, last) = left.asked_ms.unwrap_or((asked_ms, asked_ms));
                    left.asked_ms = Some((first.min(asked_ms), last.max(asked_ms)));
                }
                Line::Issued(device) => drop(left.issued.insert(device.thing.clone(), device)),
            }
        }
        Ok(left)
    }

    /// Ends the journal: all is in the index.
    ///
    /// # Errors
    /// Where it can't be removed.
    pub fn finished(&self) -> Result<(), FolderError> {
        *self.journal.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.remove(JOURNAL)
    }

    fn note(&self, line: &Line) -> Result<(), FolderError> {
        let path = self.path.join(JOURNAL);
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let file = match journal.as_mut() {
            Some(file) => file,
            None => {
                let mut file = private(&path, OpenOptions::new().append(true).create(true))?;
                // Ends the line that an interrupted run may have begun.
                file.write_all(b"\n").and_then(|()| sync(&self.path)).map_err(at(&path))?;
                journal.insert(file)
            }
        };
        let mut text = serde_json::to_vec(line).map_err(|e| at(&path)(e.into()))?;
        text.push(b'\n');
        file.write_all(&text).and_then(|()| file.sync_data()).map_err(at(&path))
    }

    /// Writes a file that only its owner reads, whole or not at all, and durably.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), FolderError> {
        let path = self.path.join(name);
        let write = || {
            // Made readable for its owner only.
            let mut file = tempfile::NamedTempFile::new_in(&self.path)?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            sync(&self.path)
        };
        write().map_err(at(&path))
    }

    fn remove(&self, name: &str) -> Result<(), FolderError> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&path)(error)),
            _ => sync(&self.path).map_err(at(&path)),
        }
    }
}

fn private(path: &Path, options: &mut OpenOptions) -> Result<File, FolderError> {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options.open(path).map_err(at(path))
}

/// Makes names in a folder durable.
fn sync(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    Ok(())
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> FolderError {
    let path = path.display().to_string();
    move |error| FolderError::Io { path, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_for_their_owner_only() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("devices");
        let folder = Folder::open(&path).unwrap();
        let device = Device::new("ward:1", "arn:cert/a");
        folder.keep(&device, "CERTIFICATE", "KEY").unwrap();
        assert_eq!(fs::read_to_string(path.join("ward=1.key")).unwrap(), "KEY");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&path), mode(&path.join("ward=1.key"))), (0o700, 0o600));
            assert_eq!(mode(&path.join(JOURNAL)), 0o600);
        }
        folder.forget(&device).unwrap();
        assert!(!path.join("ward=1.key").exists() && !folder.has(&device));
    }

    #[test]
    fn an_interrupted_run_is_known_from_its_journal() {
        let parent = tempfile::tempdir().unwrap();
        let device = Device::new("device_1", "arn:cert/a");
        {
            let folder = Folder::open(parent.path()).unwrap();
            assert!(matches!(Folder::open(parent.path()), Err(FolderError::Locked { .. })));
            folder.asks(2_000).unwrap();
            folder.keep(&device, "C", "K").unwrap();
            folder.asks(1_000).unwrap();
        }
        // What a crash cut off.
        let mut journal = OpenOptions::new().append(true).open(parent.path().join(JOURNAL)).unwrap();
        journal.write_all(b"{\"asked_ms\": 30").unwrap();
        let folder = Folder::open(parent.path()).unwrap();
        folder.asks(4_000).unwrap();
        let left = folder.unfinished().unwrap();
        assert_eq!(left.asked_ms, Some((1_000, 4_000)));
        assert_eq!(left.issued, BTreeMap::from([("device_1".to_owned(), device)]));
        folder.finished().unwrap();
        assert_eq!(folder.unfinished().unwrap(), Unfinished::default());
    }

    #[test]
    fn an_index_is_read_as_it_was_written_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        assert!(matches!(Index::read(parent.path()), Err(FolderError::NotThere { .. })));
        let folder = Folder::open(parent.path()).unwrap();
        let mut index = Folder::new_index("vitals", "eu-central-1", "a.example", "readings");
        index.devices.push(Device::new("device_1", "arn:cert/a"));
        folder.write_index(&index).unwrap();
        assert_eq!(Index::read(parent.path()).unwrap(), index);
        let written = fs::read_to_string(parent.path().join(INDEX)).unwrap();
        for (from, to) in [("device_1.key", "../key"), ("\"schema_version\": 1", "\"schema_version\": 2"), ("{", "[")] {
            fs::write(parent.path().join(INDEX), written.replacen(from, to, 1)).unwrap();
            assert!(matches!(Index::read(parent.path()), Err(FolderError::Damaged { .. })), "{to}");
        }
    }
}
