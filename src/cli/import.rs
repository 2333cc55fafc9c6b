//! `vitals import`: readings from files.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::{LakeArgs, progress::Progress};
use crate::lake::{
    compact::{CompactOptions, compact},
    import::{ImportSummary, import},
    now_ms,
};

/// Put readings from files into the lake
///
/// Examples:
///
///   vitals import readings.csv
///   vitals import january.csv.gz february.parquet events.ndjson --lake ward7
///
/// Columns, in any order: device_id and timestamp, and of heart_rate, systolic, diastolic (or blood_pressure as
/// "118/76"), temperature (°C), spo2, respiratory_rate and seq those that there are. Others are named and ignored.
/// Readings go into the days when they happened. What can't be read becomes a dead letter with its reason. The same file
/// again adds nothing.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct ImportArgs {
    #[command(flatten)]
    lake: LakeArgs,

    /// CSV, NDJSON or Parquet files; CSV and NDJSON may be compressed (.gz)
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Runs the command.
pub async fn run(args: ImportArgs) -> anyhow::Result<ExitCode> {
    // A file that is not there is better noticed before the first one is stored.
    args.files.iter().try_for_each(|path| super::check_file(path))?;
    let store = args.lake.create().await?;
    let now = now_ms();
    // Days that are over are closed first, so that what arrived in them stays in them.
    compact(&store, CompactOptions { now_ms: now, running_day: false }, |_| ()).await?;
    let mut anything = false;
    for path in &args.files {
        let bytes = std::fs::metadata(path)?.len();
        let mut progress = Progress::bar("import", bytes);
        let summary = import(&store, path, now, |read| {
            let percent = 100.0 * read as f64 / bytes.max(1) as f64;
            progress.at(read, || format!("{}, {percent:.0} %", path.display()));
        })
        .await?;
        progress.done(&format!("{}: {}", path.display(), describe(&summary)));
        tell_more(&summary);
        anything |= summary.known || summary.readings > 0;
    }
    if anything {
        eprintln!("hint: `vitals train` learns what is normal and scores them");
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(summary: &ImportSummary) -> String {
    if summary.known {
        return "the lake has this file already, nothing added".to_owned();
    }
    let days = summary.days.len();
    let readings = match summary.readings {
        1 => "1 reading".to_owned(),
        many => format!("{many} readings"),
    };
    match (summary.days.first(), summary.days.last()) {
        (Some(first), Some(last)) if days > 1 => format!("{readings} of {days} days, {first} to {last}"),
        (Some(day), _) => format!("{readings} of {day}"),
        _ => readings,
    }
}

fn tell_more(summary: &ImportSummary) {
    if summary.known_readings > 0 {
        eprintln!("{:>10} {} readings that the lake had already", "left out", summary.known_readings);
    }
    let rejected: u64 = summary.dead.values().sum();
    if rejected > 0 {
        let reasons: Vec<String> = summary.dead.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        eprintln!("{:>10} {rejected} of {} rows: {}", "rejected", summary.rows, reasons.join(", "));
        eprintln!("hint: `vitals query sql 'SELECT * FROM dead_letters'` shows them");
    }
    if !summary.ignored_columns.is_empty() {
        eprintln!("{:>10} columns {}", "ignored", summary.ignored_columns.join(", "));
    }
}
