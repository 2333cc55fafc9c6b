//! The store beneath a lake: an [`ObjectStore`] (a folder, memory, S3), narrowed to what the lake relies on.
//!
//! The lake's promises rest on one of them: [`Store::create`] writes a whole object under a key that was free, or
//! nothing, and what it wrote survives a power cut. [`object_store`]'s folder does not sync, and leaves half-written
//! files beside whole ones, so folders go through [`durable::DurableFolder`].
//!
//! The same suite of tests (`tests/it/store.rs`) holds every store to this.

use std::{fmt, path::Path as FsPath, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, memory::InMemory, path::Path,
};
use parquet::{
    errors::ParquetError,
    file::metadata::{ParquetMetaData, ParquetMetaDataReader},
};

use super::place::Place;

mod durable;
mod parquet_file;
mod s3;

pub use parquet_file::ParquetFile;
pub use s3::{Refusal, S3Error};

/// What went wrong at the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("`{key}` is not in the lake")]
    NotFound {
        /// The object's key.
        key: Path,
    },
    /// An object is there but is not what it should be.
    #[error("`{key}` is damaged or not a file of this lake: {what}")]
    Damaged {
        /// The object's key.
        key: Path,
        /// What is wrong with it.
        what: String,
    },
    /// The store did not do what it was asked; trying again may help.
    #[error("can't {doing} `{key}` in the lake: {source}")]
    Failed {
        /// What was being done.
        doing: &'static str,
        /// To what.
        key: Path,
        /// What the store said.
        source: object_store::Error,
    },
    /// S3 did not do what it was asked; trying again may help.
    #[error("can't {doing} {said}")]
    S3 {
        /// What was being done.
        doing: &'static str,
        /// What S3 said, and of what.
        #[source]
        said: S3Error,
    },
    /// Rows could not be kept beside memory.
    #[error("can't use a temporary file in `{folder}`: {what}; is the disk full? `TMPDIR` names another folder")]
    Temporary {
        /// The folder of temporary files.
        folder: String,
        /// What the system said.
        what: String,
    },
    /// The folder of the lake can't be used.
    #[error("can't use the folder `{folder}` as a lake: {source}")]
    Folder {
        /// The folder.
        folder: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl StoreError {
    fn of(doing: &'static str, key: &Path, source: object_store::Error) -> StoreError {
        match source {
            object_store::Error::NotFound { .. } => StoreError::NotFound { key: key.clone() },
            source => match S3Error::within(&source) {
                Some(said) => StoreError::S3 { doing, said: said.clone() },
                None => StoreError::Failed { doing, key: key.clone(), source },
            },
        }
    }

    /// What kept a Parquet file from being read: that the store did not give it, or that it is damaged.
    pub fn of_parquet(key: &Path, error: ParquetError) -> StoreError {
        match S3Error::within(&error) {
            Some(said) => StoreError::S3 { doing: "read", said: said.clone() },
            None => StoreError::Damaged { key: key.clone(), what: error.to_string() },
        }
    }

    /// Whether the object was not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, StoreError::NotFound { .. })
    }
}

/// What came of a [`Store::create`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The object is there, whole and durable.
    New,
    /// The key was taken, or the store says so: a conflict on S3 can also mean that nothing was written, so look.
    Taken,
}

/// An object of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Path,
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was written, milliseconds since 1970 UTC, by the store's clock.
    pub modified_ms: i64,
}

/// A place for objects.
#[derive(Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    place: String,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.place)
    }
}

impl Store {
    /// A folder of this machine, made if it is not there.
    pub fn folder(folder: &FsPath) -> Result<Store, StoreError> {
        let opened = durable::DurableFolder::open(folder)
            .map_err(|source| StoreError::Folder { folder: folder.display().to_string(), source })?;
        Ok(Store { place: opened.root().display().to_string(), objects: Arc::new(opened) })
    }

    /// A prefix of a bucket of S3, or of anything that speaks its protocol. Region, endpoint and credentials are those of
    /// AWS's chain ([`crate::aws`]); nothing is asked of S3 yet.
    pub async fn s3(bucket: &str, prefix: &Path) -> Result<Store, StoreError> {
        let opened = s3::S3::open(bucket, prefix).await.map_err(|said| StoreError::S3 { doing: "use", said })?;
        Ok(Store { place: opened.to_string(), objects: Arc::new(opened) })
    }

    /// The store of a place; a folder is made if it is not there.
    pub async fn at(place: &Place) -> Result<Store, StoreError> {
        match place {
            Place::Folder(folder) => Store::folder(folder),
            Place::S3 { bucket, prefix } => Store::s3(bucket, prefix).await,
        }
    }

    /// Memory of this process, for tests.
    pub fn memory() -> Store {
        Store { objects: Arc::new(InMemory::new()), place: "memory".to_owned() }
    }

    /// Any other store; `place` names it in messages.
    pub fn of(objects: Arc<dyn ObjectStore>, place: &str) -> Store {
        Store { objects, place: place.to_owned() }
    }

    /// Where this is, for people.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The store itself, for readers of whole tables.
    pub fn objects(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.objects)
    }

    /// Writes a whole object under a key that is free.
    pub async fn create(&self, key: &Path, bytes: Bytes) -> Result<Created, StoreError> {
        let options = PutOptions { mode: PutMode::Create, ..Default::default() };
        match self.objects.put_opts(key, PutPayload::from_bytes(bytes), options).await {
            Ok(_) => Ok(Created::New),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(Created::Taken),
            Err(source) => Err(StoreError::of("write", key, source)),
        }
    }

    /// Writes a whole object, in the place of what there is. For what is no part of the lake: nothing in one is replaced.
    pub async fn replace(&self, key: &Path, bytes: Bytes) -> Result<(), StoreError> {
        let written = self.objects.put(key, PutPayload::from_bytes(bytes)).await;
        written.map(drop).map_err(|source| StoreError::of("write", key, source))
    }

    /// The whole object.
    pub async fn get(&self, key: &Path) -> Result<Bytes, StoreError> {
        let failed = |source| StoreError::of("read", key, source);
        self.objects.get(key).await.map_err(failed)?.bytes().await.map_err(failed)
    }

    /// The last `bytes` of an object (all of it where it is shorter), and its size.
    pub async fn tail(&self, key: &Path, bytes: u64) -> Result<(Bytes, u64), StoreError> {
        let failed = |source| StoreError::of("read", key, source);
        if bytes == 0 {
            return Ok((Bytes::new(), self.objects.head(key).await.map_err(failed)?.size));
        }
        // The answer says how long the object is, so that one request is enough.
        let options = GetOptions { range: Some(GetRange::Suffix(bytes)), ..Default::default() };
        let got = self.objects.get_opts(key, options).await.map_err(failed)?;
        let size = got.meta.size;
        Ok((got.bytes().await.map_err(failed)?, size))
    }

    /// The metadata of a Parquet file; a file that is none, or is cut short, is [`StoreError::Damaged`].
    pub async fn parquet_metadata(&self, key: &Path) -> Result<ParquetMetaData, StoreError> {
        let damaged = |what: String| StoreError::Damaged { key: key.clone(), what };
        let mut want: u64 = 64 * 1024;
        loop {
            let (tail, size) = self.tail(key, want).await?;
            let mut reader = ParquetMetaDataReader::new();
            match reader.try_parse_sized(&tail, size) {
                Ok(()) => return reader.finish().map_err(|e| damaged(e.to_string())),
                Err(ParquetError::NeedMoreData(needed)) if (needed as u64) > want && want < size => {
                    want = needed as u64;
                }
                Err(e) => return Err(damaged(e.to_string())),
            }
        }
    }

    /// Every object below a folder, sorted by key.
    pub async fn list(&self, prefix: &Path) -> Result<Vec<Entry>, StoreError> {
        let entry = |meta: object_store::ObjectMeta| Entry {
            key: meta.location,
            bytes: meta.size,
            modified_ms: meta.last_modified.timestamp_millis(),
        };
        let listed = self.objects.list(Some(prefix)).map_ok(entry).try_collect::<Vec<_>>().await;
        let mut entries = listed.map_err(|source| StoreError::of("list", prefix, source))?;
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(entries)
    }

    /// The folders at the top that have anything in them: one short listing, however large the store is.
    pub async fn folders(&self) -> Result<Vec<Path>, StoreError> {
        let listed = self.objects.list_with_delimiter(None).await;
        Ok(listed.map_err(|source| StoreError::of("list", &Path::default(), source))?.common_prefixes)
    }

    /// Deletes objects; one that is not there is as good as deleted.
    pub async fn delete(&self, keys: Vec<Path>) -> Result<(), StoreError> {
        let locations = futures::stream::iter(keys.into_iter().map(Ok)).boxed();
        let mut deleted = self.objects.delete_stream(locations);
        while let Some(outcome) = deleted.next().await {
            match outcome {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(source) => return Err(StoreError::of("delete", &Path::default(), source)),
            }
        }
        Ok(())
    }
}
