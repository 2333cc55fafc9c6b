//! Names of images: where a registry is, and what is asked of it.

use std::{fmt, net::IpAddr, str::FromStr};

use super::is_digest;

/// An image in a registry, as it is named to pull it: `debian:stable-slim`, `HOST/REPO@sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The registry, `HOST` or `HOST:PORT`.
    pub host: String,
    pub repository: String,
    /// A tag, or a digest.
    pub version: String,
}

/// Where an image is pushed to: `HOST/REPO[:TAG]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The registry, `HOST` or `HOST:PORT`.
    pub host: String,
    pub repository: String,
    /// Where there is none, the image's [own tag](super::Image::own_tag) is taken.
    pub tag: Option<String>,
}

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Reference, String> {
        let (name, version) = match text.split_once('@') {
            Some((name, digest)) if is_digest(digest) => (split_tag(name).0, digest),
            Some((_, digest)) => return Err(format!("`{digest}` is no digest: `sha256:` and 64 hexadecimal digits")),
            None => {
                let (name, tag) = split_tag(text);
                (name, check_tag(tag.unwrap_or("latest"))?)
            }
        };
        let (host, repository) = match name.split_once('/') {
            Some((host, repository)) if is_host(host) => (host, repository.to_owned()),
            // What has no host is Docker's; its own images are below `library`.
            Some(_) => (DOCKER, name.to_owned()),
            None => (DOCKER, format!("library/{name}")),
        };
        let host = if host == "docker.io" { DOCKER } else { host };
        check_repository(&repository)?;
        Ok(Reference { host: host.to_owned(), repository, version: version.to_owned() })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let between = if is_digest(&self.version) { '@' } else { ':' };
        write!(f, "{}/{}{between}{}", self.host, self.repository, self.version)
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let (name, tag) = split_tag(text);
        let (host, repository) = name.split_once('/').filter(|(host, _)| is_host(host)).ok_or(
            "it is HOST/REPO[:TAG], such as 123456789012.dkr.ecr.eu-central-1.amazonaws.com/vitals or 127.0.0.1:5000/vitals",
        )?;
        check_repository(repository)?;
        let tag = tag.map(check_tag).transpose()?.map(str::to_owned);
        Ok(Target { host: host.to_owned(), repository: repository.to_owned(), tag })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        self.tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))
    }
}

/// Docker's registry.
const DOCKER: &str = "registry-1.docker.io";

/// Whether a registry is on this machine. Only such ones are spoken to without TLS.
pub fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// What comes before the first `/` is a host where it could not be part of a repository's name.
fn is_host(text: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
    text.chars().all(fine) && !text.starts_with(':') && (text.contains(['.', ':']) || text == "localhost")
}

/// A name and the tag behind it; a port is none.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    }
}

fn check_tag(tag: &str) -> Result<&str, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let good = (1..=128).contains(&tag.len()) && tag.chars().all(fine) && !tag.starts_with(['.', '-']);
    if good { Ok(tag) } else { Err(format!("`{tag}` is no tag: 1 to 128 letters, digits, `.`, `_` and `-`")) }
}

fn check_repository(name: &str) -> Result<(), String> {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    let part = |part: &str| {
        let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        part.starts_with(ends) && part.ends_with(ends) && part.chars().all(fine)
    };
    if name.len() <= 255 && name.split('/').all(part) {
        return Ok(());
    }
    Err(format!(
        "`{name}` is no name of a repository: lower-case letters, digits, `.`, `_`, `-`, and `/` between parts"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pulled_is_found_as_docker_finds_it() {
        let digest = format!("sha256:{}", "0f".repeat(32));
        for (text, shown) in [
            ("debian", "registry-1.docker.io/library/debian:latest".to_owned()),
            ("debian:stable-slim", "registry-1.docker.io/library/debian:stable-slim".to_owned()),
            ("docker.io/library/debian", "registry-1.docker.io/library/debian:latest".to_owned()),
            ("amazon/aws-cli", "registry-1.docker.io/amazon/aws-cli:latest".to_owned()),
            ("gcr.io/distroless/base", "gcr.io/distroless/base:latest".to_owned()),
            ("localhost/base:1", "localhost/base:1".to_owned()),
            ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest".to_owned()),
            (&format!("gcr.io/a@{digest}"), format!("gcr.io/a@{digest}")),
            // The digest says more than the tag.
            (&format!("gcr.io/a:1@{digest}"), format!("gcr.io/a@{digest}")),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), shown, "{text}");
        }
        for wrong in ["", ":1", "A/b", "a@sha256:12", "a:", "gcr.io/", "a b", "gcr.io//a"] {
            assert!(wrong.parse::<Reference>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_pushed_has_a_host() {
        let target: Target = "127.0.0.1:5000/a/b:v1".parse().unwrap();
        assert_eq!((&*target.host, &*target.repository, target.tag.as_deref()), ("127.0.0.1:5000", "a/b", Some("v1")));
        let target: Target = "1.dkr.ecr.eu-central-1.amazonaws.com/vitals".parse().unwrap();
        assert_eq!(
            (target.tag.as_deref(), &*target.to_string()),
            (None, "1.dkr.ecr.eu-central-1.amazonaws.com/vitals")
        );
        for wrong in ["", "vitals", "me/vitals", "https://h.io/a", "h.io/a@sha256:0", "h.io/a:", "u:p@h.io/a", "h.io/A"]
        {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for (host, expected) in [
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("localhost:1", true),
            ("[::1]:5000", true),
            ("10.0.0.1:5000", false),
            ("localhost.example.com", false),
            ("127.0.0.1.example.com", false),
            ("gcr.io", false),
        ] {
            assert_eq!(is_loopback(host), expected, "{host}");
        }
    }
}
