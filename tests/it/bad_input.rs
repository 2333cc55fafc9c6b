//! What devices get wrong: every kind of it, over real MQTT, becomes a dead letter with its reason, and nothing else
//! suffers.

use std::{collections::BTreeMap, path::Path, time::Duration};

use rumqttc::{AsyncClient, Event, MqttOptions, Outgoing, Packet, QoS};
use vitals::lake::{Store, now_ms};

use crate::{program::Up, support::rows};

const HOUR_MS: i64 = 3_600_000;

/// A publish: its topic and its payload.
type Publish = (String, Vec<u8>);

fn on(device: &str, payload: impl Into<Vec<u8>>) -> Publish {
    (format!("iot/device/{device}"), payload.into())
}

/// A packet with one reading, whose `seq` tells it from others.
fn good(device: &str, ts_ms: i64, seq: usize) -> Publish {
    on(device, format!(r#"{{"timestamp":{ts_ms},"heart_rate":70,"seq":{seq}}}"#))
}

fn client(name: &str, port: u16) -> (AsyncClient, rumqttc::EventLoop) {
    let mut options = MqttOptions::new(name, "127.0.0.1", port);
    options.set_max_packet_size(8 * 1024 * 1024, 8 * 1024 * 1024).set_inflight(100);
    AsyncClient::new(options, 16)
}

/// Publishes at QoS 1 on one connection; gives how many were acknowledged before it ended.
async fn publish(name: &str, port: u16, packets: Vec<Publish>) -> usize {
    let (client, mut events) = client(name, port);
    let count = packets.len();
    let publishing = tokio::spawn(async move {
        for (topic, payload) in packets {
            client.publish(topic, QoS::AtLeastOnce, false, payload).await.unwrap();
        }
        // Held, as a client that is dropped ends its connection.
        client
    });
    let mut acknowledged = 0;
    while acknowledged < count {
        match tokio::time::timeout(Duration::from_secs(20), events.poll()).await {
            Ok(Ok(Event::Incoming(Packet::PubAck(_)))) => acknowledged += 1,
            Ok(Ok(_)) => {}
            Ok(Err(_)) => break,
            Err(_) => panic!("no answer: {acknowledged} of {count} packets are acknowledged"),
        }
    }
    drop(publishing.await.unwrap());
    acknowledged
}

/// Publishes at QoS 0, which nobody acknowledges, and ends properly.
async fn publish_and_forget(name: &str, port: u16, packets: Vec<Publish>) {
    let (client, mut events) = client(name, port);
    for (topic, payload) in packets {
        client.publish(topic, QoS::AtMostOnce, false, payload).await.unwrap();
    }
    client.disconnect().await.unwrap();
    while !matches!(events.poll().await, Ok(Event::Outgoing(Outgoing::Disconnect)) | Err(_)) {}
}

async fn dead_letters(folder: &Path) -> BTreeMap<String, usize> {
    let store = Store::folder(&folder.join(".vitals")).unwrap();
    let counts = rows(&store, "SELECT reason, count(*) FROM dead_letters GROUP BY reason").await;
    counts.into_iter().map(|row| (row[0].clone(), row[1].parse().unwrap())).collect()
}

async fn readings(folder: &Path, sql: &'static str) -> Vec<Vec<String>> {
    rows(&Store::folder(&folder.join(".vitals")).unwrap(), sql).await
}

/// Every kind of bad packet, and the reason it must have.
fn bad(now: i64) -> Vec<(&'static str, Publish)> {
    let with = |fields: &str| on("device_1", format!(r#"{{"timestamp":{now},{fields}}}"#));
    let plain = |payload: &str| on("device_1", payload);
    let time = |text: &str| on("device_1", format!(r#"{{"timestamp":{text},"heart_rate":70}}"#));
    let ahead = now + 25 * HOUR_MS;
    let large = format!(r#"{{"timestamp":{now},"note":"{}"}}"#, "x".repeat(128 * 1024));
    let nested = format!(r#"{{"timestamp":{now},"note":{}1{}}}"#, "[".repeat(2_000), "]".repeat(2_000));
    vec![
        // Not JSON, or not the JSON of a packet.
        ("not_json", plain("hello")),
        ("not_json", plain("")),
        ("not_json", plain(r#"{"timestamp":"#)),
        ("not_json", plain(r#"{"timestamp":1} {"timestamp":2}"#)),
        ("not_json", with(r#""heart_rate":NaN"#)),
        ("not_json", with(r#""heart_rate":Infinity"#)),
        ("not_an_object", plain("[]")),
        ("not_an_object", plain("null")),
        ("not_an_object", plain("72")),
        ("not_utf8", on("device_1", [&b"{\"timestamp\":1,\"note\":\""[..], b"\xff\xfe\"}"].concat())),
        ("too_deep", plain(&nested)),
        ("too_deep", plain(&"[".repeat(100_000))),
        ("too_large", plain(&large)),
        // Wrong types.
        ("wrong_type", with(r#""heart_rate":"70""#)),
        ("wrong_type", with(r#""heart_rate":true"#)),
        ("wrong_type", with(r#""temperature":"NaN""#)),
        ("wrong_type", with(r#""temperature":"inf""#)),
        ("wrong_type", with(r#""blood_pressure":"high""#)),
        ("wrong_type", with(r#""seq":1.5"#)),
        ("wrong_type", with(r#""readings":{}"#)),
        // Time.
        ("no_timestamp", plain(r#"{"heart_rate":70}"#)),
        ("no_timestamp", time("null")),
        ("bad_timestamp", time(r#""yesterday""#)),
        ("bad_timestamp", time(r#""2026-02-30T00:00:00Z""#)),
        ("bad_timestamp", time("-1")),
        ("bad_timestamp", time("99999999999999999999")),
        ("clock_ahead", time(&ahead.to_string())),
        // Identity.
        ("bad_device_id", good("bed 7", now, 0)),
        ("bad_device_id", good("näme", now, 0)),
        ("bad_device_id", good("x' OR 1=1 --", now, 0)),
        ("bad_device_id", good("..", now, 0)),
        ("bad_device_id", good("\u{1b}[31mred", now, 0)),
        ("bad_device_id", good(&"x".repeat(129), now, 0)),
        ("wrong_device", with(r#""device_id":"device_2""#)),
        // Keys and batches.
        ("duplicate_key", with(r#""heart_rate":70,"heart_rate":71"#)),
        ("duplicate_key", with(&format!(r#""timestamp":{now}"#))),
        ("empty_batch", plain(r#"{"readings":[]}"#)),
        ("no_timestamp", plain(&format!(r#"{{"readings":[{{"timestamp":{now},"seq":-1}},{{"spo2":97}}]}}"#))),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_bad_packet_is_a_dead_letter_and_harms_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(folder.path());
    let now = now_ms();
    let mut expected: BTreeMap<String, usize> = BTreeMap::new();
    let mut packets = vec![good("device_1", now, 1)];
    for (reason, packet) in bad(now) {
        *expected.entry(reason.to_owned()).or_default() += 1;
        packets.extend([packet, good("device_1", now, packets.len() + 1)]);
    }
    let (all, bad) = (packets.len(), expected.values().sum::<usize>());
    assert_eq!(publish("device_1", up.port, packets).await, all);
    let said = up.interrupt();
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(dead_letters(folder.path()).await, expected);
    // The good ones around them, and the good one in the batch.
    let stored = readings(folder.path(), "SELECT count(*), count(DISTINCT seq), min(seq) FROM readings").await;
    let good = (all - bad + 1).to_string();
    assert_eq!(stored, [[good.clone(), good, "-1".to_owned()]]);
    // What was rejected is told, with its reasons.
    assert!(said.err.contains(&format!("{bad} dead letters: 1 too_large, 1 not_utf8, ")), "{said:?}");
    let payloads = readings(folder.path(), "SELECT payload FROM dead_letters WHERE reason = 'wrong_device'").await;
    assert_eq!(payloads, [[format!(r#"{{"timestamp":{now},"device_id":"device_2"}}"#)]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn implausible_values_are_data() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(folder.path());
    let now = now_ms();
    let with = |fields: &str| on("device_1", format!(r#"{{"timestamp":{now},{fields}}}"#));
    let packets = vec![
        with(r#""heart_rate":900"#),
        with(r#""temperature":98.6"#),
        with(r#""heart_rate":-5,"unknown":{"a":[1]},"other":1,"other":2"#),
        with(r#""blood_pressure":"76/118""#),
        on("device_1", format!(r#"{{"timestamp":{now}}}"#)),
        on("device_1", format!(r#"{{"timestamp":{},"device_id":"device_1","spo2":null}}"#, now + 23 * HOUR_MS)),
        on(&"x".repeat(128), format!(r#"{{"timestamp":{now},"heart_rate":71}}"#)),
        on("A:b-c_9", format!(r#"{{"timestamp":{now},"heart_rate":72}}"#)),
    ];
    assert_eq!(publish("device_1", up.port, packets).await, 8);
    assert_eq!(up.interrupt().code, Some(0));
    assert_eq!(dead_letters(folder.path()).await, BTreeMap::new());
    let values = "SELECT heart_rate, temperature, systolic FROM readings ORDER BY heart_rate, temperature, systolic";
    let stored = readings(folder.path(), values).await;
    let row = |values: [&str; 3]| values.map(str::to_owned).to_vec();
    let null = "null";
    assert_eq!(
        stored,
        [
            row(["-5.0", null, null]),
            row(["71.0", null, null]),
            row(["72.0", null, null]),
            row(["900.0", null, null]),
            row([null, "98.6", null]),
            row([null, null, "76.0"]),
            row([null, null, null]),
            row([null, null, null]),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_taken_up_to_the_limit_and_a_million_harms_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(folder.path());
    let now = now_ms();
    let batch = |count: usize| -> String {
        let readings: Vec<String> = (0..count).map(|seq| format!(r#"{{"timestamp":{now},"seq":{seq}}}"#)).collect();
        format!(r#"{{"readings":[{}]}}"#, readings.join(","))
    };
    // A million of the smallest there are.
    let million = format!(r#"{{"readings":[{}{{}}]}}"#, "{},".repeat(999_999));
    assert_eq!(publish("device_1", up.port, vec![on("device_1", batch(3_000))]).await, 1);
    // What is far beyond the limit is a dead letter too, and acknowledged, so that its sender does not send it for ever.
    let (long, other) = tokio::join!(
        publish("device_2", up.port, vec![on("device_2", million)]),
        publish("device_3", up.port, (0..200).map(|seq| good("device_3", now, seq)).collect()),
    );
    assert_eq!((long, other), (1, 200));
    assert_eq!(publish("device_2", up.port, vec![good("device_2", now, 1)]).await, 1);
    assert_eq!(up.interrupt().code, Some(0));
    let counts = "SELECT device_id, count(*) FROM readings GROUP BY device_id ORDER BY device_id";
    assert_eq!(
        readings(folder.path(), counts).await,
        [["device_1", "3000"], ["device_2", "1"], ["device_3", "200"]].map(|row| row.map(str::to_owned).to_vec())
    );
    let dead = dead_letters(folder.path()).await;
    assert_eq!(dead.keys().map(|reason| reason.as_str()).collect::<Vec<_>>(), ["too_large"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_packets_at_qos_0_do_not_disappear_either() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(folder.path());
    let packets = vec![on("device_1", "hello"), good("device_1", now_ms(), 1), on("device_1", "{}")];
    publish_and_forget("device_1", up.port, packets).await;
    // Nothing says when packets at QoS 0 have come; what is published after them on another connection may overtake.
    for _ in 0..100 {
        if dead_letters(folder.path()).await.len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(up.interrupt().code, Some(0));
    let expected = [("no_timestamp".to_owned(), 1), ("not_json".to_owned(), 1)];
    assert_eq!(dead_letters(folder.path()).await, BTreeMap::from(expected));
    assert_eq!(readings(folder.path(), "SELECT count(*) FROM readings").await, [["1"]]);
}
