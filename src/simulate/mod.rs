//! Simulated devices: bodies with vital signs that hang together, labelled episodes, and their packets over MQTT, or
//! right into a topic of Kafka.
//!
//! ```text
//! chance ┬─ body ────┬─ fleet ─┬─ book ┬ connection ── MQTT broker      publish: runs and paces all connections
//!        └─ episode ─┘         │       │   └ dial (to whom, as whom, with which certificate)
//!                              │       ├ kafka ─────── Kafka
//!                              │       ├ payload
//!                              │       └ sent (a file of what went out and was acknowledged)
//!                              └─ labels (a file of what was done to the readings)
//! ```
//!
//! Up to [`Fleet`] nothing touches a clock, a file or the network: readings and [`Label`]s are functions of
//! [`FleetOptions`]. [`run`] publishes them, in the time that passes, faster, or as fast as the broker takes them.

mod body;
mod book;
mod chance;
mod connection;
mod dial;
mod episode;
mod fleet;
mod kafka;
mod labels;
mod options;
mod payload;
mod publish;
mod sent;
#[cfg(test)]
mod tests;

pub use episode::{EpisodeKind, MAX_EPISODES_PER_DEVICE_DAY};
pub use fleet::{Fleet, FleetError, FleetOptions, MAX_DEVICES, device_id};
pub use labels::{Label, device_labels, labels, write_labels};
pub use options::{
    Broker, MAX_BATCH, MAX_IN_FLIGHT, PublishError, PublishOptions, Qos, Speed, TOPIC, Target, Things, Tls, Topic,
};
pub use payload::payload;
pub use publish::{Progress, Summary, run};
