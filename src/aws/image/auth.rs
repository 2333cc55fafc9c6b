//! Who we are to a registry.
//!
//! Amazon ECR is told by AWS's chain of credentials. Any other registry that images are pushed to is told the name and the
//! password of `VITALS_REGISTRY_USER` and `VITALS_REGISTRY_PASSWORD` (or `…_PASSWORD_FILE`), or what `docker login` left in
//! `~/.docker/config.json`. Where a base image is pulled from, only the latter: a password is for one registry.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use aws_config::Region;
use aws_sdk_ecr::error::ProvideErrorMetadata;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

/// What a registry is told.
#[derive(Clone, PartialEq, Eq)]
pub enum Auth {
    /// Nothing.
    Anonymous,
    /// A name and a password.
    Password { user: String, password: String },
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Auth::Anonymous => f.write_str("Anonymous"),
            Auth::Password { user, .. } => write!(f, "Password of {user}"),
        }
    }
}

impl Auth {
    /// For a registry that an image is pushed to.
    ///
    /// # Errors
    /// [`NoCredentials`](crate::aws::NoCredentials) where ECR wants some and there are none; where ECR gives no token; where
    /// a file can't be read.
    pub async fn to_push(host: &str) -> anyhow::Result<Auth> {
        match (ecr_region(host), of_environment()?) {
            (Some(region), _) => of_ecr(region).await,
            (None, Some(auth)) => Ok(auth),
            (None, None) => of_docker(host),
        }
    }

    /// For a registry that an image is pulled from.
    ///
    /// # Errors
    /// As [`Auth::to_push`].
    pub async fn to_pull(host: &str) -> anyhow::Result<Auth> {
        match ecr_region(host) {
            Some(region) => of_ecr(region).await,
            None => of_docker(host),
        }
    }

    /// From `user:password` in base64, as both ECR and Docker have it.
    fn from_encoded(text: &str) -> Option<Auth> {
        let text = String::from_utf8(STANDARD.decode(text).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        Some(Auth::Password { user: user.to_owned(), password: password.to_owned() })
    }
}

/// The region of a private registry of ECR: `ACCOUNT.dkr.ecr[-fips].REGION.amazonaws.com[.cn]`.
pub fn ecr_region(host: &str) -> Option<&str> {
    let host = host.strip_suffix(".cn").unwrap_or(host).strip_suffix(".amazonaws.com")?;
    let (account, rest) = host.split_once(".dkr.")?;
    let region = rest.strip_prefix("ecr.").or_else(|| rest.strip_prefix("ecr-fips."))?;
    let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    (is_account && !region.contains('.')).then_some(region)
}

async fn of_ecr(region: &str) -> anyhow::Result<Auth> {
    // Better than what a service says to a request that nobody has signed.
    crate::aws::credentials().await?;
    let config = aws_sdk_ecr::config::Builder::from(&crate::aws::config().await);
    token(&aws_sdk_ecr::Client::from_conf(config.region(Region::new(region.to_owned())).build())).await
}

/// A token of ECR, good for twelve hours.
async fn token(client: &aws_sdk_ecr::Client) -> anyhow::Result<Auth> {
    let asking = "asking ECR for a token (ecr:GetAuthorizationToken)";
    let answer = client.get_authorization_token().send().await.map_err(|e| match (e.code(), e.message()) {
        (Some(code), message) => anyhow::anyhow!("{asking}: {} ({code})", message.unwrap_or("refused")),
        _ => anyhow::Error::from(e).context(asking),
    })?;
    let token = answer.authorization_data().first().and_then(|data| data.authorization_token());
    token.and_then(Auth::from_encoded).context("ECR has answered without a token")
}

fn of_environment() -> anyhow::Result<Option<Auth>> {
    let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let user = set("VITALS_REGISTRY_USER");
    let password = match set("VITALS_REGISTRY_PASSWORD_FILE") {
        Some(path) => {
            let text = fs::read_to_string(&path).with_context(|| format!("reading `{path}`"))?;
            Some(text.trim_end_matches(['\n', '\r']).to_owned())
        }
        None => set("VITALS_REGISTRY_PASSWORD"),
    };
    match (user, password) {
        (Some(user), Some(password)) => Ok(Some(Auth::Password { user, password })),
        (None, None) => Ok(None),
        (Some(_), None) => {
            bail!("VITALS_REGISTRY_USER is set, and neither VITALS_REGISTRY_PASSWORD nor …_PASSWORD_FILE is")
        }
        (None, Some(_)) => bail!("a password for the registry is set, and VITALS_REGISTRY_USER is not"),
    }
}

fn of_docker(host: &str) -> anyhow::Result<Auth> {
    let folder = env::var_os("DOCKER_CONFIG").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let Some(folder) = folder.or_else(|| env::home_dir().map(|home| home.join(".docker"))) else {
        return Ok(Auth::Anonymous);
    };
    let path = folder.join("config.json");
    match fs::read_to_string(&path) {
        Ok(text) => of_docker_file(&path, &text, host),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Auth::Anonymous),
        Err(e) => Err(e).with_context(|| format!("reading `{}`", path.display())),
    }
}

/// What Docker's file has for a registry.
fn of_docker_file(path: &Path, text: &str, host: &str) -> anyhow::Result<Auth> {
    // The parser's own words would show what stands there.
    let file: Value = serde_json::from_str(text).map_err(|_| anyhow::anyhow!("`{}` is no JSON", path.display()))?;
    let names = match host {
        "registry-1.docker.io" => vec!["https://index.docker.io/v1/".to_owned(), "docker.io".to_owned()],
        host => vec![host.to_owned(), format!("https://{host}"), format!("http://{host}")],
    };
    let entry = names.iter().find_map(|name| file["auths"].get(name));
    let auth = entry.and_then(|entry| entry["auth"].as_str()).filter(|auth| !auth.is_empty());
    match auth {
        Some(auth) => Auth::from_encoded(auth)
            .with_context(|| format!("`{}`: what stands under `{host}` is no name and password", path.display())),
        None => {
            if file["credsStore"].is_string() || names.iter().any(|name| file["credHelpers"].get(name).is_some()) {
                tracing::warn!("`{}` keeps passwords in another program, which is not asked", path.display());
            }
            Ok(Auth::Anonymous)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn password(user: &str, password: &str) -> Auth {
        Auth::Password { user: user.to_owned(), password: password.to_owned() }
    }

    #[test]
    fn hosts_of_ecr_are_known() {
        for (host, region) in [
            ("123456789012.dkr.ecr.eu-central-1.amazonaws.com", Some("eu-central-1")),
            ("123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com", Some("us-gov-west-1")),
            ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", Some("cn-north-1")),
            ("12345.dkr.ecr.eu-central-1.amazonaws.com", None),
            ("123456789012.dkr.ecr.eu-central-1.amazonaws.com.example.org", None),
            ("123456789012.dkr.ecr.eu.central.amazonaws.com", None),
            ("public.ecr.aws", None),
            ("gcr.io", None),
        ] {
            assert_eq!(ecr_region(host), region, "{host}");
        }
    }

    #[test]
    fn dockers_file_is_read() {
        let file = r#"{"auths": {
            "h.io": {"auth": "bWU6YTpi"}, "https://index.docker.io/v1/": {"auth": "eW91OnA="}, "empty.io": {"auth": ""},
            "wrong.io": {"auth": "AAAA"}, "store.io": {}}, "credsStore": "pass"}"#;
        let of = |host| of_docker_file(Path::new("config.json"), file, host);
        assert_eq!(of("h.io").unwrap(), password("me", "a:b"));
        assert_eq!(of("registry-1.docker.io").unwrap(), password("you", "p"));
        for none in ["empty.io", "store.io", "x.io"] {
            assert_eq!(of(none).unwrap(), Auth::Anonymous, "{none}");
        }
        let wrong = of("wrong.io").unwrap_err().to_string();
        assert!(wrong.contains("wrong.io") && !wrong.contains("AAAA"), "{wrong}");
        let broken = of_docker_file(Path::new("config.json"), "{\"auths\": s3cr3t", "h.io").unwrap_err();
        assert!(!format!("{broken:?}").contains("s3cr3t"), "{broken:?}");
    }

    #[test]
    fn no_password_is_shown() {
        assert_eq!(format!("{:?}", password("me", "s3cr3t")), "Password of me");
    }

    /// Answers one request with a status and a body; gives where it listens, and what was asked.
    async fn answering(status: &'static str, body: &'static str) -> (String, Arc<Mutex<String>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<String>>::default();
        let seen = Arc::clone(&asked);
        tokio::spawn(async move {
            let (mut peer, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 65_536];
            let mut length = 0;
            while !request[..length].ends_with(b"{}") {
                length += peer.read(&mut request[length..]).await.unwrap();
            }
            *seen.lock().unwrap() = String::from_utf8_lossy(&request[..length]).into_owned();
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/x-amz-json-1.1\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            peer.write_all(answer.as_bytes()).await.unwrap();
        });
        (address, asked)
    }

    fn client(endpoint: &str) -> aws_sdk_ecr::Client {
        let credentials = aws_credential_types::Credentials::new("AKIDEXAMPLE", "of-a-test", None, None, "test");
        let config = aws_sdk_ecr::Config::builder()
            .behavior_version(aws_config::BehaviorVersion::latest())
            .endpoint_url(endpoint)
            .region(Region::new("eu-central-1"))
            .credentials_provider(credentials)
            .retry_config(aws_config::retry::RetryConfig::disabled())
            .http_client(aws_smithy_http_client::Builder::new().build_http());
        aws_sdk_ecr::Client::from_conf(config.build())
    }

    #[tokio::test]
    async fn ecr_gives_a_token() {
        // "AWS:t0ken"
        let answer = r#"{"authorizationData": [{"authorizationToken": "QVdTOnQwa2Vu", "expiresAt": 1.9e9,
            "proxyEndpoint": "https://123456789012.dkr.ecr.eu-central-1.amazonaws.com"}]}"#;
        let (endpoint, asked) = answering("200 OK", answer).await;
        assert_eq!(token(&client(&endpoint)).await.unwrap(), password("AWS", "t0ken"));
        let asked = asked.lock().unwrap().to_lowercase();
        assert!(asked.contains("x-amz-target: amazonec2containerregistry_v20150921.getauthorizationtoken"), "{asked}");
        assert!(asked.contains("/eu-central-1/ecr/aws4_request"), "{asked}");
    }

    #[tokio::test]
    async fn why_ecr_gives_none_is_said() {
        let denied = r#"{"__type": "AccessDeniedException", "message": "you may not"}"#;
        let (endpoint, _) = answering("400 Bad Request", denied).await;
        let said = token(&client(&endpoint)).await.unwrap_err().to_string();
        assert_eq!(said, "asking ECR for a token (ecr:GetAuthorizationToken): you may not (AccessDeniedException)");
        let (endpoint, _) = answering("200 OK", r#"{"authorizationData": []}"#).await;
        let said = token(&client(&endpoint)).await.unwrap_err().to_string();
        assert_eq!(said, "ECR has answered without a token");
    }
}
