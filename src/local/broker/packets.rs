//! The packets that the broker sends, in both versions of the protocol.

use bytes::Bytes;
use mqtt_protocol_core::mqtt::Version;
use mqtt_protocol_core::mqtt::common::ArcPayload;
use mqtt_protocol_core::mqtt::packet::{self, Packet, Property, Qos, v3_1_1, v5_0};
use mqtt_protocol_core::mqtt::result_code::{
    ConnectReasonCode, ConnectReturnCode, DisconnectReasonCode, MqttError, PubackReasonCode, PubrecReasonCode,
    SubackReasonCode, SubackReturnCode, UnsubackReasonCode,
};

use super::connection::MAX_IN_FLIGHT;
use crate::log::append::AppendError;

/// What a publish is answered with when it is stored, with its packet identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// QoS 0: nothing.
    None,
    /// QoS 1.
    Puback(u16),
    /// QoS 2, the first half. The second is answered at once, as the packet is stored by then.
    Pubrec(u16),
}

/// The answer to a publish that is stored.
pub fn stored(version: Version, reply: Reply) -> Result<Option<Packet>, MqttError> {
    Ok(Some(match (version, reply) {
        (_, Reply::None) => return Ok(None),
        (Version::V5_0, Reply::Puback(id)) => v5_0::Puback::builder().packet_id(id).build()?.into(),
        (Version::V5_0, Reply::Pubrec(id)) => v5_0::Pubrec::builder().packet_id(id).build()?.into(),
        (_, Reply::Puback(id)) => v3_1_1::Puback::builder().packet_id(id).build()?.into(),
        (_, Reply::Pubrec(id)) => v3_1_1::Pubrec::builder().packet_id(id).build()?.into(),
    }))
}

/// The answer to a publish that could not be stored. `None` where the protocol has none but the end of the connection:
/// so it is with version 3.1.1, and when the log was closed, as the next broker may store it.
pub fn not_stored(version: Version, reply: Reply, error: &AppendError) -> Result<Option<Packet>, MqttError> {
    if version != Version::V5_0 || error.is_closed() {
        return Ok(None);
    }
    let full = error.is_full();
    Ok(Some(match reply {
        Reply::None => return Ok(None),
        Reply::Puback(id) => {
            let code =
                if full { PubackReasonCode::QuotaExceeded } else { PubackReasonCode::ImplementationSpecificError };
            v5_0::Puback::builder().packet_id(id).reason_code(code).build()?.into()
        }
        Reply::Pubrec(id) => {
            let code =
                if full { PubrecReasonCode::QuotaExceeded } else { PubrecReasonCode::ImplementationSpecificError };
            v5_0::Pubrec::builder().packet_id(id).reason_code(code).build()?.into()
        }
    }))
}

/// The answer to PUBREL.
pub fn pubcomp(version: Version, id: u16) -> Result<Packet, MqttError> {
    Ok(match version {
        Version::V5_0 => v5_0::Pubcomp::builder().packet_id(id).build()?.into(),
        _ => v3_1_1::Pubcomp::builder().packet_id(id).build()?.into(),
    })
}

/// What a client is told when it is let in, where that is not what it asked for.
#[derive(Debug, Default)]
pub struct Welcome {
    /// The id that was made up for it.
    pub assigned_id: Option<String>,
    /// It asked for a session that outlives the connection, and gets none.
    pub session_refused: bool,
}

/// CONNACK for a client that is let in. Of version 5 it is told what there is not: sessions, retained messages, shared
/// subscriptions, subscription identifiers, topic aliases. (The protocol library adds the largest packet.)
pub fn accepted(version: Version, welcome: Welcome) -> Result<Packet, MqttError> {
    if version != Version::V5_0 {
        let connack = v3_1_1::Connack::builder().return_code(ConnectReturnCode::Accepted).session_present(false);
        return Ok(connack.build()?.into());
    }
    let mut properties: Vec<Property> = vec![
        packet::ReceiveMaximum::new(MAX_IN_FLIGHT)?.into(),
        packet::RetainAvailable::new(0)?.into(),
        packet::SubscriptionIdentifierAvailable::new(0)?.into(),
        packet::SharedSubscriptionAvailable::new(0)?.into(),
    ];
    if let Some(id) = welcome.assigned_id {
        properties.push(packet::AssignedClientIdentifier::new(id)?.into());
    }
    if welcome.session_refused {
        properties.push(packet::SessionExpiryInterval::new(0)?.into());
    }
    let connack = v5_0::Connack::builder().reason_code(ConnectReasonCode::Success).session_present(false);
    Ok(connack.props(properties).build()?.into())
}

/// CONNACK for a client that is not let in.
pub fn rejected(version: Version, reason: ConnectReasonCode) -> Result<Packet, MqttError> {
    if version == Version::V5_0 {
        return Ok(v5_0::Connack::builder().reason_code(reason).session_present(false).build()?.into());
    }
    let code = match reason {
        ConnectReasonCode::ClientIdentifierNotValid => ConnectReturnCode::IdentifierRejected,
        ConnectReasonCode::QuotaExceeded => ConnectReturnCode::ServerUnavailable,
        _ => ConnectReturnCode::NotAuthorized,
    };
    Ok(v3_1_1::Connack::builder().return_code(code).session_present(false).build()?.into())
}

/// SUBACK. Every subscription that is granted is granted at QoS 0.
pub fn suback(version: Version, id: u16, codes: Vec<SubackReasonCode>) -> Result<Packet, MqttError> {
    if version == Version::V5_0 {
        return Ok(v5_0::Suback::builder().packet_id(id).reason_codes(codes).build()?.into());
    }
    let granted = |code| match code {
        SubackReasonCode::GrantedQos0 => SubackReturnCode::SuccessMaximumQos0,
        _ => SubackReturnCode::Failure,
    };
    let codes = codes.into_iter().map(granted).collect();
    Ok(v3_1_1::Suback::builder().packet_id(id).return_codes(codes).build()?.into())
}

/// UNSUBACK.
pub fn unsuback(version: Version, id: u16, codes: Vec<UnsubackReasonCode>) -> Result<Packet, MqttError> {
    Ok(match version {
        Version::V5_0 => v5_0::Unsuback::builder().packet_id(id).reason_codes(codes).build()?.into(),
        _ => v3_1_1::Unsuback::builder().packet_id(id).build()?.into(),
    })
}

/// DISCONNECT with a reason, which only version 5 has from a server.
pub fn disconnect(version: Version, reason: DisconnectReasonCode) -> Option<Packet> {
    match version {
        Version::V5_0 => Some(v5_0::Disconnect::builder().reason_code(reason).build().ok()?.into()),
        _ => None,
    }
}

/// A publish as a subscriber gets it, at QoS 0 and encoded; `None` where it can't be encoded.
pub fn copy(version: Version, topic: &str, payload: &ArcPayload, properties: &[Property]) -> Option<Bytes> {
    let packet = match version {
        Version::V5_0 => v5_0::Publish::builder()
            .topic_name(topic)
            .ok()?
            .qos(Qos::AtMostOnce)
            .payload(payload.clone())
            .props(properties.iter().filter(|property| is_forwarded(property)).cloned().collect::<Vec<_>>())
            .build()
            .ok()?
            .to_continuous_buffer(),
        _ => v3_1_1::Publish::builder()
            .topic_name(topic)
            .ok()?
            .qos(Qos::AtMostOnce)
            .payload(payload.clone())
            .build()
            .ok()?
            .to_continuous_buffer(),
    };
    Some(packet.into())
}

/// Whether a property is about the message, not about the hop between two of those who pass it.
fn is_forwarded(property: &Property) -> bool {
    matches!(
        property,
        Property::PayloadFormatIndicator(_)
            | Property::MessageExpiryInterval(_)
            | Property::ContentType(_)
            | Property::ResponseTopic(_)
            | Property::CorrelationData(_)
            | Property::UserProperty(_)
    )
}
