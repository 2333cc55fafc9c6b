//! Calls of AWS's services that speak JSON, for those of which a few calls are needed and the SDK is enormous.

use std::time::Duration;

use serde_json::Value;

use super::signed::{Asks, Signed};

/// How often a call is made that is throttled or gets no answer.
const ATTEMPTS: u32 = 8;

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// What services say when they are asked too often.
const THROTTLED: [&str; 6] = [
    "ThrottlingException",
    "Throttling",
    "TooManyRequestsException",
    "RequestLimitExceeded",
    "SlowDown",
    "OperationTimeoutException",
];

/// What they answer to credentials that are not good (any more).
const NOT_GOOD: [&str; 5] = [
    "ExpiredTokenException",
    "UnrecognizedClientException",
    "InvalidSignatureException",
    "InvalidClientTokenId",
    "MissingAuthenticationTokenException",
];

/// A call that a service refused, or that did not reach it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{service} {operation}: {message}{}", self.hint())]
pub struct CallError {
    /// The service, such as `glue`.
    pub service: &'static str,
    /// What it was asked for, such as `GetTable`.
    pub operation: String,
    /// Its code for what is wrong, such as `EntityNotFoundException`; `None` where there is no answer.
    pub code: Option<String>,
    /// What it or the connection says.
    pub message: String,
}

impl CallError {
    /// Whether the service has this code for it.
    pub fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// Whether the credentials are no good: expired, of another account, wrong.
    pub fn is_about_credentials(&self) -> bool {
        self.code.as_deref().is_some_and(|code| NOT_GOOD.contains(&code))
    }

    fn hint(&self) -> String {
        if self.is_about_credentials() {
            return "\nhint: `aws sso login`, or new AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN"
                .to_owned();
        }
        if self.is("AccessDeniedException") {
            return format!("\nhint: who asks needs {}:{}", self.service, self.operation);
        }
        String::new()
    }
}

/// A service in a region.
pub struct JsonService {
    service: &'static str,
    /// What stands before the operation in the header that names it.
    target: &'static str,
    endpoint: String,
    signed: Signed,
    first_pause: Duration,
}

impl JsonService {
    /// Glue's catalogue.
    ///
    /// # Errors
    /// Where this machine can make no encrypted connections.
    pub async fn glue(region: &str) -> anyhow::Result<JsonService> {
        let usual = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        let endpoint = super::endpoint("GLUE").await.unwrap_or_else(|| format!("https://glue.{region}.{usual}"));
        let (signed, first_pause) = (Signed::new("glue", region)?, Duration::from_millis(200));
        Ok(JsonService { service: "glue", target: "AWSGlue", endpoint, signed, first_pause })
    }

    /// Glue's catalogue on a server of a test.
    #[cfg(test)]
    pub(crate) fn glue_of_test(endpoint: &str) -> JsonService {
        JsonService {
            service: "glue",
            target: "AWSGlue",
            endpoint: endpoint.to_owned(),
            signed: Signed::of_test("glue"),
            first_pause: Duration::from_millis(1),
        }
    }

    /// Asks for an operation, again after a while where the service is busy or the answer was lost.
    ///
    /// # Errors
    /// [`CallError`], and [`super::NoCredentials`] where there are none.
    pub async fn call(&self, operation: &str, body: &Value) -> anyhow::Result<Value> {
        let body = body.to_string();
        let mut pause = self.first_pause;
        let mut attempt = 1;
        loop {
            let request = self.request(operation, &body).await?;
            let (error, again) = match self.attempt(operation, request).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            if !again || attempt == ATTEMPTS {
                return Err(error.into());
            }
            tracing::debug!(%error, attempt, "asking again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            attempt += 1;
        }
    }

    /// One attempt; an error says whether another is worth it.
    async fn attempt(&self, operation: &str, request: reqwest::Request) -> Result<Value, (CallError, bool)> {
        let failed = |code: Option<String>, message: String| CallError {
            service: self.service,
            operation: operation.to_owned(),
            code,
            message,
        };
        let unanswered = |what: String| (failed(None, format!("{}: {what}", self.endpoint)), true);
        let (status, _, bytes) = self.signed.send(request).await.map_err(unanswered)?;
        let said = serde_json::from_slice::<Value>(&bytes);
        if (200..300).contains(&status) {
            return said.map_err(|e| (failed(None, format!("its answer can't be read: {e}")), true));
        }
        let said = said.unwrap_or(Value::Null);
        let text = |names: [&str; 2]| names.iter().find_map(|name| said.get(*name)?.as_str());
        // `com.amazon.coral…#ThrottlingException` and the like.
        let code = text(["__type", "code"]).and_then(|code| code.rsplit('#').next()).map(str::to_owned);
        let message = text(["message", "Message"]).map_or_else(|| format!("it answers {status}"), str::to_owned);
        let throttled = code.as_deref().is_some_and(|code| THROTTLED.contains(&code));
        let message = code.as_ref().map_or(message.clone(), |code| format!("{message} ({code})"));
        Err((failed(code, message), throttled || status >= 500 || status == 429))
    }

    async fn request(&self, operation: &str, body: &str) -> anyhow::Result<reqwest::Request> {
        let target = format!("{}.{operation}", self.target);
        let address = format!("{}/", self.endpoint.trim_end_matches('/'));
        let headers = [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", target.as_str())];
        self.signed.request(&Asks { method: "POST", address: &address, headers: &headers, body }).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::aws::replay::Replay;

    async fn asked(answers: Vec<(u16, Value)>) -> (anyhow::Result<Value>, Replay) {
        let replay = Replay::start(move |asked| answers[asked.n.min(answers.len() - 1)].clone()).await;
        let outcome = JsonService::glue_of_test(&replay.endpoint).call("GetTable", &json!({"Name": "ä"})).await;
        (outcome, replay)
    }

    #[tokio::test]
    async fn a_call_is_signed_and_made_again_where_the_service_is_busy() {
        let throttled = (400, json!({"__type": "com.amazon.glue#ThrottlingException", "message": "Rate exceeded"}));
        let broken = (500, json!({"__type": "InternalServiceException"}));
        let (outcome, replay) = asked(vec![throttled, broken, (200, json!({"Table": 1}))]).await;
        assert_eq!(outcome.unwrap(), json!({"Table": 1}));
        let asked = replay.asked();
        assert_eq!(asked.len(), 3);
        for one in &asked {
            assert_eq!((one.operation.as_str(), &one.body), ("GetTable", &json!({"Name": "ä"})));
            let scope = "/eu-central-1/glue/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-target";
            assert!(one.authorization.contains(scope), "{}", one.authorization);
        }
    }

    #[tokio::test]
    async fn a_refusal_is_told_at_once_and_has_its_code() {
        let (outcome, replay) =
            asked(vec![(400, json!({"__type": "EntityNotFoundException", "Message": "no table"}))]).await;
        let error = outcome.unwrap_err();
        assert!(error.downcast_ref::<CallError>().unwrap().is("EntityNotFoundException"));
        assert_eq!(error.to_string(), "glue GetTable: no table (EntityNotFoundException)");
        assert_eq!(replay.asked().len(), 1);
        let (outcome, _) = asked(vec![(400, json!({"__type": "ExpiredTokenException", "message": "expired"}))]).await;
        let error = outcome.unwrap_err();
        assert!(error.downcast_ref::<CallError>().unwrap().is_about_credentials());
        assert!(error.to_string().contains("sso login") && !error.to_string().contains("of-a-test"), "{error}");
    }

    #[tokio::test]
    async fn what_never_ends_is_given_up() {
        let (outcome, replay) = asked(vec![(503, json!({}))]).await;
        assert!(outcome.unwrap_err().to_string().contains("503"));
        assert_eq!(replay.asked().len(), ATTEMPTS as usize);
    }
}
