//! Records into a topic: keyed by device, acknowledged by all replicas, none twice by our own retries.
//!
//! The partition is that of Java's producers (`murmur2_random`), as on AWS the rule's action is one: bridge, simulator and
//! rule put a device into the same partition.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Context as _;
use rdkafka::{
    ClientContext,
    client::OAuthToken,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer},
};
use tokio::sync::{Notify, oneshot};

use super::{Settings, context::Context, topic};

/// The most bytes of records that wait for brokers. Who wants to send beyond this waits.
const QUEUE_KBYTES: usize = 64 * 1024;

/// How a sink sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SinkOptions {
    /// A record that could not be sent for so long is given up; `None` tries for ever.
    pub patience: Option<Duration>,
    /// How long a record waits for others to go with it. Long where there are many, short where somebody waits for each.
    pub linger: Duration,
}

impl SinkOptions {
    /// For records whose senders wait for the acknowledgement, and that must not be given up.
    pub const PROMPT: SinkOptions = SinkOptions { patience: None, linger: Duration::from_millis(2) };

    /// For as many records as can be sent, as long as brokers are not away for longer than `patience`.
    pub fn bulk(patience: Duration) -> SinkOptions {
        SinkOptions { patience: Some(patience), linger: Duration::from_millis(20) }
    }
}

/// What a sink has done since it was opened.
#[derive(Debug, Default)]
pub struct SinkStats {
    /// Records that all replicas have.
    pub stored: AtomicU64,
    /// Records that the brokers did not take.
    pub refused: AtomicU64,
}

/// Calls back for deliveries, and passes everything else on.
struct Deliveries {
    inner: Context,
    stats: Arc<SinkStats>,
    /// There is room in the queue.
    room: Arc<Notify>,
}

impl ClientContext for Deliveries {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.inner.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.inner.error(error, reason);
    }

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.inner.generate_oauth_token(config)
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<oneshot::Sender<Result<(), String>>>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiting: Self::DeliveryOpaque) {
        let outcome = match result {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(error.to_string()),
        };
        let counter = if outcome.is_ok() { &self.stats.stored } else { &self.stats.refused };
        counter.fetch_add(1, Relaxed);
        // Whoever sent it may not want to know.
        let _ = waiting.send(outcome);
        self.room.notify_waiters();
    }
}

/// A record on its way to the brokers.
#[derive(Debug)]
pub struct Delivery {
    waiting: oneshot::Receiver<Result<(), String>>,
    outcome: Option<Result<(), String>>,
}

impl Delivery {
    /// Waits until all replicas have the record. An error means that it may not be in the log. May be dropped and called
    /// again.
    pub async fn stored(&mut self) -> Result<(), String> {
        if self.outcome.is_none() {
            let outcome = (&mut self.waiting).await.unwrap_or_else(|_| Err("the producer has ended".to_owned()));
            self.outcome = Some(outcome);
        }
        self.outcome.clone().unwrap_or(Ok(()))
    }

    /// What [`Delivery::stored`] would give at once; `None` where it would wait.
    pub fn try_stored(&mut self) -> Option<Result<(), String>> {
        if self.outcome.is_none() {
            self.outcome = match self.waiting.try_recv() {
                Ok(outcome) => Some(outcome),
                Err(oneshot::error::TryRecvError::Empty) => None,
                Err(oneshot::error::TryRecvError::Closed) => Some(Err("the producer has ended".to_owned())),
            };
        }
        self.outcome.clone()
    }
}

/// Sends records into a topic. Can be cloned and sent; all clones are one producer.
#[derive(Clone)]
pub struct Sink {
    producer: Arc<ThreadedProducer<Deliveries>>,
    topic: Arc<str>,
    stats: Arc<SinkStats>,
    room: Arc<Notify>,
}

impl Sink {
    /// A producer for a topic that is there.
    ///
    /// # Errors
    /// Where no broker can be reached.
    pub async fn open(settings: &Settings, topic: &str, options: SinkOptions) -> anyhow::Result<Sink> {
        let mut config = settings.client();
        config.set("enable.idempotence", "true").set("acks", "all");
        config.set("partitioner", "murmur2_random");
        config
            .set("compression.type", "lz4")
            .set("linger.ms", options.linger.as_millis().to_string())
            .set("batch.size", "262144");
        config.set("queue.buffering.max.kbytes", QUEUE_KBYTES.to_string());
        config.set("queue.buffering.max.messages", "500000");
        config.set("message.timeout.ms", options.patience.map_or(0, |patience| patience.as_millis()).to_string());
        settings.finish(&mut config);
        let (stats, room) = (Arc::<SinkStats>::default(), Arc::<Notify>::default());
        let context = Deliveries { inner: Context::new(settings), stats: Arc::clone(&stats), room: Arc::clone(&room) };
        let producer = ThreadedProducer::from_config_and_context(&config, context).context("opening a producer")?;
        let (producer, topic) = (Arc::new(producer), Arc::<str>::from(topic));
        let (asking, brokers) = (Arc::clone(&producer), settings.brokers.clone());
        let reached = tokio::task::spawn_blocking(move || match asking.client().fetch_metadata(None, topic::ANSWER) {
            Ok(_) => {
                asking.context().inner.reached();
                Ok(())
            }
            Err(e) => {
                let why = asking.context().inner.last_error().unwrap_or_else(|| e.to_string());
                Err(anyhow::anyhow!("can't reach Kafka at {brokers}: {why}"))
            }
        });
        reached.await??;
        Ok(Sink { producer, topic, stats, room })
    }

    /// Sends a record, keyed by its device, once the queue has room for it. Records of one sender and device keep their
    /// order.
    ///
    /// # Errors
    /// Where the brokers will never take it: it is too large, or the producer has failed for good.
    pub async fn enqueue(&self, device: &str, payload: &[u8]) -> Result<Delivery, String> {
        let (sender, waiting) = oneshot::channel();
        let mut opaque = Box::new(sender);
        loop {
            // Asked for before the attempt, so that room made meanwhile is not missed.
            let room = self.room.notified();
            let record = BaseRecord::with_opaque_to(&self.topic, opaque).key(device).payload(payload);
            match self.producer.send(record) {
                Ok(()) => return Ok(Delivery { waiting, outcome: None }),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), record)) => {
                    opaque = record.delivery_opaque;
                    let _ = tokio::time::timeout(Duration::from_millis(100), room).await;
                }
                Err((error, _)) => return Err(error.to_string()),
            }
        }
    }

    /// The topic that it sends to.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// What was done so far.
    pub fn stats(&self) -> Arc<SinkStats> {
        Arc::clone(&self.stats)
    }

    /// What went wrong last on the way to the brokers, if anything has.
    pub fn last_error(&self) -> Option<String> {
        self.producer.context().inner.last_error()
    }

    /// Waits until nothing is under way any more, for so long at most; gives how many records still are.
    pub async fn flush(&self, limit: Duration) -> i32 {
        let producer = Arc::clone(&self.producer);
        let flushed = tokio::task::spawn_blocking(move || {
            // What is left is counted below.
            let _ = producer.flush(limit);
            producer.in_flight_count()
        });
        flushed.await.unwrap_or(0)
    }
}
