//! Whether the topic is there, how many partitions it has, and whether its brokers stamp arrival.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rdkafka::{
    admin::{self, AdminClient, AdminOptions, ResourceSpecifier, TopicReplication},
    client::Client,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{
    Settings, TopicAddress,
    consumer::Ending,
    context::{Context, introduce},
};

/// How long a question to the brokers may take.
pub(super) const ANSWER: Duration = Duration::from_secs(15);

/// How long a broker that lets nobody in is asked again: another one may know better.
const REFUSED: Duration = Duration::from_secs(2);

/// The topic's setting that says whose clock stamps records.
const STAMPED_BY: &str = "message.timestamp.type";

/// A topic that is to be made where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewTopic {
    pub partitions: i32,
    pub replication: i32,
}

/// Makes sure that the topic is there; gives its number of partitions.
///
/// # Errors
/// Where no broker can be reached, the topic is not there and may not be made, or its records carry their producers'
/// times and `create_time` does not allow that.
pub async fn prepare(
    settings: &Settings,
    address: &TopicAddress,
    new: NewTopic,
    create_time: bool,
) -> anyhow::Result<i32> {
    let (settings, topic) = (settings.clone(), address.topic.clone());
    let asker = tokio::task::spawn_blocking(move || Asker::connect(&settings)).await??;
    let partitions = match count(&asker, &topic).await? {
        Some(partitions) => partitions,
        None => make(&asker, &topic, new).await?,
    };
    if !create_time && stamped_by(&asker.admin, &topic).await?.as_deref() == Some("CreateTime") {
        bail!(refuse_create_time(&topic));
    }
    Ok(partitions)
}

/// What is said of a topic whose records carry their producers' times.
pub(super) fn refuse_create_time(topic: &str) -> String {
    format!(
        "topic `{topic}` keeps its producers' times ({STAMPED_BY}=CreateTime), not when records arrived\nhint: set \
         `{STAMPED_BY}=LogAppendTime` on the topic, or take the producers' times, where they are not ahead of this \
         machine's clock, by `vitals ingest --accept-create-time`"
    )
}

/// What asks about topics, and may make one.
struct Asker {
    consumer: Arc<Ending>,
    admin: AdminClient<Context>,
}

impl Asker {
    /// One that has reached a broker.
    fn connect(settings: &Settings) -> anyhow::Result<Asker> {
        let mut config = settings.client();
        settings.finish(&mut config);
        let consumer = Ending::new(&config, Context::new(settings), None::<fn()>)?;
        reach(&consumer, &settings.brokers)?;
        let admin = AdminClient::from_config_and_context(&config, Context::new(settings))?;
        introduce(admin.inner())?;
        Ok(Asker { consumer: Arc::new(consumer), admin })
    }
}

/// Waits for a broker's answer to a new client.
pub(super) fn reach(consumer: &BaseConsumer<Context>, brokers: &str) -> anyhow::Result<()> {
    introduce(consumer.client())?;
    let mut until = Instant::now() + ANSWER;
    loop {
        // Why it gets no answer is told only to who polls.
        while let Some(told) = consumer.poll(Duration::from_millis(20)) {
            let code = told.err().and_then(|e| e.rdkafka_error_code());
            if let Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL) = code {
                until = until.min(Instant::now() + REFUSED);
            }
        }
        match consumer.client().fetch_metadata(Some("__vitals_is_anybody_there"), Duration::from_millis(500)) {
            Ok(_) => {
                consumer.context().reached();
                return Ok(());
            }
            Err(e) if Instant::now() >= until => {
                let why = consumer.context().last_error().unwrap_or_else(|| e.to_string());
                bail!("can't reach Kafka at {brokers}: {why}");
            }
            Err(_) => {}
        }
    }
}

/// The number of the topic's partitions; `None` where there is no such topic.
async fn count(asker: &Asker, topic: &str) -> anyhow::Result<Option<i32>> {
    let (consumer, topic) = (Arc::clone(&asker.consumer), topic.to_owned());
    tokio::task::spawn_blocking(move || partitions(consumer.client(), &topic)).await?
}

/// The number of the topic's partitions; `None` where there is no such topic.
pub(super) fn partitions(client: &Client<Context>, topic: &str) -> anyhow::Result<Option<i32>> {
    let metadata = client.fetch_metadata(Some(topic), ANSWER).with_context(|| format!("asking for topic `{topic}`"))?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
    match found.error().map(RDKafkaErrorCode::from) {
        None => Ok(Some(i32::try_from(found.partitions().len()).unwrap_or(i32::MAX))),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(None),
        // A topic that was just made has no leaders yet.
        Some(RDKafkaErrorCode::LeaderNotAvailable) => Ok(Some(i32::try_from(found.partitions().len()).unwrap_or(0))),
        Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
            bail!("this principal may not read topic `{topic}` (or it is not there): it needs Describe and Read on it")
        }
        Some(error) => Err(KafkaError::MetadataFetch(error)).with_context(|| format!("asking for topic `{topic}`")),
    }
}

/// Makes the topic, so that its brokers stamp arrival.
async fn make(asker: &Asker, topic: &str, new: NewTopic) -> anyhow::Result<i32> {
    let wanted = admin::NewTopic::new(topic, new.partitions, TopicReplication::Fixed(new.replication))
        .set(STAMPED_BY, "LogAppendTime");
    let options = AdminOptions::new().operation_timeout(Some(ANSWER));
    let made =
        asker.admin.create_topics([&wanted], &options).await.with_context(|| format!("making topic `{topic}`"))?;
    match made.into_iter().next() {
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {}
        Some(Err((_, RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed))) => {
            bail!(
                "there is no topic `{topic}`, and this principal may not make it\nhint: somebody who may makes it with \
             {STAMPED_BY}=LogAppendTime"
            )
        }
        Some(Err((_, RDKafkaErrorCode::InvalidReplicationFactor))) => bail!(
            "there is no topic `{topic}`, and the cluster has too few brokers to make it with {} replicas\nhint: \
             `--kafka-replication` says how many",
            new.replication
        ),
        Some(Err((_, error))) => {
            return Err(KafkaError::AdminOp(error)).with_context(|| format!("making topic `{topic}`"));
        }
        Some(Ok(_)) | None => tracing::info!(topic, partitions = new.partitions, "made"),
    }
    // Brokers learn of it one after the other.
    for _ in 0..50 {
        if let Some(partitions) = count(asker, topic).await?.filter(|&partitions| partitions > 0) {
            return Ok(partitions);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("topic `{topic}` was made, but no broker knows it yet; run the command again")
}

/// Whose clock stamps the topic's records; `None` where that may not be asked: the records themselves tell it too.
async fn stamped_by(client: &AdminClient<Context>, topic: &str) -> anyhow::Result<Option<String>> {
    let options = AdminOptions::new().request_timeout(Some(ANSWER));
    let described = client.describe_configs([&ResourceSpecifier::Topic(topic)], &options).await;
    let Some(Ok(settings)) = described.ok().and_then(|all| all.into_iter().next()) else { return Ok(None) };
    Ok(settings.get(STAMPED_BY).and_then(|entry| entry.value.clone()))
}

/// A consumer that reads where it is told to. It names the group, as it could not read otherwise, and does not join it.
pub(super) fn prober(settings: &Settings, group: &str) -> anyhow::Result<Ending> {
    let mut config = settings.client();
    config.set("group.id", group);
    config.set("enable.auto.commit", "false").set("enable.partition.eof", "true");
    config.set("allow.auto.create.topics", "false");
    // One record at a time is all that is wanted of it.
    config.set("fetch.wait.max.ms", "50").set("queued.max.messages.kbytes", "1024").set("fetch.max.bytes", "1048576");
    config.set("max.partition.fetch.bytes", "262144").set("message.max.bytes", "1000000");
    settings.finish(&mut config);
    let consumer = Ending::new(&config, Context::new(settings), None::<fn()>)?;
    reach(&consumer, &settings.brokers)?;
    Ok(consumer)
}
