//! The account of one connection, without any I/O: which packets are due, under way, acknowledged.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rumqttc::{Event, Outgoing, Packet};

use super::fleet::Fleet;
use super::options::Qos;
use super::publish::{Shared, now_ms};
use super::sent::SentPacket;
use crate::reading::Reading;

/// Packets of the devices of one connection, in the order in which they are due.
pub(super) struct Packets {
    fleet: Fleet,
    batch: usize,
    /// Readings of each device that wait for their batch to fill; at most `batch` each.
    filling: BTreeMap<u32, Vec<Reading>>,
    ended: bool,
}

/// Readings of one device that go out together, when the last of them is measured.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) device: u32,
    pub(super) readings: Vec<Reading>,
}

impl Batch {
    /// When the last of them is measured, milliseconds since 1970 UTC.
    pub(super) fn due_ms(&self) -> i64 {
        self.readings.last().map_or(0, |reading| reading.ts_ms)
    }
}

impl Packets {
    /// The packets of this fleet with up to `batch` readings each.
    pub(super) fn new(fleet: Fleet, batch: u32) -> Self {
        Packets { fleet, batch: batch.max(1) as usize, filling: BTreeMap::new(), ended: false }
    }
}

impl Iterator for Packets {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        while !self.ended {
            let Some((device, reading)) = self.fleet.next() else {
                self.ended = true;
                break;
            };
            let filling = self.filling.entry(device).or_default();
            filling.push(reading);
            if filling.len() >= self.batch {
                let readings = std::mem::replace(filling, Vec::with_capacity(self.batch));
                return Some(Batch { device, readings });
            }
        }
        // What is left in batches that never filled.
        while let Some((device, readings)) = self.filling.pop_first() {
            if !readings.is_empty() {
                return Some(Batch { device, readings });
            }
        }
        None
    }
}

/// A packet between being handed over and being done with.
struct Flight {
    device: u32,
    last_ts_ms: i64,
    count: u64,
    /// Kept only where a file of what was sent is written.
    readings: Vec<Reading>,
    published_ms: i64,
    sends: u32,
}

/// What one connection has under way.
pub(super) struct Book {
    shared: Arc<Shared>,
    keep_readings: bool,
    /// Handed to the client, not yet written to the socket, in order.
    waiting: VecDeque<Flight>,
    /// Written, not yet acknowledged, by MQTT packet id.
    in_flight: HashMap<u16, Flight>,
}

impl Book {
    /// An empty book; it keeps readings until they are acknowledged where somebody wants to know them.
    pub(super) fn new(shared: Arc<Shared>, keep_readings: bool) -> Self {
        Book { shared, keep_readings, waiting: VecDeque::new(), in_flight: HashMap::new() }
    }

    /// How many packets are under way.
    pub(super) fn open(&self) -> usize {
        self.waiting.len() + self.in_flight.len()
    }

    /// The client has taken this packet.
    pub(super) fn hand_over(&mut self, batch: Batch) {
        self.waiting.push_back(Flight {
            device: batch.device,
            last_ts_ms: batch.due_ms(),
            count: batch.readings.len() as u64,
            readings: if self.keep_readings { batch.readings } else { Vec::new() },
            published_ms: 0,
            sends: 0,
        });
    }

    /// Note what the client reports; answers the packet that is done with thereby.
    pub(super) fn note(&mut self, event: &Event) -> Option<SentPacket> {
        match event {
            Event::Outgoing(Outgoing::Publish(id)) => self.published(*id),
            Event::Incoming(Packet::PubAck(ack)) => {
                let flight = self.in_flight.remove(&ack.pkid)?;
                self.shared.counts.acknowledged.fetch_add(1, Relaxed);
                Some(flight.done(Some(now_ms())))
            }
            _ => None,
        }
    }

    fn published(&mut self, id: u16) -> Option<SentPacket> {
        if let Some(again) = self.in_flight.get_mut(&id) {
            again.sends += 1;
            self.shared.counts.sent_again.fetch_add(1, Relaxed);
            return None;
        }
        let mut flight = self.waiting.pop_front()?;
        flight.published_ms = now_ms();
        flight.sends = 1;
        self.shared.counts.published.fetch_add(1, Relaxed);
        self.shared.counts.readings.fetch_add(flight.count, Relaxed);
        self.shared.reached(flight.device, flight.last_ts_ms);
        if self.shared.qos == Qos::AtMostOnce {
            return Some(flight.done(None));
        }
        self.in_flight.insert(id, flight);
        None
    }

    /// Everything that went out and was never acknowledged.
    pub(super) fn unanswered(&mut self) -> Vec<SentPacket> {
        let mut flights: Vec<Flight> = self.in_flight.drain().map(|(_, flight)| flight).collect();
        flights.sort_by_key(|flight| flight.published_ms);
        flights.into_iter().map(|flight| flight.done(None)).collect()
    }
}

impl Flight {
    fn done(self, acknowledged_ms: Option<i64>) -> SentPacket {
        SentPacket {
            device: self.device,
            readings: self.readings,
            published_ms: self.published_ms,
            acknowledged_ms,
            sends: self.sends,
        }
    }
}
