//! A Parquet file of a store, read range by range.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use parquet::{
    arrow::{arrow_reader::ArrowReaderOptions, async_reader::AsyncFileReader},
    errors::{ParquetError, Result},
    file::metadata::{ParquetMetaData, ParquetMetaDataReader},
};

use super::Store;

/// How much of a file's end is read first to find its metadata.
const METADATA: usize = 64 * 1024;

/// One file, as Parquet's reader wants it.
pub struct ParquetFile {
    objects: Arc<dyn ObjectStore>,
    key: Path,
    bytes: u64,
}

impl ParquetFile {
    /// The file at `key`, which is `bytes` long.
    pub fn new(store: &Store, key: &Path, bytes: u64) -> ParquetFile {
        ParquetFile { objects: store.objects(), key: key.clone(), bytes }
    }
}

impl AsyncFileReader for ParquetFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        let read = async move { self.objects.get_range(&self.key, range).await };
        read.map(|read| read.map_err(|e| ParquetError::External(Box::new(e)))).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>>> {
        let read = async move { self.objects.get_ranges(&self.key, &ranges).await };
        read.map(|read| read.map_err(|e| ParquetError::External(Box::new(e)))).boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>>> {
        async move {
            let bytes = self.bytes;
            // One read instead of two: for most files more than all of it.
            let reader = ParquetMetaDataReader::new().with_prefetch_hint(Some(METADATA));
            let metadata = reader.load_and_finish(&mut *self, bytes).await?;
            Ok(Arc::new(metadata))
        }
        .boxed()
    }
}
