//! A prepared sample: what a training learns from, in files of its own, so that it can learn elsewhere.
//!
//! `sample.parquet` has the columns of a closed day's readings, sorted by device and time; `manifest.json`, written after
//! it, says what it is and how much. A model that learns from it is the same to the bit as one that learns from the lake.

use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{local::LocalFileSystem, path::Path};
use serde::{Deserialize, Serialize};

use super::{Sampler, Span};
use crate::{
    lake::{
        Place, Store,
        encoding::{FileWriter, Shape},
        scan,
        store::Entry,
    },
    model::History,
    reading::{columns, time::is_sane_ms, valid_device_id},
    score::scorer::ReadingColumns,
};

/// The file of readings.
pub const SAMPLE: &str = "sample.parquet";
/// The file that says what they are.
pub const MANIFEST: &str = "manifest.json";

/// The version of the manifest's format.
const FORMAT: u32 = 1;

/// Rows that are written at a time.
const BATCH_ROWS: usize = 64 * 1024;

/// What a sample is of. Times are milliseconds since 1970 UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this format.
    pub format: u32,
    pub made_ms: i64,
    /// The number of the lake's state that it was taken from.
    pub state: u64,
    /// The span that was asked for; `None` where it has no such end.
    pub since_ms: Option<i64>,
    pub until_ms: Option<i64>,
    pub devices: u64,
    pub readings: u64,
    /// The first and the last reading.
    pub from_ms: Option<i64>,
    pub to_ms: Option<i64>,
    /// Up to where on the scale of all devices it has everything ([`Sampler::limit`]); without one, everywhere.
    #[serde(default = "everywhere", skip_serializing_if = "is_everywhere")]
    pub limit: u64,
}

fn everywhere() -> u64 {
    u64::MAX
}

fn is_everywhere(limit: &u64) -> bool {
    *limit == u64::MAX
}

impl Manifest {
    /// Of a sample that was taken from the lake's state `state` at `made_ms`.
    pub fn of(histories: &[History], span: Span, state: u64, made_ms: i64) -> Manifest {
        let times = || histories.iter().flat_map(|history| &history.readings).map(|reading| reading.ts_ms);
        Manifest {
            format: FORMAT,
            made_ms,
            state,
            since_ms: (span.since_ms != Span::ALL.since_ms).then_some(span.since_ms),
            until_ms: (span.until_ms != Span::ALL.until_ms).then_some(span.until_ms),
            devices: histories.len() as u64,
            readings: histories.iter().map(|history| history.readings.len() as u64).sum(),
            from_ms: times().min(),
            to_ms: times().max(),
            limit: u64::MAX,
        }
    }
}

/// The sample of a whole of which these are the samples of parts; what lies in `span` of it.
///
/// # Errors
/// As of [`histories`]; one is not of the lake's state `state`.
pub async fn together(parts: &[Store], span: Span, state: u64) -> anyhow::Result<Sampler> {
    let mut limit = u64::MAX;
    for part in parts {
        let Some(manifest) = manifest(part).await? else {
            bail!("`{}` is no sample: it has no manifest", part.place())
        };
        let said = manifest.state;
        ensure!(said == state, "`{}` is a sample of the lake's state {said}, not {state}", part.place());
        limit = limit.min(manifest.limit);
    }
    let mut sampler = Sampler::default().up_to(limit);
    for part in parts {
        offer(part, span, &mut sampler).await?;
    }
    Ok(sampler)
}

/// Writes a sample; one that is there already is replaced.
///
/// # Errors
/// The store can't be written, or has other readings that would be learnt from as well.
pub async fn write(store: &Store, histories: &[History], manifest: &Manifest) -> anyhow::Result<()> {
    if let Some(other) = files(store).await?.iter().find(|entry| entry.key.as_ref() != SAMPLE) {
        bail!("`{}` has `{}` in it already: name a place for this sample alone", store.place(), other.key);
    }
    let mut file = FileWriter::new(Shape::Readings, Vec::new())?;
    let of = |history: &'_ History| history.readings.len();
    let mut rows = histories.iter().flat_map(|h| h.readings.iter().map(|reading| (h.device_id.as_str(), reading)));
    let total: usize = histories.iter().map(of).sum();
    for _ in 0..total.div_ceil(BATCH_ROWS) {
        file.write(&columns::readings(rows.by_ref().take(BATCH_ROWS))?)?;
    }
    store.replace(&SAMPLE.into(), file.finish()?).await?;
    store.replace(&MANIFEST.into(), Bytes::from(serde_json::to_vec_pretty(manifest)?)).await?;
    Ok(())
}

/// The place of a sample, to read it: nothing is made there.
///
/// # Errors
/// The folder is not there, or S3 can't be used.
pub async fn open(place: &Place) -> anyhow::Result<Store> {
    match place {
        Place::Folder(folder) => {
            let files = LocalFileSystem::new_with_prefix(folder);
            let files = files.with_context(|| format!("there is no folder `{}`", folder.display()))?;
            Ok(Store::of(Arc::new(files), &folder.display().to_string()))
        }
        Place::S3 { .. } => Ok(Store::at(place).await?),
    }
}

/// What a sample says of itself; `None` where it has no manifest.
///
/// # Errors
/// The manifest can't be read, or is of a newer program.
pub async fn manifest(store: &Store) -> anyhow::Result<Option<Manifest>> {
    let bytes = match store.get(&MANIFEST.into()).await {
        Ok(bytes) => bytes,
        Err(e) if e.is_not_found() => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let manifest: Manifest = serde_json::from_slice(&bytes).with_context(|| format!("reading `{MANIFEST}`"))?;
    ensure!(manifest.format == FORMAT, "`{MANIFEST}` has format {}, this program reads {FORMAT}", manifest.format);
    Ok(Some(manifest))
}

/// The readings of a sample that lie in `span`, by device. Parquet files without a manifest are taken as they are.
///
/// # Errors
/// There is no Parquet file, one is damaged or has other columns, or there are more or fewer readings than the manifest
/// says.
pub async fn histories(store: &Store, span: Span) -> anyhow::Result<Vec<History>> {
    let mut sampler = Sampler::default();
    offer(store, span, &mut sampler).await?;
    Ok(sampler.finish())
}

async fn offer(store: &Store, span: Span, sampler: &mut Sampler) -> anyhow::Result<()> {
    let files = files(store).await?;
    if files.is_empty() {
        let there = store.list(&Path::default()).await?;
        let names: Vec<&str> = there.iter().take(5).map(|entry| entry.key.as_ref()).collect();
        let found = if names.is_empty() { "it is empty".to_owned() } else { format!("it has {}", names.join(", ")) };
        bail!("`{}` has no Parquet file of readings: {found}", store.place());
    }
    let mut rows = 0;
    for file in &files {
        let mut batches = scan::open(store, &file.key, file.bytes, &columns::READING).await?;
        while let Some(batch) = batches.try_next().await? {
            let batch = ReadingColumns::of(&batch)?;
            for row in 0..batch.rows() {
                let (device, reading) = (batch.device(row), batch.reading(row));
                let sound = valid_device_id(device) && is_sane_ms(reading.ts_ms);
                ensure!(sound, "`{}`: its row {} is no reading that a lake can have", file.key, rows + 1);
                rows += 1;
                if span.holds(reading.ts_ms) {
                    sampler.push(device, reading);
                }
            }
        }
    }
    if let Some(manifest) = manifest(store).await? {
        let said = manifest.readings;
        ensure!(said == rows, "the sample is not whole: `{MANIFEST}` says {said} readings, the files have {rows}");
    }
    Ok(())
}

/// The Parquet files, but for those that engines hide.
async fn files(store: &Store) -> anyhow::Result<Vec<Entry>> {
    let hidden = |key: &Path| key.parts().any(|part| part.as_ref().starts_with(['.', '_']));
    let is_data = |key: &Path| key.extension() == Some("parquet") && !hidden(key);
    Ok(store.list(&Path::default()).await?.into_iter().filter(|entry| is_data(&entry.key)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::{NO_VITALS, Reading, Vital};

    fn histories_of(devices: i64) -> Vec<History> {
        let reading = |device: i64, i: i64| {
            let mut vitals = NO_VITALS;
            if i % 3 > 0 {
                vitals[Vital::HeartRate.index()] = 60.5 + (device * i) as f64;
            }
            // Two of one moment, whose order in the sample counts.
            let ts_ms = 1_700_000_000_000 + i / 2 * 60_000;
            Reading { ts_ms, arrived_ms: ts_ms + 5, seq: (i % 2 == 0).then_some(-i), vitals }
        };
        let mut sampler = Sampler::default();
        (0..devices).for_each(|d| (0..50).for_each(|i| sampler.push(&format!("d{d}"), reading(d, i))));
        sampler.finish()
    }

    fn told(histories: &[History]) -> String {
        format!("{histories:?}")
    }

    #[tokio::test]
    async fn a_sample_comes_back_as_it_was_and_is_replaced() {
        let store = Store::memory();
        let span = Span { since_ms: 5, ..Span::ALL };
        for devices in [3, 7] {
            let sample = histories_of(devices);
            let manifest = Manifest::of(&sample, span, 9, 1);
            assert_eq!((manifest.readings, manifest.since_ms, manifest.until_ms), (devices as u64 * 50, Some(5), None));
            write(&store, &sample, &manifest).await.unwrap();
            assert_eq!(super::manifest(&store).await.unwrap(), Some(manifest));
            assert_eq!(told(&histories(&store, Span::ALL).await.unwrap()), told(&sample));
        }
        let late = Span { since_ms: 1_700_000_000_000 + 60_000, ..Span::ALL };
        let kept = histories(&store, late).await.unwrap();
        assert_eq!(kept.iter().map(|history| history.readings.len()).sum::<usize>(), 7 * 48);
    }

    #[tokio::test]
    async fn what_is_not_a_whole_sample_is_refused() {
        let store = Store::memory();
        let refused = async || histories(&store, Span::ALL).await.unwrap_err().to_string();
        assert!(refused().await.contains("it is empty"));
        store.replace(&"_temporary/0.parquet".into(), Bytes::from_static(b"x")).await.unwrap();
        store.replace(&"readings.csv".into(), Bytes::from_static(b"x")).await.unwrap();
        let said = refused().await;
        assert!(said.contains("no Parquet file") && said.contains("readings.csv"), "{said}");

        let sample = histories_of(2);
        let manifest = Manifest::of(&sample, Span::ALL, 0, 1);
        write(&store, &sample, &Manifest { readings: 99, ..manifest.clone() }).await.unwrap();
        assert!(refused().await.contains("says 99 readings, the files have 100"));
        store.replace(&"more.parquet".into(), Bytes::from_static(b"PAR1")).await.unwrap();
        assert!(refused().await.contains("more.parquet"));
        let said = write(&store, &sample, &manifest).await.unwrap_err().to_string();
        assert!(said.contains("`more.parquet`"), "{said}");
    }

    #[tokio::test]
    async fn columns_of_another_table_are_named() {
        let store = Store::memory();
        let other = FileWriter::new(Shape::DeadLetters, Vec::new()).unwrap().finish().unwrap();
        store.replace(&SAMPLE.into(), other).await.unwrap();
        let said = histories(&store, Span::ALL).await.unwrap_err().to_string();
        assert!(said.contains("no column `ts`"), "{said}");
    }
}
