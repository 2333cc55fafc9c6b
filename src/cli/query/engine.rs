//! Which engine is asked: DataFusion on this machine, or the Athena of a stack.

use std::{sync::Arc, time::Duration};

use clap::Args;

use super::explained;
use crate::{
    aws::deployed::Deployed,
    cli::{
        Exit, LakeArgs,
        duration::parse_duration,
        on_interrupt,
        size::parse_size,
        target::{Target, TargetArgs},
    },
    lake::{Place, Store},
    query::{
        Engine, LocalEngine, Options,
        athena::{self, AthenaEngine},
    },
};

/// The longest time for which Athena takes the results of a query again.
const LONGEST_REUSE: Duration = Duration::from_secs(7 * 86_400);

#[derive(Debug, Clone, Args)]
pub(super) struct EngineArgs {
    #[command(flatten)]
    lake: LakeArgs,
    #[command(flatten)]
    pub(super) target: TargetArgs,
    /// With `--target aws`: take the answer that the same query had within this time, which costs nothing
    #[arg(long, value_name = "TIME", value_parser = parse_reuse)]
    reuse: Option<Duration>,
    /// With `--target aws`: stop a query that has read more than this, such as 5GB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_scan: Option<usize>,
    /// With `--target aws`: start the query, print its id and wait for nothing; `vitals query result ID` shows the rows
    #[arg(long)]
    pub(super) no_wait: bool,
    /// Fail where days that are asked for are archived, rather than answer without them
    #[arg(long)]
    pub(super) require_complete: bool,
}

fn parse_reuse(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)?;
    let fits = (Duration::from_secs(60)..=LONGEST_REUSE).contains(&time);
    if fits { Ok(time) } else { Err("it is from 1m to 7d".to_owned()) }
}

/// An engine, and the lake that it answers from.
pub(super) struct Opened {
    pub store: Store,
    pub place: Place,
    pub engine: Arc<dyn Engine>,
    /// The same engine where it is Athena.
    pub athena: Option<Arc<AthenaEngine>>,
}

impl EngineArgs {
    /// The engine that is meant.
    pub(super) async fn open(&self) -> anyhow::Result<Opened> {
        if self.target.target == Target::Aws {
            return self.athena().await;
        }
        let given =
            [("--reuse", self.reuse.is_some()), ("--max-scan", self.max_scan.is_some()), ("--no-wait", self.no_wait)];
        if let Some((flag, _)) = given.iter().find(|(_, given)| *given) {
            return Err(Exit::usage(format!(
                "`{flag}` is for the queries of a stack\nhint: add `--target aws`, or leave it out"
            )));
        }
        let store = self.lake.open().await?;
        let engine = LocalEngine::open(store.clone(), Options::default()).await.map_err(explained)?;
        Ok(Opened { store, place: self.lake.lake.clone(), engine: Arc::new(engine), athena: None })
    }

    /// The stack's Athena, whatever `--target` says.
    pub(super) async fn athena(&self) -> anyhow::Result<Opened> {
        let lake = Some(&self.lake.lake).filter(|lake| matches!(lake, Place::S3 { .. }));
        let Deployed { region, work_group, database, lake } =
            Deployed::of(&self.target.stack.stack, self.target.stack.region.as_deref(), lake).await?;
        let store = LakeArgs { lake: lake.clone() }.open().await?;
        let minutes = self.reuse.map(|time| i32::try_from(time.as_secs().div_ceil(60)).unwrap_or(i32::MAX));
        let options = athena::Options {
            reuse_minutes: minutes,
            max_scan: self.max_scan.map(|bytes| bytes as u64),
            ..athena::Options::new(on_interrupt())
        };
        let target = athena::Target { region, work_group, database };
        let config = crate::aws::config().await;
        let engine = AthenaEngine::open(&config, target, store.clone(), options).await.map_err(explained)?;
        let engine = Arc::new(engine);
        Ok(Opened { store, place: lake, engine: Arc::clone(&engine) as Arc<dyn Engine>, athena: Some(engine) })
    }
}
