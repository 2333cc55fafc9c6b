//! Publishing, against a broker of a few lines that can be told to misbehave.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::fleet::tests::options;
use super::*;
use crate::reading::Reading;
use crate::reading::packet::Parser;

#[derive(Debug, Clone, Copy, Default)]
struct Manners {
    /// Answer to CONNECT: 0 accepts.
    connack: u8,
    /// Read this many publishes of a connection, then close it without acknowledging the last.
    breaks_after: Option<usize>,
    /// Acknowledge nothing.
    silent: bool,
}

#[derive(Debug, Clone)]
struct Taken {
    client: String,
    topic: String,
    payload: Vec<u8>,
    again: bool,
    acknowledged: bool,
}

struct StubBroker {
    broker: Broker,
    taken: Arc<Mutex<Vec<Taken>>>,
    goodbyes: Arc<AtomicUsize>,
}

impl StubBroker {
    async fn start(manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let broker = Broker::plain("127.0.0.1", listener.local_addr().unwrap().port());
        let (taken, goodbyes) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let (all, bye) = (taken.clone(), goodbyes.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, manners, all.clone(), bye.clone()));
            }
        });
        StubBroker { broker, taken, goodbyes }
    }

    fn taken(&self) -> Vec<Taken> {
        self.taken.lock().unwrap().clone()
    }
}

/// One connection; ends with the first thing that is not as expected.
async fn serve(
    mut stream: TcpStream,
    manners: Manners,
    all: Arc<Mutex<Vec<Taken>>>,
    goodbyes: Arc<AtomicUsize>,
) -> Option<()> {
    let text = |bytes: &[u8], at: usize| -> (String, usize) {
        let end = at + 2 + usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        (String::from_utf8(bytes[at + 2..end].to_vec()).unwrap(), end)
    };
    let (mut client, mut publishes) = (String::new(), 0);
    loop {
        let header = stream.read_u8().await.ok()?;
        let (mut length, mut shift) = (0usize, 0);
        loop {
            let byte = stream.read_u8().await.ok()?;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        match header >> 4 {
            1 => {
                client = text(&body, 10).0;
                stream.write_all(&[0x20, 2, 0, manners.connack]).await.ok()?;
            }
            3 => {
                let (topic, mut at) = text(&body, 0);
                let id = if header & 0x06 == 0 { None } else { Some([body[at], body[at + 1]]) };
                at += if id.is_some() { 2 } else { 0 };
                publishes += 1;
                let breaks = manners.breaks_after == Some(publishes);
                let acknowledged = id.is_some() && !manners.silent && !breaks;
                let payload = body[at..].to_vec();
                let again = header & 0x08 != 0;
                all.lock().unwrap().push(Taken { client: client.clone(), topic, payload, again, acknowledged });
                if breaks {
                    return None;
                }
                if let (Some([high, low]), true) = (id, acknowledged) {
                    stream.write_all(&[0x40, 2, high, low]).await.ok()?;
                }
            }
            12 => stream.write_all(&[0xd0, 0]).await.ok()?,
            14 => {
                goodbyes.fetch_add(1, Relaxed);
                return Some(());
            }
            other => panic!("packet type {other}"),
        }
    }
}

/// The readings of these packets by device, each time once, in order of time.
fn readings(taken: impl IntoIterator<Item = Taken>) -> BTreeMap<String, BTreeMap<i64, Reading>> {
    let mut parser = Parser::new();
    let mut found: BTreeMap<String, BTreeMap<i64, Reading>> = BTreeMap::new();
    for packet in taken {
        let device = packet.topic.strip_prefix("iot/device/").unwrap();
        for item in parser.parse(Some(device), &packet.payload, i64::MAX / 2).unwrap().items() {
            let reading = item.outcome.unwrap();
            let reading = Reading { arrived_ms: reading.ts_ms, ..reading };
            found.entry(device.to_owned()).or_default().insert(reading.ts_ms, reading);
        }
    }
    found
}

fn expected(options: &FleetOptions) -> BTreeMap<String, BTreeMap<i64, Reading>> {
    let mut expected: BTreeMap<String, BTreeMap<i64, Reading>> = BTreeMap::new();
    for (device, reading) in Fleet::new(options.clone()).unwrap() {
        expected.entry(device_id(device)).or_default().insert(reading.ts_ms, reading);
    }
    expected
}

#[tokio::test]
async fn every_reading_is_published_once_acknowledged_and_written_down() {
    let stub = StubBroker::start(Manners::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let fleet = options(20, 12);
    let publish = PublishOptions {
        batch: 7,
        sent: Some(folder.path().join("sent.ndjson")),
        labels: Some(folder.path().join("labels.ndjson")),
        ..PublishOptions::new(fleet.clone(), stub.broker.clone())
    };
    let mut told = Vec::new();
    let summary = run(publish, |progress| told.push(progress.clone())).await.unwrap();

    let taken = stub.taken();
    assert!(summary.complete(), "{summary:?}");
    assert_eq!(summary.progress.published, taken.len() as u64);
    assert_eq!(summary.progress.acknowledged, taken.len() as u64);
    assert_eq!((summary.progress.errors, summary.progress.connected), (0, 0));
    assert_eq!(stub.goodbyes.load(Relaxed), 20);
    assert!(taken.iter().all(|packet| packet.topic == format!("{TOPIC}/{}", packet.client) && !packet.again));
    let count: usize = expected(&fleet).values().map(BTreeMap::len).sum();
    assert_eq!(summary.progress.readings, count as u64);
    assert_eq!(readings(taken), expected(&fleet));
    assert_eq!(told.last(), Some(&summary.progress));

    let sent = std::fs::read_to_string(folder.path().join("sent.ndjson")).unwrap();
    assert_eq!((sent.lines().count() as u64, summary.sent_rows), (count as u64, Some(count as u64)));
    let row: serde_json::Value = serde_json::from_str(sent.lines().next().unwrap()).unwrap();
    assert!(row["acknowledged_ms"].as_i64() >= row["published_ms"].as_i64());
    let written = std::fs::read_to_string(folder.path().join("labels.ndjson")).unwrap();
    assert_eq!(written.lines().count(), labels(&fleet).count());
    assert_eq!(summary.labels, Some(labels(&fleet).count() as u64));
}

#[tokio::test]
async fn what_a_broken_connection_did_not_acknowledge_is_sent_again() {
    let stub = StubBroker::start(Manners { breaks_after: Some(5), ..Manners::default() }).await;
    let fleet = options(4, 12);
    let summary = run(PublishOptions::new(fleet.clone(), stub.broker.clone()), |_| {}).await.unwrap();
    let taken = stub.taken();
    assert!(summary.complete(), "{summary:?}");
    assert!(summary.progress.errors >= 4 && summary.progress.sent_again >= 4, "{summary:?}");
    assert!(taken.iter().any(|packet| packet.again));
    assert_eq!(readings(taken.into_iter().filter(|packet| packet.acknowledged)), expected(&fleet));
}

#[tokio::test]
async fn a_broker_that_never_acknowledges_is_given_up_and_counted() {
    let stub = StubBroker::start(Manners { silent: true, ..Manners::default() }).await;
    let publish = PublishOptions {
        patience: Duration::from_millis(200),
        in_flight: 3,
        ..PublishOptions::new(options(2, 12), stub.broker.clone())
    };
    let summary = run(publish, |_| {}).await.unwrap();
    assert!(!summary.complete());
    assert_eq!((summary.gave_up, summary.unacknowledged, summary.progress.published), (2, 6, 6));
}

#[tokio::test]
async fn without_acknowledgement_everything_goes_out_once() {
    let stub = StubBroker::start(Manners::default()).await;
    let fleet = options(3, 12);
    let publish = PublishOptions { qos: Qos::AtMostOnce, ..PublishOptions::new(fleet.clone(), stub.broker.clone()) };
    let summary = run(publish, |_| {}).await.unwrap();
    assert!(summary.complete() && summary.progress.acknowledged == 0);
    // The goodbye comes after everything else on a connection.
    while stub.goodbyes.load(Relaxed) < 3 {
        tokio::task::yield_now().await;
    }
    assert_eq!(stub.taken().len() as u64, summary.progress.published);
    assert_eq!(readings(stub.taken()), expected(&fleet));
}

#[tokio::test]
async fn devices_can_share_connections() {
    let stub = StubBroker::start(Manners::default()).await;
    let fleet = options(5, 6);
    let publish = PublishOptions { connections: Some(2), ..PublishOptions::new(fleet.clone(), stub.broker.clone()) };
    let summary = run(publish, |_| {}).await.unwrap();
    assert_eq!(summary.progress.connections, 2);
    let clients: BTreeSet<String> = stub.taken().into_iter().map(|packet| packet.client).collect();
    assert_eq!(clients, BTreeSet::from(["gateway_1".to_string(), "gateway_2".to_string()]));
    assert_eq!(readings(stub.taken()), expected(&fleet));
}

#[tokio::test]
async fn a_stopped_run_labels_only_what_it_sent() {
    let stub = StubBroker::start(Manners::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("labels.ndjson");
    let (stop, stopped) = watch::channel(false);
    // A month would take a minute at this speed; it is stopped when the first packets are through.
    let fleet = options(4, 24 * 30);
    let publish = PublishOptions {
        speed: Speed::Times(30.0 * 1440.0),
        stop: Some(stopped),
        labels: Some(path.clone()),
        ..PublishOptions::new(fleet, stub.broker.clone())
    };
    let summary = run(publish, |progress| {
        if progress.acknowledged >= 8 {
            stop.send_replace(true);
        }
    })
    .await
    .unwrap();
    assert!(summary.interrupted && !summary.complete());
    assert_eq!(summary.progress.acknowledged, summary.progress.published);
    let sent = readings(stub.taken());
    let text = std::fs::read_to_string(path).unwrap();
    for line in text.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let last = crate::reading::time::format_rfc3339_ms(
            *sent[row["device_id"].as_str().unwrap()].last_key_value().unwrap().0,
        );
        assert!(row["end"].as_str().unwrap() <= last.as_str(), "{line}");
    }
}

#[tokio::test]
async fn a_refused_connection_says_why() {
    let stub = StubBroker::start(Manners { connack: 5, ..Manners::default() }).await;
    let error = run(PublishOptions::new(options(2, 1), stub.broker.clone()), |_| {}).await.unwrap_err();
    assert!(matches!(error, PublishError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("NotAuthorized"), "{error}");
}

#[tokio::test]
async fn a_file_that_cannot_be_made_is_named_before_anything_is_published() {
    let stub = StubBroker::start(Manners::default()).await;
    for labels in [true, false] {
        let path = std::path::PathBuf::from("/no/such/folder/file.ndjson");
        let mut publish = PublishOptions::new(options(2, 1), stub.broker.clone());
        if labels {
            publish.labels = Some(path)
        } else {
            publish.sent = Some(path)
        }
        let error = run(publish, |_| {}).await.unwrap_err().to_string();
        assert!(error.contains("/no/such/folder/file.ndjson"), "{error}");
    }
    assert!(stub.taken().is_empty());
}
