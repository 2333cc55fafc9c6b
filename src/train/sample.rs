//! A bounded, repeatable sample of devices' histories.
//!
//! Devices are taken whole or not at all, by a hash of their name: below a limit it is in. When the sample outgrows its
//! bound the limit is halved and the devices above it go. So the sample depends on which readings there are, not on the
//! order in which they come, and no device is half there. Of a very talkative device the newest readings stay.

use hashbrown::HashMap;
use sha2::{Digest, Sha256};

use crate::{model::training::History, reading::Reading};

/// How many readings a sample holds by default (about 90 bytes each).
pub const DEFAULT_READINGS: usize = 4_000_000;

/// How many readings of one device are kept, the newest.
const DEVICE_READINGS: usize = 50_000;

/// Gathers a sample.
pub struct Sampler {
    bound: usize,
    limit: u64,
    held: usize,
    devices: HashMap<Box<str>, Vec<Reading>>,
    /// Readings that were offered.
    pub offered: u64,
}

impl Default for Sampler {
    fn default() -> Self {
        Sampler::new(DEFAULT_READINGS)
    }
}

impl Sampler {
    /// An empty sample of at most about `bound` readings.
    pub fn new(bound: usize) -> Sampler {
        Sampler { bound, limit: u64::MAX, held: 0, devices: HashMap::new(), offered: 0 }
    }

    /// Offers a reading.
    pub fn push(&mut self, device: &str, reading: Reading) {
        self.offered += 1;
        let history = match self.devices.get_mut(device) {
            Some(history) => history,
            None if place(device) > self.limit => return,
            None => self.devices.entry(device.into()).or_default(),
        };
        history.push(reading);
        self.held += 1;
        if history.len() >= 2 * DEVICE_READINGS {
            self.held -= keep_newest(history);
        }
        while self.held > self.bound && self.devices.len() > 1 {
            self.limit /= 2;
            let limit = self.limit;
            self.devices.retain(|device, _| place(device) <= limit);
            self.held = self.devices.values().map(Vec::len).sum();
        }
    }

    /// The histories, by device, each sorted by time.
    pub fn finish(self) -> Vec<History> {
        let sorted = |(device, mut readings): (Box<str>, Vec<Reading>)| {
            keep_newest(&mut readings);
            History { device_id: device.into(), readings }
        };
        let mut histories: Vec<History> = self.devices.into_iter().map(sorted).collect();
        histories.sort_unstable_by(|a, b| a.device_id.cmp(&b.device_id));
        histories
    }
}

/// Sorts by time and drops the oldest beyond the bound of one device; gives how many were dropped.
fn keep_newest(readings: &mut Vec<Reading>) -> usize {
    readings.sort_by_key(|reading| (reading.ts_ms, reading.arrived_ms, reading.seq));
    let surplus = readings.len().saturating_sub(DEVICE_READINGS);
    readings.drain(..surplus);
    surplus
}

/// Where a device's name lies between 0 and the greatest number, evenly spread and the same on every machine.
fn place(device: &str) -> u64 {
    let digest = Sha256::digest(device.as_bytes());
    digest.iter().take(8).fold(0, |place, byte| (place << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::NO_VITALS;

    fn reading(ts_ms: i64) -> Reading {
        Reading { ts_ms, arrived_ms: ts_ms, seq: None, vitals: NO_VITALS }
    }

    fn sample(order: impl Iterator<Item = u32>) -> Vec<String> {
        let mut sampler = Sampler::new(100);
        order.for_each(|i| (0..10).for_each(|ts| sampler.push(&format!("device_{i}"), reading(ts))));
        assert!(sampler.held <= 100);
        sampler.finish().into_iter().map(|history| history.device_id).collect()
    }

    #[test]
    fn a_sample_is_bounded_and_does_not_depend_on_the_order() {
        let forwards = sample(0..200);
        assert_eq!(forwards, sample((0..200).rev()));
        assert!(!forwards.is_empty());
    }

    #[test]
    fn a_talkative_device_keeps_its_newest_readings_in_order() {
        let mut sampler = Sampler::new(usize::MAX);
        (0..250_000).rev().for_each(|ts| sampler.push("a", reading(ts)));
        let histories = sampler.finish();
        assert_eq!(histories[0].readings.len(), DEVICE_READINGS);
        assert_eq!(histories[0].readings[0].ts_ms, 250_000 - DEVICE_READINGS as i64);
    }
}
