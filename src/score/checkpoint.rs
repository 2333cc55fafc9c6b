//! Devices' states kept in the lake, so that scoring goes on where it ended: after closed days, and along the log
//! ([`crate::lake::epoch`]).
//!
//! A checkpoint belongs to a model and to the exact readings that it has seen. After closed days its name holds a hash
//! over the days and their runs: whoever scores looks for the longest run of days, from the first on, that a checkpoint
//! has seen; if a day was changed by an import, the checkpoints after it are simply no longer found. Along the log it is
//! named by the partition and the offset up to which it has seen everything.
//!
//! The body: a line of text (`vitals devices 1`), the number of devices, then for each the length of its name, its name,
//! the length of its state and its state (numbers little-endian, 4 bytes); at the end the CRC-32 of all before.

use anyhow::{Context, bail};
use bytes::Bytes;
use object_store::path::Path;
use sha2::{Digest, Sha256};

use super::scorer::States;
use crate::{
    lake::{Created, Day, Store, layout, state::DayRuns},
    model::{Model, StateError},
};

const HEADING: &[u8] = b"vitals devices 1\n";

/// The name of the checkpoint that has seen these days.
fn name(days: &[(Day, &DayRuns)]) -> String {
    let mut hash = Sha256::new();
    for (day, runs) in days {
        let run = runs.readings.as_ref().map_or("", |run| &run.run);
        hash.update(format!("{day} {run}\n"));
    }
    let digest: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let last = days.last().map_or_else(String::new, |(day, _)| day.to_string());
    format!("{last}-{digest}.bin")
}

/// Loads the checkpoint of the longest beginning of `days` there is one of, and says how many days that is.
pub(super) async fn resume(store: &Store, model: &Model, days: &[(Day, &DayRuns)]) -> anyhow::Result<(States, usize)> {
    let there = store.list(&layout::devices_folder(model.id())).await?;
    for seen in (1..=days.len()).rev() {
        let key = layout::days_checkpoint(model.id(), &name(&days[..seen]));
        if there.iter().any(|entry| entry.key == key) {
            // One of another version of the program: the days are gone through again, and a new checkpoint is kept.
            return Ok(load(store, model, &key).await?.map_or((States::default(), 0), |states| (states, seen)));
        }
    }
    Ok((States::default(), 0))
}

/// Keeps the states after `days`, and gives the checkpoint's name.
pub(super) async fn save(
    store: &Store,
    model: &Model,
    states: &States,
    days: &[(Day, &DayRuns)],
) -> anyhow::Result<String> {
    let name = name(days);
    keep(store, &layout::days_checkpoint(model.id(), &name), states).await?;
    Ok(name)
}

/// Keeps states under a key that says how far they have come.
pub(super) async fn keep(store: &Store, key: &Path, states: &States) -> anyhow::Result<()> {
    // Taken: it was kept before a crash; what has seen the same is the same.
    let _: Created = store.create(key, Bytes::from(write(states)?)).await.context("keeping the devices' states")?;
    Ok(())
}

/// The states at `key`; none where it was of another version of the program, and is deleted.
pub(super) async fn load(store: &Store, model: &Model, key: &Path) -> anyhow::Result<Option<States>> {
    let bytes = store.get(key).await?;
    match read(model, &bytes) {
        Ok(states) => Ok(Some(states)),
        Err(e) if is_of_another_version(&e) => {
            tracing::warn!("`{key}`: {e}");
            store.delete(vec![key.clone()]).await?;
            Ok(None)
        }
        Err(e) => Err(e.context(format!("reading the devices' states in `{key}`"))),
    }
}

fn is_of_another_version(error: &anyhow::Error) -> bool {
    let other = |e: &StateError| matches!(e, StateError::Version { .. } | StateError::OtherModel);
    error.downcast_ref::<StateError>().is_some_and(other)
}

pub(super) fn write(states: &States) -> anyhow::Result<Vec<u8>> {
    let mut bytes = HEADING.to_vec();
    bytes.extend(u32::try_from(states.devices())?.to_le_bytes());
    for (name, state) in states.sorted() {
        for part in [name.as_bytes(), state] {
            bytes.extend(u32::try_from(part.len())?.to_le_bytes());
            bytes.extend_from_slice(part);
        }
    }
    let crc = crc32fast::hash(&bytes);
    bytes.extend(crc.to_le_bytes());
    Ok(bytes)
}

fn read(model: &Model, bytes: &[u8]) -> anyhow::Result<States> {
    let Some((body, crc)) = bytes.split_last_chunk::<4>() else { bail!("it is cut short") };
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        bail!("its checksum does not match: it is damaged; delete it, and the readings are scored again");
    }
    let mut rest = body.strip_prefix(HEADING).context("it is of another format")?;
    let mut states = States::default();
    for _ in 0..take_u32(&mut rest)? {
        let name = std::str::from_utf8(take_part(&mut rest)?)?;
        states.insert(name, &model.read_state(take_part(&mut rest)?)?);
    }
    Ok(states)
}

fn take_u32(rest: &mut &[u8]) -> anyhow::Result<u32> {
    let (head, tail) = rest.split_first_chunk::<4>().context("it is cut short")?;
    *rest = tail;
    Ok(u32::from_le_bytes(*head))
}

fn take_part<'a>(rest: &mut &'a [u8]) -> anyhow::Result<&'a [u8]> {
    let length = take_u32(rest)? as usize;
    let (part, tail) = rest.split_at_checked(length).context("it is cut short")?;
    *rest = tail;
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store with a checkpoint of one device after one day, with the state's first byte (its version) changed by `by`.
    async fn kept(model: &Model, days: &[(Day, &DayRuns)], by: u8) -> Store {
        let store = Store::memory();
        let mut states = States::default();
        states.insert("bed_7", &model.new_state());
        let mut bytes = write(&states).unwrap();
        let state = HEADING.len() + 4 + 4 + "bed_7".len() + 4;
        bytes[state] += by;
        let end = bytes.len() - 4;
        let crc = crc32fast::hash(&bytes[..end]);
        bytes[end..].copy_from_slice(&crc.to_le_bytes());
        let key = layout::days_checkpoint(model.id(), &name(days));
        let _: Created = store.create(&key, Bytes::from(bytes)).await.unwrap();
        store
    }

    #[tokio::test]
    async fn a_checkpoint_of_another_version_is_made_anew() {
        let model = Model::builtin();
        let runs = DayRuns::default();
        let days = [(Day::of(0), &runs)];
        let store = kept(&model, &days, 0).await;
        let (states, seen) = resume(&store, &model, &days).await.unwrap();
        assert_eq!((states.devices(), seen), (1, 1));

        let store = kept(&model, &days, 1).await;
        let (states, seen) = resume(&store, &model, &days).await.unwrap();
        assert_eq!((states.devices(), seen), (0, 0));
        let left = store.list(&layout::devices_folder(model.id())).await.unwrap();
        assert!(left.is_empty(), "its place is free for a new one");
    }
}
