//! What a deleted stack leaves behind on purpose, and taking that away as well.

use anyhow::Context;
use quick_xml::escape::escape;
use serde::Deserialize;
use serde_json::json;

use super::Held;
use crate::aws::{
    clients::{Access, CallFailed},
    service::{self, Request, Service},
};

/// The most objects that one call deletes.
const AT_ONCE: usize = 1000;

/// How long a key waits for its end, the least that KMS takes: until then it can be had back.
const KEY_DAYS: u32 = 7;

/// Takes one leftover away; says in words what was done, or `None` where it was gone.
///
/// # Errors
/// Where the service refuses.
pub async fn remove(access: &Access, held: &Held, mut progress: impl FnMut(u64)) -> anyhow::Result<Option<String>> {
    let id = held.physical.as_str();
    match held.kind.as_str() {
        "AWS::S3::Bucket" => {
            let bucket = Bucket::of(access, id).await;
            let emptied = match bucket.empty(&mut progress).await {
                Err(error) if is_gone(&error) => return Ok(None),
                emptied => emptied?,
            };
            bucket.call("DELETE", "", "", &[]).await?;
            Ok(Some(format!("bucket {id} with {emptied} versions of objects deleted")))
        }
        "AWS::KMS::Key" => {
            let body = json!({ "KeyId": id, "PendingWindowInDays": KEY_DAYS });
            let kms = Service::regional(access, "kms").await;
            let done = kms.json("ending the key", "TrentService.ScheduleKeyDeletion", &body).await;
            gone_or(done.map(|_| {
                format!("key {id} ends in {KEY_DAYS} days; until then `aws kms cancel-key-deletion` keeps it")
            }))
        }
        "AWS::Logs::LogGroup" => {
            let logs = Service::regional(access, "logs").await;
            let body = json!({ "logGroupName": id });
            let done = logs.json("deleting the log group", "Logs_20140328.DeleteLogGroup", &body).await;
            gone_or(done.map(|_| format!("log group {id} deleted")))
        }
        // Gone with what it was in, such as a topic with its cluster.
        _ => Ok(None),
    }
}

fn gone_or(done: anyhow::Result<String>) -> anyhow::Result<Option<String>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_gone(error: &anyhow::Error) -> bool {
    let gone = ["NoSuchBucket", "NotFoundException", "ResourceNotFoundException", "KMSInvalidStateException"];
    let refused = error.downcast_ref::<CallFailed>().and_then(|refused| refused.code.as_deref());
    refused.is_some_and(|code| gone.contains(&code))
}

/// A bucket, as far as it takes to empty it.
struct Bucket {
    service: Service,
    /// Before the query.
    path: String,
}

/// One page of what is in a bucket.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default)]
    version: Vec<Version>,
    #[serde(default)]
    delete_marker: Vec<Version>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    key: String,
    version_id: String,
}

/// What S3 could not delete.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Deleted {
    #[serde(default)]
    error: Vec<NotDeleted>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NotDeleted {
    key: String,
    message: Option<String>,
}

impl Bucket {
    async fn of(access: &Access, name: &str) -> Bucket {
        // By path: the address by host name would need one for each bucket, which stand-ins don't have.
        Bucket { service: Service::regional(access, "s3").await, path: format!("/{name}") }
    }

    /// Deletes every version of every object, and says how many. What begins to come in meanwhile is deleted too.
    async fn empty(&self, progress: &mut impl FnMut(u64)) -> anyhow::Result<u64> {
        let mut done = 0;
        loop {
            let text = self.call("GET", &format!("?max-keys={AT_ONCE}&versions="), "", &[]).await?;
            let page: Page = quick_xml::de::from_str(&text).context("reading what is in a bucket")?;
            let versions: Vec<_> = page.version.into_iter().chain(page.delete_marker).collect();
            if versions.is_empty() {
                return Ok(done);
            }
            let object = |v: &Version| {
                format!(
                    "<Object><Key>{}</Key><VersionId>{}</VersionId></Object>",
                    escape(&v.key),
                    escape(&v.version_id)
                )
            };
            let objects: String = versions.iter().map(object).collect();
            let body = format!("<Delete><Quiet>true</Quiet>{objects}</Delete>");
            let hash = sha256_base64(body.as_bytes());
            let text = self.call("POST", "?delete=", &body, &[("x-amz-checksum-sha256", &hash)]).await?;
            let deleted: Deleted = quick_xml::de::from_str(&text).context("reading what was deleted")?;
            if let Some(first) = deleted.error.first() {
                let why = first.message.as_deref().unwrap_or("no reason is given");
                anyhow::bail!("{} objects could not be deleted, first `{}`: {why}", deleted.error.len(), first.key);
            }
            done += versions.len() as u64;
            progress(done);
        }
    }

    async fn call(
        &self,
        method: &'static str,
        query: &str,
        body: &str,
        headers: &[(&'static str, &str)],
    ) -> anyhow::Result<String> {
        let path = format!("{}{query}", self.path);
        let answer = self.service.send(&Request { method, path: &path, headers, body }).await?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        if (200..300).contains(&answer.status) {
            Ok(text)
        } else {
            Err(service::refusal("emptying a bucket", answer.status, &text).into())
        }
    }
}

fn sha256_base64(bytes: &[u8]) -> String {
    use base64::Engine;
    use sha2::{Digest, Sha256};
    base64::engine::general_purpose::STANDARD.encode(Sha256::digest(bytes))
}
