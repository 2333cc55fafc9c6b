//! `vitals train`: learns what is normal.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use clap::{
    Args, ValueEnum,
    builder::{OsStringValueParser, TypedValueParser},
};

use super::{
    Exit, LakeArgs,
    config::Origins,
    duration::{parse_period, words},
    force::put_in_force,
    moment::{Moment, parse_moment},
    progress::Progress,
    target::{Target, TargetArgs},
};
use crate::{
    aws::training::Arn,
    lake::{Place, Store, View, now_ms},
    model::{
        Model,
        artifact::Figures,
        training::{History, TrainError, TrainOptions, train},
    },
    reading::file,
    score::{follow::Share, load_model},
    train::{
        self, Plan, Sampler, Span,
        container::{self, Job},
        due_in,
        prepared::{self, Manifest},
    },
};

mod aws;
mod follow;
mod job;

pub use train::ARTIFACT;

/// Learn what is normal for these devices, and score the lake with it
///
/// Examples:
///
///   vitals train
///
///   # from the last month only, with a tighter alarm budget
///   vitals train --since 30d --alarms-per-device-day 0.1
///
///   # again every day, beside `vitals score --follow` (`vitals up` does it by itself)
///   vitals train --every 1d
///
///   # without a lake: from a file, into a folder
///   vitals train --data readings.csv --out model/
///
///   # on the deployed stack: start it and follow it; start it and leave; once a week by the clock
///   vitals train --target aws
///   vitals train --target aws --detach
///   vitals train --target aws --every 7d
///
///   # only what would be learnt from, for a training elsewhere; `vitals models adopt` takes what that gives
///   vitals train --prepare sample/
///
/// Training needs no labels, and allows for outliers among what it learns from. The threshold follows from the alarm
/// budget: how many false alarms a device may raise per day. The new model and the one in force are compared on events
/// that are put into devices held back from learning; unless the new one finds less, it is put in force with the verdicts
/// it gives on everything stored. `vitals models promote` brings an older one back.
///
/// On AWS the stack's state machine closes the days that are over, trains by a job of SageMaker, compares, and scores again.
/// Ctrl-C leaves it running (exit code 130); `--follow` comes back to it. Not yet run against a real AWS account.
///
/// In a container of a SageMaker training job, which is known by /opt/ml/input/config/hyperparameters.json, it trains that
/// job's model: from the prepared sample in the channel `training`, by the hyperparameters `since`, `until`,
/// `alarms_per_device_day` and `seed`, which mean what the flags do.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct TrainArgs {
    #[command(flatten)]
    lake: LakeArgs,

    /// Learn from readings since then: 30d, 24h, 2026-01-31, 2026-01-31T05:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    since: Option<Moment>,

    /// Learn from readings until then
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    until: Option<Moment>,

    /// Learn from a file (CSV, NDJSON or Parquet, .gz too) instead of a lake
    #[arg(long, value_name = "FILE", requires = "out")]
    data: Option<PathBuf>,

    /// Write the model to this folder; with --data
    #[arg(long, value_name = "DIR", requires = "data")]
    out: Option<PathBuf>,

    /// False alarms that a device may raise per day
    #[arg(long, value_name = "RATE", default_value_t = 0.25, value_parser = parse_budget)]
    alarms_per_device_day: f64,

    /// The same data and seed give the same model, to the bit
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Go on training, this long after the last model or the first readings: 12h, 7d; of a stack, set its schedule: 7d, off
    #[arg(long, value_name = "TIME", value_parser = parse_every, conflicts_with = "data")]
    every: Option<Every>,

    /// When to put the model in force; better: unless it finds less than the one in force
    #[arg(long, value_enum, default_value_t = Promote::Better, conflicts_with = "data")]
    promote: Promote,

    /// Write what would be learnt from to a folder or s3://BUCKET/PREFIX, and learn nothing
    #[arg(
        long,
        value_name = "PLACE",
        conflicts_with_all = ["data", "every"],
        value_parser = OsStringValueParser::new().try_map(Place::try_from)
    )]
    prepare: Option<Place>,

    /// Prepare a share of the lake's files only: 1/3, 2/3, 3/3; with --state
    #[arg(long, value_name = "I/N", requires_all = ["prepare", "state"], value_parser = super::score::share)]
    share: Option<Share>,

    /// Prepare from the lake as this state of the last day had it; `--since 30d` is 30 days before it
    #[arg(long, value_name = "N", requires = "prepare")]
    state: Option<u64>,

    /// Put samples of shares together instead of reading the lake; once for each of them
    #[arg(
        long,
        value_name = "PLACE",
        requires_all = ["prepare", "state"],
        conflicts_with = "share",
        value_parser = OsStringValueParser::new().try_map(Place::try_from)
    )]
    merge: Vec<Place>,

    /// Say what would be done, and do nothing
    #[arg(long, conflicts_with_all = ["data", "prepare"])]
    dry_run: bool,

    /// With `--target aws`: start it, print its ARN, and do not wait for its end
    #[arg(long, conflicts_with_all = ["every", "dry_run"])]
    detach: bool,

    /// With `--target aws`: start it although one runs already
    #[arg(long, conflicts_with_all = ["every"])]
    force: bool,

    /// Show how a training goes that runs on AWS, and wait for its end
    #[arg(long, value_name = "ARN", conflicts_with_all = ["every", "dry_run", "detach", "force", "data", "prepare"])]
    follow: Option<Arn>,

    /// Stop a training that runs on AWS
    #[arg(long, value_name = "ARN", conflicts_with_all = ["every", "dry_run", "detach", "force", "data", "prepare", "follow"])]
    stop: Option<Arn>,

    #[command(flatten)]
    target: TargetArgs,
}

/// How often training begins anew by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Every {
    Off,
    Each(Duration),
}

fn parse_every(text: &str) -> Result<Every, String> {
    if text == "off" { Ok(Every::Off) } else { parse_period(text).map(Every::Each) }
}

/// When a model that was learnt is put in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Promote {
    Always,
    Better,
    Never,
}

impl Promote {
    /// Whether a model is put in force that is not worse than the one that is, or is.
    pub fn takes(self, is_better: bool) -> bool {
        self == Promote::Always || (self == Promote::Better && is_better)
    }
}

impl TrainArgs {
    /// What is learnt from, where it is `now_ms`.
    fn span(&self, now_ms: i64) -> Span {
        Span {
            since_ms: self.since.map_or(i64::MIN, |at| at.ms(now_ms)),
            until_ms: self.until.map_or(i64::MAX, |at| at.ms(now_ms)),
        }
    }
}

/// An alarm budget, false alarms per device and day.
pub fn parse_budget(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if (0.001..=100.0).contains(&rate) { Ok(rate) } else { Err("must be 0.001 to 100".to_owned()) }
}

/// Runs the command.
pub async fn run(args: TrainArgs, origins: &Origins) -> anyhow::Result<ExitCode> {
    if args.target.target == Target::Aws || args.follow.is_some() || args.stop.is_some() {
        return aws::run(&args, origins).await;
    }
    args.refuse_what_is_for_aws()?;
    let now = now_ms();
    let span = args.span(now);
    let options =
        TrainOptions { seed: args.seed, alarms_per_device_day: args.alarms_per_device_day, ..TrainOptions::default() };
    if let (Some(data), Some(out)) = (&args.data, &args.out) {
        super::check_file(data)?;
        let histories = histories_of_file(data, span, now)?;
        // A folder that can't be made is better noticed before the work is done.
        std::fs::create_dir_all(out).with_context(|| format!("making the folder `{}`", out.display()))?;
        let model = learn(Arc::new(histories), options).await?;
        let path = out.join(ARTIFACT);
        super::write_whole(&path, |file| Ok(file.write_all(&model.to_bytes())?))?;
        super::say(&path.display().to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let alone = args.prepare.is_none() && args.every.is_none() && !args.dry_run;
    if let Some(job) = alone.then(|| Job::here(std::env::var_os(container::VARIABLE))).flatten() {
        return job::run(job).await;
    }
    let store = args.lake.open().await?;
    if let Some(place) = &args.prepare {
        return prepare(&args, &store, place, now).await.map(|()| ExitCode::SUCCESS);
    }
    if args.dry_run {
        return tell_plan(&args, &store, span, options).await.map(|()| ExitCode::SUCCESS);
    }
    let Some(Every::Each(every)) = args.every else {
        return train_once(&args, &store, span, options).await.map(|()| ExitCode::SUCCESS);
    };
    let mut interrupted = super::on_interrupt();
    eprintln!("training every {}; Ctrl-C ends", words(every));
    let mut wait = due_in(&store, every).await?.unwrap_or(IDLE);
    loop {
        tokio::select! {
            _ = interrupted.wait_for(|stop| *stop) => return Ok(ExitCode::SUCCESS),
            () = tokio::time::sleep(wait) => {}
        }
        wait = match due_in(&store, every).await? {
            Some(Duration::ZERO) => {
                let trained = tokio::select! {
                    _ = interrupted.wait_for(|stop| *stop) => return Ok(ExitCode::SUCCESS),
                    trained = train_once(&args, &store, span, options.clone()) => trained,
                };
                // What went wrong once may go well the next time: a service goes on.
                trained.map_or_else(
                    |e| {
                        eprintln!("warning: {}; trying again in {}", super::in_words(&e), words(IDLE));
                        IDLE
                    },
                    |()| every,
                )
            }
            later => later.unwrap_or(IDLE),
        };
    }
}

impl TrainArgs {
    fn refuse_what_is_for_aws(&self) -> anyhow::Result<()> {
        let given = [("--detach", self.detach), ("--force", self.force)];
        if let Some((flag, _)) = given.iter().find(|(_, given)| *given) {
            return Err(Exit::usage(format!(
                "`{flag}` is for the trainings of a stack\nhint: add `--target aws`, or leave it out"
            )));
        }
        match self.every {
            Some(Every::Off) => Err(Exit::usage(
                "`--every off` switches off the schedule of a stack; on this machine nothing is scheduled: a `vitals train \
                 --every` ends with Ctrl-C, `vitals up --train-every never` does not train\nhint: add `--target aws`",
            )),
            Some(Every::Each(_)) if self.dry_run => {
                Err(Exit::usage("`--dry-run` does not go with `--every` on this machine\nhint: leave one of them out"))
            }
            _ => Ok(()),
        }
    }
}

/// How long a periodic training waits where there is nothing to learn from.
const IDLE: Duration = Duration::from_secs(60);

/// Learns from the lake, compares, and puts in force what is not worse.
async fn train_once(args: &TrainArgs, store: &Store, span: Span, options: TrainOptions) -> anyhow::Result<()> {
    let view = View::open(store).await?;
    let mut sampler = Sampler::default();
    train::sample_lake(store, &view, span, &mut sampler).await?;
    let histories = Arc::new(sampler.finish());
    let candidate = learn(histories.clone(), options).await?;
    let (model, is_better) = against_champion(store, &view, candidate, histories).await?;
    train::keep(store, &model).await?;
    if !args.promote.takes(is_better) {
        eprintln!("hint: `vitals models promote {}` puts it in force", model.id());
        return Ok(());
    }
    put_in_force(&args.lake, store, &model).await?;
    eprintln!("hint: `vitals query outliers` shows them");
    Ok(())
}

/// Writes the sample that training would learn from.
async fn prepare(args: &TrainArgs, store: &Store, place: &Place, now: i64) -> anyhow::Result<()> {
    let progress = Progress::spinner("prepare");
    let view = match args.state {
        Some(n) => View::at(store, n).await?,
        None => View::open(store).await?,
    };
    let state = view.state.n;
    // Shares of a state are prepared one after the other: `30d` is to mean the same moment to all of them.
    let span = args.span(args.state.map_or(now, |_| view.state.written_ms));
    let sampler = if args.merge.is_empty() {
        let mut sampler = Sampler::default();
        train::sample_share(store, &view, span, args.share.unwrap_or(Share::WHOLE), &mut sampler).await?;
        sampler
    } else {
        let mut parts = Vec::with_capacity(args.merge.len());
        for part in &args.merge {
            parts.push(prepared::open(part).await?);
        }
        prepared::together(&parts, span, state).await?
    };
    let (offered, limit) = (sampler.offered, sampler.limit());
    let histories = sampler.finish();
    // A share may have nothing that others have.
    if histories.is_empty() && args.share.is_none() && args.merge.is_empty() {
        return Err(TrainError::NoData.into());
    }
    let manifest = Manifest { limit, ..Manifest::of(&histories, span, state, now) };
    let writing = || format!("writing the sample to `{place}`");
    prepared::write(&Store::at(place).await.with_context(writing)?, &histories, &manifest)
        .await
        .with_context(writing)?;
    progress.done(&format!("{} of {offered} readings, of {} devices", manifest.readings, manifest.devices));
    super::say(&place.to_string())
}

/// Says what [`train_once`] would do. Where a deployment trains, its plan has its place here.
async fn tell_plan(args: &TrainArgs, store: &Store, span: Span, options: TrainOptions) -> anyhow::Result<()> {
    let plan = Plan::of(&View::open(store).await?, span, options);
    let then = match args.promote {
        Promote::Never => "nothing more: it is not put in force".to_owned(),
        Promote::Always => plan.in_force("whatever it finds"),
        Promote::Better => plan.in_force("unless it finds less"),
    };
    super::say(&format!("local     in this process, with the lake `{}` as of state {}", args.lake.lake, plan.state))?;
    super::say(&plan.to_string())?;
    super::say(&format!("then      {then}"))
}

/// Compares a new model with the one in force of this picture; gives it with what came of that, and whether it may take
/// over.
pub(super) async fn against_champion(
    store: &Store,
    view: &View,
    candidate: Model,
    histories: Arc<Vec<History>>,
) -> anyhow::Result<(Model, bool)> {
    // The seed that it was trained with says which devices were held back.
    let seed = candidate.card().seed;
    match load_model(store, view.state.model()).await {
        Ok(champion) => challenge(champion, candidate, histories, seed).await,
        // A model of an older program, or a damaged one, must not keep a lake from getting a new one.
        Err(e) => {
            eprintln!("warning: the new model is not compared with the one in force: {e:#}");
            Ok((candidate, true))
        }
    }
}

/// Compares the new model with the one in force, on events put into held-back devices; gives the model with the outcome in
/// its card, and whether it may take over. Where nothing can be said, it may: it knows these devices.
async fn challenge(
    champion: Arc<Model>,
    candidate: Model,
    histories: Arc<Vec<History>>,
    seed: u64,
) -> anyhow::Result<(Model, bool)> {
    let progress = Progress::spinner("compare");
    let comparison =
        tokio::task::spawn_blocking(move || train::challenge(&champion, candidate, &histories, seed)).await?;
    let (model, is_better) = comparison;
    if let Some(comparison) = &model.card().comparison {
        let figures = |figures: &Figures| {
            let figure = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"));
            format!("{} of events within 0.25 alarms, AUPRC {}", figure(figures.recall[1]), figure(figures.auprc))
        };
        progress.done(&format!(
            "{} finds {}; {}, in force, {}: {}",
            model.id(),
            figures(&comparison.candidate_figures),
            comparison.champion,
            figures(&comparison.champion_figures),
            if is_better { "not worse" } else { "worse" }
        ));
    }
    Ok((model, is_better))
}

/// Trains beside the other work, and tells what came of it.
async fn learn(histories: Arc<Vec<History>>, options: TrainOptions) -> anyhow::Result<Model> {
    let readings: usize = histories.iter().map(|history| history.readings.len()).sum();
    let devices = histories.len();
    let progress = Progress::spinner("train");
    let model = tokio::task::spawn_blocking(move || train(&histories, &options)).await??;
    progress.done(&format!("learnt from {readings} readings of {devices} devices"));
    for warning in &model.card().warnings {
        eprintln!("warning: {warning}");
    }
    Ok(model)
}

pub(super) fn histories_of_file(path: &std::path::Path, span: Span, now: i64) -> anyhow::Result<Vec<History>> {
    let mut sampler = Sampler::default();
    let mut rejected = 0_u64;
    let mut reader = file::FileReader::open(path, now)?;
    while let Some(row) = reader.next_row()? {
        match row.reading {
            Ok(reading) if (span.since_ms..span.until_ms).contains(&reading.ts_ms) => sampler.push(row.device, reading),
            Ok(_) => {}
            Err(_) => rejected += 1,
        }
    }
    if rejected > 0 {
        eprintln!("warning: {rejected} rows of `{}` can't be read and are left out", path.display());
    }
    Ok(sampler.finish())
}
