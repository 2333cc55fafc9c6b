//! CONNECT, SUBSCRIBE and what a client is remembered by. Sessions end with their connections.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use mqtt_protocol_core::mqtt::Version;
use mqtt_protocol_core::mqtt::common::{ArcPayload, IntoPayload};
use mqtt_protocol_core::mqtt::packet::{Property, SubEntry, v3_1_1, v5_0};
use mqtt_protocol_core::mqtt::result_code::{ConnectReasonCode, SubackReasonCode, UnsubackReasonCode};
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::hub::Hub;
use super::mailbox::Mailbox;
use super::packets::Welcome;
use super::topics::{Subscriber, valid_filter, valid_topic};

/// The longest client id that is let in, in bytes.
const MAX_CLIENT_ID: usize = 1024;

/// The most subscriptions of one connection.
const MAX_SUBSCRIPTIONS: usize = 256;

/// What remembering a subscription takes beside its text, in bytes for each level.
const LEVEL_BYTES: usize = 128;

/// A message that is published for a client whose connection breaks.
pub struct Will {
    topic: String,
    payload: ArcPayload,
    properties: Vec<Property>,
}

/// What a client says of itself in CONNECT.
pub struct Hello {
    pub version: Version,
    client_id: String,
    /// Version 3.1.1 has no empty ids but with this.
    clean: bool,
    wants_session: bool,
    /// It wants to authenticate by an exchange of packets, of which the broker knows none.
    wants_exchange: bool,
    /// The longest packet that it takes, in bytes.
    max_packet: usize,
    will: Option<Will>,
}

impl From<v3_1_1::Connect> for Hello {
    fn from(connect: v3_1_1::Connect) -> Hello {
        Hello {
            version: Version::V3_1_1,
            client_id: connect.client_id().to_string(),
            clean: connect.clean_session(),
            wants_session: !connect.clean_session(),
            wants_exchange: false,
            max_packet: usize::MAX,
            will: connect.will_topic().map(|topic| Will {
                topic: topic.to_string(),
                payload: connect.will_payload().unwrap_or_default().into_payload(),
                properties: Vec::new(),
            }),
        }
    }
}

impl From<v5_0::Connect> for Hello {
    fn from(connect: v5_0::Connect) -> Hello {
        let mut hello = Hello {
            version: Version::V5_0,
            client_id: connect.client_id().to_string(),
            clean: true,
            wants_session: false,
            wants_exchange: false,
            max_packet: usize::MAX,
            will: connect.will_topic().map(|topic| Will {
                topic: topic.to_string(),
                payload: connect.will_payload().unwrap_or_default().into_payload(),
                properties: connect.will_props().clone(),
            }),
        };
        for property in connect.props() {
            match property {
                Property::SessionExpiryInterval(interval) => hello.wants_session = interval.val() != 0,
                Property::AuthenticationMethod(_) => hello.wants_exchange = true,
                Property::MaximumPacketSize(size) => hello.max_packet = size.val() as usize,
                _ => {}
            }
        }
        hello
    }
}

/// A client that was let in. Dropping it forgets the client.
pub struct Session {
    hub: Arc<Hub>,
    connection: u64,
    client_id: Box<str>,
    pub version: Version,
    pub mailbox: Arc<Mailbox>,
    filters: HashSet<Box<str>>,
    will: Option<Will>,
    /// The share of the hub's budget for what is remembered.
    held: OwnedSemaphorePermit,
}

impl Session {
    /// Lets a client in, whose earlier connection ends then, or says why not; gives what to tell it too. `end` is notified when this connection is
    /// to end in its turn.
    pub fn begin(
        hub: &Arc<Hub>,
        connection: u64,
        hello: Hello,
        end: &Arc<Notify>,
    ) -> Result<(Session, Welcome), ConnectReasonCode> {
        if hello.wants_exchange {
            return Err(ConnectReasonCode::BadAuthenticationMethod);
        }
        let nameless = hello.client_id.is_empty();
        if hello.client_id.len() > MAX_CLIENT_ID || (nameless && !hello.clean) {
            return Err(ConnectReasonCode::ClientIdentifierNotValid);
        }
        let client_id = if nameless { format!("vitals-{connection}") } else { hello.client_id };
        let mut size = client_id.len();
        if let Some(will) = &hello.will {
            if !valid_topic(&will.topic) {
                return Err(ConnectReasonCode::TopicNameInvalid);
            }
            size += will.topic.len() + will.payload.len() + properties_size(&will.properties);
        }
        // One packet's contents, far below what 32 bits count.
        let held = Arc::clone(&hub.held).try_acquire_many_owned(size as u32);
        let held = held.map_err(|_| ConnectReasonCode::QuotaExceeded)?;
        hub.enter(&client_id, connection, end);
        hub.stats.accepted.fetch_add(1, Relaxed);
        let welcome =
            Welcome { assigned_id: nameless.then(|| client_id.clone()), session_refused: hello.wants_session };
        let session = Session {
            hub: Arc::clone(hub),
            connection,
            client_id: client_id.into(),
            version: hello.version,
            mailbox: Arc::new(Mailbox::new(hello.version, hello.max_packet, Arc::clone(&hub.mailboxes))),
            filters: HashSet::new(),
            will: hello.will,
            held,
        };
        Ok((session, welcome))
    }

    /// Subscribes to what can be subscribed to.
    pub fn subscribe(&mut self, entries: &[SubEntry]) -> Vec<SubackReasonCode> {
        entries.iter().map(|entry| self.subscribe_to(entry)).collect()
    }

    fn subscribe_to(&mut self, entry: &SubEntry) -> SubackReasonCode {
        let filter = entry.topic_filter();
        if filter.starts_with("$share/") {
            return SubackReasonCode::SharedSubscriptionsNotSupported;
        }
        if !valid_filter(filter) {
            return SubackReasonCode::TopicFilterInvalid;
        }
        if !self.filters.contains(filter) {
            let held = Arc::clone(&self.hub.held).try_acquire_many_owned(cost(filter));
            match held {
                Ok(held) if self.filters.len() < MAX_SUBSCRIPTIONS => self.held.merge(held),
                _ => return SubackReasonCode::QuotaExceeded,
            }
            self.filters.insert(filter.into());
        }
        let no_local = entry.sub_opts().nl() && self.version == Version::V5_0;
        let mailbox = Arc::clone(&self.mailbox);
        self.hub.subscribe(filter, Subscriber { connection: self.connection, no_local, mailbox });
        SubackReasonCode::GrantedQos0
    }

    /// Takes subscriptions away.
    pub fn unsubscribe<'a>(&mut self, filters: impl Iterator<Item = &'a str>) -> Vec<UnsubackReasonCode> {
        let one = |filter: &str| {
            if !self.filters.remove(filter) {
                return UnsubackReasonCode::NoSubscriptionExisted;
            }
            self.hub.unsubscribe(filter, self.connection);
            drop(self.held.split(cost(filter) as usize));
            UnsubackReasonCode::Success
        };
        filters.map(one).collect()
    }

    /// Publishes the client's will to subscribers: its connection broke.
    pub fn publish_will(&mut self) {
        if let Some(will) = self.will.take() {
            self.hub.copy(self.connection, &will.topic, &will.payload, &will.properties);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for filter in &self.filters {
            self.hub.unsubscribe(filter, self.connection);
        }
        self.hub.leave(&self.client_id, self.connection);
    }
}

/// What remembering a filter takes, in bytes. A filter is at most 64 KB.
fn cost(filter: &str) -> u32 {
    (filter.len() + LEVEL_BYTES * filter.split('/').count()) as u32
}

fn properties_size(properties: &[Property]) -> usize {
    use mqtt_protocol_core::mqtt::prelude::PropertiesSize;
    properties.to_vec().size()
}
