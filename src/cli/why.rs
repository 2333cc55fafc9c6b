//! `vitals why`: what went wrong with the stack, again.

use std::process::ExitCode;

use clap::Args;

use super::{Exit, deploy::watch::why, say, stack::StackArgs, tell};
use crate::aws::stack::{Standing, events::first_cause};

/// Say what went wrong first when the stack was last made, changed or deleted, and what to do about it
///
/// Examples:
///
///   vitals why
///   vitals why --stack ward7 --region eu-central-1
///
/// Ends with 0 where nothing went wrong.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct WhyArgs {
    #[command(flatten)]
    stack: StackArgs,
}

/// Runs the command.
pub async fn run(args: WhyArgs) -> anyhow::Result<ExitCode> {
    let (_, stack) = args.stack.open().await?;
    let held = stack.describe().await?.ok_or_else(|| no_stack(&args.stack))?;
    let events = stack.last_events(&held.id).await?;
    let status = held.status.as_str();
    if held.succeeded() || first_cause(&events).is_none() && held.standing() == Standing::Ready {
        say(&format!("stack {} is {status}: nothing went wrong", stack.name))?;
        return Ok(ExitCode::SUCCESS);
    }
    if held.standing() == Standing::Busy && first_cause(&events).is_none() {
        say(&format!("stack {} is {status}: nothing went wrong so far", stack.name))?;
        return Ok(ExitCode::SUCCESS);
    }
    say(&format!("stack {} is {status}\n{}", stack.name, why(&held, &events)))?;
    tell(&format!("next: {}", args.stack.command("deploy")));
    Ok(ExitCode::FAILURE)
}

/// There is no such stack: exit code 3.
pub fn no_stack(args: &StackArgs) -> anyhow::Error {
    let region = args.region.as_ref().map_or_else(|| "this region".to_owned(), |region| region.clone());
    Exit::not_found(format!(
        "there is no stack `{}` in {region}\nhint: `{}` makes it; `--stack` and `--region` name another",
        args.stack,
        args.command("deploy")
    ))
}
