//! `vitals up`: the local stack in the foreground.

use std::{
    io::{self, IsTerminal},
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    sync::atomic::Ordering::Relaxed,
    time::Duration,
};

use anyhow::Context;
use clap::Args;
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    LakeArgs,
    duration::{parse_period, words},
    tell,
    train::parse_budget,
};
use crate::{
    ingest::worker::Ingested,
    local::{
        pipeline::{Pipeline, describe, describe_broker},
        stages::{StageOptions, Stages, Standing},
    },
    model::training::TrainOptions,
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
/// Devices publish JSON to `iot/device/<id>`. A packet acknowledged at QoS 1 is stored: in the spool at once, and in the
/// lake's files within the window; then it gets its verdict, at first from the built-in model. Training runs by itself, a
/// model that is not worse takes over, and days are compacted when they are over. Ctrl-C stores and scores what is
/// buffered; after a crash the next start goes on where it was.
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

    /// False alarms that a device may raise per day
    #[arg(long, value_name = "RATE", default_value_t = 0.25, value_parser = parse_budget)]
    alarms_per_device_day: f64,
}

/// How often to train.
#[derive(Debug, Clone, Copy)]
struct TrainEvery(Option<Duration>);

fn train_every(text: &str) -> Result<TrainEvery, String> {
    if text == "never" { Ok(TrainEvery(None)) } else { parse_period(text).map(|every| TrainEvery(Some(every))) }
}

/// An address of this machine; `localhost` is its IPv4 one, as devices that look the name up find either.
fn address(text: &str) -> Result<SocketAddr, String> {
    let numbers = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let wrong = |_| format!("`{text}` is no address: write 127.0.0.1:1883, localhost:1883 or [::1]:1883");
    numbers.as_deref().unwrap_or(text).parse().map_err(wrong)
}

/// Runs the command.
pub async fn run(args: UpArgs) -> anyhow::Result<ExitCode> {
    if !args.broker.ip().is_loopback() {
        return Err(super::Exit::usage(format!(
            "`--broker {}` is open to others: this broker has no passwords and no TLS, so it listens on loopback only",
            args.broker
        )));
    }
    let folder = &args.lake.lake;
    let store = args.lake.create()?;
    let mut interrupted = super::on_interrupt();
    let pipeline = Pipeline::start(folder, store.clone(), args.broker, args.window).await?;
    let _lock = take_scorer(folder)?;
    let options = StageOptions {
        train_every: args.train_every.0,
        training: TrainOptions { alarms_per_device_day: args.alarms_per_device_day, ..TrainOptions::default() },
    };
    let stages = Stages::start(&store, options, pipeline.progress());
    tell(&format!("broker on mqtt://{}, lake in {}; Ctrl-C ends", pipeline.broker(), folder.display()));
    let training = args.train_every.0.map_or_else(|| "never".to_owned(), |every| format!("every {}", words(every)));
    tell(&format!("files every {}, scored as they come; training {training}", words(args.window)));
    tell("hint: `vitals simulate` publishes to it, `vitals query outliers` asks");
    let failed = tokio::select! {
        _ = interrupted.wait_for(|stop| *stop) => None,
        failed = pipeline.failed() => Some(failed),
        () = show(&pipeline, &stages) => None,
    };
    tell("storing what is buffered …");
    let stats = pipeline.stats();
    let stored = pipeline.stop().await;
    let judged = stages.stop().await;
    describe_broker(&stats).iter().for_each(|told| tell(&format!("broker: {told}")));
    if let Some(failed) = failed {
        return Err(failed);
    }
    tell(&describe(&stored?));
    tell(&describe_stages(&judged.context("what is stored gets its verdicts at the next start")?));
    Ok(ExitCode::SUCCESS)
}

/// The right to score; another `up` has been told apart by the spool before.
fn take_scorer(folder: &Path) -> anyhow::Result<ScorerLock> {
    ScorerLock::take(folder, Share::WHOLE).map_err(|e| match e {
        LockError::Held { .. } => {
            anyhow::Error::new(e).context("`vitals up` scores by itself; stop that process first")
        }
        e => e.into(),
    })
}

/// What the stages behind the broker did, in words.
fn describe_stages(standing: &Standing) -> String {
    let mut text = format!(
        "scored {} readings with {}, {} outliers or artifacts",
        standing.scored, standing.model, standing.outliers
    );
    if standing.trained > 0 {
        text.push_str(&format!("; {} models trained, {} put in force", standing.trained, standing.promoted));
    }
    if standing.closed > 0 {
        text.push_str(&format!("; {} days closed", standing.closed));
    }
    text
}

/// How often the status is drawn on a terminal, and said elsewhere where it has changed.
const DRAW: Duration = Duration::from_millis(500);
const HEARTBEAT: Duration = Duration::from_secs(60);

/// Shows how everything stands, without end.
async fn show(pipeline: &Pipeline, stages: &Stages) {
    let (stats, ingested, standing) = (pipeline.stats(), pipeline.progress(), stages.standing());
    let line = || {
        let devices = stats.connections.load(Relaxed);
        status(devices, stats.received(), &ingested.borrow(), &standing.borrow())
    };
    let bar = io::stderr().is_terminal().then(|| {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar
    });
    let mut told = line();
    loop {
        tokio::time::sleep(if bar.is_some() { DRAW } else { HEARTBEAT }).await;
        let now = line();
        match &bar {
            Some(bar) => bar.set_message(now),
            // At rest there is nothing to say.
            None if now != told => {
                tell(&now);
                told = now;
            }
            None => {}
        }
    }
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
