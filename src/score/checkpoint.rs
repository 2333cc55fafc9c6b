//! Devices' states after the closed days, kept in the lake so that scoring goes on where it ended.
//!
//! A checkpoint belongs to a model and to the exact readings that it has seen: its name holds a hash over the days and
//! their runs. Whoever scores looks for the longest run of days, from the first on, that a checkpoint has seen; if a day
//! was changed by an import, the checkpoints after it are simply no longer found.
//!
//! The body: a line of text (`vitals devices 1`), the number of devices, then for each the length of its name, its name,
//! the length of its state and its state (numbers little-endian, 4 bytes); at the end the CRC-32 of all before.

use anyhow::{Context, bail};
use bytes::Bytes;
use object_store::path::Path;
use sha2::{Digest, Sha256};

use super::scorer::Scorer;
use crate::{
    lake::{Created, Day, Store, layout, state::DayRuns},
    model::StateError,
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

fn folder(model: &str) -> Path {
    Path::from_iter([layout::MODELS, model, "devices"])
}

/// Loads the checkpoint of the longest beginning of `days` there is one of, and says how many days that is.
pub(super) async fn resume(store: &Store, scorer: &mut Scorer<'_>, days: &[(Day, &DayRuns)]) -> anyhow::Result<usize> {
    let folder = folder(scorer.model().id());
    let there: Vec<String> =
        store.list(&folder).await?.iter().filter_map(|e| e.key.filename().map(str::to_owned)).collect();
    if there.is_empty() {
        return Ok(0);
    }
    for seen in (1..=days.len()).rev() {
        let name = name(&days[..seen]);
        if there.contains(&name) {
            let key = folder.clone().join(name);
            let bytes = store.get(&key).await?;
            match read(scorer, &bytes) {
                Ok(()) => return Ok(seen),
                // Of another version of the program: the days are gone through again, and a new checkpoint is kept.
                Err(e) if is_of_another_version(&e) => {
                    tracing::warn!("`{key}`: {e}");
                    scorer.forget();
                    store.delete(vec![key]).await?;
                    return Ok(0);
                }
                Err(e) => return Err(e.context(format!("reading the devices' states in `{key}`"))),
            }
        }
    }
    Ok(0)
}

/// Keeps the states after `days`, and removes older checkpoints of the model.
pub(super) async fn save(store: &Store, scorer: &mut Scorer<'_>, days: &[(Day, &DayRuns)]) -> anyhow::Result<()> {
    let folder = folder(scorer.model().id());
    let old: Vec<Path> = store.list(&folder).await?.into_iter().map(|e| e.key).collect();
    let key = folder.join(name(days));
    let _: Created = store.create(&key, Bytes::from(write(scorer)?)).await?;
    Ok(store.delete(old.into_iter().filter(|other| *other != key).collect()).await?)
}

fn is_of_another_version(error: &anyhow::Error) -> bool {
    let other = |e: &StateError| matches!(e, StateError::Version { .. } | StateError::OtherModel);
    error.downcast_ref::<StateError>().is_some_and(other)
}

fn write(scorer: &mut Scorer<'_>) -> anyhow::Result<Vec<u8>> {
    let states = scorer.stored();
    let mut bytes = HEADING.to_vec();
    bytes.extend(u32::try_from(states.len())?.to_le_bytes());
    for (name, state) in states {
        for part in [name.as_bytes(), state] {
            bytes.extend(u32::try_from(part.len())?.to_le_bytes());
            bytes.extend_from_slice(part);
        }
    }
    let crc = crc32fast::hash(&bytes);
    bytes.extend(crc.to_le_bytes());
    Ok(bytes)
}

fn read(scorer: &mut Scorer<'_>, bytes: &[u8]) -> anyhow::Result<()> {
    let Some((body, crc)) = bytes.split_last_chunk::<4>() else { bail!("it is cut short") };
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        bail!("its checksum does not match: it is damaged; delete it, and the days are scored again");
    }
    let mut rest = body.strip_prefix(HEADING).context("it is of another format")?;
    let devices = take_u32(&mut rest)?;
    for _ in 0..devices {
        let name = std::str::from_utf8(take_part(&mut rest)?)?;
        let state = scorer.model().read_state(take_part(&mut rest)?)?;
        scorer.insert(name, &state);
    }
    Ok(())
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
    use crate::model::Model;

    /// A store with a checkpoint of one device after one day, with the state's first byte (its version) changed by `by`.
    async fn kept(model: &Model, days: &[(Day, &DayRuns)], by: u8) -> Store {
        let store = Store::memory();
        let mut scorer = Scorer::new(model);
        scorer.insert("bed_7", &model.new_state());
        let mut bytes = write(&mut scorer).unwrap();
        let state = HEADING.len() + 4 + 4 + "bed_7".len() + 4;
        bytes[state] += by;
        let end = bytes.len() - 4;
        let crc = crc32fast::hash(&bytes[..end]);
        bytes[end..].copy_from_slice(&crc.to_le_bytes());
        let key = folder(model.id()).join(name(days));
        let _: Created = store.create(&key, Bytes::from(bytes)).await.unwrap();
        store
    }

    #[tokio::test]
    async fn a_checkpoint_of_another_version_is_made_anew() {
        let model = Model::builtin();
        let runs = DayRuns::default();
        let days = [(Day::of(0), &runs)];
        let mut scorer = Scorer::new(&model);
        let store = kept(&model, &days, 0).await;
        assert_eq!(resume(&store, &mut scorer, &days).await.unwrap(), 1);
        assert_eq!(scorer.stored().len(), 1);

        let store = kept(&model, &days, 1).await;
        assert_eq!(resume(&store, &mut scorer, &days).await.unwrap(), 0);
        assert!(scorer.stored().is_empty());
        assert!(store.list(&folder(model.id())).await.unwrap().is_empty(), "its place is free for a new one");
    }
}
