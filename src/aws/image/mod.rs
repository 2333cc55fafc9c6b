//! The container image of this program: built and pushed without Docker.
//!
//! ECS tasks, SageMaker jobs and Spark's tasks all run the one binary. Its image has one layer, in which there is
//! nothing but that binary, linked statically, and the few files that a process wants to find in its root:
//!
//! | path | what it is |
//! |---|---|
//! | `/vitals` | the program, entry point in exec form, so that SageMaker's `train` and signals reach it |
//! | `/etc/ssl/certs/ca-certificates.crt` | Mozilla's certificate authorities, as this program was compiled with them |
//! | `/etc/passwd`, `/etc/group` | `root`, and `vitals` with the numbers 65532:65532 |
//! | `/etc/nsswitch.conf` | names are looked up in `/etc/hosts` first, then asked of DNS |
//! | `/tmp` | the working folder |
//!
//! The authorities are those compiled in, not those of the machine that builds, so that the image is the same wherever it
//! is built. The TLS clients of this program all read that one file: rustls looks for it (and in `SSL_CERT_FILE`, which
//! the image sets), librdkafka has it in the list of places that it probes.
//!
//! The image names no user, so a container runs as root unless it is told otherwise: SageMaker mounts `/opt/ml` for root
//! only and has no setting for the user. Where there is one (`user` of an ECS task), `65532:65532` is right.
//!
//! Of what every container engine puts beside it, the program needs `/dev/random` and `/dev/urandom` (a static program
//! can't look up `getrandom`, so the crate of that name reads those), and `/etc/resolv.conf` and `/etc/hosts` to find others.
//!
//! **The same program gives the same digest**, on any machine: entries are sorted, owned by 0:0, of one time
//! (`SOURCE_DATE_EPOCH`, else 1970), and compressed by the compiled-in zlib at one level.
//!
//! Manifests are Docker's version 2, schema 2, one per tag: SageMaker takes no others.
//!
//! | file | what it is |
//! |---|---|
//! | `program` | what the header of a binary says of it |
//! | `layer` | the one layer; `tar` writes archives |
//! | `base` | an image that is pulled, to lay the layer on |
//! | `manifest` | configuration and manifest |
//! | `archive` | an image as a folder or file |
//! | `reference` | names of images |
//! | `registry` | a registry's protocol; `auth` who we are there |
//! | `push` | an image → a registry |

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

mod archive;
mod auth;
mod base;
mod layer;
mod manifest;
mod program;
mod push;
mod reference;
mod registry;
mod tar;

pub use auth::Auth;
pub use program::{Architecture, Program, ProgramError, STATIC_BUILD};
pub use push::{Pushed, TagTaken, push};
pub use reference::{Reference, Target};
pub use registry::RegistryError;

/// Content that a registry keeps under its digest. It is a file in the image's folder.
#[derive(Debug, Clone)]
pub struct Blob {
    media_type: &'static str,
    digest: String,
    size: u64,
    path: PathBuf,
}

impl Blob {
    /// Keeps bytes as a file of the image.
    fn of_bytes(folder: &Path, media_type: &'static str, bytes: &[u8]) -> anyhow::Result<Blob> {
        let digest = digest_of(bytes);
        let path = folder.join(hex_of(&digest));
        std::fs::write(&path, bytes).with_context(|| format!("writing `{}`", path.display()))?;
        Ok(Blob { media_type, digest, size: bytes.len() as u64, path })
    }

    /// How a manifest refers to it.
    fn descriptor(&self) -> serde_json::Value {
        serde_json::json!({ "mediaType": self.media_type, "size": self.size, "digest": self.digest })
    }
}

/// An image. Its files are removed when it is dropped.
#[derive(Debug)]
pub struct Image {
    architecture: Architecture,
    config: Blob,
    layers: Vec<Blob>,
    manifest: Blob,
    // What the blobs' paths lie in.
    _folder: TempDir,
}

impl Image {
    /// Builds the image of a program, alone or on a base, with `epoch_s` (seconds since 1970 UTC) as the time of its files.
    ///
    /// # Errors
    /// Where the program could not run in it, where the base can't be pulled, is for other machines or of another kind, or
    /// where files can't be written.
    pub async fn build(program: &Program, base: Option<&Reference>, epoch_s: u64) -> anyhow::Result<Image> {
        let folder = tempfile::Builder::new().prefix("vitals-image-").tempdir().context("making a folder")?;
        if base.is_none() {
            program.runs_alone()?;
        }
        let base = match base {
            Some(reference) => Some(base::pull(reference, program.architecture, folder.path()).await?),
            None => None,
        };
        let (source, place, alone) = (program.clone(), folder.path().to_owned(), base.is_none());
        let layer = tokio::task::spawn_blocking(move || layer::build(&source, &place, alone, epoch_s)).await??;
        let diff_id = layer.diff_id;
        let config = match &base {
            Some(base) => manifest::config_on(&base.config, &diff_id, epoch_s)?,
            None => manifest::config_alone(program.architecture, &diff_id, epoch_s),
        };
        let config = Blob::of_bytes(folder.path(), manifest::CONFIG, &serde_json::to_vec(&config)?)?;
        let mut layers = base.map_or_else(Vec::new, |base| base.layers);
        layers.push(layer.blob);
        let manifest = Blob::of_bytes(folder.path(), manifest::MANIFEST, &manifest::manifest(&config, &layers)?)?;
        Ok(Image { architecture: program.architecture, config, layers, manifest, _folder: folder })
    }

    /// The image's name for registries: `sha256:` and 64 hexadecimal digits.
    pub fn digest(&self) -> &str {
        &self.manifest.digest
    }

    /// The processors it is for.
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// The bytes that a registry keeps of it.
    pub fn size(&self) -> u64 {
        self.blobs().map(|blob| blob.size).sum::<u64>() + self.manifest.size
    }

    /// A tag that no other image has: the version of this program and the beginning of the digest.
    pub fn own_tag(&self) -> String {
        format!("{}-{}", env!("CARGO_PKG_VERSION"), &hex_of(&self.manifest.digest)[..12])
    }

    /// What has to be there before the manifest: the layers and the configuration.
    fn blobs(&self) -> impl Iterator<Item = &Blob> {
        self.layers.iter().chain([&self.config])
    }

    /// Writes the image: a file that `docker load` takes where the path ends in `.tar`, else a folder, an OCI image layout.
    ///
    /// # Errors
    /// Where it can't be written, or the folder has something in it.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        archive::save(self, path)
    }
}

/// `sha256:` and the sum of bytes.
fn digest_of(bytes: &[u8]) -> String {
    digest_text(Sha256::digest(bytes).as_slice())
}

fn digest_text(sum: &[u8]) -> String {
    sum.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// The digits of a digest.
fn hex_of(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

/// Whether a text is a digest as this program makes and takes them.
fn is_digest(text: &str) -> bool {
    let hex = text.strip_prefix("sha256:").unwrap_or_default();
    hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Passes bytes on and keeps their sum and number.
struct Summing<W> {
    to: W,
    sum: Sha256,
    bytes: u64,
}

impl<W: Write> Summing<W> {
    fn new(to: W) -> Summing<W> {
        Summing { to, sum: Sha256::new(), bytes: 0 }
    }

    /// Where they went, their digest, and how many there were.
    fn finish(self) -> (W, String, u64) {
        (self.to, digest_text(self.sum.finalize().as_slice()), self.bytes)
    }
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.sum.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Copies a file of a known size in pieces of one size: what a compressor makes may depend on them.
fn copy(file: &mut File, size: u64, to: &mut impl Write) -> io::Result<()> {
    const PIECE: u64 = 128 * 1024;
    let mut left = size;
    let mut piece = vec![0; PIECE as usize];
    while left > 0 {
        let next = &mut piece[..left.min(PIECE) as usize];
        file.read_exact(next)?;
        to.write_all(next)?;
        left -= next.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
