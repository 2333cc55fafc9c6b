use clap::{FromArgMatches, error::ErrorKind};

use super::*;

const NOW_MS: i64 = 1_780_000_000_000;

fn parse(line: &str) -> Result<SimulateArgs, clap::Error> {
    let command = SimulateArgs::augment_args(clap::Command::new("simulate"));
    let words = std::iter::once("simulate").chain(line.split_whitespace());
    SimulateArgs::from_arg_matches(&command.try_get_matches_from(words)?)
}

fn options(line: &str) -> PublishOptions {
    parse(line).unwrap().options(NOW_MS)
}

#[test]
fn by_default_a_day_passes_in_a_minute_with_one_packet_a_second_and_device() {
    let options = options("--devices 100 --duration 60");
    assert_eq!(options.fleet.end_ms, NOW_MS + 60_000);
    assert_eq!(options.fleet.end_ms - options.fleet.start_ms, 86_400_000);
    assert_eq!((options.fleet.interval_ms, options.batch), (60_000, 24));
    assert_eq!(publishes_per_s(&options), Some(1.0));
}

#[test]
fn an_interval_alone_means_real_time() {
    let options = options("--duration 60 --interval 1");
    assert_eq!((options.fleet.start_ms, options.fleet.end_ms), (NOW_MS, NOW_MS + 60_000));
    assert_eq!((options.fleet.interval_ms, options.batch, options.speed), (1_000, 1, Speed::Times(1.0)));
}

#[test]
fn at_full_speed_the_simulated_time_ends_when_the_run_begins() {
    let options = options("--duration 3d --speed max");
    assert_eq!((options.fleet.start_ms, options.fleet.end_ms), (NOW_MS - 259_200_000, NOW_MS));
    assert_eq!((options.fleet.interval_ms, options.batch), (60_000, 60));
}

#[test]
fn connections_beyond_what_a_broker_takes_are_noticed() {
    assert_eq!(publishes_per_s(&options("--interval 0.001 --batch 1")), Some(1000.0));
    assert_eq!(publishes_per_s(&options("--interval 1 --devices 10 --connections 2")), Some(5.0));
    assert_eq!(publishes_per_s(&options("--speed max")), None);
}

#[test]
fn bad_values_are_usage_errors() {
    let bad = [
        "--devices 0",
        "--interval 0",
        "--duration 0",
        "--duration soon",
        "--qos 7",
        "--qos 2",
        "--batch 0",
        "--batch 501",
        "--speed 0.5",
        "--speed fast",
        "--speed NaN",
        "--connections 0",
        "--episodes-per-device-day 25",
        "--episodes-per-device-day NaN",
        "--broker a:b",
        "--cert a.pem",
        "--connects-per-s 0",
        "--to 127.0.0.1:9092",
        "--seed x",
    ];
    for line in bad {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
    let to = "--to kafka://a/t";
    let more = ["--qos 0", "--connections 2"].map(|mqtt| format!("{to} {mqtt}"));
    let more = more.into_iter().chain(["--broker a", "--ca a", to].map(|mqtt| format!("--identities d {mqtt}")));
    let more: Vec<String> = more.collect();
    for both in more.iter().map(String::as_str).chain(["--no-episodes --episodes-per-device-day 1"]) {
        assert_eq!(parse(both).expect_err(both).kind(), ErrorKind::ArgumentConflict, "{both}");
    }
}

#[test]
fn a_span_before_1970_is_refused_and_nothing_overflows() {
    for line in ["--duration 99w --speed 1440", "--duration 5000w --speed 3000000000", "--duration 4000w --speed max"] {
        assert!(options(line).fleet.check().is_err(), "{line}");
    }
}

#[test]
fn the_summary_says_what_went_out_and_what_came_back() {
    let mut options = options("--devices 100 --duration 60 --labels l.ndjson --no-episodes");
    let progress = Progress {
        connections: 100,
        connected: 0,
        published: 6_000,
        readings: 144_000,
        acknowledged: 5_999,
        sent_again: 2,
        errors: 1,
        last_error: None,
        elapsed_s: 60.04,
        done: 1.0,
    };
    let summary = Summary {
        progress,
        devices: 100,
        unacknowledged: 1,
        gave_up: 0,
        readings_per_s: 2_398.4,
        start_ms: options.fleet.start_ms,
        end_ms: options.fleet.end_ms,
        sent_rows: None,
        labels: Some(0),
        interrupted: true,
    };
    let expected = "\
100 devices, simulated from 2026-05-27 20:27:40 to 2026-05-28 20:27:40 UTC, a reading every 60 s
published     6,000 packets with 144,000 readings
acknowledged  5,999
sent again    2 after a lost connection
errors        1
elapsed       60.0 s, 2,398 readings/s
labels        0 episodes in l.ndjson
interrupted before the end
";
    assert_eq!(summary_text(&options, &summary), expected);
    options.qos = Qos::AtMostOnce;
    assert!(summary_text(&options, &summary).contains("QoS 0 has no acknowledgement"));
    let json = serde_json::to_value(Report { schema_version: 1, summary: &summary }).unwrap();
    assert_eq!((&json["schema_version"], &json["acknowledged"]), (&1.into(), &5_999.into()));
}

#[test]
fn where_a_run_publishes_follows_from_what_was_said() {
    let target = |line: &str| parse(line).unwrap().mqtt();
    let missing = target("--devices 7 --target aws").unwrap_err().to_string();
    assert!(missing.contains(".vitals-devices") && missing.contains("vitals devices add 7"), "{missing}");
    // A broker that is named outdoes the target, which may come from the configuration.
    assert_eq!(target("--target aws --broker a").unwrap(), Target::Mqtt(Broker::plain("a", 1883)));
    assert_eq!(target("").unwrap(), Target::Mqtt(Broker::plain("127.0.0.1", 1883)));
    assert!(target("--ca a.pem").unwrap_err().to_string().contains("mqtts://127.0.0.1:1883"));
    assert!(target("--broker mqtts://a --ca no-such.pem").is_err());
}
