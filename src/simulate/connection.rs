//! One MQTT connection: publishes the packets of its devices when they are due, counts the answers, and comes back with
//! exponential back-off and jitter when the broker goes away. What was not acknowledged is sent again (QoS 1).
//!
//! [`Book`] keeps the account; [`drive`] moves the client and tells the book.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rand::RngExt;
use rand_pcg::Pcg64Mcg;
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, NetworkOptions, Outgoing, Packet, Request,
    TlsConfiguration, Transport,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::book::{Book, Packets};
use super::dial::Dial;
use super::fleet::device_id;
use super::payload::payload;
use super::publish::Shared;
use super::sent::SentPacket;
use crate::reading::MAX_PACKET_BYTES;

/// How long a connection may be silent. AWS IoT Core takes up to 1200 s.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
const LONGEST_BACKOFF: Duration = Duration::from_secs(15);
/// How long an interrupted run waits for answers that are under way.
const PARTING: Duration = Duration::from_secs(3);

/// A client and its event loop, connected.
pub(super) struct Link {
    client: AsyncClient,
    events: EventLoop,
}

/// A client that has not connected yet.
fn client(dial: &Dial) -> Link {
    let mut options = MqttOptions::new(&dial.client_id, &dial.broker.host, dial.broker.port);
    options.set_keep_alive(KEEP_ALIVE).set_clean_session(true).set_inflight(dial.in_flight);
    options.set_max_packet_size(16 * 1024, 2 * MAX_PACKET_BYTES);
    if let Some(tls) = &dial.tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::clone(tls))));
    }
    let (client, mut events) = AsyncClient::new(options, usize::from(dial.in_flight));
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(5);
    events.set_network_options(network);
    Link { client, events }
}

/// Connect once.
///
/// # Errors
/// When the broker can't be reached or refuses.
pub(super) async fn connect(dial: &Dial) -> Result<Link, ConnectionError> {
    let mut link = client(dial);
    // The first thing that a new client reports is the broker's answer to its connect.
    link.events.poll().await?;
    Ok(link)
}

/// Publish `packets` over one connection, from `link` where there is one already. Ends when all is published and
/// acknowledged, when the run is halted, or when the broker has been away for too long after the end of the run.
pub(super) async fn drive(
    shared: Arc<Shared>,
    dial: Dial,
    link: Option<Link>,
    packets: Packets,
    sent: Option<mpsc::Sender<SentPacket>>,
    jitter: Pcg64Mcg,
) {
    let connected = link.is_some();
    let Link { client, mut events } = link.unwrap_or_else(|| client(&dial));
    let book = Book::new(shared.clone(), sent.is_some());
    let mut line = Line {
        book,
        window: usize::from(dial.in_flight),
        packets: packets.peekable(),
        client,
        dial,
        not_before: Instant::now(),
        sent,
        stop: shared.halted(),
        stopping: None,
        connected: false,
        failures: 0,
        jitter,
        progress: Instant::now(),
        shared,
    };
    line.set_connected(connected);
    line.serve(&mut events).await;
    line.part(&mut events).await;
}

struct Line {
    shared: Arc<Shared>,
    book: Book,
    /// The most packets that are under way at once.
    window: usize,
    packets: std::iter::Peekable<Packets>,
    client: AsyncClient,
    dial: Dial,
    /// When the broker takes the next packet of this connection.
    not_before: Instant,
    sent: Option<mpsc::Sender<SentPacket>>,
    stop: watch::Receiver<bool>,
    /// When the run was interrupted.
    stopping: Option<Instant>,
    connected: bool,
    /// Failed attempts since the last connection.
    failures: u32,
    jitter: Pcg64Mcg,
    /// When something last went well.
    progress: Instant,
}

enum Step {
    Event(Result<Event, ConnectionError>),
    Send,
    Stop,
    GiveUp,
}

impl Line {
    async fn serve(&mut self, events: &mut EventLoop) {
        // What the client held when its connection broke: it would drop that on connecting anew.
        let mut unsent: VecDeque<Request> = VecDeque::new();
        if !self.connected && !self.may_dial(Duration::ZERO).await {
            return self.give_up();
        }
        while !self.finished() {
            let event = {
                // Kept until it is ready: a poll that is dropped half way could lose what it had read.
                let mut poll = pin!(events.poll());
                loop {
                    let due = self.due();
                    let give_up = self.gives_up_at();
                    let step = tokio::select! {
                        biased;
                        event = &mut poll => Step::Event(event),
                        () = until(due) => Step::Send,
                        () = stopped(&mut self.stop), if self.stopping.is_none() => Step::Stop,
                        () = sleep_until(give_up) => Step::GiveUp,
                    };
                    match step {
                        Step::Event(event) => break event,
                        Step::Send => self.send(),
                        Step::Stop => self.stopping = Some(Instant::now()),
                        Step::GiveUp => return self.give_up(),
                    }
                    if self.finished() {
                        return;
                    }
                }
            };
            match event {
                Ok(event) => {
                    if matches!(event, Event::Incoming(Packet::ConnAck(_))) {
                        self.set_connected(true);
                        events.pending.append(&mut unsent);
                    }
                    self.note(&event).await;
                }
                Err(error) => {
                    self.set_connected(false);
                    self.shared.failed(&error);
                    // Reports of before the break that were not fetched yet, then what has to go out again.
                    for event in std::mem::take(&mut events.state.events) {
                        self.note(&event).await;
                    }
                    unsent.extend(std::mem::take(&mut events.pending).into_iter().map(marked_as_sent_again));
                    let pause = self.backoff();
                    if !self.may_dial(pause).await {
                        return self.give_up();
                    }
                }
            }
        }
    }

    /// When the next packet may go out; `None` while it may not.
    fn due(&mut self) -> Option<Instant> {
        let room = self.connected && self.stopping.is_none() && self.book.open() < self.window;
        if !room {
            return None;
        }
        let shared = &self.shared;
        self.packets.peek().map(|batch| shared.pace.due(batch.due_ms()).max(self.not_before))
    }

    fn send(&mut self) {
        let Some(batch) = self.packets.next() else { return };
        let id = device_id(batch.device);
        let json = payload(&id, &batch.readings);
        let bytes = json.len();
        // The client's channel holds `window` packets and no more are under way, so it has room.
        match self.client.try_publish(format!("{}/{id}", self.dial.topic), self.shared.qos.mqtt(), false, json) {
            Ok(()) => {
                self.book.hand_over(batch);
                self.not_before = Instant::now() + self.dial.gap(bytes);
            }
            Err(error) => self.shared.failed(&error),
        }
    }

    async fn note(&mut self, event: &Event) {
        let done = self.book.note(event);
        if matches!(event, Event::Incoming(_)) || done.is_some() {
            self.progress = Instant::now();
        }
        if let Some(packet) = done {
            self.write(packet).await;
        }
    }

    async fn write(&mut self, packet: SentPacket) {
        if let Some(sent) = &self.sent
            && sent.send(packet).await.is_err()
        {
            // The file can't be written: a run whose account is lost is of no use.
            self.sent = None;
            self.stopping = Some(Instant::now());
            self.shared.halt();
        }
    }

    fn set_connected(&mut self, connected: bool) {
        if connected != self.connected {
            self.shared.connected(connected);
        }
        self.connected = connected;
        if connected {
            self.failures = 0;
            self.progress = Instant::now();
        }
    }

    fn finished(&mut self) -> bool {
        self.book.open() == 0 && (self.stopping.is_some() || self.packets.peek().is_none())
    }

    /// When to stop waiting for a broker that does nothing.
    fn gives_up_at(&self) -> Instant {
        match self.stopping {
            Some(since) => since + PARTING,
            None => self.shared.pace.end().max(self.progress) + self.shared.patience,
        }
    }

    fn give_up(&mut self) {
        if self.stopping.is_none() && (self.packets.peek().is_some() || self.book.open() > 0) {
            self.shared.counts.gave_up.fetch_add(1, Relaxed);
        }
    }

    /// How long to wait before the next attempt: doubles with each failure, and nobody comes back with the others.
    fn backoff(&mut self) -> Duration {
        let longest = FIRST_BACKOFF.saturating_mul(1 << self.failures.min(16)).min(LONGEST_BACKOFF);
        self.failures += 1;
        longest.mul_f64(self.jitter.random_range(0.5..1.0))
    }

    /// Wait out `pause` and for this connection's turn; false when there is nothing to connect for any more.
    async fn may_dial(&mut self, pause: Duration) -> bool {
        let shared = self.shared.clone();
        let turn = async {
            tokio::time::sleep(pause).await;
            shared.turn().await;
        };
        let give_up = self.gives_up_at();
        tokio::select! {
            () = turn => true,
            () = sleep_until(give_up) => false,
            () = stopped(&mut self.stop) => {
                self.stopping = Some(Instant::now());
                false
            }
        }
    }

    /// Say goodbye, and write down what never got an answer.
    async fn part(&mut self, events: &mut EventLoop) {
        let unanswered = self.book.unanswered();
        self.shared.counts.unacknowledged.fetch_add(unanswered.len() as u64, Relaxed);
        for packet in unanswered {
            self.write(packet).await;
        }
        if self.connected && self.client.try_disconnect().is_ok() {
            let goodbye = async {
                while let Ok(event) = events.poll().await {
                    if matches!(event, Event::Outgoing(Outgoing::Disconnect)) {
                        break;
                    }
                }
            };
            // The broker may be gone; nothing depends on its hearing this.
            let _ = tokio::time::timeout(Duration::from_secs(1), goodbye).await;
        }
        self.set_connected(false);
    }
}

/// A publish that had a packet id went out before: say so, as MQTT wants.
fn marked_as_sent_again(request: Request) -> Request {
    match request {
        Request::Publish(mut publish) => {
            publish.dup = publish.pkid != 0;
            Request::Publish(publish)
        }
        other => other,
    }
}

pub(super) async fn until(due: Option<Instant>) {
    match due {
        Some(due) if due <= Instant::now() => {}
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Nobody can stop a run whose sender is gone.
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending().await
    }
}
