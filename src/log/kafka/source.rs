//! A topic as ingest reads it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use async_trait::async_trait;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::KafkaError,
};
use tokio::time::Instant;

use super::{
    Settings,
    consumer::Ending,
    context::{Context, Rebalance},
    lookup::KafkaLookup,
    reader::{Batch, Bell, Reader},
    topic,
};
use crate::log::{LogEvent, Lookup, Source};

/// How a topic is read.
#[derive(Debug, Clone)]
pub struct SourceOptions {
    pub topic: String,
    /// The chain's name in the lake.
    pub chain: String,
    /// Workers of one group share the partitions.
    pub group: String,
    /// How many partitions the topic has.
    pub partitions: i32,
    /// Take producers' times where the topic has them.
    pub create_time: bool,
    /// The most memory for records that were fetched and not read yet, in bytes.
    pub queue_bytes: usize,
    /// End once everything was read that was there.
    pub until_end: bool,
    /// Read this and no more, whoever the group has given it to; then end.
    pub portion: Option<Portion>,
}

/// A part of a topic that one reader is told to read: a partition, up to an offset that is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Portion {
    pub partition: i32,
    pub until: i64,
}

/// How often what the lake holds is committed, for those who watch the lag.
const COMMIT: Duration = Duration::from_secs(1);

/// Reads a topic as a member of a group.
pub struct KafkaSource {
    consumer: Arc<Ending>,
    reader: Reader,
    lookup: Arc<KafkaLookup>,
    options: SourceOptions,
    /// Where to begin with partitions that were given to us and are not read yet.
    waiting: BTreeMap<i32, i64>,
    /// Partitions that are read, and the epoch of the first batch that counts.
    reading: BTreeMap<i32, u64>,
    /// Partitions of ours, read or not.
    ours: BTreeSet<i32>,
    /// Partitions that were revoked, and are let go with the next look.
    going: Vec<i32>,
    /// Partitions of ours that were let go to begin anew.
    anew: Vec<i32>,
    /// Partitions that rest, read or not.
    paused: BTreeSet<i32>,
    /// Partitions whose end was seen.
    ended: BTreeSet<i32>,
    /// What is to be committed.
    stored: BTreeMap<i32, i64>,
    committed: Instant,
}

impl KafkaSource {
    /// Joins the group, or takes its portion without it; partitions come with [`Source::next`].
    ///
    /// # Errors
    /// Where no broker can be reached.
    pub async fn join(settings: &Settings, options: SourceOptions) -> anyhow::Result<KafkaSource> {
        let mut config = settings.client();
        config.set("group.id", &options.group);
        config.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
        config.set("partition.assignment.strategy", "cooperative-sticky");
        config.set("allow.auto.create.topics", "false");
        // The lake says where to begin; an offset that is gone is an error to be looked at, not to be jumped over.
        config.set("auto.offset.reset", "error");
        let ends = options.until_end || options.portion.is_some();
        config.set("enable.partition.eof", if ends { "true" } else { "false" });
        // A consumer whose queue was full would rest for a second otherwise, which makes it several times slower.
        config.set("fetch.queue.backoff.ms", "10");
        config.set("queued.min.messages", "1000000");
        let queue_kbytes = (options.queue_bytes / 1024).clamp(1024, 1024 * 1024);
        let fetch_bytes = (options.queue_bytes / 4).clamp(1024 * 1024, 8 * 1024 * 1024);
        config.set("queued.max.messages.kbytes", queue_kbytes.to_string());
        config.set("fetch.max.bytes", fetch_bytes.to_string());
        config.set("message.max.bytes", (1024 * 1024).to_string());
        settings.finish(&mut config);
        let bell = Arc::<Bell>::default();
        let ringing = Arc::clone(&bell);
        let ring = move || ringing.ring();
        let consumer = Ending::new(&config, Context::new(settings), Some(ring)).context("joining the group")?;
        match options.portion {
            None => consumer.subscribe(&[&options.topic])?,
            Some(portion) => consumer.context().push(Rebalance::Assign(vec![portion.partition])),
        }
        let lookup = lookup(settings, &options.topic, &options.group).await?;
        // The prober has.
        consumer.context().reached();
        let consumer = Arc::new(consumer);
        let reader = Reader::start(Arc::clone(&consumer), &options.topic, bell, options.create_time)
            .context("starting a thread")?;
        Ok(KafkaSource {
            consumer,
            reader,
            lookup: Arc::new(lookup),
            options,
            waiting: BTreeMap::new(),
            reading: BTreeMap::new(),
            ours: BTreeSet::new(),
            going: Vec::new(),
            anew: Vec::new(),
            paused: BTreeSet::new(),
            ended: BTreeSet::new(),
            stored: BTreeMap::new(),
            committed: Instant::now(),
        })
    }

    /// How often partitions were dealt out anew, as it goes.
    pub fn rebalances(&self) -> impl Fn() -> u64 + Send + Sync + 'static {
        let consumer = Arc::clone(&self.consumer);
        move || consumer.context().rebalanced.load(Relaxed)
    }

    fn list(&self, partitions: impl IntoIterator<Item = (i32, Offset)>) -> anyhow::Result<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in partitions {
            list.add_partition_offset(&self.options.topic, partition, offset)?;
        }
        Ok(list)
    }

    /// Tells the group what is read from now on.
    fn settle(&mut self) -> anyhow::Result<()> {
        if !self.going.is_empty() {
            let going = std::mem::take(&mut self.going);
            self.commit();
            let read: Vec<i32> =
                going.iter().copied().filter(|partition| self.reading.remove(partition).is_some()).collect();
            // The group waits for this answer, also where nothing of it was read.
            self.consumer.incremental_unassign(&self.list(read.into_iter().map(|p| (p, Offset::Invalid)))?)?;
        }
        if !self.waiting.is_empty() {
            let waiting = std::mem::take(&mut self.waiting);
            self.reader.lead(waiting.keys().copied())?;
            let list = self.list(waiting.iter().map(|(&partition, &offset)| (partition, Offset::Offset(offset))))?;
            let ((), epoch) =
                self.reader.change(|consumer| Ok(consumer.incremental_assign(&list)?)).context("taking partitions")?;
            // Who is taken anew is awake.
            self.rest(waiting.keys().copied().collect(), true)?;
            self.reading.extend(waiting.into_keys().map(|partition| (partition, epoch)));
        }
        if self.committed.elapsed() >= COMMIT {
            self.commit();
            self.lookup.tend();
            // Where a partition was let go and taken again, librdkafka may have led it elsewhere since.
            self.reader.lead(self.reading.keys().copied())?;
            if self.consumer.context().doubted.swap(false, Relaxed) {
                self.ask_for_topic()?;
            }
        }
        ensure!(!self.consumer.context().gone.load(Relaxed), "topic `{}` is gone", self.options.topic);
        Ok(())
    }

    /// Asks the brokers whether the topic is there, beside everything else.
    fn ask_for_topic(&self) -> anyhow::Result<()> {
        let (consumer, topic) = (Arc::clone(&self.consumer), self.options.topic.clone());
        let ask = move || {
            let context = consumer.context();
            match topic::partitions(consumer.client(), &topic) {
                Ok(Some(_)) => {}
                Ok(None) => context.gone.store(true, Relaxed),
                // In a second it is asked again.
                Err(_) => context.doubted.store(true, Relaxed),
            }
        };
        std::thread::Builder::new().name("kafka-topic".into()).spawn(ask).context("starting a thread")?;
        Ok(())
    }

    /// Has those of these partitions that are paused rest, or all of them awake.
    fn rest(&self, partitions: Vec<i32>, rest: bool) -> anyhow::Result<()> {
        let wanted = partitions.into_iter().filter(|partition| !rest || self.paused.contains(partition));
        let list = self.list(wanted.map(|partition| (partition, Offset::Invalid)))?;
        if list.count() == 0 {
            return Ok(());
        }
        // While nothing is taken: librdkafka goes on later where we were, which it knows when a taking is over.
        let change =
            |consumer: &BaseConsumer<Context>| Ok(if rest { consumer.pause(&list) } else { consumer.resume(&list) }?);
        self.reader.change(change).map(|_| ())
    }

    /// Commits what the lake holds. Only those who watch the lag need it, so a failure is no more than told.
    fn commit(&mut self) {
        self.committed = Instant::now();
        let stored = std::mem::take(&mut self.stored);
        if stored.is_empty() {
            return;
        }
        let committed = self
            .list(stored.into_iter().map(|(partition, next)| (partition, Offset::Offset(next))))
            .and_then(|list| Ok(self.consumer.commit(&list, CommitMode::Async)?));
        if let Err(e) = committed {
            tracing::debug!("committing offsets: {e:#}");
        }
    }

    fn rebalanced(&mut self, change: Rebalance) -> anyhow::Result<LogEvent> {
        match change {
            Rebalance::Assign(partitions) => {
                // The group has its answer at once; the partitions are read when it is known where to begin.
                self.consumer.incremental_assign(&TopicPartitionList::new())?;
                self.ours.extend(&partitions);
                if let Ok(Some(count)) = topic::partitions(self.consumer.client(), &self.options.topic) {
                    self.options.partitions = count;
                }
                Ok(LogEvent::Assigned(partitions))
            }
            Rebalance::Revoke(partitions) => {
                for partition in &partitions {
                    self.ours.remove(partition);
                    self.waiting.remove(partition);
                    self.paused.remove(partition);
                    self.ended.remove(partition);
                }
                self.anew.retain(|partition| !partitions.contains(partition));
                self.going.extend(&partitions);
                Ok(LogEvent::Revoked(partitions))
            }
            Rebalance::Anew => {
                self.anew = self.reading.keys().copied().filter(|partition| self.ours.contains(partition)).collect();
                self.going.extend(&self.anew);
                self.paused.retain(|partition| !self.anew.contains(partition));
                Ok(LogEvent::Revoked(self.anew.clone()))
            }
        }
    }

    /// What a batch has that still counts: nothing that was fetched before a partition was taken or put elsewhere.
    fn of_now(&mut self, batch: Batch) -> anyhow::Result<Option<LogEvent>> {
        let Batch { mut records, ended, errors, create_time, epoch } = batch;
        let counts = |partition: &i32| self.reading.get(partition).is_some_and(|&from| from <= epoch);
        if !self.reading.values().all(|&from| from <= epoch) || self.reading.len() < self.ours.len() {
            records.retain(|partition, _| counts(&partition));
        }
        if let Some(portion) = self.options.portion {
            let all = records.len();
            records.retain(|_, offset| offset < portion.until);
            // Offsets may have holes, so what comes after the portion tells its end as well as its last record does.
            let passed = records.len() < all || records.iter().any(|record| record.offset + 1 == portion.until);
            self.ended.extend(passed.then_some(portion.partition));
        }
        let ended: Vec<i32> = ended.into_iter().filter(counts).collect();
        self.ended.extend(ended);
        errors.into_iter().try_for_each(|e| self.failed(e))?;
        // The log keeps what was taken before it.
        if create_time {
            bail!(topic::refuse_create_time(&self.options.topic));
        }
        Ok((!records.is_empty()).then_some(LogEvent::Records(records)))
    }

    /// What went wrong while reading: most of it librdkafka tries again by itself.
    fn failed(&self, error: KafkaError) -> anyhow::Result<()> {
        use rdkafka::error::RDKafkaErrorCode as Code;
        match error.rdkafka_error_code() {
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => {
                // Told by what looks for it.
                self.consumer.context().gone.store(true, Relaxed);
                Ok(())
            }
            Some(Code::TopicAuthorizationFailed) => {
                bail!("this principal may not read topic `{}`: it needs Read on it", self.options.topic)
            }
            Some(Code::GroupAuthorizationFailed) => {
                bail!("this principal may not use group `{}`: it needs Read on it", self.options.group)
            }
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                // Of which partition is not said. What was gathered is stored, and all of them begin where they are then.
                tracing::warn!("kafka: retention has taken records that were not read yet ({error}): looking anew");
                self.consumer.context().push(Rebalance::Anew);
                Ok(())
            }
            _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => Err(error.into()),
            _ => {
                tracing::warn!("kafka: {error}; trying on");
                Ok(())
            }
        }
    }
}

#[async_trait]
impl Source for KafkaSource {
    fn chain(&self) -> &str {
        &self.options.chain
    }

    fn partitions(&self) -> Option<i32> {
        Some(self.options.partitions)
    }

    fn lookup(&self) -> Arc<dyn Lookup> {
        Arc::clone(&self.lookup) as Arc<dyn Lookup>
    }

    async fn next(&mut self, wait: Duration) -> anyhow::Result<LogEvent> {
        let deadline = Instant::now() + wait;
        loop {
            self.settle()?;
            if !self.anew.is_empty() {
                return Ok(LogEvent::Assigned(std::mem::take(&mut self.anew)));
            }
            if let Some(change) = self.consumer.context().next_rebalance() {
                return self.rebalanced(change);
            }
            let ends = self.options.until_end || self.options.portion.is_some();
            if ends && !self.ours.is_empty() && self.ours.is_subset(&self.ended) {
                return Ok(LogEvent::End);
            }
            // Nothing is held here that a caller who gives up would lose.
            let again = deadline.min(self.committed + COMMIT);
            let batch = tokio::select! {
                biased;
                batch = self.reader.batches.recv() => batch.context("the thread that reads has ended")?,
                () = self.consumer.context().ready.notified() => continue,
                () = tokio::time::sleep_until(again) => {
                    if again == deadline {
                        return Ok(LogEvent::Idle);
                    }
                    continue;
                }
            };
            if let Some(records) = self.of_now(batch)? {
                return Ok(records);
            }
        }
    }

    async fn seek(&mut self, partition: i32, offset: i64) -> anyhow::Result<()> {
        if self.options.portion.is_some_and(|portion| portion.until <= offset) {
            // The lake has all of it already. Nothing of it is under way: what is not read anew comes no more.
            self.reading.remove(&partition);
            self.waiting.remove(&partition);
            self.ended.insert(partition);
            return Ok(());
        }
        if !self.reading.contains_key(&partition) {
            self.waiting.insert(partition, offset);
            return Ok(());
        }
        // Taken back and taken again: what was fetched for the old assignment is dropped with it, whatever state the
        // partition is in.
        let list = self.list([(partition, Offset::Offset(offset))])?;
        let again = |consumer: &BaseConsumer<Context>| {
            consumer.incremental_unassign(&list)?;
            Ok(consumer.incremental_assign(&list)?)
        };
        let ((), epoch) = self.reader.change(again)?;
        self.reading.insert(partition, epoch);
        self.ended.remove(&partition);
        self.rest(vec![partition], true)
    }

    async fn pause(&mut self, partitions: &[i32]) -> anyhow::Result<()> {
        self.paused.extend(partitions);
        self.rest(partitions.iter().copied().filter(|partition| self.reading.contains_key(partition)).collect(), true)
    }

    async fn resume(&mut self, partitions: &[i32]) -> anyhow::Result<()> {
        self.paused.retain(|partition| !partitions.contains(partition));
        self.rest(partitions.iter().copied().filter(|partition| self.reading.contains_key(partition)).collect(), false)
    }

    async fn stored(&mut self, partition: i32, next: i64) -> anyhow::Result<()> {
        self.stored.insert(partition, next);
        Ok(())
    }

    async fn close(&mut self) {
        self.commit();
        self.consumer.context().closing.store(true, Relaxed);
        let consumer = Arc::clone(&self.consumer);
        if self.options.portion.is_some() {
            // There is no group to leave.
            let _ = consumer.unassign();
            return;
        }
        // Leaving the group waits for its coordinator, and for the last commit. Who is closed before that stays in the group
        // until its session has ended, and whoever comes next waits for it.
        let leaving = tokio::task::spawn_blocking(move || {
            consumer.unsubscribe();
            let until = std::time::Instant::now() + Duration::from_secs(1);
            while std::time::Instant::now() < until && consumer.is_member() {
                let _ = consumer.poll(Duration::from_millis(10));
            }
        });
        let _ = leaving.await;
    }
}

/// Asks what a topic holds, without reading it.
///
/// # Errors
/// Where no broker can be reached.
pub async fn look(settings: &Settings, topic: &str, group: &str) -> anyhow::Result<Arc<dyn Lookup>> {
    Ok(Arc::new(lookup(settings, topic, group).await?))
}

/// What answers questions about a topic; it has reached a broker.
async fn lookup(settings: &Settings, topic: &str, group: &str) -> anyhow::Result<KafkaLookup> {
    let (settings, group) = (settings.clone(), group.to_owned());
    let prober = tokio::task::spawn_blocking(move || topic::prober(&settings, &group)).await??;
    Ok(KafkaLookup::new(topic, prober))
}
