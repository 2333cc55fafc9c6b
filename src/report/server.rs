//! Serves the page, and newer data for it, over HTTP.
//!
//! | path | what |
//! |---|---|
//! | `/` | the page with data in it |
//! | `/data.json` | a report |
//! | `/device/<id>.json` | the series of one device |
//! | `/healthz` | `ok`, to anybody: the server is there |
//!
//! Nothing but GET and HEAD, no bodies, one request a connection. [`guard`](super::guard) has the rules of who may ask.
//! There is no TLS: where others can listen in, put something in front of it that has.

use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Incoming},
    header::{self, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

pub use super::guard::Access;
use super::{
    ReportOptions,
    data::{Data, Series},
    guard::{Entry, Guard},
    page::{Page, json},
    shared::{Outcome, Shared},
};
use crate::{
    lake::{self, Store},
    reading::valid_device_id,
};

/// The largest head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 8 * 1024;
/// How long the end of a server waits for answers that are under way.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// How long the server waits when the system has no room for another connection.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Headers of every answer, against what other pages could do with it.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (header::X_FRAME_OPTIONS, "DENY"),
];

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// What a server shows.
pub trait Source: Send + Sync + 'static {
    /// A report of now.
    fn data(&self) -> BoxFuture<'_, anyhow::Result<Data>>;

    /// The series of one device; `None` where there is none of this name.
    fn series<'a>(&'a self, device: &'a str) -> BoxFuture<'a, anyhow::Result<Option<Series>>>;
}

/// A lake, as it is whenever somebody asks.
pub struct LakeSource {
    store: Store,
    options: ReportOptions,
}

impl LakeSource {
    /// Shows the lake with these options, but for the time, which goes on.
    pub fn new(store: Store, options: ReportOptions) -> LakeSource {
        LakeSource { store, options }
    }

    fn options(&self) -> ReportOptions {
        ReportOptions { now_ms: lake::now_ms(), live: true, ..self.options.clone() }
    }
}

impl Source for LakeSource {
    fn data(&self) -> BoxFuture<'_, anyhow::Result<Data>> {
        async move { super::collect(&self.store, &self.options()).await }.boxed()
    }

    fn series<'a>(&'a self, device: &'a str) -> BoxFuture<'a, anyhow::Result<Option<Series>>> {
        async move { super::device_series(&self.store, &self.options(), device).await }.boxed()
    }
}

/// How much whoever asks may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many connections there are at once; others wait.
    pub connections: usize,
    /// How long a request may take to arrive.
    pub request: Duration,
    /// How long a connection may last.
    pub connection: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { connections: 64, request: Duration::from_secs(10), connection: Duration::from_secs(120) }
    }
}

/// A server that is about to run.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    limits: Limits,
    desk: Arc<Desk>,
}

/// What answers requests.
struct Desk {
    guard: Guard,
    source: Arc<dyn Source>,
    reports: Shared<Report>,
    devices: Shared<Option<Bytes>>,
}

/// A report in its two forms.
#[derive(Clone)]
struct Report {
    page: Bytes,
    json: Bytes,
}

type Answer = Response<Full<Bytes>>;

impl Server {
    /// A server on `listener`. Where that can be reached by others, `access` must have a token.
    pub fn new(listener: TcpListener, access: Access, source: impl Source) -> anyhow::Result<Server> {
        let address = listener.local_addr().context("asking where the report's server listens")?;
        let guard = Guard::new(address, access).context("serving the report")?;
        let desk = Desk { guard, source: Arc::new(source), reports: Shared::default(), devices: Shared::default() };
        Ok(Server { listener, address, limits: Limits::default(), desk: Arc::new(desk) })
    }

    /// With other limits than the usual ones.
    pub fn limits(mut self, limits: Limits) -> Server {
        self.limits = limits;
        self
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` turns true; answers under way have two more seconds.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let places = Arc::new(Semaphore::new(self.limits.connections));
        let mut connections = JoinSet::new();
        loop {
            let next = async {
                // The semaphore is never closed.
                let place = Arc::clone(&places).acquire_owned().await.ok();
                (place, self.listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                () = stopped(&mut stop) => break,
                next = next => next,
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (desk, limits, stop) = (Arc::clone(&self.desk), self.limits, stop.clone());
                    connections.spawn(async move {
                        serve(stream, desk, limits, stop).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!("the report's server can't take a connection: {error}");
                    sleep(ACCEPT_AGAIN).await;
                }
            }
        }
        drop(self.listener);
        let all = async { while connections.join_next().await.is_some() {} };
        // Dropping the set ends those that are left.
        let _ = timeout(STOP_WITHIN, all).await;
    }
}

/// Comes back when `stop` is true; never where nobody is left to turn it.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn serve(stream: TcpStream, desk: Arc<Desk>, limits: Limits, mut stop: watch::Receiver<bool>) {
    let service = service_fn(move |request| {
        let desk = Arc::clone(&desk);
        async move { Ok::<_, Infallible>(desk.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.request)
        .max_buf_size(MAX_HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let served = async {
        let mut connection = pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = stopped(&mut stop) => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    };
    match timeout(limits.connection, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("a connection to the report's server ended: {error}"),
        Err(_) => tracing::debug!("a connection to the report's server took too long"),
    }
}

impl Desk {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let mut answer = self.checked(request).await;
        for (name, value) in HEADERS {
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        // Other answers hold nothing that could run; the page's own policy allows its parts.
        let policy = HeaderValue::from_static(Page::served_csp());
        answer.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
        answer
    }

    async fn checked(&self, request: Request<Incoming>) -> Answer {
        let (uri, headers) = (request.uri(), request.headers());
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "this server knows GET and HEAD only\n");
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        if !self.guard.is_host(uri, headers) {
            let text = "this server is not known by that name: use its address, or list the name when it is started\n";
            return plain(StatusCode::MISDIRECTED_REQUEST, text);
        }
        if !request.body().is_end_stream() {
            return plain(StatusCode::PAYLOAD_TOO_LARGE, "this server takes no request with a body\n");
        }
        if uri.path() == "/healthz" {
            return plain(StatusCode::OK, "ok\n");
        }
        match self.guard.entry(uri, headers) {
            Entry::Open => self.page(uri.path()).await,
            Entry::ByAddress => self.let_in(),
            Entry::Closed => {
                let text = "a token is needed: open /?token=… once, or send `Authorization: Bearer …`\n";
                let mut answer = plain(StatusCode::UNAUTHORIZED, text);
                answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                answer
            }
        }
    }

    /// To the page, by an address that has no token in it, with a cookie.
    fn let_in(&self) -> Answer {
        let Ok(cookie) = HeaderValue::from_str(&self.guard.cookie()) else {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "the token can't be kept as a cookie\n");
        };
        let mut answer = plain(StatusCode::SEE_OTHER, "");
        answer.headers_mut().insert(header::SET_COOKIE, cookie);
        answer.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/"));
        answer
    }

    async fn page(&self, path: &str) -> Answer {
        match path {
            "/" => found(self.report().await.map(|report| Some(report.page)), "text/html; charset=utf-8"),
            "/data.json" => found(self.report().await.map(|report| Some(report.json)), JSON),
            "/favicon.ico" => plain(StatusCode::NO_CONTENT, ""),
            _ => match path.strip_prefix("/device/").and_then(|rest| rest.strip_suffix(".json")) {
                Some(device) if valid_device_id(device) => found(self.device(device).await, JSON),
                _ => found(Ok(None), TEXT),
            },
        }
    }

    async fn report(&self) -> Outcome<Report> {
        let source = Arc::clone(&self.source);
        let collect = move || {
            let collect = async move {
                let data = source.data().await?;
                Ok(Report { page: Page::served(&data)?.into(), json: json(&data)?.into() })
            };
            collect.boxed()
        };
        self.reports.get("", collect).await
    }

    async fn device(&self, device: &str) -> Outcome<Option<Bytes>> {
        let (source, name) = (Arc::clone(&self.source), device.to_owned());
        let collect = move || {
            let collect = async move {
                let series = source.series(&name).await?;
                series.map(|series| Ok(json(&series)?.into())).transpose()
            };
            collect.boxed()
        };
        self.devices.get(device, collect).await
    }
}

fn found(outcome: Outcome<Option<Bytes>>, kind: &'static str) -> Answer {
    match outcome {
        Ok(Some(bytes)) => with(StatusCode::OK, kind, bytes),
        Ok(None) => plain(StatusCode::NOT_FOUND, "there is nothing of this name\n"),
        Err(why) => {
            tracing::warn!("the report can't be served: {why}");
            with(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("the lake can't be read just now: {why}\n").into())
        }
    }
}

fn plain(status: StatusCode, text: &'static str) -> Answer {
    with(status, TEXT, Bytes::from_static(text.as_bytes()))
}

fn with(status: StatusCode, kind: &'static str, bytes: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(bytes));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
