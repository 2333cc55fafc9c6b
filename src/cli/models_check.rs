//! `vitals models check`: whether readings still look like those that the model learnt from.

use std::{process::ExitCode, sync::Arc};

use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table, presets::NOTHING};
use serde::Serialize;

use super::{
    LakeArgs,
    models::missing,
    moment::{Moment, parse_moment},
    progress::Progress,
};
use crate::{
    lake::{Store, View, now_ms},
    model::{
        Model,
        drift::{Check, Profile, Shift},
        training::profile,
    },
    reading::time::format_rfc3339_ms,
    score::load_model,
    train::{self, Sampler, Span},
};

/// Compare recent readings with those that a model learnt from, and say when to train again
///
/// Examples:
///
///   # the model in force, with the readings of the last week
///   vitals models check
///
///   vitals models check m-0123456789ab --since 30d
///
///   # for a program: its `advice` is keep, watch, retrain or too_few
///   vitals models check --output json
///
/// Compared is how the score, the vitals, what is sent of them and how often it is sent are distributed, by the
/// population stability index of each: below 0.1 it is stable, from 0.1 on it has moved, from 0.25 on it has changed.
/// What chance gives is taken off; `unclear` is what chance may have done. The exit code is 0 whatever the advice is.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct CheckArgs {
    #[command(flatten)]
    lake: LakeArgs,

    /// The model; by default the one in force
    model: Option<String>,

    /// Compare the readings since then: 7d, 24h, 2026-01-31, 2026-01-31T05:00:00Z
    #[arg(long, value_name = "WHEN", default_value = "7d", value_parser = parse_moment)]
    since: Moment,

    /// How the result is written
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

/// How the result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people; the advice is the last line
    Table,
    /// One document
    Json,
}

/// Runs the command.
pub async fn run(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let store = args.lake.open().await?;
    let view = View::open(&store).await?;
    let id = args.model.unwrap_or_else(|| view.state.model().to_owned());
    let model = load_model(&store, &id).await.map_err(|e| missing(e, &id))?;
    let Some(reference) = model.card().profile.clone() else {
        eprintln!("{}", nothing_to_compare(&model));
        return Ok(ExitCode::SUCCESS);
    };
    let since_ms = args.since.ms(now_ms());
    let recent = recent_profile(&store, &view, &model, since_ms).await?;
    let check = Check::of(&reference, &recent);
    let text = match args.output {
        Output::Table => format!("{}\n\n{}", table(&check.shifts), check.sentence()),
        Output::Json => serde_json::to_string_pretty(&Answer::of(&model, since_ms, &check))?,
    };
    super::say(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Why a model has no profile of its training.
fn nothing_to_compare(model: &Model) -> String {
    let id = model.id();
    if model.card().builtin {
        format!("model `{id}` has learnt from no readings, so there are none to compare with: `vitals train` makes one")
    } else {
        format!("model `{id}` did not keep what its training looked like: `vitals train` makes one that does")
    }
}

/// The profile of a lake's readings since then, by the model that it is compared with.
async fn recent_profile(store: &Store, view: &View, model: &Arc<Model>, since_ms: i64) -> anyhow::Result<Profile> {
    let progress = Progress::spinner("check");
    let span = Span { since_ms, ..Span::ALL };
    let mut sampler = Sampler::default();
    train::sample_lake(store, view, span, &mut sampler).await?;
    let histories = sampler.finish();
    let readings: usize = histories.iter().map(|history| history.readings.len()).sum();
    let devices = histories.len();
    let model = Arc::clone(model);
    let recent = tokio::task::spawn_blocking(move || profile(&model, &histories)).await?;
    progress.done(&format!("{readings} readings of {devices} devices since {}", format_rfc3339_ms(since_ms)));
    Ok(recent)
}

/// One row for each count, the one that has moved farthest first.
fn table(shifts: &[Shift]) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(["WHAT", "PSI", "VERDICT", "IN TRAINING", "RECENT"]);
    for shift in shifts {
        table.add_row([
            shift.subject.to_string(),
            shift.psi.map_or_else(String::new, |psi| format!("{psi:.2}")),
            shift.verdict.to_string(),
            shift.reference.to_string(),
            shift.recent.to_string(),
        ]);
    }
    let numbers = [1, 3, 4];
    let columns = table.column_iter_mut().enumerate().filter(|(i, _)| numbers.contains(i));
    columns.for_each(|(_, column)| {
        column.set_cell_alignment(CellAlignment::Right);
    });
    table.trim_fmt()
}

/// The result as a document.
#[derive(Serialize)]
struct Answer<'a> {
    schema_version: u32,
    model: &'a str,
    since: String,
    #[serde(flatten)]
    check: &'a Check,
    sentence: String,
}

impl<'a> Answer<'a> {
    fn of(model: &'a Model, since_ms: i64, check: &'a Check) -> Answer<'a> {
        Answer {
            schema_version: 1,
            model: model.id(),
            since: format_rfc3339_ms(since_ms),
            check,
            sentence: check.sentence(),
        }
    }
}
