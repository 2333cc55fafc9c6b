//! A model in a packed folder: `model.tar.gz`, as SageMaker keeps what a training job leaves in its model folder.
//!
//! Nothing is written to disk: the one file that is wanted is read into memory, within a bound. An archive that has
//! anything else than plain names in it is refused as a whole, as nobody packs such a thing in good faith.

use std::io::Read;

use anyhow::{Context, bail, ensure};
use object_store::path::Path;

use super::prepared;
use crate::{
    lake::{Place, Store, StoreError},
    model::{Model, artifact::MAX_BYTES},
};

/// The name of a model's artifact in a folder, packed or not.
pub const ARTIFACT: &str = "model.bin";

/// The largest archive that is read, packed and unpacked, in bytes: a model and some small files.
pub const MAX_PACKED: usize = 2 * MAX_BYTES;

/// The unit of an archive.
const BLOCK: usize = 512;

/// Where a model lies below a place: as `train --out` leaves it, or packed, also where a job's output is named.
pub const NAMES: [&str; 3] = [ARTIFACT, "model.tar.gz", "output/model.tar.gz"];

/// The model at a place, which is an artifact, an archive, or has one of [`NAMES`] below it; `None` where there is none.
///
/// # Errors
/// What is there can't be read, or is no model.
pub async fn fetch(place: &Place) -> anyhow::Result<Option<Model>> {
    let (above, names) = match split(place) {
        Some((above, name)) => (above, vec![Path::from(name)]),
        None => (place.clone(), NAMES.map(Path::from).to_vec()),
    };
    if above.folder().is_some_and(|folder| !folder.is_dir()) {
        return Ok(None);
    }
    let store = prepared::open(&above).await?;
    for key in names {
        let Some(bytes) = bounded(&store, &key).await? else { continue };
        let reading = || format!("reading `{key}` in `{above}`");
        let bytes = if key.as_ref().ends_with("gz") { artifact(&bytes).with_context(reading)? } else { bytes };
        return Model::from_bytes(&bytes).map(Some).with_context(reading);
    }
    Ok(None)
}

/// What is above a place that is named as a file, and the file's name.
fn split(place: &Place) -> Option<(Place, String)> {
    let is_file = |name: &str| [".bin", ".tar.gz", ".tgz"].iter().any(|end| name.ends_with(end));
    match place {
        Place::Folder(path) => {
            let name = path.file_name()?.to_str().filter(|name| is_file(name))?.to_owned();
            let above = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            Some((Place::Folder(above.unwrap_or(".".as_ref()).to_owned()), name))
        }
        Place::S3 { bucket, prefix } => {
            let name = prefix.filename().filter(|name| is_file(name))?.to_owned();
            let parts: Vec<_> = prefix.parts().collect();
            let above = parts.into_iter().rev().skip(1).collect::<Vec<_>>().into_iter().rev();
            Some((Place::S3 { bucket: bucket.clone(), prefix: above.collect() }, name))
        }
    }
}

/// An object that is no larger than an archive may be; `None` where there is none.
async fn bounded(store: &Store, key: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match store.tail(key, MAX_PACKED as u64 + 1).await {
        Ok((bytes, size)) => {
            ensure!(size <= MAX_PACKED as u64, "`{key}` in `{}` has {size} bytes: too many", store.place());
            Ok(Some(bytes.to_vec()))
        }
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// The artifact in a gzipped tar archive.
///
/// # Errors
/// The archive is damaged, too large, holds names that lead out of a folder or links, or has no artifact.
pub fn artifact(packed: &[u8]) -> anyhow::Result<Vec<u8>> {
    ensure!(packed.len() <= MAX_PACKED, "the archive has {} bytes, more than a model's can have", packed.len());
    let mut tar = Vec::new();
    let mut unpacked = flate2::read::MultiGzDecoder::new(packed).take(MAX_PACKED as u64 + 1);
    unpacked.read_to_end(&mut tar).context("the archive is damaged, or no gzip")?;
    ensure!(tar.len() <= MAX_PACKED, "the archive unpacks to more than {MAX_PACKED} bytes, which no model has");
    let mut found = None;
    let mut rest = tar.as_slice();
    while let Some((header, after)) = rest.split_first_chunk::<BLOCK>() {
        // Two empty blocks end it.
        if header.iter().all(|&byte| byte == 0) {
            rest = &[];
            break;
        }
        let entry = Entry::read(header)?;
        let padded = entry.bytes.checked_next_multiple_of(BLOCK).filter(|&padded| padded <= after.len());
        let (content, next) = after.split_at(padded.context("the archive is cut short")?);
        rest = next;
        match entry.kind {
            b'0' | 0 => {
                let name = plain_name(&entry.name)?;
                if name == ARTIFACT {
                    ensure!(found.is_none(), "the archive has more than one `{ARTIFACT}`");
                    ensure!(entry.bytes <= MAX_BYTES, "its `{ARTIFACT}` has {} bytes: too many", entry.bytes);
                    found = Some(content[..entry.bytes].to_vec());
                }
            }
            b'5' => drop(plain_name(&entry.name)?),
            // Long names and times of what follows: no artifact needs them.
            b'x' | b'g' | b'L' => {}
            kind => bail!("the archive has `{}` of kind `{}`: a link or a device", entry.name, kind.escape_ascii()),
        }
    }
    ensure!(rest.is_empty(), "the archive is cut short");
    found.with_context(|| format!("the archive has no `{ARTIFACT}`"))
}

/// What the header of an entry says.
struct Entry {
    name: String,
    kind: u8,
    bytes: usize,
}

impl Entry {
    fn read(header: &[u8; BLOCK]) -> anyhow::Result<Entry> {
        let (sum_from, sum_to) = (148, 156);
        let sum = header.iter().enumerate().fold(0_usize, |sum, (i, &byte)| {
            sum + usize::from(if (sum_from..sum_to).contains(&i) { b' ' } else { byte })
        });
        let said = octal(&header[sum_from..sum_to]);
        ensure!(said == Some(sum), "the archive is damaged, or no tar: a checksum is wrong");
        let text = |from: usize, to: usize| {
            let field = header[from..to].split(|&byte| byte == 0).next().unwrap_or_default();
            String::from_utf8_lossy(field).into_owned()
        };
        let prefix = if header[257..].starts_with(b"ustar\0") { text(345, 500) } else { String::new() };
        let name = if prefix.is_empty() { text(0, 100) } else { format!("{prefix}/{}", text(0, 100)) };
        let bytes = octal(&header[124..136]).with_context(|| format!("the archive gives `{name}` no size"))?;
        Ok(Entry { name, kind: header[156], bytes })
    }
}

/// A number as archives have it: octal digits with blanks around.
fn octal(field: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    usize::from_str_radix(text, 8).ok()
}

/// The name without `./` before it.
fn plain_name(name: &str) -> anyhow::Result<&str> {
    let plain = name.strip_prefix("./").unwrap_or(name);
    let leads_out = plain.starts_with('/') || plain.contains('\\') || plain.split('/').any(|part| part == "..");
    ensure!(!leads_out, "the archive has `{name}`, which leads out of its folder: it is refused");
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    /// An archive's entry.
    fn entry(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut header = [0; BLOCK];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        header[156] = kind;
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut bytes = [&header, content].concat();
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
        gzip(&[&entries.concat()[..], &[0; 2 * BLOCK]].concat())
    }

    #[test]
    fn the_artifact_is_found_among_other_files() {
        let pax = entry("PaxHeaders/model.bin", b'x', b"30 mtime=1700000000.123456789\n");
        for name in ["model.bin", "./model.bin"] {
            let others = [entry("./", b'5', b""), entry("notes.txt", b'0', &[7; 700]), pax.clone()];
            let packed = archive(&[&others[..], &[entry(name, b'0', &[1; 1000])]].concat());
            assert_eq!(artifact(&packed).unwrap(), [1; 1000]);
        }
    }

    #[test]
    fn what_can_be_no_model_is_refused_with_the_reason() {
        let model = entry("model.bin", b'0', &[1; 1000]);
        let good = archive(std::slice::from_ref(&model));
        let mut damaged = model.clone();
        damaged[3] ^= 1;
        for (packed, why) in [
            (b"no gzip".to_vec(), "no gzip"),
            (good[..good.len() / 2].to_vec(), "damaged"),
            (gzip(b"no tar"), "cut short"),
            (gzip(&[b'x'; BLOCK]), "no tar"),
            (archive(&[damaged]), "checksum"),
            (gzip(&model[..BLOCK + 100]), "cut short"),
            (archive(&[entry("notes.txt", b'0', b"x")]), "no `model.bin`"),
            (archive(&[]), "no `model.bin`"),
            (archive(&[model.clone(), model.clone()]), "more than one"),
            (archive(&[entry("../model.bin", b'0', b"x")]), "leads out"),
            (archive(&[entry("a/../../b", b'0', b"x"), model.clone()]), "leads out"),
            (archive(&[entry("/etc/passwd", b'0', b"x"), model.clone()]), "leads out"),
            (archive(&[entry("model.bin", b'2', b"")]), "a link"),
            (gzip(&vec![0; MAX_PACKED + 1]), "unpacks to more"),
            (vec![0; MAX_PACKED + 1], "more than a model's"),
            (archive(&[entry("model.bin", b'0', &vec![0; MAX_BYTES + 1])]), "too many"),
        ] {
            let said = format!("{:#}", artifact(&packed).unwrap_err());
            assert!(said.contains(why), "{said} lacks {why}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000), place in 0..1500_usize) {
            let _ = artifact(&bytes);
            let _ = artifact(&gzip(&bytes));
            let mut tar = entry("model.bin", b'0', &[1; 900]);
            tar.splice(place.min(tar.len()).., bytes);
            let _ = artifact(&gzip(&tar));
        }
    }
}
