//! The one test against a real account: a reading goes in as a device sends it, and must come out as a person asks for it.
//!
//! It runs this program's own commands, as a person would, so nothing is tried that is not used.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::Context;
use chrono::Utc;
use serde_json::Value;
use tokio::process::Command;

use super::super::{stack::StackArgs, tell};
use crate::aws::doctor::Check;

/// How long between two questions for the reading. Each costs Athena's least, 10 MB.
const PAUSE: Duration = Duration::from_secs(30);

/// How long it may take: workers gather for some minutes before they write.
const PATIENCE: Duration = Duration::from_secs(20 * 60);

/// Publishes one reading of the first device, and waits until a query shows it.
pub async fn examine(stack: &StackArgs) -> Check {
    let outcome = match std::env::current_exe().context("finding this program") {
        Ok(program) => through(&program, stack, PAUSE, PATIENCE).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(Some(took)) => {
            Check::ok("live", format!("a reading of device_1 was in the lake after {} s", took.as_secs()))
        }
        Ok(None) => Check::fail(
            "live",
            format!("a reading of device_1 was taken, and not in the lake after {} min", PATIENCE.as_secs() / 60),
            "`vitals status` shows where it stays: rule, destination, lag, workers",
        ),
        Err(error) => Check::fail("live", format!("{error:#}"), "the commands that it runs say more when run by hand"),
    }
}

/// How long the reading took; `None` where it was not seen in time.
async fn through(
    program: &Path,
    stack: &StackArgs,
    pause: Duration,
    patience: Duration,
) -> anyhow::Result<Option<Duration>> {
    let begun = tokio::time::Instant::now();
    // Clocks differ a little; of this device nothing else is sent now.
    let since = (Utc::now() - chrono::TimeDelta::minutes(1)).format("%Y-%m-%d %H:%M:%S");
    let region = stack.region.iter().flat_map(|region| ["--region", region]);
    let target: Vec<&str> = ["--target", "aws", "--stack", &stack.stack].into_iter().chain(region).collect();
    let one = ["simulate", "--devices", "1", "--duration", "1", "--interval", "1", "--no-episodes"];
    run(program, &[&one, &target[..]].concat()).await?;
    tell("a reading of device_1 is published; waiting until it is in the lake, which takes some minutes");
    let statement = format!(
        "SELECT COUNT(*) AS n FROM readings WHERE device_id = 'device_1' AND arrived_at >= TIMESTAMP '{since}'"
    );
    let query = ["query", "sql", statement.as_str(), "--output", "json"];
    while begun.elapsed() < patience {
        let answer: Value = serde_json::from_slice(&run(program, &[&query, &target[..]].concat()).await?)?;
        if answer["rows"][0]["n"].as_u64().unwrap_or(0) > 0 {
            return Ok(Some(begun.elapsed()));
        }
        tokio::time::sleep(pause).await;
    }
    Ok(None)
}

/// What a command writes; its last words where it fails.
async fn run(program: &Path, words: &[&str]) -> anyhow::Result<Vec<u8>> {
    let command = Command::new(program).args(words).stdin(Stdio::null()).kill_on_drop(true).output();
    let done = command.await.with_context(|| format!("running `vitals {}`", words[0]))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        anyhow::bail!("`vitals {}` failed: {}", words[0], said.trim().replace('\n', "; "));
    }
    Ok(done.stdout)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// A program that is asked for a reading `misses` times before it has it.
    fn stand_in(folder: &Path, misses: u32) -> std::path::PathBuf {
        let program = folder.join("vitals");
        let script = format!(
            "#!/bin/sh\ncd {}\n[ $1 = simulate ] && exit 0\necho x >> asked\n\
             [ $(wc -l < asked) -gt {misses} ] && n=1 || n=0\necho '{{\"rows\":[{{\"n\":'$n'}}]}}'\n",
            folder.display()
        );
        // By another process: one that is forked here while the file is open would keep it from being run.
        let write = ["-c", "printf %s \"$1\" > \"$0\" && chmod 700 \"$0\"", program.to_str().unwrap(), &script];
        assert!(std::process::Command::new("sh").args(write).status().unwrap().success());
        program
    }

    async fn after(misses: u32) -> Option<Duration> {
        let folder = tempfile::tempdir().unwrap();
        let program = stand_in(folder.path(), misses);
        let stack = StackArgs { stack: "vitals".to_owned(), region: None };
        through(&program, &stack, Duration::from_millis(10), Duration::from_secs(2)).await.unwrap()
    }

    #[tokio::test]
    async fn a_reading_is_waited_for_and_one_that_does_not_come_is_told() {
        assert!(after(2).await.is_some());
        assert!(after(u32::MAX).await.is_none());
    }

    #[tokio::test]
    async fn a_command_that_fails_says_why() {
        let stack = StackArgs { stack: "vitals".to_owned(), region: None };
        let failed = through(Path::new("/bin/false"), &stack, PAUSE, PATIENCE).await.unwrap_err();
        assert!(failed.to_string().contains("`vitals simulate` failed"), "{failed}");
    }
}
