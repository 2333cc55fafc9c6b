//! Chains with holes and overlaps.

use bytes::Bytes;

use super::*;
use crate::lake::{Created, State, state::Commit, state::Cut};

fn some(count: usize) -> Vec<Landed> {
    (0..count as i64).map(|at| stored("a", reading(at, Some(at), 70.0))).collect()
}

async fn empty_link(store: &Store, kind: Kind, first: i64, next: i64) {
    let footer = Footer::empty(kind, CHAIN, 0, first, next, "test");
    let file = Slice::new(CHAIN, 0).encode(&footer).unwrap();
    assert_eq!(landing::put(store, CHAIN, 0, first, file).await.unwrap(), Put::Done);
}

async fn cut(store: &Store, offset: i64, first: i64) {
    let mut state = State::load(store).await.unwrap();
    state.cut.entry(CHAIN.to_owned()).or_default().insert(0, Cut { offset, first });
    assert_eq!(state.commit(store).await.unwrap(), Commit::Done);
}

async fn chains(store: &Store) -> Report {
    verify(store, &Options::default(), |_| {}).await.unwrap()
}

/// Counts of gap, overlap, hole, damaged.
fn found(report: &Report) -> [u64; 4] {
    let chains = &report.chains;
    [chains.gap.count, chains.overlap.count, chains.hole.count, chains.damaged.count]
}

#[tokio::test]
async fn a_whole_chain_is_whole_and_an_empty_lake_too() {
    let store = Store::memory();
    assert!(chains(&store).await.kept);
    empty_link(&store, Kind::Start, 0, 10).await;
    let next = land(&store, 10, &some(3)).await;
    land(&store, next, &some(2)).await;
    let report = chains(&store).await;
    assert_eq!((found(&report), report.chains.files, report.chains.chains), ([0; 4], 3, 1));
    assert!(report.kept && report.readings.is_none());
}

#[tokio::test]
async fn an_overlap_is_a_broken_promise() {
    let store = Store::memory();
    land(&store, 0, &some(5)).await;
    land(&store, 3, &some(4)).await;
    let report = chains(&store).await;
    assert_eq!(found(&report), [0, 2, 0, 0]);
    let place = &report.chains.overlap.examples[0];
    assert_eq!((place.first, place.next, place.chain.as_str()), (3, 5, CHAIN));
    assert!(report.text().ends_with("Broken: 2 log records in two files."), "{}", report.text());
}

#[tokio::test]
async fn a_file_within_another_does_not_hide_what_follows() {
    let store = Store::memory();
    land(&store, 0, &some(9)).await;
    land(&store, 3, &some(2)).await;
    land(&store, 9, &some(1)).await;
    assert_eq!(found(&chains(&store).await), [0, 6, 0, 0]);
}

#[tokio::test]
async fn a_hole_is_a_broken_promise_at_and_above_the_cut_only() {
    let store = Store::memory();
    land(&store, 0, &some(2)).await;
    land(&store, 4, &some(2)).await;
    land(&store, 8, &some(2)).await;
    assert_eq!(found(&chains(&store).await), [0, 0, 4, 0]);
    // Below the cut files are cleaned up; the cut lies within the second hole.
    cut(&store, 7, 4).await;
    let report = chains(&store).await;
    assert_eq!(found(&report), [0, 0, 1, 0]);
    assert_eq!((report.chains.hole.examples[0].first, report.chains.hole.examples[0].next), (7, 8));
    assert!(!report.kept);
    cut(&store, 8, 8).await;
    assert!(chains(&store).await.kept);
}

#[tokio::test]
async fn a_chain_whose_first_file_is_gone_has_a_hole() {
    let store = Store::memory();
    land(&store, 5, &some(2)).await;
    assert_eq!(found(&chains(&store).await), [0, 0, 5, 0]);
}

#[tokio::test]
async fn a_chain_whose_last_file_is_gone_has_a_hole() {
    let store = Store::memory();
    let next = land(&store, 0, &some(2)).await;
    land(&store, next, &some(2)).await;
    cut(&store, 4, 2).await;
    assert!(chains(&store).await.kept);
    store.delete(vec![layout::landing_file(CHAIN, 0, 2)]).await.unwrap();
    assert_eq!(found(&chains(&store).await), [0, 0, 2, 0]);
    store.delete(vec![layout::landing_file(CHAIN, 0, 0)]).await.unwrap();
    assert_eq!(found(&chains(&store).await), [0, 0, 4, 0]);
}

#[tokio::test]
async fn what_the_log_lost_is_told_and_is_no_fault() {
    let store = Store::memory();
    land(&store, 0, &some(2)).await;
    empty_link(&store, Kind::Gap, 2, 9).await;
    land(&store, 9, &some(2)).await;
    let report = chains(&store).await;
    assert_eq!(found(&report), [7, 0, 0, 0]);
    assert!(report.kept);
}

#[tokio::test]
async fn a_damaged_file_is_named_and_a_broken_promise_unless_nobody_needs_it() {
    let store = Store::memory();
    land(&store, 0, &some(2)).await;
    let key = layout::landing_file(CHAIN, 0, 2);
    assert_eq!(store.create(&key, Bytes::from_static(b"PAR1 and no more")).await.unwrap(), Created::New);
    land(&store, 6, &some(2)).await;
    let report = chains(&store).await;
    assert_eq!(found(&report), [0, 0, 0, 1]);
    assert!(!report.kept);
    cut(&store, 6, 6).await;
    assert!(chains(&store).await.kept);
}
