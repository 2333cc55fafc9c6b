//! Signed requests, for the few calls of services whose SDK is not worth its size.

use std::time::{Duration, SystemTime};

use super::clients::causes;
#[cfg(test)]
use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
        UriPathNormalizationMode, sign,
    },
    sign::v4,
};

/// How long one attempt may take, and the connection for it.
const ATTEMPT: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(5);

/// Credentials for requests.
enum Who {
    Chain,
    #[cfg(test)]
    Given(Credentials),
}

/// Sends signed requests to one service in one region.
pub(super) struct Signed {
    service: &'static str,
    region: String,
    http: reqwest::Client,
    who: Who,
}

/// One request.
pub(super) struct Asks<'a> {
    pub method: &'static str,
    /// With its query, encoded.
    pub address: &'a str,
    pub headers: &'a [(&'static str, &'a str)],
    pub body: &'a str,
}

impl Signed {
    /// # Errors
    /// Where this machine can make no encrypted connections.
    pub(super) fn new(service: &'static str, region: &str) -> anyhow::Result<Signed> {
        let http = reqwest::Client::builder().connect_timeout(CONNECT).timeout(ATTEMPT).build()?;
        Ok(Signed { service, region: region.to_owned(), http, who: Who::Chain })
    }

    /// With the credentials of a test.
    #[cfg(test)]
    pub(super) fn of_test(service: &'static str) -> Signed {
        let who = Who::Given(Credentials::new("AKIDEXAMPLE", "of-a-test", None, None, "test"));
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Signed { service, region: "eu-central-1".to_owned(), http, who }
    }

    /// A request that is ready to be sent.
    ///
    /// # Errors
    /// [`super::NoCredentials`] where there are none.
    pub(super) async fn request(&self, asks: &Asks<'_>) -> anyhow::Result<reqwest::Request> {
        let credentials = match &self.who {
            Who::Chain => super::credentials().await?,
            #[cfg(test)]
            Who::Given(credentials) => credentials.clone(),
        };
        let identity = credentials.into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(self.service)
            .time(SystemTime::now())
            .settings(settings(self.service))
            .build()?
            .into();
        let body = SignableBody::Bytes(asks.body.as_bytes());
        let signable = SignableRequest::new(asks.method, asks.address, asks.headers.iter().copied(), body)?;
        let (instructions, _) = sign(signable, &parameters)?.into_parts();
        let mut request = hyper::Request::builder().method(asks.method).uri(asks.address);
        for (name, value) in asks.headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(asks.body.to_owned())?;
        instructions.apply_to_request_http1x(&mut request);
        Ok(reqwest::Request::try_from(request)?)
    }

    /// The answer to a request: its status, headers and body; an error is a connection's, in words.
    pub(super) async fn send(
        &self,
        request: reqwest::Request,
    ) -> Result<(u16, reqwest::header::HeaderMap, bytes::Bytes), String> {
        let answer = self.http.execute(request).await.map_err(|e| causes(&e))?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Ok((status, headers, answer.bytes().await.map_err(|e| causes(&e))?))
    }
}

/// S3 signs addresses as they are, and wants the body's hash in a header.
fn settings(service: &str) -> SigningSettings {
    let mut settings = SigningSettings::default();
    if service == "s3" {
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    }
    settings
}
