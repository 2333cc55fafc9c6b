//! `vitals models adopt`: a model that was trained elsewhere.

use std::{path::Path, process::ExitCode, sync::Arc};

use anyhow::Context;
use bytes::Bytes;
use clap::{
    Args, ValueEnum,
    builder::{OsStringValueParser, TypedValueParser},
};
use serde::Serialize;

use super::{
    Exit, LakeArgs,
    force::put_in_force,
    train::{Promote, against_champion},
};
use crate::{
    lake::{Place, Store, View},
    model::{Comparison, Model},
    train::{
        self, Span,
        packed::{self, NAMES},
        prepared,
    },
};

/// Take over a model that was trained elsewhere, as training here would have
///
/// Examples:
///
///   # what `vitals train --prepare sample/` has written was learnt from in a container
///   vitals models adopt model/ --sample sample/
///
///   # what a training job of SageMaker left; the outcome is for a state machine
///   vitals models adopt s3://ward/jobs/1/output/model.tar.gz --sample s3://ward/training/1 --output json
///
/// The model and the one in force are compared on events that are put into devices of the sample, those that were held
/// back from learning. The lake keeps the model, and unless it finds less, it is put in force with the verdicts it gives on
/// everything stored. All of it is as if `vitals train` had trained it here.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct AdoptArgs {
    #[command(flatten)]
    lake: LakeArgs,

    /// The model: model.bin or model.tar.gz, or a folder or s3://BUCKET/PREFIX with one of them
    #[arg(value_parser = OsStringValueParser::new().try_map(Place::try_from))]
    model: Place,

    /// What it has learnt from: a folder or s3://BUCKET/PREFIX that `vitals train --prepare` has written
    #[arg(long, value_name = "PLACE", value_parser = OsStringValueParser::new().try_map(Place::try_from))]
    sample: Place,

    /// When to put the model in force; better: unless it finds less than the one in force
    #[arg(long, value_enum, default_value_t = Promote::Better)]
    promote: Promote,

    /// How the outcome is written
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value = "text")]
    output: Output,

    /// Write the outcome as JSON to this file or s3://BUCKET/KEY as well
    #[arg(long, value_name = "FILE", value_parser = OsStringValueParser::new().try_map(Place::try_from))]
    outcome: Option<Place>,
}

/// How the outcome is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// One line, for programs
    Json,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Outcome<'a> {
    schema_version: u32,
    /// The model's name in the lake.
    model: &'a str,
    /// Whether it finds no less than the one that was in force; also where nothing could be said.
    not_worse: bool,
    /// Whether it is in force now.
    in_force: bool,
    /// `None` where the model in force could not be read.
    comparison: Option<&'a Comparison>,
}

/// Runs the command.
pub async fn run(args: AdoptArgs) -> anyhow::Result<ExitCode> {
    let lake = args.lake.open().await?;
    let missing = || {
        let names = NAMES.map(|name| format!("`{name}`")).join(", ");
        Exit::not_found(format!("there is no model in `{}`, neither itself nor {names} below it", args.model))
    };
    let candidate = packed::fetch(&args.model).await?.ok_or_else(missing)?;
    let reading = || format!("reading the sample in `{}`", args.sample);
    let sample = prepared::open(&args.sample).await.with_context(reading)?;
    let histories = Arc::new(prepared::histories(&sample, Span::ALL).await.with_context(reading)?);

    let view = View::open(&lake).await?;
    let (model, not_worse) = against_champion(&lake, &view, candidate, histories).await?;
    train::keep(&lake, &model).await?;
    let in_force = args.promote.takes(not_worse);
    if in_force {
        put_in_force(&args.lake, &lake, &model).await?;
    } else {
        eprintln!("hint: `vitals models promote {}` puts it in force", model.id());
    }
    tell(&args, &model, not_worse, in_force).await?;
    Ok(ExitCode::SUCCESS)
}

async fn tell(args: &AdoptArgs, model: &Model, not_worse: bool, in_force: bool) -> anyhow::Result<()> {
    let comparison = model.card().comparison.as_ref();
    let outcome = Outcome { schema_version: 1, model: model.id(), not_worse, in_force, comparison };
    let line = serde_json::to_string(&outcome)?;
    if let Some(place) = &args.outcome {
        write(place, &line).await.with_context(|| format!("writing the outcome to `{place}`"))?;
    }
    super::say(&match (args.output, in_force) {
        (Output::Json, _) => line,
        (Output::Text, true) => format!("{} is kept, and in force", model.id()),
        (Output::Text, false) => format!("{} is kept, and not in force", model.id()),
    })
}

async fn write(place: &Place, line: &str) -> anyhow::Result<()> {
    match place {
        Place::Folder(file) => super::write_whole(Path::new(file), |out| Ok(writeln!(out, "{line}")?)),
        Place::S3 { bucket, prefix } => {
            let store = Store::s3(bucket, &object_store::path::Path::default()).await?;
            Ok(store.replace(prefix, Bytes::from(format!("{line}\n"))).await?)
        }
    }
}
