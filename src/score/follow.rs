//! The scorer that follows the lake: every landing file gets its verdicts soon after it was written.
//!
//! One look ([`Follower::look`]) goes like this:
//!
//! 1. Read the state. From the first look on it says that the lake is being scored, so that days close only up to where
//!    the scorer has come.
//! 2. Make sure of the model in force: go on from its checkpoints, or begin with the closed days. Days that have no
//!    verdict (after an import) get one, and the model begins anew after them.
//! 3. Likewise for the candidate, where the state names one.
//! 4. Go through the landing files in the order of their partitions' logs: the candidate first, then the model in force.
//! 5. When the candidate has a scored file wherever the model in force has one, one state puts it in force.
//!
//! Why a reading has one verdict at any moment: the view shows the scored files of one model only, that of the state. The
//! candidate's file of a landing file is written before the other one's, so at the moment of 5 the candidate has
//! everything that the view has shown, and later files are its own.
//!
//! Scored files are written create-only, each device in the order of the log, from a checkpoint that has seen exactly
//! what came before: whoever starts again after a crash writes what was going to be written.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use anyhow::Context;

use super::{DayOutliers, Followed, Hole, Scored, Wanted, begin, is_gone, is_unordered, load_model, put_in_force};
use crate::{
    lake::{
        Store, View,
        epoch::Epoch,
        landing::{self, SliceFile},
        layout,
        state::{Commit, DayRuns},
    },
    model::Model,
};

/// Which partitions a scorer takes: those whose place among `of` is `index`, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub index: u32,
    pub of: u32,
}

impl Share {
    /// All of them.
    pub const WHOLE: Share = Share { index: 0, of: 1 };

    pub(super) fn is_whole(self) -> bool {
        self.of <= 1
    }

    /// Whether closed days and promotions are this one's work.
    fn leads(self) -> bool {
        self.index == 0
    }

    /// Whether a file is this one's, where each file is somebody's: by its name alone, so that nobody has to know of all.
    pub fn has_key(self, key: &object_store::path::Path) -> bool {
        let mut hasher = DefaultHasher::new();
        key.as_ref().hash(&mut hasher);
        self.is_whole() || hasher.finish() % u64::from(self.of) == u64::from(self.index)
    }

    /// The name of a chain and the number of a partition are the same for everybody.
    fn has(self, file: &SliceFile) -> bool {
        if self.is_whole() {
            return true;
        }
        // `DefaultHasher::new` has no random keys; only scorers of one version share a lake.
        let mut hasher = DefaultHasher::new();
        (&file.chain, file.partition).hash(&mut hasher);
        hasher.finish() % u64::from(self.of) == u64::from(self.index)
    }
}

/// How many of the last closed days a new model scores again when it takes over beside a running lake.
pub const RESCORED_DAYS: usize = 30;

/// Follows a lake.
pub struct Follower {
    store: Store,
    share: Share,
    champion: Option<Follows>,
    candidate: Option<Follows>,
    /// A candidate that can't be read, so that it is complained of once.
    unreadable: Option<String>,
}

/// A model that follows, and the verdicts on closed days that are not in force yet.
struct Follows {
    followed: Followed,
    found: DayOutliers,
}

/// What one look has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// By the model in force: what got its verdict.
    pub scored: Scored,
    /// The model that was put in force.
    pub promoted: Option<String>,
    /// Somebody changed the state meanwhile: look again at once.
    pub again: bool,
}

impl Follower {
    /// A scorer of these partitions. In a folder, whoever has one holds a [`super::lock::ScorerLock`] as well.
    pub fn new(store: Store, share: Share) -> Follower {
        Follower { store, share, champion: None, candidate: None, unreadable: None }
    }

    /// Scores what has landed since the last look.
    ///
    /// # Errors
    /// What was scored before the error is kept; looking again goes on there.
    pub async fn look(&mut self) -> anyhow::Result<Look> {
        match self.try_look().await {
            Err(e) if e.is::<Hole>() => {
                tracing::warn!("{e}: it begins anew after the closed days");
                (self.champion, self.candidate) = (None, None);
                self.begin_anew().await?;
                self.try_look().await
            }
            // Another scorer has kept newer states and deleted what this one was about to go on from.
            Err(e) if is_gone(&e) => {
                tracing::info!("{e:#}: it goes on from what is there now");
                (self.champion, self.candidate) = (None, None);
                self.try_look().await
            }
            looked => looked,
        }
    }

    async fn try_look(&mut self) -> anyhow::Result<Look> {
        let view = View::open(&self.store).await?;
        if !view.state.scoring {
            let mut next = view.state.clone();
            next.scoring = true;
            next.commit(&self.store).await.context("noting that the lake is scored")?;
            // Whoever was first may have changed more than that.
            return Ok(Look { again: true, ..Look::default() });
        }
        let mut look =
            Look { scored: Scored { model: view.state.model().to_owned(), ..Scored::default() }, ..Look::default() };
        if !self.ready(&view, &mut look.scored).await? {
            return Ok(look);
        }
        let landed = landing::list(&self.store, &layout::LANDING.into()).await?;
        let unordered = self.take_all(&landed, &mut look.scored).await?;
        self.checkpoint(false).await?;
        self.put_days_in_force(&mut look).await?;
        if let Some(unordered) = unordered {
            return Err(unordered);
        }
        self.promote(&mut look).await?;
        Ok(look)
    }

    /// Goes through landing files; where a partition's order does not say the order of devices' records, the others are
    /// still gone through. Gives why.
    async fn take_all(&mut self, landed: &[SliceFile], scored: &mut Scored) -> anyhow::Result<Option<anyhow::Error>> {
        let mut stopped: Option<(BTreeSet<(&str, i32)>, anyhow::Error)> = None;
        for file in landed.iter().filter(|file| self.share.has(file)) {
            let partition = (file.chain.as_str(), file.partition);
            if stopped.as_ref().is_some_and(|(partitions, _)| partitions.contains(&partition)) {
                continue;
            }
            let mut taken = Ok(());
            if let Some(candidate) = &mut self.candidate {
                taken = candidate.followed.take(&self.store, file, &mut Scored::default()).await;
            }
            if let (Ok(()), Some(champion)) = (&taken, &mut self.champion) {
                taken = champion.followed.take(&self.store, file, scored).await;
            }
            match taken {
                Err(e) if is_unordered(&e) => {
                    let (partitions, _) = stopped.get_or_insert_with(|| (BTreeSet::new(), e));
                    partitions.insert(partition);
                }
                taken => taken?,
            }
        }
        Ok(stopped.map(|(_, why)| why))
    }

    /// Brings the models that the state names to where they can take landing files; false where another scorer has to
    /// begin with the closed days first.
    async fn ready(&mut self, view: &View, scored: &mut Scored) -> anyhow::Result<bool> {
        let in_force = view.state.model();
        if self.candidate.as_ref().is_some_and(|c| Some(c.id()) != view.state.candidate.as_deref()) {
            // Put in force, by this scorer or another, or called off.
            self.champion = self.candidate.take().filter(|c| c.id() == in_force).or(self.champion.take());
        }
        if self.champion.as_ref().is_some_and(|c| c.id() != in_force) {
            self.champion = None;
        }
        let unscored = |runs: &DayRuns| runs.readings.is_some() && runs.scored_by.is_none();
        let lacks = self.share.leads() && view.state.days.values().any(unscored);
        // Found, and not in force yet: the state is tried again below.
        let waits = self.champion.as_ref().is_some_and(|c| !c.found.is_empty());
        if self.champion.is_none() || (lacks && !waits) {
            let model = load_model(&self.store, in_force).await?;
            let wanted = Wanted { again: false, lacks: &unscored };
            self.champion = self.follows(view, &model, wanted, !lacks, scored).await?;
        }
        let named = view.state.candidate.as_ref().filter(|_| self.candidate.is_none());
        if let Some(name) = named.filter(|name| self.unreadable.as_ref() != Some(*name)) {
            self.candidate = self.candidate(view, name).await?;
        }
        let candidate_is_ready =
            self.candidate.is_some() || view.state.candidate.is_none() || self.unreadable.is_some();
        Ok(self.champion.is_some() && candidate_is_ready)
    }

    /// A model that is to take over, with its verdicts on the last closed days.
    async fn candidate(&mut self, view: &View, name: &str) -> anyhow::Result<Option<Follows>> {
        let model = match load_model(&self.store, name).await {
            Ok(model) => model,
            Err(e) => {
                tracing::warn!("the model that is to take over can't be read: {e:#}");
                self.unreadable = Some(name.to_owned());
                return Ok(None);
            }
        };
        let recent: Vec<&DayRuns> = view.state.days.values().rev().take(RESCORED_DAYS).collect();
        let lacks =
            |day: &DayRuns| day.readings.is_some() && day.scored_by.as_deref() != Some(name) && recent.contains(&day);
        let resumes = !view.state.days.values().any(lacks);
        let wanted = Wanted { again: false, lacks: &lacks };
        self.follows(view, &model, wanted, resumes, &mut Scored::default()).await
    }

    /// Goes on where the model has come, if it may and can; else begins with the closed days, if that is this one's work.
    async fn follows(
        &self,
        view: &View,
        model: &Model,
        wanted: Wanted<'_>,
        resumes: bool,
        scored: &mut Scored,
    ) -> anyhow::Result<Option<Follows>> {
        let last_epoch = Epoch::last(&self.store, model.id()).await?;
        let resumed = match resumes || !self.share.leads() {
            true => Followed::resume(&self.store, model).await?,
            false => None,
        };
        if let Some(followed) = resumed {
            return Ok(Some(Follows { followed, found: DayOutliers::new() }));
        }
        if !self.share.leads() {
            return Ok(None);
        }
        let (followed, found) =
            begin(&self.store, view, model, wanted, last_epoch, scored, &mut |_: &Scored| ()).await?;
        Ok(Some(Follows { followed, found }))
    }

    /// After a hole in the log: the model in force begins with the closed days.
    async fn begin_anew(&mut self) -> anyhow::Result<()> {
        if !self.share.leads() {
            return Ok(());
        }
        let view = View::open(&self.store).await?;
        let model = load_model(&self.store, view.state.model()).await?;
        let unscored = |runs: &DayRuns| runs.readings.is_some() && runs.scored_by.is_none();
        let wanted = Wanted { again: false, lacks: &unscored };
        self.champion = self.follows(&view, &model, wanted, false, &mut Scored::default()).await?;
        Ok(())
    }

    /// Verdicts of the model in force on closed days that had none.
    async fn put_days_in_force(&mut self, look: &mut Look) -> anyhow::Result<()> {
        let Some(champion) = self.champion.as_mut().filter(|c| !c.found.is_empty()) else { return Ok(()) };
        let view = View::open(&self.store).await?;
        if view.state.model() != champion.id() {
            return Ok(());
        }
        match put_in_force(&self.store, view, champion.followed.model().id(), &champion.found).await? {
            Commit::Done => champion.found.clear(),
            Commit::Raced => look.again = true,
        }
        Ok(())
    }

    /// Puts the candidate in force when it has a scored file wherever the model in force has one.
    async fn promote(&mut self, look: &mut Look) -> anyhow::Result<()> {
        let Some(candidate) = self.candidate.as_ref().filter(|_| self.share.leads()) else { return Ok(()) };
        let view = View::open(&self.store).await?;
        if view.state.candidate.as_deref() != Some(candidate.id()) {
            look.again = true;
            return Ok(());
        }
        let folder = object_store::path::Path::from_iter([layout::SCORED, candidate.id()]);
        let heads = heads(&landing::list(&self.store, &folder).await?);
        let reached =
            |(partition, first): (&(String, i32), &i64)| heads.get(partition).is_some_and(|head| head >= first);
        if !self::heads(&view.scored).iter().all(reached) {
            return Ok(());
        }
        let name = candidate.id().to_owned();
        match put_in_force(&self.store, view, &name, &candidate.found).await? {
            Commit::Done => {
                self.champion = self.candidate.take().map(|c| Follows { found: DayOutliers::new(), ..c });
                look.promoted = Some(name);
            }
            Commit::Raced => look.again = true,
        }
        Ok(())
    }

    /// Keeps devices' states where that is due; `all`: wherever anything has come since.
    pub async fn checkpoint(&mut self, all: bool) -> anyhow::Result<()> {
        for follows in [&mut self.champion, &mut self.candidate].into_iter().flatten() {
            follows.followed.checkpoint(&self.store, all).await?;
        }
        Ok(())
    }
}

impl Follows {
    fn id(&self) -> &str {
        self.followed.model().id()
    }
}

/// The last file of each partition, by its first offset.
fn heads(files: &[SliceFile]) -> BTreeMap<(String, i32), i64> {
    // Files are listed in the order of their offsets.
    files.iter().map(|file| ((file.chain.clone(), file.partition), file.first)).collect()
}

/// Names the model that is to take over; whoever follows the lake scores with it and then puts it in force.
pub async fn announce(store: &Store, model: &str) -> anyhow::Result<()> {
    for _ in 0..super::RACES {
        let mut next = crate::lake::State::load(store).await?;
        if next.model() == model || next.candidate.as_deref() == Some(model) {
            return Ok(());
        }
        next.candidate = Some(model.to_owned());
        if next.commit(store).await? == Commit::Done {
            return Ok(());
        }
    }
    anyhow::bail!("the lake changed again and again; run the command again")
}
