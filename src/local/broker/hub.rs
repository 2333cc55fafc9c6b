//! What the connections of one broker share: who is connected, who wants copies, the budgets and the counters.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use mqtt_protocol_core::mqtt::Version;
use mqtt_protocol_core::mqtt::common::ArcPayload;
use mqtt_protocol_core::mqtt::packet::Property;
use tokio::sync::{Notify, Semaphore};

use super::packets;
use super::stats::{BrokerStats, Seldom};
use super::topics::{Subscriber, Subscriptions};
use crate::log::append::{AppendError, Appender};

/// The most bytes of packets over [`super::connection::SMALL_PACKET`] that are being received at once.
const LARGE_BYTES: usize = 64 * 1024 * 1024;

/// The most bytes that connections make the broker remember: client ids, wills, subscriptions.
const HELD_BYTES: usize = 64 * 1024 * 1024;

/// The connection that a client id has at present.
struct Client {
    connection: u64,
    /// Notified when another connection takes its place.
    end: Arc<Notify>,
}

/// See the module's own words.
pub struct Hub {
    pub appender: Appender,
    /// CONNECT must come within this.
    pub connect_time: Duration,
    pub stats: Arc<BrokerStats>,
    /// Bytes of large packets that may still be begun.
    pub large: Arc<Semaphore>,
    /// Bytes that may still be remembered.
    pub held: Arc<Semaphore>,
    /// Bytes of copies that wait in all mailboxes.
    pub mailboxes: Arc<AtomicUsize>,
    pub refused: Seldom,
    pub accepting: Seldom,
    log: Seldom,
    subscriptions: RwLock<Subscriptions>,
    /// By client id.
    clients: Mutex<HashMap<Box<str>, Client>>,
    connections: AtomicU64,
}

impl Hub {
    pub fn new(appender: Appender, connect_time: Duration) -> Hub {
        Hub {
            appender,
            connect_time,
            stats: Arc::default(),
            large: Arc::new(Semaphore::new(LARGE_BYTES)),
            held: Arc::new(Semaphore::new(HELD_BYTES)),
            mailboxes: Arc::default(),
            refused: Seldom::new(),
            accepting: Seldom::new(),
            log: Seldom::new(),
            subscriptions: RwLock::default(),
            clients: Mutex::default(),
            connections: AtomicU64::new(0),
        }
    }

    /// A number for a new connection.
    pub fn number(&self) -> u64 {
        self.connections.fetch_add(1, Relaxed)
    }

    /// Makes `connection` the one of this client id and ends the one that it had.
    pub fn enter(&self, client_id: &str, connection: u64, end: &Arc<Notify>) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(earlier) = clients.insert(client_id.into(), Client { connection, end: Arc::clone(end) }) {
            earlier.end.notify_one();
        }
    }

    /// Forgets a connection.
    pub fn leave(&self, client_id: &str, connection: u64) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.get(client_id).is_some_and(|client| client.connection == connection) {
            clients.remove(client_id);
        }
    }

    pub fn subscribe(&self, filter: &str, subscriber: Subscriber) {
        if self.subscriptions.write().unwrap_or_else(PoisonError::into_inner).add(filter, subscriber) {
            self.stats.subscriptions.fetch_add(1, Relaxed);
        }
    }

    pub fn unsubscribe(&self, filter: &str, connection: u64) {
        if self.subscriptions.write().unwrap_or_else(PoisonError::into_inner).remove(filter, connection) {
            self.stats.subscriptions.fetch_sub(1, Relaxed);
        }
    }

    /// Passes copies of a publish to those who subscribed to its topic. Waits for nobody.
    pub fn copy(&self, publisher: u64, topic: &str, payload: &ArcPayload, properties: &[Property]) {
        if self.stats.subscriptions.load(Relaxed) == 0 {
            return;
        }
        let subscribers = self.subscriptions.read().unwrap_or_else(PoisonError::into_inner).matching(topic, publisher);
        let (mut v3, mut v5) = (None, None);
        for Subscriber { mailbox, .. } in subscribers {
            let encoded = if mailbox.version == Version::V5_0 { &mut v5 } else { &mut v3 };
            let packet = encoded.get_or_insert_with(|| packets::copy(mailbox.version, topic, payload, properties));
            let taken = packet.as_ref().is_some_and(|packet| mailbox.push(packet));
            let count = if taken { &self.stats.copies } else { &self.stats.copies_dropped };
            count.fetch_add(1, Relaxed);
        }
    }

    /// Says that publishes are not being stored.
    pub fn complain(&self, error: &AppendError) {
        self.log.say(|skipped| {
            tracing::error!("publishes are not acknowledged, as they can't be stored: {error} ({skipped} more since)")
        });
    }
}
