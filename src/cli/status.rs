//! `vitals status`: how the stack in AWS stands.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{
    Form,
    deploy::watch::{Watched, watch},
    in_words, on_interrupt, say,
    stack::StackArgs,
    tell,
    why::no_stack,
};
use crate::{
    aws::stack::{
        Standing,
        health::{self, Line, State},
    },
    lake::{Store, layout},
    reading::time::format_rfc3339_ms,
};

/// Say how the stack in AWS stands: brokers, rule, workers, training, alarms
///
/// Examples:
///
///   vitals status
///   vitals status --output json
///
///   # while something is being done to it: until that is done
///   vitals status --follow
///
/// Ends with 1 where something needs a person.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct StatusArgs {
    #[command(flatten)]
    stack: StackArgs,

    /// Where something is being done to the stack, show it until it is done
    #[arg(long)]
    follow: bool,

    /// How it is written
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value = "text")]
    output: Form,
}

#[derive(Serialize)]
struct Answer<'a> {
    schema_version: u32,
    stack: &'a str,
    region: &'a str,
    status: &'a str,
    parts: &'a [Line],
}

/// Runs the command.
pub async fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let mut interrupt = on_interrupt();
    let (access, stack) = args.stack.open().await?;
    let mut held = stack.describe().await?.ok_or_else(|| no_stack(&args.stack))?;
    if args.follow && held.standing() == Standing::Busy {
        match watch(&stack, &held.id, None, &args.stack.command("deploy"), &mut interrupt).await? {
            Watched::Done(ended) => held = *ended,
            Watched::Left => return Ok(ExitCode::from(130)),
        }
    }
    let mut lines = health::look(&access, &held).await;
    if let Some(lake) = held.output("LakeUri") {
        lines.push(newest_file(lake).await.unwrap_or_else(|e| Line::new("lake", State::Unknown, in_words(&e))));
    }
    let status = held.status.as_str();
    match args.output {
        Form::Text => {
            let changed =
                held.changed.map_or_else(String::new, |at| format!(" since {}", at.format("%Y-%m-%d %H:%M UTC")));
            say(&format!("  {:<12}{} in {}: {status}{changed}", "stack", stack.name, access.region()))?;
            for line in &lines {
                let mark = match line.state {
                    State::Good => ' ',
                    State::Attention => '!',
                    State::Unknown => '?',
                };
                say(&format!("{mark} {:<12}{}", line.part, line.text))?;
            }
        }
        Form::Json => say(&serde_json::to_string_pretty(&Answer {
            schema_version: 1,
            stack: &stack.name,
            region: access.region(),
            status,
            parts: &lines,
        })?)?,
    }
    match held.standing() {
        Standing::Ready | Standing::New => {}
        Standing::Busy => tell(&format!("next: {} --follow", args.stack.command("status"))),
        _ => tell(&format!("next: {}", args.stack.command("why"))),
    }
    let all_is_well = lines.iter().all(|line| line.state != State::Attention)
        && matches!(held.standing(), Standing::Ready | Standing::Busy);
    Ok(if all_is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The newest file that a worker has written.
async fn newest_file(lake: &str) -> anyhow::Result<Line> {
    let store = Store::at(&lake.parse()?).await?;
    let files = store.list(&layout::LANDING.into()).await?;
    let Some(newest) = files.iter().map(|file| file.modified_ms).max() else {
        return Ok(Line::new("lake", State::Unknown, format!("{lake}: nothing has been stored yet")));
    };
    let at = format_rfc3339_ms(newest);
    Ok(Line::new("lake", State::Good, format!("{lake}: the newest of {} landing files is of {at}", files.len())))
}
