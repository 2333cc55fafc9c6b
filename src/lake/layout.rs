//! Where things lie in a lake. Every key is made here, and read back here.
//!
//! ```text
//! landing/<chain>/<partition:05>/<first:020>.parquet          one slice of one partition
//! scored/<model>/<chain>/<partition:05>/<first:020>.parquet   the outliers found in it
//! <table>/dt=<day>/<run>/part-<n:05>.parquet                  a closed day of readings, outliers or dead_letters
//! models/<model>/model.bin                                    an artifact
//! models/<model>/devices/<last day>-<hash>.bin                devices' states after the closed days
//! models/<model>/devices/<epoch:010>/epoch.json               where the model began to follow the log
//! models/<model>/devices/<epoch:010>/<chain>/<partition:05>/<next:020>.bin   devices' states there
//! models/<model>/jobs/<job>/plan.json                          which days are scored in shares of the devices
//! models/<model>/jobs/<job>/<share:05>/dt=<day>.parquet        what one share has found
//! models/<model>/jobs/<job>/<share:05>/devices.bin, done.json  its devices' states after these days, and how much it was
//! state/<n:010>.json                                          what is in force: the highest n
//! cuts/<n:010>.parquet                                        its cuts, where a catalogue shows the lake
//! ```
//!
//! Names come from the pipeline alone (a chain's or a run's), never from a device.

use std::{fmt, sync::Arc};

use arrow::datatypes::SchemaRef;
use chrono::{DateTime, NaiveDate};
use object_store::path::Path;

use crate::reading::columns;

/// The tables that hold closed days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    Readings,
    Outliers,
    DeadLetters,
}

impl Table {
    /// Every table.
    pub const ALL: [Table; 3] = [Table::Readings, Table::Outliers, Table::DeadLetters];

    /// Its folder and its view's name.
    pub const fn name(self) -> &'static str {
        match self {
            Table::Readings => "readings",
            Table::Outliers => "outliers",
            Table::DeadLetters => "dead_letters",
        }
    }

    /// The columns of its closed days.
    pub fn schema(self) -> SchemaRef {
        Arc::clone(match self {
            Table::Readings => &columns::READING,
            Table::Outliers => &columns::OUTLIER,
            Table::DeadLetters => &columns::DEAD_LETTER,
        })
    }
}

/// A day in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(NaiveDate);

impl Day {
    /// The day of a moment, milliseconds since 1970 UTC. Moments outside the calendar are put on its edge.
    pub fn of(ms: i64) -> Day {
        let date = DateTime::from_timestamp_millis(ms).map(|at| at.date_naive());
        Day(date.unwrap_or(if ms < 0 { NaiveDate::MIN } else { NaiveDate::MAX }))
    }

    /// Its first millisecond, since 1970 UTC.
    pub fn start_ms(self) -> i64 {
        self.0.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_millis()
    }

    /// The first millisecond after it.
    pub fn end_ms(self) -> i64 {
        self.next().start_ms()
    }

    /// The day after.
    pub fn next(self) -> Day {
        Day(self.0.succ_opt().unwrap_or(self.0))
    }

    /// The day before.
    pub fn previous(self) -> Day {
        Day(self.0.pred_opt().unwrap_or(self.0))
    }

    /// From its name, `2026-11-23`.
    pub fn parse(text: &str) -> Option<Day> {
        NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().map(Day)
    }

    /// Days since 1970-01-01, the way Arrow's dates count.
    pub fn since_epoch(self) -> i32 {
        i32::try_from(self.start_ms() / 86_400_000).unwrap_or(i32::MAX)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.format("%Y-%m-%d"))
    }
}

impl serde::Serialize for Day {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Day {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Day, D::Error> {
        let text = String::deserialize(deserializer)?;
        Day::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("`{text}` is not a day like 2026-11-23")))
    }
}

/// The folder of all landing files.
pub const LANDING: &str = "landing";
/// The folder of all scored files.
pub const SCORED: &str = "scored";
/// The folder of the states.
pub const STATE: &str = "state";
/// The folder of the states' cuts, for engines that read tables only.
pub const CUTS: &str = "cuts";
/// The folder of the models.
pub const MODELS: &str = "models";

/// `landing/<chain>/<partition>`: the files of one partition of one log.
pub fn landing_partition(chain: &str, partition: i32) -> Path {
    Path::from_iter([LANDING, chain, &format!("{partition:05}")])
}

/// The landing file whose first offset is `first`.
pub fn landing_file(chain: &str, partition: i32, first: i64) -> Path {
    landing_partition(chain, partition).join(format!("{first:020}.parquet"))
}

/// `scored/<model>/<chain>/<partition>`: what one model found in one partition.
pub fn scored_partition(model: &str, chain: &str, partition: i32) -> Path {
    Path::from_iter([SCORED, model, chain, &format!("{partition:05}")])
}

/// The scored file of the landing file whose first offset is `first`.
pub fn scored_file(model: &str, chain: &str, partition: i32, first: i64) -> Path {
    scored_partition(model, chain, partition).join(format!("{first:020}.parquet"))
}

/// One part of a run of a closed day.
pub fn run_part(table: Table, day: Day, run: &str, part: usize) -> Path {
    Path::from_iter([table.name(), &format!("dt={day}"), run, &format!("part-{part:05}.parquet")])
}

/// A model's artifact.
pub fn model_artifact(model: &str) -> Path {
    Path::from_iter([MODELS, model, "model.bin"])
}

/// `models/<model>/devices`: devices' states under a model.
pub fn devices_folder(model: &str) -> Path {
    Path::from_iter([MODELS, model, "devices"])
}

/// Devices' states after closed days; `name` says which days.
pub fn days_checkpoint(model: &str, name: &str) -> Path {
    devices_folder(model).join(name)
}

/// Where a model began to follow the log, for the `n`-th time.
pub fn epoch_file(model: &str, n: u64) -> Path {
    devices_folder(model).join(format!("{n:010}")).join("epoch.json")
}

/// Devices' states when everything of a partition below `next` was scored.
pub fn log_checkpoint(model: &str, epoch: u64, chain: &str, partition: i32, next: i64) -> Path {
    let folder = devices_folder(model).join(format!("{epoch:010}")).join(chain);
    folder.join(format!("{partition:05}")).join(format!("{next:020}.bin"))
}

/// The folder of a job that scores closed days in shares of the devices; its name is one that a chain may have.
pub fn job_folder(model: &str, job: &str) -> Path {
    Path::from_iter([MODELS, model, "jobs", job])
}

/// The model and the job that a file belongs to.
pub fn parse_job(key: &Path) -> Option<(String, String)> {
    let parts: Vec<_> = key.parts().collect();
    let [models, model, jobs, job, _, ..] = parts.as_slice() else { return None };
    let is_job = models.as_ref() == MODELS && jobs.as_ref() == "jobs";
    is_job.then(|| (model.as_ref().to_owned(), job.as_ref().to_owned()))
}

/// What such a job is to score.
pub fn job_plan(model: &str, job: &str) -> Path {
    job_folder(model, job).join("plan.json")
}

/// A file of one share of such a job.
pub fn job_share(model: &str, job: &str, share: u32, file: &str) -> Path {
    job_folder(model, job).join(format!("{share:05}")).join(file)
}

/// The state number `n`.
pub fn state_file(n: u64) -> Path {
    Path::from_iter([STATE, &format!("{n:010}.json")])
}

/// The cuts of the state number `n`.
pub fn cuts_file(n: u64) -> Path {
    Path::from_iter([CUTS, &format!("{n:010}.parquet")])
}

/// Reads the number of the key of a state's cuts.
pub fn parse_cuts(key: &Path) -> Option<u64> {
    key.filename()?.strip_suffix(".parquet")?.parse().ok()
}

/// Reads `…/<chain>/<partition:05>/<first:020>.parquet`, the end of a landing or scored file's key.
pub fn parse_slice(key: &Path) -> Option<(String, i32, i64)> {
    let parts: Vec<_> = key.parts().collect();
    let [.., chain, partition, name] = parts.as_slice() else { return None };
    let digits = name.as_ref().strip_suffix(".parquet")?;
    if digits.len() != 20 || partition.as_ref().len() < 5 {
        return None;
    }
    let first = digits.parse().ok().filter(|first| *first >= 0)?;
    Some((chain.as_ref().to_owned(), partition.as_ref().parse().ok()?, first))
}

/// Reads the number of a state's key.
pub fn parse_state(key: &Path) -> Option<u64> {
    key.filename()?.strip_suffix(".json")?.parse().ok()
}

/// Whether `name` may be a chain's: it becomes a folder's name, so 1 to 200 of `[A-Za-z0-9._-]`, not starting with a dot
/// or an underscore (query engines hide such folders).
pub fn valid_chain(name: &str) -> bool {
    (1..=200).contains(&name.len())
        && !name.starts_with(['.', '_'])
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back() {
        let key = landing_file("spool-abc", 3, 42);
        assert_eq!(key.as_ref(), "landing/spool-abc/00003/00000000000000000042.parquet");
        assert_eq!(parse_slice(&key), Some(("spool-abc".into(), 3, 42)));
        assert_eq!(parse_slice(&scored_file("m", "c", 100_000, i64::MAX)), Some(("c".into(), 100_000, i64::MAX)));
        assert_eq!(parse_slice(&Path::from("landing/c/00000/readme.txt")), None);
        assert_eq!(parse_state(&state_file(7)), Some(7));
    }

    #[test]
    fn names_sort_like_their_numbers() {
        assert!(landing_file("c", 0, 9) < landing_file("c", 0, 10));
        assert!(state_file(9) < state_file(10));
    }

    #[test]
    fn a_day_has_its_milliseconds() {
        let day = Day::of(1_700_000_000_000);
        assert_eq!(day.to_string(), "2023-11-14");
        assert_eq!(Day::parse("2023-11-14"), Some(day));
        assert_eq!(Day::of(day.end_ms()), day.next());
        assert_eq!(Day::of(day.end_ms() - 1), day);
        assert_eq!(Day::of(-1), Day::of(0).previous());
    }
}
