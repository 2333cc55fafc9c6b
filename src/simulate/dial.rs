//! How each connection of a run is made: to whom, under which name, with which certificate, and how much it may send.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rumqttc::{
    ConnectionError,
    tokio_rustls::rustls::{
        ClientConfig, RootCertStore,
        client::Resumption,
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use super::fleet::device_id;
use super::options::{Broker, PublishError, PublishOptions, TOPIC, Things, Tls};

/// What AWS IoT Core takes of one connection; it discards what is more.
const PUBLISHES_PER_S: f64 = 100.0;
const BYTES_PER_S: f64 = 512.0 * 1024.0;

/// The port on which IoT Core tells MQTT from HTTPS by a name in the handshake, and that name.
const HTTPS_PORT: u16 = 443;
const MQTT_BY_NAME: &[u8] = b"x-amzn-mqtt-ca";

/// What one connection is made of.
#[derive(Clone)]
pub(super) struct Dial {
    pub(super) broker: Broker,
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) client_id: String,
    /// What device ids are appended to.
    pub(super) topic: String,
    pub(super) in_flight: u16,
    /// Whether IoT Core's limits of one connection are kept.
    pub(super) limited: bool,
}

impl Dial {
    /// How long after a packet of `bytes` the next one may go out.
    pub(super) fn gap(&self, bytes: usize) -> Duration {
        if !self.limited {
            return Duration::ZERO;
        }
        Duration::from_secs_f64((1.0 / PUBLISHES_PER_S).max(bytes as f64 / BYTES_PER_S))
    }
}

/// Makes the [`Dial`] of each connection.
pub(super) struct Dialer {
    broker: Broker,
    trust: Option<Trust>,
    who: Who,
    in_flight: u16,
}

/// Whose connections they are.
enum Who {
    /// Of one device each.
    Devices,
    /// Of gateways that speak for several.
    Gateways,
    /// Of one device each, with the certificate and key that are its own, to a rule.
    Things { certificates: Vec<(PathBuf, PathBuf)>, rule: String },
}

impl Dialer {
    /// Connections to a broker that knows no device from another.
    ///
    /// # Errors
    /// Where a certificate can't be read.
    pub(super) fn to_broker(broker: &Broker, options: &PublishOptions) -> Result<Dialer, PublishError> {
        let own = options.connections_used() == options.fleet.devices;
        Dialer::new(broker, if own { Who::Devices } else { Who::Gateways }, options)
    }

    /// Connections of devices that have an identity each.
    ///
    /// # Errors
    /// Where a certificate can't be read.
    pub(super) fn of_things(things: &Things, options: &PublishOptions) -> Result<Dialer, PublishError> {
        let (certificates, rule) = (things.certificates.clone(), things.rule.clone());
        Dialer::new(&things.broker, Who::Things { certificates, rule }, options)
    }

    fn new(broker: &Broker, who: Who, options: &PublishOptions) -> Result<Dialer, PublishError> {
        let trust = broker.tls.as_ref().map(|tls| Trust::new(tls, broker.port)).transpose()?;
        Ok(Dialer { broker: broker.clone(), trust, who, in_flight: options.in_flight })
    }

    /// What this connection is made of.
    ///
    /// # Errors
    /// Where its certificate can't be read.
    pub(super) fn dial(&self, connection: u32) -> Result<Dial, PublishError> {
        let client_id = match self.who {
            Who::Gateways => format!("gateway_{}", connection + 1),
            Who::Devices | Who::Things { .. } => device_id(connection),
        };
        let (own, topic) = match &self.who {
            Who::Things { certificates, rule } => {
                (certificates.get(connection as usize), format!("$aws/rules/{rule}/{TOPIC}"))
            }
            Who::Devices | Who::Gateways => (None, TOPIC.to_owned()),
        };
        Ok(Dial {
            broker: self.broker.clone(),
            tls: self.trust.as_ref().map(|trust| trust.client(own)).transpose()?,
            client_id,
            topic,
            in_flight: self.in_flight,
            limited: matches!(self.who, Who::Things { .. }),
        })
    }

    /// Why the first connection could not be made, with what to do.
    pub(super) fn refused(&self, error: &ConnectionError) -> PublishError {
        let broker = Box::new(self.broker.clone());
        let code = match error {
            ConnectionError::ConnectionRefused(code) => Some(format!("{code:?}")),
            _ => None,
        };
        let Some(Tls { ca, certificate }) = &broker.tls else {
            return match (code, error) {
                (Some(reason), _) => PublishError::Refused { broker, reason },
                (None, ConnectionError::Io(error)) => PublishError::NoBroker { reason: error.to_string(), broker },
                (None, other) => PublishError::NoBroker { reason: other.to_string().to_lowercase(), broker },
            };
        };
        let reason = code.unwrap_or_else(|| innermost(error));
        let own = match &self.who {
            Who::Things { certificates, .. } => certificates.first(),
            Who::Devices | Who::Gateways => certificate.as_ref(),
        };
        let is_down =
            matches!(error, ConnectionError::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused);
        let hint = if reason.contains("invalid peer certificate") {
            let ca = ca.as_ref().map_or("the system's".to_owned(), |ca| format!("those in `{}`", ca.display()));
            let others = match self.who {
                Who::Things { .. } => "`ca` in devices.json",
                Who::Devices | Who::Gateways => "`--ca FILE`",
            };
            format!("the broker's certificate was checked against authorities: {ca}; {others} names others")
        } else if is_down || matches!(error, ConnectionError::NetworkTimeout) {
            match self.who {
                Who::Things { .. } => "nothing answers there: `vitals doctor --target aws` tests the ports".to_owned(),
                Who::Devices | Who::Gateways => "nothing answers there: `--broker` names another".to_owned(),
            }
        } else {
            match own {
                Some((certificate, _)) => format!(
                    "the broker ended the connection: does it take the certificate in `{}`? It may be revoked, of another \
                     account, or without a policy; `vitals devices list` shows how it stands",
                    certificate.display()
                ),
                None => "the broker may want a certificate: `--cert FILE --key FILE`".to_owned(),
            }
        };
        PublishError::Encrypted { broker, reason, hint }
    }
}

/// The last cause of an error: those before it say only that there is one.
fn innermost(error: &ConnectionError) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// Which authorities are trusted, and what is shown where a connection has nothing of its own.
struct Trust {
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    certificate: Option<(PathBuf, PathBuf)>,
    by_name: bool,
}

impl Trust {
    fn new(tls: &Tls, port: u16) -> Result<Trust, PublishError> {
        let mut roots = RootCertStore::empty();
        match &tls.ca {
            Some(path) => {
                let certificates = certificates(path)?;
                certificates.into_iter().try_for_each(|ca| roots.add(ca)).map_err(|e| bad(path, e))?;
            }
            // Some of the system's may be of a kind that is not understood; the others do.
            None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        }
        Ok(Trust {
            provider: Arc::new(ring::default_provider()),
            roots: Arc::new(roots),
            certificate: tls.certificate.clone(),
            by_name: port == HTTPS_PORT,
        })
    }

    /// The client that shows `own`, or what all show.
    fn client(&self, own: Option<&(PathBuf, PathBuf)>) -> Result<Arc<ClientConfig>, PublishError> {
        let builder =
            ClientConfig::builder_with_provider(Arc::clone(&self.provider)).with_safe_default_protocol_versions();
        let builder = builder.map_err(|e| PublishError::Options(e.to_string()))?;
        let builder = builder.with_root_certificates(Arc::clone(&self.roots));
        let mut client = match own.or(self.certificate.as_ref()) {
            Some((certificate, key)) => {
                let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| bad(key, e))?;
                let shown = certificates(certificate)?;
                builder.with_client_auth_cert(shown, secret).map_err(|e| bad(certificate, e))?
            }
            None => builder.with_no_client_auth(),
        };
        // Sessions to resume would be kept for each of the devices, and hardly ever be used.
        client.resumption = Resumption::disabled();
        if self.by_name {
            client.alpn_protocols = vec![MQTT_BY_NAME.to_vec()];
        }
        Ok(Arc::new(client))
    }
}

/// The certificates in a PEM file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PublishError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let read = read.map_err(|e| bad(path, e))?;
    if read.is_empty() { Err(bad(path, "there is no certificate in it")) } else { Ok(read) }
}

fn bad(path: &Path, reason: impl std::fmt::Display) -> PublishError {
    PublishError::Pem { path: path.display().to_string(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::fleet::tests::options;

    fn things(certificates: Vec<(PathBuf, PathBuf)>) -> Things {
        Things { broker: Broker::plain("a.example", 8883), rule: "readings".into(), certificates }
    }

    #[test]
    fn a_device_with_an_identity_keeps_to_what_iot_core_takes_of_a_connection() {
        let certificates = vec![("a.pem".into(), "a.key".into()), ("b.pem".into(), "b.key".into())];
        let options = PublishOptions::new(options(2, 1), things(certificates.clone()));
        let dial = Dialer::of_things(&things(certificates), &options).unwrap().dial(1).unwrap();
        assert_eq!((dial.client_id.as_str(), dial.topic.as_str()), ("device_2", "$aws/rules/readings/iot/device"));
        assert_eq!(dial.gap(100), Duration::from_millis(10));
        assert_eq!(dial.gap(512 * 1024), Duration::from_secs(1));

        let plain = Broker::plain("a.example", 1883);
        let dial =
            Dialer::to_broker(&plain, &PublishOptions::new(options.fleet, plain.clone())).unwrap().dial(1).unwrap();
        assert_eq!((dial.topic.as_str(), dial.gap(512 * 1024)), ("iot/device", Duration::ZERO));
    }

    #[test]
    fn each_device_needs_a_certificate_and_each_certificate_its_file() {
        let few = PublishOptions::new(options(2, 1), things(vec![("a.pem".into(), "a.key".into())]));
        assert!(few.check().is_err());
        let mut absent = things(vec![("no.pem".into(), "no.key".into())]);
        absent.broker.tls = Some(Tls { ca: Some("no-ca.pem".into()), certificate: None });
        let refused = Dialer::of_things(&absent, &few).err();
        assert!(matches!(&refused, Some(PublishError::Pem { path, .. }) if path == "no-ca.pem"));
    }
}
