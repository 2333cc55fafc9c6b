//! The broker as clients see it, on real sockets. Here with clients of another make (`rumqttc`); in [`raw`] with packets
//! made by hand, for what such clients don't do.

use std::time::Duration;

use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::log::spool::Spool;
use crate::log::spool::tests::read_from;

mod raw;

/// Longer than anything takes that does not hang.
const LONG: Duration = Duration::from_secs(20);

/// A broker that serves, and its spool.
pub struct Running {
    pub spool: Spool,
    pub addr: SocketAddr,
    pub stats: Arc<BrokerStats>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Running {
    pub async fn start() -> Running {
        Running::with(|dir| Spool::open(dir).unwrap(), |_| ()).await
    }

    pub async fn with(
        open: impl FnOnce(&std::path::Path) -> Spool,
        adjust: impl FnOnce(&mut BrokerOptions),
    ) -> Running {
        let dir = tempfile::tempdir().unwrap();
        let spool = open(dir.path());
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut options = BrokerOptions { listen, ..BrokerOptions::default() };
        adjust(&mut options);
        let broker = Broker::bind(options, spool.appender()).await.unwrap();
        let (addr, stats) = (broker.local_addr(), broker.stats());
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(broker.run(async {
            let _ = stopped.await;
        }));
        Running { spool, addr, stats, stop: Some(stop), task, _dir: dir }
    }

    /// Asks the broker to stop, and waits until it has.
    pub async fn stop(&mut self) {
        drop(self.stop.take());
        timeout(LONG, &mut self.task).await.unwrap().unwrap();
    }

    /// Device and payload of what is in the spool.
    pub async fn stored(&self) -> Vec<(String, Vec<u8>)> {
        let records = read_from(&mut self.spool.source(), 0).await.unwrap();
        records.into_iter().map(|r| (r.device.unwrap(), r.payload)).collect()
    }
}

/// Waits until something is so.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(LONG, waiting).await.unwrap_or_else(|_| panic!("never {what}"));
}

fn v3(addr: SocketAddr, id: &str) -> (AsyncClient, rumqttc::EventLoop) {
    let mut options = MqttOptions::new(id, addr.ip().to_string(), addr.port());
    options.set_max_packet_size(300_000, 300_000).set_inflight(50);
    AsyncClient::new(options, 1000)
}

fn v5(addr: SocketAddr, id: &str) -> (rumqttc::v5::AsyncClient, rumqttc::v5::EventLoop) {
    let mut options = rumqttc::v5::MqttOptions::new(id, addr.ip().to_string(), addr.port());
    options.set_max_packet_size(Some(300_000));
    rumqttc::v5::AsyncClient::new(options, 1000)
}

/// Runs a version 3.1.1 client until `wanted` packets have come that `counts` counts; gives them.
async fn v3_until(events: &mut rumqttc::EventLoop, wanted: usize, counts: fn(&Incoming) -> bool) -> Vec<Incoming> {
    let mut got = Vec::new();
    while got.len() < wanted {
        match timeout(LONG, events.poll()).await.expect("the broker does not answer").unwrap() {
            Event::Incoming(packet) if counts(&packet) => got.push(packet),
            _ => {}
        }
    }
    got
}

/// The same with version 5.
async fn v5_until(
    events: &mut rumqttc::v5::EventLoop,
    wanted: usize,
    counts: fn(&rumqttc::v5::Incoming) -> bool,
) -> Vec<rumqttc::v5::Incoming> {
    let mut got = Vec::new();
    while got.len() < wanted {
        match timeout(LONG, events.poll()).await.expect("the broker does not answer").unwrap() {
            rumqttc::v5::Event::Incoming(packet) if counts(&packet) => got.push(packet),
            _ => {}
        }
    }
    got
}

const TOPICS: [&str; 5] =
    ["iot/device/a", "$aws/rules/x/iot/device/b", "iot/device/no id ä", "iot/device/", "else/where"];

/// What the spool has of one publish to each of [`TOPICS`].
fn in_the_spool(payload: &[u8]) -> Vec<(String, Vec<u8>)> {
    ["a", "b", "no id ä", ""].map(|device| (device.to_string(), payload.to_vec())).into()
}

#[tokio::test]
async fn what_is_acknowledged_at_qos_1_and_2_is_in_the_spool() {
    let broker = Running::start().await;
    let mut expected = Vec::new();
    let (client, mut events) = v3(broker.addr, "three");
    for topic in TOPICS {
        client.publish(topic, QoS::AtLeastOnce, false, "three-1").await.unwrap();
    }
    v3_until(&mut events, TOPICS.len(), |packet| matches!(packet, Incoming::PubAck(_))).await;
    expected.extend(in_the_spool(b"three-1"));
    assert_eq!(broker.stored().await, expected);
    for topic in TOPICS {
        client.publish(topic, QoS::ExactlyOnce, true, "three-2").await.unwrap();
    }
    v3_until(&mut events, TOPICS.len(), |packet| matches!(packet, Incoming::PubComp(_))).await;
    expected.extend(in_the_spool(b"three-2"));
    assert_eq!(broker.stored().await, expected);

    let (client, mut events) = v5(broker.addr, "five");
    for topic in TOPICS {
        client.publish(topic, rumqttc::v5::mqttbytes::QoS::AtLeastOnce, false, "five-1").await.unwrap();
    }
    v5_until(&mut events, TOPICS.len(), |packet| matches!(packet, rumqttc::v5::Incoming::PubAck(_))).await;
    expected.extend(in_the_spool(b"five-1"));
    assert_eq!(broker.stored().await, expected);
    for topic in TOPICS {
        client.publish(topic, rumqttc::v5::mqttbytes::QoS::ExactlyOnce, false, "five-2").await.unwrap();
    }
    v5_until(&mut events, TOPICS.len(), |packet| matches!(packet, rumqttc::v5::Incoming::PubComp(_))).await;
    expected.extend(in_the_spool(b"five-2"));
    assert_eq!(broker.stored().await, expected);

    let stats = &broker.stats;
    assert_eq!(stats.published.each_ref().map(|count| count.load(Relaxed)), [0, 10, 10]);
    assert_eq!((stats.acknowledged.load(Relaxed), stats.stored.load(Relaxed)), (20, 16));
    assert_eq!(stats.protocol_errors.load(Relaxed), 0);
}

#[tokio::test]
async fn publishes_at_qos_0_are_stored_too() {
    let broker = Running::start().await;
    let (client, mut events) = v3(broker.addr, "device");
    for n in 0..100u8 {
        client.publish("iot/device/d", QoS::AtMostOnce, false, [n]).await.unwrap();
    }
    client.disconnect().await.unwrap();
    while timeout(LONG, events.poll()).await.unwrap().is_ok() {}
    until("stored", || broker.stats.stored.load(Relaxed) == 100).await;
    let payloads: Vec<_> = broker.stored().await.into_iter().map(|(_, payload)| payload[0]).collect();
    assert_eq!(payloads, (0..100).collect::<Vec<_>>());
    assert_eq!(broker.stats.dropped.load(Relaxed), 0);
}

#[tokio::test]
async fn subscribers_get_copies_of_what_their_filters_match() {
    let broker = Running::start().await;
    let (sub3, mut events3) = v3(broker.addr, "sub3");
    for filter in ["iot/device/+", "#"] {
        sub3.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
    }
    let acks = v3_until(&mut events3, 2, |packet| matches!(packet, Incoming::SubAck(_))).await;
    for ack in acks {
        let Incoming::SubAck(ack) = ack else { panic!("{ack:?}") };
        assert_eq!(ack.return_codes, [rumqttc::SubscribeReasonCode::Success(QoS::AtMostOnce)]);
    }
    let (sub5, mut events5) = v5(broker.addr, "sub5");
    sub5.subscribe("$aws/#", rumqttc::v5::mqttbytes::QoS::AtMostOnce).await.unwrap();
    v5_until(&mut events5, 1, |packet| matches!(packet, rumqttc::v5::Incoming::SubAck(_))).await;

    let (client, mut events) = v5(broker.addr, "pub");
    for topic in TOPICS {
        client.publish(topic, rumqttc::v5::mqttbytes::QoS::AtLeastOnce, false, "x").await.unwrap();
    }
    v5_until(&mut events, TOPICS.len(), |packet| matches!(packet, rumqttc::v5::Incoming::PubAck(_))).await;

    let copies = v3_until(&mut events3, 4, |packet| matches!(packet, Incoming::Publish(_))).await;
    let topics: Vec<_> = copies
        .into_iter()
        .map(|packet| {
            let Incoming::Publish(publish) = packet else { panic!("{packet:?}") };
            assert_eq!((publish.qos, publish.retain, &publish.payload[..]), (QoS::AtMostOnce, false, &b"x"[..]));
            publish.topic
        })
        .collect();
    assert_eq!(topics, ["iot/device/a", "iot/device/no id ä", "iot/device/", "else/where"], "each once, none of $aws");
    let copies = v5_until(&mut events5, 1, |packet| matches!(packet, rumqttc::v5::Incoming::Publish(_))).await;
    let rumqttc::v5::Incoming::Publish(publish) = &copies[0] else { panic!("{copies:?}") };
    assert_eq!(publish.topic, "$aws/rules/x/iot/device/b");

    for filter in ["iot/device/+", "#"] {
        sub3.unsubscribe(filter).await.unwrap();
    }
    v3_until(&mut events3, 2, |packet| matches!(packet, Incoming::UnsubAck(_))).await;
    assert_eq!(broker.stats.subscriptions.load(Relaxed), 1);
    drop((sub5, events5));
    until("forgotten", || broker.stats.subscriptions.load(Relaxed) == 0).await;
    assert_eq!((broker.stats.copies.load(Relaxed), broker.stats.copies_dropped.load(Relaxed)), (5, 0));
}

#[tokio::test]
async fn a_packet_over_the_limit_of_a_reading_is_kept_as_one() {
    let broker = Running::start().await;
    let (client, mut events) = v3(broker.addr, "big");
    client.publish("iot/device/big", QoS::AtLeastOnce, false, vec![b'x'; 250_000]).await.unwrap();
    client.publish("iot/device/big", QoS::AtLeastOnce, false, "small").await.unwrap();
    v3_until(&mut events, 2, |packet| matches!(packet, Incoming::PubAck(_))).await;
    let lens: Vec<_> = broker.stored().await.iter().map(|(_, payload)| payload.len()).collect();
    assert_eq!(lens, [crate::reading::MAX_PACKET_BYTES + 1, 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_publishers_at_once_lose_nothing_and_keep_their_order() {
    let broker = Running::start().await;
    let mut clients = JoinSet::new();
    for device in 0..40 {
        let addr = broker.addr;
        clients.spawn(async move {
            let (client, mut events) = v3(addr, &format!("client-{device}"));
            for n in 0..50u8 {
                let topic = format!("iot/device/device_{device}");
                client.publish(topic, QoS::AtLeastOnce, false, [n]).await.unwrap();
            }
            v3_until(&mut events, 50, |packet| matches!(packet, Incoming::PubAck(_))).await;
        });
    }
    clients.join_all().await;
    let stored = broker.stored().await;
    assert_eq!(stored.len(), 2000);
    for device in 0..40 {
        let own = stored.iter().filter(|(id, _)| *id == format!("device_{device}")).map(|(_, payload)| payload[0]);
        assert_eq!(own.collect::<Vec<_>>(), (0..50).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn an_address_in_use_is_said_to_be() {
    let broker = Running::start().await;
    let options = BrokerOptions { listen: broker.addr, ..BrokerOptions::default() };
    let Err(error) = Broker::bind(options, broker.spool.appender()).await else { panic!("bound twice") };
    assert!(matches!(error, BrokerError::InUse { .. }));
    assert!(error.to_string().contains(&broker.addr.to_string()), "{error}");
}
