//! A bounded, repeatable sample of devices' histories.
//!
//! Devices are taken whole or not at all, by a hash of their name: below a limit it is in. When the sample outgrows its
//! bound the limit is halved and the devices above it go. So the sample depends on which readings there are, not on the
//! order in which they come, and no device is half there. Of a very talkative device the newest readings stay, and only so
//! many count.
//!
//! So samples of parts of a lake can be put together: what is in the sample of the whole is in that of its part, and a sample
//! that begins with the least of their limits becomes that of the whole.

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

    /// The same, of devices up to a limit of other samples only.
    pub fn up_to(self, limit: u64) -> Sampler {
        Sampler { limit: self.limit.min(limit), ..self }
    }

    /// Up to where on the scale of all devices it has everything.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Offers a reading.
    pub fn push(&mut self, device: &str, reading: Reading) {
        self.offered += 1;
        let history = match self.devices.get_mut(device) {
            Some(history) => history,
            None if place(device) > self.limit => return,
            None => self.devices.entry(device.into()).or_default(),
        };
        // What the device has beyond its bound goes in the end, so it does not count: it would cost others their place.
        self.held += usize::from(history.len() < DEVICE_READINGS);
        history.push(reading);
        if history.len() >= 2 * DEVICE_READINGS {
            keep_newest(history);
        }
        while self.held > self.bound && self.devices.len() > 1 {
            self.limit /= 2;
            let limit = self.limit;
            self.devices.retain(|device, _| place(device) <= limit);
            self.held = self.devices.values().map(|history| history.len().min(DEVICE_READINGS)).sum();
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

/// Sorts by time and drops the oldest beyond the bound of one device. The order is one of what readings say alone, not of how
/// they came.
fn keep_newest(readings: &mut Vec<Reading>) {
    readings.sort_by_key(|reading| (reading.ts_ms, reading.arrived_ms, reading.seq, reading.vitals.map(f64::to_bits)));
    let surplus = readings.len().saturating_sub(DEVICE_READINGS);
    readings.drain(..surplus);
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
    fn samples_of_parts_make_the_sample_of_the_whole() {
        // A thousand devices, of which every tenth sends as much as the others together.
        let all = || (0..1000_u32).flat_map(|d| (0..if d % 10 == 0 { 90 } else { 10 }).map(move |ts| (d, ts)));
        let of = |part: Option<u32>| {
            let mut sampler = Sampler::new(2_000);
            // Each part has some readings of every device.
            let mine = all().filter(|&(d, ts)| part.is_none_or(|part| (d + ts as u32) % 3 == part));
            mine.for_each(|(d, ts)| sampler.push(&format!("device_{d}"), reading(ts)));
            sampler
        };
        let parts: Vec<Sampler> = (0..3).map(|part| of(Some(part))).collect();
        let least = parts.iter().map(Sampler::limit).min().unwrap();
        let mut together = Sampler::new(2_000).up_to(least);
        for history in parts.into_iter().flat_map(Sampler::finish) {
            history.readings.iter().for_each(|&reading| together.push(&history.device_id, reading));
        }
        let whole = of(None);
        assert!(whole.limit() < least, "the whole has fewer devices than its parts");
        assert_eq!(together.limit(), whole.limit());
        let (together, whole) = (together.finish(), whole.finish());
        assert!(whole.len() > 10);
        assert_eq!(format!("{together:?}"), format!("{whole:?}"));
    }

    #[test]
    fn a_talkative_device_costs_no_other_its_place() {
        let sample = |order: &mut dyn Iterator<Item = i64>| {
            let mut sampler = Sampler::new(DEVICE_READINGS + 10);
            order.for_each(|ts| {
                sampler.push("talkative", reading(ts));
                if ts % 10_000 == 0 {
                    sampler.push("quiet", reading(ts));
                }
            });
            sampler
                .finish()
                .iter()
                .map(|history| (history.device_id.clone(), history.readings.len()))
                .collect::<Vec<_>>()
        };
        let kept = [("quiet".to_owned(), 10), ("talkative".to_owned(), DEVICE_READINGS)];
        assert_eq!(sample(&mut (0..95_000)), kept);
        assert_eq!(sample(&mut (0..95_000).rev()), kept);
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
