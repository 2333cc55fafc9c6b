//! A consumer that ends within a second.

use std::{ops::Deref, sync::mpsc, thread, time::Duration};

use rdkafka::{ClientConfig, config::FromClientConfigAndContext, consumer::BaseConsumer, error::KafkaResult};

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
