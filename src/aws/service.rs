//! Calls of services whose SDKs are too large for the few calls that are made: signed, tried again, and refused in words.

use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    clients::{Access, CallFailed},
    signed::{Asks, Signed},
};

/// How often a call is tried that is throttled, refused for the moment, or gets no answer.
const TRIES: u32 = 6;

/// The wait before the second try.
const FIRST_WAIT: Duration = Duration::from_millis(300);

/// One service in a region.
#[derive(Debug, Clone)]
pub struct Service {
    /// By which it is signed for, such as `ec2`.
    pub name: &'static str,
    /// For which it is signed; services that are one for the whole world have theirs in one region.
    pub region: String,
    pub url: String,
    /// The wait before the second try; doubled after each.
    first_wait: Duration,
    #[cfg(test)]
    of_test: bool,
}

/// What is asked of a service.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub method: &'static str,
    /// With the query, from the slash on, encoded.
    pub path: &'a str,
    pub headers: &'a [(&'static str, &'a str)],
    pub body: &'a str,
}

/// What a service answered: its status, and the body.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Service {
    /// The service at `https://<name>.<region>.amazonaws.com`, or where the environment or the profile say.
    pub async fn regional(access: &Access, name: &'static str) -> Service {
        let domain = if access.region().starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        let (host, id) = match name {
            "sagemaker" => ("api.sagemaker", name),
            "monitoring" => (name, "cloudwatch"),
            "logs" => (name, "cloudwatch-logs"),
            _ => (name, name),
        };
        let usual = format!("https://{host}.{}.{domain}", access.region());
        Service::new(name, access.region(), at(access, id, usual).await)
    }

    /// A service of the whole world, such as IAM.
    pub async fn global(access: &Access, name: &'static str) -> Service {
        let usual = format!("https://{name}.amazonaws.com");
        Service::new(name, "us-east-1", at(access, name, usual).await)
    }

    fn new(name: &'static str, region: &str, url: String) -> Service {
        Service {
            name,
            region: region.to_owned(),
            url,
            first_wait: FIRST_WAIT,
            #[cfg(test)]
            of_test: false,
        }
    }

    /// A service on a server of a test, with credentials that nobody else takes.
    #[cfg(test)]
    pub(crate) fn of_test(name: &'static str, endpoint: &str) -> Service {
        let first_wait = Duration::from_millis(1);
        Service { first_wait, of_test: true, ..Service::new(name, "eu-central-1", endpoint.to_owned()) }
    }

    fn signed(&self) -> anyhow::Result<Signed> {
        #[cfg(test)]
        if self.of_test {
            return Ok(Signed::of_test(self.name));
        }
        Signed::new(self.name, &self.region)
    }

    /// Sends a request, again where that may help; gives the last answer, whatever it is.
    ///
    /// # Errors
    /// Where there are no credentials, or no answer.
    pub async fn send(&self, request: &Request<'_>) -> anyhow::Result<Answer> {
        let signed = self.signed()?;
        let address = format!("{}{}", self.url.trim_end_matches('/'), request.path);
        let asks = Asks { method: request.method, address: &address, headers: request.headers, body: request.body };
        let mut wait = self.first_wait;
        for left in (0..TRIES).rev() {
            // Signed anew each time: a signature is good for some minutes only.
            let answer = signed.send(signed.request(&asks).await?).await;
            let answer = answer.map(|(status, _, body)| Answer { status, body: body.to_vec() });
            let again = answer.as_ref().map_or(true, is_for_the_moment);
            if !again || left == 0 {
                return answer.map_err(anyhow::Error::msg);
            }
            // A part of it by chance: those who were throttled together come back one by one.
            tokio::time::sleep(wait.mul_f64(rand::random_range(0.5..1.5))).await;
            wait *= 2;
        }
        anyhow::bail!("no try was made")
    }

    /// A call in the JSON protocol: `target` is the service's name of it, such as `TrentService.ScheduleKeyDeletion`.
    ///
    /// # Errors
    /// [`CallFailed`] where the service refuses; where it does not answer, or with what is no JSON.
    pub async fn json(&self, doing: &str, target: &str, body: &Value) -> anyhow::Result<Value> {
        let headers = [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", target)];
        let request = Request { method: "POST", path: "/", headers: &headers, body: &body.to_string() };
        self.rest(doing, &request).await
    }

    /// A call of a service that speaks REST with JSON.
    ///
    /// # Errors
    /// As [`json`](Self::json).
    pub async fn rest(&self, doing: &str, request: &Request<'_>) -> anyhow::Result<Value> {
        let answer = self.send(request).await.with_context(|| doing.to_owned())?;
        let text = String::from_utf8_lossy(&answer.body);
        let said: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        if !(200..300).contains(&answer.status) {
            let code = said["__type"].as_str().or(said["code"].as_str()).and_then(|code| code.rsplit('#').next());
            let message = said["message"].as_str().or(said["Message"].as_str());
            return Err(CallFailed::new(doing, answer.status, code, message).into());
        }
        Ok(said)
    }

    /// A call in the Query protocol: a form in, XML out.
    ///
    /// # Errors
    /// [`CallFailed`] where the service refuses; where it does not answer, or with what is no such XML.
    pub async fn query<T: DeserializeOwned>(
        &self,
        doing: &str,
        version: &str,
        action: &str,
        fields: &[(&str, &str)],
    ) -> anyhow::Result<T> {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("Action", action).append_pair("Version", version).extend_pairs(fields);
        let kind = ("content-type", "application/x-www-form-urlencoded; charset=utf-8");
        let request = Request { method: "POST", path: "/", headers: &[kind], body: &form.finish() };
        let answer = self.send(&request).await.with_context(|| doing.to_owned())?;
        let text = String::from_utf8_lossy(&answer.body);
        if answer.status != 200 {
            return Err(refusal(doing, answer.status, &text).into());
        }
        quick_xml::de::from_str(&text).with_context(|| format!("{doing}: the answer can't be read"))
    }
}

async fn at(access: &Access, name: &str, usual: String) -> String {
    match super::endpoint(&name.to_uppercase().replace('-', "_")).await {
        Some(url) => url,
        None => access.config().endpoint_url().map_or(usual, str::to_owned),
    }
}

/// Whether an answer may be another one in a moment.
fn is_for_the_moment(answer: &Answer) -> bool {
    let throttled = || {
        let text = String::from_utf8_lossy(&answer.body);
        ["Throttl", "RequestLimitExceeded", "TooManyRequests", "ServiceUnavailable"]
            .iter()
            .any(|word| text.contains(word))
    };
    answer.status == 429 || answer.status >= 500 || answer.status != 200 && throttled()
}

/// An error in XML: S3 writes it as it is, others within one element, EC2 within two.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Said {
    code: Option<String>,
    message: Option<String>,
    #[serde(alias = "Errors")]
    error: Option<Box<Said>>,
}

/// What a service said in XML.
pub(super) fn refusal(doing: &str, status: u16, text: &str) -> CallFailed {
    let mut said = quick_xml::de::from_str::<Said>(text).ok();
    while let Some(within) = said.as_mut().and_then(|said| said.error.take()) {
        said = Some(*within);
    }
    let (code, message) = said.map_or((None, None), |said| (said.code, said.message));
    CallFailed::new(doing, status, code.as_deref(), message.as_deref())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::aws::replay::Replay;

    #[test]
    fn every_way_of_writing_an_error_is_read() {
        let of_ec2 = "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>No.</Message></Error></Errors></Response>";
        let of_iam = "<ErrorResponse xmlns=\"x\"><Error><Type>Sender</Type><Code>InvalidInput</Code><Message>No.</Message></Error></ErrorResponse>";
        let of_s3 = "<Error><Code>NoSuchBucket</Code><Message>No.</Message></Error>";
        for (text, code) in [(of_ec2, "UnauthorizedOperation"), (of_iam, "InvalidInput"), (of_s3, "NoSuchBucket")] {
            let refusal = refusal("asking", 403, text);
            assert_eq!((refusal.code.as_deref(), refusal.message), (Some(code), format!("No. ({code})")));
        }
        assert_eq!(refusal("asking", 502, "<html>").message, "the service answers 502");
    }

    #[test]
    fn what_may_pass_is_told_from_what_stays() {
        let answer = |status, body: &str| Answer { status, body: body.as_bytes().to_vec() };
        assert!(is_for_the_moment(&answer(503, "")) && is_for_the_moment(&answer(400, "<Code>Throttling</Code>")));
        assert!(!is_for_the_moment(&answer(200, "Throttling")) && !is_for_the_moment(&answer(403, "AccessDenied")));
    }

    async fn asked(answers: Vec<(u16, Value)>) -> (anyhow::Result<Value>, Replay) {
        let replay = Replay::start(move |asked| answers[asked.n.min(answers.len() - 1)].clone()).await;
        let outcome =
            Service::of_test("glue", &replay.endpoint).json("asking", "AWSGlue.GetTable", &json!({"Name": "ä"})).await;
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
        assert!(error.downcast_ref::<CallFailed>().unwrap().is("EntityNotFoundException"));
        assert_eq!(error.to_string(), "asking: no table (EntityNotFoundException)");
        assert_eq!(replay.asked().len(), 1);
        let (outcome, _) = asked(vec![(400, json!({"__type": "ExpiredTokenException", "message": "expired"}))]).await;
        let error = outcome.unwrap_err();
        assert!(error.downcast_ref::<CallFailed>().unwrap().is_about_credentials());
        assert!(error.to_string().contains("sso login") && !error.to_string().contains("of-a-test"), "{error}");
    }

    #[tokio::test]
    async fn what_never_ends_is_given_up() {
        let (outcome, replay) = asked(vec![(503, json!({}))]).await;
        assert!(outcome.unwrap_err().to_string().contains("503"));
        assert_eq!(replay.asked().len(), TRIES as usize);
    }
}
