//! The lake's Parquet files as DataFusion reads them: checked before they are used, counted, and left out when damaged.
//!
//! A file is looked at twice. Its metadata is read when a statement is planned; a file that is cut short, empty or not
//! this table's is named and left out there. What metadata can't show (a page that was overwritten) ends the statement
//! with an error; then [`Files::find_damaged`] decodes the files that were opened, and whoever runs the statement runs it
//! again without them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use arrow::datatypes::{DataType, SchemaRef};
use bytes::Bytes;
use datafusion::{
    datasource::{listing::PartitionedFile, physical_plan::ParquetFileReaderFactory},
    physical_plan::metrics::ExecutionPlanMetricsSet,
};
use futures::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use parquet::{
    arrow::{
        ParquetRecordBatchStreamBuilder, arrow_reader::ArrowReaderOptions, async_reader::AsyncFileReader,
        parquet_to_arrow_schema,
    },
    errors::ParquetError,
    file::metadata::ParquetMetaData,
};

use crate::lake::{Store, StoreError, landing, layout, store::S3Error};

/// How many files are looked at at the same time.
const AT_ONCE: usize = 32;

/// How many bytes of metadata are kept; beyond that it is read again.
const METADATA_BUDGET: usize = 64 * 1024 * 1024;

/// A file of one of the lake's tables.
#[derive(Debug, Clone)]
pub(super) struct LakeFile {
    pub key: Path,
    pub bytes: u64,
    /// The day in which it is stored, for closed days.
    pub dt: Option<String>,
    /// The least and greatest time of its rows, where the state says.
    pub times_ms: Option<(i64, i64)>,
}

/// What is known of the files, shared by all tables and statements of one engine. Keys are never written twice, so what
/// was once learned of one stays true.
#[derive(Debug)]
pub(super) struct Files {
    store: Store,
    bytes: AtomicU64,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    metadata: BTreeMap<Path, Arc<ParquetMetaData>>,
    metadata_bytes: usize,
    /// Files that are left out, and why.
    damaged: BTreeMap<Path, String>,
    /// Files that were not there.
    missing: BTreeSet<Path>,
    /// Files that statements have opened.
    opened: BTreeMap<Path, u64>,
    warnings: Vec<String>,
}

impl Files {
    pub(super) fn new(store: Store) -> Files {
        Files { store, bytes: AtomicU64::new(0), known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing here is left half-changed by a panic.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn bytes_scanned(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.known().warnings)
    }

    /// Whether a file was not there that should have been: the lake may have moved on.
    pub(super) fn any_missing(&self) -> bool {
        !self.known().missing.is_empty()
    }

    /// Forgets what was missing: the lake is looked at anew.
    pub(super) fn forget_missing(&self) {
        self.known().missing.clear();
    }

    /// Leaves out what is missing although the lake was looked at anew.
    pub(super) fn leave_out_missing(&self) {
        let missing = std::mem::take(&mut self.known().missing);
        missing.into_iter().for_each(|key| self.leave_out(&key, "it is not there".to_owned()));
    }

    fn leave_out(&self, key: &Path, what: String) {
        let mut known = self.known();
        if known.damaged.insert(key.clone(), what.clone()).is_none() {
            known.warnings.push(format!("left out `{key}`: {what}"));
        }
    }

    /// Leaves out files without a warning of its own.
    pub(super) fn leave_out_unsaid(&self, keys: &[Path]) {
        let mut known = self.known();
        keys.iter().for_each(|key| drop(known.damaged.insert(key.clone(), "it is archived".to_owned())));
    }

    /// Those of `files` that are whole and have this table's columns, with their rows.
    pub(super) async fn check(
        &self,
        files: Vec<LakeFile>,
        schema: &SchemaRef,
    ) -> Result<Vec<(LakeFile, u64)>, StoreError> {
        let checks = files.into_iter().map(|file| async move {
            let rows = self.rows_if_whole(&file, schema).await?;
            Ok::<_, StoreError>(rows.map(|rows| (file, rows)))
        });
        stream::iter(checks).buffered(AT_ONCE).try_filter_map(async |whole| Ok(whole)).try_collect().await
    }

    async fn rows_if_whole(&self, file: &LakeFile, schema: &SchemaRef) -> Result<Option<u64>, StoreError> {
        if self.known().damaged.contains_key(&file.key) {
            return Ok(None);
        }
        let rows = |metadata: &ParquetMetaData| u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(0);
        if let Some(metadata) = self.known().metadata.get(&file.key) {
            return Ok(Some(rows(metadata)));
        }
        match self.metadata(&file.key).await {
            Ok(metadata) => match what_is_wrong(&file.key, &metadata, schema) {
                None => Ok(Some(rows(&metadata))),
                Some(what) => {
                    self.leave_out(&file.key, what);
                    Ok(None)
                }
            },
            Err(StoreError::Damaged { what, .. }) => {
                self.leave_out(&file.key, what);
                Ok(None)
            }
            Err(error) => {
                if error.is_not_found() {
                    self.known().missing.insert(file.key.clone());
                }
                Err(error)
            }
        }
    }

    async fn metadata(&self, key: &Path) -> Result<Arc<ParquetMetaData>, StoreError> {
        if let Some(metadata) = self.known().metadata.get(key) {
            return Ok(Arc::clone(metadata));
        }
        // Bytes that are no Parquet can make the parser panic; that is damage too.
        let read = AssertUnwindSafe(self.store.parquet_metadata(key)).catch_unwind().await;
        let metadata = Arc::new(read.unwrap_or_else(|_| {
            Err(StoreError::Damaged { key: key.clone(), what: "its metadata can't be read".to_owned() })
        })?);
        let mut known = self.known();
        known.metadata_bytes += metadata.memory_size();
        if known.metadata_bytes > METADATA_BUDGET {
            known.metadata.clear();
            known.metadata_bytes = metadata.memory_size();
        }
        known.metadata.insert(key.clone(), Arc::clone(&metadata));
        Ok(metadata)
    }

    /// Decodes every file that statements have opened, leaves out those that can't be decoded, and names them.
    pub(super) async fn find_damaged(self: &Arc<Self>) -> Result<Vec<String>, StoreError> {
        let opened: Vec<_> = self.known().opened.clone().into_iter().collect();
        let mut found = Vec::new();
        for (key, bytes) in opened {
            if self.known().damaged.contains_key(&key) {
                continue;
            }
            if let Some(what) = self.decode(&key, bytes).await? {
                found.push(format!("`{key}` is damaged: {what}"));
                self.leave_out(&key, what);
            }
        }
        Ok(found)
    }

    /// Reads a whole file; what is wrong with it, where anything is.
    async fn decode(self: &Arc<Self>, key: &Path, bytes: u64) -> Result<Option<String>, StoreError> {
        let reader = Reader::new(Arc::clone(self), key.clone(), bytes);
        let read_all = async {
            let mut batches = ParquetRecordBatchStreamBuilder::new(reader).await?.build()?;
            while let Some(batch) = batches.next().await {
                batch?;
            }
            Ok::<(), ParquetError>(())
        };
        match AssertUnwindSafe(read_all).catch_unwind().await {
            Ok(Ok(())) => Ok(None),
            // The store's fault, not the file's.
            Ok(Err(error)) if S3Error::within(&error).is_some() => Err(StoreError::of_parquet(key, error)),
            Ok(Err(ParquetError::External(error))) => match self.store.tail(key, 0).await {
                Ok((_, there)) if there == bytes => Ok(Some(error.to_string())),
                Ok((_, there)) => Ok(Some(format!("it has {there} bytes, {bytes} were written"))),
                Err(error) if error.is_not_found() => {
                    self.known().missing.insert(key.clone());
                    Ok(None)
                }
                Err(error) => Err(error),
            },
            Ok(Err(error)) => Ok(Some(super::hint::tidy(&error.to_string()))),
            Err(_) => Ok(Some("its pages can't be decoded".to_owned())),
        }
    }
}

/// What keeps a file from being one of a table's, by its metadata.
fn what_is_wrong(key: &Path, metadata: &ParquetMetaData, table: &SchemaRef) -> Option<String> {
    let file = metadata.file_metadata();
    let schema = match parquet_to_arrow_schema(file.schema_descr(), file.key_value_metadata()) {
        Ok(schema) => schema,
        Err(e) => return Some(super::hint::tidy(&e.to_string())),
    };
    for field in table.fields() {
        match schema.field_with_name(field.name()) {
            Err(_) => return Some(format!("it is not a file of this table: it has no column `{}`", field.name())),
            Ok(there) if !same_kind(there.data_type(), field.data_type()) => {
                let (name, there) = (field.name(), there.data_type());
                return Some(format!("it is not a file of this table: its column `{name}` is {there}"));
            }
            Ok(_) => {}
        }
    }
    if !key.as_ref().starts_with(layout::LANDING) {
        return None;
    }
    let footer = match landing::Footer::read(file) {
        Ok(footer) => footer,
        Err(what) => return Some(what),
    };
    let named = layout::parse_slice(key);
    if named != Some((footer.chain, footer.partition, footer.first)) {
        return Some("its footer belongs to another file".to_owned());
    }
    let counted = footer.readings + footer.dead;
    let rows = u64::try_from(file.num_rows()).unwrap_or(0);
    (counted != rows).then(|| format!("its footer counts {counted} rows, it has {rows}"))
}

/// Whether values of one type can be read as the other without changing what they say.
fn same_kind(a: &DataType, b: &DataType) -> bool {
    use DataType::{Binary, BinaryView, Boolean, Dictionary, LargeBinary, LargeUtf8, Timestamp, Utf8, Utf8View};
    match (a, b) {
        (Dictionary(_, a), b) => same_kind(a, b),
        (Utf8 | LargeUtf8 | Utf8View, Utf8) => true,
        (Binary | LargeBinary | BinaryView, Binary) => true,
        (Timestamp(..), Timestamp(..)) | (Boolean, Boolean) => true,
        (a, b) if b.is_integer() => a.is_integer(),
        (a, b) if b.is_floating() => a.is_floating(),
        _ => false,
    }
}

/// Hands DataFusion a reader for each file that it opens.
#[derive(Debug)]
pub(super) struct Readers(pub(super) Arc<Files>);

impl ParquetFileReaderFactory for Readers {
    fn create_reader(
        &self,
        _partition: usize,
        file: PartitionedFile,
        _metadata_size_hint: Option<usize>,
        _metrics: &ExecutionPlanMetricsSet,
    ) -> datafusion::error::Result<Box<dyn AsyncFileReader + Send>> {
        let (key, bytes) = (file.object_meta.location, file.object_meta.size);
        let files = Arc::clone(&self.0);
        files.known().opened.insert(key.clone(), bytes);
        Ok(Box::new(Reader::new(files, key, bytes)))
    }
}

/// Reads one file: the bytes are counted, the metadata comes from what was learned when it was checked.
struct Reader {
    key: Path,
    bytes: u64,
    objects: Arc<dyn ObjectStore>,
    files: Arc<Files>,
}

impl Reader {
    fn new(files: Arc<Files>, key: Path, bytes: u64) -> Reader {
        Reader { key, bytes, objects: files.store.objects(), files }
    }

    /// Counts what is about to be read, and refuses what the file can't have: damaged metadata may ask for exabytes.
    fn count(&self, ranges: &[Range<u64>]) -> Result<(), ParquetError> {
        if ranges.iter().any(|range| range.end > self.bytes || range.start > range.end) {
            return Err(ParquetError::General("its pages are said to lie outside of it".to_owned()));
        }
        let length = ranges.iter().map(|range| range.end - range.start).sum();
        self.files.bytes.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }

    fn note<T>(&self, read: Result<T, object_store::Error>) -> Result<T, ParquetError> {
        if matches!(read, Err(object_store::Error::NotFound { .. })) {
            self.files.known().missing.insert(self.key.clone());
        }
        read.map_err(|error| ParquetError::External(Box::new(error)))
    }
}

impl AsyncFileReader for Reader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move {
            self.count(std::slice::from_ref(&range))?;
            self.note(self.objects.get_range(&self.key, range).await)
        }
        .boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move {
            self.count(&ranges)?;
            self.note(self.objects.get_ranges(&self.key, &ranges).await)
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            self.files.metadata(&self.key).await.map_err(|error| {
                if error.is_not_found() {
                    self.files.known().missing.insert(self.key.clone());
                }
                ParquetError::External(Box::new(error))
            })
        }
        .boxed()
    }
}
