use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::Path,
};

use clap::Parser;
use tempfile::TempDir;

use super::*;
use crate::lake::{import::import, now_ms};

#[derive(Debug, Parser)]
struct Words {
    #[command(flatten)]
    info: InfoArgs,
}

async fn look_at(folder: &Path) -> Info {
    let words = ["info".as_ref(), "--lake".as_ref(), folder.as_os_str()];
    gather(&Words::parse_from(words).info, &Origins::default()).await
}

/// A lake with two readings of 2024, three of today, and a row that can't be read.
async fn lake() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let now = now_ms();
    let mut text = String::from("device_id,timestamp,heart_rate\n");
    for ms in [1_709_251_200_000, 1_709_251_260_000, now - 3_000, now - 2_000, now - 1_000] {
        text.push_str(&format!("d,{},70\n", format_rfc3339_ms(ms)));
    }
    text.push_str("d,soon,70\n");
    let file = folder.path().join("readings.csv");
    fs::write(&file, text).unwrap();
    let lake = folder.path().join("lake");
    import(&Store::folder(&lake).unwrap(), &file, now, |_| ()).await.unwrap();
    folder
}

/// Every file below a folder with its size, and every folder.
fn files(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        found.insert(path.clone(), if path.is_dir() { 0 } else { path.metadata().unwrap().len() });
        if path.is_dir() {
            found.extend(files(&path));
        }
    }
    found
}

fn find(folder: &Path, ending: &str, below: &str) -> PathBuf {
    let is = |path: &&PathBuf| {
        let path = path.to_string_lossy();
        path.contains(below) && path.ends_with(ending)
    };
    files(folder).keys().rfind(is).unwrap().clone()
}

#[tokio::test]
async fn a_lake_that_is_not_there_is_told_and_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none");
    for lake in [missing.as_path(), folder.path()] {
        let info = look_at(lake).await;
        assert!(!info.lake.exists && info.problems.is_empty(), "{info:?}");
        assert!(text(&info).contains("there is no lake there"), "{}", text(&info));
    }
    assert!(files(folder.path()).is_empty());
}

#[tokio::test]
async fn a_lake_says_what_it_holds_and_stays_as_it_is() {
    let folder = lake().await;
    let lake = folder.path().join("lake");
    fs::remove_dir_all(lake.join(".staging")).unwrap();
    let before = files(&lake);
    let info = look_at(&lake).await;
    assert_eq!(info.problems, Vec::<String>::new());
    let contents = &info.lake.contents;
    assert_eq!((contents.readings, contents.closed_readings, contents.exact), (5, 2, true));
    let sizes =
        |table: &str| before.iter().filter(|(path, _)| path.starts_with(lake.join(table))).map(|(_, n)| n).sum();
    let (landed, closed): (u64, u64) = (sizes("landing"), sizes("readings"));
    assert_eq!(contents.bytes, landed + closed);
    assert!(contents.last_arrival.is_some());
    assert_eq!(info.lake.closed_days, Some(1));
    assert_eq!(info.lake.first_day.unwrap().to_string(), "2024-03-01");
    assert_eq!(info.lake.model.as_deref(), Some("builtin"));
    assert!(info.lake.state.is_some_and(|n| n > 0));
    assert_eq!(files(&lake), before);
    let json = serde_json::to_value(&info).unwrap();
    assert_eq!((&json["schema_version"], &json["lake"]["readings"]), (&1.into(), &5.into()));
}

#[tokio::test]
async fn what_is_damaged_is_named() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage, &str); 6] = [
        (".json", |state| fs::write(state, "{").unwrap(), "state"),
        (".json", |state| fs::write(state, "{\"format\":99}").unwrap(), "state"),
        (".parquet", |file| File::options().write(true).open(file).unwrap().set_len(50).unwrap(), "landing"),
        (".parquet", |file| File::options().write(true).open(file).unwrap().set_len(50).unwrap(), "readings/"),
        (".parquet", |file| fs::remove_file(file).unwrap(), "readings/"),
        (
            ".json",
            |state| {
                let text = fs::read_to_string(state).unwrap();
                fs::write(state, text.replace("\"model\": null", "\"model\": \"m-000000000000\"")).unwrap();
            },
            "state",
        ),
    ];
    for (number, (ending, damage, below)) in cases.into_iter().enumerate() {
        let folder = lake().await;
        let lake = folder.path().join("lake");
        let file = find(&lake, ending, below);
        damage(&file);
        let info = look_at(&lake).await;
        let name = if number == 5 { "m-000000000000".into() } else { file.file_name().unwrap().to_string_lossy() };
        assert_eq!(info.problems.len(), 1, "{number}: {:?}", info.problems);
        assert!(info.problems[0].contains(&*name), "{number}: {:?}", info.problems);
        // The rest is told all the same.
        assert!(text(&info).contains("machine"));
    }
}

#[tokio::test]
async fn a_file_in_the_place_of_a_lake_is_a_problem() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let info = look_at(file.path()).await;
    assert_eq!(info.problems.len(), 1, "{:?}", info.problems);
    assert!(info.problems[0].contains("can't use"), "{:?}", info.problems);
}

#[tokio::test]
async fn who_holds_the_lake_is_told_and_a_lock_that_was_left_is_not() {
    let folder = lake().await;
    let lake = folder.path().join("lake");
    fs::create_dir_all(lake.join("spool")).unwrap();
    let mut lock = File::create(lake.join("spool/spool.lock")).unwrap();
    writeln!(lock, "4711").unwrap();
    assert_eq!(look_at(&lake).await.lake.held, []);
    lock.lock().unwrap();
    let info = look_at(&lake).await;
    assert_eq!(serde_json::to_value(&info.lake.held).unwrap(), serde_json::json!([{"part": "log", "pid": 4711}]));
    assert!(text(&info).contains("the log by process 4711"), "{}", text(&info));
    // Even one that does not say whose it is.
    lock.set_len(0).unwrap();
    assert_eq!(look_at(&lake).await.lake.held.len(), 1);
    drop(lock);
    assert_eq!(look_at(&lake).await.lake.held, []);
}
