//! What a broker counts, and how it complains without flooding the log.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Counters of a running broker. They only rise, but for the two gauges.
#[derive(Debug, Default)]
pub struct BrokerStats {
    /// Gauge: network connections that are open.
    pub connections: AtomicU64,
    /// Gauge: subscriptions of all connections.
    pub subscriptions: AtomicU64,
    /// Clients whose CONNECT was accepted.
    pub accepted: AtomicU64,
    /// Connections closed unheard because there were as many as allowed.
    pub refused: AtomicU64,
    /// Publishes received, by QoS 0, 1 and 2.
    pub published: [AtomicU64; 3],
    /// Publishes of devices that are in the log. Those of QoS 1 and 2 are acknowledged after this.
    pub stored: AtomicU64,
    /// Publishes of QoS 1 or 2 that were acknowledged.
    pub acknowledged: AtomicU64,
    /// Publishes of devices at QoS 0 that were lost because the log could not store them.
    pub dropped: AtomicU64,
    /// Publishes of devices at QoS 1 or 2 that the log could not store. Their senders were told, or cut off.
    pub not_stored: AtomicU64,
    /// Copies passed to subscribers.
    pub copies: AtomicU64,
    /// Copies that subscribers lost because they read too slowly.
    pub copies_dropped: AtomicU64,
    /// Connections closed because of what they sent.
    pub protocol_errors: AtomicU64,
}

impl BrokerStats {
    /// All publishes received.
    pub fn received(&self) -> u64 {
        self.published.iter().map(|count| count.load(Relaxed)).sum()
    }
}

/// A message that is logged at most every ten seconds.
#[derive(Debug)]
pub struct Seldom {
    begun: Instant,
    /// Milliseconds after `begun` before which nothing is said.
    quiet_until_ms: AtomicU64,
    skipped: AtomicU64,
}

impl Seldom {
    const PAUSE: Duration = Duration::from_secs(10);

    pub fn new() -> Seldom {
        Seldom { begun: Instant::now(), quiet_until_ms: AtomicU64::new(0), skipped: AtomicU64::new(0) }
    }

    /// Calls `say` if it is time, with the number of times that it was not since the last.
    pub fn say(&self, say: impl FnOnce(u64)) {
        let now_ms = self.begun.elapsed().as_millis() as u64;
        let quiet_until_ms = self.quiet_until_ms.load(Relaxed);
        let next = now_ms + Self::PAUSE.as_millis() as u64;
        let due = now_ms >= quiet_until_ms
            && self.quiet_until_ms.compare_exchange(quiet_until_ms, next, Relaxed, Relaxed).is_ok();
        if due {
            say(self.skipped.swap(0, Relaxed));
        } else {
            self.skipped.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repeats_is_said_once_and_counted() {
        let seldom = Seldom::new();
        let mut said = Vec::new();
        for _ in 0..5 {
            seldom.say(|skipped| said.push(skipped));
        }
        assert_eq!(said, [0]);
        assert_eq!(seldom.skipped.load(Relaxed), 4);
    }
}
