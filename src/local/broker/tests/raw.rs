//! A client that is made by hand, and what only such a client does: too much, too little, or nothing at all.

use mqtt_protocol_core::mqtt::packet::{
    Packet, Property, Qos, SessionExpiryInterval, SubEntry, SubOpts, TopicAliasMaximum, v3_1_1, v5_0,
};
use mqtt_protocol_core::mqtt::prelude::*;
use proptest::prelude::{Strategy, any, prop};
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::log::spool::tests::{SmallDisk, on_small_disk};

const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBCOMP: u8 = 0x70;
const SUBACK: u8 = 0x90;
const DISCONNECT: u8 = 0xe0;

struct Raw(TcpStream);

impl Raw {
    async fn open(broker: &Running) -> Raw {
        Raw(TcpStream::connect(broker.addr).await.unwrap())
    }

    /// A version 3.1.1 client that was let in.
    async fn v3(broker: &Running, id: &str) -> Raw {
        let mut raw = Raw::open(broker).await;
        raw.send(v3_1_1::Connect::builder().client_id(id).unwrap().clean_session(true).build().unwrap()).await;
        assert_eq!(raw.packet().await, Some((CONNACK, vec![0, 0])));
        raw
    }

    /// A version 5 client that was let in.
    async fn v5(broker: &Running, id: &str) -> Raw {
        let mut raw = Raw::open(broker).await;
        raw.send(v5_0::Connect::builder().client_id(id).unwrap().clean_start(true).build().unwrap()).await;
        let (kind, body) = raw.packet().await.unwrap();
        assert_eq!((kind, &body[..2]), (CONNACK, &[0, 0][..]));
        raw
    }

    async fn send(&mut self, packet: impl Into<Packet>) {
        self.bytes(&packet.into().to_continuous_buffer()).await;
    }

    async fn bytes(&mut self, bytes: &[u8]) {
        // The broker may have hung up, which is for the test to see when it reads.
        let _ = self.0.write_all(bytes).await;
    }

    /// The next packet's first byte and body; `None` at the end.
    async fn packet(&mut self) -> Option<(u8, Vec<u8>)> {
        let reading = async {
            let kind = self.0.read_u8().await?;
            let (mut len, mut shift) = (0, 0);
            loop {
                let byte = self.0.read_u8().await?;
                len |= usize::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            let mut body = vec![0; len];
            self.0.read_exact(&mut body).await?;
            std::io::Result::Ok((kind, body))
        };
        timeout(LONG, reading).await.expect("the broker says nothing").ok()
    }

    async fn subscribe(&mut self, filter: &str) {
        let entry = SubEntry::new(filter, SubOpts::new()).unwrap();
        self.send(v3_1_1::Subscribe::builder().packet_id(9).entries(vec![entry]).build().unwrap()).await;
        assert_eq!(self.packet().await, Some((SUBACK, vec![0, 9, 0])));
    }
}

fn v3_publish(topic: &str, qos: Qos, id: u16, payload: &[u8]) -> v3_1_1::Publish {
    let publish = v3_1_1::Publish::builder().topic_name(topic).unwrap().qos(qos).payload(payload);
    if qos == Qos::AtMostOnce { publish.build().unwrap() } else { publish.packet_id(id).build().unwrap() }
}

fn v5_publish(topic: &str, qos: Qos, id: u16, payload: &[u8]) -> v5_0::Publish {
    let publish = v5_0::Publish::builder().topic_name(topic).unwrap().qos(qos).payload(payload);
    publish.packet_id(id).build().unwrap()
}

#[tokio::test]
async fn version_5_clients_are_told_what_there_is_not() {
    let broker = Running::start().await;
    let mut raw = Raw::open(&broker).await;
    // An alias maximum of 0 is what the protocol library panics at.
    let wishes: Vec<Property> =
        vec![SessionExpiryInterval::new(3600).unwrap().into(), TopicAliasMaximum::new(0).unwrap().into()];
    raw.send(v5_0::Connect::builder().clean_start(true).props(wishes).build().unwrap()).await;
    let (kind, body) = raw.packet().await.unwrap();
    assert_eq!(kind, CONNACK);
    let (connack, _) = v5_0::Connack::parse(&body).unwrap();
    let text = format!("{:?}", connack.props());
    for property in [
        "SessionExpiryInterval",
        "ReceiveMaximum",
        "RetainAvailable",
        "MaximumPacketSize",
        "AssignedClientIdentifier",
        "SubscriptionIdentifierAvailable",
        "SharedSubscriptionAvailable",
    ] {
        assert!(text.contains(property), "{property} in {text}");
    }
    let entries = ["$share/g/a", "a/#/b", "a/+"].map(|filter| SubEntry::new(filter, SubOpts::new()).unwrap());
    raw.send(v5_0::Subscribe::builder().packet_id(1).entries(entries.to_vec()).build().unwrap()).await;
    assert_eq!(raw.packet().await, Some((SUBACK, vec![0, 1, 0, 0x9e, 0x8f, 0])));
}

#[tokio::test]
async fn an_empty_client_id_needs_a_clean_session() {
    let broker = Running::start().await;
    let mut raw = Raw::open(&broker).await;
    // By hand, as the library makes no such packet.
    raw.bytes(&[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 0, 0, 0, 0, 0]).await;
    assert_eq!(raw.packet().await, Some((CONNACK, vec![0, 2])));
    assert_eq!(raw.packet().await, None);
    let mut raw = Raw::open(&broker).await;
    raw.bytes(&[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 0]).await;
    assert_eq!(raw.packet().await, Some((CONNACK, vec![0, 0])));
}

#[tokio::test]
async fn the_same_client_again_takes_the_place_of_the_first() {
    let broker = Running::start().await;
    let mut watcher = Raw::v3(&broker, "watcher").await;
    watcher.subscribe("wills/#").await;
    let mut first = Raw::open(&broker).await;
    let connect = v5_0::Connect::builder().client_id("twin").unwrap().clean_start(true);
    let connect = connect.will_message("wills/twin", b"gone", Qos::AtLeastOnce, false).unwrap().build().unwrap();
    first.send(connect.clone()).await;
    assert_eq!(first.packet().await.unwrap().0, CONNACK);
    let mut second = Raw::v5(&broker, "twin").await;
    assert_eq!(first.packet().await, Some((DISCONNECT, vec![0x8e])));
    assert_eq!(first.packet().await, None);
    let (kind, body) = watcher.packet().await.unwrap();
    assert_eq!((kind, &body[2..]), (PUBLISH, &b"wills/twingone"[..]));
    second.send(v5_publish("iot/device/twin", Qos::AtLeastOnce, 1, b"x")).await;
    assert_eq!(second.packet().await.unwrap().0, PUBACK);

    // A client that says goodbye leaves no will, one that says so leaves it.
    for (reason, expected) in [(0x00, None), (0x04, Some(PUBLISH))] {
        let mut third = Raw::open(&broker).await;
        third.send(connect.clone()).await;
        assert_eq!(third.packet().await.unwrap().0, CONNACK);
        third.bytes(&[DISCONNECT, 1, reason]).await;
        assert_eq!(third.packet().await, None);
        let published = v3_publish("wills/else", Qos::AtLeastOnce, 1, b"");
        let mut other = Raw::v3(&broker, "other").await;
        until("gone", || broker.stats.connections.load(Relaxed) <= 3).await;
        other.send(published).await;
        if expected.is_some() {
            assert_eq!(&watcher.packet().await.unwrap().1[2..], b"wills/twingone");
        }
        assert_eq!(&watcher.packet().await.unwrap().1[2..], b"wills/else");
    }
}

#[tokio::test]
async fn a_repeated_qos_2_publish_is_stored_once() {
    let broker = Running::start().await;
    let mut raw = Raw::v3(&broker, "two").await;
    let publish = v3_publish("iot/device/two", Qos::ExactlyOnce, 7, b"once");
    raw.send(publish.clone()).await;
    raw.send(publish.clone()).await;
    assert_eq!(raw.packet().await, Some((PUBREC, vec![0, 7])));
    raw.send(publish).await;
    // The answer to the second may have come with that to the first, or by itself.
    raw.send(v3_1_1::Pubrel::builder().packet_id(7).build().unwrap()).await;
    let mut answer = raw.packet().await;
    while answer == Some((PUBREC, vec![0, 7])) {
        answer = raw.packet().await;
    }
    assert_eq!(answer, Some((PUBCOMP, vec![0, 7])));
    assert_eq!(broker.stored().await.len(), 1);
}

#[tokio::test]
async fn a_client_may_send_far_more_than_is_kept_of_it() {
    let broker = Running::start().await;
    let Raw(stream) = Raw::v3(&broker, "eager").await;
    let (reading, mut writing) = stream.into_split();
    let sending = tokio::spawn(async move {
        for n in 1..=20_000 {
            let publish = v3_publish("iot/device/eager", Qos::AtLeastOnce, n, b"x").to_continuous_buffer();
            writing.write_all(&publish).await.unwrap();
        }
        writing
    });
    // Nothing is read until the broker is full, which it must be long before the end.
    let stats = &broker.stats;
    until("stored", || stats.stored.load(Relaxed) > 2 * u64::from(connection::MAX_IN_FLIGHT)).await;
    let mut reading = tokio::io::BufReader::new(reading);
    for n in 1..=20_000u16 {
        let mut ack = [0; 4];
        timeout(LONG, reading.read_exact(&mut ack)).await.expect("the broker is stuck").unwrap();
        let [high, low] = n.to_be_bytes();
        assert_eq!(ack, [PUBACK, 2, high, low]);
    }
    drop(sending.await.unwrap());
    assert_eq!(broker.stored().await.len(), 20_000);
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_stops_nobody() {
    let broker = Running::start().await;
    let mut slow = Raw::v3(&broker, "slow").await;
    slow.subscribe("iot/#").await;
    let mut fast = Raw::v3(&broker, "fast").await;
    let payload = vec![b'x'; 100_000];
    for n in 1..=300u16 {
        fast.send(v3_publish("iot/device/fast", Qos::AtLeastOnce, n, &payload)).await;
        assert_eq!(fast.packet().await, Some((PUBACK, n.to_be_bytes().to_vec())));
    }
    let dropped = broker.stats.copies_dropped.load(Relaxed);
    assert!(dropped > 0);
    // What it did not lose it still gets, whole.
    for _ in 0..300 - dropped {
        let (kind, body) = slow.packet().await.unwrap();
        assert_eq!((kind, body.len()), (PUBLISH, 2 + "iot/device/fast".len() + payload.len()));
    }
}

#[tokio::test]
async fn what_is_no_mqtt_ends_its_connection_and_no_other() {
    let broker = Running::start().await;
    let mut witness = Raw::v3(&broker, "witness").await;
    let malformed: [&[u8]; 9] = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        &[0x10, 0],
        &[0x30, 0],
        &[0xff; 40],
        &[0x00; 40],
        &[0x10, 0xff, 0xff, 0xff, 0x7f, 0],
        // Version 3, and version 9.
        &[0x10, 14, 0, 6, b'M', b'Q', b'I', b's', b'd', b'p', 3, 2, 0, 0, 0, 0],
        &[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 9, 2, 0, 0, 0, 0],
    ];
    for bytes in malformed {
        let mut raw = Raw::open(&broker).await;
        raw.bytes(bytes).await;
        while raw.packet().await.is_some() {}
    }
    assert_eq!(broker.stats.protocol_errors.load(Relaxed), malformed.len() as u64);
    let after_connect: [&[u8]; 6] = [
        // A second CONNECT, QoS 3, a topic with a wildcard, SUBSCRIBE without filters, CONNACK, and a packet type 0.
        &[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 0],
        &[0x36, 5, 0, 1, b'a', 0, 1],
        &[0x30, 3, 0, 1, b'#'],
        &[0x82, 2, 0, 1],
        &[0x20, 2, 0, 0],
        &[0x00, 0],
    ];
    for bytes in after_connect {
        for version in [3, 5] {
            let mut raw = match version {
                3 => Raw::v3(&broker, "bad").await,
                _ => Raw::v5(&broker, "bad").await,
            };
            raw.bytes(bytes).await;
            while raw.packet().await.is_some() {}
        }
    }
    witness.send(v3_publish("iot/device/w", Qos::AtLeastOnce, 1, b"still here")).await;
    assert_eq!(witness.packet().await, Some((PUBACK, vec![0, 1])));
    assert_eq!(broker.stored().await.len(), 1);
}

#[tokio::test]
async fn garbled_clients_do_not_hurt_the_broker() {
    let broker = Running::start().await;
    let entry = SubEntry::new("a/#", SubOpts::new()).unwrap();
    let v3: [Packet; 4] = [
        v3_1_1::Connect::builder().client_id("x").unwrap().build().unwrap().into(),
        v3_publish("iot/device/x", Qos::AtLeastOnce, 1, b"payload").into(),
        v3_1_1::Subscribe::builder().packet_id(2).entries(vec![entry.clone()]).build().unwrap().into(),
        v3_publish("iot/device/x", Qos::ExactlyOnce, 3, b"payload").into(),
    ];
    let v5: [Packet; 4] = [
        v5_0::Connect::builder().client_id("x").unwrap().build().unwrap().into(),
        v5_publish("iot/device/x", Qos::AtLeastOnce, 1, b"payload").into(),
        v5_0::Subscribe::builder().packet_id(2).entries(vec![entry]).build().unwrap().into(),
        v5_publish("iot/device/x", Qos::ExactlyOnce, 3, b"payload").into(),
    ];
    let garbling = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4);
    let mut runner = TestRunner::deterministic();
    for round in 0..400 {
        let packets = if round % 2 == 0 { &v3 } else { &v5 };
        let mut bytes: Vec<u8> = packets.iter().flat_map(|packet| packet.to_continuous_buffer()).collect();
        for (place, byte) in garbling.new_tree(&mut runner).unwrap().current() {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let mut raw = Raw::open(&broker).await;
        raw.bytes(&bytes).await;
        // A client that the broker still waits for gets no end from it before it ends itself.
        raw.0.shutdown().await.unwrap();
        while raw.packet().await.is_some() {}
    }
    until("all gone", || broker.stats.connections.load(Relaxed) == 0).await;
    assert_eq!(broker.stats.subscriptions.load(Relaxed), 0);
    let mut raw = Raw::v5(&broker, "sound").await;
    raw.send(v5_publish("iot/device/sound", Qos::AtLeastOnce, 1, b"x")).await;
    assert_eq!(raw.packet().await.unwrap().0, PUBACK);
}

#[tokio::test]
async fn a_publish_over_the_limit_is_cut_and_acknowledged_and_the_connection_goes_on() {
    let broker = Running::start().await;
    // One that ends with the rest that is dropped, and one whose length takes a byte more than that of what is kept.
    for (place, long) in [vec![0; 300_000], vec![0; 3_000_000]].iter().enumerate() {
        let mut raw = Raw::v5(&broker, "long").await;
        raw.send(v5_publish("iot/device/long", Qos::AtLeastOnce, 1, long)).await;
        raw.send(v5_publish("iot/device/long", Qos::AtLeastOnce, 2, b"short")).await;
        assert_eq!(raw.packet().await.unwrap().0, PUBACK);
        assert_eq!(raw.packet().await.unwrap().0, PUBACK);
        let mut raw = Raw::v3(&broker, "long").await;
        raw.send(v3_publish("iot/device/long", Qos::AtLeastOnce, 1, long)).await;
        raw.send(v3_publish("iot/device/long", Qos::AtLeastOnce, 2, b"short")).await;
        assert_eq!(raw.packet().await.unwrap().0, PUBACK);
        assert_eq!(raw.packet().await.unwrap().0, PUBACK);
        let lens: Vec<usize> = broker.stored().await.iter().map(|(_, payload)| payload.len()).collect();
        let kept = crate::reading::MAX_PACKET_BYTES + 1;
        assert_eq!(lens, [kept, 5, kept, 5].repeat(place + 1));
    }
}

#[tokio::test]
async fn a_full_disk_acknowledges_nothing() {
    let disk = SmallDisk::default();
    let broker = Running::with(|dir| on_small_disk(dir, &disk), |_| ()).await;
    let mut five = Raw::v5(&broker, "five").await;
    five.send(v5_publish("iot/device/five", Qos::AtLeastOnce, 1, b"x")).await;
    assert_eq!(five.packet().await, Some((PUBACK, vec![0, 1, 0x97])));
    five.send(v5_publish("iot/device/five", Qos::ExactlyOnce, 2, b"x")).await;
    assert_eq!(five.packet().await, Some((PUBREC, vec![0, 2, 0x97])));
    let mut three = Raw::v3(&broker, "three").await;
    three.send(v3_publish("iot/device/three", Qos::AtMostOnce, 0, b"x")).await;
    three.send(v3_publish("iot/device/three", Qos::AtLeastOnce, 1, b"x")).await;
    assert_eq!(three.packet().await, None);
    let stats = &broker.stats;
    assert_eq!((stats.dropped.load(Relaxed), stats.not_stored.load(Relaxed), stats.stored.load(Relaxed)), (1, 3, 0));

    disk.room.store(1_000_000, std::sync::atomic::Ordering::SeqCst);
    five.send(v5_publish("iot/device/five", Qos::AtLeastOnce, 1, b"space")).await;
    assert_eq!(five.packet().await, Some((PUBACK, vec![0, 1])));
    assert_eq!(broker.stored().await, [("five".to_string(), b"space".to_vec())]);
}

#[tokio::test]
async fn on_shutdown_what_was_read_is_acknowledged_before_the_goodbye() {
    let mut broker = Running::start().await;
    let mut raw = Raw::v5(&broker, "busy").await;
    for n in 1..=200 {
        raw.send(v5_publish("iot/device/busy", Qos::AtLeastOnce, n, b"x")).await;
    }
    until("some are read", || broker.stats.received() > 0).await;
    broker.stop().await;
    let mut acknowledged = 0;
    loop {
        match raw.packet().await.unwrap() {
            (PUBACK, id) => {
                acknowledged += 1;
                assert_eq!(id, (acknowledged as u16).to_be_bytes());
            }
            last => {
                assert_eq!(last, (DISCONNECT, vec![0x8b]));
                break;
            }
        }
    }
    assert_eq!(raw.packet().await, None);
    assert!(acknowledged > 0);
    assert_eq!(acknowledged, broker.stats.received());
    assert_eq!(broker.stored().await.len() as u64, acknowledged);
    assert_eq!(broker.stats.connections.load(Relaxed), 0);
}

#[tokio::test]
async fn a_silent_client_is_cut_after_its_keep_alive() {
    let broker = Running::start().await;
    let mut raw = Raw::open(&broker).await;
    raw.send(v5_0::Connect::builder().client_id("silent").unwrap().keep_alive(1).build().unwrap()).await;
    assert_eq!(raw.packet().await.unwrap().0, CONNACK);
    assert_eq!(raw.packet().await, Some((DISCONNECT, vec![0x8d])));
    assert_eq!(raw.packet().await, None);
}

#[tokio::test]
async fn a_connection_without_connect_is_cut() {
    let soon = |options: &mut BrokerOptions| options.connect_time = Duration::from_millis(30);
    let broker = Running::with(|dir| Spool::open(dir).unwrap(), soon).await;
    let mut raw = Raw::open(&broker).await;
    raw.bytes(&[0x10]).await;
    let mut end = Vec::new();
    raw.0.read_to_end(&mut end).await.unwrap();
    assert!(end.is_empty());
}

#[tokio::test]
async fn no_more_connections_than_allowed() {
    let broker = Running::with(|dir| Spool::open(dir).unwrap(), |options| options.max_connections = 2).await;
    let one = Raw::v3(&broker, "one").await;
    let _two = Raw::v3(&broker, "two").await;
    let mut three = Raw::open(&broker).await;
    assert_eq!(three.packet().await, None);
    assert_eq!(broker.stats.refused.load(Relaxed), 1);
    drop(one);
    until("gone", || broker.stats.connections.load(Relaxed) == 1).await;
    Raw::v3(&broker, "three").await;
}
