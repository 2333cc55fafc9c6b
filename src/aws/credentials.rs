//! Credentials that are kept, and fetched anew before they expire.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use aws_credential_types::{
    Credentials,
    provider::{self, ProvideCredentials, SharedCredentialsProvider, error::CredentialsError, future},
};
use object_store::{CredentialProvider, aws::AwsCredential};
use tokio::sync::Mutex;

/// New credentials are fetched when the old ones have no more than this left: longer than any request takes.
const MARGIN: Duration = Duration::from_secs(5 * 60);

/// How long to wait after new ones could not be had while the old ones still hold.
const AFTER_FAILURE: Duration = Duration::from_secs(20);

/// AWS gave no credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no AWS credentials: {0}\nhint: {hint}", hint = HINT)]
pub struct NoCredentials(String);

const HINT: &str = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; after `aws sso login` or in a role of \
                    a machine or container nothing need be set";

impl NoCredentials {
    fn of(error: &CredentialsError) -> NoCredentials {
        if matches!(error, CredentialsError::CredentialsNotLoaded(_)) {
            return NoCredentials("neither environment, profile, container nor machine has any".to_owned());
        }
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            let said = cause.to_string();
            if !text.contains(&said) {
                text.push_str(": ");
                text.push_str(&said);
            }
            source = cause.source();
        }
        NoCredentials(text)
    }
}

/// The chain's credentials, kept until shortly before they expire. One fetch at a time; others wait for it.
pub struct Cached {
    chain: Option<SharedCredentialsProvider>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    credentials: Option<Credentials>,
    not_before: Option<Instant>,
}

impl fmt::Debug for Cached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cached(…)")
    }
}

impl Cached {
    /// Nothing is fetched yet; `None` where there is no chain.
    pub fn new(chain: Option<SharedCredentialsProvider>) -> Cached {
        Cached { chain, kept: Mutex::default() }
    }

    /// Credentials that are good for some minutes, or at least now.
    ///
    /// # Errors
    /// Where there are none, and none that still hold.
    pub async fn get(&self) -> Result<Credentials, NoCredentials> {
        self.fetch().await.map_err(|e| NoCredentials::of(&e))
    }

    async fn fetch(&self) -> provider::Result {
        let mut kept = self.kept.lock().await;
        let waits = kept.not_before.is_some_and(|at| Instant::now() < at);
        let needed = if waits { Duration::ZERO } else { MARGIN };
        if let Some(good) = kept.credentials.as_ref().filter(|credentials| holds(credentials, needed)) {
            return Ok(good.clone());
        }
        let Some(chain) = &self.chain else { return Err(CredentialsError::not_loaded_no_source()) };
        match chain.provide_credentials().await {
            Ok(fresh) => {
                // Some sources hand out what they have kept themselves, and so with less left than wished for.
                let short = !holds(&fresh, MARGIN);
                *kept = Kept {
                    credentials: Some(fresh.clone()),
                    not_before: short.then(|| Instant::now() + AFTER_FAILURE),
                };
                Ok(fresh)
            }
            Err(error) => match kept.credentials.clone().filter(|old| holds(old, Duration::ZERO)) {
                Some(old) => {
                    tracing::warn!(
                        "no new AWS credentials yet, the old ones still hold: {}",
                        NoCredentials::of(&error).0
                    );
                    kept.not_before = Some(Instant::now() + AFTER_FAILURE);
                    Ok(old)
                }
                None => Err(error),
            },
        }
    }
}

/// Whether credentials hold for longer than this.
fn holds(credentials: &Credentials, longer: Duration) -> bool {
    credentials.expiry().is_none_or(|expiry| expiry > SystemTime::now() + longer)
}

impl ProvideCredentials for Cached {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.fetch())
    }
}

/// For the lake's store.
#[async_trait]
impl CredentialProvider for Cached {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let credentials =
            self.get().await.map_err(|e| object_store::Error::Generic { store: "S3", source: Box::new(e) })?;
        Ok(Arc::new(AwsCredential {
            key_id: credentials.access_key_id().to_owned(),
            secret_key: credentials.secret_access_key().to_owned(),
            token: credentials.session_token().map(str::to_owned),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    use super::*;

    /// Gives credentials that live for so long, numbered; fails from the n-th on.
    #[derive(Debug)]
    struct Chain {
        lives: Option<Duration>,
        asked: Arc<AtomicU64>,
        fails_from: u64,
    }

    impl ProvideCredentials for Chain {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let n = self.asked.fetch_add(1, SeqCst);
            future::ProvideCredentials::ready(if n < self.fails_from {
                let expiry = self.lives.map(|lives| SystemTime::now() + lives);
                Ok(Credentials::new(format!("key-{n}"), "s3cr3t", Some("t0ken".to_owned()), expiry, "test"))
            } else {
                Err(CredentialsError::provider_error("the session has ended"))
            })
        }
    }

    fn chain(lives: Option<Duration>, fails_from: u64) -> (Cached, Arc<AtomicU64>) {
        let asked = Arc::new(AtomicU64::new(0));
        let chain = Chain { lives, asked: Arc::clone(&asked), fails_from };
        (Cached::new(Some(SharedCredentialsProvider::new(chain))), asked)
    }

    #[tokio::test]
    async fn what_does_not_expire_soon_is_fetched_once() {
        for lives in [None, Some(Duration::from_secs(3_600))] {
            let (cached, asked) = chain(lives, u64::MAX);
            for _ in 0..3 {
                let credential = cached.get_credential().await.unwrap();
                assert_eq!((credential.key_id.as_str(), credential.token.as_deref()), ("key-0", Some("t0ken")));
            }
            assert_eq!(asked.load(SeqCst), 1);
        }
    }

    #[tokio::test]
    async fn what_has_expired_is_fetched_anew() {
        let (cached, _) = chain(Some(Duration::ZERO), u64::MAX);
        assert_eq!(cached.get().await.unwrap().access_key_id(), "key-0");
        assert_eq!(cached.get().await.unwrap().access_key_id(), "key-1");
    }

    #[tokio::test]
    async fn where_new_ones_can_not_be_had_the_old_ones_serve_until_they_expire() {
        let (cached, asked) = chain(Some(MARGIN / 2), 1);
        cached.get().await.unwrap();
        cached.kept.lock().await.not_before = None;
        assert_eq!(cached.get().await.unwrap().access_key_id(), "key-0");
        assert_eq!(cached.get().await.unwrap().access_key_id(), "key-0");
        // Not asked again at once.
        assert_eq!(asked.load(SeqCst), 2);
    }

    #[tokio::test]
    async fn where_there_are_none_the_error_says_why_and_what_to_set() {
        let none = Cached::new(None).get().await.unwrap_err().to_string();
        assert!(none.contains("neither environment") && none.contains("AWS_PROFILE"), "{none}");
        let (cached, _) = chain(None, 0);
        let failed = cached.get().await.unwrap_err().to_string();
        assert!(failed.contains("the session has ended"), "{failed}");
    }

    #[tokio::test]
    async fn no_secret_is_shown() {
        let (cached, _) = chain(None, u64::MAX);
        cached.get().await.unwrap();
        let shown = format!("{cached:?} {:?}", cached.get_credential().await.unwrap());
        assert!(!shown.contains("s3cr3t") && !shown.contains("t0ken"), "{shown}");
    }
}
