//! Spark's jobs, put where EMR Serverless finds them: the scripts of `templates/spark`, and this program, which they run.

use std::collections::BTreeMap;

use anyhow::Context;
use bytes::Bytes;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::lake::Store;

/// The folder of the bucket in which jobs lie.
pub const FOLDER: &str = "spark";

/// The name under which jobs look for this program.
pub const PROGRAM: &str = "vitals";

/// The scripts, by name.
pub const SCRIPTS: [(&str, &str); 3] = [
    ("compact.py", include_str!("../../templates/spark/compact.py")),
    ("ingest.py", include_str!("../../templates/spark/ingest.py")),
    ("vitals_program.py", include_str!("../../templates/spark/vitals_program.py")),
];

/// What lies there: written last, so that it never says more than is true.
const CHECKSUMS: &str = "checksums.json";

/// The checksum of each file, SHA-256 in hex, by name.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Checksums(BTreeMap<String, String>);

/// Puts the jobs into their folder (`store` is that folder), and the program where there is one. Files that are there
/// already stay; gives the names of those that were written.
///
/// # Errors
/// The bucket can't be read or written.
pub async fn provide(store: &Store, program: Option<Bytes>) -> anyhow::Result<Vec<String>> {
    let there: BTreeMap<String, u64> =
        store.list(&Path::default()).await?.into_iter().map(|entry| (entry.key.to_string(), entry.bytes)).collect();
    let mut checksums = read_checksums(store).await?;
    let scripts = SCRIPTS.map(|(name, text)| (name, Bytes::from_static(text.as_bytes())));
    let mut written = Vec::new();
    for (name, bytes) in scripts.into_iter().chain(program.map(|program| (PROGRAM, program))) {
        let checksum: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let is_there = there.get(name) == Some(&(bytes.len() as u64)) && checksums.0.get(name) == Some(&checksum);
        if !is_there {
            store.replace(&Path::from(name), bytes).await.with_context(|| format!("putting Spark's `{name}`"))?;
            checksums.0.insert(name.to_owned(), checksum);
            written.push(name.to_owned());
        }
    }
    if !written.is_empty() {
        store.replace(&CHECKSUMS.into(), Bytes::from(serde_json::to_vec_pretty(&checksums)?)).await?;
    }
    Ok(written)
}

async fn read_checksums(store: &Store) -> anyhow::Result<Checksums> {
    match store.get(&CHECKSUMS.into()).await {
        // What can't be read says nothing, and everything is put there anew.
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
        Err(e) if e.is_not_found() => Ok(Checksums::default()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_there_stays_and_what_has_changed_is_put_anew() {
        let store = Store::memory();
        let program = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
        let names = ["compact.py", "ingest.py", "vitals_program.py"];
        assert_eq!(provide(&store, None).await.unwrap(), names);
        assert_eq!(provide(&store, program("elf 1")).await.unwrap(), [PROGRAM]);
        assert_eq!(provide(&store, program("elf 1")).await.unwrap(), Vec::<String>::new());
        assert_eq!(provide(&store, program("elf 2")).await.unwrap(), [PROGRAM]);
        assert_eq!(store.get(&PROGRAM.into()).await.unwrap(), "elf 2");
        // A deployment that was killed, somebody who tidied up, a file of another maker.
        store.delete(vec!["ingest.py".into()]).await.unwrap();
        assert_eq!(provide(&store, None).await.unwrap(), ["ingest.py"]);
        store.replace(&CHECKSUMS.into(), Bytes::from_static(b"{")).await.unwrap();
        assert_eq!(provide(&store, None).await.unwrap(), names);
    }
}
