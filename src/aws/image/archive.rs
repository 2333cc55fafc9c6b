//! An image as files: an OCI image layout, which also has the list that `docker load` reads. As a folder or in a `.tar`.

use std::{
    fs,
    io::BufWriter,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde_json::json;

use super::{Blob, Image, hex_of, tar::Archive};

/// Writes an image to a folder, or to a file where the name ends in `.tar`.
pub fn save(image: &Image, path: &Path) -> anyhow::Result<()> {
    let doing = || format!("writing `{}`", path.display());
    let texts = texts(image)?;
    let blobs: Vec<&Blob> = image.blobs().chain([&image.manifest]).collect();
    if path.extension().is_some_and(|extension| extension == "tar") {
        return save_file(path, &texts, &blobs).with_context(doing);
    }
    let used = fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
    if used {
        bail!("`{}` is a folder with something in it\nhint: name one that is not there yet", path.display());
    }
    fs::create_dir_all(path.join("blobs/sha256")).with_context(doing)?;
    for blob in blobs {
        fs::copy(&blob.path, path.join(place(blob))).with_context(doing)?;
    }
    for (name, text) in texts {
        fs::write(path.join(name), text).with_context(doing)?;
    }
    Ok(())
}

/// Writes beside the place of the file and renames it then, so that there is no half of one.
fn save_file(path: &Path, texts: &[(&str, Vec<u8>)], blobs: &[&Blob]) -> anyhow::Result<()> {
    let folder =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(PathBuf::from("."), Path::to_owned);
    let mut builder = tempfile::Builder::new();
    // Others may read it as any other file, unlike what is only temporary.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let part = builder.tempfile_in(folder)?;
    let mut archive = Archive::new(BufWriter::new(part.as_file()), 0);
    archive.folder("blobs", 0o755)?;
    archive.folder("blobs/sha256", 0o755)?;
    for blob in blobs {
        archive.file(&place(blob), 0o644, &blob.path)?;
    }
    for (name, text) in texts {
        archive.bytes(name, 0o644, text)?;
    }
    archive.finish()?.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
    part.persist(path)?;
    Ok(())
}

/// The files beside the blobs.
fn texts(image: &Image) -> anyhow::Result<[(&'static str, Vec<u8>); 3]> {
    let mut manifest = image.manifest.descriptor();
    manifest["platform"] = json!({ "architecture": image.architecture.to_string(), "os": "linux" });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    let list = json!([{
        "Config": place(&image.config),
        "RepoTags": [format!("vitals:{}", image.own_tag())],
        "Layers": image.layers.iter().map(place).collect::<Vec<_>>(),
    }]);
    Ok([
        ("index.json", serde_json::to_vec(&index)?),
        ("manifest.json", serde_json::to_vec(&list)?),
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
    ])
}

/// Where a blob lies in the layout.
fn place(blob: &Blob) -> String {
    format!("blobs/sha256/{}", hex_of(&blob.digest))
}
