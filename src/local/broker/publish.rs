//! What a client sends once it is connected: publishes to the log and to subscribers, answers when they are stored.

use std::sync::atomic::Ordering::Relaxed;

use mqtt_protocol_core::mqtt::common::ArcPayload;
use mqtt_protocol_core::mqtt::packet::{MqttString, Packet, Property, Qos, SubEntry};
use mqtt_protocol_core::mqtt::result_code::DisconnectReasonCode;

use super::connection::{Connection, Phase};
use super::packets::{self, Reply};
use super::session::{Hello, Session};
use super::topics::{device_of, valid_topic};
use crate::log::append::{AppendError, Ticket};

/// A publish that is not answered yet.
pub struct InFlight {
    reply: Reply,
    fate: Fate,
}

/// What is to become of a publish.
enum Fate {
    /// It is on its way into the log.
    Storing(Ticket),
    /// The log did not take it.
    Refused(AppendError),
    /// It is nothing for the log.
    Passed,
}

impl InFlight {
    /// Waits until it can be answered.
    pub async fn settled(&mut self) {
        if let Fate::Storing(ticket) = &mut self.fate {
            // The outcome is asked for when it is answered.
            let _ = ticket.stored().await;
        }
    }

    /// What became of it: stored or not, or `Ok(false)` where there was nothing to store. `None` while it is not known.
    fn outcome(&mut self) -> Option<Result<bool, AppendError>> {
        match &mut self.fate {
            Fate::Storing(ticket) => Some(ticket.try_stored()?.map(|_| true)),
            Fate::Refused(error) => Some(Err(error.clone())),
            Fate::Passed => Some(Ok(false)),
        }
    }
}

impl Connection {
    /// Does what a packet asks for.
    pub(super) async fn received(&mut self, packet: Packet) {
        match packet {
            Packet::V3_1_1Publish(p) => {
                self.publish(p.qos(), p.packet_id(), p.topic_name(), p.payload(), &[]).await;
            }
            Packet::V5_0Publish(p) => {
                self.publish(p.qos(), p.packet_id(), p.topic_name(), p.payload(), p.props()).await;
            }
            Packet::V3_1_1Pubrel(p) => self.release(p.packet_id()),
            Packet::V5_0Pubrel(p) => self.release(p.packet_id()),
            Packet::V3_1_1Connect(p) => self.connect(p.into()),
            Packet::V5_0Connect(p) => self.connect(p.into()),
            Packet::V3_1_1Subscribe(p) => self.subscribe(p.packet_id(), p.entries()),
            Packet::V5_0Subscribe(p) => {
                if p.props().iter().any(|property| matches!(property, Property::SubscriptionIdentifier(_))) {
                    self.disconnect(DisconnectReasonCode::SubscriptionIdentifiersNotSupported);
                } else {
                    self.subscribe(p.packet_id(), p.entries());
                }
            }
            Packet::V3_1_1Unsubscribe(p) => self.unsubscribe(p.packet_id(), p.entries()),
            Packet::V5_0Unsubscribe(p) => self.unsubscribe(p.packet_id(), p.entries()),
            Packet::V3_1_1Disconnect(_) => self.farewell(true),
            Packet::V5_0Disconnect(p) => {
                self.farewell(p.reason_code() != Some(DisconnectReasonCode::DisconnectWithWillMessage));
            }
            Packet::V5_0Auth(_) => self.disconnect(DisconnectReasonCode::ProtocolError),
            // Pings are answered by the protocol; answers to publishes of ours can't come, as all are at QoS 0.
            _ => {}
        }
    }

    fn connect(&mut self, hello: Hello) {
        let version = hello.version;
        let connack = match Session::begin(&self.hub, self.number, hello, &self.end) {
            Ok((session, welcome)) => {
                self.session = Some(session);
                packets::accepted(version, welcome)
            }
            Err(reason) => packets::rejected(version, reason),
        };
        self.send(connack);
    }

    /// Passes a publish to subscribers, and to the log if it is a device's. It is answered when it is stored.
    async fn publish(&mut self, qos: Qos, id: Option<u16>, topic: &str, payload: &ArcPayload, properties: &[Property]) {
        if !valid_topic(topic) {
            return self.disconnect(DisconnectReasonCode::TopicNameInvalid);
        }
        let reply = match (qos, id) {
            (Qos::AtLeastOnce, Some(id)) => Reply::Puback(id),
            (Qos::ExactlyOnce, Some(id)) => Reply::Pubrec(id),
            _ => Reply::None,
        };
        self.hub.stats.published[qos as usize].fetch_add(1, Relaxed);
        self.hub.copy(self.number, topic, payload, properties);
        let fate = match device_of(topic) {
            None if reply == Reply::None => return,
            None => Fate::Passed,
            Some(device) => match self.hub.appender.enqueue(device, payload.as_slice()).await {
                Ok(ticket) => Fate::Storing(ticket),
                Err(error) => Fate::Refused(error),
            },
        };
        self.in_flight.push_back(InFlight { reply, fate });
    }

    /// Answers what is known of the publishes in flight, in the order in which they came.
    pub(super) fn acknowledge(&mut self) {
        while let Some(outcome) = self.in_flight.front_mut().and_then(InFlight::outcome)
            && let Some(InFlight { reply, .. }) = self.in_flight.pop_front()
        {
            self.answer(reply, outcome);
        }
        if self.in_flight.is_empty() {
            self.in_flight.shrink_to(16);
        }
    }

    fn answer(&mut self, reply: Reply, outcome: Result<bool, AppendError>) {
        let stats = &self.hub.stats;
        let version = self.protocol.get_protocol_version();
        let answers = matches!(self.phase, Phase::Open | Phase::Draining(_));
        let packet = match &outcome {
            Ok(stored) => {
                stats.stored.fetch_add(u64::from(*stored), Relaxed);
                if answers && reply != Reply::None {
                    stats.acknowledged.fetch_add(1, Relaxed);
                }
                packets::stored(version, reply)
            }
            Err(error) => {
                self.hub.complain(error);
                let lost = if reply == Reply::None { &stats.dropped } else { &stats.not_stored };
                lost.fetch_add(1, Relaxed);
                packets::not_stored(version, reply, error)
            }
        };
        match packet.transpose() {
            Some(packet) if answers => self.send(packet),
            // There is no other way to say that it was not stored.
            None if answers && outcome.is_err() && reply != Reply::None => {
                self.disconnect(DisconnectReasonCode::ServerBusy)
            }
            _ => {}
        }
    }

    /// Whether a packet answers a publish of QoS 2 that is still in flight. The protocol answers a repeated one by
    /// itself; the answer to the first is yet to come and serves both.
    pub(super) fn is_early(&self, packet: &Packet) -> bool {
        let id = match packet {
            Packet::V3_1_1Pubrec(p) => p.packet_id(),
            Packet::V5_0Pubrec(p) => p.packet_id(),
            _ => return false,
        };
        self.awaits_pubrec(id)
    }

    fn awaits_pubrec(&self, id: u16) -> bool {
        self.in_flight.iter().any(|publish| publish.reply == Reply::Pubrec(id))
    }

    /// The second half of QoS 2.
    fn release(&mut self, id: u16) {
        if self.awaits_pubrec(id) {
            // PUBCOMP would acknowledge what may not be stored yet.
            return self.disconnect(DisconnectReasonCode::ProtocolError);
        }
        let version = self.protocol.get_protocol_version();
        self.send(packets::pubcomp(version, id));
    }

    fn subscribe(&mut self, id: u16, entries: &[SubEntry]) {
        if let Some(session) = &mut self.session {
            let suback = packets::suback(session.version, id, session.subscribe(entries));
            self.send(suback);
        }
    }

    fn unsubscribe(&mut self, id: u16, filters: &[MqttString]) {
        if let Some(session) = &mut self.session {
            let codes = session.unsubscribe(filters.iter().map(MqttString::as_str));
            let unsuback = packets::unsuback(session.version, id, codes);
            self.send(unsuback);
        }
    }

    /// Ends the connection with a reason, where the protocol has reasons.
    fn disconnect(&mut self, reason: DisconnectReasonCode) {
        if let Some(packet) = packets::disconnect(self.protocol.get_protocol_version(), reason) {
            self.send(Ok(packet));
        }
        self.leave(Phase::Closing);
    }

    /// The client said goodbye.
    fn farewell(&mut self, clean: bool) {
        self.will_due &= !clean;
        self.leave(Phase::Gone);
    }
}
