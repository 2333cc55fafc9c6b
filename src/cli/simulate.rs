//! `vitals simulate`: a fleet of simulated devices publishes over MQTT, or into a topic of Kafka.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::sync::watch;

use super::{
    Exit,
    config::Origins,
    duration::parse_duration,
    kafka::KafkaArgs,
    target::{self, TargetArgs},
};
use crate::aws::devices::folder;
use crate::log::kafka::TopicAddress;
use crate::simulate::{
    Broker, FleetOptions, MAX_BATCH, MAX_DEVICES, MAX_EPISODES_PER_DEVICE_DAY, MAX_IN_FLIGHT, Progress, PublishError,
    PublishOptions, Qos, Speed, Summary, Target, Tls, Topic, run as publish,
};

mod identities;

/// What AWS IoT Core takes of one connection; it discards the rest.
const IOT_CORE_PUBLISHES_PER_S: f64 = 100.0;

/// What AWS IoT Core takes of an account in small regions; 500 in large ones.
const IOT_CORE_CONNECTS_PER_S: u32 = 100;

/// The broker of `vitals up`.
fn local_broker() -> Broker {
    Broker::plain("127.0.0.1", 1883)
}

/// From this speed on, readings a minute apart are the default.
const FAST: f64 = 60.0;

/// How often a run tells how it stands where no status line can be drawn.
const HEARTBEAT: Duration = Duration::from_secs(5);

const LONG_ABOUT: &str = "\
Let simulated devices publish over MQTT, or into Kafka

Examples:

  # a simulated day of 100 devices in a minute, to the broker of `vitals up`
  vitals simulate --devices 100 --duration 60

  # real time, a reading every second
  vitals simulate --devices 20 --duration 5m --interval 1

  # three days as fast as the broker takes them, with the truth beside
  vitals simulate --duration 3d --speed max --labels labels.ndjson --sent sent.ndjson

  # to AWS IoT Core, each device with the certificate that `vitals devices add` made
  vitals simulate --target aws --devices 100

  # into a topic of Kafka, without a broker of MQTT
  vitals simulate --duration 3d --speed max --to kafka://127.0.0.1:9092/vitals

Bodies have resting levels of their own, a daily rhythm, activity, and vitals that hang together; sensors have noise and \
steps. Episodes (tachycardia, fever, hypoxia, hypotension, drift, spike, flatline) are added and labelled. A seed names a \
fleet: device_7 of a seed is the same body in every run, whatever the fleet's size, and runs that overlap in simulated \
time send the same readings there.

Simulated time ends now, never ahead of it: with --speed S a run of D seconds plays S × D seconds, and reaches the present \
when it ends.";

/// Let simulated devices publish over MQTT, or into Kafka
#[derive(Debug, Clone, Args)]
#[command(long_about = LONG_ABOUT)]
pub struct SimulateArgs {
    /// Devices, named device_1, device_2, …, each with its own connection
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_DEVICES)))]
    pub devices: u32,

    /// How long to publish, by the clock: 60, 90s, 5m, 3d; bare numbers are seconds. With `--speed max`, the simulated time
    #[arg(long, value_name = "TIME", default_value = "60", value_parser = positive_duration)]
    pub duration: Duration,

    /// Simulated time between two readings of a device [default: 60; 1 below --speed 60]
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    pub interval: Option<Duration>,

    /// How many times as fast as the clock simulated time passes (1 or more), or `max` [default: 1440, a day a minute; 1
    /// with --interval]
    #[arg(long, value_name = "TIMES", value_parser = parse_speed)]
    pub speed: Option<Speed>,

    /// What the fleet is made from: the same seed gives the same bodies and episodes
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// The MQTT broker; with TLS, mqtts://HOST:PORT [default: 127.0.0.1:1883]
    #[arg(long, value_name = "HOST:PORT", env = "VITALS_BROKER")]
    pub broker: Option<Broker>,

    /// A topic instead of a broker: kafka://HOST:PORT[,HOST:PORT…]/TOPIC, made where it is not there; acknowledged is what
    /// all replicas have
    // No conflict with `broker`, which VITALS_BROKER sets for all that is done in a shell.
    #[arg(long, value_name = "TOPIC", conflicts_with_all = ["qos", "connections"])]
    pub to: Option<TopicAddress>,

    /// The folder of `vitals devices add`: each device publishes to AWS IoT Core with its own certificate, within IoT Core's
    /// limits [default with --target aws: .vitals-devices]
    #[arg(long, value_name = "DIR", conflicts_with_all = ["broker", "to", "connections"])]
    pub identities: Option<PathBuf>,

    /// Certificates that the broker's certificate is checked against, PEM [default: the system's]; with mqtts
    #[arg(long, value_name = "FILE", conflicts_with_all = ["to", "identities"])]
    pub ca: Option<PathBuf>,

    /// The certificate that every connection shows, PEM; with mqtts
    #[arg(long, value_name = "FILE", requires = "key", conflicts_with_all = ["to", "identities"])]
    pub cert: Option<PathBuf>,

    /// The key of that certificate, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,

    /// New connections a second [default: 500; 100 with --identities]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub connects_per_s: Option<u32>,

    /// MQTT's promise for each packet: 0 sent once, 1 sent until acknowledged
    #[arg(long, value_name = "0|1", default_value = "1", value_parser = parse_qos)]
    pub qos: Qos,

    /// Readings in one packet, 1 to 500 [default: what makes one packet a second and device; 60 at `--speed max`]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_BATCH)))]
    pub batch: Option<u32>,

    /// Let devices share this many connections instead of having one each
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: Option<u32>,

    /// Episodes per device and simulated day, 0 to 24
    #[arg(long, value_name = "RATE", default_value_t = 0.5, value_parser = parse_rate)]
    pub episodes_per_device_day: f64,

    /// Healthy bodies and sensors only
    #[arg(long, conflicts_with = "episodes_per_device_day")]
    pub no_episodes: bool,

    /// Simulated time before the first episode; with it, no episode is cut off by the end either
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_duration)]
    pub warmup: Duration,

    /// Write the episodes that happened, one JSON object per line
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,

    /// Write every reading that was sent, and when it was acknowledged, one JSON object per line
    #[arg(long, value_name = "FILE")]
    pub sent: Option<PathBuf>,

    /// How to write the summary
    #[arg(long, value_enum, default_value_t = SimulateOutput::Text)]
    pub output: SimulateOutput,

    #[command(flatten)]
    pub target: TargetArgs,

    #[command(flatten)]
    pub kafka: KafkaArgs,
}

/// The form of the summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SimulateOutput {
    Text,
    Json,
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if duration < Duration::from_millis(1) { Err("must be 1 ms or longer".into()) } else { Ok(duration) }
}

fn parse_speed(text: &str) -> Result<Speed, String> {
    if text == "max" {
        return Ok(Speed::Max);
    }
    let times: f64 = text.parse().map_err(|_| format!("`{text}` is neither a number nor `max`"))?;
    // Up to a century in a second.
    if (1.0..=3.2e9).contains(&times) { Ok(Speed::Times(times)) } else { Err("must be 1 or more".into()) }
}

fn parse_qos(text: &str) -> Result<Qos, String> {
    match text {
        "0" => Ok(Qos::AtMostOnce),
        "1" => Ok(Qos::AtLeastOnce),
        _ => Err("must be 0 or 1".into()),
    }
}

pub(super) fn parse_rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    let possible = 0.0..=MAX_EPISODES_PER_DEVICE_DAY;
    if possible.contains(&rate) { Ok(rate) } else { Err(format!("must be 0 to {MAX_EPISODES_PER_DEVICE_DAY}")) }
}

impl SimulateArgs {
    /// What to publish in a run that begins at `now_ms`, milliseconds since 1970 UTC.
    fn options(&self, now_ms: i64) -> PublishOptions {
        let speed = self.speed.unwrap_or(Speed::Times(if self.interval.is_some() { 1.0 } else { 1440.0 }));
        let slow = matches!(speed, Speed::Times(times) if times < FAST);
        let interval = self.interval.unwrap_or(Duration::from_secs(if slow { 1 } else { 60 }));
        let interval_ms = (interval.as_millis() as i64).max(1);
        let duration_ms = self.duration.as_millis() as i64;
        let (span_ms, end_ms, readings_per_s) = match speed {
            Speed::Max => (duration_ms, now_ms, None),
            // Saturating: a span of more than all time is refused by the fleet.
            Speed::Times(times) => (
                (duration_ms as f64 * times) as i64,
                now_ms.saturating_add(duration_ms),
                Some(times * 1000.0 / interval_ms as f64),
            ),
        };
        let fleet = FleetOptions {
            devices: self.devices,
            seed: self.seed,
            interval_ms,
            start_ms: end_ms.saturating_sub(span_ms),
            end_ms,
            origin_ms: 0,
            episodes_per_device_day: if self.no_episodes { 0.0 } else { self.episodes_per_device_day },
            warmup_ms: self.warmup.as_millis() as i64,
        };
        let batch =
            self.batch.unwrap_or_else(|| readings_per_s.map_or(60, |rate| rate.round().clamp(1.0, 100.0) as u32));
        PublishOptions {
            speed,
            qos: self.qos,
            batch,
            connections: self.connections,
            connects_per_s: self.connects_per_s.unwrap_or(500),
            labels: self.labels.clone(),
            sent: self.sent.clone(),
            ..PublishOptions::new(fleet, self.broker.clone().unwrap_or_else(local_broker))
        }
    }
}

impl SimulateArgs {
    /// The broker that is meant, and as whom devices come to it.
    fn mqtt(&self) -> anyhow::Result<Target> {
        // A broker or topic that is named outdoes the target of the configuration.
        let on_aws = self.target.target == target::Target::Aws && self.to.is_none() && self.broker.is_none();
        let folder = self.identities.clone().or_else(|| on_aws.then(|| PathBuf::from(folder::DEFAULT)));
        if let Some(folder) = folder {
            let stack = on_aws.then_some(self.target.stack.stack.as_str());
            return identities::things(&folder, self.devices, stack).map(Target::Things);
        }
        let mut broker = self.broker.clone().unwrap_or_else(local_broker);
        match &mut broker.tls {
            Some(tls) => {
                *tls = Tls { ca: self.ca.clone(), certificate: self.cert.clone().zip(self.key.clone()) };
                for path in [&self.ca, &self.cert, &self.key].into_iter().flatten() {
                    super::check_file(path)?;
                }
            }
            None if self.ca.is_some() || self.cert.is_some() => {
                return Err(Exit::usage(format!("certificates need TLS: `--broker mqtts://{broker}`")));
            }
            None => {}
        }
        Ok(Target::Mqtt(broker))
    }
}

/// Packets a second on one connection of MQTT.
fn publishes_per_s(options: &PublishOptions) -> Option<f64> {
    let Speed::Times(times) = options.speed else { return None };
    if matches!(options.target, Target::Kafka(_)) {
        return None;
    }
    let devices = f64::from(options.fleet.devices);
    let connections = f64::from(options.connections_used());
    let readings_per_s = times * 1000.0 / options.fleet.interval_ms as f64;
    Some((devices / connections).ceil() * readings_per_s / f64::from(options.batch))
}

/// Run `vitals simulate`. Ends with 1 when not everything could be sent, 130 when it was interrupted.
///
/// # Errors
/// When no broker answers, or a file can't be written.
pub async fn run(args: SimulateArgs, origins: &Origins) -> anyhow::Result<ExitCode> {
    // Elsewhere than in the command line, a broker is a setting for all that is done in a shell.
    if args.to.is_some() && origins.is_flag("broker") {
        return Err(Exit::usage("`--broker` and `--to` name two places to send to\nhint: leave one out"));
    }
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
    let mut options = args.options(now_ms);
    options.target = args.mqtt()?;
    if let Target::Things(_) = options.target {
        options.connects_per_s = args.connects_per_s.unwrap_or(IOT_CORE_CONNECTS_PER_S);
        options.in_flight = MAX_IN_FLIGHT;
    }
    if let Some(address) = args.to.clone() {
        let (settings, new) = (args.kafka.settings(&address.brokers).await?, args.kafka.new_topic());
        options.target = Topic { address, settings, new }.into();
        options.patience = KafkaArgs::PATIENCE;
    }
    if let Some(rate) = publishes_per_s(&options).filter(|rate| *rate > IOT_CORE_PUBLISHES_PER_S) {
        let what = match options.target {
            Target::Things(_) => "no more are sent, so the run takes longer",
            _ => "it discards the rest",
        };
        eprintln!(
            "warning: {rate:.0} packets a second on one connection: AWS IoT Core takes {IOT_CORE_PUBLISHES_PER_S}, and \
             {what}; a larger --batch makes fewer packets"
        );
    }
    options.stop = Some(stop_on_ctrl_c());

    let mut status = Status::new();
    let result = publish(options.clone(), |progress| status.show(progress)).await;
    status.clear();
    let summary = match result {
        Err(error @ (PublishError::Fleet(_) | PublishError::Options(_))) => {
            let usage = clap::Command::new("vitals simulate").error(clap::error::ErrorKind::ValueValidation, error);
            usage.print()?;
            return Ok(ExitCode::from(2));
        }
        other => other?,
    };
    let text = match args.output {
        SimulateOutput::Text => summary_text(&options, &summary),
        SimulateOutput::Json => serde_json::to_string_pretty(&Report { schema_version: 1, summary: &summary })? + "\n",
    };
    std::io::stdout().write_all(text.as_bytes()).context("writing the summary")?;
    if summary.interrupted {
        return Ok(ExitCode::from(130));
    }
    if !summary.complete() {
        let error = summary.progress.last_error.as_deref().unwrap_or("the broker does not answer");
        eprintln!(
            "error: not everything was sent: {} connections gave up, {} packets have no acknowledgement (last error: {error})",
            summary.gave_up, summary.unacknowledged
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Becomes true with the first Ctrl-C (or SIGTERM); the second one ends the process.
fn stop_on_ctrl_c() -> watch::Receiver<bool> {
    let stop = super::on_interrupt();
    let mut stopped = stop.clone();
    tokio::spawn(async move {
        if stopped.wait_for(|stop| *stop).await.is_ok() {
            eprintln!("stopping: waiting for acknowledgements under way (Ctrl-C again quits at once)");
        }
    });
    stop
}

#[derive(Serialize)]
struct Report<'a> {
    schema_version: u32,
    #[serde(flatten)]
    summary: &'a Summary,
}

/// The status line on a terminal; a plain line now and then elsewhere.
struct Status {
    bar: ProgressBar,
    told: Instant,
}

impl Status {
    const STEPS: u64 = 1000;

    fn new() -> Self {
        let bar = ProgressBar::new(Self::STEPS);
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {percent:>3} %  {wide_msg}") {
            bar.set_style(style);
        }
        Status { bar, told: Instant::now() }
    }

    fn show(&mut self, progress: &Progress) {
        let mut message = format!(
            "{}/{} connected, {} packets published, {} acknowledged, {} errors, {:.0} s",
            progress.connected,
            progress.connections,
            HumanCount(progress.published),
            HumanCount(progress.acknowledged),
            progress.errors,
            progress.elapsed_s,
        );
        if let Some(error) = progress.last_error.as_ref().filter(|_| progress.connected < progress.connections) {
            message.push_str(&format!(" (last: {error})"));
        }
        if !self.bar.is_hidden() {
            self.bar.set_position((progress.done * Self::STEPS as f64) as u64);
            self.bar.set_message(message);
        } else if self.told.elapsed() >= HEARTBEAT {
            self.told = Instant::now();
            eprintln!("simulate: {:.0} %, {message}", progress.done * 100.0);
        }
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

fn summary_text(options: &PublishOptions, summary: &Summary) -> String {
    let time = |ms: i64| {
        let time = DateTime::<Utc>::from_timestamp_millis(ms).unwrap_or_default();
        time.format("%Y-%m-%d %H:%M:%S").to_string()
    };
    let progress = &summary.progress;
    let mut lines = vec![format!(
        "{} devices, simulated from {} to {} UTC, a reading every {}",
        HumanCount(u64::from(summary.devices)),
        time(summary.start_ms),
        time(summary.end_ms),
        seconds(options.fleet.interval_ms),
    )];
    let mut line = |what: &str, text: String| lines.push(format!("{what:12}  {text}"));
    let count = |n: u64| HumanCount(n).to_string();
    line("published", format!("{} packets with {} readings", count(progress.published), count(progress.readings)));
    match options.qos {
        Qos::AtLeastOnce => line("acknowledged", count(progress.acknowledged)),
        Qos::AtMostOnce => line("acknowledged", "none: QoS 0 has no acknowledgement".into()),
    }
    if progress.sent_again > 0 {
        line("sent again", format!("{} after a lost connection", count(progress.sent_again)));
    }
    line("errors", count(progress.errors));
    line("elapsed", format!("{:.1} s, {} readings/s", progress.elapsed_s, count(summary.readings_per_s as u64)));
    if let (Some(path), Some(labels)) = (&options.labels, summary.labels) {
        line("labels", format!("{} episodes in {}", count(labels), path.display()));
    }
    if let (Some(path), Some(rows)) = (&options.sent, summary.sent_rows) {
        line("sent", format!("{} readings in {}", count(rows), path.display()));
    }
    if summary.interrupted {
        lines.push("interrupted before the end".into());
    }
    lines.push(String::new());
    lines.join("\n")
}

fn seconds(ms: i64) -> String {
    if ms % 1000 == 0 { format!("{} s", ms / 1000) } else { format!("{ms} ms") }
}

#[cfg(test)]
mod tests;
