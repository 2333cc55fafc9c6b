//! `vitals bridge`: a broker of MQTT → a topic of Kafka.

use std::{process::ExitCode, sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

use anyhow::bail;
use clap::Args;
use indicatif::HumanCount;

use super::{kafka::KafkaArgs, status_line, tell};
use crate::{
    local::subscriber::{self, Followed, Subscription, Upstream},
    log::kafka::{Sink, SinkOptions, TopicAddress, prepare},
};

/// Pass packets on from an MQTT broker into a topic of Kafka
///
/// Examples:
///
///   vitals bridge --from mqtt://10.0.0.5:1883 --to kafka://10.0.0.7:9092/vitals
///
///   # then, on any number of machines
///   vitals ingest --from kafka://10.0.0.7:9092/vitals
///
/// A record's key is the device, the last level of the packet's topic. The broker gets its acknowledgement once all replicas
/// have the record, so what devices sent at QoS 1 is passed on at least once, whatever crashes: while this command is away,
/// the broker keeps for its session what it was told to keep (mosquitto: `persistence`, `max_queued_messages`). Of a reading
/// that so comes twice, one is dropped when its day is closed. While Kafka is away, packets wait. Ctrl-C and SIGTERM pass on
/// what is under way.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct BridgeArgs {
    /// The broker: mqtt://HOST:PORT
    #[arg(long, value_name = "BROKER")]
    from: Upstream,

    /// The topic of Kafka, made where it is not there: kafka://HOST:PORT[,HOST:PORT…]/TOPIC
    #[arg(long, value_name = "TOPIC")]
    to: TopicAddress,

    /// What to subscribe to
    #[arg(long, value_name = "FILTER", default_value = "iot/device/+")]
    topic: String,

    /// The name of the session at the broker, one for each bridge [default: vitals-bridge-<topic>]
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    client_id: Option<String>,

    #[command(flatten)]
    kafka: KafkaArgs,
}

/// How long, at the end, Kafka may take for what is under way.
const PARTING: Duration = Duration::from_secs(5);

/// Runs the command.
pub async fn run(args: BridgeArgs) -> anyhow::Result<ExitCode> {
    let interrupted = super::on_interrupt();
    let BridgeArgs { from, to, topic, client_id, kafka } = args;
    let settings = kafka.settings(&to.brokers).await?;
    // Whose clock stamps records is for those to judge who read them.
    prepare(&settings, &to, kafka.new_topic(), true).await?;
    let sink = Sink::open(&settings, &to.topic, SinkOptions::PROMPT).await?;
    let client_id = client_id.unwrap_or_else(|| format!("vitals-bridge-{}", to.topic));
    tell(&format!("passing `{topic}` from {from} on to {to} as `{client_id}`; Ctrl-C ends"));
    let what = Subscription { upstream: from, filter: topic, client_id };
    let followed = Arc::<Followed>::default();
    let outcome = tokio::select! {
        outcome = subscriber::follow(&what, sink.clone().into(), Arc::clone(&followed), interrupted) => outcome,
        never = status_line::show(|| status(&followed, &sink)) => match never {},
    };
    // What was waited for in vain is not waited for again.
    let limit = if matches!(outcome, Ok(0)) { PARTING } else { Duration::ZERO };
    let left = sink.flush(limit).await;
    let stored = sink.stats().stored.load(Relaxed);
    let acknowledged = followed.acknowledged.load(Relaxed);
    if outcome.is_ok() || stored > 0 {
        tell(&format!("passed on {stored} packets, {acknowledged} of them acknowledged to the broker"));
    }
    let unanswered = outcome?;
    if left > 0 {
        let why = sink.last_error().map_or_else(String::new, |why| format!(" ({why})"));
        bail!(
            "Kafka has not taken {left} packets{why}; those at QoS 1 ({unanswered}) are still with the broker, and the next \
             start passes them on"
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// One line on how it stands.
fn status(followed: &Followed, sink: &Sink) -> String {
    let (received, stored) = (followed.received.load(Relaxed), sink.stats().stored.load(Relaxed));
    let waiting = received.saturating_sub(stored);
    let away = if followed.connected.load(Relaxed) { "" } else { " · no connection to the broker" };
    let why = sink.last_error().filter(|_| waiting > 0).map_or_else(String::new, |why| format!(" · last error: {why}"));
    format!("{} packets passed on · {} wait for Kafka{why}{away}", HumanCount(stored), HumanCount(waiting))
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;

    fn parse(line: &str) -> Result<BridgeArgs, clap::Error> {
        let command = BridgeArgs::augment_args(clap::Command::new("bridge"));
        let words = std::iter::once("bridge").chain(line.split_whitespace());
        BridgeArgs::from_arg_matches(&command.try_get_matches_from(words)?)
    }

    #[test]
    fn both_ends_are_named() {
        let args = parse("--from mqtt://a --to kafka://b/t --kafka-partitions 3").unwrap();
        assert_eq!((args.from.to_string(), args.to.to_string()), ("mqtt://a:1883".into(), "kafka://b:9092/t".into()));
        for wrong in [
            "",
            "--from mqtt://a",
            "--from kafka://a/t --to kafka://b/t",
            "--from mqtt://a --to mqtt://b",
            "--to spool",
        ] {
            assert_eq!(parse(wrong).expect_err(wrong).exit_code(), 2, "{wrong}");
        }
    }
}
