//! Against librdkafka's own mock cluster, which can be told to fail.

use std::time::Duration;

use rdkafka::{
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use tokio::sync::watch;

use super::*;
use crate::{
    ingest::worker::{Ingested, Worker, WorkerOptions},
    lake::{Store, landing},
    log::{LogEvent, Records, Source},
};

type Mock = MockCluster<'static, DefaultProducerContext>;

const TOPIC: &str = "vitals";
const PARTITIONS: i32 = 4;

fn cluster() -> (Mock, Settings) {
    let mock = MockCluster::new(3).unwrap();
    mock.create_topic(TOPIC, PARTITIONS, 3).unwrap();
    let mut settings = Settings::plaintext(&mock.bootstrap_servers());
    // A mock group that has members waits for a whole session until it takes another one.
    let short = [("session.timeout.ms", "3000"), ("heartbeat.interval.ms", "500")];
    settings.properties.extend(short.map(|(key, value)| (key.to_owned(), value.to_owned())));
    (mock, settings)
}

/// Sends the readings of these numbers, of ten devices.
async fn send(settings: &Settings, seqs: std::ops::Range<i64>) {
    let sink = Sink::open(settings, TOPIC, SinkOptions::bulk(Duration::from_secs(60))).await.unwrap();
    let mut deliveries = Vec::new();
    for seq in seqs {
        let payload = format!(r#"{{"timestamp":{},"heart_rate":70,"seq":{seq}}}"#, 1_772_323_200_000 + seq);
        deliveries.push(sink.enqueue(&format!("device_{}", seq % 10), payload.as_bytes()).await.unwrap());
    }
    for mut delivery in deliveries {
        delivery.stored().await.unwrap();
    }
}

fn options(group: &str) -> SourceOptions {
    SourceOptions {
        topic: TOPIC.to_owned(),
        chain: format!("kafka-{TOPIC}"),
        group: group.to_owned(),
        partitions: PARTITIONS,
        // A mock broker keeps producers' times.
        create_time: true,
        queue_bytes: 8 << 20,
        until_end: true,
        portion: None,
    }
}

async fn ingest(settings: &Settings, store: &Store) -> anyhow::Result<Ingested> {
    let source = KafkaSource::join(settings, options("workers")).await?;
    let options = WorkerOptions { slice_rows: 100, ..WorkerOptions::default() };
    Worker::new(source, store.clone(), options).run(watch::channel(false).1).await
}

/// How many readings the chains hold, which have neither hole nor overlap.
async fn stored(store: &Store) -> u64 {
    let mut readings = 0;
    for partition in 0..PARTITIONS {
        let files =
            landing::list(store, &crate::lake::layout::landing_partition("kafka-vitals", partition)).await.unwrap();
        let mut next = 0;
        for file in files {
            let footer = landing::footer(store, &file.key).await.unwrap();
            assert_eq!((footer.first, footer.partitions), (next, Some(PARTITIONS)));
            next = footer.next;
            readings += footer.readings;
        }
    }
    readings
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_read_to_its_end_and_on_from_there_whatever_the_group_believes() {
    let (_mock, settings) = cluster();
    send(&settings, 0..1000).await;
    let store = Store::memory();
    assert_eq!(ingest(&settings, &store).await.unwrap().readings, 1000);
    assert_eq!(ingest(&settings, &store).await.unwrap().readings, 0);
    send(&settings, 1000..1500).await;
    // Another group has no offsets; the lake has.
    let source = KafkaSource::join(&settings, options("others")).await.unwrap();
    let done = Worker::new(source, store.clone(), WorkerOptions::default()).run(watch::channel(false).1).await.unwrap();
    assert_eq!(done.readings, 500);
    assert_eq!(stored(&store).await, 1500);
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_fail_and_come_back_cost_time_only() {
    let (mock, settings) = cluster();
    send(&settings, 0..500).await;
    use RDKafkaRespErr as E;
    let refused = [E::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, E::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE];
    mock.request_errors(RDKafkaApiKey::Fetch, &refused);
    mock.request_errors(RDKafkaApiKey::ListOffsets, &[E::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT]);
    mock.request_errors(RDKafkaApiKey::JoinGroup, &[E::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE]);
    mock.request_errors(RDKafkaApiKey::OffsetCommit, &[E::RD_KAFKA_RESP_ERR_NOT_COORDINATOR; 3]);
    mock.partition_leader(TOPIC, 0, Some(2)).unwrap();
    let store = Store::memory();
    assert_eq!(ingest(&settings, &store).await.unwrap().readings, 500);
    mock.broker_down(1).unwrap();
    mock.partition_leader(TOPIC, 1, Some(3)).unwrap();
    let up_again = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        mock.broker_up(1).unwrap();
    };
    let (again, ()) = tokio::join!(ingest(&settings, &store), up_again);
    assert_eq!(again.unwrap().readings, 0);
    assert_eq!(stored(&store).await, 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_of_a_group_share_what_comes_and_store_it_once() {
    let (_mock, settings) = cluster();
    let store = Store::memory();
    let (stop, stopped) = watch::channel(false);
    let mut workers = Vec::new();
    for _ in 0..3 {
        let options = SourceOptions { until_end: false, ..options("workers") };
        let source = KafkaSource::join(&settings, options).await.unwrap();
        let options = WorkerOptions { window: Duration::from_millis(200), ..WorkerOptions::default() };
        workers.push(tokio::spawn(Worker::new(source, store.clone(), options).run(stopped.clone())));
        send(&settings, 0..300).await;
    }
    let all = async {
        while stored(&store).await < 900 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.unwrap();
    stop.send_replace(true);
    let mut readings = 0;
    for worker in workers {
        readings += worker.await.unwrap().unwrap().readings;
    }
    assert_eq!((readings, stored(&store).await), (900, 900));
}

/// Reads until every partition has given its last record, and sees that each goes on where it should.
async fn read_on(source: &mut KafkaSource, next: &mut [i64], ends: &[i64]) {
    while next.iter().zip(ends).any(|(next, end)| next < end) {
        match source.next(Duration::from_secs(20)).await.unwrap() {
            LogEvent::Records(records) => follows(&records, next),
            other => panic!("{other:?}"),
        }
    }
}

/// Sees that records are the next of their partitions.
fn follows(records: &Records, next: &mut [i64]) {
    for record in records.iter() {
        let next = &mut next[record.partition as usize];
        assert_eq!(record.offset, *next, "partition {}", record.partition);
        *next += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_seek_a_partition_gives_what_is_there_in_order_and_nothing_of_before() {
    let (_mock, settings) = cluster();
    send(&settings, 0..20_000).await;
    let mut source =
        KafkaSource::join(&settings, SourceOptions { until_end: false, ..options("seekers") }).await.unwrap();
    let lookup = source.lookup();
    let mut ends = Vec::new();
    for partition in 0..PARTITIONS {
        ends.push(lookup.bounds(partition).await.unwrap().end);
    }
    let assigned = loop {
        match source.next(Duration::from_secs(20)).await.unwrap() {
            LogEvent::Assigned(partitions) => break partitions,
            other => assert!(matches!(other, LogEvent::Idle), "{other:?}"),
        }
    };
    assert_eq!(assigned.len(), ends.len());
    let mut next = vec![0; ends.len()];
    for &partition in &assigned {
        source.seek(partition, 0).await.unwrap();
    }
    // In the middle of the reading, and at its end; one partition and all of them; twice without a record in between.
    for round in 0..12i64 {
        if round % 3 == 0 {
            read_on(&mut source, &mut next, &ends).await;
        } else if let LogEvent::Records(records) = source.next(Duration::from_secs(20)).await.unwrap() {
            follows(&records, &mut next);
        }
        for partition in (0..PARTITIONS).take(1 + (round % 4) as usize) {
            for offset in [7 * round, 5 * round] {
                source.seek(partition, offset).await.unwrap();
                next[partition as usize] = offset;
            }
        }
        if round % 4 == 1 {
            source.pause(&[0, 1]).await.unwrap();
            source.resume(&[0, 1]).await.unwrap();
        }
    }
    read_on(&mut source, &mut next, &ends).await;
    source.close().await;
}

#[test]
fn addresses_are_read() {
    let read = |text: &str| text.parse::<TopicAddress>().map(|address| address.to_string());
    assert_eq!(read("kafka://localhost/vitals"), Ok("kafka://localhost:9092/vitals".to_owned()));
    assert_eq!(read("kafka://a:1,b.c:2/v_1.x-y"), Ok("kafka://a:1,b.c:2/v_1.x-y".to_owned()));
    assert_eq!(read("kafka://[::1]:9092/t"), Ok("kafka://[::1]:9092/t".to_owned()));
    for wrong in ["kafka://a", "kafka:///t", "kafka://a:x/t", "kafka://a/", "kafka://a/t/u", "kafka://a@b/t", "a/t"] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}
