//! How far models have followed the log: from where on, and how much of it a crash leaves known.
//!
//! A model begins with the closed days: devices' states after them are its *base*. From the cuts of then on it follows
//! the log. That beginning is an *epoch*, kept in `epoch.json`; in its folder lie the checkpoints of each partition,
//! named by the offset up to which they have seen everything. The epoch with the highest number counts.
//!
//! Landing files from the last checkpoint on are what a scorer needs to go on after a crash, so [`super::clean`] keeps
//! them.

use std::collections::BTreeMap;

use bytes::Bytes;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::{
    layout,
    state::Cut,
    store::{Created, Store, StoreError},
};

/// The version of `epoch.json`.
const FORMAT: u32 = 1;

/// One beginning of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch {
    pub model: String,
    pub n: u64,
    /// The checkpoint of the closed days that devices begin with; none where there were no days.
    pub base: Option<String>,
    /// Where each partition began.
    pub origin: BTreeMap<String, BTreeMap<i32, Cut>>,
    /// The newest checkpoint of each partition.
    pub checkpoints: BTreeMap<(String, i32), i64>,
}

#[derive(Serialize, Deserialize)]
struct File {
    format: u32,
    base: Option<String>,
    origin: BTreeMap<String, BTreeMap<i32, Cut>>,
    /// A random name of who began it, by which it is known again when an answer was lost.
    #[serde(default)]
    writer: String,
}

/// What lies in a model's folder of states.
#[derive(Default)]
struct Found {
    /// Every key of an epoch, by its number.
    epochs: BTreeMap<u64, Vec<Path>>,
    /// Checkpoints of closed days.
    days: Vec<Path>,
}

impl Found {
    /// The number of the last epoch, 0 where there is none.
    fn last(&self) -> u64 {
        self.epochs.keys().last().copied().unwrap_or(0)
    }
}

async fn look(store: &Store, model: &str) -> Result<Found, StoreError> {
    let mut found = Found::default();
    for entry in store.list(&layout::devices_folder(model)).await? {
        let parts: Vec<_> = entry.key.parts().collect();
        match (parts.len(), parts.get(3).and_then(|epoch| epoch.as_ref().parse().ok())) {
            (4, _) => found.days.push(entry.key),
            (_, Some(epoch)) => found.epochs.entry(epoch).or_default().push(entry.key),
            _ => {}
        }
    }
    Ok(found)
}

impl Epoch {
    /// The epoch of a model that counts; none where it has never followed the log.
    pub async fn newest(store: &Store, model: &str) -> Result<Option<Epoch>, StoreError> {
        for (n, keys) in look(store, model).await?.epochs.into_iter().rev() {
            let key = layout::epoch_file(model, n);
            // Checkpoints without it are what a deletion that was cut off has left.
            if !keys.contains(&key) {
                continue;
            }
            let file: File = serde_json::from_slice(&store.get(&key).await?)
                .map_err(|e| StoreError::Damaged { key: key.clone(), what: e.to_string() })?;
            if file.format != FORMAT {
                let what = format!("it has format {}, this program reads format {FORMAT}", file.format);
                return Err(StoreError::Damaged { key, what });
            }
            let checkpoints = keys.iter().filter_map(parse_checkpoint).collect();
            return Ok(Some(Epoch { model: model.to_owned(), n, base: file.base, origin: file.origin, checkpoints }));
        }
        Ok(None)
    }

    /// The number of a model's last epoch, 0 where there is none.
    pub async fn last(store: &Store, model: &str) -> Result<u64, StoreError> {
        Ok(look(store, model).await?.last())
    }

    /// Begins the epoch after the one with the number `after`, which was the last; it and earlier ones are deleted with
    /// their checkpoints. `None` where another scorer has begun one meanwhile.
    pub async fn begin(
        store: &Store,
        model: &str,
        after: u64,
        base: Option<String>,
        origin: BTreeMap<String, BTreeMap<i32, Cut>>,
    ) -> Result<Option<Epoch>, StoreError> {
        let before = look(store, model).await?;
        if before.last() > after {
            return Ok(None);
        }
        let n = after + 1;
        let key = layout::epoch_file(model, n);
        let writer = super::random_name();
        let file = File { format: FORMAT, base: base.clone(), origin: origin.clone(), writer };
        let json = serde_json::to_vec(&file)
            .map(Bytes::from)
            .map_err(|e| StoreError::Damaged { key: key.clone(), what: e.to_string() })?;
        if store.create(&key, json.clone()).await? == Created::Taken && store.get(&key).await? != json {
            return Ok(None);
        }
        let kept = base.as_deref().map(|name| layout::days_checkpoint(model, name));
        let days = before.days.into_iter().filter(|key| Some(key) != kept.as_ref());
        // The description goes last: what is found of a deletion that was cut off is still an epoch, or nothing.
        let mut gone: Vec<Path> = before.epochs.into_values().flatten().chain(days).collect();
        gone.sort_by_key(|key| key.filename() == Some("epoch.json"));
        store.delete(gone).await?;
        Ok(Some(Epoch { model: model.to_owned(), n, base, origin, checkpoints: BTreeMap::new() }))
    }

    /// Where the model began in a partition; a chain that came later, at its beginning.
    pub fn origin(&self, chain: &str, partition: i32) -> Cut {
        let cut = self.origin.get(chain).and_then(|partitions| partitions.get(&partition));
        cut.copied().unwrap_or(Cut { offset: 0, first: 0 })
    }

    /// The first offset of the first landing file that is needed to go on after a crash.
    pub fn needs_from(&self, chain: &str, partition: i32) -> i64 {
        let checkpoint = self.checkpoints.get(&(chain.to_owned(), partition));
        checkpoint.copied().unwrap_or_else(|| self.origin(chain, partition).first)
    }
}

/// Reads `…/<chain>/<partition:05>/<next:020>.bin`.
fn parse_checkpoint(key: &Path) -> Option<((String, i32), i64)> {
    let parts: Vec<_> = key.parts().collect();
    let [_, _, _, _, chain, partition, name] = parts.as_slice() else { return None };
    let next = name.as_ref().strip_suffix(".bin")?.parse().ok()?;
    Some(((chain.as_ref().to_owned(), partition.as_ref().parse().ok()?), next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_epoch_counts_with_its_newest_checkpoints() {
        let store = Store::memory();
        assert_eq!(Epoch::newest(&store, "m").await.unwrap(), None);
        let origin = BTreeMap::from([("c".to_owned(), BTreeMap::from([(3, Cut { offset: 7, first: 5 })]))]);
        let first = Epoch::begin(&store, "m", 0, Some("days.bin".into()), origin.clone()).await.unwrap().unwrap();
        let other = |name: &str| layout::days_checkpoint("m", name);
        for key in [
            layout::log_checkpoint("m", first.n, "c", 3, 90),
            layout::log_checkpoint("m", first.n, "c", 3, 100),
            other("days.bin"),
            other("older.bin"),
        ] {
            let _: Created = store.create(&key, Bytes::from_static(b"x")).await.unwrap();
        }
        let found = Epoch::newest(&store, "m").await.unwrap().unwrap();
        assert_eq!((found.needs_from("c", 3), found.needs_from("c", 4), found.origin("c", 3).offset), (100, 0, 7));

        let late = Epoch::begin(&store, "m", 0, Some("older.bin".into()), origin.clone()).await.unwrap();
        assert_eq!((late, Epoch::last(&store, "m").await.unwrap()), (None, first.n));
        let second = Epoch::begin(&store, "m", first.n, Some("days.bin".into()), origin).await.unwrap().unwrap();
        assert_eq!(second.n, first.n + 1);
        let found = Epoch::newest(&store, "m").await.unwrap().unwrap();
        assert_eq!((found.n, found.needs_from("c", 3)), (second.n, 5));
        let left: Vec<Path> =
            store.list(&layout::devices_folder("m")).await.unwrap().into_iter().map(|e| e.key).collect();
        assert_eq!(left, [layout::epoch_file("m", second.n), other("days.bin")]);
    }
}
