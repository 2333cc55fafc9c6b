//! What there is to do for who stores partitions one by one, as the tasks of a Spark job do.

use futures::{StreamExt, TryStreamExt};
use serde_json::json;

use crate::{
    ingest::core::Stop,
    lake::{Store, StoreError, landing},
    log::Lookup,
};

/// How many partitions are asked for at a time.
const AT_A_TIME: usize = 32;

/// How far the lake has a partition.
pub async fn stored_to(store: &Store, chain: &str, partition: i32) -> Result<Option<i64>, StoreError> {
    Ok(landing::head(store, chain, partition).await?.map(|head| head.next))
}

/// The partitions of which the lake lacks anything, as JSON: from where on (`first`), and the end of the log (`until`).
pub async fn plan(store: &Store, lookup: &dyn Lookup, chain: &str, partitions: i32) -> anyhow::Result<String> {
    let asked = |partition: i32| async move {
        let head = stored_to(store, chain, partition).await?;
        let bounds = lookup.bounds(partition).await?;
        if let Some(next) = head.filter(|&next| next > bounds.end) {
            return Err(
                anyhow::Error::new(Stop::AnotherLog { next }).context(format!("`{chain}` partition {partition}"))
            );
        }
        anyhow::Ok((partition, head.unwrap_or(bounds.start), bounds.end))
    };
    let all: Vec<_> = futures::stream::iter(0..partitions).map(asked).buffered(AT_A_TIME).try_collect().await?;
    let ranges = all.into_iter().filter(|(_, first, until)| first < until);
    let ranges: Vec<_> = ranges
        .map(|(partition, first, until)| json!({"partition": partition, "first": first, "until": until}))
        .collect();
    Ok(json!({"schema_version": 1, "chain": chain, "partitions": partitions, "ranges": ranges}).to_string())
}
