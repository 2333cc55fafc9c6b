//! What librdkafka calls back for: assignments, errors, messages of its own, tokens.

use std::{
    collections::VecDeque,
    error::Error,
    ffi::{CString, c_char},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use rdkafka::{
    ClientContext, TopicPartitionList, bindings,
    client::{Client, OAuthToken},
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    types::RDKafkaRespErr,
};
use tokio::{runtime::Handle, sync::Notify};

use super::Settings;
use crate::aws::msk;

/// Partitions that come or go.
#[derive(Debug)]
pub(super) enum Rebalance {
    Assign(Vec<i32>),
    Revoke(Vec<i32>),
    /// What comes next is gone: everything that is read begins where it is then.
    Anew,
}

/// The context of every client of ours.
pub(super) struct Context {
    /// Whose tokens are wanted, with AWS IAM.
    iam_region: Option<String>,
    runtime: Handle,
    rebalances: Mutex<VecDeque<Rebalance>>,
    /// Partitions are let go at once: nobody asks any more.
    pub(super) closing: AtomicBool,
    pub(super) rebalanced: AtomicU64,
    /// A broker has answered once: that none does is then news.
    reached: AtomicBool,
    /// What went wrong last on the way to the brokers.
    last_error: Mutex<Option<String>>,
    /// librdkafka has said that what we read is not there any more. It says so once, without words for programs.
    pub(super) doubted: AtomicBool,
    /// Brokers have said that the topic is gone.
    pub(super) gone: AtomicBool,
    /// Something waits in the queue.
    pub(super) ready: Arc<Notify>,
}

impl Context {
    /// For a client with these settings, in a Tokio runtime.
    pub(super) fn new(settings: &Settings) -> Context {
        Context {
            iam_region: settings.iam_region(),
            runtime: Handle::current(),
            rebalances: Mutex::default(),
            closing: AtomicBool::new(false),
            rebalanced: AtomicU64::new(0),
            reached: AtomicBool::new(false),
            last_error: Mutex::default(),
            doubted: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            ready: Arc::default(),
        }
    }

    /// Notes that a broker has answered.
    pub(super) fn reached(&self) {
        self.reached.store(true, Relaxed);
    }

    /// A change of the assignment, as if the group had made it.
    pub(super) fn push(&self, change: Rebalance) {
        lock(&self.rebalances).push_back(change);
    }

    /// The next change of the assignment.
    pub(super) fn next_rebalance(&self) -> Option<Rebalance> {
        lock(&self.rebalances).pop_front()
    }

    /// A new token for the brokers; `None` where they ask for none.
    fn token(&self) -> Option<anyhow::Result<msk::Token>> {
        let (region, runtime) = (self.iam_region.clone()?, self.runtime.clone());
        // Called in the middle of asynchronous work, which must not be blocked on from its own threads.
        let thread = std::thread::spawn(move || runtime.block_on(msk::token(&region)));
        Some(thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("signing a token ended badly"))))
    }

    /// What went wrong last on the way to the brokers, if anything has.
    pub(super) fn last_error(&self) -> Option<String> {
        lock(&self.last_error).clone()
    }
}

/// Gives a client its first token, with AWS IAM. librdkafka asks for tokens only where the client is polled, which nobody
/// does before it has reached a broker.
///
/// # Errors
/// Where there are no credentials.
pub(super) fn introduce(client: &Client<Context>) -> anyhow::Result<()> {
    let Some(token) = client.context().token() else { return Ok(()) };
    let token = token?;
    let (text, nobody, mut why) = (CString::new(token.text)?, c"", [0 as c_char; 512]);
    // SAFETY: the client is there, librdkafka copies both texts, and writes no more into `why` than there is room.
    let said = unsafe {
        let (rk, expires_ms, room) = (client.native_ptr(), token.expires_ms, why.len());
        let (text, nobody, none) = (text.as_ptr(), nobody.as_ptr(), std::ptr::null_mut());
        bindings::rd_kafka_oauthbearer_set_token(rk, text, expires_ms, nobody, none, 0, why.as_mut_ptr(), room)
    };
    anyhow::ensure!(said == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR, "librdkafka does not take the token: {said:?}");
    Ok(())
}

/// Nothing panics while it holds one of these locks.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // Errors come by `error` only to who polls, which a client that has not reached anybody yet does not do.
        if facility == "FAIL" {
            let reason = message.split_once("]: ").map_or(message, |(_thread, reason)| reason);
            *lock(&self.last_error) = Some(reason.to_owned());
        }
        // What is wrong with a partition as a whole, and has no other way from a queue of ours.
        if facility == "ERROR" {
            self.doubted.store(true, Relaxed);
        }
        // Failed connections are told as errors too, once, and are retried without end.
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!("kafka: {message}");
            }
            _ => tracing::debug!(facility, "kafka: {message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let text = match error.rdkafka_error_code() {
            // Told where it is waited for.
            Some(RDKafkaErrorCode::PartitionEOF) => return,
            // A broker among others that is away is no news while another one answers.
            Some(RDKafkaErrorCode::BrokerTransportFailure) => {
                tracing::debug!("kafka: {reason}");
                format!("a broker can't be reached: {reason}")
            }
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                // The reason stands in the error before it.
                if lock(&self.last_error).is_none() {
                    *lock(&self.last_error) = Some("no broker can be reached".to_owned());
                }
                if self.reached.load(Relaxed) {
                    tracing::warn!("kafka: no broker can be reached; trying on");
                }
                return;
            }
            _ if self.reached.load(Relaxed) => {
                tracing::warn!("kafka: {reason}");
                reason.to_owned()
            }
            _ => reason.to_owned(),
        };
        *lock(&self.last_error) = Some(text);
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        let token = self.token().ok_or("no AWS region is known")?.map_err(|e| format!("{e:#}"))?;
        Ok(OAuthToken { token: token.text, principal_name: String::new(), lifetime_ms: token.expires_ms })
    }
}

impl ConsumerContext for Context {
    /// Notes what changes; the source answers when ingest is ready for it.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, change: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions: Vec<i32> = list.elements().iter().map(|element| element.partition()).collect();
        self.rebalanced.fetch_add(1, Relaxed);
        if self.closing.load(Relaxed) {
            // The consumer is going: what fails now changes nothing.
            let _ = consumer.incremental_unassign(&match consumer.assignment() {
                Ok(assigned) => assigned,
                Err(_) => TopicPartitionList::new(),
            });
            return;
        }
        let change = match change {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Rebalance::Assign(partitions),
            _ => Rebalance::Revoke(partitions),
        };
        tracing::info!(?change, "kafka: partitions are dealt out anew");
        self.push(change);
        self.ready.notify_one();
    }
}
