//! Packets from somebody else's broker into the spool: stored first, acknowledged then.

use std::{fmt, str::FromStr, time::Duration};

use anyhow::Context;
use rumqttc::{AsyncClient, ConnectionError, Event, MqttOptions, Packet, Publish, QoS};
use tokio::sync::{mpsc, watch};

use crate::log::spool::{Appender, Ticket};

/// How many packets a broker can send without an answer: it has so many identifiers to give. So neither the packets that
/// wait for the disk nor their acknowledgements ever fill the places that are kept for them, and reading goes on.
const IN_FLIGHT: usize = u16::MAX as usize;

/// The pauses between tries to reach the broker.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// A broker's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    host: String,
    port: u16,
}

impl FromStr for Upstream {
    type Err = String;

    fn from_str(text: &str) -> Result<Upstream, String> {
        let wrong = || format!("`{text}` is not a log: it must be `spool`, or a broker like mqtt://127.0.0.1:1883");
        let rest = text.strip_prefix("mqtt://").ok_or_else(wrong)?.trim_end_matches('/');
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| wrong())?),
            None => (rest, 1883),
        };
        if host.is_empty() || host.contains(['/', '@', '?']) {
            return Err(wrong());
        }
        Ok(Upstream { host: host.to_owned(), port })
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mqtt://{}:{}", self.host, self.port)
    }
}

/// Follows a topic filter into the spool until `stop` turns true. The first connection must succeed; lost ones are made
/// again, and the broker then sends again what was not acknowledged.
pub async fn follow(
    upstream: &Upstream,
    filter: &str,
    spool: Appender,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut options = MqttOptions::new(format!("vitals-ingest-{}", std::process::id()), &upstream.host, upstream.port);
    options.set_manual_acks(true).set_clean_session(false).set_keep_alive(Duration::from_secs(30));
    options.set_max_packet_size(512 * 1024, 512 * 1024);
    // Acknowledgements wait here until the event loop takes them. Were there too little room, the acknowledging task would
    // wait for the event loop, and that for it.
    let (client, mut events) = AsyncClient::new(options, IN_FLIGHT + 16);
    let (waiting, tickets) = mpsc::channel(IN_FLIGHT);
    let acknowledging = tokio::spawn(acknowledge(client.clone(), tickets));
    let (mut pause, mut connected_before) = (RETRY.0, false);
    loop {
        let event = tokio::select! {
            event = events.poll() => event,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match event {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                (pause, connected_before) = (RETRY.0, true);
                client.subscribe(filter, QoS::AtLeastOnce).await.context("subscribing")?;
            }
            Ok(Event::Incoming(Packet::Publish(mut publish))) => {
                let device = publish.topic.rsplit('/').next().unwrap_or_default().to_owned();
                // The payload's bytes count in the spool's budget; only the identifier waits here.
                let payload = std::mem::take(&mut publish.payload);
                let ticket = spool.enqueue(&device, &payload).await?;
                if waiting.send((ticket, publish)).await.is_err() {
                    break;
                }
            }
            Ok(_) => {}
            Err(e) if !connected_before => {
                return Err(e).with_context(|| format!("connecting to {upstream}; is a broker running there?"));
            }
            Err(e) => {
                warn_lost(upstream, &e, pause);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
            }
        }
    }
    drop(waiting);
    acknowledging.await.context("acknowledging")?
}

fn warn_lost(upstream: &Upstream, error: &ConnectionError, pause: Duration) {
    tracing::warn!("lost {upstream}: {error}; trying again in {:.1} s", pause.as_secs_f64());
}

/// Acknowledges each packet once it is stored.
async fn acknowledge(client: AsyncClient, mut tickets: mpsc::Receiver<(Ticket, Publish)>) -> anyhow::Result<()> {
    while let Some((mut ticket, publish)) = tickets.recv().await {
        ticket.stored().await.context("storing a packet")?;
        client.ack(&publish).await.context("acknowledging a packet")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let at = |text: &str| text.parse::<Upstream>().map(|u| u.to_string());
        assert_eq!(at("mqtt://localhost"), Ok("mqtt://localhost:1883".to_owned()));
        assert_eq!(at("mqtt://10.0.0.5:2883/"), Ok("mqtt://10.0.0.5:2883".to_owned()));
        for wrong in ["localhost", "http://a", "mqtt://", "mqtt://user:pw@host", "mqtt://a:b"] {
            assert!(at(wrong).is_err(), "{wrong}");
        }
    }
}
