//! Access to AWS: who we are there, in which region, and where a service is reached.
//!
//! All of it comes from one place, AWS's own chain, so that `vitals` finds what the `aws` command finds: environment
//! (`AWS_ACCESS_KEY_ID`, `AWS_PROFILE`, `AWS_REGION`, …), the files in `~/.aws` (with roles, SSO and
//! `credential_process`), web identity, a container's role, a machine's role. It is read once in a process, and
//! whoever needs it shares it: the lake on S3, and every other service.
//!
//! Nothing here writes a secret anywhere: neither messages nor `Debug` have one.

use std::sync::{Arc, OnceLock};

use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, SharedCredentialsProvider},
};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};
use tokio::sync::OnceCell;

pub mod archive;
pub mod catalogue;
pub mod clients;
mod credentials;
pub mod deployed;
pub mod devices;
pub mod doctor;
pub mod ec2;
pub mod glue;
pub mod iam;
pub mod image;
pub mod msk;
pub mod prices;
#[cfg(test)]
pub(crate) mod replay;
pub mod service;
mod signed;
pub mod spark;
pub mod stack;
pub mod training;

pub use credentials::{Cached, NoCredentials};

/// What the chain found.
struct Found {
    config: SdkConfig,
    credentials: Arc<Cached>,
}

async fn found() -> &'static Found {
    static FOUND: OnceCell<Found> = OnceCell::const_new();
    FOUND
        .get_or_init(|| async {
            // For SSO, roles and the metadata of machines; the services themselves are spoken to by other clients.
            let http = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
            let config = aws_config::defaults(BehaviorVersion::latest()).http_client(http).load().await;
            let credentials = Arc::new(Cached::new(config.credentials_provider()));
            Found { config, credentials }
        })
        .await
}

/// Credentials, and new ones before they expire. Cheap to call: the chain is gone through once.
///
/// # Errors
/// [`NoCredentials`] where the chain has none now, which also shows what to set.
pub async fn provider() -> anyhow::Result<SharedCredentialsProvider> {
    credentials().await?;
    Ok(SharedCredentialsProvider::from(shared().await as Arc<dyn ProvideCredentials>))
}

/// The same, not asked for credentials yet.
pub(crate) async fn shared() -> Arc<Cached> {
    Arc::clone(&found().await.credentials)
}

/// Credentials that are good now and for some minutes: to sign one request with.
///
/// # Errors
/// [`NoCredentials`] where there are none.
pub async fn credentials() -> Result<Credentials, NoCredentials> {
    found().await.credentials.get().await
}

/// What every client of a service is made from: the chain's settings with credentials that are kept.
pub(crate) async fn config() -> SdkConfig {
    let found = found().await;
    let credentials = SharedCredentialsProvider::from(Arc::clone(&found.credentials) as Arc<dyn ProvideCredentials>);
    found.config.to_builder().credentials_provider(credentials).build()
}

/// The region of the stack that is worked with.
static OF_STACK: OnceLock<String> = OnceLock::new();

/// Takes the region of a stack for that of its lake as well, whatever the environment says. A process works with one stack.
pub fn stay_in(region: &str) {
    let _ = OF_STACK.set(region.to_owned());
}

/// The region: that of the stack that is worked with, `AWS_REGION`, that of the profile, that of the machine.
pub async fn region() -> Option<String> {
    if let Some(region) = OF_STACK.get() {
        return Some(region.clone());
    }
    found().await.config.region().map(|region| region.as_ref().to_owned())
}

/// The region that is named, or the one that is known without.
///
/// # Errors
/// [`clients::NoRegion`].
pub async fn region_or(named: Option<&str>) -> anyhow::Result<String> {
    let region = match named {
        Some(region) => Some(region.to_owned()),
        None => region().await,
    };
    Ok(region.ok_or(clients::NoRegion)?)
}

/// Where a service is reached, if not at its usual address: `AWS_ENDPOINT_URL_<SERVICE>`, else `AWS_ENDPOINT_URL` or the
/// profile's `endpoint_url`. `service` is the name in the variable, such as `S3` or `ATHENA`.
pub async fn endpoint(service: &str) -> Option<String> {
    let own = std::env::var(format!("AWS_ENDPOINT_URL_{service}")).ok().filter(|url| !url.is_empty());
    match own {
        Some(url) => Some(url),
        None => found().await.config.endpoint_url().map(str::to_owned),
    }
}
