//! `vitals doctor`: whether this machine, and AWS from here, have what commands need.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{
    Exit, Form, LakeArgs,
    config::Origins,
    say,
    target::{Target, TargetArgs},
};
use crate::aws::{
    doctor::{Check, Verdict, examine},
    iam,
    stack::Template,
};

mod live;
mod local;

/// Look for what would go wrong: on this machine, and in AWS
///
/// Examples:
///
///   vitals doctor
///
///   # without a question to AWS
///   vitals doctor --local
///
///   # for a script
///   vitals doctor --output json
///
///   # with a stack: one reading from a device to a query, which takes minutes and some cents
///   vitals doctor --live --target aws
///
/// Nothing is changed anywhere, but for that reading. Each finding is `ok`, `warn` (something may not work, or could not be looked at) or `fail`
/// (it won't), with what to do; one `fail` ends with 1. Without credentials AWS is a warning, or with `--target aws` a
/// failure.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct DoctorArgs {
    #[command(flatten)]
    lake: LakeArgs,

    #[command(flatten)]
    target: TargetArgs,

    /// Only this machine
    #[arg(long)]
    local: bool,

    /// Also publish a reading of device_1 to the stack, and wait until a query shows it
    #[arg(long, conflicts_with = "local")]
    live: bool,

    /// How it is written
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value = "text")]
    output: Form,
}

#[derive(Serialize)]
struct Answer<'a> {
    schema_version: u32,
    /// The worst of the verdicts.
    verdict: Verdict,
    machine: &'a [Check],
    aws: &'a [Check],
}

/// Runs the command.
pub async fn run(args: DoctorArgs, origins: &Origins) -> anyhow::Result<ExitCode> {
    let machine = local::examine(&args.lake.lake, origins).await;
    let is_meant = args.target.target == Target::Aws;
    let mut aws = if args.local {
        Vec::new()
    } else {
        examine(
            args.target.stack.region.as_deref(),
            &args.target.stack.stack,
            is_meant,
            &iam::TO_DEPLOY,
            &kafka_version()?,
        )
        .await
    };
    if args.live {
        if !is_meant {
            return Err(Exit::usage("`--live` publishes to a stack: it needs `--target aws`"));
        }
        // Where something is known to be wrong, waiting for it would only take time.
        let good = aws.iter().all(|check| check.verdict != Verdict::Fail);
        aws.push(if good {
            live::examine(&args.target.stack).await
        } else {
            Check::warn("live", "not tried", "mend the above first")
        });
    }
    let verdict = machine.iter().chain(&aws).map(|check| check.verdict).max().unwrap_or(Verdict::Ok);
    say(&match args.output {
        Form::Text => text(&machine, &aws),
        Form::Json => {
            serde_json::to_string_pretty(&Answer { schema_version: 1, verdict, machine: &machine, aws: &aws })?
        }
    })?;
    Ok(if verdict == Verdict::Fail { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn text(machine: &[Check], aws: &[Check]) -> String {
    let mut lines = Vec::new();
    for (title, checks) in [("this machine", machine), ("AWS", aws)] {
        if checks.is_empty() {
            continue;
        }
        lines.push(title.to_owned());
        for check in checks {
            let mark = match check.verdict {
                Verdict::Ok => "ok",
                Verdict::Warn => "warn",
                Verdict::Fail => "FAIL",
            };
            lines.push(format!("  {mark:<4}  {:<12} {}", check.name, check.found.replace('\n', "; ")));
            lines.extend(check.todo.iter().map(|todo| format!("        {:<12} → {todo}", "")));
        }
    }
    lines.join("\n")
}

/// The version of Kafka that a new stack gets.
fn kafka_version() -> anyhow::Result<String> {
    let parameters = Template::embedded()?.parameters();
    let version = parameters.into_iter().find(|parameter| parameter.name == "KafkaVersion");
    Ok(version.and_then(|version| version.default).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_stands_below_what_was_found() {
        let machine = [Check::ok("broker", "free"), Check::fail("disk", "full", "make room")];
        let shown =
            "this machine\n  ok    broker       free\n  FAIL  disk         full\n                     → make room";
        assert_eq!(text(&machine, &[]), shown);
    }
}
