//! `vitals ingest`: a log → landing files.

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use clap::{Args, ValueEnum};
use indicatif::{HumanBytes, HumanCount};
use tokio::sync::watch;

use super::{
    Exit, LakeArgs,
    duration::parse_period,
    kafka::KafkaArgs,
    size::{memory_here, parse_size},
    status_line, tell,
};
use crate::{
    ingest::{
        metrics::{Metrics, MetricsServer},
        worker::{OnBad, Worker, WorkerOptions},
    },
    lake::Store,
    local::{
        pipeline::{self, describe},
        stages::{LAST_VERDICTS, Scoring},
        subscriber::{self, Subscription, Upstream},
    },
    log::{
        Source,
        kafka::{self, KafkaSource, Portion, SourceOptions, TopicAddress},
    },
};

mod portion;

/// Carry packets from a log into the lake
///
/// Examples:
///
///   # a topic of Kafka, until Ctrl-C; any number of workers may do so at once, and share its partitions
///   vitals ingest --from kafka://127.0.0.1:9092/vitals
///
///   # everything that is in it now, with verdicts, then end
///   vitals ingest --from kafka://127.0.0.1:9092/vitals --until-end --score
///
///   # what `vitals up` had taken but not yet stored
///   vitals ingest --from spool
///
///   # what one partition has up to an offset, as a task of a Spark job does (`--plan` says what there is to do)
///   vitals ingest --from kafka://127.0.0.1:9092/vitals --partition 3 --until-offset 120000
///
///   # from a broker of yours, until Ctrl-C
///   vitals ingest --from mqtt://10.0.0.5:1883 --window 60
///
/// Every record ends up in the lake exactly once, whatever crashes: as a reading, or as a dead letter with its reason.
/// Where a partition goes on is read from the lake, not from the group's offsets. From a broker, packets are stored in the
/// spool before they are acknowledged. Ctrl-C and SIGTERM store what is buffered.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct IngestArgs {
    #[command(flatten)]
    lake: LakeArgs,

    /// `spool`, a broker: mqtt://HOST:PORT, or a topic: kafka://HOST:PORT[,HOST:PORT…]/TOPIC
    #[arg(long, value_name = "LOG", default_value = "spool", value_parser = parse_from)]
    from: From,

    /// How long a landing file gathers: 30, 5m, 1h [default: 1h from Kafka, else 60]
    #[arg(long, value_name = "TIME", value_parser = parse_period)]
    window: Option<Duration>,

    /// The most readings in a landing file
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=100_000_000))]
    slice_rows: usize,

    /// Memory for everything that waits to be written, 64MB or more [default: a quarter of the machine's or container's]
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    memory: Option<usize>,

    /// What to do with a record that can't be read: make it a dead letter, or stop before it
    #[arg(long, value_enum, default_value_t = Bad::Keep)]
    on_bad: Bad,

    /// Score what lands, in the same process
    #[arg(long)]
    score: bool,

    /// End once everything was stored that the topic had; with kafka://
    #[arg(long)]
    until_end: bool,

    /// Store nothing: say as JSON how far the lake has each partition (`first`), and where the topic ends (`until`)
    #[arg(long, conflicts_with_all = ["until_end", "score", "metrics", "partition"])]
    plan: bool,

    /// Only this partition, whoever of the group has it, up to `--until-offset`; any number may do so at once
    #[arg(
        long,
        value_name = "N",
        requires = "until_offset",
        conflicts_with_all = ["until_end", "score", "metrics"],
        value_parser = clap::value_parser!(i32).range(0..)
    )]
    partition: Option<i32>,

    /// The first offset that is not stored any more; with --partition
    #[arg(long, value_name = "OFFSET", requires = "partition", value_parser = clap::value_parser!(i64).range(0..))]
    until_offset: Option<i64>,

    /// Workers of one group share the topic's partitions; with kafka://
    #[arg(long, value_name = "NAME", default_value = "vitals")]
    group: String,

    /// The name under which the lake has the topic [default: kafka-<topic>]
    #[arg(long, value_name = "NAME", value_parser = parse_chain)]
    chain: Option<String>,

    /// Take the producers' times where the topic keeps those
    #[arg(long)]
    accept_create_time: bool,

    /// Serve `/metrics` and `/healthz` on this address of this machine, such as 127.0.0.1:9464
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,

    /// What to subscribe to; with mqtt://
    #[arg(long, value_name = "FILTER", default_value = "iot/device/+")]
    topic: String,

    #[command(flatten)]
    kafka: KafkaArgs,
}

/// What to do with a record that can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bad {
    Keep,
    Fail,
}

#[derive(Debug, Clone)]
enum From {
    Spool,
    Mqtt(Upstream),
    Kafka(TopicAddress),
}

fn parse_from(text: &str) -> Result<From, String> {
    match text {
        "spool" => Ok(From::Spool),
        _ if text.starts_with("kafka://") => Ok(From::Kafka(text.parse()?)),
        _ => Ok(From::Mqtt(text.parse()?)),
    }
}

/// The least memory that a worker makes do with.
const LEAST_MEMORY: usize = 64 << 20;

fn parse_memory(text: &str) -> Result<usize, String> {
    parse_size(text)
        .and_then(|bytes| if bytes < LEAST_MEMORY { Err("must be 64MB or more".to_owned()) } else { Ok(bytes) })
}

/// A chain is a folder of the lake, so its name is as plain as a topic's.
fn parse_chain(text: &str) -> Result<String, String> {
    let reserved = ["spool-", "import-", "_", "."].iter().any(|prefix| text.starts_with(prefix));
    if reserved || !kafka::valid_topic(text) {
        return Err("letters, digits, `.`, `_` and `-`; not beginning with `spool-`, `import-`, `_` or `.`".to_owned());
    }
    Ok(text.to_owned())
}

const WHY_A_FOLDER: &str = "here, as the spool stands beside the lake";

/// Runs the command.
pub async fn run(args: IngestArgs) -> anyhow::Result<ExitCode> {
    few_arenas();
    if !matches!(args.from, From::Kafka(_)) && (args.plan || args.partition.is_some()) {
        return Err(Exit::usage("`--plan` and `--partition` need a topic: `--from kafka://HOST:PORT/TOPIC`"));
    }
    let interrupted = super::on_interrupt();
    match &args.from {
        From::Kafka(address) => from_kafka(&args, address, interrupted).await?,
        From::Spool => {
            let folder = args.lake.folder(WHY_A_FOLDER)?;
            let store = args.lake.open().await?;
            let spool = pipeline::open_spool(folder, &store).await?;
            let source = spool.source();
            // Nothing is appended here, so the log ends where it ends now.
            spool.close().await;
            work(&args, source, store, interrupted.clone(), interrupted, None).await?;
        }
        From::Mqtt(upstream) => {
            let folder = args.lake.folder(WHY_A_FOLDER)?;
            let store = args.lake.create().await?;
            let spool = pipeline::open_spool(folder, &store).await?;
            tell(&format!("taking `{}` from {upstream}; Ctrl-C ends", args.topic));
            // Of this spool and of no other: the broker keeps under this name what comes while nobody is here.
            let client_id = format!("vitals-ingest-{}", spool.chain().trim_start_matches("spool-"));
            let what = Subscription { upstream: upstream.clone(), filter: args.topic.clone(), client_id };
            let follow = subscriber::follow(&what, spool.appender().into(), Arc::default(), interrupted.clone());
            let follow = async {
                let taken = follow.await;
                spool.close().await;
                taken.map(drop)
            };
            let work = work(&args, spool.source(), store, pipeline::never(), interrupted, None);
            let (taken, worked) = tokio::join!(follow, work);
            // Where nothing came, why not is all there is to say.
            taken.and(worked)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Has the C library keep freed memory for all threads together: slices are made by one and freed by others, and what each
/// kept for itself would come to half as much again as the budget.
fn few_arenas() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` only sets a number inside the allocator, and takes this one at any time.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// The part of the memory that is for fetched records. librdkafka keeps about twice as much beside each of our short ones
/// as they are long, so their bytes may be a third of that.
const QUEUE_PART: usize = 8;

async fn from_kafka(
    args: &IngestArgs,
    address: &TopicAddress,
    interrupted: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let settings = args.kafka.settings(&address.brokers).await?;
    let store = args.lake.create().await?;
    let partitions = kafka::prepare(&settings, address, args.kafka.new_topic(), args.accept_create_time).await?;
    let chain = args.chain.clone().unwrap_or_else(|| address.chain());
    if args.plan {
        let lookup = kafka::look(&settings, &address.topic, &args.group).await?;
        return super::say(&portion::plan(&store, &*lookup, &chain, partitions).await?);
    }
    let portion = args.partition.zip(args.until_offset).map(|(partition, until)| Portion { partition, until });
    if let Some(Portion { partition, .. }) = portion.filter(|portion| portion.partition >= partitions) {
        return Err(Exit::usage(format!(
            "`--partition {partition}`: topic `{}` has {partitions}, 0 to {}",
            address.topic,
            partitions - 1
        )));
    }
    let options = SourceOptions {
        topic: address.topic.clone(),
        chain: chain.clone(),
        group: args.group.clone(),
        partitions,
        create_time: args.accept_create_time,
        queue_bytes: (args.memory() / QUEUE_PART / 3).min(32 << 20),
        until_end: args.until_end,
        portion,
    };
    if let Some(portion) = portion {
        let what = format!("partition {} of `{}` up to offset {}", portion.partition, address.topic, portion.until);
        tell(&format!("taking {what}; Ctrl-C ends"));
        // Who comes second to a key ends at the first one's: then there is more to do.
        let mut before = None;
        loop {
            let next = portion::stored_to(&store, &chain, portion.partition).await?;
            if *interrupted.borrow() || next >= Some(portion.until) || (before.is_some() && before == Some(next)) {
                return Ok(());
            }
            before = Some(next);
            let source = KafkaSource::join(&settings, options.clone()).await?;
            work(args, source, store.clone(), interrupted.clone(), interrupted.clone(), None).await?;
        }
    }
    let source = KafkaSource::join(&settings, options).await?;
    tell(&format!("taking `{}` ({partitions} partitions) as a worker of `{}`; Ctrl-C ends", address.topic, args.group));
    let rebalances = Arc::new(source.rebalances());
    work(args, source, store, interrupted.clone(), interrupted, Some(rebalances)).await
}

/// Runs a worker, and beside it what was asked for: the scorer, the metrics, a status line.
async fn work<S: Source>(
    args: &IngestArgs,
    source: S,
    store: Store,
    stop: watch::Receiver<bool>,
    hurry: watch::Receiver<bool>,
    rebalances: Option<Arc<dyn Fn() -> u64 + Send + Sync>>,
) -> anyhow::Result<()> {
    let memory = args.memory();
    let default_window = if matches!(args.from, From::Kafka(_)) { 3_600 } else { 60 };
    let options = WorkerOptions {
        window: args.window.unwrap_or(Duration::from_secs(default_window)),
        slice_rows: args.slice_rows,
        memory_bytes: memory - memory / QUEUE_PART,
        hurry: Some(hurry),
        on_bad: if args.on_bad == Bad::Fail { OnBad::Fail } else { OnBad::Keep },
        ..WorkerOptions::default()
    };
    let (lookup, stopped) = (source.lookup(), stop.clone());
    let worker = Worker::new(source, store.clone(), options);
    let metrics = Metrics::of(&worker, lookup, rebalances);
    let scoring = match args.score {
        true => Some(Scoring::start(&store, &args.lake.lake, worker.progress())),
        false => None,
    };
    let server = match args.metrics {
        Some(address) => Some(
            MetricsServer::bind(address, metrics.clone())
                .await
                .map_err(|e| Exit::usage(format!("can't serve metrics on {address}: {e:#}")))?,
        ),
        None => None,
    };
    let serving = server.map(|server| {
        tell(&format!("metrics on http://{}/metrics", server.address()));
        tokio::spawn(server.run())
    });
    let progress = worker.progress();
    let done = tokio::select! {
        done = worker.run(stop) => done,
        never = status_line::show(|| status(&metrics)) => match never {},
    };
    let scored = match scoring {
        Some(scoring) => {
            let limit = stopped.borrow().then_some(LAST_VERDICTS);
            Some(scoring.stop(limit).await)
        }
        None => None,
    };
    if let Some(serving) = serving {
        serving.abort();
    }
    // What was stored before an error is worth knowing as well.
    let stored = progress.borrow().clone();
    if done.is_ok() || stored.slices > 0 {
        tell(&describe(&stored));
    }
    done?;
    if let Some(scored) = scored {
        tell(&crate::local::stages::describe(&scored?));
    }
    Ok(())
}

/// One line on how the worker stands.
fn status(metrics: &Metrics) -> String {
    let (done, standing) = (metrics.progress.borrow(), metrics.standing.borrow());
    let dead = if done.dead > 0 { format!(", {} dead letters", HumanCount(done.dead)) } else { String::new() };
    let rows: u64 = standing.partitions.values().map(|slice| slice.rows).sum();
    let paused = standing.partitions.values().filter(|slice| slice.paused).count();
    let paused = if paused > 0 { format!(" · {paused} paused") } else { String::new() };
    format!(
        "{} partitions · {} readings stored{dead} in {} files · {} gathering ({}){paused}",
        standing.partitions.len(),
        HumanCount(done.readings),
        HumanCount(done.slices),
        HumanCount(rows),
        HumanBytes(standing.gathering),
    )
}

impl IngestArgs {
    /// The memory that the worker and what feeds it may take.
    fn memory(&self) -> usize {
        let quarter = || memory_here().map_or(512 << 20, |bytes| usize::try_from(bytes / 4).unwrap_or(usize::MAX));
        self.memory.unwrap_or_else(quarter).max(LEAST_MEMORY)
    }
}
