//! `vitals verify`: whether what was sent is in the lake, and the lake whole.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, ValueEnum};

use super::{LakeArgs, duration::parse_duration, progress::Progress};
use crate::verify::{self, Options};

/// Compare what was sent with what is in the lake
///
/// Examples:
///
///   # what simulated devices sent, against what arrived
///   vitals simulate --devices 100 --duration 60 --sent sent.ndjson
///   vitals verify --sent sent.ndjson
///
///   # for a program: `kept` is false where a promise was broken
///   vitals verify --sent sent.ndjson --output json
///
///   # the lake by itself: whether the chains of landing files have holes or overlaps
///   vitals verify
///
/// The file is NDJSON, CSV (both also .gz) or Parquet: device_id, timestamp, the vitals and seq, and of how a reading's
/// packet went published_ms, acknowledged_ms (null: never) and sends. Without these three a row counts as acknowledged
/// and sent once. The lake must have taken everything in: end `vitals up`, or wait for its window.
///
/// Broken promises: acknowledged and not there, stored more often than sent, stored with other vitals, log records in two
/// landing files or in none. The exit code is then 1.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct VerifyArgs {
    #[command(flatten)]
    lake: LakeArgs,

    /// The file of what was sent; without it only the lake's own files are checked
    #[arg(long, value_name = "FILE")]
    sent: Option<PathBuf>,

    /// Count readings as late that arrived so long after they were published: 90s, 5m, 1h
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
    late: Duration,

    /// How the result is written
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value = "text")]
    output: Output,
}

/// How the result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people; the verdict is the last line
    Text,
    /// One document
    Json,
}

/// Runs the command.
pub async fn run(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    if let Some(sent) = &args.sent {
        super::check_file(sent)?;
    }
    let store = args.lake.open().await?;
    let late_ms = i64::try_from(args.late.as_millis()).unwrap_or(i64::MAX);
    let options = Options { sent: args.sent, late_ms, ..Options::default() };
    let mut progress = Progress::spinner("verify");
    let report = verify::verify(&store, &options, |rows| progress.at(rows, || format!("{rows} rows"))).await?;
    progress.done(&match &report.readings {
        Some(readings) => format!("{} readings sent, {} stored", readings.sent.readings, readings.stored),
        None => format!("{} landing files", report.chains.files),
    });
    report.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    let text = match args.output {
        Output::Text => report.text(),
        Output::Json => serde_json::to_string_pretty(&report)?,
    };
    super::say(&text)?;
    Ok(if report.kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
