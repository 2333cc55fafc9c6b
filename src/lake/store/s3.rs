//! A prefix of a bucket: of S3, or of anything that speaks its protocol.
//!
//! What the lake relies on is there: a PUT with `If-None-Match: *` writes a whole object under a free key or nothing, what
//! is written is durable and seen by everybody at once, and listings come in the order of keys.
//!
//! Whatever goes wrong is put into words here, where it happens ([`S3Error`]), so that it reads the same however many
//! readers and engines it passes through.

use std::{
    fmt,
    future::Future,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use object_store::{
    BackoffConfig, Certificate, ClientOptions, CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload,
    ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut},
    path::Path,
    prefix::PrefixStore,
};

mod refusal;

use refusal::{Doing, Place};
pub use refusal::{Refusal, S3Error};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a request may take, with its answer; a longer answer goes on where it was cut off.
const REQUEST: Duration = Duration::from_secs(45);

/// How long a large object may take to be written: 256 MB at 4 Mbit/s.
const LARGE_REQUEST: Duration = Duration::from_secs(600);

/// What counts as large.
const LARGE: usize = 8 * 1024 * 1024;

/// How long a request is tried again. Services beyond this one try again themselves, for ever; a command gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often something is tried whose answer was lost or cut off, and the first pause, which doubles.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// The most keys that one request can delete.
const KEYS: usize = 1_000;

/// A bucket, seen from a prefix.
#[derive(Debug)]
pub(super) struct S3 {
    place: Place,
    objects: PrefixStore<AmazonS3>,
    /// The same, with more time for a request.
    large: PrefixStore<AmazonS3>,
}

impl S3 {
    /// A bucket and a prefix, with the region, endpoint and credentials that AWS's chain finds. Nothing is asked yet.
    pub(super) async fn open(bucket: &str, prefix: &Path) -> std::result::Result<S3, S3Error> {
        let endpoint = crate::aws::endpoint("S3").await;
        let mut place = Place { bucket: bucket.to_owned(), prefix: prefix.clone(), endpoint, region: String::new() };
        if let Some(endpoint) = place.endpoint.as_ref().filter(|url| !is_url(url)) {
            return Err(
                place.wrong(&format!("`{endpoint}` is no endpoint: AWS_ENDPOINT_URL_S3 is https://HOST[:PORT]"))
            );
        }
        place.region = match (crate::aws::region().await, &place.endpoint) {
            (Some(region), _) => region,
            // Stores of other makers seldom care.
            (None, Some(_)) => "us-east-1".to_owned(),
            (None, None) => return Err(place.no_region()),
        };
        let credentials = crate::aws::shared().await;
        let trusted = trusted().map_err(|e| place.wrong(&e))?;
        let client = |timeout| {
            let options = trusted.iter().cloned().fold(ClientOptions::new(), ClientOptions::with_root_certificate);
            let options = options
                .with_connect_timeout(CONNECT)
                .with_timeout(timeout)
                // Only where whoever set the endpoint says so himself.
                .with_allow_http(place.endpoint.as_ref().is_some_and(|url| url.starts_with("http://")));
            let builder = AmazonS3Builder::new()
                .with_bucket_name(bucket)
                .with_region(&place.region)
                .with_credentials(credentials.clone())
                .with_conditional_put(S3ConditionalPut::ETagMatch)
                .with_client_options(options)
                .with_retry(retries());
            let builder = match &place.endpoint {
                Some(url) => builder.with_endpoint(url),
                // A certificate for *.s3.<region>.amazonaws.com is none for a name with dots.
                None => builder.with_virtual_hosted_style_request(!bucket.contains('.')),
            };
            builder.build().map_err(|e| place.wrong(&e.to_string()))
        };
        Ok(S3 {
            objects: PrefixStore::new(client(REQUEST)?, prefix.clone()),
            large: PrefixStore::new(client(LARGE_REQUEST)?, prefix.clone()),
            place,
        })
    }

    /// Says what went wrong; "not there" and "taken" stay what they are.
    fn said(&self, doing: Doing, key: &Path, error: Error) -> Error {
        self.place.said(doing, key, error)
    }
}

/// The authorities that AWS's own variable names, beside those of the machine.
fn trusted() -> std::result::Result<Vec<Certificate>, String> {
    let Some(file) = std::env::var_os("AWS_CA_BUNDLE").filter(|file| !file.is_empty()) else { return Ok(Vec::new()) };
    let cant = |why: String| format!("can't use the certificates in AWS_CA_BUNDLE, {}: {why}", file.display());
    let pem = std::fs::read(&file).map_err(|e| cant(e.to_string()))?;
    Certificate::from_pem_bundle(&pem).map_err(|e| cant(e.to_string()))
}

fn is_url(text: &str) -> bool {
    text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).is_some_and(|host| !host.is_empty())
}

fn retries() -> RetryConfig {
    // AWS's own variable bounds the attempts where it is set; time bounds them otherwise.
    let attempts = std::env::var("AWS_MAX_ATTEMPTS").ok().and_then(|n| n.parse::<usize>().ok());
    RetryConfig {
        backoff: BackoffConfig { max_backoff: Duration::from_secs(10), ..BackoffConfig::default() },
        max_retries: attempts.map_or(1_000, |n| n.saturating_sub(1)),
        retry_timeout: PATIENCE,
    }
}

/// Who tries again, and for how long still. `object_store` does so for most of what goes wrong, but not where an answer is
/// cut off or does not come to a write: those of the lake can be repeated all the same.
struct Attempts {
    begun: Instant,
    tried: u32,
}

impl Attempts {
    fn new() -> Attempts {
        Attempts { begun: Instant::now(), tried: 0 }
    }

    /// Waits, if it may be tried again; else false.
    async fn again(&mut self) -> bool {
        self.tried += 1;
        if self.tried >= ATTEMPTS || self.begun.elapsed() > PATIENCE {
            return false;
        }
        tokio::time::sleep(PAUSE * 2_u32.pow(self.tried - 1)).await;
        true
    }
}

/// Does something again where its error is one that may not come again.
async fn repeated<T, F>(may_pass: fn(&Error) -> bool, mut attempt: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut attempts = Attempts::new();
    loop {
        match attempt().await {
            Err(error) if may_pass(&error) && attempts.again().await => {}
            outcome => return outcome,
        }
    }
}

/// A listing that goes on behind the last key it gave where an answer was cut off.
fn listing(objects: PrefixStore<AmazonS3>, prefix: Option<Path>) -> BoxStream<'static, Result<ObjectMeta>> {
    let begin = objects.list(prefix.as_ref());
    let state = (begin, None::<Path>, Attempts::new());
    stream::try_unfold(state, move |(mut listed, mut last, mut attempts)| {
        let (objects, prefix) = (objects.clone(), prefix.clone());
        async move {
            loop {
                match listed.try_next().await {
                    Ok(Some(meta)) => {
                        // Whatever comes is a new beginning.
                        (last, attempts) = (Some(meta.location.clone()), Attempts::new());
                        return Ok(Some((meta, (listed, last, attempts))));
                    }
                    Ok(None) => return Ok(None),
                    Err(error) if refusal::is_cut(&error) && attempts.again().await => {
                        listed = match &last {
                            Some(last) => objects.list_with_offset(prefix.as_ref(), last),
                            None => objects.list(prefix.as_ref()),
                        };
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    })
    .boxed()
}

/// Deletes what one request can, and once more what may not have been deleted.
async fn delete(objects: PrefixStore<AmazonS3>, keys: Vec<Path>) -> Result<Vec<Path>> {
    let keys = || keys.clone();
    repeated(refusal::is_cut, || async {
        objects.delete_stream(stream::iter(keys().into_iter().map(Ok)).boxed()).try_collect().await
    })
    .await
}

impl fmt::Display for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for S3 {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let client = if payload.content_length() > LARGE { &self.large } else { &self.objects };
        let create = options.mode == PutMode::Create;
        let write = || client.put_opts(location, payload.clone(), options.clone());
        // Where the first attempt was done after all, the next one finds the key taken: whoever creates knows its own.
        let outcome = if create { repeated(refusal::is_undecided, write).await } else { write().await };
        outcome.map_err(|e| self.said(Doing::Put, location, e))
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        // An object is written by one PUT: only that is create-only.
        Err(Error::NotImplemented { operation: "`put_multipart_opts`".into(), implementer: self.to_string() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let end =
            options.range.as_ref().and_then(|range| if let GetRange::Suffix(n) = range { Some(*n) } else { None });
        // What is cut off behind this is read on by `object_store`; an error's text is not.
        let got = repeated(refusal::is_cut, || self.objects.get_opts(location, options.clone())).await;
        let got = match (got, end) {
            // The end of an object that is shorter, empty above all, is no range of it for every store.
            (Err(error), Some(end)) if refusal::is_about_range(&error) => whole(&self.objects, location, end).await,
            (got, _) => got,
        };
        let GetResult { payload, meta, range, attributes } = got.map_err(|e| self.said(Doing::Get, location, e))?;
        let GetResultPayload::Stream(bytes) = payload else {
            return Err(Error::NotImplemented { operation: "files".into(), implementer: self.to_string() });
        };
        let (place, key) = (self.place.clone(), location.clone());
        let bytes = bytes.map_err(move |e| place.said(Doing::Get, &key, e)).boxed();
        Ok(GetResult { payload: GetResultPayload::Stream(bytes), meta, range, attributes })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (place, objects) = (self.place.clone(), self.objects.clone());
        let deleted = locations
            .try_chunks(KEYS)
            .map_err(|e| e.1)
            .and_then(move |keys| delete(objects.clone(), keys))
            .map_ok(|keys| stream::iter(keys.into_iter().map(Ok)))
            .try_flatten();
        deleted.map_err(move |e| place.said(Doing::Delete, &Path::default(), e)).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (place, key) = (self.place.clone(), prefix.cloned().unwrap_or_default());
        let listed = listing(self.objects.clone(), prefix.cloned());
        listed.map_err(move |e| place.said(Doing::List, &key, e)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let listed = repeated(refusal::is_cut, || self.objects.list_with_delimiter(prefix)).await;
        listed.map_err(|e| self.said(Doing::List, &prefix.cloned().unwrap_or_default(), e))
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.objects.copy_opts(from, to, options).await.map_err(|e| self.said(Doing::Put, to, e))
    }
}

/// A whole object of `at_most` so many bytes.
async fn whole(objects: &PrefixStore<AmazonS3>, location: &Path, at_most: u64) -> Result<GetResult> {
    let head = objects.get_opts(location, GetOptions { head: true, ..GetOptions::default() }).await?;
    match head.meta.size {
        0 => {
            let nothing = stream::empty::<Result<Bytes>>().boxed();
            Ok(GetResult { payload: GetResultPayload::Stream(nothing), range: 0..0, ..head })
        }
        size if size <= at_most => objects.get_opts(location, GetOptions::default()).await,
        _ => Err(Error::Generic { store: "S3", source: "it gives no part of this object".into() }),
    }
}
