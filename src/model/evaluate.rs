//! Alarms against labels: which labelled events were found, and how many alarms belong to none.

use super::episodes::Span;

/// An alarm up to this long after an event's end still belongs to it: averages need a while to come down, and a body too.
pub const SLACK_MS: i64 = 3_600_000;

/// A device is not watched during a silence longer than this: of a longer one, this much counts.
pub const LONGEST_SILENCE_MS: i64 = 6 * 3_600_000;

/// For how long a device was watched that sent readings at these times, in rising order.
pub fn watched_ms(times_ms: impl IntoIterator<Item = i64>) -> i64 {
    let mut newest_ms = None;
    times_ms.into_iter().fold(0, |watched: i64, ts_ms| {
        let step_ms = newest_ms.map_or(0, |newest| ts_ms.saturating_sub(newest));
        newest_ms = newest_ms.max(Some(ts_ms));
        watched.saturating_add(step_ms.clamp(0, LONGEST_SILENCE_MS))
    })
}

/// What came of comparing alarms with labels. Add up devices' with [`Tally::add`].
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Tally {
    /// Labelled events, and those of them that an alarm overlaps.
    pub events: u64,
    pub found: u64,
    /// Alarm episodes, and those of them that overlap no event.
    pub alarms: u64,
    pub false_alarms: u64,
    /// How long devices were watched, in days.
    pub device_days: f64,
}

impl Tally {
    /// Takes another device's figures in.
    pub fn add(&mut self, other: &Tally) {
        self.events += other.events;
        self.found += other.found;
        self.alarms += other.alarms;
        self.false_alarms += other.false_alarms;
        self.device_days += other.device_days;
    }

    /// Share of events that were found; NaN when there were none.
    pub fn recall(&self) -> f64 {
        self.found as f64 / self.events as f64
    }

    /// Share of alarms that belong to an event; NaN when there were none.
    pub fn precision(&self) -> f64 {
        (self.alarms - self.false_alarms) as f64 / self.alarms as f64
    }

    /// False alarms per device and day; NaN when no device was watched.
    pub fn false_alarms_per_device_day(&self) -> f64 {
        self.false_alarms as f64 / self.device_days
    }
}

/// Compares one device's alarm episodes with its labelled events. An alarm belongs to an event when they overlap, the
/// event prolonged by `slack_ms`. Gives the figures and, per event, whether it was found.
pub fn compare(alarms: &[Span], events: &[Span], slack_ms: i64, watched_ms: i64) -> (Tally, Vec<bool>) {
    let overlap = |alarm: &Span, event: &Span| {
        alarm.start_ms <= event.end_ms.saturating_add(slack_ms) && alarm.end_ms >= event.start_ms
    };
    let found: Vec<bool> = events.iter().map(|event| alarms.iter().any(|alarm| overlap(alarm, event))).collect();
    let matched = alarms.iter().filter(|alarm| events.iter().any(|event| overlap(alarm, event))).count() as u64;
    let tally = Tally {
        events: events.len() as u64,
        found: found.iter().filter(|&&found| found).count() as u64,
        alarms: alarms.len() as u64,
        false_alarms: alarms.len() as u64 - matched,
        device_days: watched_ms as f64 / 86_400_000.0,
    };
    (tally, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_shortly_after_an_event_is_its_and_any_other_is_false() {
        let span = |start_ms, end_ms| Span { start_ms, end_ms };
        let events = [span(100, 200), span(1000, 1100)];
        let alarms = [span(205, 300), span(500, 600), span(50, 99)];
        let (tally, found) = compare(&alarms, &events, 10, 86_400_000);
        assert_eq!(found, [true, false]);
        assert_eq!((tally.found, tally.alarms, tally.false_alarms), (1, 3, 2));
        assert_eq!(tally.false_alarms_per_device_day(), 2.0);
    }
}
