//! `vitals up`: the local stack in the foreground.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use clap::Args;

use super::{LakeArgs, ingest::window};
use crate::local::pipeline::{Pipeline, describe, describe_broker};

/// Run a broker for devices, and store what they publish, until Ctrl-C
///
/// Examples:
///
///   vitals up
///
///   # in another terminal
///   vitals simulate --devices 100 --duration 60
///
/// Devices publish JSON to `iot/device/<id>`. A packet acknowledged at QoS 1 is stored: in the spool at once, and in the
/// lake's files within the window. Ctrl-C stores what is buffered; after a crash the next start goes on where it was.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct UpArgs {
    #[command(flatten)]
    lake: LakeArgs,

    /// Where the broker listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:1883", value_parser = address)]
    broker: SocketAddr,

    /// How long a landing file gathers: 30, 5m, 1h
    #[arg(long, value_name = "TIME", default_value = "20", value_parser = window)]
    window: Duration,
}

/// An address of this machine; `localhost` is its IPv4 one, as devices that look the name up find either.
fn address(text: &str) -> Result<SocketAddr, String> {
    let numbers = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let wrong = |_| format!("`{text}` is no address: write 127.0.0.1:1883, localhost:1883 or [::1]:1883");
    numbers.as_deref().unwrap_or(text).parse().map_err(wrong)
}

/// Runs the command.
pub async fn run(args: UpArgs) -> anyhow::Result<ExitCode> {
    if !args.broker.ip().is_loopback() {
        return Err(super::Exit::usage(format!(
            "`--broker {}` is open to others: this broker has no passwords and no TLS, so it listens on loopback only",
            args.broker
        )));
    }
    let store = args.lake.create()?;
    let mut interrupted = super::on_interrupt();
    let pipeline = Pipeline::start(&args.lake.lake, store, args.broker, args.window).await?;
    eprintln!("broker on mqtt://{}, lake in {}; Ctrl-C ends", pipeline.broker(), args.lake.lake.display());
    eprintln!("hint: `vitals simulate` publishes to it, `vitals train` learns, `vitals query outliers` asks");
    let failed = tokio::select! {
        _ = interrupted.wait_for(|stop| *stop) => None,
        failed = pipeline.failed() => Some(failed),
    };
    eprintln!("storing what is buffered …");
    let stats = pipeline.stats();
    let done = pipeline.stop().await;
    describe_broker(&stats).iter().for_each(|told| eprintln!("broker: {told}"));
    if let Some(failed) = failed {
        return Err(failed);
    }
    eprintln!("{}", describe(&done?));
    Ok(ExitCode::SUCCESS)
}
