//! A folder whose writes are whole and durable.
//!
//! A write goes to a staging file outside every table, is synced, is linked to its name (which fails where the name is
//! taken), and then the folders are synced. So a crash leaves either nothing or the whole object, and at worst a staging
//! file, which the next start removes.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Write},
    path::{Path as FsPath, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, local::LocalFileSystem, path::Path,
};

/// The folder of staging files; its name starts with a dot, so engines don't see it.
const STAGING: &str = ".staging";

/// A staging file of a process that has ended is removed once it is this old.
const STAGING_KEPT: std::time::Duration = std::time::Duration::from_secs(3_600);

#[derive(Debug)]
pub(super) struct DurableFolder {
    root: PathBuf,
    files: LocalFileSystem,
    staged: AtomicU64,
}

impl DurableFolder {
    /// Opens a folder, makes it where it is not there, and clears what crashes have left.
    pub(super) fn open(folder: &FsPath) -> io::Result<DurableFolder> {
        fs::create_dir_all(folder.join(STAGING))?;
        let root = folder.canonicalize()?;
        clear_staging(&root.join(STAGING))?;
        let files = LocalFileSystem::new_with_prefix(&root).map_err(io::Error::other)?;
        Ok(DurableFolder { root, files, staged: AtomicU64::new(0) })
    }

    pub(super) fn root(&self) -> &FsPath {
        &self.root
    }

    fn staging_file(&self) -> PathBuf {
        let n = self.staged.fetch_add(1, Ordering::Relaxed);
        let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        self.root.join(STAGING).join(format!("{}-{nanos}-{n}", std::process::id()))
    }
}

impl fmt::Display for DurableFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "folder {}", self.root.display())
    }
}

/// Removes staging files that are too old to belong to a running write.
fn clear_staging(staging: &FsPath) -> io::Result<()> {
    for entry in fs::read_dir(staging)? {
        let entry = entry?;
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
        if age.is_some_and(|age| age > STAGING_KEPT) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Writes `payload` to `staging`, syncs it, and links or renames it to `target`; syncs every folder that changed.
fn write_durably(
    root: &FsPath,
    staging: &FsPath,
    target: &FsPath,
    payload: &PutPayload,
    create: bool,
) -> io::Result<()> {
    let parent = target.parent().unwrap_or(root);
    let new_folders = make_folders(root, parent)?;
    let mut file = File::options().write(true).create_new(true).open(staging)?;
    payload.iter().try_for_each(|chunk| file.write_all(chunk))?;
    file.sync_all()?;
    drop(file);
    if create {
        fs::hard_link(staging, target)?;
    } else {
        fs::rename(staging, target)?;
    }
    for folder in new_folders.iter().map(PathBuf::as_path).chain([parent]) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Makes `folder` and returns the folders that must be synced for it to last: the parents of those that were made.
fn make_folders(root: &FsPath, folder: &FsPath) -> io::Result<Vec<PathBuf>> {
    let mut parents = Vec::new();
    let mut at = folder;
    while at != root && !at.is_dir() {
        let Some(parent) = at.parent() else { break };
        parents.push(parent.to_owned());
        at = parent;
    }
    fs::create_dir_all(folder)?;
    Ok(parents)
}

#[async_trait]
impl ObjectStore for DurableFolder {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let create = match options.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => {
                return Err(Error::NotImplemented {
                    operation: "`put_opts` with mode `PutMode::Update`".into(),
                    implementer: self.to_string(),
                });
            }
        };
        let target = self.files.path_to_filesystem(location)?;
        let (root, staging, key) = (self.root.clone(), self.staging_file(), location.to_string());
        let written = tokio::task::spawn_blocking(move || {
            let outcome = write_durably(&root, &staging, &target, &payload, create);
            // After a link the staging name is one too many; after a failure it is litter.
            let _ = fs::remove_file(&staging);
            outcome
        })
        .await
        .map_err(|source| Error::JoinError { source })?;
        match written {
            Ok(()) => Ok(PutResult { e_tag: None, version: None }),
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {
                Err(Error::AlreadyExists { path: key, source: source.into() })
            }
            Err(source) => Err(Error::Generic { store: "folder", source: source.into() }),
        }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        // Its staging files would lie inside the tables; nothing here needs it.
        Err(Error::NotImplemented { operation: "`put_multipart_opts`".into(), implementer: self.to_string() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.files.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.files.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.files.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.files.copy_opts(from, to, options).await
    }
}
