//! Clients of AWS's services for one region.
//!
//! Only services of which several calls are needed have their SDK here. Of EC2, IAM and Glue a few calls are needed and
//! the SDKs are enormous (each takes longer to compile than this whole program), so those are made by hand.

use std::time::Duration;

use aws_config::{Region, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_cloudformation::error::{ProvideErrorMetadata, SdkError};

/// How often a call is tried that is throttled or gets no answer, with AWS's back-off between.
const ATTEMPTS: u32 = 8;

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(30);

/// There is no region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "no AWS region is named\nhint: `--region eu-central-1`, `region` in vitals.toml, AWS_REGION, or `region` of the profile"
)]
pub struct NoRegion;

/// Whom we are to AWS, where, and how services are called.
#[derive(Debug, Clone)]
pub struct Access {
    config: SdkConfig,
    region: String,
}

impl Access {
    /// Access in a region, or in the one that environment, profile or machine name.
    ///
    /// # Errors
    /// [`NoRegion`], [`NoCredentials`].
    pub async fn new(region: Option<&str>) -> anyhow::Result<Access> {
        let region = match region {
            Some(region) => region.to_owned(),
            None => super::region().await.ok_or(NoRegion)?,
        };
        super::credentials().await?;
        let config = super::config().await;
        Ok(Access::with(config, region))
    }

    /// Access by given settings: for tests.
    pub(crate) fn with(config: SdkConfig, region: String) -> Access {
        let config = config
            .to_builder()
            .region(Region::new(region.clone()))
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .timeout_config(TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT).build())
            .build();
        Access { config, region }
    }

    /// The region, such as `eu-central-1`.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// What any client of AWS's SDKs is made from.
    pub fn config(&self) -> &SdkConfig {
        &self.config
    }
}

/// A call that a service refused, or that did not reach it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{doing}: {message}{}", self.hint())]
pub struct CallFailed {
    /// What was being done, as the beginning of a sentence.
    pub doing: String,
    /// The service's code, such as `AccessDenied`; `None` where it did not answer.
    pub code: Option<String>,
    /// What the service or the connection said.
    pub message: String,
}

/// What services answer to credentials that are not good (any more).
pub(crate) const NOT_GOOD: [&str; 9] = [
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "InvalidAccessKeyId",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
];

impl CallFailed {
    /// What a service answered by hand-made calls.
    pub(super) fn new(doing: &str, status: u16, code: Option<&str>, message: Option<&str>) -> CallFailed {
        let message = match (message, code) {
            (Some(message), Some(code)) => format!("{message} ({code})"),
            (Some(message), None) => message.to_owned(),
            (None, Some(code)) => code.to_owned(),
            (None, None) => format!("the service answers {status}"),
        };
        CallFailed { doing: doing.to_owned(), code: code.map(str::to_owned), message }
    }

    /// Whether the service has this code for it.
    pub fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// The credentials are no good: expired, of another account, wrong.
    pub fn is_about_credentials(&self) -> bool {
        self.code.as_deref().is_some_and(|code| NOT_GOOD.contains(&code))
    }

    /// Who asks may not do this.
    pub fn is_denied(&self) -> bool {
        let denied = ["AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "UnauthorizedException"];
        self.code.as_deref().is_some_and(|code| denied.contains(&code))
    }

    /// Whether the same call may go well later: nobody answered, or the service was busy.
    pub fn may_pass(&self) -> bool {
        let passing = ["Throttl", "TooManyRequests", "RequestLimitExceeded", "Unavailable", "Internal"];
        self.code.as_deref().is_none_or(|code| passing.iter().any(|word| code.contains(word)))
    }

    /// The same; where it was denied, with the permission that it needs, unless the service says that itself.
    pub fn needing(mut self, action: &str) -> CallFailed {
        if self.is_denied() && !self.message.contains(action) {
            self.message.push_str(&format!("; it needs the permission `{action}`"));
        }
        self
    }

    /// What was asked for is not there, as CloudFormation says it.
    pub fn is_absent(&self) -> bool {
        self.code.as_deref() == Some("ValidationError") && self.message.contains("does not exist")
    }

    fn hint(&self) -> &'static str {
        match () {
            () if self.is_about_credentials() => {
                "\nhint: `aws sso login`, or new AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN; \
                 signatures also fail where the clock is wrong"
            }
            () if self.is_denied() => "\nhint: `vitals doctor` shows who you are to AWS and what is missing",
            () => "",
        }
    }
}

/// Turns what an SDK says of a failed call into words; `doing` is the beginning of the sentence, such as `asking for the
/// stack`.
pub fn failed<E, R>(doing: impl Into<String>) -> impl FnOnce(SdkError<E, R>) -> CallFailed
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    R: std::fmt::Debug + Send + Sync + 'static,
{
    let doing = doing.into();
    move |error| {
        let Some(refused) = error.as_service_error() else {
            return CallFailed { doing, code: None, message: causes(&error) };
        };
        let code = refused.code().map(str::to_owned);
        let message = match (refused.message(), &code) {
            (Some(message), Some(code)) => format!("{message} ({code})"),
            (Some(message), None) => message.to_owned(),
            (None, Some(code)) => code.clone(),
            (None, None) => refused.to_string(),
        };
        CallFailed { doing, code, message }
    }
}

/// An error and what caused it; those of connections say the least at the top.
pub(crate) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}
