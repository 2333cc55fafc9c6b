//! The chain of a partition: slices that follow each other without hole or overlap.
//!
//! A slice holds the outcome of every record of offsets `[first, next)` and is written by one create-only PUT under
//! `first`, which is always the `next` of the slice before. So creation is a compare-and-swap on the chain's head: of two
//! workers that hold the same partition one finds its key taken, reads there how far the other came, drops what is
//! stored, and goes on from there. Nothing else decides what is stored.
//!
//! What a slice covers stands in its footer ([`Footer`]), in the file's key-value metadata.

use bytes::Bytes;
use object_store::path::Path;
use parquet::file::metadata::{FileMetaData, KeyValue};

use super::{
    layout,
    store::{Created, Store, StoreError},
};

/// The version of the landing files' format.
pub const FORMAT: u32 = 1;

/// Why a link of the chain is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Records were read.
    Slice,
    /// The first link, always under key 0 and without rows: the log starts at `next`.
    Start,
    /// The log no longer holds `[first, next)`: those records were lost before they could be read.
    Gap,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Kind::Slice => "slice",
            Kind::Start => "start",
            Kind::Gap => "gap",
        }
    }
}

/// What a landing file says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footer {
    pub format: u32,
    pub chain: String,
    pub partition: i32,
    /// The first offset that it covers; also its name.
    pub first: i64,
    /// The first offset that it no longer covers; the next file's name.
    pub next: i64,
    /// The offset of its last record, where it has one.
    pub last_offset: Option<i64>,
    /// The arrival time of its last record, milliseconds since 1970 UTC.
    pub last_arrived_ms: Option<i64>,
    /// What the log says of that; another time only where a producer's clock was ahead or a broker's went back.
    pub last_stamped_ms: Option<i64>,
    /// How many partitions the log had, where that is known.
    pub partitions: Option<i32>,
    /// Records that had no key, so that nothing but their payload says whose they are.
    pub keyless: u64,
    /// Rows that are readings.
    pub readings: u64,
    /// Rows that are dead letters.
    pub dead: u64,
    /// Who wrote it: a worker knows its own file by this when an answer was lost.
    pub writer: String,
    pub kind: Kind,
}

impl Footer {
    /// A link without rows.
    pub fn empty(kind: Kind, chain: &str, partition: i32, first: i64, next: i64, writer: &str) -> Footer {
        Footer {
            format: FORMAT,
            chain: chain.to_owned(),
            partition,
            first,
            next,
            last_offset: None,
            last_arrived_ms: None,
            last_stamped_ms: None,
            partitions: None,
            keyless: 0,
            readings: 0,
            dead: 0,
            writer: writer.to_owned(),
            kind,
        }
    }

    /// As the key-value metadata of a Parquet file.
    pub fn key_values(&self) -> Vec<KeyValue> {
        let mut pairs = vec![
            ("vitals.format", self.format.to_string()),
            ("vitals.kind", self.kind.name().to_owned()),
            ("vitals.chain", self.chain.clone()),
            ("vitals.partition", self.partition.to_string()),
            ("vitals.first", self.first.to_string()),
            ("vitals.next", self.next.to_string()),
            ("vitals.readings", self.readings.to_string()),
            ("vitals.dead", self.dead.to_string()),
            ("vitals.writer", self.writer.clone()),
        ];
        pairs.extend(self.last_offset.map(|offset| ("vitals.last_offset", offset.to_string())));
        pairs.extend(self.last_arrived_ms.map(|at| ("vitals.last_arrived_ms", at.to_string())));
        let stamped = self.last_stamped_ms.filter(|_| self.last_stamped_ms != self.last_arrived_ms);
        pairs.extend(stamped.map(|at| ("vitals.last_stamped_ms", at.to_string())));
        pairs.extend(self.partitions.map(|count| ("vitals.partitions", count.to_string())));
        pairs.extend((self.keyless > 0).then(|| ("vitals.keyless", self.keyless.to_string())));
        pairs.into_iter().map(|(key, value)| KeyValue::new(key.to_owned(), value)).collect()
    }

    /// Its last record: the offset, when it arrived, and what the log says of that.
    pub fn last(&self) -> Option<(i64, i64, i64)> {
        Some((self.last_offset?, self.last_arrived_ms?, self.last_stamped_ms?))
    }

    /// Whether it does not say in which order a device's records came: without a key they can be in any partition.
    pub fn lacks_order(&self) -> bool {
        self.keyless > 0 && self.partitions.is_none_or(|count| count > 1)
    }

    /// From a Parquet file's metadata; the error says what is missing or wrong.
    pub fn read(file: &FileMetaData) -> Result<Footer, String> {
        let pairs = file.key_value_metadata().ok_or("it has no vitals footer")?;
        let find = |key: &str| pairs.iter().find(|kv| kv.key == key).and_then(|kv| kv.value.as_deref());
        let text = |key: &str| find(key).ok_or_else(|| format!("its footer lacks `{key}`"));
        fn number<T: std::str::FromStr>(key: &str, text: &str) -> Result<T, String> {
            text.parse().map_err(|_| format!("its footer has `{key}` = `{text}`"))
        }
        let format: u32 = number("vitals.format", text("vitals.format")?)?;
        if format != FORMAT {
            return Err(format!("it has format {format}, this program reads format {FORMAT}: use a newer one"));
        }
        let kind = match text("vitals.kind")? {
            "slice" => Kind::Slice,
            "start" => Kind::Start,
            "gap" => Kind::Gap,
            other => return Err(format!("its footer has `vitals.kind` = `{other}`")),
        };
        let optional = |key: &str| find(key).map(|text| number(key, text)).transpose();
        let last_arrived_ms = optional("vitals.last_arrived_ms")?;
        let footer = Footer {
            format,
            chain: text("vitals.chain")?.to_owned(),
            partition: number("vitals.partition", text("vitals.partition")?)?,
            first: number("vitals.first", text("vitals.first")?)?,
            next: number("vitals.next", text("vitals.next")?)?,
            last_offset: optional("vitals.last_offset")?,
            last_arrived_ms,
            last_stamped_ms: optional("vitals.last_stamped_ms")?.or(last_arrived_ms),
            partitions: find("vitals.partitions").map(|text| number("vitals.partitions", text)).transpose()?,
            keyless: find("vitals.keyless").map_or(Ok(0), |text| number("vitals.keyless", text))?,
            readings: number("vitals.readings", text("vitals.readings")?)?,
            dead: number("vitals.dead", text("vitals.dead")?)?,
            writer: text("vitals.writer")?.to_owned(),
            kind,
        };
        if footer.next < footer.first {
            return Err(format!("its footer says `next` {} < `first` {}", footer.next, footer.first));
        }
        Ok(footer)
    }
}

/// A landing or scored file by its key alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceFile {
    pub key: Path,
    pub bytes: u64,
    pub chain: String,
    pub partition: i32,
    pub first: i64,
}

/// Every slice file below a folder, by chain, partition and first offset. Other files are named in a warning.
pub async fn list(store: &Store, folder: &Path) -> Result<Vec<SliceFile>, StoreError> {
    let mut files = Vec::new();
    for entry in store.list(folder).await? {
        match layout::parse_slice(&entry.key) {
            Some((chain, partition, first)) => {
                files.push(SliceFile { key: entry.key, bytes: entry.bytes, chain, partition, first });
            }
            None => tracing::warn!("`{}` is not a file of this lake; it is ignored", entry.key),
        }
    }
    Ok(files)
}

/// The footer of the landing file at `key`.
pub async fn footer(store: &Store, key: &Path) -> Result<Footer, StoreError> {
    let metadata = store.parquet_metadata(key).await?;
    let damaged = |what| StoreError::Damaged { key: key.clone(), what };
    let footer = Footer::read(metadata.file_metadata()).map_err(damaged)?;
    match layout::parse_slice(key) {
        Some((chain, partition, first))
            if (chain.as_str(), partition, first) == (footer.chain.as_str(), footer.partition, footer.first) =>
        {
            Ok(footer)
        }
        _ => Err(damaged("its footer belongs to another file".to_owned())),
    }
}

/// The head of a partition's chain: the footer of its last file, `None` where there is no file yet.
pub async fn head(store: &Store, chain: &str, partition: i32) -> Result<Option<Footer>, StoreError> {
    let files = list(store, &layout::landing_partition(chain, partition)).await?;
    match files.last() {
        Some(last) => footer(store, &last.key).await.map(Some),
        None => Ok(None),
    }
}

/// The first link of a partition's chain.
pub async fn first(store: &Store, chain: &str, partition: i32) -> Result<Option<Footer>, StoreError> {
    match footer(store, &layout::landing_file(chain, partition, 0)).await {
        Ok(first) => Ok(Some(first)),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e),
    }
}

/// What came of writing a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// It is the chain's head now.
    Done,
    /// Another file is there.
    Taken(Footer),
}

/// Writes a link under `first`. A store that says "taken" where there is nothing (an S3 conflict) is asked again, a few
/// times.
pub async fn put(store: &Store, chain: &str, partition: i32, first: i64, file: Bytes) -> Result<Put, StoreError> {
    let key = layout::landing_file(chain, partition, first);
    let mut attempt = 0;
    loop {
        match store.create(&key, file.clone()).await? {
            Created::New => return Ok(Put::Done),
            Created::Taken => match footer(store, &key).await {
                Ok(there) => return Ok(Put::Taken(there)),
                Err(e) if e.is_not_found() && attempt < 5 => attempt += 1,
                Err(e) => return Err(e),
            },
        }
    }
}
