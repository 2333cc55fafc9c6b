//! What every command that speaks to Kafka is told about its brokers.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::Exit;
use crate::log::kafka::{Auth, NewTopic, Secret, Security, Settings};

/// How Kafka's brokers are reached.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Kafka")]
pub struct KafkaArgs {
    /// How brokers are spoken to
    #[arg(long, value_enum, default_value_t = Protocol::Plaintext, env = "VITALS_KAFKA_PROTOCOL")]
    kafka_protocol: Protocol,

    /// Certificates that brokers' certificates are checked against, PEM [default: the system's]
    #[arg(long, value_name = "FILE", env = "VITALS_KAFKA_CA")]
    kafka_ca: Option<PathBuf>,

    /// The client's own certificate, PEM; with `ssl`
    #[arg(long, value_name = "FILE", requires = "kafka_key", env = "VITALS_KAFKA_CERT")]
    kafka_cert: Option<PathBuf>,

    /// The key of that certificate, PEM
    #[arg(long, value_name = "FILE", requires = "kafka_cert", env = "VITALS_KAFKA_KEY")]
    kafka_key: Option<PathBuf>,

    /// What convinces brokers; with `sasl_ssl`
    #[arg(long, value_enum, default_value_t = AuthKind::Scram, env = "VITALS_KAFKA_AUTH")]
    kafka_auth: AuthKind,

    /// The user, with `scram`; the password comes from VITALS_KAFKA_PASSWORD or a file
    #[arg(long, value_name = "NAME", env = "VITALS_KAFKA_USER")]
    kafka_user: Option<String>,

    /// The file that holds the password
    #[arg(long, value_name = "FILE", env = "VITALS_KAFKA_PASSWORD_FILE")]
    kafka_password_file: Option<PathBuf>,

    /// The region of the cluster, with `iam` [default: that of the AWS settings]
    #[arg(long, value_name = "REGION")]
    kafka_region: Option<String>,

    /// Partitions of the topic where it has to be made
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(i32).range(1..=100_000))]
    kafka_partitions: i32,

    /// Replicas of the topic where it has to be made
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=15))]
    kafka_replication: i32,

    /// A property of librdkafka
    #[arg(long, value_name = "KEY=VALUE", value_parser = Settings::parse_property)]
    kafka_set: Vec<(String, String)>,
}

/// How brokers are spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Protocol {
    Plaintext,
    Ssl,
    SaslSsl,
}

/// What convinces brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AuthKind {
    /// SCRAM-SHA-512
    Scram,
    /// AWS IAM
    Iam,
}

impl KafkaArgs {
    /// The settings of a client.
    ///
    /// # Errors
    /// Where something that the protocol needs is missing, or a file can't be read.
    pub async fn settings(&self, brokers: &str) -> anyhow::Result<Settings> {
        let given = [&self.kafka_ca, &self.kafka_cert, &self.kafka_key].into_iter().any(Option::is_some);
        let named = self.kafka_user.is_some() || self.kafka_auth == AuthKind::Iam;
        let security = match self.kafka_protocol {
            Protocol::Plaintext if given || named => {
                return Err(Exit::usage(
                    "certificates, users and IAM need TLS: say `--kafka-protocol ssl` or `--kafka-protocol sasl_ssl`",
                ));
            }
            Protocol::Plaintext => Security::Plaintext,
            Protocol::Ssl if named => {
                return Err(Exit::usage("users and IAM need `--kafka-protocol sasl_ssl`"));
            }
            Protocol::Ssl => Security::Ssl {
                ca: self.kafka_ca.clone(),
                certificate: self.kafka_cert.clone().zip(self.kafka_key.clone()),
            },
            Protocol::SaslSsl => Security::SaslSsl { ca: self.kafka_ca.clone(), auth: self.auth().await? },
        };
        for path in [&self.kafka_ca, &self.kafka_cert, &self.kafka_key].into_iter().flatten() {
            super::check_file(path)?;
        }
        Ok(Settings { brokers: brokers.to_owned(), security, properties: self.kafka_set.clone() })
    }

    async fn auth(&self) -> anyhow::Result<Auth> {
        if self.kafka_auth == AuthKind::Iam {
            let region = match &self.kafka_region {
                Some(region) => Some(region.clone()),
                None => crate::aws::region().await,
            };
            let region =
                region.ok_or_else(|| Exit::usage("no AWS region is known: say `--kafka-region`, or set AWS_REGION"))?;
            return Ok(Auth::Iam { region });
        }
        let user =
            self.kafka_user.clone().ok_or_else(|| Exit::usage("`sasl_ssl` with `scram` needs `--kafka-user`"))?;
        let password = match &self.kafka_password_file {
            Some(path) => {
                let read = std::fs::read_to_string(path);
                let read = read.map_err(|e| anyhow::anyhow!("can't read `{}`: {e}", path.display()))?;
                read.trim_end_matches(['\n', '\r']).to_owned()
            }
            None => std::env::var("VITALS_KAFKA_PASSWORD").map_err(|_| {
                Exit::usage("the password is missing: set VITALS_KAFKA_PASSWORD, or name `--kafka-password-file`")
            })?,
        };
        Ok(Auth::Scram { user, password: Secret(password) })
    }

    /// The topic as it is made where it is not there.
    pub fn new_topic(&self) -> NewTopic {
        NewTopic { partitions: self.kafka_partitions, replication: self.kafka_replication }
    }

    /// How long brokers may be away before a command that only sends gives up.
    pub const PATIENCE: Duration = Duration::from_secs(120);
}
