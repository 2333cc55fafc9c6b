//! The thread that takes records from librdkafka, so that taking them and reading their JSON go on side by side.
//!
//! What lies between the two is a few batches. A seek therefore has to tell batches of before from those of after: it is
//! done while the thread does not take anything ([`Reader::change`]), and raises the epoch that every batch carries.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use rdkafka::{Message, Timestamp, consumer::BaseConsumer, error::KafkaError};
use tokio::sync::mpsc;

use super::{consumer::Ending, context::Context};
use crate::{
    lake::now_ms,
    log::{Record, Records},
};

/// How many bytes of records are handed over at a time, and how many records.
const BATCH_BYTES: usize = 1024 * 1024;
const BATCH_RECORDS: usize = 8192;

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
    /// Held while records are taken; how often something was changed.
    epoch: Arc<Mutex<u64>>,
    pub(super) batches: mpsc::Receiver<Batch>,
    stop: Arc<AtomicBool>,
    bell: Arc<Bell>,
}

impl Reader {
    /// Starts the thread; `bell` is rung when something has come. With `create_time` producers' times are taken.
    pub(super) fn start(consumer: Arc<Ending>, bell: Arc<Bell>, create_time: bool) -> std::io::Result<Reader> {
        let (sender, batches) = mpsc::channel(BATCHES);
        let (epoch, stop) = (Arc::<Mutex<u64>>::default(), Arc::<AtomicBool>::default());
        let reader = Reader { consumer, epoch, batches, stop, bell };
        let (consumer, epoch) = (Arc::clone(&reader.consumer), Arc::clone(&reader.epoch));
        let (stop, bell) = (Arc::clone(&reader.stop), Arc::clone(&reader.bell));
        std::thread::Builder::new().name("kafka-reader".into()).spawn(move || {
            while !stop.load(Relaxed) {
                let batch = take(&consumer, &lock(&epoch), create_time);
                if batch.is_empty() {
                    bell.wait(REST);
                } else if sender.blocking_send(batch).is_err() {
                    return;
                }
            }
        })?;
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
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.batches.close();
        self.bell.ring();
    }
}

/// What librdkafka has now, up to a batch.
fn take(consumer: &BaseConsumer<Context>, epoch: &u64, create_time: bool) -> Batch {
    let mut batch = Batch { epoch: *epoch, ..Batch::default() };
    let records = &mut batch.records;
    while records.len() < BATCH_RECORDS && records.bytes() < BATCH_BYTES {
        let message = match consumer.poll(Duration::ZERO) {
            None => break,
            Some(Ok(message)) => message,
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                batch.ended.push(partition);
                continue;
            }
            Some(Err(e)) => {
                batch.errors.push(e);
                break;
            }
        };
        if records.is_empty() {
            *records = Records::with_capacity(BATCH_BYTES);
        }
        let (arrived_ms, stamped_ms) = match message.timestamp() {
            Timestamp::LogAppendTime(ms) => (ms, ms),
            Timestamp::CreateTime(ms) if create_time => (ms.min(now_ms()), ms),
            Timestamp::NotAvailable if create_time => (now_ms(), -1),
            _ => {
                batch.create_time = true;
                break;
            }
        };
        let device = message.key().map(String::from_utf8_lossy);
        records.push(Record {
            partition: message.partition(),
            offset: message.offset(),
            arrived_ms,
            stamped_ms,
            device: device.as_deref(),
            payload: message.payload().unwrap_or_default(),
        });
    }
    batch
}
