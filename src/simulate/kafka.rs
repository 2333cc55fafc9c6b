//! A fleet right into a topic of Kafka, keyed by device: one producer, fed by as many tasks as there are processors.
//!
//! Each task keeps a queue of what is under way and looks at its front, so that no packet is waited for by itself. What
//! Kafka does not take within the run's patience ends the run: the account of what was sent would have holes otherwise.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::book::{Batch, Packets};
use super::connection::{stopped, until};
use super::fleet::device_id;
use super::options::Topic;
use super::payload::payload;
use super::publish::{Shared, now_ms};
use super::sent::SentPacket;
use crate::log::kafka::{Delivery, Sink, SinkOptions, prepare};
use crate::reading::Reading;

/// The most packets, and the most readings in packets, that are under way in all tasks.
const PACKETS: usize = 200_000;
const READINGS: usize = 1_000_000;

/// How many packets are sent before anything else is looked at.
const BURST: usize = 64;

/// How long a run that ends early waits for what is under way.
const PARTING: Duration = Duration::from_secs(3);

/// A producer for the topic, which is made where it is not there.
///
/// # Errors
/// Where no broker answers, or the topic is not there and may not be made.
pub(super) async fn open(topic: &Topic, patience: Duration) -> anyhow::Result<Sink> {
    // Whose clock stamps records is for those to judge who read them.
    prepare(&topic.settings, &topic.address, topic.new, true).await?;
    Sink::open(&topic.settings, &topic.address.topic, SinkOptions::bulk(patience)).await
}

/// How many tasks share the devices.
pub(super) fn lanes(devices: u32) -> u32 {
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    processors.min(8).min(devices).max(1)
}

/// Sends `packets`, one of `lanes` parts of a run. Ends when all replicas have everything, when the run is halted, or when
/// Kafka does not take a packet.
pub(super) async fn drive(
    shared: Arc<Shared>,
    sink: Sink,
    lanes: u32,
    packets: Packets,
    sent: Option<mpsc::Sender<SentPacket>>,
) {
    let (stop, part) = (shared.halted(), lanes.max(1) as usize);
    let window = ((PACKETS / part).max(1), (READINGS / part).max(1));
    let packets = packets.peekable();
    Lane { shared, sink, packets, sent, stop, window, flights: VecDeque::new(), readings: 0, stopping: None }
        .run()
        .await;
}

/// A packet under way.
struct Flight {
    delivery: Delivery,
    count: usize,
    packet: SentPacket,
}

struct Lane {
    shared: Arc<Shared>,
    sink: Sink,
    packets: std::iter::Peekable<Packets>,
    sent: Option<mpsc::Sender<SentPacket>>,
    stop: watch::Receiver<bool>,
    /// The most packets and readings under way.
    window: (usize, usize),
    flights: VecDeque<Flight>,
    /// Readings in the packets under way.
    readings: usize,
    /// When it was said that nothing more is to be sent.
    stopping: Option<Instant>,
}

impl Lane {
    async fn run(&mut self) {
        loop {
            self.collect().await;
            if self.flights.is_empty() && (self.stopping.is_some() || self.packets.peek().is_none()) {
                break;
            }
            let due = self.due();
            let parting = self.stopping.map(|since| since + PARTING);
            tokio::select! {
                biased;
                () = stopped(&mut self.stop), if self.stopping.is_none() => self.stopping = Some(Instant::now()),
                () = until(due) => self.send().await,
                () = settled(&mut self.flights), if !self.flights.is_empty() => {}
                () = until(parting) => break,
            }
        }
        let open = std::mem::take(&mut self.flights);
        self.shared.counts.unacknowledged.fetch_add(open.len() as u64, Relaxed);
        for flight in open {
            self.write(flight.packet).await;
        }
    }

    /// When the next packet may go out; `None` while it may not.
    fn due(&mut self) -> Option<Instant> {
        let room = self.flights.len() < self.window.0 && self.readings < self.window.1;
        if self.stopping.is_some() || !room {
            return None;
        }
        self.packets.peek().map(|batch| self.shared.pace.due(batch.due_ms()))
    }

    /// Sends some of what is due.
    async fn send(&mut self) {
        for _ in 0..BURST {
            if self.stopping.is_some() || self.due().is_none_or(|due| due > Instant::now()) {
                return;
            }
            let Some(batch) = self.packets.next() else { return };
            self.send_one(batch).await;
        }
        // Nothing here ever waits while there is room, and others want to run: who watches for Ctrl-C is one of them.
        tokio::task::yield_now().await;
    }

    async fn send_one(&mut self, batch: Batch) {
        let id = device_id(batch.device);
        let json = payload(&id, &batch.readings);
        let taken = tokio::select! {
            biased;
            taken = self.sink.enqueue(&id, json.as_bytes()) => taken,
            // There was no room for it, so it has not gone out.
            () = stopped(&mut self.stop) => return self.stopping = Some(Instant::now()),
        };
        match taken {
            Ok(delivery) => {
                let (counts, count, due_ms) = (&self.shared.counts, batch.readings.len(), batch.due_ms());
                counts.published.fetch_add(1, Relaxed);
                counts.readings.fetch_add(count as u64, Relaxed);
                self.shared.reached(batch.device, due_ms);
                self.readings += count;
                // Kept only where a file of what was sent is written.
                let readings: Vec<Reading> = if self.sent.is_some() { batch.readings } else { Vec::new() };
                let packet = SentPacket {
                    device: batch.device,
                    readings,
                    published_ms: now_ms(),
                    acknowledged_ms: None,
                    sends: 1,
                };
                self.flights.push_back(Flight { delivery, count, packet });
            }
            Err(error) => self.give_up(&error),
        }
    }

    /// Takes what is settled from the front of the queue.
    async fn collect(&mut self) {
        while let Some(outcome) = self.flights.front_mut().and_then(|flight| flight.delivery.try_stored())
            && let Some(mut flight) = self.flights.pop_front()
        {
            self.readings -= flight.count;
            match outcome {
                Ok(()) => {
                    self.shared.counts.acknowledged.fetch_add(1, Relaxed);
                    flight.packet.acknowledged_ms = Some(now_ms());
                }
                Err(error) => {
                    self.shared.counts.unacknowledged.fetch_add(1, Relaxed);
                    self.give_up(&error);
                }
            }
            self.write(flight.packet).await;
        }
    }

    /// Kafka does not take a packet: nothing more is sent, here or by the other tasks.
    fn give_up(&mut self, error: &str) {
        self.shared.counts.gave_up.fetch_max(1, Relaxed);
        if self.stopping.is_none() {
            self.stopping = Some(Instant::now());
            let why = self.sink.last_error().map_or_else(String::new, |why| format!("; {why}"));
            self.shared.failed(&format!("Kafka did not take a packet: {error}{why}"));
            self.shared.halt();
        }
    }

    async fn write(&mut self, packet: SentPacket) {
        if let Some(sent) = &self.sent
            && sent.send(packet).await.is_err()
        {
            // The file can't be written: a run whose account is lost is of no use.
            self.sent = None;
            self.stopping = Some(Instant::now());
            self.shared.halt();
        }
    }
}

/// Waits until the oldest packet under way is settled.
async fn settled(flights: &mut VecDeque<Flight>) {
    if let Some(oldest) = flights.front_mut() {
        // The outcome is asked for when it is collected.
        let _ = oldest.delivery.stored().await;
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::super::fleet::tests::options;
    use super::super::{PublishOptions, Target, run};
    use super::*;
    use crate::log::kafka::{NewTopic, Settings};

    fn topic(brokers: String) -> Topic {
        let address = format!("kafka://{brokers}/vitals").parse().unwrap();
        Topic { address, settings: Settings::plaintext(&brokers), new: NewTopic { partitions: 4, replication: 1 } }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn everything_goes_out_and_is_acknowledged() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("vitals", 4, 1).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let sent = folder.path().join("sent.ndjson");
        let mut run_options = PublishOptions::new(options(5, 24), topic(cluster.bootstrap_servers()));
        (run_options.batch, run_options.sent) = (7, Some(sent.clone()));
        let summary = run(run_options, |_| {}).await.unwrap();
        assert!(summary.complete(), "{summary:?}");
        let progress = &summary.progress;
        assert_eq!((progress.connections, progress.acknowledged), (1, progress.published));
        let rows = std::fs::read_to_string(sent).unwrap();
        let acknowledged = rows.lines().filter(|row| !row.contains("\"acknowledged_ms\":null")).count() as u64;
        assert_eq!((acknowledged, summary.sent_rows), (progress.readings, Some(progress.readings)));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn brokers_that_stay_away_end_the_run_and_it_says_so() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("vitals", 4, 1).unwrap();
        let mut run_options = PublishOptions::new(options(5, 24), topic(cluster.bootstrap_servers()));
        run_options.patience = Duration::from_millis(500);
        let Target::Kafka(topic) = &run_options.target else { unreachable!() };
        let sink = open(topic, run_options.patience).await.unwrap();
        cluster.broker_down(1).unwrap();
        let fleet = crate::simulate::Fleet::new(run_options.fleet.clone()).unwrap();
        let shared = super::super::publish::share(&run_options);
        drive(Arc::clone(&shared), sink, 1, Packets::new(fleet, 60), None).await;
        let counts = &shared.counts;
        assert_eq!((counts.gave_up.load(Relaxed), counts.acknowledged.load(Relaxed)), (1, 0));
        assert_eq!(counts.unacknowledged.load(Relaxed), counts.published.load(Relaxed));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn brokers_that_are_not_there_are_named() {
        let error = run(PublishOptions::new(options(1, 1), topic("127.0.0.1:1".to_owned())), |_| {}).await.unwrap_err();
        assert!(error.to_string().contains("can't reach Kafka at 127.0.0.1:1"), "{error}");
    }
}
