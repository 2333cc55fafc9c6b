//! `vitals restore`: days that were archived, back for a while.

use std::{collections::BTreeMap, process::ExitCode};

use clap::{Args, Subcommand};

use super::{
    Exit, LakeArgs,
    progress::Progress,
    target::{Target, TargetArgs},
};
use crate::{
    aws::{
        archive::{Archive, Archived, Standing, Tier},
        deployed::Deployed,
    },
    lake::{Day, Place, State, Table},
    reading::time::format_day,
};

/// Bring archived days back for a while, so that queries see them
///
/// Examples:
///
///   # January, for a week; within 12 hours
///   vitals restore --from 2026-01-01 --to 2026-01-31 --target aws
///
///   # how far it is
///   vitals restore status --target aws
///
/// Days that are asked for already are not asked for again, so a command that was interrupted is simply repeated. Days
/// that are here are kept for longer.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct RestoreArgs {
    #[command(subcommand)]
    command: Option<Restore>,
    /// The first day, such as 2026-01-31
    #[arg(long, value_name = "DAY", required = true, value_parser = parse_day)]
    from: Option<Day>,
    /// The last day
    #[arg(long, value_name = "DAY", required = true, value_parser = parse_day)]
    to: Option<Day>,
    /// For how many days they stay
    #[arg(long, value_name = "DAYS", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=365))]
    days: u32,
    /// How fast, which decides the price
    #[arg(long, value_enum, value_name = "TIER", default_value = "standard")]
    tier: Tier,
    /// Take Bulk for Deep Archive too, which may take two days
    #[arg(long)]
    allow_two_days: bool,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Debug, Subcommand)]
enum Restore {
    /// Which days are archived, on their way, or here and until when
    Status(PlaceArgs),
}

#[derive(Debug, Clone, Args)]
struct PlaceArgs {
    #[command(flatten)]
    lake: LakeArgs,
    #[command(flatten)]
    target: TargetArgs,
}

fn parse_day(text: &str) -> Result<Day, String> {
    Day::parse(text).ok_or_else(|| format!("`{text}` is no day: write 2026-01-31"))
}

/// Runs the command.
pub async fn run(args: RestoreArgs) -> anyhow::Result<ExitCode> {
    if let Some(Restore::Status(place)) = args.command {
        return status(place).await;
    }
    let (Some(from), Some(to)) = (args.from, args.to) else {
        return Err(Exit::usage("`--from` and `--to` name the days"));
    };
    let (archive, archived) = args.place.archived(from, to).await?;
    if archived.is_empty() {
        eprintln!("nothing from {from} to {to} is archived");
        return Ok(ExitCode::SUCCESS);
    }
    if args.tier == Tier::Bulk && !args.allow_two_days && archived.iter().any(|object| object.deep) {
        return Err(Exit::usage(
            "Bulk may take two days from Deep Archive\nhint: `--allow-two-days`, or `--tier standard`, which takes 12 hours at most",
        ));
    }
    let wanted: Vec<_> = archived.iter().filter(|object| object.standing != Standing::Coming).collect();
    let mut progress = Progress::spinner("restore");
    for (n, object) in (1..).zip(&wanted) {
        archive.restore(&object.key, args.days, args.tier).await?;
        progress.at(n, || format!("{n} of {} files", wanted.len()));
    }
    let bytes: u64 = archived.iter().map(|object| object.bytes).sum();
    let coming = archived.len() - wanted.len();
    let files = if wanted.len() == 1 { "1 file".to_owned() } else { format!("{} files", wanted.len()) };
    progress.done(&format!(
        "asked for {files}, {coming} were on their way; {} in all, here within {} hours for {} days",
        indicatif::HumanBytes(bytes),
        if args.tier == Tier::Bulk { 48 } else { 12 },
        args.days
    ));
    eprintln!("`vitals restore status` shows how far it is");
    Ok(ExitCode::SUCCESS)
}

async fn status(place: PlaceArgs) -> anyhow::Result<ExitCode> {
    let (_, archived) = place.archived(Day::of(i64::MIN), Day::of(i64::MAX)).await?;
    let mut days: BTreeMap<Day, Vec<Archived>> = BTreeMap::new();
    archived.into_iter().for_each(|object| days.entry(object.day).or_default().push(object));
    if days.is_empty() {
        eprintln!("nothing is archived");
    }
    for (day, objects) in days {
        super::say(&format!("{day}  {}", words(&objects)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// How a day stands: as the object of it that is furthest from being read.
fn words(objects: &[Archived]) -> String {
    let any = |standing| objects.iter().any(|object| object.standing == standing);
    if any(Standing::Archived) {
        return "archived".to_owned();
    }
    if any(Standing::Coming) {
        return "on its way: within 12 hours of being asked for (Bulk: 48)".to_owned();
    }
    let until = |object: &Archived| if let Standing::Here { until_ms } = object.standing { until_ms } else { 0 };
    format!("here until {}", format_day(objects.iter().map(until).min().unwrap_or(0)))
}

impl PlaceArgs {
    /// What is archived of some days.
    async fn archived(&self, from: Day, to: Day) -> anyhow::Result<(Archive, Vec<Archived>)> {
        let mut lake = self.lake.lake.clone();
        if self.target.target == Target::Aws {
            let named = Some(&lake).filter(|lake| matches!(lake, Place::S3 { .. }));
            lake = Deployed::of(&self.target.stack.stack, self.target.stack.region.as_deref(), named).await?.lake;
        }
        let Some(archive) = Archive::of(&lake).await? else {
            return Err(Exit::usage(format!(
                "`{lake}` is a folder, and nothing of it is archived\nhint: `--target aws`, or `--lake s3://BUCKET/PREFIX`"
            )));
        };
        let store = LakeArgs { lake }.open().await?;
        let state = State::load(&store).await?;
        let days = state.days.keys().copied().filter(|day| (from..=to).contains(day)).collect();
        let mut archived = Vec::new();
        for table in Table::ALL {
            archived.extend(archive.of_days(&state, table, &days).await?);
        }
        Ok((archive, archived))
    }
}
