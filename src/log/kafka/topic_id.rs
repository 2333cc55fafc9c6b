//! The id that brokers give a topic when it is made. A topic that is deleted and made anew under its name has another.

use std::{ffi::CString, ptr::null_mut, time::Duration};

use rdkafka::{
    bindings::{self, rd_kafka_TopicDescription_t, rd_kafka_admin_op_t, rd_kafka_event_t},
    client::Client,
    error::RDKafkaErrorCode as Code,
};

use super::context::Context;
use crate::log::LogId;

/// How long one broker may take to answer: there may be another one that does, and slices wait.
const ANSWER: Duration = Duration::from_secs(3);

/// Asks a broker that answers for the id of a topic; `None` where there is no such topic, or brokers give topics no ids, as
/// those of before Kafka 2.8.
///
/// # Errors
/// Where no broker answers in twice [`ANSWER`], or it says that something is wrong.
pub(super) fn ask(client: &Client<Context>, topic: &str) -> anyhow::Result<Option<LogId>> {
    let name = CString::new(topic)?;
    let mut names = [name.as_ptr()];
    // Left to itself, librdkafka asks the controller, which a cluster may be without while records are read.
    let broker = client.fetch_metadata(Some(topic), ANSWER)?.orig_broker_id();
    let answer_ms = i32::try_from(ANSWER.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client outlives the call; librdkafka copies names and options; queue, collection, options and event are
    // destroyed here, once each, and nothing of them is kept. An option that is refused keeps its default.
    unsafe {
        let rk = client.native_ptr();
        let options = bindings::rd_kafka_AdminOptions_new(rk, rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        bindings::rd_kafka_AdminOptions_set_request_timeout(options, answer_ms, null_mut(), 0);
        bindings::rd_kafka_AdminOptions_set_broker(options, broker, null_mut(), 0);
        let queue = bindings::rd_kafka_queue_new(rk);
        let topics = bindings::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr().cast(), names.len());
        bindings::rd_kafka_DescribeTopics(rk, topics, options, queue);
        let event = bindings::rd_kafka_queue_poll(queue, answer_ms);
        let described = answer(event, topic);
        if !event.is_null() {
            bindings::rd_kafka_event_destroy(event);
        }
        bindings::rd_kafka_TopicCollection_destroy(topics);
        bindings::rd_kafka_queue_destroy(queue);
        bindings::rd_kafka_AdminOptions_destroy(options);
        described
    }
}

/// Reads the answer.
///
/// # Safety
/// `event` is null or an event of librdkafka that is there until this returns.
unsafe fn answer(event: *mut rd_kafka_event_t, topic: &str) -> anyhow::Result<Option<LogId>> {
    anyhow::ensure!(!event.is_null(), "no broker answered within {} s about topic `{topic}`", ANSWER.as_secs());
    // SAFETY: as above; what librdkafka gives here points into the event.
    unsafe {
        match Code::from(bindings::rd_kafka_event_error(event)) {
            Code::NoError => {}
            Code::UnsupportedFeature => return Ok(None),
            e => anyhow::bail!("asking about topic `{topic}`: {e}"),
        }
        let mut count = 0;
        let result = bindings::rd_kafka_event_DescribeTopics_result(event);
        anyhow::ensure!(!result.is_null(), "librdkafka gave another answer about topic `{topic}`");
        let topics = bindings::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        anyhow::ensure!(count == 1 && !topics.is_null(), "librdkafka gave {count} answers about topic `{topic}`");
        of_topic(*topics, topic)
    }
}

/// Reads the answer about one topic.
///
/// # Safety
/// `described` is a description of librdkafka that is there until this returns.
unsafe fn of_topic(described: *const rd_kafka_TopicDescription_t, topic: &str) -> anyhow::Result<Option<LogId>> {
    // SAFETY: as above; a code is a plain number, and null stands for no error.
    let (code, id) = unsafe {
        let error = bindings::rd_kafka_TopicDescription_error(described);
        let code = bindings::rd_kafka_error_code(error);
        (Code::from(code), bindings::rd_kafka_TopicDescription_topic_id(described))
    };
    match code {
        Code::NoError => {}
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownTopicId => return Ok(None),
        e => anyhow::bail!("asking about topic `{topic}`: {e}"),
    }
    if id.is_null() {
        return Ok(None);
    }
    // SAFETY: the id is there as long as its description.
    let (most, least) = unsafe {
        (bindings::rd_kafka_Uuid_most_significant_bits(id), bindings::rd_kafka_Uuid_least_significant_bits(id))
    };
    let id = u128::from(most.cast_unsigned()) << 64 | u128::from(least.cast_unsigned());
    Ok((id != 0).then_some(LogId(id)))
}
