//! The command as it is typed, on lakes in folders.

use std::path::Path;

use clap::{CommandFactory, Parser};
use serde_json::Value as Json;

use super::*;
use crate::{
    lake::Store,
    query::{LocalEngine, Options, fixture, standing::standing},
};

#[derive(Debug, Parser)]
struct Typed {
    #[command(flatten)]
    args: QueryArgs,
}

/// Runs `vitals query …` on a lake, with the rows in a file; the exit code and the file's text.
async fn typed(lake: &Path, words: &[&str]) -> (String, String) {
    let out = lake.join("out");
    let flags = ["--lake", lake.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let typed = Typed::try_parse_from(["query"].iter().chain(words).chain(&flags)).unwrap();
    let code = run(typed.args).await.unwrap();
    let text = std::fs::read_to_string(&out).unwrap_or_default();
    let _ = std::fs::remove_file(out);
    (format!("{code:?}"), text)
}

fn code(number: u8) -> String {
    format!("{:?}", ExitCode::from(number))
}

async fn small() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::folder(folder.path()).unwrap();
    fixture::small(&store).await;
    (folder, store)
}

fn json(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn the_arguments_are_well_formed() {
    Typed::command().debug_assert();
    assert!(Typed::try_parse_from(["query", "outliers", "--episodes", "--readings"]).is_err());
    assert!(Typed::try_parse_from(["query", "outliers", "--since", "whenever"]).is_err());
    assert!(Typed::try_parse_from(["query", "outliers", "--output", "xml"]).is_err());
    assert!(Typed::try_parse_from(["query", "history"]).is_err());
}

#[tokio::test]
async fn outliers_are_shown_and_what_is_beyond_the_limit_is_counted() {
    let (lake, _store) = small().await;
    let all = ["outliers", "--since", "2026-01-01", "--output", "json"];
    let (exit, text) = typed(lake.path(), &all).await;
    assert_eq!(exit, code(0));
    let answer = json(&text);
    assert_eq!((&answer["query"], &answer["found"]), (&"outlier_episodes".into(), &1.into()));
    assert_eq!(answer["rows"][0]["cause"], "tachycardia");
    let (_, text) = typed(lake.path(), &[&all[..], &["--readings", "--limit", "1"]].concat()).await;
    let answer = json(&text);
    assert_eq!(answer["rows"].as_array().unwrap().len(), 1);
    assert_eq!((&answer["shown"], &answer["found"], &answer["more"]), (&1.into(), &2.into(), &true.into()));
    assert_eq!(answer["rows"][0]["ts"], "2026-01-06T09:00:00.000Z");
    let (_, text) = typed(lake.path(), &[&all[..], &["--readings", "--limit", "0", "--min-score", "9"]].concat()).await;
    assert_eq!(json(&text)["found"], 1);
}

#[tokio::test]
async fn an_empty_answer_is_no_failure() {
    let (lake, _store) = small().await;
    let (exit, text) = typed(lake.path(), &["outliers", "--output", "json"]).await;
    assert_eq!((exit, json(&text)["shown"].clone()), (code(0), 0.into()));
    let empty = tempfile::tempdir().unwrap();
    std::fs::create_dir(empty.path().join("landing")).unwrap();
    for words in [&["outliers"][..], &["devices"], &["sql", "SELECT * FROM readings"]] {
        assert_eq!(typed(empty.path(), words).await.0, code(0), "{words:?}");
    }
    assert_eq!(typed(empty.path(), &["history", "device_1"]).await.0, code(NOT_FOUND));
}

#[tokio::test]
async fn history_shows_the_newest_and_knows_its_devices() {
    let (lake, _store) = small().await;
    let (_, text) = typed(lake.path(), &["history", "device_1", "--limit", "2", "--output", "json"]).await;
    let answer = json(&text);
    let times: Vec<_> = answer["rows"].as_array().unwrap().iter().map(|row| row["ts"].as_str().unwrap()).collect();
    assert_eq!(times, ["2026-01-05T11:00:00.000Z", "2026-01-06T09:00:00.000Z"]);
    assert_eq!((&answer["found"], &answer["more"]), (&3.into(), &true.into()));
    let (_, text) = typed(lake.path(), &["history", "device_1", "--limit", "3", "--output", "json"]).await;
    assert_eq!((&json(&text)["found"], &json(&text)["more"]), (&3.into(), &false.into()));
    assert_eq!(typed(lake.path(), &["history", "device_9"]).await.0, code(NOT_FOUND));
    assert_eq!(typed(lake.path(), &["history", "device_1", "--until", "2026-01-01"]).await.0, code(0));
}

#[tokio::test]
async fn sql_that_does_more_than_read_is_a_wrong_use() {
    let (lake, _store) = small().await;
    assert_eq!(typed(lake.path(), &["sql", "DROP TABLE readings"]).await, (code(USAGE), String::new()));
    let (exit, text) = typed(lake.path(), &["sql", "SELECT count(*) AS n FROM readings;", "--output", "csv"]).await;
    assert_eq!((exit, text.as_str()), (code(0), "n\n5\n"));
    let numbers = "SELECT heart_rate FROM readings ORDER BY ts";
    let (_, text) = typed(lake.path(), &["sql", numbers, "--limit", "2", "--output", "json"]).await;
    assert_eq!(
        (&json(&text)["shown"], &json(&text)["found"], &json(&text)["more"]),
        (&2.into(), &Json::Null, &true.into())
    );
}

#[tokio::test]
async fn a_file_takes_its_name_only_when_it_is_whole() {
    let (lake, _store) = small().await;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("rows.parquet");
    std::fs::write(&out, "before").unwrap();
    let run_to = async |sql: &str| {
        let words = ["query", "sql", sql, "--output", "parquet", "--out", out.to_str().unwrap(), "--lake"];
        let typed = Typed::try_parse_from(words.iter().chain(&[lake.path().to_str().unwrap()])).unwrap();
        run(typed.args).await
    };
    assert!(run_to("SELECT nothing FROM readings").await.is_err());
    assert_eq!(std::fs::read(&out).unwrap(), b"before");
    run_to("SELECT * FROM readings").await.unwrap();
    assert_eq!(&std::fs::read(&out).unwrap()[..4], b"PAR1");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

async fn why_none(store: &Store, filter: empty::Filter) -> String {
    let engine = LocalEngine::open(store.clone(), Options::default()).await.unwrap();
    let standing = standing(store, &engine.view()).await.unwrap();
    empty::no_outliers(&engine, &filter, &standing).await.unwrap()
}

#[tokio::test]
async fn an_empty_window_says_what_there_is_and_which_flag_shows_it() {
    let (_lake, store) = small().await;
    let any = empty::Filter {
        since: fixture::moment("2026-02-01"),
        until: MAX_TIME_MS,
        device: String::new(),
        cause: String::new(),
        min_score: f64::MIN,
    };
    assert_eq!(
        why_none(&store, any.clone()).await,
        "no outliers since 2026-02-01 00:00:00Z: the newest is of 2026-01-06 09:00:00Z; `--since 2026-01-06` shows it"
    );
    let early = empty::Filter { since: 0, until: fixture::moment("2026-01-01"), ..any.clone() };
    assert_eq!(
        why_none(&store, early).await,
        "no outliers before 2026-01-01 00:00:00Z: there are later ones, the newest is of 2026-01-06 09:00:00Z; \
         leave out `--until`"
    );
    let cause = empty::Filter { cause: "fevr".to_owned(), ..any.clone() };
    assert_eq!(why_none(&store, cause).await, "no outlier has the cause `fevr`; causes are tachycardia");
    let score = empty::Filter { min_score: 100.0, ..any.clone() };
    assert!(why_none(&store, score).await.starts_with("none of the 2 outliers is like that"));
    let well = empty::Filter { device: "device_2".to_owned(), ..any.clone() };
    assert!(why_none(&store, well).await.starts_with("no outliers of `device_2`; there are 2 readings of `device_2`"));
    let unknown = empty::Filter { device: "devise_1".to_owned(), ..any.clone() };
    assert_eq!(why_none(&store, unknown).await, "no device `devise_1` among 2: did you mean `device_1` or `device_2`?");
    let store = Store::memory();
    fixture::land(&store, 0, &[fixture::reading("a", "2026-01-06T09:00:00Z", 60.0)]).await;
    fixture::score(&store, 0, &[]).await;
    assert_eq!(why_none(&store, any).await, "no outliers at all: the model `builtin` found none in 1 readings");
}
