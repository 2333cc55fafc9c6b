//! What a topic holds, asked beside the reading.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, TryLockError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};

use super::{consumer::Ending, context::Context, topic::ANSWER, topic_id};
use crate::log::{Bounds, LogId, Lookup};

/// What a topic holds, by a consumer of its own.
pub(super) struct KafkaLookup {
    topic: String,
    prober: Arc<Mutex<Ending>>,
    /// When the topic was last asked for its id, and the answer.
    id: tokio::sync::Mutex<Option<(Instant, Option<LogId>)>>,
}

impl KafkaLookup {
    /// Asks about a topic through `prober`.
    pub(super) fn new(topic: &str, prober: Ending) -> KafkaLookup {
        KafkaLookup { topic: topic.to_owned(), prober: Arc::new(Mutex::new(prober)), id: tokio::sync::Mutex::default() }
    }

    /// Lets librdkafka call back, where no question does: a client that is not polled gets no new token, and goes on showing
    /// one that has expired.
    pub(super) fn tend(&self) {
        let prober = Arc::clone(&self.prober);
        // Getting a token may take a while.
        tokio::task::spawn_blocking(move || {
            // Where it is asked something, it is called back there.
            match prober.try_lock() {
                Ok(prober) => call_back(&prober),
                Err(TryLockError::Poisoned(prober)) => call_back(&prober.into_inner()),
                Err(TryLockError::WouldBlock) => {}
            }
        });
    }

    /// Asks on a thread that may wait.
    async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&BaseConsumer<Context>, &str) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let (prober, topic) = (Arc::clone(&self.prober), self.topic.clone());
        let asked = tokio::task::spawn_blocking(move || {
            // A question that panicked has left nothing half done.
            let prober = prober.lock().unwrap_or_else(PoisonError::into_inner);
            call_back(&prober);
            ask(&prober, &topic)
        });
        asked.await?
    }
}

#[async_trait]
impl Lookup for KafkaLookup {
    /// An answer counts for all who asked before the question was put: slices of many partitions are closed together, and
    /// the answer names every partition.
    async fn id(&self) -> anyhow::Result<Option<LogId>> {
        let wanted = Instant::now();
        let mut last = self.id.lock().await;
        if let Some((asked, id)) = *last
            && asked >= wanted
        {
            return Ok(id);
        }
        let asked = Instant::now();
        let id = self.ask(|prober, topic| topic_id::ask(prober.client(), topic)).await?;
        *last = Some((asked, id));
        Ok(id)
    }

    async fn bounds(&self, partition: i32) -> anyhow::Result<Bounds> {
        self.ask(move |prober, topic| {
            let (start, end) = prober.fetch_watermarks(topic, partition, ANSWER)?;
            Ok(Bounds { start, end })
        })
        .await
    }

    /// One question to each broker, however many partitions it leads.
    async fn ends(&self, partitions: &[i32]) -> anyhow::Result<BTreeMap<i32, i64>> {
        let partitions = partitions.to_vec();
        self.ask(move |prober, topic| {
            let mut asked = TopicPartitionList::new();
            for partition in partitions {
                // The protocol's word for the end, where a time would stand.
                asked.add_partition_offset(topic, partition, Offset::End)?;
            }
            let answered = prober.offsets_for_times(asked, ANSWER)?;
            let end = |offset| if let Offset::Offset(end) = offset { Some(end) } else { None };
            Ok(answered.elements().iter().filter_map(|e| Some((e.partition(), end(e.offset())?))).collect())
        })
        .await
    }

    async fn stamped_at(&self, partition: i32, offset: i64) -> anyhow::Result<Option<i64>> {
        self.ask(move |prober, topic| stamped_at(prober, topic, partition, offset)).await
    }
}

fn call_back(prober: &BaseConsumer<Context>) {
    if let Some(Err(e)) = prober.poll(Duration::ZERO) {
        tracing::debug!("kafka: {e}");
    }
}

/// Fetches the record at one offset for its time.
fn stamped_at(prober: &BaseConsumer<Context>, topic: &str, partition: i32, offset: i64) -> anyhow::Result<Option<i64>> {
    let mut place = TopicPartitionList::new();
    place.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    prober.assign(&place)?;
    let until = Instant::now() + ANSWER;
    let found = loop {
        match prober.poll(Duration::from_millis(100)) {
            Some(Ok(message)) if message.partition() == partition => {
                let here = message.offset() == offset;
                break Ok(here.then(|| message.timestamp().to_millis().unwrap_or(-1)));
            }
            Some(Err(KafkaError::PartitionEOF(at))) if at == partition => {
                // A leader that has just taken over may not know its own end yet.
                let (_, end) = prober.fetch_watermarks(topic, partition, ANSWER)?;
                if offset < end {
                    break Err(anyhow::anyhow!(
                        "record {offset} of `{topic}` partition {partition} is not to be had yet"
                    ));
                }
                break Ok(None);
            }
            Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => {}
            Some(Err(e)) => tracing::debug!("kafka: {e}"),
            None => {}
        }
        if Instant::now() >= until {
            break Err(anyhow::anyhow!("no broker gave record {offset} of `{topic}` partition {partition}"));
        }
    };
    prober.unassign()?;
    found
}
