//! `kill -9` of `vitals up`, again and again: what was acknowledged at QoS 1 is in the lake after the next start, once, and
//! the verdicts are those of a run that was never killed.
//!
//! `VITALS_KILLS=200 VITALS_SEED=7 cargo test --release --test it kill` kills more often, at other moments.

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use vitals::{
    lake::{State, Store},
    score::{ScoreOptions, load_model, score_lake},
};

use crate::support::rows;

/// A running `vitals up`, and its broker's port.
struct Up {
    child: Child,
    port: u16,
}

impl Up {
    fn start(lake: &Path) -> Up {
        let mut child = Command::new(env!("CARGO_BIN_EXE_vitals"))
            .args(["up", "--broker", "127.0.0.1:0", "--listen", "off", "--window", "1", "--train-every", "2", "--lake"])
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

/// A heart rate that wanders, and is far away for a while now and then.
fn heart_rate(seq: i64) -> i64 {
    let wander = seq * 7 % 11;
    if seq % 10_000 > 9_400 { 180 + wander } else { 65 + wander }
}

/// Publishes numbered readings until the broker is gone; gives the numbers that were acknowledged.
async fn publish(port: u16, device: String, first: i64) -> Vec<i64> {
    let mut options = MqttOptions::new(&device, "127.0.0.1", port);
    options.set_inflight(50);
    let (client, mut events) = AsyncClient::new(options, 64);
    let topic = format!("iot/device/{device}");
    let publishing = tokio::spawn(async move {
        for seq in first.. {
            let (timestamp, rate) = (1_772_323_200_000 + seq * 2_000, heart_rate(seq));
            let payload = format!(r#"{{"timestamp":{timestamp},"heart_rate":{rate},"seq":{seq}}}"#);
            if client.publish(&topic, QoS::AtLeastOnce, false, payload).await.is_err() {
                break;
            }
        }
    });
    // Packet identifiers are handed out in the order of publishing and acknowledged in that order.
    let (mut sent, mut acknowledged) = (first, Vec::new());
    let mut waiting = HashMap::new();
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

/// A number from the environment.
fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kills_once_and_gets_the_same_verdicts() {
    let (kills, seed) = (setting("VITALS_KILLS", 6), setting("VITALS_SEED", 1));
    let mut moments = Pcg64Mcg::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged: HashSet<(String, i64)> = HashSet::new();
    let mut next = 0;
    for _ in 0..kills {
        let up = Up::start(folder.path());
        let publishers: Vec<_> = (0..3)
            .map(|device| format!("device_{device}"))
            .map(|device| tokio::spawn(async move { (publish(up.port, device.clone(), next).await, device) }))
            .collect();
        tokio::time::sleep(Duration::from_millis(moments.random_range(20..1800))).await;
        up.kill();
        let mut last = next;
        for publisher in publishers {
            let (seqs, device) = publisher.await.unwrap();
            last = seqs.last().map_or(last, |seq| last.max(*seq));
            acknowledged.extend(seqs.into_iter().map(|seq| (device.clone(), seq)));
        }
        // What was on its way may have been stored: those numbers are not given to other readings.
        next = last + 1000;
    }
    assert!(acknowledged.len() > 100, "only {} were acknowledged: this shows nothing", acknowledged.len());

    let up = Up::start(folder.path());
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let store = Store::folder(folder.path()).unwrap();
    // A busy machine needs longer for the verdicts than the end of `up` waits for them: they are given while it runs.
    for _ in 0..60 {
        let (found, expected, _) = verdicts(folder.path(), &store).await;
        if found.len() >= expected.len() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    up.interrupt();
    let stored = rows(&store, "SELECT device_id, seq FROM readings").await;
    let distinct: HashSet<(String, i64)> = stored.iter().map(|row| (row[0].clone(), row[1].parse().unwrap())).collect();
    assert_eq!(stored.len(), distinct.len(), "a reading is there twice (seed {seed})");
    let lost: Vec<_> = acknowledged.difference(&distinct).take(5).collect();
    assert!(lost.is_empty(), "acknowledged and lost (seed {seed}): {lost:?}");
    // A packet may be stored and its acknowledgement lost with the process, but no more than were on their way.
    let most = acknowledged.len() + kills as usize * 3 * 60;
    assert!(stored.len() <= most, "{} stored, {} acknowledged", stored.len(), acknowledged.len());
    assert_eq!(rows(&store, "SELECT count(*) FROM dead_letters").await, [["0"]]);
    let (found, expected, model) = verdicts(folder.path(), &store).await;
    assert!(!expected.is_empty(), "no outliers: this shows nothing");
    assert_eq!(found.len(), expected.len(), "seed {seed}, {model}");
    assert!(found == expected, "verdicts differ (seed {seed})");
    println!("{} outliers of {model}, as in a quiet run", found.len());
}

/// The verdicts of a lake, those that its model gives to the same log at once, and the model.
async fn verdicts(lake: &Path, store: &Store) -> (Vec<Vec<String>>, Vec<Vec<String>>, String) {
    const VERDICTS: &str = "SELECT device_id, ts, seq, cause, score, artifact, episode, why, model FROM outliers \
                            ORDER BY device_id, seq";
    let model = load_model(store, State::load(store).await.unwrap().model()).await.unwrap();
    let bare = tempfile::tempdir().unwrap();
    copy(&lake.join("landing"), &bare.path().join("landing"));
    let quiet = Store::folder(bare.path()).unwrap();
    score_lake(&quiet, &model, ScoreOptions::default(), |_| ()).await.unwrap();
    (rows(store, VERDICTS).await, rows(&quiet, VERDICTS).await, model.id().to_string())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}
