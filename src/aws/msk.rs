//! Tokens by which Amazon MSK knows an AWS principal.
//!
//! A token is the address of a `kafka-cluster:Connect` request, signed in its query (AWS Signature Version 4), in the form
//! that [AWS's own signers](https://github.com/aws/aws-msk-iam-sasl-signer-python) give it: base64url without padding.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign},
    sign::v4,
};
use base64::Engine;

/// How long a token may be used, as the signers of AWS have it.
const LIFETIME: Duration = Duration::from_secs(900);

/// A token and when it ends, milliseconds since 1970 UTC.
pub struct Token {
    pub text: String,
    pub expires_ms: i64,
}

/// A token of the principal that the AWS chain of credentials finds.
///
/// # Errors
/// Where there are no credentials.
pub async fn token(region: &str) -> anyhow::Result<Token> {
    sign_token(super::credentials().await?, region, SystemTime::now())
}

/// A token of these credentials, made at `now`.
fn sign_token(credentials: Credentials, region: &str, now: SystemTime) -> anyhow::Result<Token> {
    let address = format!("https://kafka.{region}.amazonaws.com/?Action=kafka-cluster%3AConnect");
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(LIFETIME);
    let identity = credentials.into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("kafka-cluster")
        .time(now)
        .settings(settings)
        .build()
        .context("signing a token for MSK")?
        .into();
    let request = SignableRequest::new("GET", &address, std::iter::empty(), SignableBody::Bytes(&[]))?;
    let (instructions, _) = sign(request, &parameters).context("signing a token for MSK")?.into_parts();
    let mut request = hyper::Request::get(&address).body(())?;
    instructions.apply_to_request_http1x(&mut request);
    let signed = format!("{}&User-Agent=vitals%2F{}", request.uri(), env!("CARGO_PKG_VERSION"));
    let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(signed);
    let made_ms = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
    Ok(Token { text, expires_ms: made_ms + LIFETIME.as_millis() as i64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same credentials at the same moment, signed by aws-msk-iam-sasl-signer-python 1.0.2.
    #[test]
    fn a_token_is_the_one_that_aws_own_signer_makes() {
        const SIGNED: [(Option<&str>, &str); 2] = [
            (None, "c413a83bc64a339e31a5e5e9ed99d778ff843206b427540cafa5122c01e3e993"),
            (Some("SESSION/TOKEN+EXAMPLE=="), "910c3feed9470eaf3518add04b64274f3cfb362ff986b2d3323324c1f0036fdb"),
        ];
        let now = UNIX_EPOCH + Duration::from_secs(1_440_938_160); // 2015-08-30T12:36:00Z
        for (session, signature) in SIGNED {
            let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
            let credentials = Credentials::new("AKIDEXAMPLE", secret, session.map(str::to_owned), None, "test");
            let token = sign_token(credentials, "us-east-1", now).unwrap();
            assert_eq!(token.expires_ms, 1_440_939_060_000);
            let address = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token.text).unwrap();
            let address = String::from_utf8(address).unwrap();
            assert!(address.starts_with("https://kafka.us-east-1.amazonaws.com/?Action=kafka-cluster%3AConnect&"));
            for part in [
                "X-Amz-Algorithm=AWS4-HMAC-SHA256",
                "X-Amz-Expires=900",
                "X-Amz-Date=20150830T123600Z",
                "X-Amz-SignedHeaders=host",
                "X-Amz-Credential=AKIDEXAMPLE%2F20150830%2Fus-east-1%2Fkafka-cluster%2Faws4_request",
                &format!("X-Amz-Signature={signature}"),
            ] {
                assert!(address.split(['?', '&']).any(|found| found == part), "{part} in {address}");
            }
        }
    }
}
