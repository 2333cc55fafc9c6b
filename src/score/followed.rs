//! One model's way along the log: devices' states per partition, and how far each has come.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Context;
use futures::TryStreamExt;

use super::{
    Scored, checkpoint,
    scorer::{Scorer, States},
};
use crate::{
    lake::{
        Created, Store, encoding,
        epoch::Epoch,
        landing::{self, SliceFile},
        layout,
        scan::{self, Offsets, Rows},
    },
    model::Model,
    reading::columns,
};

/// A checkpoint is due after so many readings …
const CHECKPOINT_READINGS: u64 = 100_000;
/// … and after as many times the number of devices: writing states then costs less than what they save.
const READINGS_PER_STATE: u64 = 4;

/// A hole in the log: the landing file that comes next is gone, so that the model has to begin anew.
#[derive(Debug, thiserror::Error)]
#[error("`{model}` needs the landing file with offset {needed} of `{chain}` partition {partition}, which is gone")]
pub(super) struct Hole {
    model: String,
    chain: String,
    partition: i32,
    needed: i64,
}

/// Why the records of a log do not say in which order a device's came.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unordered {
    #[error(
        "`{chain}` had {before} partitions and has {now}: devices move from one to another, so it is not known in which \
         order their readings came\nhint: what came before the change is scored; when its days are closed (`vitals compact`, \
         `--now` for the running day), `vitals score --again` begins after it"
    )]
    Repartitioned { chain: String, before: i32, now: i32 },
    #[error(
        "{keyless} records of `{chain}` partition {partition} have no key: a device's can be in any partition, so it is not \
         known in which order they came\nhint: key records by device; the others get their verdicts when their days are closed \
         (`vitals compact`, `--now` for the running day) and scored (`vitals score`)"
    )]
    Keyless { chain: String, partition: i32, keyless: u64 },
}

/// Where a model is in one partition.
struct Place {
    /// The first offset of the landing file that comes next.
    next: i64,
    /// Rows below this offset are in the closed days that the model began with.
    from: i64,
    states: States,
    /// Readings since the last checkpoint.
    unsaved: u64,
}

/// A model that follows the log.
pub(super) struct Followed {
    model: Model,
    epoch: Epoch,
    base: Arc<States>,
    places: BTreeMap<(String, i32), Place>,
    /// How many partitions each log had when it was scored last.
    partitions: BTreeMap<String, i32>,
}

impl Followed {
    /// Goes on where the newest epoch of the model has come; `None` where there is none that can be read.
    pub(super) async fn resume(store: &Store, model: &Model) -> anyhow::Result<Option<Followed>> {
        let Some(epoch) = Epoch::newest(store, model.id()).await? else { return Ok(None) };
        let base = match &epoch.base {
            Some(name) => match checkpoint::load(store, model, &layout::days_checkpoint(model.id(), name)).await {
                Ok(Some(states)) => states,
                Ok(None) => return Ok(None),
                Err(e) if is_gone(&e) => return Ok(None),
                Err(e) => return Err(e),
            },
            None => States::default(),
        };
        Ok(Some(Followed::new(model, epoch, base)))
    }

    /// Begins with devices as in `base`.
    pub(super) fn new(model: &Model, epoch: Epoch, base: States) -> Followed {
        Followed {
            model: model.clone(),
            epoch,
            base: Arc::new(base),
            places: BTreeMap::new(),
            partitions: BTreeMap::new(),
        }
    }

    pub(super) fn model(&self) -> &Model {
        &self.model
    }

    /// Scores a landing file if it is the next of its partition; one that was scored already is passed over.
    ///
    /// # Errors
    /// [`Hole`] where a file before it is gone, [`Unordered`] where devices may have records in other partitions.
    pub(super) async fn take(&mut self, store: &Store, file: &SliceFile, done: &mut Scored) -> anyhow::Result<()> {
        let key = (file.chain.clone(), file.partition);
        if !self.places.contains_key(&key) {
            let place = self.place(store, file).await?;
            self.note_partitions(store, file, &place).await?;
            self.places.insert(key.clone(), place);
        }
        let Some(place) = self.places.get_mut(&key) else { return Ok(()) };
        if file.first < place.next {
            return Ok(());
        }
        if file.first > place.next {
            let (model, chain) = (self.model.id().to_owned(), file.chain.clone());
            return Err(Hole { model, chain, partition: file.partition, needed: place.next }.into());
        }
        let footer = landing::footer(store, &file.key).await?;
        // What is in closed days as a whole was put in order there.
        if footer.next > place.from {
            ordered(&mut self.partitions, &footer)?;
        }
        let rows = landing_rows(store, file, Offsets { from: place.from, to: footer.next }).await?;
        let readings = rows.num_rows() as u64;
        let (model, base, states) = (self.model.clone(), Arc::clone(&self.base), std::mem::take(&mut place.states));
        let scored = tokio::task::spawn_blocking(move || {
            let mut scorer = Scorer::resume(&model, states, &base);
            scorer.score_log(&rows).map(|outliers| (outliers, scorer.into_states()))
        });
        let written = match scored.await.context("scoring") {
            Ok(Ok((outliers, states))) => {
                place.states = states;
                write(store, &self.model, file, footer.clone(), outliers).await
            }
            Ok(Err(e)) | Err(e) => Err(e),
        };
        let (created, outliers) = match written {
            Ok(written) => written,
            Err(e) => {
                // The states have seen rows that will come again; those of the last checkpoint have not.
                self.places.remove(&key);
                return Err(e);
            }
        };
        place.next = footer.next;
        place.unsaved += readings;
        if created == Created::New {
            done.readings += readings;
            done.outliers += outliers;
            done.slices += 1;
        }
        Ok(())
    }

    /// How many partitions the log had when it was scored last, as the last scored file of this epoch has it.
    async fn note_partitions(&mut self, store: &Store, file: &SliceFile, place: &Place) -> anyhow::Result<()> {
        let origin = self.epoch.origin(&file.chain, file.partition).first;
        if place.next <= origin || self.partitions.contains_key(&file.chain) {
            return Ok(());
        }
        let folder = layout::scored_partition(self.model.id(), &file.chain, file.partition);
        let scored = landing::list(store, &folder).await?;
        let last = scored.iter().rfind(|scored| (origin..place.next).contains(&scored.first));
        if let Some(last) = last
            && let Some(count) = landing::footer(store, &last.key).await?.partitions
        {
            self.partitions.insert(file.chain.clone(), count);
        }
        Ok(())
    }

    async fn place(&self, store: &Store, file: &SliceFile) -> anyhow::Result<Place> {
        let (chain, partition) = (file.chain.as_str(), file.partition);
        let origin = self.epoch.origin(chain, partition);
        let key = (chain.to_owned(), partition);
        if let Some(&next) = self.epoch.checkpoints.get(&key) {
            let checkpoint = layout::log_checkpoint(self.model.id(), self.epoch.n, chain, partition, next);
            if let Some(states) = checkpoint::load(store, &self.model, &checkpoint).await? {
                return Ok(Place { next, from: origin.offset, states, unsaved: 0 });
            }
        }
        Ok(Place { next: origin.first, from: origin.offset, states: States::default(), unsaved: 0 })
    }

    /// Keeps the states of partitions that have moved on by enough readings; `all`: of every one that has moved on.
    pub(super) async fn checkpoint(&mut self, store: &Store, all: bool) -> anyhow::Result<()> {
        for ((chain, partition), place) in &mut self.places {
            let due = CHECKPOINT_READINGS.max(READINGS_PER_STATE * place.states.devices() as u64);
            if place.unsaved == 0 || (!all && place.unsaved < due) {
                continue;
            }
            let key = |next: i64| layout::log_checkpoint(self.model.id(), self.epoch.n, chain, *partition, next);
            checkpoint::keep(store, &key(place.next), &place.states).await?;
            place.unsaved = 0;
            let before = self.epoch.checkpoints.insert((chain.clone(), *partition), place.next);
            if let Some(before) = before.filter(|before| *before != place.next) {
                store.delete(vec![key(before)]).await?;
            }
        }
        Ok(())
    }
}

/// Whether a device's records are all in the order in which the log has them.
fn ordered(known: &mut BTreeMap<String, i32>, footer: &landing::Footer) -> Result<(), Unordered> {
    let chain = footer.chain.clone();
    if footer.lacks_order() {
        return Err(Unordered::Keyless { chain, partition: footer.partition, keyless: footer.keyless });
    }
    let Some(now) = footer.partitions else { return Ok(()) };
    match known.get(&chain) {
        Some(&before) if before != now => Err(Unordered::Repartitioned { chain, before, now }),
        Some(_) => Ok(()),
        None => {
            known.insert(chain, now);
            Ok(())
        }
    }
}

/// Whether scoring has stopped where a log does not say in which order devices' records came.
pub fn is_unordered(error: &anyhow::Error) -> bool {
    error.is::<Unordered>()
}

pub(super) fn is_gone(error: &anyhow::Error) -> bool {
    error.downcast_ref::<crate::lake::StoreError>().is_some_and(crate::lake::StoreError::is_not_found)
}

/// Writes what was found in a landing file; taken means that it was found before.
async fn write(
    store: &Store,
    model: &Model,
    file: &SliceFile,
    mut footer: landing::Footer,
    outliers: arrow::array::RecordBatch,
) -> anyhow::Result<(Created, u64)> {
    let found = outliers.num_rows() as u64;
    (footer.readings, footer.dead) = (found, 0);
    let key = layout::scored_file(model.id(), &file.chain, file.partition, file.first);
    let bytes = encoding::to_parquet(encoding::Shape::Scored, &[outliers], footer.key_values())?;
    let created = store.create(&key, bytes).await.context("keeping what was found")?;
    Ok((created, found))
}

/// The readings of one landing file, which is a slice and so fits in memory.
async fn landing_rows(store: &Store, file: &SliceFile, offsets: Offsets) -> anyhow::Result<arrow::array::RecordBatch> {
    let mut batches = scan::open(store, &file.key, file.bytes, &columns::LANDING).await?;
    let mut rows = Vec::new();
    while let Some(batch) = batches.try_next().await? {
        rows.push(
            scan::conform(&scan::select(&batch, Rows::Readings, offsets)?, &columns::MERGED)
                .map_err(anyhow::Error::msg)?,
        );
    }
    Ok(arrow::compute::concat_batches(&columns::MERGED, &rows)?)
}
