//! Copies for one subscriber that wait to be sent. A subscriber that reads too slowly loses copies; nobody waits for it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use mqtt_protocol_core::mqtt::Version;
use tokio::sync::Notify;

/// The most bytes of copies that wait for one subscriber.
pub const MAILBOX_BYTES: usize = 1024 * 1024;

/// The most bytes of copies that wait for all subscribers of a broker together.
pub const ALL_MAILBOXES_BYTES: usize = 64 * 1024 * 1024;

/// What a copy costs beside its bytes.
const ENTRY_BYTES: usize = size_of::<Bytes>();

/// See the module's own words.
pub struct Mailbox {
    /// The protocol in which the subscriber wants copies.
    pub version: Version,
    /// The longest packet that the subscriber takes, in bytes.
    max_packet: usize,
    waiting: Mutex<Waiting>,
    /// Bytes in all mailboxes of the broker.
    all: Arc<AtomicUsize>,
    filled: Notify,
}

#[derive(Default)]
struct Waiting {
    copies: VecDeque<Bytes>,
    /// Bytes of these, and of those that were taken and are not sent yet.
    bytes: usize,
}

impl Mailbox {
    pub fn new(version: Version, max_packet: usize, all: Arc<AtomicUsize>) -> Mailbox {
        Mailbox { version, max_packet, waiting: Mutex::default(), all, filled: Notify::new() }
    }

    #[cfg(test)]
    pub fn for_tests() -> Arc<Mailbox> {
        Arc::new(Mailbox::new(Version::V5_0, usize::MAX, Arc::default()))
    }

    /// Puts a packet in. Gives whether there was room for it.
    pub fn push(&self, packet: &Bytes) -> bool {
        let size = packet.len() + ENTRY_BYTES;
        if packet.len() > self.max_packet || self.all.load(Relaxed) + size > ALL_MAILBOXES_BYTES {
            return false;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.bytes + size > MAILBOX_BYTES {
            return false;
        }
        waiting.bytes += size;
        waiting.copies.push_back(packet.clone());
        self.all.fetch_add(size, Relaxed);
        drop(waiting);
        self.filled.notify_one();
        true
    }

    /// Copies packets to `output` until it has `limit` bytes. Gives what they take, to be given to [`Mailbox::sent`] once
    /// they are out of memory; 0 where there is no packet.
    pub fn take(&self, output: &mut BytesMut, limit: usize) -> usize {
        let mut taken = 0;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while output.len() < limit
            && let Some(packet) = waiting.copies.pop_front()
        {
            taken += packet.len() + ENTRY_BYTES;
            output.extend_from_slice(&packet);
        }
        if waiting.copies.is_empty() {
            waiting.copies.shrink_to(64);
        }
        taken
    }

    /// Makes room for as many bytes as were taken and sent.
    pub fn sent(&self, bytes: usize) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.bytes -= bytes;
        self.all.fetch_sub(bytes, Relaxed);
    }

    /// Waits until something was put in.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        let waiting = self.waiting.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.all.fetch_sub(waiting.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_mailbox_refuses_and_gives_its_bytes_back() {
        let all = Arc::new(AtomicUsize::new(0));
        let mailbox = Mailbox::new(Version::V3_1_1, 2000, Arc::clone(&all));
        assert!(!mailbox.push(&Bytes::from(vec![0; 2001])), "longer than the subscriber takes");
        let packet = Bytes::from(vec![0; 1000]);
        let pushed = (0..10_000).filter(|_| mailbox.push(&packet)).count();
        assert_eq!(pushed, MAILBOX_BYTES / (1000 + ENTRY_BYTES));
        let mut output = BytesMut::new();
        let taken = mailbox.take(&mut output, 2500);
        assert_eq!((taken, output.len()), (3 * (1000 + ENTRY_BYTES), 3000));
        assert!(!mailbox.push(&packet), "what is not sent yet counts");
        mailbox.sent(taken);
        assert_eq!((0..10).filter(|_| mailbox.push(&packet)).count(), 3);
        mailbox.take(&mut output, usize::MAX);
        drop(mailbox);
        assert_eq!(all.load(Relaxed), 0);
    }
}
