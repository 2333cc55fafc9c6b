//! The thread that takes records from librdkafka, so that taking them and reading their JSON go on side by side.
//!
//! What lies between the two is a few batches. A seek therefore has to tell batches of before from those of after: it is
//! done while the thread does not take anything ([`Reader::change`]), and raises the epoch that every batch carries.

use std::{
    borrow::Cow,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rdkafka::{Timestamp, consumer::BaseConsumer, error::KafkaError, types::RDKafkaErrorCode};
use tokio::sync::mpsc;

use super::{
    consumer::Ending,
    context::Context,
    queue::{Message, Queue, Taken},
};
use crate::{
    lake::now_ms,
    log::{Record, Records},
};

/// How many bytes of records are handed over at a time, and how many records.
const BATCH_BYTES: usize = 1024 * 1024;
const BATCH_RECORDS: usize = 8192;

/// How many records are taken at a time. They lie in librdkafka's memory, and no longer count in its queue.
const TAKE_RECORDS: usize = 512;

/// How many batches wait for who reads them.
const BATCHES: usize = 4;

/// How long the thread rests where nothing has come, unless it is woken.
const REST: Duration = Duration::from_millis(50);

/// What was taken at a time.
#[derive(Default)]
pub(super) struct Batch {
    pub records: Records,
    /// Partitions whose end was seen after these records.
    pub ended: Vec<i32>,
    pub errors: Vec<KafkaError>,
    /// A record has its producer's time, which is not wanted.
    pub create_time: bool,
    /// How often something had been changed before.
    pub epoch: u64,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.records.is_empty() && self.ended.is_empty() && self.errors.is_empty() && !self.create_time
    }

    fn is_full(&self) -> bool {
        self.records.bytes() >= BATCH_BYTES || self.records.len() >= BATCH_RECORDS || self.create_time
    }

    /// Adds a record, or what went wrong instead.
    fn push(&mut self, record: Result<Message<'_>, KafkaError>, create_time: bool) {
        match record {
            Ok(message) => match times(message.timestamp, create_time) {
                Some((arrived_ms, stamped_ms)) => self.keep(&message, arrived_ms, stamped_ms),
                None => self.create_time = true,
            },
            Err(KafkaError::PartitionEOF(partition)) => self.ended.push(partition),
            Err(e) => self.errors.push(e),
        }
    }

    fn keep(&mut self, message: &Message<'_>, arrived_ms: i64, stamped_ms: i64) {
        if self.records.is_empty() {
            self.records = Records::with_capacity(BATCH_BYTES);
        }
        // Nearly all are text.
        let text = |key| std::str::from_utf8(key).map_or_else(|_| String::from_utf8_lossy(key), Cow::Borrowed);
        let device = message.key.map(text);
        self.records.push(Record {
            partition: message.partition,
            offset: message.offset,
            arrived_ms,
            stamped_ms,
            device: device.as_deref(),
            payload: message.payload,
        });
    }
}

/// A flag that a thread waits for.
#[derive(Default)]
pub(super) struct Bell {
    rung: Mutex<bool>,
    waiting: Condvar,
}

impl Bell {
    /// Wakes the thread.
    pub(super) fn ring(&self) {
        *lock(&self.rung) = true;
        self.waiting.notify_one();
    }

    fn wait(&self, limit: Duration) {
        let rung = lock(&self.rung);
        let waited = self.waiting.wait_timeout_while(rung, limit, |rung| !*rung);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }
}

/// Nothing panics while it holds one of these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A consumer whose records are taken by a thread of its own.
pub(super) struct Reader {
    consumer: Arc<Ending>,
    queue: Arc<Queue>,
    /// Held while records are taken; how often something was changed.
    epoch: Arc<Mutex<u64>>,
    pub(super) batches: mpsc::Receiver<Batch>,
    stop: Arc<AtomicBool>,
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Starts the thread; `bell` is rung when something has come. With `create_time` producers' times are taken.
    ///
    /// # Errors
    /// Where no thread can be had.
    pub(super) fn start(
        consumer: Arc<Ending>,
        topic: &str,
        bell: Arc<Bell>,
        create_time: bool,
    ) -> anyhow::Result<Reader> {
        let (sender, batches) = mpsc::channel(BATCHES);
        let queue = Arc::new(Queue::new(Arc::clone(&consumer), topic, Arc::clone(&bell))?);
        let (epoch, stop) = (Arc::<Mutex<u64>>::default(), Arc::<AtomicBool>::default());
        let mut reader = Reader { consumer, queue, epoch, batches, stop, bell, thread: None };
        let taker = Taker {
            consumer: Arc::clone(&reader.consumer),
            epoch: Arc::clone(&reader.epoch),
            taken: Taken::new(Arc::clone(&reader.queue)),
            taken_epoch: 0,
            create_time,
        };
        let (stop, bell) = (Arc::clone(&reader.stop), Arc::clone(&reader.bell));
        let thread = thread::Builder::new().name("kafka-reader".into());
        reader.thread = Some(thread.spawn(move || taker.run(&sender, &stop, &bell))?);
        Ok(reader)
    }

    /// Changes what is read while nothing is taken; gives the epoch from which on batches know of it.
    pub(super) fn change<T>(
        &self,
        change: impl FnOnce(&BaseConsumer<Context>) -> anyhow::Result<T>,
    ) -> anyhow::Result<(T, u64)> {
        let mut epoch = lock(&self.epoch);
        let changed = change(&self.consumer)?;
        *epoch += 1;
        Ok((changed, *epoch))
    }

    /// Has records of these partitions come to us: before they are taken, and now and then while they are read.
    pub(super) fn lead(&self, partitions: impl IntoIterator<Item = i32>) -> anyhow::Result<()> {
        partitions.into_iter().try_for_each(|partition| self.queue.lead(partition))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.batches.close();
        self.bell.ring();
        // It has the consumer too, whose end is waited for by who lets go of it last: by us.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What the thread has.
struct Taker {
    consumer: Arc<Ending>,
    epoch: Arc<Mutex<u64>>,
    taken: Taken,
    /// How often something had been changed before these were taken.
    taken_epoch: u64,
    create_time: bool,
}

impl Taker {
    fn run(mut self, batches: &mpsc::Sender<Batch>, stop: &AtomicBool, bell: &Bell) {
        while !stop.load(Relaxed) {
            let batch = self.batch();
            if batch.is_empty() {
                bell.wait(REST);
            } else if batches.blocking_send(batch).is_err() {
                return;
            }
        }
    }

    /// What librdkafka has now, up to a batch.
    fn batch(&mut self) -> Batch {
        let mut batch = Batch::default();
        while !batch.is_full() && (!self.taken.is_empty() || self.take(&mut batch)) {
            batch.epoch = self.taken_epoch;
            if let Some(record) = self.taken.next() {
                batch.push(record, self.create_time);
            }
        }
        batch
    }

    /// Takes some more records for a batch; whether there were any. All of a batch are of one epoch.
    fn take(&mut self, batch: &mut Batch) -> bool {
        let epoch = lock(&self.epoch);
        if !batch.is_empty() && *epoch != self.taken_epoch {
            return false;
        }
        self.taken_epoch = *epoch;
        self.taken.fill(TAKE_RECORDS);
        // Answers what else librdkafka asks for.
        match self.consumer.poll(Duration::ZERO) {
            None => {}
            Some(Err(e)) => batch.errors.push(e),
            // Records come by the other queue. One here would be out of its order.
            Some(Ok(_)) => batch.errors.push(KafkaError::MessageConsumptionFatal(RDKafkaErrorCode::State)),
        }
        !self.taken.is_empty()
    }
}

/// When a record arrived, and the time that the log keeps with it; `None` where its producer's time is not wanted.
fn times(timestamp: Timestamp, create_time: bool) -> Option<(i64, i64)> {
    match timestamp {
        Timestamp::LogAppendTime(ms) => Some((ms, ms)),
        Timestamp::CreateTime(ms) if create_time => Some((ms.min(now_ms()), ms)),
        Timestamp::NotAvailable if create_time => Some((now_ms(), -1)),
        Timestamp::CreateTime(_) | Timestamp::NotAvailable => None,
    }
}
