//! What the protocol library (`mqtt-protocol-core` 0.7.9) does not bear.

use mqtt_protocol_core::mqtt::packet::{Properties, PropertiesParse, Property};

use super::framing::varint;

/// Where the properties of a CONNECT of version 5 begin, after its fixed header.
const CONNECT_PROPERTIES: usize = 10;

/// Makes a CONNECT of version 5 that says "at most 0 topic aliases" say 1, as the library panics at 0, which the
/// protocol allows and which is the same as saying nothing. The broker uses no aliases whatever a client allows.
pub fn bear_alias_maximum(connect: &mut [u8]) {
    if let Some(value) = alias_maximum(connect)
        && let Some(value @ [0, 0]) = connect.get_mut(value..value + 2)
    {
        value[1] = 1;
    }
}

/// Where the value of the Topic Alias Maximum stands in a CONNECT.
fn alias_maximum(connect: &[u8]) -> Option<usize> {
    let (_, header) = varint(connect.get(1..)?)?;
    let body = 1 + header;
    // The sixth byte is the version. In version 3.1.1 the client's id stands where the properties would.
    if connect.get(body + 6) != Some(&5) {
        return None;
    }
    let properties = body + CONNECT_PROPERTIES;
    let (parsed, _) = Properties::parse(connect.get(properties..)?).ok()?;
    let (_, length) = varint(connect.get(properties..)?)?;
    let mut place = properties + length;
    for property in &parsed {
        if matches!(property, Property::TopicAliasMaximum(_)) {
            return Some(place + 1);
        }
        place += property.size();
    }
    None
}

#[cfg(test)]
mod tests {
    use mqtt_protocol_core::mqtt::packet::{ReceiveMaximum, TopicAliasMaximum, UserProperty, v3_1_1, v5_0};

    use super::*;

    #[test]
    fn an_alias_maximum_of_0_becomes_1_and_nothing_else_changes() {
        for (before, after) in [(0, 1), (1, 1), (9, 9), (256, 256)] {
            let connect = |maximum| {
                let properties: Vec<Property> = vec![
                    ReceiveMaximum::new(3).unwrap().into(),
                    UserProperty::new("a\"", "b".repeat(200).as_str()).unwrap().into(),
                    TopicAliasMaximum::new(maximum).unwrap().into(),
                    UserProperty::new("\"\0\0", "").unwrap().into(),
                ];
                let connect = v5_0::Connect::builder().client_id("\"\0\0").unwrap().props(properties);
                connect.build().unwrap().to_continuous_buffer()
            };
            let mut bytes = connect(before);
            bear_alias_maximum(&mut bytes);
            assert_eq!(bytes, connect(after));
        }
        let without = [
            v5_0::Connect::builder().client_id("x").unwrap().build().unwrap().to_continuous_buffer(),
            v3_1_1::Connect::builder().client_id("\"\0\0").unwrap().build().unwrap().to_continuous_buffer(),
        ];
        for bytes in without {
            for cut in 0..=bytes.len() {
                let mut cut_off = bytes[..cut].to_vec();
                bear_alias_maximum(&mut cut_off);
                assert_eq!(cut_off, bytes[..cut]);
            }
        }
    }
}
