//! What runs behind the broker in `vitals up`: the scorer, periodic training, compaction.
//!
//! Each is a loop of its own over the lake, and none waits for another. One that fails says so, and tries again later: what
//! devices send is stored all the same.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle};

use crate::{
    ingest::worker::Ingested,
    lake::{
        Day, Place, State, Store, clean,
        compact::{CompactOptions, compact},
        now_ms,
    },
    model::training::TrainOptions,
    score::{
        follow::{Follower, Share, announce},
        lock::ScorerLock,
    },
    train::{self, Span, due_in},
};

/// How often the scorer looks at the whole lake where nobody tells it that something has landed …
const LOOK: Duration = Duration::from_secs(30);
/// … and how often it looks whether the state has changed, which costs one short listing.
const GLANCE: Duration = Duration::from_secs(1);
/// The first and the longest pause of a stage that has failed.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// How often it is asked whether a day is over, or training is due.
const TICK: Duration = Duration::from_secs(30);

/// How long verdicts are still given once a program was told to end; its next start gives the rest.
pub const LAST_VERDICTS: Duration = Duration::from_secs(2);

/// What the stages have done so far, for a status line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// The model in force.
    pub model: String,
    /// Readings that got their verdict, and the outliers and artifacts among them.
    pub scored: u64,
    pub outliers: u64,
    /// Models trained, and put in force.
    pub trained: u64,
    pub promoted: u64,
    /// Closed days.
    pub closed: u64,
    /// What has failed last, by stage, until it works again.
    pub failing: Option<String>,
}

/// How the stages work.
#[derive(Debug, Clone)]
pub struct StageOptions {
    /// How often to train; `None` never.
    pub train_every: Option<Duration>,
    pub training: TrainOptions,
}

/// A scorer that follows what a worker writes.
pub struct Scoring {
    standing: watch::Receiver<Standing>,
    stop: watch::Sender<bool>,
    scorer: JoinHandle<Option<(ScorerLock, Follower)>>,
}

impl Scoring {
    /// Starts it. In a folder one process at a time scores: while another one does, this one waits for its turn. `landed`
    /// tells of what ingest writes.
    pub fn start(store: &Store, lake: &Place, landed: watch::Receiver<Ingested>) -> Scoring {
        let (stop, stopped) = watch::channel(false);
        let (told, standing) = watch::channel(Standing::default());
        let mut loops = Loop { store: store.clone(), told: Arc::new(told), stopped };
        let lake = lake.clone();
        let scorer = tokio::spawn(async move {
            let lock = loops.turn(&lake).await?;
            Some((lock, loops.score(landed).await))
        });
        Scoring { standing, stop, scorer }
    }

    /// How it stands, as it goes.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// Ends it. What has landed by now gets its verdicts, and devices' states are kept, as far as `limit` allows; the next
    /// start goes on from there.
    ///
    /// # Errors
    /// What kept the last verdicts from being written; the next start writes them.
    pub async fn stop(mut self, limit: Option<Duration>) -> anyhow::Result<Standing> {
        self.stop.send_replace(true);
        let standing = self.standing.clone();
        let last = async {
            let now = || standing.borrow().clone();
            match (&mut self.scorer).await? {
                Some((_lock, follower)) => last_look(follower, now()).await,
                // Another process has its turn, and judges what landed here as well.
                None => Ok(now()),
            }
        };
        match within(limit, last).await {
            Some(scored) => scored,
            None => {
                self.scorer.abort();
                Ok(standing.borrow().clone())
            }
        }
    }
}

/// What comes of the last verdicts; `None` where they take longer than `limit`.
async fn within<T>(limit: Option<Duration>, last: impl Future<Output = T>) -> Option<T> {
    let done = tokio::time::timeout(limit.unwrap_or(Duration::MAX), last).await;
    if done.is_err() {
        tracing::warn!("not everything that is stored has its verdict yet: the next start gives the rest");
    }
    done.ok()
}

/// Scores what has landed by now, and keeps devices' states.
async fn last_look(mut follower: Follower, mut standing: Standing) -> anyhow::Result<Standing> {
    let look = look(&mut follower).await?;
    standing.scored += look.0;
    standing.outliers += look.1;
    follower.checkpoint(true).await?;
    Ok(standing)
}

/// What the stages behind the broker did, in words.
pub fn describe(standing: &Standing) -> String {
    // Several models may have judged, each what came in its time.
    let mut text = format!("scored {} readings, {} outliers or artifacts", standing.scored, standing.outliers);
    if !standing.model.is_empty() {
        text.push_str(&format!("; {} is in force", standing.model));
    }
    if standing.trained > 0 {
        text.push_str(&format!("; {} models trained, {} put in force", standing.trained, standing.promoted));
    }
    if standing.closed > 0 {
        text.push_str(&format!("; {} days closed", standing.closed));
    }
    text
}

/// Running stages.
pub struct Stages {
    standing: watch::Receiver<Standing>,
    stop: watch::Sender<bool>,
    scorer: JoinHandle<Follower>,
    trainer: JoinHandle<()>,
    compactor: JoinHandle<()>,
}

impl Stages {
    /// Starts them; `landed` tells of what ingest writes.
    pub fn start(store: &Store, options: StageOptions, landed: watch::Receiver<Ingested>) -> Stages {
        let (stop, stopped) = watch::channel(false);
        let (told, standing) = watch::channel(Standing::default());
        let told = Arc::new(told);
        let loops = Loop { store: store.clone(), told, stopped };
        Stages {
            standing,
            stop,
            scorer: tokio::spawn(loops.clone().score(landed)),
            trainer: tokio::spawn(loops.clone().train(options)),
            compactor: tokio::spawn(loops.compact()),
        }
    }

    /// How they stand, as they go.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// Ends them. What has landed by now gets its verdicts, and devices' states are kept, as far as `limit` allows; training
    /// is given up.
    ///
    /// # Errors
    /// What kept the last verdicts from being written; the next start writes them.
    pub async fn stop(mut self, limit: Duration) -> anyhow::Result<Standing> {
        self.stop.send_replace(true);
        self.trainer.abort();
        let standing = self.standing.clone();
        let last = async {
            let follower = (&mut self.scorer).await?;
            (&mut self.compactor).await?;
            let now = standing.borrow().clone();
            last_look(follower, now).await
        };
        match within(Some(limit), last).await {
            Some(scored) => scored,
            None => {
                self.scorer.abort();
                self.compactor.abort();
                Ok(standing.borrow().clone())
            }
        }
    }
}

/// Looks until there is nothing more to do; gives the readings scored and the outliers among them.
async fn look(follower: &mut Follower) -> anyhow::Result<(u64, u64)> {
    let (mut readings, mut outliers) = (0, 0);
    loop {
        let look = follower.look().await?;
        readings += look.scored.readings;
        outliers += look.scored.outliers;
        if !look.again {
            return Ok((readings, outliers));
        }
    }
}

/// What every loop has.
#[derive(Clone)]
struct Loop {
    store: Store,
    told: Arc<watch::Sender<Standing>>,
    stopped: watch::Receiver<bool>,
}

/// Comes back when somebody has put another state in force.
async fn state_changes(store: &Store) {
    let newest = async || State::newest(store).await.ok().flatten();
    let before = newest().await;
    loop {
        tokio::time::sleep(GLANCE).await;
        if newest().await != before {
            return;
        }
    }
}

impl Loop {
    /// Waits for one of these, or the stop; true for the stop.
    async fn rest(&mut self, pause: Duration, woken: impl Future<Output = ()>) -> bool {
        tokio::select! {
            _ = self.stopped.wait_for(|stop| *stop) => true,
            () = tokio::time::sleep(pause) => false,
            () = woken => false,
        }
    }

    /// The right to score, as soon as no other process has it; `None` where the stop comes first.
    async fn turn(&mut self, lake: &Place) -> Option<ScorerLock> {
        let mut told = false;
        loop {
            match ScorerLock::take(lake, Share::WHOLE) {
                Ok(lock) => return Some(lock),
                Err(e) if !told => tracing::info!("{e}; this one takes over when it ends"),
                Err(_) => {}
            }
            told = true;
            if self.rest(RETRY.0, std::future::pending()).await {
                return None;
            }
        }
    }

    fn failed(&self, stage: &str, error: &anyhow::Error, pause: Duration) {
        tracing::warn!("{stage} stopped: {error:#}; trying again in {} s", pause.as_secs());
        self.told.send_modify(|standing| standing.failing = Some(format!("{stage}: {error:#}")));
    }

    async fn score(mut self, mut landed: watch::Receiver<Ingested>) -> Follower {
        let mut follower = Follower::new(self.store.clone(), Share::WHOLE);
        let mut pause = RETRY.0;
        loop {
            let rest = match follower.look().await {
                Ok(look) if look.again => Duration::ZERO,
                Ok(look) => {
                    pause = RETRY.0;
                    self.told.send_modify(|standing| {
                        standing.scored += look.scored.readings;
                        standing.outliers += look.scored.outliers;
                        standing.promoted += u64::from(look.promoted.is_some());
                        standing.model = look.promoted.unwrap_or(look.scored.model);
                        standing.failing.take_if(|failing| failing.starts_with(SCORING));
                    });
                    LOOK
                }
                Err(e) => {
                    self.failed(SCORING, &e, pause);
                    let rest = pause;
                    pause = (pause * 2).min(RETRY.1);
                    rest
                }
            };
            let store = self.store.clone();
            let changed = async {
                tokio::select! {
                    // Ingest that has ended writes nothing more, and then the stop comes.
                    changed = landed.changed() => if changed.is_err() { std::future::pending::<()>().await },
                    () = state_changes(&store) => {}
                }
            };
            if self.rest(rest, changed).await {
                return follower;
            }
        }
    }

    async fn train(mut self, options: StageOptions) {
        let Some(every) = options.train_every else { return };
        let mut failed = RETRY.0;
        loop {
            let pause = match due_in(&self.store, every).await {
                Ok(Some(Duration::ZERO)) => match self.renew(&options.training).await {
                    // Not at once, even where nothing new was learnt and the same model was kept again.
                    Ok(()) => every,
                    Err(e) => {
                        failed = (failed * 2).min(every.max(RETRY.1));
                        self.failed(TRAINING, &e, failed);
                        failed
                    }
                },
                Ok(Some(wait)) => wait,
                Ok(None) => TICK,
                Err(e) => {
                    self.failed(TRAINING, &e, RETRY.1);
                    RETRY.1
                }
            };
            if self.rest(pause, std::future::pending()).await {
                return;
            }
        }
    }

    /// Trains, and names the model for the scorer to take over where it is not worse than the one in force.
    async fn renew(&self, training: &TrainOptions) -> anyhow::Result<()> {
        let renewed = train::renew(&self.store, Span::ALL, training).await?;
        tracing::info!(model = renewed.model.id(), better = renewed.takes_over, "trained");
        if renewed.takes_over {
            announce(&self.store, renewed.model.id()).await?;
        }
        self.told.send_modify(|standing| {
            standing.trained += 1;
            standing.failing.take_if(|failing| failing.starts_with(TRAINING));
        });
        Ok(())
    }

    async fn compact(mut self) {
        let mut done: Option<Day> = None;
        loop {
            let now_ms = now_ms();
            let mut pause = TICK;
            if done != Some(Day::of(now_ms)) {
                match self.close_days(now_ms).await {
                    Ok(()) => done = Some(Day::of(now_ms)),
                    Err(e) => {
                        pause = RETRY.1;
                        self.failed(COMPACTION, &e, pause);
                    }
                }
            }
            if self.rest(pause, std::future::pending()).await {
                return;
            }
        }
    }

    async fn close_days(&self, now_ms: i64) -> anyhow::Result<()> {
        let closed = compact(&self.store, CompactOptions { now_ms, running_day: false }, |_| ()).await?;
        let removed = clean::clean(&self.store, now_ms, None).await?;
        tracing::info!(days = closed.len(), removed, "compacted");
        self.told.send_modify(|standing| {
            standing.closed += closed.len() as u64;
            standing.failing.take_if(|failing| failing.starts_with(COMPACTION));
        });
        Ok(())
    }
}

const SCORING: &str = "scoring";
const TRAINING: &str = "training";
const COMPACTION: &str = "compaction";
