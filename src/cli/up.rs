//! `vitals up`: the local stack in the foreground.

use std::{
    convert::Infallible, net::SocketAddr, path::PathBuf, process::ExitCode, sync::atomic::Ordering::Relaxed,
    time::Duration,
};

use anyhow::Context;
use clap::Args;
use indicatif::HumanCount;
use tokio::{net::TcpListener, sync::watch};

use super::{
    LakeArgs,
    duration::{parse_period, words},
    kafka::KafkaArgs,
    status_line, tell,
    train::parse_budget,
};
use crate::{
    ingest::worker::Ingested,
    lake::{Place, Store},
    local::{
        pipeline::{self, KafkaLog, Pipeline, Through, describe, describe_broker},
        stages::{self, StageOptions, Stages, Standing},
    },
    log::kafka::{self, TopicAddress},
    model::training::TrainOptions,
    report::{Access, LakeSource, ReportOptions, Server},
    score::{
        follow::Share,
        lock::{LockError, ScorerLock},
    },
};

/// Run everything on this machine until Ctrl-C: broker, storage, scoring, training
///
/// Examples:
///
///   vitals up
///
///   # in other terminals
///   vitals simulate --devices 100 --duration 60
///   vitals query outliers
///
///   # as in the cloud: what devices send goes through Kafka
///   vitals up --brokers 127.0.0.1:9092
///
/// Devices publish JSON to `iot/device/<id>`. A packet acknowledged at QoS 1 is stored: in the spool at once, and in the
/// lake's files within the window; then it gets its verdict, at first from the built-in model. Training runs by itself, a
/// model that is not worse takes over, and days are compacted when they are over. Ctrl-C stores and scores what is
/// buffered; after a crash the next start goes on where it was.
///
/// With `--brokers`, Kafka takes the spool's place: a packet is acknowledged once all replicas have it, and a worker of the
/// group `vitals` reads the topic. The lake may then be on S3.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct UpArgs {
    #[command(flatten)]
    lake: LakeArgs,

    /// Where the broker listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:1883", value_parser = address)]
    broker: SocketAddr,

    /// How long a landing file gathers: 30, 5m, 1h
    #[arg(long, value_name = "TIME", default_value = "20", value_parser = parse_period)]
    window: Duration,

    /// Train this long after the last model or the first readings, and so on; `never` leaves it to `vitals train`
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = train_every)]
    train_every: TrainEvery,

    /// Where the report is served, or `off`; addresses that others can reach need a token
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090", value_parser = listen)]
    listen: Listen,

    /// The file of the token (16 to 128 letters and digits) that whoever opens the report must know; or VITALS_REPORT_TOKEN
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// A name under which others reach the report, where it does not listen on loopback
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,

    /// False alarms that a device may raise per day
    #[arg(long, value_name = "RATE", default_value_t = 0.25, value_parser = parse_budget)]
    alarms_per_device_day: f64,

    /// Brokers of Kafka to go through, instead of the spool
    #[arg(long, value_name = "HOST:PORT[,HOST:PORT…]", env = "VITALS_KAFKA_BROKERS", value_parser = kafka::parse_brokers)]
    brokers: Option<String>,

    /// The topic to go through, made where it is not there; with `--brokers`
    #[arg(long, value_name = "NAME", default_value = "vitals", value_parser = topic)]
    kafka_topic: String,

    #[command(flatten)]
    kafka: KafkaArgs,
}

/// How often to train.
#[derive(Debug, Clone, Copy)]
struct TrainEvery(Option<Duration>);

fn train_every(text: &str) -> Result<TrainEvery, String> {
    if text == "never" { Ok(TrainEvery(None)) } else { parse_period(text).map(|every| TrainEvery(Some(every))) }
}

/// Where the report is served.
#[derive(Debug, Clone, Copy)]
struct Listen(Option<SocketAddr>);

fn listen(text: &str) -> Result<Listen, String> {
    if text == "off" { Ok(Listen(None)) } else { address(text).map(|address| Listen(Some(address))) }
}

/// An address of this machine; `localhost` is its IPv4 one, as devices that look the name up find either.
fn address(text: &str) -> Result<SocketAddr, String> {
    let numbers = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let wrong = |_| format!("`{text}` is no address: write 127.0.0.1:1883, localhost:1883 or [::1]:1883");
    numbers.as_deref().unwrap_or(text).parse().map_err(wrong)
}

fn topic(text: &str) -> Result<String, String> {
    if kafka::valid_topic(text) { Ok(text.to_owned()) } else { Err("letters, digits, `.`, `_` and `-`".to_owned()) }
}

/// The group of the worker that reads the topic.
const GROUP: &str = "vitals";

/// Runs the command.
pub async fn run(args: UpArgs) -> anyhow::Result<ExitCode> {
    if !args.broker.ip().is_loopback() {
        return Err(super::Exit::usage(format!(
            "`--broker {}` is open to others: this broker has no passwords and no TLS, so it listens on loopback only",
            args.broker
        )));
    }
    let kafka = kafka_log(&args).await?;
    let through = match kafka.clone() {
        Some(log) => Through::Kafka(log),
        None => Through::Spool(args.lake.folder("for `vitals up`: its spool stands beside the lake")?),
    };
    let store = args.lake.create().await?;
    // Another `up` on this lake is told of before the ports that it has as well.
    if let Through::Spool(folder) = through {
        drop(pipeline::open_spool(folder, &store).await?);
    }
    let _lock = take_scorer(&args.lake.lake)?;
    let report = report_server(&args, &store).await?;
    let mut interrupted = super::on_interrupt();
    let pipeline = Pipeline::start(through, store.clone(), args.broker, args.window).await?;
    let options = StageOptions {
        train_every: args.train_every.0,
        training: TrainOptions { alarms_per_device_day: args.alarms_per_device_day, ..TrainOptions::default() },
    };
    let running = Stages::start(&store, options, pipeline.progress());
    let (stop_report, stopped) = watch::channel(false);
    let report = report.map(|server| (server.address(), tokio::spawn(server.run(stopped))));
    let by = kafka.map_or_else(String::new, |log| format!(", through {}", log.address));
    tell(&format!("broker on mqtt://{}{by}, lake in {}; Ctrl-C ends", pipeline.broker(), args.lake.lake));
    let training = args.train_every.0.map_or_else(|| "never".to_owned(), |every| format!("every {}", words(every)));
    tell(&format!("files every {}, scored as they come; training {training}", words(args.window)));
    if let Some((address, _)) = &report {
        tell(&format!("report on http://{address}/"));
    }
    tell("hint: `vitals simulate` publishes to it, `vitals query outliers` asks");
    let failed = tokio::select! {
        _ = interrupted.wait_for(|stop| *stop) => None,
        failed = pipeline.failed() => Some(failed),
        never = show(&pipeline, &running) => match never {},
    };
    tell("storing what is buffered …");
    let (stats, log) = (pipeline.stats(), pipeline.log());
    let stored = pipeline.stop().await;
    let judged = running.stop(stages::LAST_VERDICTS).await;
    stop_report.send_replace(true);
    if let Some((_, server)) = report {
        server.await.context("the report's server ended badly")?;
    }
    describe_broker(&stats, log).iter().for_each(|told| tell(&format!("broker: {told}")));
    if let Some(failed) = failed {
        return Err(failed);
    }
    tell(&describe(&stored?));
    tell(&stages::describe(&judged.context("what is stored gets its verdicts at the next start")?));
    Ok(ExitCode::SUCCESS)
}

/// The topic to go through, where one was asked for.
async fn kafka_log(args: &UpArgs) -> anyhow::Result<Option<KafkaLog>> {
    let Some(brokers) = args.brokers.clone() else { return Ok(None) };
    let settings = args.kafka.settings(&brokers).await?;
    let address = TopicAddress { brokers, topic: args.kafka_topic.clone() };
    Ok(Some(KafkaLog { settings, address, new: args.kafka.new_topic(), group: GROUP.to_owned() }))
}

/// The environment variable of the report's token.
const TOKEN: &str = "VITALS_REPORT_TOKEN";

/// The report's server, not running yet: what is wrong with it is better said before anything begins.
async fn report_server(args: &UpArgs, store: &Store) -> anyhow::Result<Option<Server>> {
    let Some(address) = args.listen.0 else { return Ok(None) };
    let token = match &args.token_file {
        Some(path) => {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("reading the token `{}`", path.display()))?;
            Some(text.trim().to_owned())
        }
        None => std::env::var(TOKEN).ok(),
    };
    if token.is_none() && !address.ip().is_loopback() {
        return Err(super::Exit::usage(format!(
            "`--listen {address}` is open to others: name a token that they must know, by `--token-file` or {TOKEN}"
        )));
    }
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("serving the report on {address}; `--listen` names another address, or `off`"))?;
    // The page asks for the devices that people look at.
    let lake_name = args.lake.lake.to_string();
    let options = ReportOptions { series_devices: 0, lake_name, live: true, ..ReportOptions::default() };
    let access = Access { token, names: args.host.clone() };
    Server::new(listener, access, LakeSource::new(store.clone(), options)).map(Some)
}

/// The right to score; another `up` has been told apart by the spool before, where there is one.
fn take_scorer(lake: &Place) -> anyhow::Result<ScorerLock> {
    ScorerLock::take(lake, Share::WHOLE).map_err(|e| match e {
        LockError::Held { .. } => {
            anyhow::Error::new(e).context("`vitals up` scores by itself; stop that process first")
        }
        e => e.into(),
    })
}

/// Shows how everything stands, without end.
async fn show(pipeline: &Pipeline, running: &Stages) -> Infallible {
    let (stats, ingested, standing) = (pipeline.stats(), pipeline.progress(), running.standing());
    status_line::show(|| {
        let devices = stats.connections.load(Relaxed);
        status(devices, stats.received(), &ingested.borrow(), &standing.borrow())
    })
    .await
}

/// One line on how everything stands.
fn status(connections: u64, received: u64, ingested: &Ingested, standing: &Standing) -> String {
    let dead = if ingested.dead > 0 { format!(", {} dead letters", HumanCount(ingested.dead)) } else { String::new() };
    let failing = standing.failing.as_ref().map_or_else(String::new, |failing| format!(" · FAILING {failing}"));
    format!(
        "{} connected · {} packets in · {} readings stored{dead} · {} scored, {} outliers · {}{failing}",
        HumanCount(connections),
        HumanCount(received),
        HumanCount(ingested.readings),
        HumanCount(standing.scored),
        HumanCount(standing.outliers),
        if standing.model.is_empty() { "no model yet" } else { &standing.model },
    )
}
