//! The conformance suite that every store must pass, and the traps of stores.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use object_store::{memory::InMemory, path::Path};
use vitals::lake::{
    Created, Place, Store,
    landing::{self, Footer, Kind, Put},
};

use crate::faults::{Fault, Faulty};

/// What the lake relies on.
async fn conformance(store: &Store) {
    let key = |name: &str| Path::from(format!("a/{name}"));
    assert!(store.get(&key("missing")).await.unwrap_err().is_not_found());
    assert!(store.tail(&key("missing"), 4).await.unwrap_err().is_not_found());
    assert_eq!(store.list(&Path::from("nowhere")).await.unwrap(), []);

    // Create-only: the first one stays, whole.
    assert_eq!(store.create(&key("one"), Bytes::from_static(b"first")).await.unwrap(), Created::New);
    assert_eq!(store.create(&key("one"), Bytes::from_static(b"second")).await.unwrap(), Created::Taken);
    assert_eq!(store.get(&key("one")).await.unwrap(), "first");
    assert_eq!(store.tail(&key("one"), 3).await.unwrap(), (Bytes::from_static(b"rst"), 5));
    assert_eq!(store.tail(&key("one"), 100).await.unwrap(), (Bytes::from_static(b"first"), 5));

    // Of many at once exactly one wins, and the object is the winner's.
    let racers = (0..32).map(|i| {
        let (store, key) = (store.clone(), key("race"));
        tokio::spawn(async move { (i, store.create(&key, Bytes::from(vec![i; 10_000])).await.unwrap()) })
    });
    let outcomes: Vec<(u8, Created)> =
        futures::future::join_all(racers.collect::<Vec<_>>()).await.into_iter().map(Result::unwrap).collect();
    let winners: Vec<u8> = outcomes.iter().filter(|(_, c)| *c == Created::New).map(|(i, _)| *i).collect();
    assert_eq!(winners.len(), 1, "{outcomes:?}");
    assert_eq!(store.get(&key("race")).await.unwrap(), vec![winners[0]; 10_000]);

    // Listing is complete, sorted, and recursive.
    for n in [3, 1, 2] {
        store.create(&Path::from(format!("l/x/{n:05}")), Bytes::from(vec![0; n])).await.unwrap();
    }
    store.create(&Path::from("l/y/z/4"), Bytes::new()).await.unwrap();
    let listed = store.list(&Path::from("l")).await.unwrap();
    let names: Vec<(&str, u64)> = listed.iter().map(|e| (e.key.as_ref(), e.bytes)).collect();
    assert_eq!(names, [("l/x/00001", 1), ("l/x/00002", 2), ("l/x/00003", 3), ("l/y/z/4", 0)]);
    assert_eq!(store.tail(&Path::from("l/y/z/4"), 10).await.unwrap(), (Bytes::new(), 0));

    let folders = store.folders().await.unwrap();
    assert!(["a", "l"].into_iter().all(|name| folders.contains(&name.into())), "{folders:?}");

    // Deleting what is not there is no error, and a deleted key is free.
    store.delete(vec![key("one"), key("missing")]).await.unwrap();
    assert!(store.get(&key("one")).await.unwrap_err().is_not_found());
    assert_eq!(store.create(&key("one"), Bytes::from_static(b"third")).await.unwrap(), Created::New);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_conforms() {
    conformance(&Store::memory()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_conforms() {
    let folder = tempfile::tempdir().unwrap();
    conformance(&Store::folder(folder.path()).unwrap()).await;
    // Nothing half-written is left, and nothing of it was ever inside a table.
    assert_eq!(std::fs::read_dir(folder.path().join(".staging")).unwrap().count(), 0);
}

/// With `VITALS_TEST_S3=s3://bucket/prefix`, and with what AWS's tools need to know beside it, a bucket is held to the same.
#[tokio::test(flavor = "multi_thread")]
async fn s3_conforms() {
    let Ok(place) = std::env::var("VITALS_TEST_S3") else { return };
    let Place::S3 { bucket, prefix } = place.parse().unwrap() else { panic!("{place} is not on S3") };
    let lake = Path::from(format!("{prefix}/{}", vitals::lake::random_name()));
    let store = Store::s3(&bucket, &lake).await.unwrap();
    conformance(&store).await;

    // What has the same beginning is not of this lake.
    let beside = Store::s3(&bucket, &Path::from(format!("{lake}2"))).await.unwrap();
    beside.create(&"a/one".into(), Bytes::new()).await.unwrap();
    let all = store.list(&Path::default()).await.unwrap();
    assert_eq!(all.len(), 6, "{all:?}");
    // A page of a listing has 1,000 keys; a day has them percent-encoded on the way.
    let key = |n: usize| Path::from(format!("m/dt=2026-01-01/{n:05}"));
    let many = futures::stream::iter(0..1_100)
        .map(|n| (store.clone(), key(n)))
        .for_each_concurrent(16, async |(store, key)| {
            assert_eq!(store.create(&key, Bytes::new()).await.unwrap(), Created::New)
        });
    many.await;
    let listed: Vec<Path> = store.list(&"m".into()).await.unwrap().into_iter().map(|entry| entry.key).collect();
    assert_eq!(listed, (0..1_100).map(key).collect::<Vec<_>>());
    // Large objects go by a way of their own.
    let large = Bytes::from(vec![7; 9 << 20]);
    assert_eq!(store.create(&"large".into(), large.clone()).await.unwrap(), Created::New);
    assert_eq!(store.create(&"large".into(), large.clone()).await.unwrap(), Created::Taken);
    assert_eq!(store.get(&"large".into()).await.unwrap(), large);

    for store in [store, beside] {
        let keys = store.list(&Path::default()).await.unwrap().into_iter().map(|entry| entry.key).collect();
        store.delete(keys).await.unwrap();
        assert_eq!(store.list(&Path::default()).await.unwrap(), []);
    }
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = Store::folder(&file.join("lake")).unwrap_err().to_string();
    assert!(error.contains("can't use the folder") && error.contains("file/lake"), "{error}");
}

fn link(first: i64, next: i64) -> Bytes {
    let footer = Footer::empty(Kind::Gap, "c", 0, first, next, "w");
    vitals::lake::encoding::to_parquet(vitals::lake::encoding::Shape::Landing, &[], footer.key_values()).unwrap()
}

#[tokio::test]
async fn taken_where_nothing_landed_is_tried_again() {
    let store = Store::of(Faulty::new(Arc::new(InMemory::new()), Fault::SaysTakenAt(0)), "faulty");
    assert_eq!(landing::put(&store, "c", 0, 0, link(0, 5)).await.unwrap(), Put::Done);
    assert_eq!(landing::head(&store, "c", 0).await.unwrap().unwrap().next, 5);
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_there() {
    let store = Store::of(Faulty::new(Arc::new(InMemory::new()), Fault::LosesAnswerOf(0)), "faulty");
    landing::put(&store, "c", 0, 0, link(0, 5)).await.unwrap_err();
    let Put::Taken(there) = landing::put(&store, "c", 0, 0, link(0, 5)).await.unwrap() else { panic!() };
    assert_eq!((there.writer.as_str(), there.next), ("w", 5));
}

#[tokio::test]
async fn a_damaged_head_is_named() {
    let store = Store::memory();
    store
        .create(&Path::from("landing/c/00000/00000000000000000000.parquet"), Bytes::from_static(b"PAR1"))
        .await
        .unwrap();
    let error = landing::head(&store, "c", 0).await.unwrap_err().to_string();
    assert!(error.contains("landing/c/00000/00000000000000000000.parquet") && error.contains("damaged"), "{error}");
}
