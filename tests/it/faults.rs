//! A store that fails as stores do: dies at a chosen write, loses an answer, says "taken" where nothing is.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing works any more from this write on (counted from 0): the process has died.
    DiesAt(i64),
    /// This write lands, but its answer is an error.
    LosesAnswerOf(i64),
    /// This write is answered "taken" although nothing is there.
    SaysTakenAt(i64),
}

/// A store in front of memory.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<InMemory>,
    fault: Fault,
    writes: AtomicI64,
}

impl Faulty {
    pub fn new(inner: Arc<InMemory>, fault: Fault) -> Arc<Faulty> {
        Arc::new(Faulty { inner, fault, writes: AtomicI64::new(0) })
    }

    /// How many writes were begun.
    pub fn writes(&self) -> i64 {
        self.writes.load(Ordering::SeqCst)
    }

    fn dead(&self) -> bool {
        matches!(self.fault, Fault::DiesAt(n) if self.writes() > n)
    }

    fn check(&self) -> Result<()> {
        if self.dead() { Err(broken()) } else { Ok(()) }
    }
}

fn broken() -> Error {
    Error::Generic { store: "faulty", source: "injected".into() }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let n = self.writes.fetch_add(1, Ordering::SeqCst);
        self.check()?;
        if self.fault == Fault::SaysTakenAt(n) {
            return Err(Error::AlreadyExists { path: location.to_string(), source: "injected".into() });
        }
        let put = self.inner.put_opts(location, payload, options).await?;
        if self.fault == Fault::LosesAnswerOf(n) { Err(broken()) } else { Ok(put) }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(broken())
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.check()?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        if self.dead() {
            futures::stream::once(async { Err(broken()) }).boxed()
        } else {
            self.inner.delete_stream(locations)
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if self.dead() { futures::stream::once(async { Err(broken()) }).boxed() } else { self.inner.list(prefix) }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.check()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.check()?;
        self.inner.copy_opts(from, to, options).await
    }
}

/// A copy of everything in a store.
pub async fn copy(from: &InMemory) -> Arc<InMemory> {
    use object_store::ObjectStoreExt;
    let to = Arc::new(InMemory::new());
    let mut listed = from.list(None);
    while let Some(meta) = listed.next().await {
        let key = meta.unwrap().location;
        let bytes = from.get(&key).await.unwrap().bytes().await.unwrap();
        to.put(&key, PutPayload::from_bytes(bytes)).await.unwrap();
    }
    to
}
