//! How many packets a core reads in a second: `cargo bench --bench packet`.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use vitals::reading::packet::Parser;

const NOW_MS: i64 = 1_795_410_000_000;

fn main() {
    divan::main();
}

/// Different packets of one device each, about 175 bytes long, as the simulator sends them.
fn packets() -> Vec<String> {
    (0..1000u32)
        .map(|i| {
            format!(
                r#"{{"device_id":"device_{}","timestamp":"2026-11-23T04:{:02}:{:02}.{:03}Z","heart_rate":{},"blood_pressure":"{}/{}","temperature":{}.{},"spo2":{},"respiratory_rate":{},"seq":{}}}"#,
                i * 7 % 10_000, i % 60, i * 7 % 60, i * 37 % 1000, 55 + i % 60, 100 + i % 50, 60 + i % 30, 36, i % 10,
                92 + i % 9, 11 + i % 9, 100_000 + i
            )
        })
        .collect()
}

#[divan::bench(min_time = 1)]
fn single(bencher: Bencher) {
    let packets = packets();
    let bytes: usize = packets.iter().map(String::len).sum();
    let mut parser = Parser::new();
    bencher.counter(ItemsCount::new(packets.len())).counter(BytesCount::new(bytes)).bench_local(|| {
        for packet in &packets {
            let _ = black_box(parser.parse(None, black_box(packet.as_bytes()), NOW_MS));
        }
    });
}

/// Sixty readings to a packet; the items are readings.
#[divan::bench(min_time = 1)]
fn batch(bencher: Bencher) {
    let readings: Vec<_> = packets().iter().take(60).map(|p| p.replace(r#""device_id""#, r#""unknown""#)).collect();
    let packet = format!(r#"{{"device_id":"device_1","readings":[{}]}}"#, readings.join(","));
    let mut parser = Parser::new();
    bencher.counter(ItemsCount::new(60usize)).counter(BytesCount::new(packet.len())).bench_local(|| {
        let _ = black_box(parser.parse(None, black_box(packet.as_bytes()), NOW_MS));
    });
}

/// serde_json into borrowed fields, without any rule or conversion: what a usual reader would do at least.
#[divan::bench(min_time = 1)]
fn serde_json_for_comparison(bencher: Bencher) {
    #[derive(serde::Deserialize)]
    #[allow(dead_code, reason = "only the reading of it is measured")]
    struct Packet<'a> {
        device_id: &'a str,
        timestamp: &'a str,
        heart_rate: Option<f64>,
        blood_pressure: Option<&'a str>,
        temperature: Option<f64>,
        spo2: Option<f64>,
        respiratory_rate: Option<f64>,
        seq: Option<i64>,
    }
    let packets = packets();
    bencher.counter(ItemsCount::new(packets.len())).bench_local(|| {
        for packet in &packets {
            let _ = black_box(serde_json::from_slice::<Packet>(black_box(packet.as_bytes())));
        }
    });
}
