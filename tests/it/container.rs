//! Training elsewhere: a prepared sample, the container of a SageMaker job, and the model that comes back.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    models::fleet_csv,
    program::{Ran, program, vitals},
};

/// A folder with a lake of so many devices, and the sample that was prepared of it.
fn prepared(devices: u32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fleet_csv(folder.path(), devices);
    assert_eq!(vitals(folder.path(), &["import", "fleet.csv"]).code, Some(0));
    let ran = vitals(folder.path(), &["train", "--prepare", "sample"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "sample\n"), "{ran:?}");
    folder
}

/// What SageMaker lays out for a job.
struct Job {
    root: PathBuf,
}

impl Job {
    fn new(folder: &Path, name: &str, hyperparameters: &str) -> Job {
        let job = Job { root: folder.join(name) };
        for below in ["input/config", "input/data/training", "model", "checkpoints", "output"] {
            fs::create_dir_all(job.root.join(below)).unwrap();
        }
        let channels = r#"{"training": {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated"}}"#;
        job.write("input/config/inputdataconfig.json", channels);
        job.write("input/config/hyperparameters.json", hyperparameters);
        job
    }

    /// Likewise, with the prepared sample in its channel.
    fn with_sample(folder: &Path, name: &str, hyperparameters: &str) -> Job {
        let job = Job::new(folder, name, hyperparameters);
        for file in ["sample.parquet", "manifest.json"] {
            fs::copy(folder.join("sample").join(file), job.root.join("input/data/training").join(file)).unwrap();
        }
        job
    }

    fn write(&self, file: &str, content: impl AsRef<[u8]>) {
        fs::write(self.root.join(file), content).unwrap();
    }

    fn command(&self) -> Command {
        let mut command = program(&self.root);
        command.arg("train").env("VITALS_OPT_ML", &self.root);
        command
    }

    fn run(&self) -> Ran {
        self.command().output().unwrap().into()
    }

    fn model(&self) -> Vec<u8> {
        fs::read(self.root.join("model/model.bin")).unwrap()
    }

    fn failure(&self) -> Option<String> {
        fs::read_to_string(self.root.join("output/failure")).ok()
    }
}

/// The value of a metric that a job has said.
fn metric(ran: &Ran, name: &str) -> f64 {
    let line = ran.out.lines().find_map(|line| line.strip_prefix(&format!("metric {name}=")));
    line.unwrap_or_else(|| panic!("no {name} in {ran:?}")).parse().unwrap()
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn a_job_trains_the_model_of_the_command_line_and_the_lake_adopts_it_as_its_own() {
    let folder = prepared(30);
    let folder = folder.path();
    let manifest = json(&fs::read_to_string(folder.join("sample/manifest.json")).unwrap());
    assert!(manifest["devices"] == 30 && manifest["readings"] == 30 * 144, "{manifest}");

    let words = ["--seed", "7", "--alarms-per-device-day", "0.5"];
    let here = [&["train", "--data", "sample/sample.parquet", "--out", "here"][..], &words].concat();
    assert_eq!(vitals(folder, &here).code, Some(0));
    let job = Job::with_sample(folder, "job", r#"{"seed": "7", "alarms_per_device_day": "0.5", "since": ""}"#);
    job.write("input/data/training/.hidden.parquet", "not looked at");
    let ran = job.run();
    assert_eq!((ran.code, job.failure()), (Some(0), None), "{ran:?}");
    assert_eq!(job.model(), fs::read(folder.join("here/model.bin")).unwrap());
    assert_eq!((metric(&ran, "devices"), metric(&ran, "rows")), (30.0, 30.0 * 144.0));
    for name in ["threshold", "alarms_per_device_day", "charged_per_device_day", "pr_auc", "auroc", "recall", "top1"] {
        assert!(metric(&ran, name) >= 0.0, "{name}: {ran:?}");
    }

    // What SageMaker makes of the model's folder.
    let packed = Command::new("tar").args(["czf", "model.tar.gz", "-C", "job/model", "."]).current_dir(folder).status();
    assert!(packed.unwrap().success());
    let adopt =
        ["models", "adopt", "model.tar.gz", "--sample", "sample", "--output", "json", "--outcome", "outcome.json"];
    let kept = vitals(folder, &[&adopt[..], &["--promote", "never"]].concat());
    let outcome = json(&kept.out);
    assert!(kept.code == Some(0) && outcome["in_force"] == false, "{kept:?}");
    assert!(outcome["comparison"]["champion"] == "builtin" && outcome["not_worse"].is_boolean(), "{outcome}");

    // The lake's own training comes to the same artifact, by the same comparison.
    let own = vitals(folder, &[&["train", "--promote", "always"][..], &words].concat());
    assert_eq!(own.code, Some(0), "{own:?}");
    let kept_models = fs::read_dir(folder.join(".vitals/models")).unwrap();
    let names: Vec<String> = kept_models.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let name = outcome["model"].as_str().unwrap();
    assert_eq!(names, [name]);
    assert!(vitals(folder, &["models", "promote", "builtin"]).code == Some(0));

    let adopted = vitals(folder, &[&adopt[..], &["--promote", "always"]].concat());
    assert!(adopted.code == Some(0) && json(&adopted.out)["in_force"] == true, "{adopted:?}");
    assert_eq!(adopted.out, fs::read_to_string(folder.join("outcome.json")).unwrap());
    let listed = vitals(folder, &["models", "list"]).out;
    assert!(listed.lines().any(|line| line.contains(name) && line.contains("yes")), "{listed}");
}

#[test]
fn a_job_that_can_not_be_done_says_why_in_its_failure() {
    let folder = prepared(9);
    let folder = folder.path();
    let refused = |job: &Job, why: &str| {
        let ran = job.run();
        let failure = job.failure().unwrap_or_default();
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(failure.contains(why), "`{failure}` lacks `{why}`");
        assert!(failure.len() <= 1_024 && ran.err.contains(&failure), "{ran:?}");
        assert!(!job.root.join("model/model.bin").exists());
    };
    refused(&Job::with_sample(folder, "a", r#"{"sed": "7", "seed": "many"}"#), "`sed`: it is unknown");
    refused(&Job::with_sample(folder, "b", r#"{"seed": 7}"#), "names and texts");
    refused(&Job::with_sample(folder, "c", &format!(r#"{{"x{}": "1"}}"#, "é".repeat(2_000))), "xéé");
    refused(&Job::with_sample(folder, "d", r#"{"since": "2030-01-01"}"#), "no readings with vitals");
    refused(&Job::new(folder, "e", "{}"), "it is empty");

    let damaged = Job::with_sample(folder, "f", "{}");
    let file = "input/data/training/sample.parquet";
    let sample = fs::read(damaged.root.join(file)).unwrap();
    damaged.write(file, &sample[..sample.len() / 2]);
    refused(&damaged, "`sample.parquet` is damaged");
    let mut flipped = sample.clone();
    flipped[sample.len() / 3] ^= 0xff;
    damaged.write(file, &flipped);
    refused(&damaged, "sample.parquet");

    // Another table of the lake; more than the manifest says; no channel of that name; no folder.
    let other = Job::new(folder, "g", "{}");
    assert_eq!(
        vitals(
            folder,
            &["query", "sql", "SELECT device_id, heart_rate FROM readings", "-o", "parquet", "--out", "other.parquet"]
        )
        .code,
        Some(0)
    );
    fs::copy(folder.join("other.parquet"), other.root.join(file)).unwrap();
    refused(&other, "no column `ts`");
    let twice = Job::with_sample(folder, "h", "{}");
    fs::copy(twice.root.join(file), twice.root.join("input/data/training/again.parquet")).unwrap();
    refused(&twice, "says 1296 readings, the files have 2592");
    let channels = Job::with_sample(folder, "i", "{}");
    channels.write("input/config/inputdataconfig.json", r#"{"train": {"TrainingInputMode": "File"}}"#);
    refused(&channels, "no channel `training`");
    let gone = Job::with_sample(folder, "j", "{}");
    fs::remove_dir_all(gone.root.join("input/data/training")).unwrap();
    refused(&gone, "there is no folder");
}

#[cfg(unix)]
#[test]
fn an_interrupted_job_leaves_a_checkpoint_and_goes_on_to_the_same_model() {
    let folder = prepared(200);
    let folder = folder.path();
    let whole = Job::with_sample(folder, "whole", "{}");
    let ran = whole.run();
    assert!(ran.code == Some(0) && ran.out.contains("metric trees="), "{ran:?}");

    let job = Job::with_sample(folder, "job", "{}");
    let mut child = job.command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("metric trees=")));
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    // Nobody who writes has to wait for a reader.
    std::thread::spawn(move || lines.count());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("the next start goes on from"), "{said}");
    assert_eq!(job.failure(), None);
    let left: Vec<_> = fs::read_dir(job.root.join("checkpoints")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["trees.bin"]);
    assert_eq!(fs::read_dir(job.root.join("model")).unwrap().count(), 0);

    let ran = job.run();
    assert!(ran.code == Some(0) && ran.err.contains("going on from the "), "{ran:?}");
    assert!(job.model() == whole.model(), "the model is the one of a job that was not interrupted");
}

#[test]
fn a_checkpoint_of_another_job_or_a_damaged_one_is_told_and_not_used() {
    let folder = prepared(9);
    let job = Job::with_sample(folder.path(), "job", "{}");
    job.write("checkpoints/trees.bin", "VITALSTR and no more");
    let ran = job.run();
    assert!(ran.code == Some(0) && ran.err.contains("is not gone on from: it is damaged"), "{ran:?}");
    fs::remove_dir_all(job.root.join("checkpoints")).unwrap();
    let ran = job.run();
    assert!(ran.code == Some(0) && ran.err.contains("no folder for checkpoints"), "{ran:?}");
}

#[test]
fn a_sample_is_bounded_by_its_span_and_replaced_but_never_mixed() {
    let folder = prepared(9);
    let folder = folder.path();
    let readings = || json(&fs::read_to_string(folder.join("sample/manifest.json")).unwrap())["readings"].clone();
    assert_eq!(readings(), 9 * 144);
    let words = ["train", "--prepare", "sample", "--since", "2024-03-02", "--until", "2024-03-03"];
    assert_eq!(vitals(folder, &words).code, Some(0));
    assert_eq!(readings(), 9 * 48);
    fs::copy(folder.join("sample/sample.parquet"), folder.join("sample/older.parquet")).unwrap();
    let mixed = vitals(folder, &words);
    assert!(mixed.code == Some(1) && mixed.err.contains("`older.parquet`"), "{mixed:?}");
    let nothing = vitals(folder, &["train", "--prepare", "none", "--since", "2030-01-01"]);
    assert!(nothing.code == Some(1) && nothing.err.contains("no readings"), "{nothing:?}");
    assert!(!folder.join("none").exists());
}

#[test]
fn shares_of_a_state_mean_the_same_moment_by_a_time_before_now() {
    let folder = prepared(3);
    let manifest = |place: &str| json(&fs::read_to_string(folder.path().join(place).join("manifest.json")).unwrap());
    let state = manifest("sample")["state"].to_string();
    for share in ["1", "2"] {
        let (place, part) = (format!("share-{share}"), format!("{share}/2"));
        let ran = vitals(
            folder.path(),
            &["train", "--prepare", &place, "--share", &part, "--state", &state, "--since", "5000d"],
        );
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
    let since = |place: &str| manifest(place)["since_ms"].as_i64().unwrap();
    assert_eq!(since("share-1"), since("share-2"));
    let readings = |place: &str| manifest(place)["readings"].as_u64().unwrap();
    assert_eq!(readings("share-1") + readings("share-2"), 3 * 144);
}

#[test]
fn what_is_no_model_is_not_adopted() {
    let folder = prepared(9);
    let folder = folder.path();
    let adopt = |model: &str, sample: &str| vitals(folder, &["models", "adopt", model, "--sample", sample]);
    let none = adopt("nowhere", "sample");
    assert!(none.code == Some(3) && none.err.contains("`model.bin`"), "{none:?}");
    fs::write(folder.join("model.tar.gz"), "no archive").unwrap();
    let damaged = adopt("model.tar.gz", "sample");
    assert!(damaged.code == Some(1) && damaged.err.contains("damaged, or no gzip"), "{damaged:?}");
    fs::create_dir(folder.join("model")).unwrap();
    fs::write(folder.join("model/model.bin"), "no model").unwrap();
    let foreign = adopt("model", "sample");
    assert!(foreign.code == Some(1) && foreign.err.contains("not a model artifact"), "{foreign:?}");
    assert!(!folder.join(".vitals/models").exists());
}

#[test]
fn a_plan_says_what_would_be_read_and_written_and_does_nothing() {
    let folder = prepared(9);
    let before = fs::read_dir(folder.path().join(".vitals/state")).unwrap().count();
    let ran = vitals(folder.path(), &["train", "--dry-run", "--since", "2024-03-02"]);
    insta::assert_snapshot!(ran.out, @r"
    local     in this process, with the lake `.vitals` as of state 1
    reads     2 closed days, 2024-03-02 to 2024-03-03, 864 readings
              0 files that have landed since, 0 B
    learns    from what was measured since 2024-03-02T00:00:00.000Z: at most 4,000,000 readings, of whole devices
              by seed 1, for 0.25 false alarms per device and day
    compares  what it has learnt with `builtin`, the model in force
    writes    the model, to models/NAME/model.bin
    then      unless it finds less: its verdicts on 3 closed days and what has landed, and state 2, which puts all of it in force
    ");
    let after = fs::read_dir(folder.path().join(".vitals/state")).unwrap().count();
    assert!(ran.code == Some(0) && before == after && !folder.path().join(".vitals/models").exists(), "{ran:?}");
}
