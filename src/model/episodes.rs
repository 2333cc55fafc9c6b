//! From readings to episodes.
//!
//! An alarm goes on when a reading's score reaches the threshold, and stays on while scores stay above a lower one
//! (hysteresis, [`RELEASE`]). Alarms of one device less than [`MERGE_GAP_MS`] apart are one episode. What is unusual for
//! minutes only must be much more so: that persistence is in the score itself, which averages over minutes (see
//! [`super::score`]).

use super::verdict::Verdict;

/// Alarms of one device closer than this are one episode.
pub const MERGE_GAP_MS: i64 = 2 * 3_600_000;

/// The alarm stays on while the score is at least this part of the threshold.
pub const RELEASE: f64 = 0.75;

/// A stretch of time, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub start_ms: i64,
    pub end_ms: i64,
}

/// The running episode of one device, if any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Running(pub Option<Span>);

impl Running {
    /// The start of the episode that an alarm at `ts_ms` belongs to, the state left as it is.
    pub fn start_of(&self, ts_ms: i64) -> i64 {
        match self.0 {
            Some(span) if ts_ms >= span.start_ms && ts_ms.saturating_sub(span.end_ms) <= MERGE_GAP_MS => span.start_ms,
            _ => ts_ms,
        }
    }

    /// Notes an alarm at `ts_ms`, not before the last one; gives the start of its episode.
    pub fn alarm(&mut self, ts_ms: i64) -> i64 {
        let start_ms = self.start_of(ts_ms);
        self.0 = Some(Span { start_ms, end_ms: ts_ms });
        start_ms
    }
}

/// Several alarmed readings of one device as one.
#[derive(Debug, Clone, PartialEq)]
pub struct Episode {
    pub span: Span,
    /// Whether it is about the sensor: artifact episodes are counted apart from outlier episodes.
    pub artifact: bool,
    /// How many readings were flagged.
    pub readings: u64,
    /// When the score was highest.
    pub peak_ms: i64,
    /// The verdict then: its score, cause, vital, usual and observed value.
    pub peak: Verdict,
}

/// Gathers one device's verdicts, in the order in which they were given, into episodes.
#[derive(Debug, Default)]
pub struct Gather {
    episodes: Vec<Episode>,
    /// Places in `episodes` of the running outlier and artifact episodes.
    running: [Option<usize>; 2],
}

impl Gather {
    /// Takes the verdict on a reading of `ts_ms`. A reading that is outlier and artifact counts as both.
    pub fn take(&mut self, ts_ms: i64, verdict: &Verdict) {
        for (artifact, flagged) in [(false, verdict.outlier), (true, verdict.artifact)] {
            if flagged {
                self.add(ts_ms, verdict, artifact);
            }
        }
    }

    fn add(&mut self, ts_ms: i64, verdict: &Verdict, artifact: bool) {
        let running = &mut self.running[usize::from(artifact)];
        let same = |episode: &&mut Episode| Running(Some(episode.span)).start_of(ts_ms) == episode.span.start_ms;
        let Some(episode) = running.and_then(|place| self.episodes.get_mut(place)).filter(same) else {
            *running = Some(self.episodes.len());
            let span = Span { start_ms: ts_ms, end_ms: ts_ms };
            self.episodes.push(Episode { span, artifact, readings: 1, peak_ms: ts_ms, peak: *verdict });
            return;
        };
        episode.readings += 1;
        episode.span.end_ms = episode.span.end_ms.max(ts_ms);
        if verdict.score > episode.peak.score {
            episode.peak_ms = ts_ms;
            episode.peak = *verdict;
        }
    }

    /// The episodes, in order of their starts.
    pub fn finish(mut self) -> Vec<Episode> {
        self.episodes.sort_by_key(|episode| (episode.span, episode.artifact));
        self.episodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    #[test]
    fn alarms_within_two_hours_are_one_episode() {
        let mut running = Running::default();
        assert_eq!(running.alarm(0), 0);
        assert_eq!(running.alarm(2 * HOUR), 0);
        assert_eq!(running.alarm(4 * HOUR + 1), 4 * HOUR + 1);
        assert_eq!(running.start_of(3 * HOUR), 3 * HOUR, "a late reading before the episode is not of it");
    }

    #[test]
    fn times_at_the_ends_of_the_range_do_not_overflow() {
        let mut running = Running::default();
        running.alarm(i64::MIN + 1);
        assert_eq!(running.alarm(i64::MAX), i64::MAX);
    }
}
