//! What is known of a lake without reading its rows: what waits for the scorer, what was lost, which model is in force.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;

use super::data::{Figures, ModelCard, TrainedOn};
use crate::{
    lake::{
        Store, StoreError, View,
        landing::{self, Footer, Kind, SliceFile},
        layout,
    },
    score::load_model,
};

/// How many footers of files that wait for the scorer are read; of more, the readings are estimated.
const WAITING_FOOTERS: usize = 512;
/// How many footers are read to find gaps.
const GAP_FOOTERS: usize = 256;
/// How many footers are read at the same time.
const AT_ONCE: usize = 16;

/// What waits, and what is lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Readings that no model has looked at.
    pub unscored_readings: u64,
    /// Log records that were gone before they could be read.
    pub gap_records: u64,
}

/// Counts both from the state and from footers.
pub(super) async fn waiting(store: &Store, view: &View) -> Result<Waiting, StoreError> {
    let unscored_days = view.state.days.values().filter(|runs| runs.scored_by.is_none());
    let in_days: u64 = unscored_days.filter_map(|runs| runs.readings.as_ref()).map(|run| run.rows).sum();
    let files = unscored_files(view);
    let footers = footers(store, files.iter().take(WAITING_FOOTERS).map(|file| file.key.clone())).await?;
    let above_cut = |footer: &&Footer| footer.next > view.state.cut(&footer.chain, footer.partition).offset;
    let landed: u64 = footers.iter().filter(above_cut).map(|footer| footer.readings).sum();
    let landed = match files.len().saturating_sub(WAITING_FOOTERS) as u64 {
        0 => landed,
        // The others are taken to be like these.
        more => landed.saturating_add(landed.saturating_mul(more) / WAITING_FOOTERS as u64),
    };
    Ok(Waiting { unscored_readings: in_days.saturating_add(landed), gap_records: gap_records(store).await? })
}

/// Landing files behind the newest one of their partition that the model in force has scored.
fn unscored_files(view: &View) -> Vec<&SliceFile> {
    let mut heads: BTreeMap<(&str, i32), i64> = BTreeMap::new();
    for file in &view.scored {
        let head = heads.entry((file.chain.as_str(), file.partition)).or_insert(file.first);
        *head = file.first.max(*head);
    }
    let waits =
        |file: &&SliceFile| heads.get(&(file.chain.as_str(), file.partition)).is_none_or(|head| file.first > *head);
    view.landing.iter().filter(waits).collect()
}

/// What the gaps of all chains cover. A gap has no rows, so it is among the smallest files.
async fn gap_records(store: &Store) -> Result<u64, StoreError> {
    let mut files = landing::list(store, &layout::LANDING.into()).await?;
    files.sort_by_key(|file| file.bytes);
    let found = footers(store, files.into_iter().take(GAP_FOOTERS).map(|file| file.key)).await?;
    let lost = |footer: &Footer| u64::try_from(footer.next.saturating_sub(footer.first)).unwrap_or(0);
    Ok(found.iter().filter(|footer| footer.kind == Kind::Gap).map(lost).fold(0, u64::saturating_add))
}

async fn footers(store: &Store, keys: impl Iterator<Item = Path>) -> Result<Vec<Footer>, StoreError> {
    let keys: BTreeSet<Path> = keys.collect();
    let read = |key: Path| async move {
        match landing::footer(store, &key).await {
            Ok(footer) => Ok(Some(footer)),
            // The statements say so of files that are damaged, and a file that is gone has been compacted.
            Err(StoreError::Damaged { .. } | StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    };
    let found = stream::iter(keys.into_iter().map(read)).buffer_unordered(AT_ONCE);
    found.try_filter_map(|footer| std::future::ready(Ok(footer))).try_collect().await
}

/// The model in force. That one can't be read costs the report no more than its card.
pub(super) async fn model_card(store: &Store, view: &View) -> ModelCard {
    let id = view.state.model().to_owned();
    let scored_days = view.state.days.values().filter(|runs| runs.scored_by.as_deref() == Some(&id)).count() as u64;
    let model = match load_model(store, &id).await {
        Ok(model) => model,
        Err(error) => {
            return ModelCard { id, scored_days, warnings: vec![format!("{error:#}")], ..ModelCard::default() };
        }
    };
    let card = model.card();
    let trained = &card.trained_on;
    ModelCard {
        id,
        trained_on: TrainedOn {
            devices: trained.devices,
            readings: trained.readings,
            since_ms: trained.from_ms,
            until_ms: trained.to_ms,
        },
        threshold: Some(card.threshold),
        alarms_per_device_day: Some(card.alarms_per_device_day),
        warnings: card.warnings.clone(),
        scored_days,
        figures: card.comparison.as_ref().map(|comparison| {
            let figures = &comparison.candidate_figures;
            Figures { auroc: figures.auroc, recall_at_budget: recall_at(card.alarms_per_device_day, &figures.recall) }
        }),
    }
}

/// The recall within a budget, where it is one of those that were measured.
fn recall_at(budget: f64, recall: &[Option<f64>; 4]) -> Option<f64> {
    const BUDGETS: [f64; 4] = [0.1, 0.25, 0.5, 1.0];
    BUDGETS.iter().position(|measured| (measured - budget).abs() < 1e-9).and_then(|at| recall[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recall_is_told_of_measured_budgets_only() {
        let recall = [Some(0.1), Some(0.2), None, Some(0.4)];
        assert_eq!(recall_at(0.25, &recall), Some(0.2));
        assert_eq!(recall_at(0.5, &recall), None);
        assert_eq!(recall_at(0.3, &recall), None);
    }
}
