//! Kafka as a log: partitions of one topic, read by any number of workers of a group.
//!
//! What is stored is known to the lake alone. The group only deals out partitions; offsets are committed for those who
//! watch the lag, and losing them loses and doubles nothing.
//!
//! - `settings`: how to reach and convince the brokers. `topic`: whether the topic is there and stamps arrival.
//! - `context`: what librdkafka calls back for. `consumer`: one that ends in time. `reader`: the thread that takes
//!   records, from `queue`. `source`: the log as ingest reads it. `lookup`: what it holds, and `topic_id`: whether it is
//!   still the same.
//! - `sink`: records into a topic, as the bridge and the simulator send them.

use std::{fmt, str::FromStr};

mod consumer;
mod context;
mod lookup;
mod queue;
mod reader;
mod settings;
mod sink;
mod source;
mod topic;
mod topic_id;

#[cfg(test)]
mod tests;

pub use settings::{Auth, Secret, Security, Settings};
pub use sink::{Delivery, Sink, SinkOptions, SinkStats};
pub use source::{KafkaSource, Portion, SourceOptions, look};
pub use topic::{NewTopic, prepare};

/// Where a topic is: `kafka://HOST:PORT[,HOST:PORT…]/TOPIC`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicAddress {
    /// Brokers to ask first, as librdkafka takes them.
    pub brokers: String,
    pub topic: String,
}

impl TopicAddress {
    /// The name of the chain under which the lake has this topic, unless another is given.
    pub fn chain(&self) -> String {
        format!("kafka-{}", self.topic)
    }
}

/// Whether Kafka takes this as a topic's name.
pub fn valid_topic(name: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=249).contains(&name.len()) && name.bytes().all(legal) && name != "." && name != ".."
}

/// Brokers as `HOST:PORT[,HOST:PORT…]`; 9092 where no port is given.
pub fn parse_brokers(text: &str) -> Result<String, String> {
    let broker = |text: &str| -> Result<String, String> {
        let wrong = || format!("`{text}` is no broker: write HOST:PORT");
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.ends_with(':') => (host, port.parse().map_err(|_| wrong())?),
            _ => (text, 9092u16),
        };
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '[' | ']' | ':');
        if host.is_empty() || !host.chars().all(legal) { Err(wrong()) } else { Ok(format!("{host}:{port}")) }
    };
    text.split(',').map(broker).collect::<Result<Vec<_>, _>>().map(|brokers| brokers.join(","))
}

impl FromStr for TopicAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<TopicAddress, String> {
        let wrong = || format!("`{text}` names no topic: write kafka://HOST:PORT/TOPIC");
        let (brokers, topic) = text.strip_prefix("kafka://").and_then(|rest| rest.split_once('/')).ok_or_else(wrong)?;
        if !valid_topic(topic) {
            return Err(format!("`{topic}` is no name of a topic: letters, digits, `.`, `_` and `-`, up to 249"));
        }
        Ok(TopicAddress { brokers: parse_brokers(brokers)?, topic: topic.to_owned() })
    }
}

impl fmt::Display for TopicAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kafka://{}/{}", self.brokers, self.topic)
    }
}
