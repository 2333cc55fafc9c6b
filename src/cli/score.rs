//! `vitals score`: verdicts for what is stored, or for a file.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::Args;

use super::{LakeArgs, force::telling, models::missing, progress::Progress, train::ARTIFACT};
use crate::{
    lake::{State, Store, View, layout::valid_chain, now_ms},
    model::{Model, Verdict},
    reading::{Reading, Vital, file, time, valid_device_id},
    score::{
        ScoreOptions, Scored,
        follow::{Follower, Share},
        load_model,
        lock::{LockError, ScorerLock},
        score_lake,
        scorer::Scorer,
        shards,
    },
};

/// Score the lake with the model in force, or a file with a model of a folder
///
/// Examples:
///
///   vitals score
///
///   # every stored day again
///   vitals score --again
///
///   # go on with what lands, until Ctrl-C (`vitals up` does it by itself)
///   vitals score --follow
///
///   # by several processes, each a share of the devices; the last command puts what they found in force
///   vitals score --shard 1/2 --job again
///   vitals score --shard 2/2 --job again
///   vitals models promote builtin --job again
///
///   # without a lake: a row of scores for each row of a file, in its order
///   vitals score --data readings.csv --model model/ --out scores.csv
///
/// A reading is scored against what its device sent before it. Days that the model has scored are not scored again.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct ScoreArgs {
    #[command(flatten)]
    lake: LakeArgs,

    /// Also score the days again that this model has scored
    #[arg(long, conflicts_with = "data")]
    again: bool,

    /// Go on with what lands, until Ctrl-C
    #[arg(long, conflicts_with_all = ["data", "again"])]
    follow: bool,

    /// Follow only a share of the partitions, where several processes do: 1/3, 2/3, 3/3; with --follow
    #[arg(long, value_name = "I/N", requires = "follow", value_parser = share)]
    share: Option<Share>,

    /// Score closed days for a share of the devices, and put nothing in force: 1/3, 2/3, 3/3; with --job
    #[arg(long, value_name = "I/N", requires = "job", conflicts_with_all = ["data", "follow", "again"], value_parser = share)]
    shard: Option<Share>,

    /// A name for the shares that belong together, new for every time; with --shard
    #[arg(long, value_name = "NAME", requires = "shard", value_parser = parse_job)]
    job: Option<String>,

    /// The model of the lake to score with [default: the one in force]; with --shard
    #[arg(long, value_name = "MODEL", requires = "shard")]
    candidate: Option<String>,

    /// Score a file (CSV, NDJSON or Parquet, .gz too) instead of a lake
    #[arg(long, value_name = "FILE", requires = "out")]
    data: Option<PathBuf>,

    /// The folder of a model that `vitals train --out` made [default: the built-in model]; with --data
    #[arg(long, value_name = "DIR", requires = "data")]
    model: Option<PathBuf>,

    /// Where to write the scores, as CSV; with --data
    #[arg(long, value_name = "FILE", requires = "data")]
    out: Option<PathBuf>,
}

/// Runs the command.
pub async fn run(args: ScoreArgs) -> anyhow::Result<ExitCode> {
    if let (Some(data), Some(out)) = (&args.data, &args.out) {
        super::check_file(data)?;
        let model = match &args.model {
            Some(folder) => model_of_folder(folder)?,
            None => Model::builtin(),
        };
        score_file(data, &model, out)?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.follow {
        return follow(&args.lake, args.share.unwrap_or(Share::WHOLE)).await;
    }
    let store = args.lake.open().await?;
    if let (Some(shard), Some(job)) = (args.shard, &args.job) {
        return score_shard(&store, args.candidate, job, shard).await.map(|()| ExitCode::SUCCESS);
    }
    let view = View::open(&store).await?;
    if view.is_empty() {
        eprintln!("the lake is empty: `vitals import FILE` or `vitals up` fill it");
        return Ok(ExitCode::SUCCESS);
    }
    let _lock = match ScorerLock::take(&args.lake.lake, Share::WHOLE) {
        Ok(lock) => lock,
        Err(LockError::Held { process, .. }) if !args.again => {
            eprintln!("process {process} follows this lake: what lands gets its verdicts from that");
            return Ok(ExitCode::SUCCESS);
        }
        Err(e) => return Err(anyhow::Error::new(e).context("scoring every day again; stop that process first")),
    };
    let model = load_model(&store, view.state.model()).await?;
    let mut progress = Progress::spinner("score");
    let options = ScoreOptions { again: args.again };
    let scored = score_lake(&store, &model, options, telling(&mut progress)).await?;
    progress.done(&report(&scored));
    Ok(ExitCode::SUCCESS)
}

/// Scores a share of the devices in the closed days.
async fn score_shard(store: &Store, candidate: Option<String>, job: &str, shard: Share) -> anyhow::Result<()> {
    let id = match candidate {
        Some(id) => id,
        None => State::load(store).await?.model().to_owned(),
    };
    let model = load_model(store, &id).await.map_err(|e| missing(e, &id))?;
    let mut progress = Progress::spinner("score");
    let scored = shards::score_share(store, &model, job, shard, telling(&mut progress)).await?;
    progress.done(&report(&scored));
    Ok(())
}

/// A job's name.
pub fn parse_job(text: &str) -> Result<String, String> {
    if valid_chain(text) {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 200 of letters, digits, `.`, `_`, `-`".into())
    }
}

/// `1/3`: the first of three.
pub(super) fn share(text: &str) -> Result<Share, String> {
    let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse::<u32>().ok()?, n.parse::<u32>().ok()?)));
    match parts {
        Some((index, of)) if index >= 1 && index <= of => Ok(Share { index: index - 1, of }),
        _ => Err(format!("`{text}` is no share: write 1/3, 2/3 or 3/3")),
    }
}

/// How often a follower looks at the lake, and how long it rests after a failure.
const LOOK: Duration = Duration::from_secs(2);
const AFTER_FAILURE: Duration = Duration::from_secs(30);

/// Scores what lands until Ctrl-C; then keeps devices' states, so that the next start goes on from there.
async fn follow(lake: &LakeArgs, share: Share) -> anyhow::Result<ExitCode> {
    let store = lake.open().await?;
    let _lock = ScorerLock::take(&lake.lake, share)?;
    let mut interrupted = super::on_interrupt();
    eprintln!("following the lake in {}; Ctrl-C ends", lake.lake);
    let mut follower = Follower::new(store, share);
    let (mut readings, mut outliers) = (0, 0);
    let mut progress = Progress::spinner("score");
    while !*interrupted.borrow() {
        let rest = match follower.look().await {
            Ok(look) => {
                readings += look.scored.readings;
                outliers += look.scored.outliers;
                if let Some(model) = look.promoted {
                    eprintln!("{:>10} {model} is in force", "model");
                }
                progress.at(readings, || format!("{readings} readings, {outliers} outliers or artifacts"));
                if look.again { Duration::ZERO } else { LOOK }
            }
            Err(e) => {
                eprintln!("warning: {}; trying again in {} s", super::in_words(&e), AFTER_FAILURE.as_secs());
                AFTER_FAILURE
            }
        };
        tokio::select! {
            _ = interrupted.wait_for(|stop| *stop) => {}
            () = tokio::time::sleep(rest) => {}
        }
    }
    follower.checkpoint(true).await?;
    progress.done(&format!("{readings} readings, {outliers} of them outliers or artifacts"));
    Ok(ExitCode::SUCCESS)
}

/// What scoring did, in words.
pub fn report(scored: &Scored) -> String {
    if scored.readings == 0 {
        return format!("everything is scored with {} already", scored.model);
    }
    format!(
        "{} readings scored with {}, {} of them outliers or artifacts",
        scored.readings, scored.model, scored.outliers
    )
}

fn model_of_folder(folder: &Path) -> anyhow::Result<Model> {
    let path = folder.join(ARTIFACT);
    let bytes = std::fs::read(&path).with_context(|| {
        format!(
            "reading the model `{}`; `vitals train --data FILE --out {}` makes one",
            path.display(),
            folder.display()
        )
    })?;
    Model::from_bytes(&bytes).with_context(|| format!("reading the model `{}`", path.display()))
}

/// Scores a file, each device in the order of its rows; writes one row per input row.
fn score_file(data: &Path, model: &Model, out: &Path) -> anyhow::Result<()> {
    let mut progress = Progress::spinner("score");
    let mut reader = file::FileReader::open(data, now_ms())?;
    let mut scorer = Scorer::new(model);
    let (mut rows, mut outliers, mut unread) = (0_u64, 0_u64, 0_u64);
    super::write_whole(out, |writer| {
        writeln!(writer, "{}", header())?;
        while let Some(row) = reader.next_row()? {
            // A row that can't be read keeps its place, without a verdict.
            let judged = row.reading.ok().map(|reading| (reading, scorer.judge(row.device, &reading)));
            rows += 1;
            unread += u64::from(judged.is_none());
            outliers += u64::from(judged.as_ref().is_some_and(|(_, verdict)| verdict.outlier));
            write_row(writer, row.device, judged.as_ref())?;
            progress.at(rows, || format!("{rows} rows"));
        }
        Ok(())
    })?;
    progress.done(&format!("{} rows scored with {}, {outliers} outliers", rows - unread, model.id()));
    if unread > 0 {
        eprintln!("warning: {unread} of {rows} rows can't be read and have no score");
    }
    Ok(())
}

/// The columns of a file of scores.
fn header() -> String {
    let contributions: Vec<String> = Vital::ALL.into_iter().map(|vital| format!("c_{}", vital.column())).collect();
    format!("device_id,timestamp,score,outlier,artifact,cause,{},risk,news2", contributions.join(","))
}

/// One row of scores. Device ids and causes have no character that CSV would have to quote; a device of a row that
/// can't be read may, and is left out.
fn write_row(writer: &mut dyn Write, device: &str, judged: Option<&(Reading, Verdict)>) -> std::io::Result<()> {
    let Some((reading, verdict)) = judged else {
        let device = if valid_device_id(device) { device } else { "" };
        return writeln!(writer, "{device},,,,,,,,,,,,,");
    };
    let timestamp = time::format_rfc3339_ms(reading.ts_ms);
    let (outlier, artifact) = (u8::from(verdict.outlier), u8::from(verdict.artifact));
    write!(writer, "{device},{timestamp},{},{outlier},{artifact},{}", verdict.score, verdict.cause.code())?;
    verdict.contributions.iter().try_for_each(|c| write!(writer, ",{c}"))?;
    let news2 = verdict.news2.map_or_else(String::new, |points| points.to_string());
    writeln!(writer, ",{},{news2}", verdict.risk)
}
