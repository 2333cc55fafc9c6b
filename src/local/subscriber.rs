//! Packets from somebody else's broker into the log: stored first, acknowledged then.
//!
//! The broker keeps a session under the client's name, and in it what is not acknowledged. So whoever comes back under the
//! same name gets what came meanwhile, and again what it was given before and had not answered.

use std::{
    collections::VecDeque,
    fmt,
    pin::pin,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, bail};
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, Outgoing, Packet, Publish, QoS, SubscribeReasonCode,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::log::append::{AppendError, Appender, Ticket};

/// How many packets a broker can send without an answer: it has so many identifiers to give. So their acknowledgements
/// never fill the places that are kept for them. Packets at QoS 0 count as well; where so many wait, reading rests.
const IN_FLIGHT: usize = u16::MAX as usize;

/// The pauses between tries to reach the broker.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// How long, at the end, what is under way may take until it is stored. What takes longer is not acknowledged.
const PARTING: Duration = Duration::from_secs(5);

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

/// What to take from a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    pub upstream: Upstream,
    pub filter: String,
    /// The name of the session at the broker. Two clients with the same name push each other out.
    pub client_id: String,
}

/// What has been done with a broker's packets so far.
#[derive(Debug, Default)]
pub struct Followed {
    pub received: AtomicU64,
    pub acknowledged: AtomicU64,
    /// Whether the connection stands.
    pub connected: AtomicBool,
}

/// Follows a topic filter into the log until `stop` turns true. The first connection must succeed; lost ones are made
/// again, and the broker then sends again what was not acknowledged. Gives how many packets were left unacknowledged.
///
/// # Errors
/// Where the broker can't be reached at first or refuses the filter, or the log does not take a packet.
pub async fn follow(
    what: &Subscription,
    log: Appender,
    followed: Arc<Followed>,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<usize> {
    let mut options = MqttOptions::new(&what.client_id, &what.upstream.host, what.upstream.port);
    options.set_manual_acks(true).set_clean_session(false).set_keep_alive(Duration::from_secs(30));
    options.set_max_packet_size(512 * 1024, 512 * 1024);
    // Acknowledgements wait here until the event loop takes them.
    let (client, mut events) = AsyncClient::new(options, IN_FLIGHT + 16);
    let mut follower = Follower { what, log, followed, stop, client, waiting: VecDeque::new(), stopping: None };
    let outcome = follower.run(&mut events).await;
    follower.followed.connected.store(false, Relaxed);
    outcome.map(|()| follower.waiting.iter().filter(|(_, publish)| publish.qos != QoS::AtMostOnce).count())
}

struct Follower<'a> {
    what: &'a Subscription,
    log: Appender,
    followed: Arc<Followed>,
    stop: watch::Receiver<bool>,
    client: AsyncClient,
    /// Packets that are not stored yet, in the order in which they came, without their payloads.
    waiting: VecDeque<(Ticket, Publish)>,
    /// When it was said that nothing more is wanted.
    stopping: Option<Instant>,
}

impl Follower<'_> {
    async fn run(&mut self, events: &mut EventLoop) -> anyhow::Result<()> {
        let (mut pause, mut connected_before) = (RETRY.0, false);
        while let Some(event) = self.event(events).await? {
            match event {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    (pause, connected_before) = (RETRY.0, true);
                    self.followed.connected.store(true, Relaxed);
                    let filter = &self.what.filter;
                    self.client.subscribe(filter, QoS::AtLeastOnce).await.context("subscribing")?;
                }
                Ok(Event::Incoming(Packet::SubAck(ack)))
                    if ack.return_codes.contains(&SubscribeReasonCode::Failure) =>
                {
                    bail!("{} does not let us subscribe to `{}`", self.what.upstream, self.what.filter);
                }
                // What comes after the stop is for the next time, as it is not acknowledged.
                Ok(Event::Incoming(Packet::Publish(publish))) if self.stopping.is_none() => self.take(publish).await?,
                Ok(_) => {}
                Err(e) if !connected_before => {
                    let upstream = &self.what.upstream;
                    return Err(e).with_context(|| format!("connecting to {upstream}; is a broker running there?"));
                }
                Err(e) => {
                    self.followed.connected.store(false, Relaxed);
                    // These come again under the next connection, and it may give their identifiers to other packets: an
                    // answer to the old ones could be taken for one to the new.
                    self.waiting.clear();
                    if self.stopping.is_some() {
                        return Ok(());
                    }
                    warn_lost(&self.what.upstream, &e, pause);
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = stopped(&mut self.stop) => return Ok(()),
                    }
                    pause = (pause * 2).min(RETRY.1);
                }
            }
        }
        // The broker may be gone; nothing depends on its hearing this.
        if self.client.try_disconnect().is_ok() {
            let _ = timeout(Duration::from_secs(1), goodbye(events)).await;
        }
        Ok(())
    }

    /// The next event; acknowledges meanwhile what gets stored. `None` when nothing more is to be done.
    async fn event(&mut self, events: &mut EventLoop) -> anyhow::Result<Option<Result<Event, ConnectionError>>> {
        // Kept until it is ready: a poll that is dropped half way could lose what it had read.
        let mut poll = pin!(events.poll());
        loop {
            if self.stopping.is_some() && self.waiting.is_empty() {
                return Ok(None);
            }
            let parting = self.stopping.map(|since| since + PARTING);
            tokio::select! {
                event = &mut poll, if self.waiting.len() < IN_FLIGHT => return Ok(Some(event)),
                () = oldest(&mut self.waiting), if !self.waiting.is_empty() => self.acknowledge()?,
                () = stopped(&mut self.stop), if self.stopping.is_none() => self.stopping = Some(Instant::now()),
                () = sleep_until(parting.unwrap_or_else(Instant::now)), if parting.is_some() => return Ok(None),
            }
        }
    }

    async fn take(&mut self, mut publish: Publish) -> anyhow::Result<()> {
        self.followed.received.fetch_add(1, Relaxed);
        let device = publish.topic.rsplit('/').next().unwrap_or_default().to_owned();
        // The payload's bytes count in the log's budget; only the identifier waits here.
        let payload = std::mem::take(&mut publish.payload);
        tokio::select! {
            ticket = self.log.enqueue(&device, &payload) => {
                let ticket = ticket.with_context(|| refused(&publish.topic))?;
                self.waiting.push_back((ticket, publish));
            }
            // There was no room for it: it comes again, the next time.
            () = stopped(&mut self.stop) => self.stopping = Some(Instant::now()),
        }
        Ok(())
    }

    /// Acknowledges what is stored, in the order in which it came.
    fn acknowledge(&mut self) -> anyhow::Result<()> {
        while let Some(outcome) = self.waiting.front_mut().and_then(|(ticket, _)| ticket.try_stored())
            && let Some((_, publish)) = self.waiting.pop_front()
        {
            outcome.with_context(|| refused(&publish.topic))?;
            self.client.try_ack(&publish).context("acknowledging a packet")?;
            self.followed.acknowledged.fetch_add(u64::from(publish.qos != QoS::AtMostOnce), Relaxed);
        }
        Ok(())
    }
}

fn refused(topic: &str) -> String {
    format!("storing a packet of `{topic}`")
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Who could stop us is gone, so nobody wants anything any more.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Waits until the oldest packet is stored, or can't be.
async fn oldest(waiting: &mut VecDeque<(Ticket, Publish)>) {
    if let Some((ticket, _)) = waiting.front_mut() {
        // The outcome is asked for when it is acknowledged.
        let _: Result<(), AppendError> = ticket.stored().await;
    }
}

/// Until the broker was told that we go.
async fn goodbye(events: &mut EventLoop) {
    while let Ok(event) = events.poll().await {
        if matches!(event, Event::Outgoing(Outgoing::Disconnect)) {
            break;
        }
    }
}

fn warn_lost(upstream: &Upstream, error: &ConnectionError, pause: Duration) {
    tracing::warn!("lost {upstream}: {error}; trying again in {:.1} s", pause.as_secs_f64());
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
