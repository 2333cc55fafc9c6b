//! What training on this machine would read and write.

use std::fmt;

use indicatif::{HumanBytes, HumanCount};

use super::{Span, sample};
use crate::{
    lake::{Day, View},
    model::TrainOptions,
    reading::time::format_rfc3339_ms,
};

/// What a training of a lake would do, as far as can be said before.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The number of the state in force.
    pub state: u64,
    /// The closed days that have readings of the span.
    pub days: Vec<Day>,
    /// The readings of these days.
    pub readings: u64,
    /// Files that have landed since, and their bytes.
    pub landed: usize,
    pub landed_bytes: u64,
    pub span: Span,
    pub options: TrainOptions,
    /// The model in force.
    pub champion: String,
    /// All closed days that have readings: those that get verdicts of a new model.
    pub scored_days: usize,
}

impl Plan {
    /// The plan for this picture of the lake.
    pub fn of(view: &View, span: Span, options: TrainOptions) -> Plan {
        let runs = || view.state.days.iter().filter_map(|(&day, runs)| Some((day, runs.readings.as_ref()?)));
        let read = || runs().filter(|(_, run)| span.meets(run));
        Plan {
            state: view.state.n,
            days: read().map(|(day, _)| day).collect(),
            readings: read().map(|(_, run)| run.rows).sum(),
            landed: view.landing.len(),
            landed_bytes: view.landing.iter().map(|file| file.bytes).sum(),
            span,
            options,
            champion: view.state.model().to_owned(),
            scored_days: runs().count(),
        }
    }

    /// What putting the model in force takes, under this condition.
    pub fn in_force(&self, condition: &str) -> String {
        format!(
            "{condition}: its verdicts on {} closed days and what has landed, and state {}, which puts all of it in force",
            self.scored_days,
            self.state + 1
        )
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |word: &str, ms: i64, none: i64| match ms {
            ms if ms == none => String::new(),
            ms => format!(" {word} {}", format_rfc3339_ms(ms)),
        };
        let since = end("since", self.span.since_ms, Span::ALL.since_ms);
        let until = end("until", self.span.until_ms, Span::ALL.until_ms);
        let days = match self.days.as_slice() {
            [] => "no closed day".to_owned(),
            [day] => format!("the closed day {day}, {} readings", HumanCount(self.readings)),
            [first, .., last] => {
                format!("{} closed days, {first} to {last}, {} readings", self.days.len(), HumanCount(self.readings))
            }
        };
        writeln!(f, "reads     {days}")?;
        writeln!(f, "          {} files that have landed since, {}", self.landed, HumanBytes(self.landed_bytes))?;
        let most = HumanCount(sample::DEFAULT_READINGS as u64);
        writeln!(f, "learns    from what was measured{since}{until}: at most {most} readings, of whole devices")?;
        let TrainOptions { seed, alarms_per_device_day, .. } = self.options;
        writeln!(f, "          by seed {seed}, for {alarms_per_device_day} false alarms per device and day")?;
        writeln!(f, "compares  what it has learnt with `{}`, the model in force", self.champion)?;
        write!(f, "writes    the model, to models/NAME/model.bin")
    }
}
