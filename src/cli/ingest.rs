//! `vitals ingest`: a log → landing files.

use std::{process::ExitCode, time::Duration};

use clap::Args;

use super::{LakeArgs, duration::parse_period};
use crate::{
    ingest::worker::{Worker, WorkerOptions},
    local::{
        pipeline::{self, describe},
        subscriber::{self, Upstream},
    },
};

/// Carry packets from a log into the lake
///
/// Examples:
///
///   # what `vitals up` had taken but not yet stored
///   vitals ingest --from spool
///
///   # from a broker of yours, until Ctrl-C
///   vitals ingest --from mqtt://10.0.0.5:1883 --window 60
///
/// Every record ends up in the lake exactly once, whatever crashes: as a reading, or as a dead letter with its reason.
/// From a broker, packets are stored in the spool before they are acknowledged.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct IngestArgs {
    #[command(flatten)]
    lake: LakeArgs,

    /// `spool`, or a broker: mqtt://HOST:PORT
    #[arg(long, value_name = "LOG", default_value = "spool", value_parser = parse_from)]
    from: From,

    /// How long a landing file gathers: 30, 5m, 1h
    #[arg(long, value_name = "TIME", default_value = "60", value_parser = parse_period)]
    window: Duration,

    /// What to subscribe to; with mqtt://
    #[arg(long, value_name = "FILTER", default_value = "iot/device/+")]
    topic: String,
}

#[derive(Debug, Clone)]
enum From {
    Spool,
    Mqtt(Upstream),
}

fn parse_from(text: &str) -> Result<From, String> {
    match text {
        "spool" => Ok(From::Spool),
        _ => Ok(From::Mqtt(text.parse()?)),
    }
}

const WHY_A_FOLDER: &str = "here, as the spool stands beside the lake";

/// Runs the command.
pub async fn run(args: IngestArgs) -> anyhow::Result<ExitCode> {
    let interrupted = super::on_interrupt();
    let hurry = Some(interrupted.clone());
    let options = WorkerOptions { window: args.window, hurry, ..WorkerOptions::default() };
    match args.from {
        From::Spool => {
            let folder = args.lake.folder(WHY_A_FOLDER)?;
            let store = args.lake.open().await?;
            let spool = pipeline::open_spool(folder, &store).await?;
            let worker = Worker::new(spool.source(), store, options);
            // Nothing is appended here, so the log ends where it ends now.
            spool.close().await;
            let done = worker.run(interrupted).await?;
            eprintln!("{}", describe(&done));
        }
        From::Mqtt(upstream) => {
            let folder = args.lake.folder(WHY_A_FOLDER)?;
            let store = args.lake.create().await?;
            let spool = pipeline::open_spool(folder, &store).await?;
            let worker = tokio::spawn(Worker::new(spool.source(), store, options).run(pipeline::never()));
            eprintln!("taking `{}` from {upstream}; Ctrl-C ends", args.topic);
            let taken = subscriber::follow(&upstream, &args.topic, spool.appender(), interrupted).await;
            spool.close().await;
            let done = worker.await??;
            // Where nothing came, why not is all there is to say.
            if taken.is_ok() || done.slices > 0 {
                eprintln!("{}", describe(&done));
            }
            taken?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
