//! What a worker does as Prometheus reads it, and whether it is well: `/metrics` and `/healthz` on a loopback port.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt::Write,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    time::timeout,
};

use super::{
    standing::{Ingested, Latency, Standing},
    worker::Worker,
};
use crate::{
    log::{Lookup, Source},
    reading::Reason,
};

/// How long the ends of the log are believed: asking for them costs the brokers something.
const ENDS: Duration = Duration::from_secs(10);

/// A worker that has not told how it stands for so long is not well. Storing what goes away may take some seconds.
const STALLED: Duration = Duration::from_secs(60);

/// How long a connection may last, and how many there are at once.
const CONNECTION: Duration = Duration::from_secs(30);
const CONNECTIONS: usize = 16;

/// How often partitions were dealt out anew, where the log does that.
pub type Rebalances = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The ends of a log's partitions, and when they were asked for.
#[derive(Default)]
struct Ends {
    asked: Option<Instant>,
    by_partition: BTreeMap<i32, i64>,
}

/// What there is to know of a worker.
#[derive(Clone)]
pub struct Metrics {
    pub progress: watch::Receiver<Ingested>,
    pub standing: watch::Receiver<Standing>,
    lookup: Arc<dyn Lookup>,
    rebalances: Option<Rebalances>,
    ends: Arc<Mutex<Ends>>,
}

impl Metrics {
    /// Of a worker that has not started yet; `lookup` is that of its log.
    pub fn of<S: Source>(worker: &Worker<S>, lookup: Arc<dyn Lookup>, rebalances: Option<Rebalances>) -> Metrics {
        Metrics { progress: worker.progress(), standing: worker.standing(), lookup, rebalances, ends: Arc::default() }
    }

    /// How many records the log has that were not read yet, by partition.
    pub async fn lag(&self) -> BTreeMap<i32, i64> {
        let standing = self.standing.borrow().clone();
        let asked = self.known_ends().asked;
        if asked.is_none_or(|asked| asked.elapsed() >= ENDS) {
            let partitions: Vec<i32> = standing.partitions.keys().copied().collect();
            if let Ok(Ok(by_partition)) = timeout(ENDS, self.lookup.ends(&partitions)).await {
                *self.known_ends() = Ends { asked: Some(Instant::now()), by_partition };
            }
        }
        let lag = |(partition, end): (&i32, &i64)| {
            let next = standing.partitions.get(partition)?.next?;
            Some((*partition, (end - next).max(0)))
        };
        self.known_ends().by_partition.iter().filter_map(lag).collect()
    }

    fn known_ends(&self) -> MutexGuard<'_, Ends> {
        // Nothing panics while it holds the lock.
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything in Prometheus's text format, version 0.0.4.
    pub async fn render(&self) -> String {
        let lag = self.lag().await;
        let (done, standing) = (self.progress.borrow().clone(), self.standing.borrow().clone());
        let mut text = Text::default();
        text.one("readings_total", "counter", "Readings stored in the lake", done.readings);
        text.family("dead_letters_total", "counter", "Records and readings that could not be read, by reason");
        let reasons = Reason::ALL.iter().map(|reason| (reason, done.reasons.get(reason).copied().unwrap_or(0)));
        reasons
            .for_each(|(reason, n)| text.sample("dead_letters_total", &format!("{{reason=\"{}\"}}", reason.code()), n));
        text.one("files_total", "counter", "Landing files written", done.slices);
        text.one("file_bytes_total", "counter", "Bytes of landing files", done.bytes);
        text.one("taken_total", "counter", "Files that another worker had written before", done.taken);
        text.one("lost_records_total", "counter", "Records that the log lost before they were read", done.lost);
        text.latency("put_seconds", "How long encoding and writing a file took", &done.puts);
        if let Some(rebalances) = &self.rebalances {
            text.one("rebalances_total", "counter", "How often partitions were dealt out anew", rebalances());
        }
        text.one("gathering_bytes", "gauge", "Memory of slices that gather", standing.gathering);
        text.one("writing_bytes", "gauge", "Memory of slices that are being written", standing.writing);
        text.one("partitions", "gauge", "Partitions of this worker", standing.partitions.len());
        text.family("lag_records", "gauge", "Records in the log that were not read yet");
        lag.iter().for_each(|(partition, n)| text.sample("lag_records", &of(*partition), n));
        text.family("slice_age_seconds", "gauge", "Since the first record of the slice that gathers");
        for (partition, slice) in &standing.partitions {
            text.sample("slice_age_seconds", &of(*partition), slice.age.unwrap_or_default().as_secs_f64());
        }
        text.family("slice_bytes", "gauge", "Memory of the slice that gathers");
        standing.partitions.iter().for_each(|(p, slice)| text.sample("slice_bytes", &of(*p), slice.bytes));
        text.family("paused", "gauge", "Whether reading rests, as buffers are full");
        standing.partitions.iter().for_each(|(p, slice)| text.sample("paused", &of(*p), u8::from(slice.paused)));
        text.0
    }

    /// Whether the worker goes on.
    fn is_well(&self) -> bool {
        self.standing.borrow().at.elapsed() < STALLED
    }
}

/// The label of a partition.
fn of(partition: i32) -> String {
    format!("{{partition=\"{partition}\"}}")
}

/// The text in the making. Writing into a text can't fail.
#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP vitals_ingest_{name} {help}\n# TYPE vitals_ingest_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "vitals_ingest_{name}{labels} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, kind, help);
        self.sample(name, "", value);
    }

    fn latency(&mut self, name: &str, help: &str, latency: &Latency) {
        self.family(name, "histogram", help);
        let mut all = 0;
        let bounds = Latency::BOUNDS.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(latency.counts) {
            all += count;
            self.sample(&format!("{name}_bucket"), &format!("{{le=\"{bound}\"}}"), all);
        }
        self.sample(&format!("{name}_sum"), "", latency.sum.as_secs_f64());
        self.sample(&format!("{name}_count"), "", all);
    }
}

/// Serves metrics.
pub struct MetricsServer {
    listener: TcpListener,
    address: SocketAddr,
    metrics: Metrics,
}

impl MetricsServer {
    /// Listens on an address of this machine.
    ///
    /// # Errors
    /// Where others could reach it, or it is taken.
    pub async fn bind(address: SocketAddr, metrics: Metrics) -> anyhow::Result<MetricsServer> {
        ensure!(address.ip().is_loopback(), "it is open to others, and metrics are for this machine");
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr().context("asking for the port")?;
        Ok(MetricsServer { listener, address, metrics })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until it is dropped.
    pub async fn run(self) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            let Ok((stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let metrics = self.metrics.clone();
            tokio::spawn(async move {
                let answer = service_fn(|request| {
                    let metrics = metrics.clone();
                    async move { Ok::<_, Infallible>(answer(&request, &metrics).await) }
                });
                let mut server = http1::Builder::new();
                server.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10)).keep_alive(false);
                // Who breaks off has no answer to wait for.
                let _ = timeout(CONNECTION, server.serve_connection(TokioIo::new(stream), answer)).await;
                drop(permit);
            });
        }
    }
}

async fn answer(request: &Request<Incoming>, metrics: &Metrics) -> Response<Full<Bytes>> {
    let (status, kind, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => {
            (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics.render().await)
        }
        (&Method::GET, "/healthz") if metrics.is_well() => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
        (&Method::GET, "/healthz") => {
            (StatusCode::SERVICE_UNAVAILABLE, "text/plain", format!("nothing has moved for {} s\n", STALLED.as_secs()))
        }
        (&Method::GET, _) => (StatusCode::NOT_FOUND, "text/plain", "/metrics or /healthz\n".to_owned()),
        _ => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET only\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
