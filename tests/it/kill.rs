//! `kill -9` of `vitals up`: what was acknowledged at QoS 1 is in the lake after the next start, once.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use vitals::lake::Store;

use crate::support::rows;

/// A running `vitals up`, and its broker's port.
struct Up {
    child: Child,
    port: u16,
}

impl Up {
    fn start(lake: &Path) -> Up {
        let mut child = Command::new(env!("CARGO_BIN_EXE_vitals"))
            .args(["up", "--broker", "127.0.0.1:0", "--listen", "off", "--window", "1", "--lake"])
            .arg(lake)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = lines.next().unwrap().unwrap();
        let port = line.split("mqtt://127.0.0.1:").nth(1).and_then(|rest| rest.split([',', ' ']).next());
        let port = port.and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("no port in `{line}`"));
        // Whoever writes to a pipe that nobody reads stops.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Up { child, port }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn interrupt(mut self) {
        Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

/// Publishes numbered readings until the broker is gone; gives the numbers that were acknowledged.
async fn publish(port: u16, device: String, first: i64) -> Vec<i64> {
    let mut options = MqttOptions::new(&device, "127.0.0.1", port);
    options.set_inflight(50);
    let (client, mut events) = AsyncClient::new(options, 64);
    let topic = format!("iot/device/{device}");
    let publishing = tokio::spawn(async move {
        for seq in first.. {
            let payload = format!(r#"{{"timestamp":{},"heart_rate":70,"seq":{seq}}}"#, 1_772_323_200_000 + seq);
            if client.publish(&topic, QoS::AtLeastOnce, false, payload).await.is_err() {
                break;
            }
        }
    });
    // Packet identifiers are handed out in the order of publishing and acknowledged in that order.
    let (mut sent, mut acknowledged) = (first, Vec::new());
    let mut waiting = std::collections::HashMap::new();
    while let Ok(event) = events.poll().await {
        match event {
            Event::Outgoing(rumqttc::Outgoing::Publish(id)) => {
                waiting.insert(id, sent);
                sent += 1;
            }
            Event::Incoming(Packet::PubAck(ack)) => acknowledged.extend(waiting.remove(&ack.pkid)),
            _ => {}
        }
    }
    publishing.abort();
    acknowledged
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kills_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    let mut next = 0;
    for round in 0_u64..4 {
        let up = Up::start(folder.path());
        let publishers: Vec<_> =
            (0..3).map(|device| tokio::spawn(publish(up.port, format!("device_{device}"), next))).collect();
        tokio::time::sleep(Duration::from_millis(400 + 300 * round)).await;
        up.kill();
        for publisher in publishers {
            let seqs = publisher.await.unwrap();
            acknowledged += seqs.len();
            next = next.max(seqs.last().map_or(next, |last| last + 1000));
        }
    }
    assert!(acknowledged > 100, "only {acknowledged} were acknowledged: this shows nothing");

    let up = Up::start(folder.path());
    tokio::time::sleep(Duration::from_millis(2500)).await;
    up.interrupt();
    let store = Store::folder(folder.path()).unwrap();
    let counts =
        rows(&store, "SELECT count(*), count(DISTINCT device_id || ':' || CAST(seq AS VARCHAR)) FROM readings").await;
    let stored: usize = counts[0][0].parse().unwrap();
    assert_eq!(counts[0][0], counts[0][1], "a reading is there twice");
    // A packet may be stored and its acknowledgement lost with the process, never the other way round.
    assert!(stored >= acknowledged, "{stored} stored of {acknowledged} acknowledged");
    assert!(stored <= acknowledged + 3 * 4 * 60, "{stored} stored, {acknowledged} acknowledged");
    assert_eq!(rows(&store, "SELECT count(*) FROM dead_letters").await, [["0"]]);
}
