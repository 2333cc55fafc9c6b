//! A fleet over MQTT, one connection per device, each with its own back-off, or into Kafka ([`super::kafka`]), in the
//! pace of the simulated time.
//!
//! Simulated time passes `speed` times as fast as the clock. It begins as long before its end as that takes, so that it
//! reaches its end when the run does: with an end that is the run's own, no reading is ever ahead of the clock.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::book::Packets;
use super::chance::Key;
use super::connection::{Link, connect, drive};
use super::dial::{Dial, Dialer};
use super::fleet::{Fleet, FleetOptions};
use super::labels::{device_labels, write_labels};
use super::options::{PublishError, PublishOptions, Qos, Speed, Target};
use super::{kafka, sent};
use crate::log::kafka::Sink;

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// How a run stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Progress {
    pub connections: u32,
    /// Connections that the broker has accepted and that stand.
    pub connected: u32,
    /// Packets that went out for the first time.
    pub published: u64,
    /// Readings in these packets.
    pub readings: u64,
    /// Packets that the broker acknowledged (QoS 1), or that all replicas of Kafka have.
    pub acknowledged: u64,
    /// Packets that went out again after a lost connection.
    pub sent_again: u64,
    /// Connections that failed or broke.
    pub errors: u64,
    pub last_error: Option<String>,
    /// Seconds since the first connection.
    pub elapsed_s: f64,
    /// The part of the simulated time that is over, 0 to 1.
    pub done: f64,
}

/// How a run ended.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    #[serde(flatten)]
    pub progress: Progress,
    pub devices: u32,
    /// Packets that went out and had no acknowledgement when the run ended (QoS 1).
    pub unacknowledged: u64,
    /// Connections that could not send all that they had.
    pub gave_up: u64,
    /// Readings a second, over the whole run.
    pub readings_per_s: f64,
    /// The simulated time, milliseconds since 1970 UTC.
    pub start_ms: i64,
    pub end_ms: i64,
    /// Rows in the file of what was sent, where one was asked for.
    pub sent_rows: Option<u64>,
    /// Episodes in the label file, where one was asked for.
    pub labels: Option<u64>,
    pub interrupted: bool,
}

impl Summary {
    /// Whether everything went out and, at QoS 1, was acknowledged.
    pub fn complete(&self) -> bool {
        !self.interrupted && self.gave_up == 0 && self.unacknowledged == 0
    }
}

#[derive(Default)]
pub(super) struct Counts {
    connected: AtomicU32,
    pub(super) published: AtomicU64,
    pub(super) readings: AtomicU64,
    pub(super) acknowledged: AtomicU64,
    pub(super) sent_again: AtomicU64,
    pub(super) unacknowledged: AtomicU64,
    pub(super) gave_up: AtomicU64,
    errors: AtomicU64,
}

/// Simulated time on the clock.
pub(super) struct Pace {
    start: Instant,
    start_ms: i64,
    end_ms: i64,
    speed: Speed,
}

impl Pace {
    /// When a reading of this simulated time may go out.
    pub(super) fn due(&self, ts_ms: i64) -> Instant {
        match self.speed {
            Speed::Max => self.start,
            Speed::Times(times) => {
                let ahead_ms = (ts_ms - self.start_ms).max(0) as f64 / times;
                self.start + Duration::from_secs_f64(ahead_ms / 1000.0)
            }
        }
    }

    /// When the last packet is due.
    pub(super) fn end(&self) -> Instant {
        self.due(self.end_ms)
    }

    fn done(&self, counts: &Counts, expected: f64) -> f64 {
        let part = match self.speed {
            Speed::Max => counts.readings.load(Relaxed) as f64 / expected.max(1.0),
            Speed::Times(times) => {
                self.start.elapsed().as_secs_f64() * 1000.0 * times / (self.end_ms - self.start_ms) as f64
            }
        };
        part.clamp(0.0, 1.0)
    }
}

/// What all connections of a run share.
pub(super) struct Shared {
    pub(super) counts: Counts,
    pub(super) pace: Pace,
    pub(super) qos: Qos,
    pub(super) patience: Duration,
    /// The time of the last reading that each device sent.
    reached: Vec<AtomicI64>,
    last_error: Mutex<Option<String>>,
    /// When the next connection may be made, and how far apart they are.
    next_turn: Mutex<Instant>,
    turn_every: Duration,
    halt: watch::Sender<bool>,
}

impl Shared {
    pub(super) fn reached(&self, device: u32, ts_ms: i64) {
        if let Some(reached) = self.reached.get(device as usize) {
            reached.fetch_max(ts_ms, Relaxed);
        }
    }

    pub(super) fn connected(&self, up: bool) {
        let counter = &self.counts.connected;
        if up {
            counter.fetch_add(1, Relaxed)
        } else {
            counter.fetch_sub(1, Relaxed)
        };
    }

    pub(super) fn failed(&self, error: &impl fmt::Display) {
        self.counts.errors.fetch_add(1, Relaxed);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
    }

    /// Wait for one's turn to connect: a broker that comes back is not met by everybody at once.
    pub(super) async fn turn(&self) {
        let turn = {
            let mut next = self.next_turn.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = (*next).max(Instant::now());
            *next = turn + self.turn_every;
            turn
        };
        sleep_until(turn).await;
    }

    /// End the run.
    pub(super) fn halt(&self) {
        self.halt.send_replace(true);
    }

    pub(super) fn halted(&self) -> watch::Receiver<bool> {
        self.halt.subscribe()
    }

    fn progress(&self, connections: u32, expected: f64) -> Progress {
        let counts = &self.counts;
        Progress {
            connections,
            connected: counts.connected.load(Relaxed),
            published: counts.published.load(Relaxed),
            readings: counts.readings.load(Relaxed),
            acknowledged: counts.acknowledged.load(Relaxed),
            sent_again: counts.sent_again.load(Relaxed),
            errors: counts.errors.load(Relaxed),
            last_error: self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            elapsed_s: self.pace.start.elapsed().as_secs_f64(),
            done: self.pace.done(counts, expected),
        }
    }
}

/// Milliseconds since 1970 UTC by this machine's clock.
pub(super) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// Publish a fleet's readings, and tell how it goes a few times a second. One Tokio task per connection.
///
/// # Errors
/// When the options are wrong, no broker answers at the start, or a file can't be written. A broker that goes away
/// later is waited for, and shows in the [`Summary`].
pub async fn run(options: PublishOptions, mut progress: impl FnMut(&Progress) + Send) -> Result<Summary, PublishError> {
    options.check()?;
    let connections = options.connections_used();
    let start = match &options.target {
        Target::Mqtt(broker) => begin(&Dialer::to_broker(broker, &options)?, connections).await?,
        Target::Things(things) => begin(&Dialer::of_things(things, &options)?, connections).await?,
        Target::Kafka(topic) => Start::Kafka(kafka::open(topic, options.patience).await.map_err(PublishError::Kafka)?),
    };

    if let Some(path) = &options.labels {
        // Made now, so that a bad path is known before an hour of publishing.
        std::fs::File::create(path).map_err(|error| file_error(path, error))?;
    }
    let (sent, sent_writer) = match &options.sent {
        Some(path) => {
            let (sender, task) = sent::create(path).map_err(|error| file_error(path, error))?;
            (Some(sender), Some((path.clone(), task)))
        }
        None => (None, None),
    };

    let shared = share(&options);
    let mut tasks = JoinSet::new();
    match start {
        Start::Mqtt(dials, first) => {
            let mut first = Some(*first);
            for (connection, dial) in (0..connections).zip(dials) {
                let packets = packets(&options, connection, connections)?;
                let jitter = Key::new(options.fleet.seed).part(u64::MAX).rng(i64::from(connection));
                tasks.spawn(drive(shared.clone(), dial, first.take(), packets, sent.clone(), jitter));
            }
        }
        Start::Kafka(sink) => {
            let lanes = kafka::lanes(options.fleet.devices);
            for lane in 0..lanes {
                let packets = packets(&options, lane, lanes)?;
                tasks.spawn(kafka::drive(shared.clone(), sink.clone(), lanes, packets, sent.clone()));
            }
            shared.connected(true);
        }
    }
    drop(sent);

    let expected = f64::from(options.fleet.devices)
        * ((options.fleet.end_ms - options.fleet.start_ms) as f64 / options.fleet.interval_ms as f64);
    let interrupted =
        wait(&mut tasks, options.stop.clone(), &shared, || progress(&shared.progress(connections, expected))).await;

    let mut last = shared.progress(connections, expected);
    if !interrupted && shared.counts.gave_up.load(Relaxed) == 0 {
        last.done = 1.0;
    }
    progress(&last);
    let sent_rows = match sent_writer {
        Some((path, task)) => {
            let rows = task.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
            Some(rows.map_err(|error| file_error(&path, error))?)
        }
        None => None,
    };
    let labels = match &options.labels {
        Some(path) => Some(label_file(path.clone(), &options.fleet, shared.clone()).await?),
        None => None,
    };
    Ok(Summary {
        devices: options.fleet.devices,
        unacknowledged: shared.counts.unacknowledged.load(Relaxed),
        gave_up: shared.counts.gave_up.load(Relaxed),
        readings_per_s: last.readings as f64 / last.elapsed_s.max(0.001),
        start_ms: options.fleet.start_ms,
        end_ms: options.fleet.end_ms,
        sent_rows,
        labels,
        interrupted,
        progress: last,
    })
}

/// What a run begins with.
enum Start {
    /// All connections to a broker, and the first one made.
    Mqtt(Vec<Dial>, Box<Link>),
    Kafka(Sink),
}

/// The packets of every `of`-th device, beginning with this one.
fn packets(options: &PublishOptions, first: u32, of: u32) -> Result<Packets, PublishError> {
    let devices = (first..options.fleet.devices).step_by(of as usize);
    Ok(Packets::new(Fleet::of(options.fleet.clone(), devices)?, options.batch))
}

/// Until every connection is done; answers whether the run was stopped before.
async fn wait(
    tasks: &mut JoinSet<()>,
    stop: Option<watch::Receiver<bool>>,
    shared: &Shared,
    mut tell: impl FnMut() + Send,
) -> bool {
    let mut tick = interval(TELL_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut interrupted = false;
    let stopped = async {
        let Some(mut stop) = stop else { return std::future::pending().await };
        // Nobody can stop a run whose sender is gone.
        if stop.wait_for(|stop| *stop).await.is_err() {
            std::future::pending().await
        }
    };
    let mut stopped = std::pin::pin!(stopped);
    loop {
        tokio::select! {
            ended = tasks.join_next() => match ended {
                None => return interrupted,
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    shared.failed(&error);
                    shared.counts.gave_up.fetch_add(1, Relaxed);
                }
            },
            _ = tick.tick() => tell(),
            () = &mut stopped, if !interrupted => {
                interrupted = true;
                shared.halt();
            }
        }
    }
}

pub(super) fn share(options: &PublishOptions) -> Arc<Shared> {
    let now = Instant::now();
    let fleet = &options.fleet;
    Arc::new(Shared {
        counts: Counts::default(),
        pace: Pace { start: now, start_ms: fleet.start_ms, end_ms: fleet.end_ms, speed: options.speed },
        qos: options.qos,
        patience: options.patience,
        reached: (0..fleet.devices).map(|_| AtomicI64::new(i64::MIN)).collect(),
        last_error: Mutex::new(None),
        next_turn: Mutex::new(now),
        turn_every: Duration::from_secs_f64(1.0 / f64::from(options.connects_per_s)),
        halt: watch::channel(false).0,
    })
}

/// All connections to a broker, the first of them made before anything else: a broker that is not there is an error, not
/// something to wait for.
async fn begin(dialer: &Dialer, connections: u32) -> Result<Start, PublishError> {
    check_open_files(connections)?;
    let first = connect(&dialer.dial(0)?).await.map_err(|error| dialer.refused(&error))?;
    let dials: Result<Vec<Dial>, PublishError> = (0..connections).map(|one| dialer.dial(one)).collect();
    Ok(Start::Mqtt(dials?, Box::new(first)))
}

/// A connection is an open file, and a shell often allows 1,024 of them.
fn check_open_files(connections: u32) -> Result<(), PublishError> {
    const OTHERS: u64 = 64;
    let needed = u64::from(connections) + OTHERS;
    match open_file_limit() {
        Some(limit) if needed > limit => Err(PublishError::OpenFiles { connections, limit, needed }),
        _ => Ok(()),
    }
}

/// The soft limit of open files, where the system tells (Linux).
fn open_file_limit() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find(|line| line.starts_with("Max open files"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

async fn label_file(path: PathBuf, fleet: &FleetOptions, shared: Arc<Shared>) -> Result<u64, PublishError> {
    let options = fleet.clone();
    let to = path.clone();
    let written = tokio::task::spawn_blocking(move || {
        // Only what a device really sent has happened.
        let until =
            |index: u32| shared.reached.get(index as usize).map_or(i64::MIN, |ts| ts.load(Relaxed)).saturating_add(1);
        write_labels(&to, (0..options.devices).flat_map(|index| device_labels(&options, index, until(index))))
    });
    written.await.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(|error| file_error(&path, error))
}

fn file_error(path: &std::path::Path, error: std::io::Error) -> PublishError {
    PublishError::File { path: path.display().to_string(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn simulated_time_never_passes_the_clock() {
        for times in [1.0, 7.5, 3600.0] {
            let start = Instant::now();
            let (run_ms, now_ms) = (60_000.0, 1_780_000_000_000_i64);
            let end_ms = now_ms + run_ms as i64;
            let pace = Pace { start, start_ms: end_ms - (run_ms * times) as i64, end_ms, speed: Speed::Times(times) };
            for part in 0..=100 {
                let ts_ms = pace.start_ms + (end_ms - pace.start_ms) / 100 * part;
                let clock_ms = now_ms + (pace.due(ts_ms) - start).as_millis() as i64;
                assert!(ts_ms <= clock_ms + 1, "{times}: {ts_ms} at {clock_ms}");
            }
            assert_eq!((pace.end() - start).as_millis(), 60_000);
        }
    }

    #[tokio::test]
    async fn a_broker_that_is_not_there_is_named_with_what_to_do() {
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let fleet = super::super::fleet::tests::options(2, 1);
        let broker = crate::simulate::Broker::plain("127.0.0.1", port);
        let error = run(PublishOptions::new(fleet, broker.clone()), |_| {}).await.unwrap_err().to_string();
        assert!(error.contains(&broker.to_string()) && error.contains("`vitals up`"), "{error}");
    }
}
