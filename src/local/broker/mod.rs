//! The embedded broker: MQTT 3.1.1 and 5 for the devices of one machine.
//!
//! A publish to `iot/device/<id>` goes into the log, which is the spool or Kafka, and is acknowledged when it is stored for
//! good, not before: that is why this broker exists. Subscribers (a person with `mosquitto_sub`) get copies on the side.
//!
//! ```text
//!                     ┌────────────► Appender ──► log ──► Ticket ──► PUBACK, PUBREC
//! socket ─► connection┤ publish
//!                     └─► Hub::copy ──► mailbox of each subscriber ──► its connection ──► socket
//! ```
//!
//! - `connection`: one client's socket and its state. `publish`: what it sends. `session`: who it is.
//! - `hub`: what connections share. `topics`: subscriptions. `mailbox`: copies that wait. `packets`: answers.
//! - `framing`: where packets end. `quirks`: what the protocol library does not bear.
//!
//! The protocol's state machine is `mqtt-protocol-core`, which does no I/O, so this module decides when to acknowledge.
//!
//! What is served, and what is not:
//! - QoS 0, 1 and 2 from clients. A record is acknowledged at QoS 1 or 2 when it is stored. QoS 2 keeps its promise of
//!   once only while the connection lasts: sessions end with their connections, so after a reconnect a client may send a
//!   record again, as with QoS 1.
//! - Subscriptions with wildcards, at QoS 0. No retained messages (the flag is accepted and ignored), no sessions that
//!   outlive the connection, no shared subscriptions, no topic aliases. Version 5 clients are told so in CONNACK.
//! - Wills are passed to subscribers, not to the log. No authentication: it listens on this machine only, by default.
//! - Every buffer is bounded: 32 KB a connection at most, and budgets that all share, of 64 MiB each, for copies, for
//!   long packets, and for what connections ask to be remembered. Who publishes too fast is slowed down, at any QoS; who
//!   reads too slowly loses copies.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use crate::log::append::Appender;

mod connection;
mod framing;
mod hub;
mod mailbox;
mod packets;
mod publish;
mod quirks;
mod session;
mod stats;
mod topics;

#[cfg(test)]
mod tests;

pub use stats::BrokerStats;

use connection::Connection;
use hub::Hub;

/// How long connections have to end on shutdown. It is longer than each of them allows itself.
const SHUTDOWN_TIME: Duration = Duration::from_secs(8);

/// How a broker is to be run.
#[derive(Debug, Clone)]
pub struct BrokerOptions {
    /// Where to listen. Port 0 takes any free one.
    pub listen: SocketAddr,
    /// The most connections at a time.
    pub max_connections: usize,
    /// How long a new connection may take to say who it is.
    pub connect_time: Duration,
}

impl Default for BrokerOptions {
    /// MQTT's port on this machine only, 10,000 connections, 10 seconds.
    fn default() -> BrokerOptions {
        BrokerOptions {
            listen: SocketAddr::from(([127, 0, 0, 1], 1883)),
            max_connections: 10_000,
            connect_time: Duration::from_secs(10),
        }
    }
}

/// Why a broker could not start.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Something else listens there.
    #[error("{listen} is in use: stop the MQTT broker that listens there, or choose another address")]
    InUse { listen: SocketAddr },
    /// The system does not let us listen there.
    #[error("could not listen on {listen} for MQTT")]
    Listen {
        listen: SocketAddr,
        #[source]
        source: io::Error,
    },
}

/// A broker that listens. It serves while [`Broker::run`] does.
pub struct Broker {
    listener: TcpListener,
    local_addr: SocketAddr,
    max_connections: usize,
    hub: Arc<Hub>,
}

impl Broker {
    /// Begins to listen. Publishes of devices go to `appender`.
    pub async fn bind(options: BrokerOptions, appender: impl Into<Appender>) -> Result<Broker, BrokerError> {
        let listen = options.listen;
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => BrokerError::InUse { listen },
            _ => BrokerError::Listen { listen, source },
        };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let local_addr = listener.local_addr().map_err(failed)?;
        let hub = Arc::new(Hub::new(appender.into(), options.connect_time));
        Ok(Broker { listener, local_addr, max_connections: options.max_connections, hub })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Its counters, which go on counting while it runs.
    pub fn stats(&self) -> Arc<BrokerStats> {
        Arc::clone(&self.hub.stats)
    }

    /// Serves clients until `shutdown` is done. Then it takes nothing more, stores and acknowledges what it has read,
    /// and says goodbye. Close the log after this, not before.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Broker { listener, max_connections, hub, .. } = self;
        let (stop, stopped) = watch::channel(false);
        let mut connections = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                Some(ended) = connections.join_next() => report(ended),
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) if connections.len() < max_connections => {
                        connections.spawn(serve(Arc::clone(&hub), stream, stopped.clone()));
                    }
                    Ok(_) => refuse(&hub, max_connections),
                    Err(error) => wait_to_accept(&hub, &error).await,
                },
            }
        }
        drop(listener);
        stop.send_replace(true);
        let ending = async {
            while let Some(ended) = connections.join_next().await {
                report(ended);
            }
        };
        if tokio::time::timeout(SHUTDOWN_TIME, ending).await.is_err() {
            tracing::warn!("{} MQTT connections did not end in {SHUTDOWN_TIME:?} and are cut", connections.len());
            connections.shutdown().await;
        }
    }
}

async fn serve(hub: Arc<Hub>, stream: TcpStream, stopped: watch::Receiver<bool>) {
    // Acknowledgements are small and waited for. Without this they are only later.
    let _ = stream.set_nodelay(true);
    Connection::new(hub, stream).serve(stopped).await;
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!("an MQTT connection was cut by a fault of the broker: {error}");
    }
}

fn refuse(hub: &Hub, max_connections: usize) {
    hub.stats.refused.fetch_add(1, Relaxed);
    hub.refused.say(|skipped| {
        tracing::warn!("an MQTT connection was refused, as there are {max_connections} ({skipped} more since)");
    });
}

/// After a failed accept: mostly the process is out of file descriptors, and only time helps.
async fn wait_to_accept(hub: &Hub, error: &io::Error) {
    hub.accepting.say(|skipped| {
        tracing::warn!("could not accept an MQTT connection: {error} ({skipped} more since); `ulimit -n` may be low");
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
}
