//! A training job of SageMaker, as its container sees it: folders below `/opt/ml`.
//!
//! ```text
//! input/config/hyperparameters.json      what was asked for: names and texts
//! input/config/inputdataconfig.json      the channels
//! input/data/training/                   the channel `training`: a prepared sample
//! model/                                 what is kept of the job, as model.tar.gz
//! checkpoints/                           what outlasts an interruption, where the job has such a place
//! output/failure                         why it failed, in its first 1,024 characters
//! ```
//!
//! Nothing here needs a network, credentials or a library of AWS.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use serde::Deserialize;

/// The variable that names another folder than `/opt/ml`, for tests.
pub const VARIABLE: &str = "VITALS_OPT_ML";

/// The channel that holds what is learnt from.
pub const CHANNEL: &str = "training";

/// How many characters of a failure are shown to people.
pub const FAILURE_CHARACTERS: usize = 1_024;

/// The folders of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    root: PathBuf,
}

/// A channel, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Channel {
    #[serde(rename = "TrainingInputMode")]
    mode: Option<String>,
}

impl Job {
    /// The job in whose container this process runs, if it does; `named` is the value of [`VARIABLE`].
    pub fn here(named: Option<OsString>) -> Option<Job> {
        let is_named = named.is_some();
        let job = Job { root: named.map_or_else(|| "/opt/ml".into(), PathBuf::from) };
        (is_named || job.hyperparameters_file().is_file()).then_some(job)
    }

    fn hyperparameters_file(&self) -> PathBuf {
        self.root.join("input/config/hyperparameters.json")
    }

    /// What was asked for.
    ///
    /// # Errors
    /// The file can't be read, or holds anything but names and texts.
    pub fn hyperparameters(&self) -> anyhow::Result<BTreeMap<String, String>> {
        read_json(&self.hyperparameters_file()).context("reading the hyperparameters, which must be names and texts")
    }

    /// The folder of the readings.
    ///
    /// # Errors
    /// The job has no such channel, or one that is piped.
    pub fn channel(&self) -> anyhow::Result<PathBuf> {
        let config = self.root.join("input/config/inputdataconfig.json");
        if config.is_file() {
            let channels: BTreeMap<String, Channel> = read_json(&config)?;
            let names = || channels.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let channel = channels.get(CHANNEL);
            let channel = channel.with_context(|| format!("the job has no channel `{CHANNEL}`, only {}", names()))?;
            let mode = channel.mode.as_deref().unwrap_or("File");
            ensure!(mode != "Pipe", "the channel `{CHANNEL}` is piped: its input mode must be File or FastFile");
        }
        Ok(self.root.join("input/data").join(CHANNEL))
    }

    /// The folder of what is kept.
    pub fn model(&self) -> PathBuf {
        self.root.join("model")
    }

    /// The checkpoint, where the job has a place for one.
    pub fn checkpoint(&self) -> Option<PathBuf> {
        let folder = self.root.join("checkpoints");
        folder.is_dir().then(|| folder.join("trees.bin"))
    }

    /// Leaves word of why the job failed.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn fail(&self, words: &str) -> io::Result<()> {
        let folder = self.root.join("output");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("failure"), first_characters(words, FAILURE_CHARACTERS))
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let reading = || format!("reading `{}`", path.display());
    let text = fs::read(path).with_context(reading)?;
    serde_json::from_slice(&text).with_context(reading)
}

/// The first so many characters, or bytes where these are fewer: whichever way somebody counts, it is not too long.
fn first_characters(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_known_by_its_hyperparameters_or_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let named = Job::here(Some(folder.path().into())).unwrap();
        assert!(format!("{:#}", named.hyperparameters().unwrap_err()).contains("hyperparameters.json"));
        // Nothing of a job is on a machine that runs tests.
        assert_eq!(Job::here(None), None);
        fs::create_dir_all(folder.path().join("input/config")).unwrap();
        fs::write(named.hyperparameters_file(), r#"{"seed": "7"}"#).unwrap();
        assert_eq!(named.hyperparameters().unwrap(), BTreeMap::from([("seed".to_owned(), "7".to_owned())]));
        for bad in ["", "[]", r#"{"seed": 7}"#] {
            fs::write(named.hyperparameters_file(), bad).unwrap();
            assert!(format!("{:#}", named.hyperparameters().unwrap_err()).contains("names and texts"), "{bad}");
        }
    }

    #[test]
    fn the_channel_must_be_there_and_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let job = Job { root: folder.path().to_owned() };
        let expected = folder.path().join("input/data/training");
        // The folder alone is enough.
        assert_eq!(job.channel().unwrap(), expected);
        fs::create_dir_all(folder.path().join("input/config")).unwrap();
        for (config, outcome) in [
            (r#"{"training": {"TrainingInputMode": "File", "RecordWrapperType": "None"}}"#, Ok(expected.clone())),
            (r#"{"training": {"TrainingInputMode": "FastFile"}}"#, Ok(expected.clone())),
            (r#"{"training": {}}"#, Ok(expected.clone())),
            (r#"{"training": {"TrainingInputMode": "Pipe"}}"#, Err("piped")),
            (r#"{"train": {}, "validation": {}}"#, Err("only `train`, `validation`")),
            ("no JSON", Err("inputdataconfig.json")),
        ] {
            fs::write(folder.path().join("input/config/inputdataconfig.json"), config).unwrap();
            match (job.channel(), outcome) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(e), Err(why)) => assert!(format!("{e:#}").contains(why), "{e:#} lacks {why}"),
                (found, _) => panic!("{config}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_failure_is_cut_between_characters() {
        let folder = tempfile::tempdir().unwrap();
        let job = Job { root: folder.path().to_owned() };
        let failure = |words: &str| {
            job.fail(words).unwrap();
            fs::read_to_string(folder.path().join("output/failure")).unwrap()
        };
        assert_eq!(failure("no readings"), "no readings");
        let long = "é".repeat(2_000);
        assert_eq!(failure(&format!("x{long}")), format!("x{}", "é".repeat(511)));
        assert_eq!(failure(&long).len(), FAILURE_CHARACTERS);
    }
}
