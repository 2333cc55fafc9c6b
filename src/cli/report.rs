//! `vitals report`: what the lake says of devices, as one HTML page.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Args;

use super::{
    LakeArgs,
    archived::missing,
    moment::{Moment, parse_moment},
    progress::Progress,
    target::{Target, TargetArgs},
    tell,
};
use crate::{
    aws::deployed::Deployed,
    lake::{Place, State, Store, Table, now_ms},
    report::{Page, ReportOptions, collect},
};

/// Write one HTML page: which devices need a look and why, and their vitals
///
/// Examples:
///
///   vitals report
///
///   # a week, of one ward's lake, to a file of its own
///   vitals report --since 7d --lake ward7 --out ward7.html
///
///   # one device
///   vitals report --device bed_7
///
///   # of the deployed stack
///   vitals report --target aws
///
/// The page holds everything that it shows: it opens from the file alone and asks nobody for anything. The report is of
/// the 24 hours before the newest reading unless `--since` or `--until` say otherwise. `vitals up` serves the same page
/// with fresh data. Of a stack it reads the lake in S3 itself, without Athena: many small questions cost less that way.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct ReportArgs {
    #[command(flatten)]
    lake: LakeArgs,

    /// Where to write the page
    #[arg(long, value_name = "FILE", default_value = "vitals-report.html")]
    out: PathBuf,

    /// From when: 7d, 24h, 2026-01-31, 2026-01-31T05:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    since: Option<Moment>,

    /// Until when
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    until: Option<Moment>,

    /// This device only
    #[arg(long, value_name = "ID")]
    device: Option<String>,

    /// How many devices, the worst first, have their vitals in the page
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=500))]
    devices: u32,

    #[command(flatten)]
    target: TargetArgs,
}

/// How long before its end a report begins where nobody says.
const DAY_MS: i64 = 86_400_000;

impl ReportArgs {
    /// The lake that is meant: of a stack its own, unless another one in S3 is named.
    async fn lake(&self) -> anyhow::Result<LakeArgs> {
        if self.target.target == Target::Local {
            return Ok(self.lake.clone());
        }
        let named = Some(&self.lake.lake).filter(|lake| matches!(lake, Place::S3 { .. }));
        let stack = &self.target.stack;
        let Deployed { lake, .. } = Deployed::of(&stack.stack, stack.region.as_deref(), named).await?;
        Ok(LakeArgs { lake })
    }

    /// Leaves out of the report what is archived, and says so.
    async fn leave_out(&self, place: &Place, store: &Store, options: &mut ReportOptions) -> anyhow::Result<()> {
        if !matches!(place, Place::S3 { .. }) {
            return Ok(());
        }
        let state = State::load(store).await?;
        let newest = state.days.values().filter_map(|runs| Some(runs.readings.as_ref()?.max_ts)).max();
        let end = options.until_ms.unwrap_or(newest.unwrap_or(options.now_ms).min(options.now_ms) + 1);
        // Where the newest reading of one device is, only all its days tell.
        let begin = options.since_ms.unwrap_or(if self.device.is_some() { i64::MIN } else { end - DAY_MS });
        let range = (begin, options.until_ms.unwrap_or(i64::MAX));
        if let Some(missing) = missing(place, &state, Table::ALL.into_iter(), range).await? {
            tell(&format!("warning: {}", missing.warning()));
            options.warnings.push(missing.warning());
            options.left_out = missing.keys;
        }
        Ok(())
    }
}

/// Runs the command.
pub async fn run(args: ReportArgs) -> anyhow::Result<ExitCode> {
    let lake = args.lake().await?;
    let store = lake.open().await?;
    let now_ms = now_ms();
    let mut options = ReportOptions {
        since_ms: args.since.map(|at| at.ms(now_ms)),
        until_ms: args.until.map(|at| at.ms(now_ms)),
        device: args.device.clone(),
        series_devices: args.devices as usize,
        lake_name: lake.lake.to_string(),
        now_ms,
        ..ReportOptions::default()
    };
    args.leave_out(&lake.lake, &store, &mut options).await?;
    let progress = Progress::spinner("report");
    let data = collect(&store, &options).await?;
    if let Some(device) = args.device.filter(|_| data.devices.is_empty()) {
        return Err(super::Exit::not_found(format!(
            "`{device}` has sent nothing in that time\nhint: `vitals query devices` lists devices; `--since` goes back further"
        )));
    }
    let page = Page::file(&data)?;
    super::write_whole(&args.out, |file| file.write_all(page.as_bytes()).context("writing the page"))?;
    progress.done(&format!(
        "{} devices, {} of them with something to look at",
        data.freshness.devices,
        data.devices.iter().filter(|device| device.episodes + device.artifacts > 0).count()
    ));
    super::say(&args.out.display().to_string())?;
    Ok(ExitCode::SUCCESS)
}
