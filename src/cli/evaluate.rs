//! `vitals evaluate`: how good the model is, on devices that it has not learnt from.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, ValueEnum};

use super::progress::Progress;
use crate::{
    evaluate::{DEFAULT_RESAMPLES, EvaluateOptions, evaluate},
    lake::now_ms,
    model::training::TrainOptions,
    train::Span,
};

/// Measure how well the model finds events, beside plain methods
///
/// Examples:
///
///   vitals evaluate --data readings.csv
///
///   # other devices to test on, other events; without intervals it is quicker
///   vitals evaluate --data readings.csv --seed 2 --resamples 0
///
///   # for a program
///   vitals evaluate --data readings.csv --output json
///
/// Two thirds of the devices are learnt from. Into the histories of every second other device an event is put: twenty
/// kinds, in two sets. The model is measured on them beside an isolation forest, NEWS2 and personal EWMA-z: how well
/// scores tell events from the rest, how many events are found within an alarm budget, how soon, and whether the vital is
/// named. Events are made, not observed: the figures compare methods, they are no promise of care.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct EvaluateArgs {
    /// Readings of many devices: a file (CSV, NDJSON or Parquet, .gz too)
    #[arg(long, value_name = "FILE")]
    data: PathBuf,

    /// Draws test devices and events; the same data and seed give the same result
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Resamples of devices behind each 95 % interval; 0 for no intervals
    #[arg(long, value_name = "N", default_value_t = DEFAULT_RESAMPLES, value_parser = parse_resamples)]
    resamples: usize,

    /// How the result is written
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value = "text")]
    output: Output,
}

/// How the result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Tables for people
    Text,
    /// One document
    Json,
}

fn parse_resamples(text: &str) -> Result<usize, String> {
    let resamples: usize = text.parse().map_err(|_| format!("`{text}` is not a whole number"))?;
    if resamples <= 10_000 { Ok(resamples) } else { Err("must be 0 to 10000".to_owned()) }
}

/// Runs the command.
pub async fn run(args: EvaluateArgs) -> anyhow::Result<ExitCode> {
    super::check_file(&args.data)?;
    let histories = super::train::histories_of_file(&args.data, Span::ALL, now_ms())?;
    let readings: usize = histories.iter().map(|history| history.readings.len()).sum();
    let devices = histories.len();
    let train = TrainOptions { seed: args.seed, ..TrainOptions::default() };
    let options = EvaluateOptions { seed: args.seed, resamples: args.resamples, train, ..EvaluateOptions::default() };
    let progress = Progress::spinner("evaluate");
    let report = tokio::task::spawn_blocking(move || evaluate(&histories, &options)).await??;
    progress.done(&format!("{readings} readings of {devices} devices"));
    let text = match args.output {
        Output::Text => report.to_string(),
        Output::Json => serde_json::to_string_pretty(&report)?,
    };
    super::say(&text)?;
    Ok(ExitCode::SUCCESS)
}
