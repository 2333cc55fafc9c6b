//! Configuration and manifest of an image, in Docker's forms.

use anyhow::Context;
use chrono::{DateTime, SecondsFormat};
use serde_json::{Value, json};

use super::{Architecture, Blob, layer};

/// An image's manifest, Docker's version 2, schema 2.
pub const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// An image's configuration.
pub const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// A layer, tar in gzip.
pub const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

const CREATED_BY: &str = "vitals image build";

/// The configuration of an image whose only layer unpacks to `diff_id`.
pub fn config_alone(architecture: Architecture, diff_id: &str, epoch_s: u64) -> Value {
    json!({
        "architecture": architecture.to_string(),
        "os": "linux",
        "created": time(epoch_s),
        "config": {
            "Entrypoint": ["/vitals"],
            "Env": ["PATH=/", format!("SSL_CERT_FILE=/{}", layer::AUTHORITIES)],
            "WorkingDir": "/tmp",
        },
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        "history": [{ "created": time(epoch_s), "created_by": CREATED_BY }],
    })
}

/// The configuration of a base with one layer more, whose entry point this program is. Environment, user and working folder
/// stay those of the base.
///
/// # Errors
/// Where the base's is no configuration of an image.
pub fn config_on(base: &Value, diff_id: &str, epoch_s: u64) -> anyhow::Result<Value> {
    let mut config = base.clone();
    let lists = "the base image's configuration has no list of layers";
    let layers = config.pointer_mut("/rootfs/diff_ids").and_then(Value::as_array_mut).context(lists)?;
    layers.push(json!(diff_id));
    if let Some(history) = config.get_mut("history").and_then(Value::as_array_mut) {
        history.push(json!({ "created": time(epoch_s), "created_by": CREATED_BY }));
    }
    config["created"] = json!(time(epoch_s));
    // Absent, null or an object.
    if !config["config"].is_object() {
        config["config"] = json!({});
    }
    config["config"]["Entrypoint"] = json!(["/vitals"]);
    if let Some(settings) = config["config"].as_object_mut() {
        // The arguments of the base's own entry point.
        settings.remove("Cmd");
    }
    Ok(config)
}

/// The bytes of a manifest.
pub fn manifest(config: &Blob, layers: &[Blob]) -> anyhow::Result<Vec<u8>> {
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor(),
        "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
    });
    Ok(serde_json::to_vec(&manifest)?)
}

fn time(epoch_s: u64) -> String {
    let time = i64::try_from(epoch_s).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    time.unwrap_or_default().to_rfc3339_opts(SecondsFormat::Secs, true)
}
