//! Calls of services whose SDKs are too large for the few calls that are made: signed, tried again, and refused in words.

use std::time::Duration;

use anyhow::Context;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use serde::{Deserialize, de::DeserializeOwned};

use super::clients::{Access, CallFailed};

/// How often a call is tried that is throttled, refused for the moment, or gets no answer.
const TRIES: u32 = 6;

/// The wait before the second try; doubled after each.
const FIRST_WAIT: Duration = Duration::from_millis(300);

/// How long one try may take.
const TRY: Duration = Duration::from_secs(30);

/// One service in a region.
#[derive(Debug, Clone)]
pub struct Service {
    /// By which it is signed for, such as `ec2`.
    pub name: &'static str,
    /// For which it is signed; services that are one for the whole world have theirs in one region.
    pub region: String,
    pub url: String,
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
        let usual = format!("https://{name}.{}.{domain}", access.region());
        Service { name, region: access.region().to_owned(), url: at(access, name, usual).await }
    }

    /// A service of the whole world, such as IAM.
    pub async fn global(access: &Access, name: &'static str) -> Service {
        let usual = format!("https://{name}.amazonaws.com");
        Service { name, region: "us-east-1".to_owned(), url: at(access, name, usual).await }
    }

    /// Sends a POST, again where that may help; gives the last answer, whatever it is.
    ///
    /// # Errors
    /// Where there are no credentials, or no answer.
    pub async fn post(&self, headers: &[(&str, &str)], body: &str) -> anyhow::Result<Answer> {
        let client = reqwest::Client::builder().timeout(TRY).build().context("making an HTTP client")?;
        let mut wait = FIRST_WAIT;
        for left in (0..TRIES).rev() {
            let answer = self.post_once(&client, headers, body).await;
            match answer {
                Ok(answer) if left > 0 && is_for_the_moment(&answer) => {}
                Err(error) if left > 0 && error.downcast_ref::<reqwest::Error>().is_some() => {}
                done => return done,
            }
            // A part of it by chance: those who were throttled together come back one by one.
            tokio::time::sleep(wait.mul_f64(0.5 + rand::random::<f64>())).await;
            wait *= 2;
        }
        unreachable!("the last try returns")
    }

    async fn post_once(&self, client: &reqwest::Client, headers: &[(&str, &str)], body: &str) -> anyhow::Result<Answer> {
        let identity = super::credentials().await?.into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(self.name)
            .time(std::time::SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .context("signing a request")?
            .into();
        let url = format!("{}/", self.url.trim_end_matches('/'));
        let host = url.parse::<reqwest::Url>().with_context(|| format!("`{url}` is no address"))?;
        let host = host[url::Position::BeforeHost..url::Position::AfterPort].to_owned();
        let all = headers.iter().copied().chain([("host", host.as_str())]);
        let request = SignableRequest::new("POST", &url, all, SignableBody::Bytes(body.as_bytes()))?;
        let (instructions, _) = sign(request, &parameters).context("signing a request")?.into_parts();
        let mut call = client.post(&url).body(body.to_owned());
        for (name, value) in headers {
            call = call.header(*name, *value);
        }
        for (name, value) in instructions.headers() {
            call = call.header(name, value);
        }
        let answer = call.send().await?;
        Ok(Answer { status: answer.status().as_u16(), body: answer.bytes().await?.to_vec() })
    }

    /// A call in the Query protocol: a form in, XML out.
    ///
    /// # Errors
    /// [`CallFailed`] where the service refuses; where it does not answer, or with what is no such XML.
    pub async fn query<T: DeserializeOwned>(&self, doing: &str, version: &str, action: &str, fields: &[(&str, &str)]) -> anyhow::Result<T> {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("Action", action).append_pair("Version", version).extend_pairs(fields);
        let kind = ("content-type", "application/x-www-form-urlencoded; charset=utf-8");
        let answer = self.post(&[kind], &form.finish()).await.with_context(|| doing.to_owned())?;
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
        ["Throttl", "RequestLimitExceeded", "TooManyRequests", "ServiceUnavailable"].iter().any(|word| text.contains(word))
    };
    answer.status == 429 || answer.status >= 500 || answer.status != 200 && throttled()
}

/// How EC2 and all others write an error.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Said {
    #[serde(alias = "Errors")]
    error: Option<Wrapped>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Wrapped {
    code: Option<String>,
    message: Option<String>,
    error: Option<Box<Wrapped>>,
}

fn refusal(doing: &str, status: u16, text: &str) -> CallFailed {
    let said = quick_xml::de::from_str::<Said>(text).ok().and_then(|said| said.error);
    let said = said.map(|said| match said.error {
        Some(within) => *within,
        None => said,
    });
    let (code, message) = said.map_or((None, None), |said| (said.code, said.message));
    let message = match (&message, &code) {
        (Some(message), Some(code)) => format!("{message} ({code})"),
        (Some(message), None) => message.clone(),
        (None, _) => format!("the service answers {status}"),
    };
    CallFailed { doing: doing.to_owned(), code, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_writing_an_error_are_read() {
        let of_ec2 = "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>No.</Message></Error></Errors></Response>";
        let of_iam = "<ErrorResponse xmlns=\"x\"><Error><Type>Sender</Type><Code>InvalidInput</Code><Message>No.</Message></Error></ErrorResponse>";
        for (text, code) in [(of_ec2, "UnauthorizedOperation"), (of_iam, "InvalidInput")] {
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
}
