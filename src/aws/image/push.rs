//! An image → a registry.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{
    Auth, Image, Target,
    registry::{Registry, RegistryError},
};

/// An image that is in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Its name for whoever pulls it: `HOST/REPO@sha256:…`.
    pub reference: String,
    pub digest: String,
    /// The tag that it is under.
    pub tag: String,
    /// It was there under this tag before; nothing was sent.
    pub already_there: bool,
}

/// Another image has the tag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "another image is at {host}/{repository}:{tag}: {found}, this one is {digest}\nhint: a tag stays with its image; name \
     another one, or none: then it is made of the version and the digest"
)]
pub struct TagTaken {
    pub host: String,
    pub repository: String,
    pub tag: String,
    /// The digest of the image that is there.
    pub found: String,
    /// The digest of the one that was to go there.
    pub digest: String,
}

/// Pushes an image: what the registry has is not sent again, and what fails for a moment is tried again. `sent` counts the
/// bytes, up to [`Image::size`], for whoever wants to show them.
///
/// # Errors
/// [`TagTaken`] where the tag is another image's; [`RegistryError`] where the registry refuses or can't be reached.
pub async fn push(image: &Image, target: &Target, auth: Auth, sent: &Arc<AtomicU64>) -> anyhow::Result<Pushed> {
    let Target { host, repository, tag } = target.clone();
    let registry = Registry::to_push(&host, &repository, auth)?;
    let tag = tag.unwrap_or_else(|| image.own_tag());
    let digest = image.digest().to_owned();
    let reference = format!("{host}/{repository}@{digest}");
    let taken = |found| TagTaken { host, repository, tag: tag.clone(), found, digest: digest.clone() };
    match registry.digest_under(&tag).await? {
        Some(found) if found == digest => {
            sent.store(image.size(), Relaxed);
            return Ok(Pushed { reference, digest, tag, already_there: true });
        }
        Some(found) => return Err(taken(found).into()),
        None => {}
    }
    for blob in image.blobs() {
        if registry.has(blob).await? {
            sent.fetch_add(blob.size, Relaxed);
        } else {
            registry.send(blob, sent).await?;
        }
    }
    let manifest = std::fs::read(&image.manifest.path)?;
    let stored = match registry.put_manifest(&tag, manifest).await {
        // Somebody else may have been first, where tags can't be moved.
        Err(error @ (RegistryError::Answer { .. } | RegistryError::Refused { .. })) => {
            match registry.digest_under(&tag).await {
                Ok(Some(found)) => found,
                _ => return Err(error.into()),
            }
        }
        stored => stored?,
    };
    if stored != digest {
        return Err(taken(stored).into());
    }
    sent.store(image.size(), Relaxed);
    Ok(Pushed { reference, digest, tag, already_there: false })
}
