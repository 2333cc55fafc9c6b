//! What S3 says when it does not do something, in words that name the bucket, the key, and what to do.
//!
//! `object_store` hands out what S3 said as a text within errors whose types are its own, so the text is read here. What
//! is not recognised is passed on as it is.

use std::{error::Error as StdError, fmt};

use object_store::{
    Error,
    client::{HttpError, HttpErrorKind},
    path::Path,
};

use crate::aws::NoCredentials;

/// Why S3 did not do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such bucket.
    NoBucket,
    /// These credentials may not do this.
    Denied,
    /// There are no credentials, no region, or they are not valid.
    NoCredentials,
    /// The bucket is in another region.
    OtherRegion,
    /// Nothing answers, or not in time.
    Unreachable,
    /// Something else.
    Other,
}

/// S3 did not do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{object}`: {what}")]
pub struct S3Error {
    /// Why.
    pub refusal: Refusal,
    object: String,
    what: String,
}

impl S3Error {
    /// The one within an error of the store.
    pub(crate) fn within<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e S3Error> {
        causes(error).find_map(|cause| cause.downcast_ref())
    }
}

/// What was being done.
#[derive(Debug, Clone, Copy)]
pub(super) enum Doing {
    Get,
    Put,
    List,
    Delete,
}

impl Doing {
    fn permission(self) -> &'static str {
        match self {
            Doing::Get => "s3:GetObject",
            Doing::Put => "s3:PutObject",
            Doing::List => "s3:ListBucket",
            Doing::Delete => "s3:DeleteObject",
        }
    }
}

/// What is asked, and where.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub bucket: String,
    pub prefix: Path,
    pub endpoint: Option<String>,
    pub region: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}{}{}", self.bucket, if self.prefix.as_ref().is_empty() { "" } else { "/" }, self.prefix)
    }
}

impl Place {
    /// What keeps the place from being used at all.
    pub(super) fn wrong(&self, what: &str) -> S3Error {
        S3Error { refusal: Refusal::Other, object: self.to_string(), what: what.to_owned() }
    }

    pub(super) fn no_region(&self) -> S3Error {
        let what = "no AWS region is set\nhint: AWS_REGION names it, or `region` of the profile in ~/.aws/config";
        S3Error { refusal: Refusal::NoCredentials, ..self.wrong(what) }
    }

    /// An error of the store, put into words; "not there" and "taken" stay what they are.
    pub(super) fn said(&self, doing: Doing, key: &Path, error: Error) -> Error {
        let answer = Answer::of(&error);
        let no_bucket = answer.as_ref().is_some_and(|answer| answer.code.as_deref() == Some("NoSuchBucket"));
        match error {
            Error::NotFound { .. } if !no_bucket => error,
            Error::AlreadyExists { .. } => error,
            error => {
                let (refusal, what) = match answer {
                    Some(answer) => self.refused(doing, &answer),
                    None => self.failed(&error),
                };
                let object = if key.as_ref().is_empty() { self.to_string() } else { format!("{self}/{key}") };
                Error::Generic { store: "S3", source: Box::new(S3Error { refusal, object, what }) }
            }
        }
    }

    /// What S3 answered.
    fn refused(&self, doing: Doing, answer: &Answer) -> (Refusal, String) {
        let at = self.endpoint.as_ref().map_or_else(String::new, |url| format!(" at {url}"));
        match (answer.status, answer.code.as_deref().unwrap_or_default()) {
            (_, "NoSuchBucket") => (Refusal::NoBucket, format!("there is no bucket `{}`{at}", self.bucket)),
            (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "ExpiredToken" | "InvalidToken") => {
                (Refusal::NoCredentials, format!("the AWS credentials in use are not valid here{at} ({answer})"))
            }
            (_, "RequestTimeTooSkewed") => (Refusal::Other, format!("the clock of this machine is wrong ({answer})")),
            (301 | 307, _) | (_, "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => {
                let here = format!("the bucket is not in `{}` ({answer})", self.region);
                (Refusal::OtherRegion, format!("{here}; AWS_REGION names its region"))
            }
            (401 | 403, _) => {
                (Refusal::Denied, format!("S3 denies it ({answer}): {} is needed", self.permission(doing)))
            }
            (_, "SlowDown") => (Refusal::Other, format!("S3 is too busy ({answer})")),
            _ => (Refusal::Other, format!("S3 answered {answer}")),
        }
    }

    /// The permission, and on what.
    fn permission(&self, doing: Doing) -> String {
        let name = doing.permission();
        let slash = if self.prefix.as_ref().is_empty() { "" } else { "/" };
        match doing {
            Doing::List => format!("`{name}` on `arn:aws:s3:::{}`", self.bucket),
            _ => format!("`{name}` on `arn:aws:s3:::{}{slash}{}/*`", self.bucket, self.prefix),
        }
    }

    /// What went wrong before there was an answer.
    fn failed(&self, error: &Error) -> (Refusal, String) {
        if let Some(none) = causes(error).find_map(|cause| cause.downcast_ref::<NoCredentials>()) {
            return (Refusal::NoCredentials, none.to_string());
        }
        if causes(error).any(|cause| cause.to_string().starts_with(BARE_REDIRECT)) {
            let what = format!("the bucket is not in `{}`; AWS_REGION names its region", self.region);
            return (Refusal::OtherRegion, what);
        }
        let Some(kind) = http_error(error) else { return (Refusal::Other, last(error)) };
        let usual = || format!("https://s3.{}.amazonaws.com", self.region);
        let at = self.endpoint.clone().unwrap_or_else(usual);
        let ask = match &self.endpoint {
            Some(_) => "is that the endpoint? AWS_ENDPOINT_URL_S3 names another",
            None => "is this machine online?",
        };
        let said = last(error);
        let what = match kind {
            HttpErrorKind::Timeout => format!("no answer from {at} in time ({said}); {ask}"),
            HttpErrorKind::Connect => format!("can't connect to {at} ({said}); {ask}"),
            _ => format!("the connection to {at} broke ({said})"),
        };
        (Refusal::Unreachable, what)
    }
}

const NOT_DONE: &str = "Server returned non-2xx status code: ";
const BARE_REDIRECT: &str = "Received redirect without LOCATION";

const NOT_PARTIAL: &str = "Received non-partial response when range requested";

/// An answer of S3 that is no success.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    status: u16,
    /// The code that S3 gives its errors, or nothing: the answer to a HEAD has no text.
    code: Option<String>,
    message: Option<String>,
}

impl Answer {
    /// The answer that an error came from; `None` where none came.
    fn of(error: &Error) -> Option<Answer> {
        causes(error).find_map(|cause| Answer::read(&cause.to_string()))
    }

    fn read(text: &str) -> Option<Answer> {
        if let Some((status, body)) = text.strip_prefix(NOT_DONE).and_then(|rest| rest.split_once(':')) {
            let status = status.split(' ').next()?.parse().ok()?;
            return Some(Answer { status, code: element(body, "Code"), message: element(body, "Message") });
        }
        // One of many keys that were to be deleted.
        let (message, code) = text.strip_prefix("DeleteObjects request failed for key ")?.rsplit_once(" (code: ")?;
        let code = code.trim_end_matches(')');
        let status = if code == "AccessDenied" { 403 } else { 200 };
        let message = message.split_once(": ").map(|(_, message)| message.to_owned());
        Some(Answer { status, code: Some(code.to_owned()), message })
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.code, &self.message) {
            (Some(code), Some(message)) => write!(f, "{} {code}: {}", self.status, message.trim_end_matches('.')),
            (Some(code), None) => write!(f, "{} {code}", self.status),
            (None, _) => self.status.fmt(f),
        }
    }
}

/// The text of an element of S3's errors, which are flat.
fn element(body: &str, name: &str) -> Option<String> {
    let (_, from) = body.split_once(&format!("<{name}>"))?;
    let (text, _) = from.split_once(&format!("</{name}>"))?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// An error and what it came from.
fn causes<'e>(error: &'e (dyn StdError + 'static)) -> impl Iterator<Item = &'e (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'e (dyn StdError + 'static)| (*error).source())
}

/// What it came from in the end.
fn last(error: &Error) -> String {
    causes(error).last().map_or_else(String::new, ToString::to_string)
}

/// The connection's error, where it was that.
fn http_error(error: &Error) -> Option<HttpErrorKind> {
    causes(error).find_map(|cause| cause.downcast_ref::<HttpError>()).map(HttpError::kind)
}

/// Whether an answer did not come, or not all of it.
pub(super) fn is_cut(error: &Error) -> bool {
    http_error(error).is_some_and(|kind| kind != HttpErrorKind::Connect)
}

/// Whether a write may have been done, and may not: its answer did not come, or it met another write of the same key
/// (409), of which nothing may remain.
pub(super) fn is_undecided(error: &Error) -> bool {
    is_cut(error) || Answer::of(error).is_some_and(|answer| answer.status == 409)
}

/// Whether S3 has no such range of an object, or gave all of it instead.
pub(super) fn is_about_range(error: &Error) -> bool {
    Answer::of(error).is_some_and(|answer| answer.status == 416)
        || causes(error).any(|cause| cause.to_string() == NOT_PARTIAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(endpoint: Option<&str>) -> Place {
        let region = "eu-central-1".to_owned();
        Place { bucket: "ward".into(), prefix: "a/b".into(), endpoint: endpoint.map(str::to_owned), region }
    }

    fn answered(status: &str, code: &str) -> Error {
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>So it is.</Message></Error>");
        Error::Generic { store: "S3", source: format!("{NOT_DONE}{status}: {body}").into() }
    }

    fn said(doing: Doing, error: Error) -> S3Error {
        let error = place(None).said(doing, &Path::from("state/7"), error);
        S3Error::within(&error).unwrap_or_else(|| panic!("{error}")).clone()
    }

    #[test]
    fn an_answer_is_told_with_what_to_do() {
        for (status, code, refusal, told) in [
            ("404 Not Found", "NoSuchBucket", Refusal::NoBucket, "there is no bucket `ward`"),
            ("403 Forbidden", "AccessDenied", Refusal::Denied, "`s3:PutObject` on `arn:aws:s3:::ward/a/b/*` is needed"),
            ("403 Forbidden", "InvalidAccessKeyId", Refusal::NoCredentials, "not valid"),
            ("403 Forbidden", "SignatureDoesNotMatch", Refusal::NoCredentials, "not valid"),
            ("400 Bad Request", "ExpiredToken", Refusal::NoCredentials, "not valid"),
            ("403 Forbidden", "RequestTimeTooSkewed", Refusal::Other, "clock"),
            ("301 Moved Permanently", "PermanentRedirect", Refusal::OtherRegion, "not in `eu-central-1`"),
            ("400 Bad Request", "AuthorizationHeaderMalformed", Refusal::OtherRegion, "AWS_REGION"),
            ("503 Service Unavailable", "SlowDown", Refusal::Other, "busy"),
            ("507 No Storage", "Full", Refusal::Other, "S3 answered 507 Full: So it is"),
        ] {
            let error = said(Doing::Put, answered(status, code));
            let text = error.to_string();
            assert_eq!(error.refusal, refusal, "{text}");
            assert!(text.starts_with("`s3://ward/a/b/state/7`: ") && text.contains(told), "{text}");
            assert!(text.contains(code) || refusal == Refusal::NoBucket, "{text}");
        }
    }

    #[test]
    fn each_permission_is_named() {
        for (doing, permission) in [
            (Doing::Get, "`s3:GetObject` on `arn:aws:s3:::ward/a/b/*`"),
            (Doing::List, "`s3:ListBucket` on `arn:aws:s3:::ward`"),
            (Doing::Delete, "`s3:DeleteObject` on `arn:aws:s3:::ward/a/b/*`"),
        ] {
            // A HEAD is refused without a text.
            let bare = Error::Generic { store: "S3", source: format!("{NOT_DONE}403 Forbidden: ").into() };
            let text = said(doing, bare).to_string();
            assert!(text.contains(permission) && text.contains("(403)"), "{text}");
        }
        let one = "DeleteObjects request failed for key a/b/x: Access Denied (code: AccessDenied)";
        let one = said(Doing::Delete, Error::Generic { store: "S3", source: one.into() });
        assert_eq!(one.refusal, Refusal::Denied, "{one}");
    }

    #[test]
    fn not_there_and_taken_stay_what_they_are_but_not_without_a_bucket() {
        let key = Path::from("state/7");
        let not_found = |code: &str| Error::NotFound {
            path: key.to_string(),
            source: format!("{NOT_DONE}404 Not Found: <Code>{code}</Code>").into(),
        };
        assert!(matches!(place(None).said(Doing::Get, &key, not_found("NoSuchKey")), Error::NotFound { .. }));
        let taken = Error::AlreadyExists { path: key.to_string(), source: format!("{NOT_DONE}409 Conflict: ").into() };
        assert!(matches!(place(None).said(Doing::Put, &key, taken), Error::AlreadyExists { .. }));
        assert_eq!(said(Doing::Get, not_found("NoSuchBucket")).refusal, Refusal::NoBucket);
    }

    #[test]
    fn what_does_not_answer_is_named_with_its_address() {
        let broken = |kind| {
            let source = HttpError::new(kind, std::io::Error::other("Connection refused"));
            Error::Generic { store: "S3", source: Box::new(source) }
        };
        let down =
            place(Some("http://127.0.0.1:9")).said(Doing::List, &Path::default(), broken(HttpErrorKind::Connect));
        let down = S3Error::within(&down).unwrap();
        assert_eq!(down.refusal, Refusal::Unreachable);
        let text = down.to_string();
        for part in ["`s3://ward/a/b`: ", "http://127.0.0.1:9", "Connection refused", "AWS_ENDPOINT_URL_S3"] {
            assert!(text.contains(part), "{text}");
        }
        let slow = said(Doing::Get, broken(HttpErrorKind::Timeout)).to_string();
        assert!(slow.contains("https://s3.eu-central-1.amazonaws.com") && slow.contains("online"), "{slow}");
        assert!(is_undecided(&broken(HttpErrorKind::Timeout)) && !is_undecided(&broken(HttpErrorKind::Connect)));
        assert!(is_undecided(&answered("409 Conflict", "ConditionalRequestConflict")));
        assert!(!is_undecided(&answered("412 Precondition Failed", "PreconditionFailed")));
    }

    #[test]
    fn what_is_not_recognised_is_passed_on() {
        let error = said(Doing::Get, Error::Generic { store: "S3", source: "teapot".into() });
        assert_eq!((error.refusal, error.to_string().as_str()), (Refusal::Other, "`s3://ward/a/b/state/7`: teapot"));
    }
}
