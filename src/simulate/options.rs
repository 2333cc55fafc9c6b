//! What to publish, where and how, and why that can't be done.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use rumqttc::QoS;
use tokio::sync::watch;

use super::fleet::{FleetError, FleetOptions};
use crate::log::kafka::{NewTopic, Settings, TopicAddress};

/// Devices publish on `iot/device/<device id>`.
pub const TOPIC: &str = "iot/device";

/// The most readings in one packet: with room to spare below what a broker takes.
pub const MAX_BATCH: u32 = 500;

/// The most unacknowledged packets of one connection. AWS IoT Core's limit is the same.
pub const MAX_IN_FLIGHT: u16 = 100;

/// The ports of MQTT without encryption, and with it.
const MQTT_PORT: u16 = 1883;
pub(super) const MQTTS_PORT: u16 = 8883;

/// Where a broker listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    pub host: String,
    pub port: u16,
    /// How it is trusted and what it is shown, where connections are encrypted.
    pub tls: Option<Tls>,
}

/// What TLS needs to know; all files are PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// The authorities that may have signed the broker's certificate; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// The certificate that every connection shows, and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

impl Broker {
    /// A broker without encryption.
    pub fn plain(host: impl Into<String>, port: u16) -> Broker {
        Broker { host: host.into(), port, tls: None }
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "mqtts://" } else { "" };
        write!(f, "{scheme}{}:{}", self.host, self.port)
    }
}

impl FromStr for Broker {
    type Err = String;

    /// `host`, `host:port`, `mqtt://host:port` or, with TLS, `mqtts://host:port`; an IPv6 address stands in brackets.
    fn from_str(text: &str) -> Result<Self, String> {
        let (encrypted, address) = match text.strip_prefix("mqtts://") {
            Some(address) => (true, address),
            None => (false, text.strip_prefix("mqtt://").unwrap_or(text)),
        };
        let address = address.trim_end_matches('/');
        if address.contains("://") {
            return Err("only mqtt:// and mqtts:// are supported here".into());
        }
        let after_host = if address.starts_with('[') { address.find(']').map_or(0, |end| end + 1) } else { 0 };
        let (host, port) = match address[after_host..].rfind(':') {
            Some(colon) => (&address[..after_host + colon], &address[after_host + colon + 1..]),
            None => (address, ""),
        };
        let odd = |c: char| c.is_whitespace() || matches!(c, '/' | '@' | '#' | '?');
        if host.is_empty() || host.contains(odd) || (after_host == 0 && host.contains(':')) {
            return Err("expected HOST:PORT, such as 127.0.0.1:1883 or [::1]:1883".into());
        }
        let port = match port {
            "" if encrypted => MQTTS_PORT,
            "" => MQTT_PORT,
            number => number.parse().ok().filter(|port| *port > 0).ok_or_else(|| format!("`{number}` is no port"))?,
        };
        Ok(Broker { host: host.into(), port, tls: encrypted.then(Tls::default) })
    }
}

/// Devices with a certificate each, as `vitals devices add` makes them, and where they publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Things {
    /// AWS IoT Core, or a broker like it.
    pub broker: Broker,
    /// The rule that takes packets without a broker between: they go to `$aws/rules/<rule>/iot/device/<id>`.
    pub rule: String,
    /// Certificate and key of each device, in the fleet's order.
    pub certificates: Vec<(PathBuf, PathBuf)>,
}

/// A topic of Kafka that packets go into without a broker of MQTT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    pub address: TopicAddress,
    pub settings: Settings,
    /// As it is made where it is not there.
    pub new: NewTopic,
}

/// Where packets go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Mqtt(Broker),
    /// With the identities of the devices, and within the limits of AWS IoT Core.
    Things(Things),
    Kafka(Topic),
}

impl From<Broker> for Target {
    fn from(broker: Broker) -> Target {
        Target::Mqtt(broker)
    }
}

impl From<Things> for Target {
    fn from(things: Things) -> Target {
        Target::Things(things)
    }
}

impl From<Topic> for Target {
    fn from(topic: Topic) -> Target {
        Target::Kafka(topic)
    }
}

/// How fast simulated time passes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    /// This many times as fast as the clock, at least 1.
    Times(f64),
    /// As fast as the broker takes the packets.
    Max,
}

/// What MQTT promises for a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// 0: sent once, never acknowledged.
    AtMostOnce,
    /// 1: sent until acknowledged.
    AtLeastOnce,
}

impl Qos {
    pub(super) fn mqtt(self) -> QoS {
        match self {
            Qos::AtMostOnce => QoS::AtMostOnce,
            Qos::AtLeastOnce => QoS::AtLeastOnce,
        }
    }
}

/// What to publish, where and how.
#[derive(Debug, Clone)]
pub struct PublishOptions {
    pub fleet: FleetOptions,
    pub target: Target,
    pub speed: Speed,
    pub qos: Qos,
    /// Readings per packet, 1 to [`MAX_BATCH`].
    pub batch: u32,
    /// Connections; devices share them evenly. `None`: one for each device, named like it.
    pub connections: Option<u32>,
    /// Packets of a connection that may wait for their acknowledgement, 1 to [`MAX_IN_FLIGHT`].
    pub in_flight: u16,
    /// New connections a second, at least 1, first and after failures.
    pub connects_per_s: u32,
    /// How long a broker may be away or silent after the run's end before what is left is given up; with Kafka, how long a
    /// packet may wait for its acknowledgement.
    pub patience: Duration,
    /// Where to write what was sent, one JSON object per reading.
    pub sent: Option<PathBuf>,
    /// Where to write the labels of what was sent, one JSON object per episode.
    pub labels: Option<PathBuf>,
    /// Ends the run early and cleanly when it becomes true.
    pub stop: Option<watch::Receiver<bool>>,
}

impl PublishOptions {
    /// A fleet as fast as its packets are taken, acknowledged, 60 readings a packet.
    pub fn new(fleet: FleetOptions, target: impl Into<Target>) -> Self {
        PublishOptions {
            fleet,
            target: target.into(),
            speed: Speed::Max,
            qos: Qos::AtLeastOnce,
            batch: 60,
            connections: None,
            in_flight: 20,
            connects_per_s: 500,
            patience: Duration::from_secs(30),
            sent: None,
            labels: None,
            stop: None,
        }
    }

    /// Whether these options can be carried out.
    ///
    /// # Errors
    /// Names the one that can't.
    pub fn check(&self) -> Result<(), PublishError> {
        self.fleet.check()?;
        let wrong = |message: String| Err(PublishError::Options(message));
        if let Speed::Times(times) = self.speed
            && !(times >= 1.0 && times.is_finite())
        {
            return wrong(format!("the speed must be 1 or more, not {times}"));
        }
        if !(1..=MAX_BATCH).contains(&self.batch) {
            return wrong(format!("a packet has 1 to {MAX_BATCH} readings, not {}", self.batch));
        }
        if !(1..=MAX_IN_FLIGHT).contains(&self.in_flight) {
            return wrong(format!("1 to {MAX_IN_FLIGHT} packets may be in flight, not {}", self.in_flight));
        }
        if let Target::Things(things) = &self.target
            && (things.certificates.len() as u64) < u64::from(self.fleet.devices)
        {
            return wrong(format!(
                "{} devices have only {} certificates",
                self.fleet.devices,
                things.certificates.len()
            ));
        }
        if self.connects_per_s == 0 || self.connections == Some(0) {
            return wrong("connections, and connections a second, must be 1 or more".into());
        }
        Ok(())
    }

    /// How many connections there will be. To Kafka there is one producer; who has a certificate has a connection.
    pub fn connections_used(&self) -> u32 {
        let connections = match self.target {
            Target::Mqtt(_) => self.connections,
            Target::Things(_) => None,
            Target::Kafka(_) => Some(1),
        };
        connections.unwrap_or(self.fleet.devices).min(self.fleet.devices)
    }
}

/// Why nothing, or not everything, could be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error(transparent)]
    Fleet(#[from] FleetError),
    #[error("{0}")]
    Options(String),
    #[error(
        "no MQTT broker answers at {broker} ({reason}): start one with `vitals up`, or name another with `--broker`"
    )]
    NoBroker { broker: Box<Broker>, reason: String },
    #[error("the MQTT broker at {broker} refused the connection: {reason}")]
    Refused { broker: Box<Broker>, reason: String },
    #[error("no connection to {broker}: {reason}\nhint: {hint}")]
    Encrypted { broker: Box<Broker>, reason: String, hint: String },
    #[error("`{path}`: {reason}")]
    Pem { path: String, reason: String },
    #[error(
        "{connections} connections need more open files than the {limit} that this shell allows: run `ulimit -n {needed}` \
         first, or let devices share connections with `--connections`"
    )]
    OpenFiles { connections: u32, limit: u64, needed: u64 },
    #[error(transparent)]
    Kafka(anyhow::Error),
    #[error("writing {path}: {error}")]
    File { path: String, error: std::io::Error },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_read_from_addresses() {
        let broker = |host: &str, port| Ok(Broker::plain(host, port));
        assert_eq!("127.0.0.1:1884".parse(), broker("127.0.0.1", 1884));
        assert_eq!("mqtt://ward.example/".parse(), broker("ward.example", 1883));
        assert_eq!("localhost".parse(), broker("localhost", 1883));
        assert_eq!("[::1]:99".parse(), broker("[::1]", 99));
        assert_eq!("[::1]".parse(), broker("[::1]", 1883));
        let encrypted = "mqtts://ward.example".parse::<Broker>().unwrap();
        assert_eq!((encrypted.port, encrypted.tls.is_some()), (8883, true));
        assert_eq!(encrypted.to_string().parse(), Ok(encrypted));
        for bad in ["", ":1883", "a:b", "a:0", "a:70000", "::1", "https://a", "a b", "user@host", "[::1"] {
            assert!(bad.parse::<Broker>().is_err(), "{bad}");
        }
    }
}
