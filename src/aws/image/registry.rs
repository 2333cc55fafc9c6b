//! The protocol of registries, as far as one image needs it.
//!
//! There is the crate `oci-client`. It is not used: it brings a second HTTP stack (reqwest 0.13 beside the 0.12 that the
//! lake on S3 uses already) and some twenty crates for kinds of artifacts that are not ours, and what makes up most of this
//! file would have to be written around it all the same: trying again, skipping what is there, progress, and passwords
//! that never reach another host.
//!
//! A layer is sent as Docker does it: an upload is opened (POST), takes all of the content at once (PATCH), and is closed
//! with the digest (PUT). Registries in use all take that; not all take content with the POST or the PUT.

use std::{
    fs::File,
    io::Write,
    path::Path,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use reqwest::{
    Body, Client, Method, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION, WWW_AUTHENTICATE},
};
use tokio::io::AsyncReadExt;

use super::{Auth, Blob, Summing, digest_of, is_digest, manifest, reference::is_loopback};

/// Waits between tries of something that may pass.
const WAITS_MS: [u64; 5] = if cfg!(test) { [1; 5] } else { [500, 1_000, 2_000, 4_000, 8_000] };

/// How long a registry may be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// Forms of manifests that are understood; the last two are lists of images by processor.
pub const MANIFESTS: [&str; 4] = [
    manifest::MANIFEST,
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.index.v1+json",
];

/// What went wrong between a registry and us.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("can't reach the registry {host}: {why}")]
    Unreachable { host: String, why: String },
    /// It takes others, or nobody, for this.
    #[error("{host} refuses {doing}{said}\nhint: {}", hint_of(host))]
    Refused { host: String, doing: String, said: String },
    #[error("{host} has no {what}{said}")]
    NotThere { host: String, what: String, said: String },
    #[error("{host} answers {status} to {doing}{said}")]
    Answer { host: String, doing: String, status: u16, said: String },
    #[error("{host} sends something else than was asked for: {what}")]
    Content { host: String, what: String },
    #[error("can't use the file `{path}`: {error}")]
    File { path: String, error: std::io::Error },
}

fn hint_of(host: &str) -> &'static str {
    match super::auth::ecr_region(host) {
        Some(_) => {
            "pushing needs ecr:BatchCheckLayerAvailability, InitiateLayerUpload, UploadLayerPart, CompleteLayerUpload, \
             PutImage and BatchGetImage on the repository"
        }
        None => {
            "set VITALS_REGISTRY_USER, and VITALS_REGISTRY_PASSWORD or VITALS_REGISTRY_PASSWORD_FILE, for a registry that is \
             pushed to; else `auths` in ~/.docker/config.json is read"
        }
    }
}

impl RegistryError {
    /// Whether it may go well a moment later.
    fn passes(&self) -> bool {
        match self {
            RegistryError::Unreachable { .. } | RegistryError::Content { .. } => true,
            RegistryError::Answer { status, .. } => matches!(status, 408 | 429 | 500..),
            _ => false,
        }
    }
}

/// One repository of a registry.
pub struct Registry {
    http: Client,
    host: String,
    repository: String,
    base: Url,
    auth: Auth,
    /// What may be done, for registries that give tokens for it.
    actions: &'static str,
    authorization: Mutex<Option<HeaderValue>>,
}

impl Registry {
    /// A repository to pull from; nothing is sent yet.
    ///
    /// # Errors
    /// Where the host is none.
    pub fn to_pull(host: &str, repository: &str, auth: Auth) -> anyhow::Result<Registry> {
        Registry::new(host, repository, auth, "pull")
    }

    /// A repository to push to; nothing is sent yet.
    ///
    /// # Errors
    /// Where the host is none.
    pub fn to_push(host: &str, repository: &str, auth: Auth) -> anyhow::Result<Registry> {
        Registry::new(host, repository, auth, "pull,push")
    }

    fn new(host: &str, repository: &str, auth: Auth, actions: &'static str) -> anyhow::Result<Registry> {
        let here = is_loopback(host);
        let mut http = Client::builder()
            .user_agent(concat!("vitals/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(SILENCE);
        if here {
            http = http.no_proxy();
        }
        let base = Url::parse(&format!("{}://{host}/v2/{repository}/", if here { "http" } else { "https" }))?;
        Ok(Registry {
            http: http.build()?,
            host: host.to_owned(),
            repository: repository.to_owned(),
            base,
            auth,
            actions,
            authorization: Mutex::default(),
        })
    }

    /// The digest of the image under a tag; `None` where there is none.
    pub async fn digest_under(&self, tag: &str) -> Result<Option<String>, RegistryError> {
        let doing = format!("looking for the tag {tag}");
        let url = self.at(&format!("manifests/{tag}"))?;
        let head = || self.http.head(url.clone()).header(ACCEPT, MANIFESTS.join(","));
        let answer = match patiently(|| self.ask(&doing, "", &url, head)).await {
            Err(RegistryError::NotThere { .. }) => return Ok(None),
            answer => answer?,
        };
        let digest = answer.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        match digest {
            Some(digest) => Ok(Some(digest.to_owned())),
            None => self.manifest(tag).await.map(|(_, bytes)| Some(digest_of(&bytes))),
        }
    }

    /// A manifest, with its form, by tag or digest.
    pub async fn manifest(&self, version: &str) -> Result<(String, Bytes), RegistryError> {
        let what = format!("image {}:{version}", self.repository);
        let url = self.at(&format!("manifests/{version}"))?;
        patiently(async || {
            let get = || self.http.get(url.clone()).header(ACCEPT, MANIFESTS.join(","));
            let answer = self.ask("reading a manifest", &what, &url, get).await?;
            let form = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let form = form.split(';').next().unwrap_or_default().trim().to_owned();
            let bytes = answer.bytes().await.map_err(|e| self.unreachable(&e))?;
            if is_digest(version) && digest_of(&bytes) != version {
                return Err(self.something_else(&what));
            }
            Ok((form, bytes))
        })
        .await
    }

    /// Puts a manifest under a tag; gives the digest that the registry has for it.
    pub async fn put_manifest(&self, tag: &str, bytes: Vec<u8>) -> Result<String, RegistryError> {
        let doing = format!("the manifest under the tag {tag}");
        let url = self.at(&format!("manifests/{tag}"))?;
        let put = || self.http.put(url.clone()).header(CONTENT_TYPE, manifest::MANIFEST).body(bytes.clone());
        let answer = patiently(|| self.ask(&doing, "such repository", &url, put)).await?;
        let digest = answer.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        Ok(digest.map_or_else(|| digest_of(&bytes), str::to_owned))
    }

    /// Whether a blob is there.
    pub async fn has(&self, blob: &Blob) -> Result<bool, RegistryError> {
        let doing = format!("looking for the layer {}", blob.digest);
        let url = self.at(&format!("blobs/{}", blob.digest))?;
        match patiently(|| self.ask(&doing, "", &url, || self.http.head(url.clone()))).await {
            Ok(_) => Ok(true),
            Err(RegistryError::NotThere { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends a blob; what has been sent is added to `sent`, and taken off it where it has to be sent again.
    pub async fn send(&self, blob: &Blob, sent: &Arc<AtomicU64>) -> Result<(), RegistryError> {
        let before = sent.load(Relaxed);
        patiently(async || {
            sent.store(before, Relaxed);
            self.send_once(blob, sent).await
        })
        .await
    }

    async fn send_once(&self, blob: &Blob, sent: &Arc<AtomicU64>) -> Result<(), RegistryError> {
        let doing = format!("the layer {}", blob.digest);
        let repository = format!("repository `{}`", self.repository);
        let url = self.at("blobs/uploads/")?;
        let post = || self.http.post(url.clone()).header(CONTENT_LENGTH, 0);
        let opened = self.ask(&doing, &repository, &url, post).await?;
        let place = self.place_in(&opened)?;
        let file = tokio::fs::File::open(&blob.path).await.map_err(|error| file_error(&blob.path, error))?;
        let patch = self
            .http
            .patch(place.clone())
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, blob.size)
            .body(Body::wrap_stream(content(file, Arc::clone(sent))));
        let taken = self.fine(self.go(patch, &place).await?, &doing, &repository).await?;
        let mut close = self.place_in(&taken)?;
        close.query_pairs_mut().append_pair("digest", &blob.digest);
        // A token may have ended while the content was on its way.
        let put = || self.http.put(close.clone()).header(CONTENT_LENGTH, 0);
        self.ask(&doing, &repository, &close, put).await.map(drop)
    }

    /// Fetches a blob into a file.
    pub async fn fetch(&self, digest: &str, to: &Path) -> Result<u64, RegistryError> {
        let what = format!("layer {digest}");
        let url = self.at(&format!("blobs/{digest}"))?;
        patiently(async || {
            let answer = self.ask("reading a layer", &what, &url, || self.http.get(url.clone())).await?;
            let mut file = Summing::new(File::create(to).map_err(|error| file_error(to, error))?);
            let mut pieces = pin!(answer.bytes_stream());
            while let Some(piece) = pieces.try_next().await.map_err(|e| self.unreachable(&e))? {
                file.write_all(&piece).map_err(|error| file_error(to, error))?;
            }
            let (_, found, size) = file.finish();
            if found == digest { Ok(size) } else { Err(self.something_else(&what)) }
        })
        .await
    }

    fn at(&self, path: &str) -> Result<Url, RegistryError> {
        self.base.join(path).map_err(|e| RegistryError::Content { host: self.host.clone(), what: e.to_string() })
    }

    /// Where an upload goes on.
    fn place_in(&self, answer: &Response) -> Result<Url, RegistryError> {
        let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let place = location.and_then(|location| answer.url().join(location).ok());
        place.ok_or_else(|| self.something_else("the place of an upload"))
    }

    /// One request with an empty or small body, and, where the registry wants to know who asks, once more. `doing` and `what`
    /// are what a refusal is about, and what is not there.
    async fn ask(
        &self,
        doing: &str,
        what: &str,
        to: &Url,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Response, RegistryError> {
        let mut answer = self.go(request(), to).await?;
        // Nobody else is told who we are, however they ask.
        if answer.status() == StatusCode::UNAUTHORIZED && to.origin() == self.base.origin() {
            let challenge = answer.headers().get_all(WWW_AUTHENTICATE).iter().find_map(Challenge::parse);
            if let Some(challenge) = challenge
                && self.authorise(doing, &challenge).await?
            {
                answer = self.go(request(), to).await?;
            }
        }
        self.fine(answer, doing, what).await
    }

    /// Sends a request. Who we are is said to the registry only, not to a store that it refers to.
    async fn go(&self, request: RequestBuilder, to: &Url) -> Result<Response, RegistryError> {
        let known = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let request = match known {
            Some(known) if to.origin() == self.base.origin() => request.header(AUTHORIZATION, known),
            _ => request,
        };
        request.send().await.map_err(|e| self.unreachable(&e))
    }

    /// Does what a challenge asks for; false where there is nothing more to say.
    async fn authorise(&self, doing: &str, challenge: &Challenge) -> Result<bool, RegistryError> {
        let basic = match &self.auth {
            Auth::Anonymous => None,
            Auth::Password { user, password } => {
                Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
            }
        };
        let authorization = match challenge {
            Challenge::Basic => basic,
            Challenge::Bearer { realm, service } => Some(self.token(doing, realm, service, basic).await?),
        };
        let Some(mut authorization) = authorization.and_then(|text| HeaderValue::from_str(&text).ok()) else {
            return Ok(false);
        };
        authorization.set_sensitive(true);
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(authorization);
        Ok(true)
    }

    /// A token from where the registry says that they are given out.
    async fn token(
        &self,
        doing: &str,
        realm: &str,
        service: &str,
        basic: Option<String>,
    ) -> Result<String, RegistryError> {
        let strange = || self.something_else("the place where tokens are given out");
        let mut url = Url::parse(realm).map_err(|_| strange())?;
        // Neither a password nor a token goes over the network in clear.
        let here = url.host_str().is_some_and(is_loopback);
        if !(url.scheme() == "https" || here && url.scheme() == "http") {
            return Err(strange());
        }
        let scope = format!("repository:{}:{}", self.repository, self.actions);
        url.query_pairs_mut().append_pair("service", service).append_pair("scope", &scope);
        let mut request = self.http.request(Method::GET, url);
        if let Some(basic) = basic {
            request = request.header(AUTHORIZATION, basic);
        }
        let answer = request.send().await.map_err(|e| self.unreachable(&e))?;
        let answer = self.fine(answer, doing, "token for this").await?;
        let body = answer.bytes().await.map_err(|e| self.unreachable(&e))?;
        let body: serde_json::Value = serde_json::from_slice(&body).map_err(|_| strange())?;
        let token = ["token", "access_token"].iter().find_map(|name| body[*name].as_str());
        token.map(|token| format!("Bearer {token}")).ok_or_else(strange)
    }

    /// An answer that is none of an error.
    async fn fine(&self, answer: Response, doing: &str, what: &str) -> Result<Response, RegistryError> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let said = said(&answer.bytes().await.unwrap_or_default());
        let (host, doing) = (self.host.clone(), doing.to_owned());
        Err(match status.as_u16() {
            401 | 403 => RegistryError::Refused { host, doing, said },
            404 => RegistryError::NotThere { host, what: what.to_owned(), said },
            status => RegistryError::Answer { host, doing, status, said },
        })
    }

    fn unreachable(&self, error: &reqwest::Error) -> RegistryError {
        // The address may have a signature in it.
        let mut why = String::new();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            why = error.to_string();
            cause = error.source();
        }
        if why.is_empty() {
            why = if error.is_timeout() { "it does not answer".to_owned() } else { "the connection broke".to_owned() };
        }
        RegistryError::Unreachable { host: self.host.clone(), why }
    }

    fn something_else(&self, what: &str) -> RegistryError {
        RegistryError::Content { host: self.host.clone(), what: what.to_owned() }
    }
}

/// Tries again for a while what may go well then.
async fn patiently<T>(attempt: impl AsyncFn() -> Result<T, RegistryError>) -> Result<T, RegistryError> {
    for wait in WAITS_MS {
        match attempt().await {
            Err(error) if error.passes() => tracing::warn!("{error}; trying again in {wait} ms"),
            other => return other,
        }
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }
    attempt().await
}

/// The content of a file in pieces, which are counted.
fn content(file: tokio::fs::File, sent: Arc<AtomicU64>) -> impl Stream<Item = std::io::Result<Bytes>> {
    futures::stream::try_unfold(file, move |mut file| {
        let sent = Arc::clone(&sent);
        async move {
            let mut piece = vec![0; 64 * 1024];
            let length = file.read(&mut piece).await?;
            piece.truncate(length);
            sent.fetch_add(length as u64, Relaxed);
            Ok((length > 0).then(|| (Bytes::from(piece), file)))
        }
    })
}

fn file_error(path: &Path, error: std::io::Error) -> RegistryError {
    RegistryError::File { path: path.display().to_string(), error }
}

/// What a registry says of an error, behind a colon: `{"errors": [{"code", "message"}]}`.
fn said(body: &[u8]) -> String {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| body["errors"][0][name].as_str().unwrap_or_default().trim().to_owned();
    match (text("message"), text("code")) {
        (message, code) if message.is_empty() && code.is_empty() => String::new(),
        (message, code) if code.is_empty() => format!(": {message}"),
        (message, code) if message.is_empty() => format!(": {code}"),
        (message, code) => format!(": {message} ({code})"),
    }
}

/// How a registry wants to be told who asks.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: String },
}

impl Challenge {
    fn parse(header: &HeaderValue) -> Option<Challenge> {
        let (scheme, rest) = header.to_str().ok()?.trim().split_once(' ')?;
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        // `name="value"` and commas between; there are commas in the values too.
        let value = |name: &str| {
            let (_, after) = rest.split_once(&format!("{name}=\""))?;
            after.split_once('"').map(|(value, _)| value.to_owned())
        };
        Some(Challenge::Bearer { realm: value("realm")?, service: value("service").unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests;
