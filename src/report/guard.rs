//! Who may ask: which names the server answers to, and who knows its token.
//!
//! A page of somebody else, opened in the same browser, can send requests to this machine, and by a name of its own that
//! it lets point here even read the answers (DNS rebinding). So on loopback a request must name this machine. Where others
//! can reach the server, a token is needed as well.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use anyhow::{bail, ensure};
use hyper::{
    HeaderMap, Uri,
    header::{AUTHORIZATION, COOKIE, HOST},
};
use sha2::{Digest, Sha256};

/// The shortest and the longest token.
const TOKEN_CHARACTERS: std::ops::RangeInclusive<usize> = 16..=128;

/// Who may ask a server.
#[derive(Clone, Default)]
pub struct Access {
    /// What whoever asks must know: 16 to 128 of `A–Z a–z 0–9 _ -`. Without one the server must listen on loopback.
    pub token: Option<String>,
    /// Names under which the server is reached, where it does not listen on loopback; IP addresses always work.
    pub names: Vec<String>,
}

/// What a server asks of every request.
pub(super) struct Guard {
    address: SocketAddr,
    token: Option<String>,
    names: Vec<String>,
}

/// How somebody comes to be let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// Come in.
    Open,
    /// The token stands in the address: it is to be kept as a cookie, and taken out of the address.
    ByAddress,
    /// No token, or a wrong one.
    Closed,
}

impl Guard {
    /// The guard of a server that listens on `address`.
    pub fn new(address: SocketAddr, access: Access) -> anyhow::Result<Guard> {
        let Access { token, names } = access;
        if let Some(token) = &token {
            let characters = token.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
            ensure!(
                characters && TOKEN_CHARACTERS.contains(&token.len()),
                "the token can't be used: give one of {} to {} characters of A-Z, a-z, 0-9, _ and -",
                TOKEN_CHARACTERS.start(),
                TOKEN_CHARACTERS.end()
            );
        } else if !is_loopback(address.ip()) {
            bail!("{address} can be reached by others: give a token that they must know, or listen on 127.0.0.1");
        }
        Ok(Guard { address, token, names })
    }

    /// Whether the request is for this server, by its header `Host` and, where it has one, the name in its address.
    pub fn is_host(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
        let named = uri.authority().is_none_or(|authority| self.is_named(authority.as_str()));
        named && host.to_str().is_ok_and(|host| self.is_named(host))
    }

    fn is_named(&self, host: &str) -> bool {
        let Some((name, port)) = split_port(host) else { return false };
        let ip = ip_of(name);
        if is_loopback(self.address.ip()) {
            let this = name.eq_ignore_ascii_case("localhost")
                || ip.is_some_and(|ip| is_loopback(ip) && (is_usual_loopback(ip) || ip == self.address.ip()));
            // 80 is what a browser leaves out.
            return this && port.unwrap_or(80) == self.address.port();
        }
        ip.is_some() || self.names.iter().any(|known| known.eq_ignore_ascii_case(name))
    }

    /// Whether whoever asks knows the token.
    pub fn entry(&self, uri: &Uri, headers: &HeaderMap) -> Entry {
        let Some(token) = &self.token else { return Entry::Open };
        let header = |name| headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        let bearer = header(AUTHORIZATION)
            .filter_map(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, given)| given.trim());
        let cookie = self.cookie_name();
        let cookies = header(COOKIE)
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .filter(|(name, _)| *name == cookie)
            .map(|(_, given)| given);
        if bearer.chain(cookies).any(|given| same(given, token)) {
            return Entry::Open;
        }
        let given = uri.query().unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("token="));
        match given {
            Some(given) if uri.path() == "/" && same(given, token) => Entry::ByAddress,
            _ => Entry::Closed,
        }
    }

    /// The cookie by which a browser is let in from then on.
    pub fn cookie(&self) -> String {
        let token = self.token.as_deref().unwrap_or_default();
        format!("{}={token}; Path=/; HttpOnly; SameSite=Strict", self.cookie_name())
    }

    /// Browsers keep cookies by host and not by port, so that two servers of one host need two names.
    fn cookie_name(&self) -> String {
        format!("vitals_{}", self.address.port())
    }
}

/// Compares in a time that says nothing of how much is the same: of hashes, every byte.
fn same(given: &str, token: &str) -> bool {
    let (given, token) = (Sha256::digest(given.as_bytes()), Sha256::digest(token.as_bytes()));
    given.iter().zip(token.iter()).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// `name`, `name:port`, `[v6]` or `[v6]:port` in its two parts.
fn split_port(host: &str) -> Option<(&str, Option<u16>)> {
    let end = if host.starts_with('[') { host.find(']')? + 1 } else { host.find(':').unwrap_or(host.len()) };
    let (name, rest) = host.split_at(end);
    match rest.strip_prefix(':') {
        // A sign is no digit, but would be read as part of a number.
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => Some((name, Some(port.parse().ok()?))),
        None if rest.is_empty() => Some((name, None)),
        _ => None,
    }
}

fn ip_of(name: &str) -> Option<IpAddr> {
    match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(v6) => v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => name.parse().ok(),
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

fn is_usual_loopback(ip: IpAddr) -> bool {
    ip == IpAddr::from([127, 0, 0, 1]) || ip == IpAddr::V6(Ipv6Addr::LOCALHOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef-_";

    fn guard(address: &str, names: &[&str]) -> Guard {
        let address: SocketAddr = address.parse().unwrap();
        let token = (!is_loopback(address.ip())).then(|| TOKEN.to_owned());
        let names = names.iter().map(|&name| name.to_owned()).collect();
        Guard::new(address, Access { token, names }).unwrap()
    }

    #[test]
    fn on_loopback_only_this_machine_by_its_own_names_and_port_is_meant() {
        let guard = guard("127.0.0.2:8080", &["evil.example"]);
        for good in ["localhost:8080", "LOCALHOST:8080", "127.0.0.1:8080", "[::1]:8080", "127.0.0.2:8080"] {
            assert!(guard.is_named(good), "{good}");
        }
        let bad = [
            "",
            "localhost",
            "localhost:80",
            "localhost:8080.evil.example",
            "evil.example:8080",
            "127.0.0.3:8080",
            "localhost.evil.example:8080",
            "192.168.1.1:8080",
            "[::1]",
            "[::1:8080",
            "127.0.0.1:+8080",
            "localhost:",
            "localhost:99999",
            "evil@localhost:8080",
        ];
        for bad in bad {
            assert!(!guard.is_named(bad), "{bad}");
        }
        let usual = Guard::new("127.0.0.1:80".parse().unwrap(), Access::default()).unwrap();
        assert!(usual.is_named("localhost"));
    }

    #[test]
    fn where_others_reach_it_addresses_and_listed_names_are_meant() {
        let guard = guard("0.0.0.0:8080", &["ward7.example"]);
        for good in ["10.0.0.5:8080", "10.0.0.5", "[fe80::1]:9000", "Ward7.example:8080", "ward7.example"] {
            assert!(guard.is_named(good), "{good}");
        }
        for bad in ["localhost:8080", "evil.example", "ward7.example.evil.example", "10.0.0.5.evil.example"] {
            assert!(!guard.is_named(bad), "{bad}");
        }
    }

    #[test]
    fn a_server_that_others_reach_needs_a_token() {
        for address in ["0.0.0.0:1", "10.0.0.1:1", "[::]:1", "[::ffff:10.0.0.1]:1"] {
            let refused = Guard::new(address.parse().unwrap(), Access::default()).err().unwrap().to_string();
            assert!(refused.contains("token"), "{refused}");
        }
        for address in ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(Guard::new(address.parse().unwrap(), Access::default()).is_ok(), "{address}");
        }
        for token in ["", "short", "with space and more", "semi;colon;semi;colon", &"x".repeat(129)] {
            let access = Access { token: Some(token.to_owned()), names: vec![] };
            assert!(Guard::new("127.0.0.1:1".parse().unwrap(), access).is_err(), "{token}");
        }
    }

    #[test]
    fn only_the_whole_token_is_the_token() {
        assert!(same(TOKEN, TOKEN));
        for wrong in ["", &TOKEN[1..], &TOKEN[..TOKEN.len() - 1], &format!("{TOKEN}x")] {
            assert!(!same(wrong, TOKEN), "{wrong}");
        }
    }
}
