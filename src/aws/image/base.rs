//! An image that is pulled, to lay the layer on.

use std::path::Path;

use anyhow::{Context, bail};
use serde_json::Value;

use super::{
    Architecture, Auth, Blob, Reference, hex_of, is_digest, manifest,
    registry::{MANIFESTS, Registry},
};

/// The layers of a base and its configuration.
pub struct Base {
    pub config: Value,
    pub layers: Vec<Blob>,
}

/// Pulls an image for these processors into a folder.
///
/// # Errors
/// Where it can't be had, is not for these processors, or has layers of a form that Docker's manifests don't know.
pub async fn pull(reference: &Reference, architecture: Architecture, folder: &Path) -> anyhow::Result<Base> {
    let pulling = || format!("pulling the base image {reference}");
    let registry = Registry::to_pull(&reference.host, &reference.repository, Auth::to_pull(&reference.host).await?)?;
    let mut manifest = read(&registry, &reference.version).await.with_context(pulling)?;
    if let Some(list) = manifest["manifests"].as_array() {
        let version = one_of(list, architecture).with_context(pulling)?;
        manifest = read(&registry, version).await.with_context(pulling)?;
    }
    let digest = digest_in(&manifest["config"]).with_context(pulling)?;
    let file = folder.join("base-config");
    registry.fetch(digest, &file).await.with_context(pulling)?;
    let config: Value = serde_json::from_slice(&std::fs::read(&file)?).with_context(pulling)?;
    let (system, machine) = (config["os"].as_str(), config["architecture"].as_str());
    if system != Some("linux") || machine != Some(&architecture.to_string()) {
        let found = [system, machine].map(|text| text.unwrap_or("unknown")).join("/");
        bail!("the base image {reference} is for {found}, and the program for linux/{architecture}");
    }
    let mut layers = Vec::new();
    for layer in manifest["layers"].as_array().into_iter().flatten() {
        let form = layer["mediaType"].as_str().unwrap_or_default();
        if form != manifest::LAYER && form != "application/vnd.oci.image.layer.v1.tar+gzip" {
            bail!("the base image {reference} has a layer of the form `{form}`; only such in tar and gzip are taken");
        }
        let digest = digest_in(layer).with_context(pulling)?;
        let path = folder.join(hex_of(digest));
        let size = registry.fetch(digest, &path).await.with_context(pulling)?;
        layers.push(Blob { media_type: manifest::LAYER, digest: digest.to_owned(), size, path });
    }
    Ok(Base { config, layers })
}

async fn read(registry: &Registry, version: &str) -> anyhow::Result<Value> {
    let (form, bytes) = registry.manifest(version).await?;
    if !MANIFESTS.contains(&&*form) {
        bail!("its manifest has the form `{form}`, which is not known here");
    }
    serde_json::from_slice(&bytes).context("its manifest is no JSON")
}

/// The digest of the image of a list that is for these processors.
fn one_of(list: &[Value], architecture: Architecture) -> anyhow::Result<&str> {
    let architecture = architecture.to_string();
    let is_ours = |image: &&Value| {
        let platform = &image["platform"];
        platform["os"] == "linux" && platform["architecture"] == *architecture
    };
    let image = list.iter().find(is_ours).with_context(|| format!("there is none for linux/{architecture}"))?;
    digest_in(image)
}

fn digest_in(descriptor: &Value) -> anyhow::Result<&str> {
    let digest = descriptor["digest"].as_str().filter(|digest| is_digest(digest));
    digest.context("its manifest has something else in the place of a digest")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_list_the_image_for_these_processors_is_taken() {
        let [a, b] = ["a", "b"].map(|digit| format!("sha256:{}", digit.repeat(64)));
        let list = [
            json!({"digest": a, "platform": {"os": "linux", "architecture": "amd64"}}),
            json!({"digest": b, "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}}),
        ];
        assert_eq!(one_of(&list, Architecture::Amd64).unwrap(), a);
        assert_eq!(one_of(&list, Architecture::Arm64).unwrap(), b);
        let none = one_of(&list[..1], Architecture::Arm64).unwrap_err().to_string();
        assert_eq!(none, "there is none for linux/arm64");
        let other = [json!({"digest": "md5:0", "platform": {"os": "linux", "architecture": "amd64"}})];
        assert!(one_of(&other, Architecture::Amd64).is_err());
    }
}
