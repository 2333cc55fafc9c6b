//! How a body gets to CloudFormation: inline where it is small enough, else through a bucket.

use aws_sdk_cloudformation::operation::create_change_set::builders::CreateChangeSetFluentBuilder;
use sha2::{Digest, Sha256};

use super::template::MAX_BODY_BYTES;
use crate::aws::{
    clients::{Access, CallFailed, failed},
    service::{self, Request, Service},
};

/// What CloudFormation takes by address.
const MAX_BYTES: usize = 1_000_000;

/// A body where CloudFormation finds it.
#[derive(Debug, Clone)]
pub enum Body {
    Inline(String),
    /// At this address in a bucket.
    At(String),
}

impl Body {
    /// Brings a body to where CloudFormation finds it: one that is too large to be sent goes into a bucket of the account for
    /// such templates, which is made where it is not there. Its name is that of its content, so that it is stored once.
    ///
    /// # Errors
    /// Where the bucket can't be made or written to.
    pub async fn of(access: &Access, text: String) -> anyhow::Result<Body> {
        if text.len() <= MAX_BODY_BYTES {
            return Ok(Body::Inline(text));
        }
        anyhow::ensure!(
            text.len() <= MAX_BYTES,
            "the template has {} bytes; CloudFormation takes {MAX_BYTES}",
            text.len()
        );
        let bucket = bucket(access).await?;
        let hash: String = Sha256::digest(text.as_bytes()).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let s3 = Service::regional(access, "s3").await;
        let path = format!("/{bucket}/template-{hash}.json");
        let put = Request { method: "PUT", path: &path, headers: &[("content-type", "application/json")], body: &text };
        match call(&s3, "storing the template", &put).await {
            Err(refused) if refused.code.as_deref() == Some("NoSuchBucket") => {
                make(&s3, access.region(), &bucket).await?;
                call(&s3, "storing the template", &put).await?;
            }
            stored => stored?,
        }
        let url = s3.url.trim_end_matches('/');
        // The bucket's own address, as AWS wants it; what stands in for AWS has only one for all.
        let own =
            url.strip_prefix("https://s3.").map(|rest| format!("https://{bucket}.s3.{rest}/template-{hash}.json"));
        Ok(Body::At(own.unwrap_or_else(|| format!("{url}{path}"))))
    }

    /// Puts it into a request.
    pub(super) fn give(&self, call: CreateChangeSetFluentBuilder) -> CreateChangeSetFluentBuilder {
        match self {
            Body::Inline(text) => call.template_body(text),
            Body::At(url) => call.template_url(url),
        }
    }
}

/// The account's bucket for templates, in the region where CloudFormation reads it.
pub async fn bucket(access: &Access) -> Result<String, CallFailed> {
    let who = aws_sdk_sts::Client::new(access.config()).get_caller_identity().send().await;
    let who = who.map_err(failed("asking who we are"))?;
    Ok(format!("vitals-templates-{}-{}", who.account().unwrap_or("unknown"), access.region()))
}

/// Makes the bucket. New buckets are private and encrypted, without a word.
async fn make(s3: &Service, region: &str, bucket: &str) -> Result<(), CallFailed> {
    let body = match region {
        "us-east-1" => String::new(),
        _ => format!(
            "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><LocationConstraint>{region}\
             </LocationConstraint></CreateBucketConfiguration>"
        ),
    };
    let path = format!("/{bucket}");
    call(s3, "making a bucket for the template", &Request { method: "PUT", path: &path, headers: &[], body: &body })
        .await
}

async fn call(s3: &Service, doing: &str, request: &Request<'_>) -> Result<(), CallFailed> {
    let failed = |message: String| CallFailed { doing: doing.to_owned(), code: None, message };
    let answer = s3.send(request).await.map_err(|e| failed(format!("{e:#}")))?;
    let text = String::from_utf8_lossy(&answer.body);
    if (200..300).contains(&answer.status) { Ok(()) } else { Err(service::refusal(doing, answer.status, &text)) }
}
