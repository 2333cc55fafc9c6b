//! `vitals demo`: the whole pipeline on this machine, in about a minute.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::{Args, Parser};
use tokio::sync::watch;

use super::{
    Cli, Command, duration::parse_duration, progress::Progress, query, simulate::parse_rate, train::parse_budget,
};
use crate::{
    lake::{Place, Store, now_ms},
    local::{
        demo::{self, DemoOptions, Outcome},
        pipeline::describe,
    },
    simulate::{FleetOptions, MAX_DEVICES},
};

/// Show everything at once: simulated devices, broker, lake, training, outliers
///
/// Examples:
///
///   vitals demo
///
///   # a lake to look around in afterwards
///   vitals demo --keep demo-lake
///   vitals query devices --lake demo-lake
///
/// Simulated devices publish some days of readings, with episodes whose truth is known, over MQTT to an embedded broker.
/// The pipeline stores them, learns what is normal without looking at that truth, and finds outliers, which are then
/// compared with it. The same seed gives the same readings.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct DemoArgs {
    /// Devices
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_DEVICES)))]
    devices: u32,

    /// Simulated time: 12h, 3d
    #[arg(long, value_name = "TIME", default_value = "3d", value_parser = span)]
    duration: Duration,

    /// Simulated time between two readings of a device
    #[arg(long, value_name = "TIME", default_value = "60", value_parser = interval)]
    interval: Duration,

    /// What the fleet and the training are made from
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Episodes per device and simulated day
    #[arg(long, value_name = "RATE", default_value_t = 0.5, value_parser = parse_rate)]
    episodes_per_device_day: f64,

    /// Healthy bodies and sensors only: everything found is a false alarm
    #[arg(long, conflicts_with = "episodes_per_device_day")]
    no_episodes: bool,

    /// False alarms that a device may raise per day
    #[arg(long, value_name = "RATE", default_value_t = 0.25, value_parser = parse_budget)]
    alarms_per_device_day: f64,

    /// Keep the lake in this folder, which must be empty or not there; without it the lake is temporary
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

fn span(text: &str) -> Result<Duration, String> {
    let span = parse_duration(text)?;
    let hour = Duration::from_secs(3_600);
    if (2 * hour..=24 * 366 * hour).contains(&span) { Ok(span) } else { Err("must be 2h to 366d".to_owned()) }
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text)?;
    if interval >= Duration::from_secs(1) { Ok(interval) } else { Err("must be 1 second or longer".to_owned()) }
}

impl DemoArgs {
    fn fleet(&self, now_ms: i64) -> FleetOptions {
        let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        // A whole hour, so that the same seed gives the same readings and verdicts but for the date.
        let end_ms = now_ms - now_ms % 3_600_000;
        let start_ms = end_ms - milliseconds(self.duration);
        FleetOptions {
            devices: self.devices,
            seed: self.seed,
            interval_ms: milliseconds(self.interval),
            start_ms,
            end_ms,
            origin_ms: start_ms,
            episodes_per_device_day: if self.no_episodes { 0.0 } else { self.episodes_per_device_day },
            warmup_ms: milliseconds(self.duration / 6).min(12 * 3_600_000),
        }
    }
}

/// Runs the command.
pub async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let temporary;
    let folder = match &args.keep {
        Some(folder) => {
            if let Ok(place @ Place::S3 { .. }) = Place::try_from(folder.clone().into_os_string()) {
                return Err(super::Exit::usage(format!("`--keep {place}`: the demo needs a folder of this machine")));
            }
            if folder.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
                return Err(super::Exit::usage(format!("`--keep {}`: the folder is not empty", folder.display())));
            }
            folder.clone()
        }
        None => {
            temporary =
                tempfile::tempdir().context("making a temporary folder for the lake; `--keep DIR` needs none")?;
            temporary.path().to_owned()
        }
    };
    let mut interrupted = super::on_interrupt();
    let begun = Instant::now();
    let store = Store::folder(&folder)?;
    let options =
        DemoOptions { fleet: args.fleet(now_ms()), alarms_per_device_day: args.alarms_per_device_day, seed: args.seed };
    // Devices and broker end in good order by themselves.
    let whole = publish(&folder, &store, &options, interrupted.clone()).await?;
    let answered = tokio::select! {
        done = answer(&args, &folder, &store, &options), if whole => done.map(|()| true)?,
        _ = async { interrupted.wait_for(|stop| *stop).await.is_ok() } => false,
    };
    if !answered {
        eprintln!("interrupted");
        return Ok(ExitCode::from(130));
    }
    eprintln!("\nin {:.1} s, from devices to answers", begun.elapsed().as_secs_f64());
    suggest(&args);
    Ok(ExitCode::SUCCESS)
}

/// Devices → broker → landing files; gives whether all of it was published.
async fn publish(
    folder: &Path,
    store: &Store,
    options: &DemoOptions,
    interrupted: watch::Receiver<bool>,
) -> anyhow::Result<bool> {
    let mut progress = Progress::bar("simulate", 1000);
    let (published, ingested) = demo::publish(folder, store, &options.fleet, interrupted, |now| {
        progress.at((now.done * 1000.0) as u64, || format!("{} packets acknowledged", now.acknowledged));
    })
    .await?;
    progress.done(&format!(
        "{} devices published {} readings in {} packets, {} acknowledged",
        options.fleet.devices,
        published.progress.readings,
        published.progress.published,
        published.progress.acknowledged
    ));
    eprintln!("{:>10} {}", "ingest", describe(&ingested));
    Ok(!published.interrupted)
}

/// Landing files → sorted days, a model, verdicts, and what they are worth.
async fn answer(args: &DemoArgs, folder: &Path, store: &Store, options: &DemoOptions) -> anyhow::Result<()> {
    let progress = Progress::spinner("compact");
    let closed = demo::close_days(store).await?;
    let bytes: u64 = closed.iter().map(|day| day.bytes).sum();
    let readings: u64 = closed.iter().map(|day| day.readings).sum();
    progress
        .done(&format!("{:.1} bytes per reading, sorted by device and time", bytes as f64 / readings.max(1) as f64));

    let progress = Progress::spinner("train");
    let model = demo::learn(store, options).await?;
    let trained = &model.card().trained_on;
    progress.done(&format!("{} from {} devices, without labels", model.id(), trained.devices));
    model.card().warnings.iter().for_each(|warning| eprintln!("{:>10} {warning}", "warning"));

    let mut progress = Progress::spinner("score");
    let scored = demo::judge(store, &model, |done| {
        progress.at(done.readings, || format!("{} readings", done.readings));
    })
    .await?;
    progress.done(&super::score::report(&scored));

    eprintln!();
    show_episodes(folder, args.duration).await?;
    let outcome = demo::compare_with_labels(store, &options.fleet).await?;
    eprintln!();
    tell(&outcome, args.alarms_per_device_day);
    Ok(())
}

/// Asks for the newest episodes as anybody would.
async fn show_episodes(folder: &Path, duration: Duration) -> anyhow::Result<()> {
    let since = format!("{}s", duration.as_secs() + 3_600);
    let lake = folder.to_string_lossy();
    let words = ["vitals", "query", "outliers", "--since", &since, "--limit", "12", "--lake", &lake];
    match Cli::try_parse_from(words)?.command {
        Command::Query(args) => query::run(args).await.map(drop),
        _ => Ok(()),
    }
}

/// What was found of what was simulated.
fn tell(outcome: &Outcome, budget: f64) {
    let tally = &outcome.tally;
    if tally.events > 0 {
        eprintln!(
            "{:>10} {:.2}: {} of {} simulated episodes found",
            "recall",
            tally.recall(),
            tally.found,
            tally.events
        );
        let kinds: Vec<String> =
            outcome.kinds.iter().map(|(kind, (all, found))| format!("{kind} {found}/{all}")).collect();
        eprintln!("{:>10} {}", "", kinds.join(", "));
    }
    if tally.alarms > 0 {
        let true_alarms = tally.alarms - tally.false_alarms;
        eprintln!("{:>10} {:.2}: {true_alarms} of {} alarms were right", "precision", tally.precision(), tally.alarms);
    }
    eprintln!(
        "{:>10} {:.2} per device-day, {} in {:.0} device-days; the budget is {budget}",
        "false",
        tally.false_alarms_per_device_day(),
        tally.false_alarms,
        tally.device_days
    );
}

fn suggest(args: &DemoArgs) {
    eprintln!("\nnext:");
    match &args.keep {
        Some(folder) => {
            let lake = folder.display();
            eprintln!("  vitals query devices --lake {lake}");
            eprintln!("  vitals query history device_1 --lake {lake} --since 6h");
            eprintln!("  vitals query sql 'SELECT cause, count(*) FROM outliers GROUP BY cause' --lake {lake}");
        }
        None => {
            eprintln!("  vitals demo --keep demo-lake       # a lake to look around in");
            eprintln!("  vitals import readings.csv         # your own readings");
            eprintln!("  vitals up                          # a broker for your devices");
        }
    }
}
