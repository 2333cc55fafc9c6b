//! The one layer: the program, and what a process wants to find in its root.

use std::{fs::File, io::BufWriter, path::Path};

use anyhow::Context;
use base64::Engine;
use flate2::{Compression, GzBuilder};

use super::{Blob, Program, Summing, hex_of, manifest, tar::Archive};

/// Where TLS clients find the authorities they trust.
pub const AUTHORITIES: &str = "etc/ssl/certs/ca-certificates.crt";

const PASSWD: &str = "root:x:0:0:root:/tmp:/nologin\nvitals:x:65532:65532:vitals:/tmp:/nologin\n";
const GROUP: &str = "root:x:0:\nvitals:x:65532:\n";
const NAMES: &str = "passwd: files\ngroup: files\nhosts: files dns\n";

/// Smaller is not worth the time: the level above saves 1 %.
const LEVEL: u32 = 6;

/// A layer, and the digest of what it is unpacked.
pub struct Layer {
    pub blob: Blob,
    pub diff_id: String,
}

/// Builds the layer in a folder. `alone`: there is nothing under it, so it has everything that the program needs; on a base
/// there is only the program, as certificates, users and `/tmp` are the base's own.
pub fn build(program: &Program, folder: &Path, alone: bool, epoch_s: u64) -> anyhow::Result<Layer> {
    let doing = || format!("writing the layer with `{}`", program.path.display());
    let packed = folder.join("layer");
    let file = Summing::new(BufWriter::new(File::create(&packed).with_context(doing)?));
    // Neither name, time nor system, which the usual header has.
    let gzip = GzBuilder::new().mtime(0).operating_system(255).write(file, Compression::new(LEVEL));
    let mut archive = Archive::new(Summing::new(gzip), epoch_s);
    // In the order of their paths.
    if alone {
        let mut put = || {
            archive.folder("etc", 0o755)?;
            archive.bytes("etc/group", 0o644, GROUP.as_bytes())?;
            archive.bytes("etc/nsswitch.conf", 0o644, NAMES.as_bytes())?;
            archive.bytes("etc/passwd", 0o644, PASSWD.as_bytes())?;
            archive.folder("etc/ssl", 0o755)?;
            archive.folder("etc/ssl/certs", 0o755)?;
            archive.bytes(AUTHORITIES, 0o644, authorities().as_bytes())?;
            archive.folder("tmp", 0o1777)
        };
        put().with_context(doing)?;
    }
    archive.file("vitals", 0o755, &program.path).with_context(doing)?;
    let (gzip, diff_id, _) = archive.finish().with_context(doing)?.finish();
    let (file, digest, size) = gzip.finish().with_context(doing)?.finish();
    file.into_inner().map_err(std::io::IntoInnerError::into_error).with_context(doing)?;
    let path = folder.join(hex_of(&digest));
    std::fs::rename(packed, &path).with_context(doing)?;
    Ok(Layer { blob: Blob { media_type: manifest::LAYER, digest, size, path }, diff_id })
}

/// Mozilla's authorities, PEM.
pub fn authorities() -> String {
    let mut text = String::new();
    for certificate in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = base64::engine::general_purpose::STANDARD.encode(certificate);
        for line in encoded.as_bytes().chunks(64) {
            text.extend(line.iter().map(|byte| char::from(*byte)));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}
