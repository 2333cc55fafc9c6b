//! `vitals score`: verdicts for what is stored, or for a file.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;

use super::{LakeArgs, progress::Progress, train::ARTIFACT};
use crate::{
    lake::{View, now_ms},
    model::{Model, Verdict},
    reading::{Reading, Vital, file, time, valid_device_id},
    score::{ScoreOptions, Scored, load_model, score_lake, scorer::Scorer},
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
    let store = args.lake.open()?;
    let view = View::open(&store).await?;
    if view.is_empty() {
        eprintln!("the lake is empty: `vitals import FILE` or `vitals up` fill it");
        return Ok(ExitCode::SUCCESS);
    }
    let model = load_model(&store, view.state.model()).await?;
    let mut progress = Progress::spinner("score");
    let scored = score_lake(&store, &model, ScoreOptions { again: args.again }, |done| {
        progress.at(done.readings, || format!("{} readings", done.readings));
    })
    .await?;
    progress.done(&report(&scored));
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
