//! Appending to a log, whichever it is: the spool of this machine, or a topic of Kafka.
//!
//! Whoever takes packets from devices ([`crate::local::broker`], [`crate::local::subscriber`]) appends here and
//! acknowledges once the ticket says that the packet is stored: synced to the disk, or with all replicas.

use super::{
    kafka::{Delivery, Sink},
    spool::{self, SpoolError},
};

/// Appends records to a log. Can be cloned and sent.
#[derive(Clone)]
pub enum Appender {
    Spool(spool::Appender),
    Kafka(Sink),
}

/// A record on its way into the log.
#[derive(Debug)]
pub enum Ticket {
    Spool(spool::Ticket),
    Kafka(Delivery),
}

/// Why a record could not be stored.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The brokers will never take it, as it is; they are waited for as long as they are only away.
    #[error("Kafka did not take a record: {0}")]
    Kafka(String),
}

impl From<spool::Appender> for Appender {
    fn from(appender: spool::Appender) -> Appender {
        Appender::Spool(appender)
    }
}

impl From<Sink> for Appender {
    fn from(sink: Sink) -> Appender {
        Appender::Kafka(sink)
    }
}

impl Appender {
    /// Takes a record and gives a ticket to wait for it with, so that one sender can have many on their way. Records of one
    /// sender and device keep their order. Waits while what is under way fills the log's budget.
    ///
    /// `device` may be anything, and `payload` of any length: a long one is cut so that it is still known to be too long,
    /// and becomes a dead letter.
    pub async fn enqueue(&self, device: &str, payload: &[u8]) -> Result<Ticket, AppendError> {
        match self {
            Appender::Spool(spool) => Ok(Ticket::Spool(spool.enqueue(device, payload).await?)),
            Appender::Kafka(sink) => {
                let (device, payload) = spool::kept(device, payload);
                sink.enqueue(device, payload).await.map(Ticket::Kafka).map_err(AppendError::Kafka)
            }
        }
    }

    /// What the log is called in messages.
    pub fn name(&self) -> &'static str {
        match self {
            Appender::Spool(_) => "the spool",
            Appender::Kafka(_) => "Kafka",
        }
    }
}

impl Ticket {
    /// Waits until the record is stored for good. May be dropped and called again.
    ///
    /// # Errors
    /// The record is not in the log.
    pub async fn stored(&mut self) -> Result<(), AppendError> {
        match self {
            Ticket::Spool(ticket) => Ok(ticket.stored().await.map(drop)?),
            Ticket::Kafka(delivery) => delivery.stored().await.map_err(AppendError::Kafka),
        }
    }

    /// What [`Ticket::stored`] would give at once; `None` where it would wait.
    pub fn try_stored(&mut self) -> Option<Result<(), AppendError>> {
        match self {
            Ticket::Spool(ticket) => Some(ticket.try_stored()?.map(drop).map_err(AppendError::from)),
            Ticket::Kafka(delivery) => Some(delivery.try_stored()?.map_err(AppendError::Kafka)),
        }
    }
}

impl AppendError {
    /// The log was closed: another one may store the record in a moment.
    pub fn is_closed(&self) -> bool {
        matches!(self, AppendError::Spool(SpoolError::Closed))
    }

    /// There is no space left.
    pub fn is_full(&self) -> bool {
        matches!(self, AppendError::Spool(SpoolError::Full { .. }))
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::{
        log::kafka::{Settings, SinkOptions},
        reading::MAX_PACKET_BYTES,
    };

    #[tokio::test(flavor = "multi_thread")]
    async fn either_log_says_when_a_record_is_stored_and_cuts_long_ones() {
        let folder = tempfile::tempdir().unwrap();
        let spool = spool::Spool::open(folder.path()).unwrap();
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("vitals", 2, 1).unwrap();
        let settings = Settings::plaintext(&cluster.bootstrap_servers());
        let sink = Sink::open(&settings, "vitals", SinkOptions::PROMPT).await.unwrap();
        let (stats, long) = (sink.stats(), vec![b'x'; 4 * 1024 * 1024]);
        for appender in [Appender::from(spool.appender()), Appender::from(sink)] {
            for (device, payload) in [("device_1", &b"{}"[..]), ("", b""), ("device_1", &long)] {
                let mut ticket = appender.enqueue(device, payload).await.unwrap();
                ticket.stored().await.unwrap();
                assert!(matches!(ticket.try_stored(), Some(Ok(()))), "{}", appender.name());
            }
        }
        assert_eq!(stats.stored.load(std::sync::atomic::Ordering::Relaxed), 3);
        assert!((MAX_PACKET_BYTES as u64..2 * MAX_PACKET_BYTES as u64).contains(&spool.stats().bytes));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn brokers_that_are_away_are_waited_for() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("vitals", 1, 1).unwrap();
        let settings = Settings::plaintext(&cluster.bootstrap_servers());
        let appender = Appender::from(Sink::open(&settings, "vitals", SinkOptions::PROMPT).await.unwrap());
        cluster.broker_down(1).unwrap();
        let mut ticket = appender.enqueue("device_1", b"{}").await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        assert!(ticket.try_stored().is_none());
        cluster.broker_up(1).unwrap();
        ticket.stored().await.unwrap();
    }
}
