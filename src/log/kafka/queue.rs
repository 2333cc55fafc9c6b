//! The queue by which records come from librdkafka, many at a time.
//!
//! A consumer's own queue gives one event per record, which costs more than reading its JSON: clocks, locks, an event that
//! is made and destroyed. So the partitions' queues are led into one of ours, from which hundreds are taken at a time.
//! Whatever else a consumer has to say (assignments, errors, wishes for tokens) still comes by its own queue.
//!
//! librdkafka leads a partition to the consumer's queue when it begins to fetch it, unless somebody has led it elsewhere
//! before. When it has stopped to fetch it, which is some time after it was told to, it leads it nowhere. So a partition is
//! led here before it is taken, and again now and then: what has gathered in the meantime comes then, in its order.

use std::{
    ffi::{CString, c_void},
    ptr,
    sync::Arc,
};

use anyhow::ensure;
use rdkafka::{
    Timestamp,
    bindings::{self as native, rd_kafka_message_t, rd_kafka_queue_t, rd_kafka_t, rd_kafka_timestamp_type_t},
    consumer::Consumer,
    error::{IsError, KafkaError},
    types::RDKafkaRespErr,
};

use super::{consumer::Ending, reader::Bell};

/// Our queue of a consumer.
pub(super) struct Queue {
    queue: *mut rd_kafka_queue_t,
    topic: CString,
    consumer: Arc<Ending>,
    /// The queue has a pointer to it.
    _bell: Arc<Bell>,
}

// SAFETY: librdkafka's queues have locks of their own.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Queue {
    /// A queue for partitions of `topic`; `bell` is rung when records come.
    ///
    /// # Errors
    /// Where the topic's name can't be one.
    pub(super) fn new(consumer: Arc<Ending>, topic: &str, bell: Arc<Bell>) -> anyhow::Result<Queue> {
        unsafe extern "C" fn ring(_: *mut rd_kafka_t, bell: *mut c_void) {
            // SAFETY: it is a bell, which the queue does not outlive.
            unsafe { &*bell.cast::<Bell>() }.ring();
        }
        let topic = CString::new(topic)?;
        // SAFETY: the consumer is there for as long as the queue is, and so is the bell.
        let queue = unsafe {
            let queue = native::rd_kafka_queue_new(consumer.client().native_ptr());
            native::rd_kafka_queue_cb_event_enable(queue, Some(ring), Arc::as_ptr(&bell).cast_mut().cast());
            queue
        };
        Ok(Queue { queue, topic, consumer, _bell: bell })
    }

    /// Leads a partition here, whether it is so already or not.
    ///
    /// # Errors
    /// Where librdkafka knows no such partition: its records would come by the consumer's queue.
    pub(super) fn lead(&self, partition: i32) -> anyhow::Result<()> {
        // SAFETY: consumer, topic and queue are there, and what librdkafka gives is given back.
        unsafe {
            let from = native::rd_kafka_queue_get_partition(
                self.consumer.client().native_ptr(),
                self.topic.as_ptr(),
                partition,
            );
            ensure!(!from.is_null(), "librdkafka has no queue for partition {partition}");
            native::rd_kafka_queue_forward(from, self.queue);
            native::rd_kafka_queue_destroy(from);
        }
        Ok(())
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nobody can ask it any more; nor does it ring from here on.
        unsafe {
            native::rd_kafka_queue_cb_event_enable(self.queue, None, ptr::null_mut());
            native::rd_kafka_queue_destroy(self.queue);
        }
    }
}

/// What was taken from a queue at a time, in its order. It lies in librdkafka's memory until it is let go.
pub(super) struct Taken {
    queue: Arc<Queue>,
    messages: Vec<*mut rd_kafka_message_t>,
    /// The first that was not looked at yet.
    next: usize,
}

// SAFETY: librdkafka's messages belong to no thread.
unsafe impl Send for Taken {}

/// One record.
pub(super) struct Message<'a> {
    pub partition: i32,
    pub offset: i64,
    pub timestamp: Timestamp,
    pub key: Option<&'a [u8]>,
    pub payload: &'a [u8],
}

impl Taken {
    /// None yet.
    pub(super) fn new(queue: Arc<Queue>) -> Taken {
        Taken { queue, messages: Vec::new(), next: 0 }
    }

    /// Whether all were looked at.
    pub(super) fn is_empty(&self) -> bool {
        self.next == self.messages.len()
    }

    /// Takes up to `count` that are there now. What was not looked at is let go.
    ///
    /// `rd_kafka_consume_callback_queue` would take all that is there out of the queue at a time, whose bound librdkafka then
    /// believes to be free.
    pub(super) fn fill(&mut self, count: usize) {
        self.let_go();
        self.messages.reserve(count);
        // SAFETY: there is room for `count` pointers, of which librdkafka says how many it has written.
        unsafe {
            let taken = native::rd_kafka_consume_batch_queue(self.queue.queue, 0, self.messages.as_mut_ptr(), count);
            // It is negative only for arguments that are never given here.
            self.messages.set_len(usize::try_from(taken).unwrap_or(0));
        }
    }

    /// The next record, or what went wrong instead.
    pub(super) fn next(&mut self) -> Option<Result<Message<'_>, KafkaError>> {
        let message = *self.messages.get(self.next)?;
        // The one before has been read, and is let go while it is still near.
        if let Some(read) = self.next.checked_sub(1) {
            destroy(&mut self.messages[read]);
        }
        self.next += 1;
        // SAFETY: it is there until it is destroyed, which the borrow of `self` puts off.
        Some(unsafe { Message::of(&*message) })
    }

    fn let_go(&mut self) {
        self.messages.iter_mut().for_each(destroy);
        self.messages.clear();
        self.next = 0;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// Gives a message back, once.
fn destroy(message: &mut *mut rd_kafka_message_t) {
    let message = std::mem::replace(message, ptr::null_mut());
    if !message.is_null() {
        // SAFETY: it came from librdkafka, and nobody has it any more.
        unsafe { native::rd_kafka_message_destroy(message) };
    }
}

impl<'a> Message<'a> {
    /// # Safety
    /// The message must be there for as long as the result is.
    unsafe fn of(message: &'a rd_kafka_message_t) -> Result<Message<'a>, KafkaError> {
        if message.err.is_error() {
            return Err(failure(message));
        }
        // SAFETY: a record's key and its payload are as long as it says, where they are not null.
        let bytes = |at: *mut c_void, length: usize| unsafe {
            (!at.is_null()).then(|| std::slice::from_raw_parts(at.cast::<u8>().cast_const(), length))
        };
        Ok(Message {
            partition: message.partition,
            offset: message.offset,
            timestamp: timestamp(message),
            key: bytes(message.key, message.key_len),
            payload: bytes(message.payload, message.len).unwrap_or_default(),
        })
    }
}

/// What went wrong, instead of a record.
fn failure(message: &rd_kafka_message_t) -> KafkaError {
    match message.err {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF => KafkaError::PartitionEOF(message.partition),
        fatal @ RDKafkaRespErr::RD_KAFKA_RESP_ERR__FATAL => KafkaError::MessageConsumptionFatal(fatal.into()),
        other => KafkaError::MessageConsumption(other.into()),
    }
}

fn timestamp(message: &rd_kafka_message_t) -> Timestamp {
    let mut kind = rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
    // SAFETY: both are there.
    let ms = unsafe { native::rd_kafka_message_timestamp(message, &mut kind) };
    match kind {
        _ if ms == -1 => Timestamp::NotAvailable,
        rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME => Timestamp::LogAppendTime(ms),
        rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_CREATE_TIME => Timestamp::CreateTime(ms),
        rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE => Timestamp::NotAvailable,
    }
}
