//! A consumer that ends within a second.

use std::{ops::Deref, sync::mpsc, thread, time::Duration};

use rdkafka::{
    ClientConfig, bindings,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer},
    error::KafkaResult,
};

use super::context::Context;

/// How long the end of a consumer may take. Brokers that answer are told of it in much less.
const GOODBYE: Duration = Duration::from_secs(1);

/// A consumer of librdkafka. Its end waits for brokers, which may be away for minutes: it is then left to itself.
pub(super) struct Ending(Option<BaseConsumer<Context>>);

impl Ending {
    /// A consumer with these settings; `ring` is called when something has come.
    ///
    /// # Errors
    /// Where the settings contradict each other.
    pub(super) fn new(
        config: &ClientConfig,
        context: Context,
        ring: Option<impl Fn() + Send + Sync + 'static>,
    ) -> KafkaResult<Ending> {
        let mut consumer = BaseConsumer::from_config_and_context(config, context)?;
        if let Some(ring) = ring {
            consumer.set_nonempty_callback(ring);
        }
        Ok(Ending(Some(consumer)))
    }

    /// Whether the group counts us in: from when it has let us join until it is told that we go.
    pub(super) fn is_member(&self) -> bool {
        // SAFETY: the client is there; what it gives is a text or null, and is given back to it.
        unsafe {
            let client = self.client().native_ptr();
            let id = bindings::rd_kafka_memberid(client);
            let member = !id.is_null() && *id != 0;
            bindings::rd_kafka_mem_free(client, id.cast());
            member
        }
    }
}

impl Deref for Ending {
    type Target = BaseConsumer<Context>;

    fn deref(&self) -> &BaseConsumer<Context> {
        self.0.as_ref().expect("it is taken out only when nobody can ask for it any more")
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let (consumer, (ends, ended)) = (self.0.take(), mpsc::channel::<()>());
        let end = move || {
            drop(consumer);
            drop(ends);
        };
        // Where no thread can be had, it ends here.
        let _ = thread::Builder::new().name("kafka-goodbye".into()).spawn(end);
        let _ = ended.recv_timeout(GOODBYE);
    }
}
