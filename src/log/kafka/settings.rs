//! How Kafka's brokers are reached, and what convinces them.

use std::{fmt, path::PathBuf};

use rdkafka::{ClientConfig, config::RDKafkaLogLevel};

/// Something that must not be seen in any message.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// How a client and a broker trust each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Security {
    /// Neither encrypted nor authenticated.
    Plaintext,
    /// TLS; the client has a certificate where the brokers ask for one.
    Ssl { ca: Option<PathBuf>, certificate: Option<(PathBuf, PathBuf)> },
    /// TLS, and a name and proof inside it.
    SaslSsl { ca: Option<PathBuf>, auth: Auth },
}

/// Who a client says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// SCRAM-SHA-512.
    Scram { user: String, password: Secret },
    /// AWS IAM, as Amazon MSK takes it: tokens signed with the credentials that the AWS chain finds.
    Iam { region: String },
}

/// Everything that a client of Kafka needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Brokers to ask first: `HOST:PORT[,HOST:PORT…]`.
    pub brokers: String,
    pub security: Security,
    /// Further properties of librdkafka, which win over those set here.
    pub properties: Vec<(String, String)>,
}

/// Properties that keep the promises, or that hold secrets: nobody sets them from outside.
const RESERVED: [&str; 14] = [
    "bootstrap.servers",
    "metadata.broker.list",
    "group.id",
    "group.protocol",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "partition.assignment.strategy",
    "isolation.level",
    "enable.idempotence",
    "acks",
    "partitioner",
    "sasl.password",
    "ssl.key.password",
    "ssl.keystore.password",
];

impl Settings {
    /// Brokers without any security.
    pub fn plaintext(brokers: &str) -> Settings {
        Settings { brokers: brokers.to_owned(), security: Security::Plaintext, properties: Vec::new() }
    }

    /// `KEY=VALUE` of librdkafka, if it may be set from outside.
    pub fn parse_property(text: &str) -> Result<(String, String), String> {
        let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not KEY=VALUE"))?;
        if RESERVED.contains(&key) || key.starts_with("sasl.oauthbearer") {
            return Err(format!("`{key}` is set by vitals itself; secrets come from the environment or a file"));
        }
        let mut config = ClientConfig::new();
        config.set(key, value);
        config.create_native_config().map_err(|e| e.to_string())?;
        Ok((key.to_owned(), value.to_owned()))
    }

    /// The configuration of a client, without what is particular to consumers and producers.
    pub(super) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        config.set("client.id", "vitals");
        config.set("socket.keepalive.enable", "true");
        config.set("reconnect.backoff.max.ms", "5000");
        // Why a broker lets nobody in comes as a message of this level. More is wanted by who asks for it.
        let debug = self.properties.iter().any(|(key, _)| key == "debug");
        config.set_log_level(if debug { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Info });
        let trust = |config: &mut ClientConfig, ca: &Option<PathBuf>| {
            // OpenSSL is our own, so the system's certificates have to be looked for.
            let place = ca.as_ref().map_or_else(|| "probe".to_owned(), |path| path.display().to_string());
            config.set("ssl.ca.location", place);
        };
        match &self.security {
            Security::Plaintext => {
                config.set("security.protocol", "plaintext");
            }
            Security::Ssl { ca, certificate } => {
                config.set("security.protocol", "ssl");
                trust(&mut config, ca);
                if let Some((certificate, key)) = certificate {
                    config.set("ssl.certificate.location", certificate.display().to_string());
                    config.set("ssl.key.location", key.display().to_string());
                }
            }
            Security::SaslSsl { ca, auth } => {
                config.set("security.protocol", "sasl_ssl");
                trust(&mut config, ca);
                match auth {
                    Auth::Scram { user, password } => {
                        config.set("sasl.mechanism", "SCRAM-SHA-512");
                        config.set("sasl.username", user);
                        config.set("sasl.password", &password.0);
                    }
                    Auth::Iam { .. } => {
                        config.set("sasl.mechanism", "OAUTHBEARER");
                    }
                }
            }
        }
        config
    }

    /// The properties from outside, last.
    pub(super) fn finish(&self, config: &mut ClientConfig) {
        for (key, value) in &self.properties {
            config.set(key, value);
        }
    }

    /// The region whose tokens are wanted, with AWS IAM.
    pub(super) fn iam_region(&self) -> Option<String> {
        match &self.security {
            Security::SaslSsl { auth: Auth::Iam { region }, .. } => Some(region.clone()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_promises_or_secrets_is_not_set_from_outside() {
        for wrong in ["enable.auto.commit=true", "sasl.password=x", "sasl.oauthbearer.config=x", "no.such=1", "novalue"]
        {
            assert!(Settings::parse_property(wrong).is_err(), "{wrong}");
        }
        let read = Settings::parse_property("session.timeout.ms=6000").unwrap();
        assert_eq!(read, ("session.timeout.ms".to_owned(), "6000".to_owned()));
    }

    #[test]
    fn no_message_shows_a_password() {
        let auth = Auth::Scram { user: "u".to_owned(), password: Secret("hunter2".to_owned()) };
        let security = Security::SaslSsl { ca: None, auth };
        let settings = Settings { security, ..Settings::plaintext("a:1") };
        assert!(!format!("{settings:?}").contains("hunter2"));
        assert_eq!(settings.client().get("sasl.password"), Some("hunter2"));
    }
}
