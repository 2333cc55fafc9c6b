//! One client's connection: bytes in, packets to the protocol's state machine, answers in order, bytes out.
//!
//! Everything happens in one task, which waits for whatever comes first: the socket, the disk, copies, time. It reads
//! only while it has room for what it would have to keep, so a client that sends faster than the disk writes is slowed
//! down by TCP, and nothing else is.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use mqtt_protocol_core::mqtt::common::Cursor;
use mqtt_protocol_core::mqtt::connection::{ConnectionOptions, Event, TimerKind};
use mqtt_protocol_core::mqtt::packet::Packet;
use mqtt_protocol_core::mqtt::prelude::*;
use mqtt_protocol_core::mqtt::result_code::{DisconnectReasonCode, MqttError};
use mqtt_protocol_core::mqtt::{self, Version, role};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use super::framing::{cut, packet_len};
use super::hub::Hub;
use super::packets;
use super::publish::InFlight;
use super::quirks::bear_alias_maximum;
use super::session::Session;

/// The longest packet that is received, in bytes. The log cuts payloads over 128 KB, which are dead letters then. Of a
/// longer publish this much is kept, so that it is a dead letter too; subscribers get no more of it either.
pub const MAX_PACKET: usize = 256 * 1024;

/// Longer packets take from a budget that all connections share while they are received, in bytes.
pub const SMALL_PACKET: usize = 16 * 1024;

/// The first half of the first byte of PUBLISH.
const PUBLISH: u8 = 3;

/// The first byte of CONNECT, which is the first of a connection.
const CONNECT: u8 = 0x10;

/// The most publishes of one connection that wait for the disk.
pub const MAX_IN_FLIGHT: u16 = 1024;

/// A connection that has this many bytes to send gets no more copies, and is not read from.
const MAX_OUTPUT: usize = 16 * 1024;

/// A long packet must be complete within this.
const PACKET_TIME: Duration = Duration::from_secs(60);

/// What is left to write and to acknowledge at the end must be done within this.
const CLOSING_TIME: Duration = Duration::from_secs(5);

/// How long a closed connection is still read from, so that the client sees the last packets before the end.
const LINGER_TIME: Duration = Duration::from_millis(500);

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Open,
    /// Nothing more is read; what was read is acknowledged, then the reason is given.
    Draining(DisconnectReasonCode),
    /// Only what is in the output is still written.
    Closing,
    /// The client is gone, or is to be cut off.
    Gone,
}

/// See the module's own words.
pub struct Connection {
    pub(super) hub: Arc<Hub>,
    pub(super) number: u64,
    pub(super) protocol: mqtt::Connection<role::Server>,
    pub(super) session: Option<Session>,
    /// Publishes that are not answered yet, in the order in which they came.
    pub(super) in_flight: VecDeque<InFlight>,
    pub(super) phase: Phase,
    /// Another connection of the same client wants this one to end.
    pub(super) end: Arc<Notify>,
    /// Its will is to be published: it did not say goodbye.
    pub(super) will_due: bool,
    stream: TcpStream,
    input: BytesMut,
    output: BytesMut,
    /// What copies in the output take of the mailbox's budget.
    copies_taken: usize,
    keep_alive: Option<Duration>,
    /// When the connection was made, and when it was last read from.
    begun: Instant,
    heard: Instant,
    /// When it began to end.
    ended: Instant,
    /// What is still to come of a publish that was cut, in bytes; it is read and dropped.
    skip: usize,
    /// The share in the budget for long packets, and since when.
    large: Option<(OwnedSemaphorePermit, Instant)>,
}

/// What the connection waited for.
enum Wake {
    Stored,
    Readable,
    Writable,
    Copies,
    TakenOver,
    Shutdown,
    Room(Option<OwnedSemaphorePermit>),
    Time,
}

impl Connection {
    pub fn new(hub: Arc<Hub>, stream: TcpStream) -> Connection {
        let now = Instant::now();
        let options = ConnectionOptions::new().maximum_packet_size_recv(MAX_PACKET as u32);
        let mut protocol = mqtt::Connection::with_options(Version::Undetermined, options);
        protocol.set_auto_ping_response(true);
        hub.stats.connections.fetch_add(1, Relaxed);
        Connection {
            number: hub.number(),
            hub,
            protocol,
            session: None,
            in_flight: VecDeque::new(),
            phase: Phase::Open,
            end: Arc::new(Notify::new()),
            will_due: true,
            stream,
            input: BytesMut::new(),
            output: BytesMut::new(),
            copies_taken: 0,
            keep_alive: None,
            begun: now,
            heard: now,
            ended: now,
            skip: 0,
            large: None,
        }
    }

    /// Serves the client until one of the two has had enough, or `shutdown` says so.
    pub async fn serve(mut self, mut shutdown: watch::Receiver<bool>) {
        let timer = tokio::time::sleep_until(self.deadline());
        tokio::pin!(timer);
        loop {
            self.process().await;
            self.acknowledge();
            self.deliver();
            if self.done() {
                break;
            }
            if self.can_process() {
                // Answering and writing have made room.
                continue;
            }
            let deadline = self.deadline();
            if deadline < timer.deadline() || timer.is_elapsed() {
                timer.as_mut().reset(deadline);
            }
            let open = self.phase == Phase::Open;
            let large = self.large_packet();
            let reads = open && large.is_none() && self.has_room();
            let copies = self.session.is_some() && self.wants_copies();
            let Connection { in_flight, stream, session, end, hub, output, phase, .. } = &mut self;
            let wake = tokio::select! {
                () = stored(in_flight), if !in_flight.is_empty() => Wake::Stored,
                _ = stream.readable(), if reads => Wake::Readable,
                _ = stream.writable(), if !output.is_empty() && *phase != Phase::Gone => Wake::Writable,
                () = filled(session), if copies => Wake::Copies,
                () = end.notified(), if open => Wake::TakenOver,
                _ = shutdown.wait_for(|shutdown| *shutdown), if open => Wake::Shutdown,
                permit = Arc::clone(&hub.large).acquire_many_owned(large.unwrap_or(0)), if open && large.is_some() => {
                    Wake::Room(permit.ok())
                }
                () = &mut timer => Wake::Time,
            };
            match wake {
                // The loop does what these ask for.
                Wake::Stored | Wake::Writable | Wake::Copies => {}
                Wake::Readable => self.read(),
                Wake::TakenOver => self.drain(DisconnectReasonCode::SessionTakenOver),
                Wake::Shutdown => {
                    self.will_due = false;
                    self.drain(DisconnectReasonCode::ServerShuttingDown);
                }
                Wake::Room(permit) => self.large = permit.map(|permit| (permit, Instant::now())),
                Wake::Time if self.overdue() => break,
                Wake::Time => {}
            }
        }
        self.finish().await;
    }

    /// Says goodbye on the network, and tells subscribers if it was sudden.
    async fn finish(&mut self) {
        if let Some(mut session) = self.session.take()
            && self.will_due
        {
            session.publish_will();
        }
        if self.phase == Phase::Closing && self.stream.shutdown().await.is_ok() {
            // Closing a socket with unread bytes resets it, and a reset can overtake the last packets.
            let stream = &mut self.stream;
            let discarding = async {
                let mut scratch = [0; 2048];
                while stream.read(&mut scratch).await.is_ok_and(|count| count > 0) {}
            };
            // Either way the connection ends now.
            let _ = tokio::time::timeout(LINGER_TIME, discarding).await;
        }
    }

    /// Hands whole packets to the protocol for as long as there is room for what they ask for.
    async fn process(&mut self) {
        self.drop_rest();
        if self.session.is_none() && self.input.first().is_some_and(|kind| *kind != CONNECT) {
            // Whatever this is, there is no point in waiting for the rest of it.
            self.violated(MqttError::ProtocolError);
        }
        while self.can_process()
            && let Some(len) = self.whole_packet()
        {
            let mut packet = self.take_packet(len);
            self.large = None;
            if self.session.is_none() {
                bear_alias_maximum(&mut packet);
            }
            for event in self.protocol.recv(&mut Cursor::new(&packet[..])) {
                match event {
                    Event::NotifyPacketReceived(packet) if self.phase == Phase::Open => self.received(packet).await,
                    event => self.apply(event),
                }
            }
        }
        if self.input.is_empty() {
            // Thousands of idle connections must not keep a buffer each.
            self.input = BytesMut::new();
        }
    }

    /// Whether there is a packet, and room for what it asks for.
    fn can_process(&self) -> bool {
        self.phase == Phase::Open && self.has_room() && self.whole_packet().is_some()
    }

    /// The length of the packet at the front of the input, where all of it is there. Of a publish that is too long, what
    /// is kept of it; of another packet that is, or that has no proper length, all that is there: the protocol says what
    /// is wrong with it.
    fn whole_packet(&self) -> Option<usize> {
        let len = packet_len(&self.input)?;
        if len > MAX_PACKET && !self.is_long_publish(len) {
            return Some(self.input.len());
        }
        let len = len.min(MAX_PACKET);
        (self.input.len() >= len).then_some(len)
    }

    /// Whether the packet at the front of the input, `len` bytes long, is a publish that is to be cut: it is a dead letter
    /// by its length alone, and must not be lost with its connection.
    fn is_long_publish(&self, len: usize) -> bool {
        (MAX_PACKET + 1..usize::MAX).contains(&len)
            && self.session.is_some()
            && self.input.first().is_some_and(|kind| kind >> 4 == PUBLISH)
    }

    /// Takes a packet from the input. One that is too long is given a length that fits what is kept of it.
    fn take_packet(&mut self, len: usize) -> BytesMut {
        let full = packet_len(&self.input).unwrap_or(len);
        let long = self.is_long_publish(full);
        let mut packet = self.input.split_to(len);
        if long {
            self.skip = full - len;
            self.drop_rest();
            packet = cut(&packet);
        }
        packet
    }

    /// Drops what has come of the rest of a publish that was cut.
    fn drop_rest(&mut self) {
        let come = self.skip.min(self.input.len());
        self.input.advance(come);
        self.skip -= come;
    }

    /// The length of the packet at the front of the input, if it is long and has no share of the budget yet.
    fn large_packet(&self) -> Option<u32> {
        let len = packet_len(&self.input)?;
        let len = if self.is_long_publish(len) { MAX_PACKET } else { len };
        let len = Some(len).filter(|len| (SMALL_PACKET + 1..=MAX_PACKET).contains(len))?;
        (self.large.is_none() && self.input.len() < len).then_some(len as u32)
    }

    /// Whether there is room for what another packet asks for.
    fn has_room(&self) -> bool {
        self.in_flight.len() < MAX_IN_FLIGHT as usize && self.output.len() < MAX_OUTPUT
    }

    fn wants_copies(&self) -> bool {
        self.phase == Phase::Open && self.output.len() < MAX_OUTPUT
    }

    /// Writes what there is to write, and copies, for as long as the socket takes them.
    fn deliver(&mut self) {
        loop {
            let taken = match &self.session {
                Some(session) if self.wants_copies() => session.mailbox.take(&mut self.output, MAX_OUTPUT),
                _ => 0,
            };
            self.copies_taken += taken;
            self.write();
            if !self.output.is_empty() {
                return;
            }
            if let Some(session) = &self.session {
                session.mailbox.sent(std::mem::take(&mut self.copies_taken));
            }
            if taken == 0 {
                return;
            }
        }
    }

    /// Sends a packet that the protocol allows.
    pub(super) fn send(&mut self, packet: Result<Packet, MqttError>) {
        match packet {
            Ok(packet) => {
                for event in self.protocol.send(packet) {
                    self.apply(event);
                }
            }
            Err(error) => self.violated(error),
        }
    }

    /// Does what the protocol asks for.
    fn apply(&mut self, event: Event) {
        match event {
            Event::RequestSendPacket { packet, .. } if !self.is_early(&packet) => {
                self.output.extend_from_slice(&packet.to_continuous_buffer());
            }
            Event::RequestTimerReset { kind: TimerKind::PingreqRecv, duration_ms } => {
                self.keep_alive = Some(Duration::from_millis(duration_ms));
            }
            Event::RequestTimerCancel(TimerKind::PingreqRecv) => self.keep_alive = None,
            Event::RequestClose => self.leave(Phase::Closing),
            Event::NotifyError(error) => self.violated(error),
            _ => {}
        }
    }

    /// Ends the connection, as the client did what the protocol does not allow.
    pub(super) fn violated(&mut self, error: MqttError) {
        tracing::debug!("connection {} is closed: {error}", self.number);
        self.hub.stats.protocol_errors.fetch_add(1, Relaxed);
        self.leave(Phase::Closing);
    }

    /// Goes on towards the end of the connection, never back.
    pub(super) fn leave(&mut self, phase: Phase) {
        if self.phase == Phase::Open {
            self.ended = Instant::now();
        }
        let further = match (self.phase, phase) {
            (Phase::Gone, _) => false,
            (Phase::Closing, next) => next == Phase::Gone,
            (Phase::Draining(_), next) => next != Phase::Open,
            (Phase::Open, _) => true,
        };
        if further {
            self.phase = phase;
        }
    }

    /// Reads nothing more, acknowledges what was read, and ends with `reason`.
    fn drain(&mut self, reason: DisconnectReasonCode) {
        let phase = if self.session.is_some() { Phase::Draining(reason) } else { Phase::Closing };
        self.leave(phase);
    }

    /// Whether nothing is left to do. Moves from draining to closing.
    fn done(&mut self) -> bool {
        if let Phase::Draining(reason) = self.phase
            && self.in_flight.is_empty()
        {
            if let Some(packet) = packets::disconnect(self.protocol.get_protocol_version(), reason) {
                self.send(Ok(packet));
            }
            self.leave(Phase::Closing);
            self.write();
        }
        match self.phase {
            Phase::Open | Phase::Draining(_) => false,
            Phase::Closing => self.in_flight.is_empty() && self.output.is_empty(),
            Phase::Gone => self.in_flight.is_empty(),
        }
    }

    /// When something has to happen that nobody else brings about.
    fn deadline(&self) -> Instant {
        if self.phase != Phase::Open {
            return self.ended + CLOSING_TIME;
        }
        let silence = match (&self.session, self.keep_alive) {
            (None, _) => self.begun + self.hub.connect_time,
            (Some(_), Some(keep_alive)) => self.heard + keep_alive,
            // Nothing to wait for; a timer needs some time.
            (Some(_), None) => Instant::now() + Duration::from_secs(3600),
        };
        let packet = self.large.as_ref().map(|(_, since)| *since + PACKET_TIME);
        packet.map_or(silence, |packet| packet.min(silence))
    }

    /// Does what the deadline asks for, if it has passed. Gives whether to end at once.
    fn overdue(&mut self) -> bool {
        if Instant::now() < self.deadline() {
            return false;
        }
        if self.phase != Phase::Open {
            self.phase = Phase::Gone;
            return true;
        }
        if self.session.is_none() {
            tracing::debug!("connection {} sent no CONNECT in {:?}", self.number, self.hub.connect_time);
            self.leave(Phase::Gone);
        } else if self.large.as_ref().is_some_and(|(_, since)| since.elapsed() >= PACKET_TIME) {
            self.violated(MqttError::MalformedPacket);
        } else if !self.has_room() {
            // It may have spoken; nobody listened.
            self.heard = Instant::now();
        } else {
            tracing::debug!("connection {} was silent beyond its keep-alive", self.number);
            for event in self.protocol.notify_timer_fired(TimerKind::PingreqRecv) {
                self.apply(event);
            }
            self.leave(Phase::Closing);
        }
        false
    }

    fn read(&mut self) {
        self.input.reserve(SMALL_PACKET / 2);
        match self.stream.try_read_buf(&mut self.input) {
            Ok(0) => self.leave(Phase::Gone),
            Ok(_) => self.heard = Instant::now(),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.leave(Phase::Gone),
        }
    }

    fn write(&mut self) {
        while !self.output.is_empty() && self.phase != Phase::Gone {
            match self.stream.try_write(&self.output) {
                Ok(count) => self.output.advance(count),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.leave(Phase::Gone),
            }
        }
        if self.output.is_empty() {
            self.output = BytesMut::new();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.hub.stats.connections.fetch_sub(1, Relaxed);
    }
}

/// Waits until the oldest publish in flight is stored, or can't be.
async fn stored(in_flight: &mut VecDeque<InFlight>) {
    match in_flight.front_mut() {
        Some(oldest) => oldest.settled().await,
        None => std::future::pending().await,
    }
}

/// Waits for copies.
async fn filled(session: &Option<Session>) {
    match session {
        Some(session) => session.mailbox.filled().await,
        None => std::future::pending().await,
    }
}
