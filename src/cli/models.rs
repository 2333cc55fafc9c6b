//! `vitals models`: the models of a lake.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use comfy_table::{CellAlignment, Table, presets::NOTHING};

use super::{
    Exit, LakeArgs,
    force::{put_in_force, put_shares_in_force},
    score::parse_job,
};
use crate::{lake::View, model::Card, score::load_model, train};

/// List, show, check, adopt and promote the models of a lake
///
/// Examples:
///
///   vitals models list
///   vitals models show
///   vitals models check
///   vitals models adopt model/ --sample sample/
///   vitals models promote m-0123456789ab
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct ModelsArgs {
    #[command(subcommand)]
    command: ModelsCommand,
}

#[derive(Debug, Subcommand)]
enum ModelsCommand {
    /// Every model of the lake, the one in force marked
    ///
    /// Examples:
    ///
    ///   vitals models list
    ///   vitals models list --lake ward7
    #[command(verbatim_doc_comment)]
    List {
        #[command(flatten)]
        lake: LakeArgs,
    },
    /// A model's card, as JSON
    ///
    /// Examples:
    ///
    ///   # the one in force
    ///   vitals models show
    ///
    ///   vitals models show builtin
    #[command(verbatim_doc_comment)]
    Show {
        #[command(flatten)]
        lake: LakeArgs,
        /// The model; by default the one in force
        model: Option<String>,
    },
    Check(super::models_check::CheckArgs),
    Adopt(super::models_adopt::AdoptArgs),
    /// Score the lake with another model and put both in force
    ///
    /// Examples:
    ///
    ///   vitals models promote m-0123456789ab
    ///
    ///   # back to the one that needs no training
    ///   vitals models promote builtin
    #[command(verbatim_doc_comment)]
    Promote {
        #[command(flatten)]
        lake: LakeArgs,
        /// The model; `builtin` is the one that needs no training
        model: String,
        /// With what `vitals score --shard` has found in the shares of this job
        #[arg(long, value_name = "NAME", value_parser = parse_job)]
        job: Option<String>,
    },
}

/// Runs the command.
pub async fn run(args: ModelsArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        ModelsCommand::List { lake } => list(lake).await,
        ModelsCommand::Show { lake, model } => show(lake, model).await,
        ModelsCommand::Check(args) => super::models_check::run(args).await,
        ModelsCommand::Adopt(args) => super::models_adopt::run(args).await,
        ModelsCommand::Promote { lake, model, job } => promote(lake, model, job).await,
    }
}

async fn list(lake: LakeArgs) -> anyhow::Result<ExitCode> {
    let store = lake.open().await?;
    let view = View::open(&store).await?;
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header([
        "MODEL",
        "IN FORCE",
        "KEPT ON",
        "DEVICES",
        "READINGS",
        "THRESHOLD",
        "ALARMS PER DEVICE-DAY",
    ]);
    for kept in train::kept(&store, &view).await? {
        let kept_on = kept.trained_on.map_or_else(String::new, |day| day.to_string());
        let in_force = if kept.in_force { "yes" } else { "" };
        let row = match &kept.model {
            Ok(model) => {
                let card = model.card();
                let trained = &card.trained_on;
                let threshold = format!("{:.2}", card.threshold);
                let (devices, readings) = (trained.devices.to_string(), trained.readings.to_string());
                [
                    kept.id,
                    in_force.into(),
                    kept_on,
                    devices,
                    readings,
                    threshold,
                    card.alarms_per_device_day.to_string(),
                ]
            }
            Err(why) => {
                eprintln!("warning: model `{}`: {why}", kept.id);
                [kept.id, in_force.into(), kept_on, "?".into(), "?".into(), "?".into(), "?".into()]
            }
        };
        table.add_row(row);
    }
    table.column_iter_mut().skip(3).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    super::say(&table.trim_fmt())?;
    Ok(ExitCode::SUCCESS)
}

async fn show(lake: LakeArgs, model: Option<String>) -> anyhow::Result<ExitCode> {
    let store = lake.open().await?;
    let id = match model {
        Some(id) => id,
        None => View::open(&store).await?.state.model().to_owned(),
    };
    let model = load_model(&store, &id).await.map_err(|e| missing(e, &id))?;
    super::say(&card(model.card())?)?;
    Ok(ExitCode::SUCCESS)
}

/// A card, for people.
pub(super) fn card(card: &Card) -> anyhow::Result<String> {
    // The profile is for `models check`: counts that tell a reader nothing.
    Ok(serde_json::to_string_pretty(&Card { profile: None, ..card.clone() })?)
}

async fn promote(lake: LakeArgs, id: String, job: Option<String>) -> anyhow::Result<ExitCode> {
    let store = lake.open().await?;
    let model = load_model(&store, &id).await.map_err(|e| missing(e, &id))?;
    match job {
        Some(job) => put_shares_in_force(&lake, &store, &model, &job).await?,
        None => put_in_force(&lake, &store, &model).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A model that is not there is "not found", not a failure.
pub(super) fn missing(error: anyhow::Error, id: &str) -> anyhow::Error {
    let not_found = error.chain().any(|cause| {
        cause.downcast_ref::<crate::lake::StoreError>().is_some_and(crate::lake::StoreError::is_not_found)
    });
    if not_found {
        return Exit::not_found(format!("the lake has no model `{id}`\nhint: `vitals models list` shows those it has"));
    }
    error
}
