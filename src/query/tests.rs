//! What statements see of a lake, and what they do when some of it is damaged.

use serde_json::Value as Json;

use super::{
    fixture::{self, dead, land, landing_bytes, outlier, reading, small},
    output::{self, Format, Style},
    statement, *,
};
use crate::lake::{Store, Table, layout};

mod rendering;

async fn engine(store: &Store) -> LocalEngine {
    LocalEngine::open(store.clone(), Options { memory_bytes: 256 << 20, threads: 2 }).await.unwrap()
}

#[derive(Clone, Default)]
struct Buffer(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn written(engine: &LocalEngine, statement: &Statement, format: Format, style: Style) -> Vec<u8> {
    let answer = engine.run(statement).await.unwrap();
    let buffer = Buffer::default();
    let mut writer = output::writer(format, "test", &answer.schema, style, false, Box::new(buffer.clone())).unwrap();
    let counts = output::write_rows(answer, writer.as_mut(), None).await.unwrap();
    writer.finish(&counts).unwrap();
    drop(writer);
    std::mem::take(&mut *buffer.0.lock().unwrap())
}

async fn text(engine: &LocalEngine, statement: &Statement, format: Format) -> String {
    String::from_utf8(written(engine, statement, format, Style::default()).await).unwrap()
}

/// The answer to a person's SQL, as CSV without its header.
async fn ask(engine: &LocalEngine, sql: &str) -> Vec<String> {
    let csv = text(engine, &Statement::of_person(sql).unwrap(), Format::Csv).await;
    csv.lines().skip(1).map(str::to_owned).collect()
}

async fn refused(engine: &LocalEngine, sql: &str) -> QueryError {
    let statement = match Statement::of_person(sql) {
        Ok(statement) => statement,
        Err(error) => return error,
    };
    match engine.run(&statement).await {
        Err(error) => error,
        Ok(answer) => answer.collect().await.unwrap_err(),
    }
}

#[tokio::test]
async fn every_record_shows_once_whether_its_day_is_closed_or_not() {
    let store = Store::memory();
    small(&store).await;
    let engine = engine(&store).await;
    assert_eq!(
        ask(&engine, "SELECT device_id, ts, heart_rate, dt FROM readings ORDER BY ts").await,
        [
            "device_1,2026-01-05T10:00:00.000Z,70,2026-01-05",
            "device_1,2026-01-05T11:00:00.000Z,118,2026-01-05",
            "device_2,2026-01-05T11:30:00.000Z,65,2026-01-05",
            "device_1,2026-01-06T09:00:00.000Z,119,",
            "device_2,2026-01-06T09:30:00.000Z,66,",
        ]
    );
    assert_eq!(
        ask(&engine, "SELECT device_id, ts, score, dt FROM outliers ORDER BY ts").await,
        ["device_1,2026-01-05T11:00:00.000Z,8,2026-01-05", "device_1,2026-01-06T09:00:00.000Z,9.5,"]
    );
    assert_eq!(
        ask(&engine, "SELECT reason, \"offset\", chain, dt FROM dead_letters").await,
        ["not_json,4,spool-test,"]
    );
    assert!(engine.take_warnings().is_empty());
}

#[tokio::test]
async fn a_lake_with_nothing_has_every_table_without_rows() {
    let engine = engine(&Store::memory()).await;
    for table in ["readings", "outliers", "dead_letters"] {
        assert_eq!(ask(&engine, &format!("SELECT count(*) FROM {table}")).await, ["0"]);
    }
    let csv = text(&engine, &Statement::of_person("SELECT * FROM readings").unwrap(), Format::Csv).await;
    assert!(csv.starts_with("device_id,ts,heart_rate"), "{csv}");
}

fn episodes() -> Statement {
    Statement::template(statement::OUTLIER_EPISODES)
        .bind("since", Value::Time(0))
        .bind("until", Value::Time(i64::MAX / 2))
        .bind("device", Value::Text(String::new()))
        .bind("cause", Value::Text(String::new()))
        .bind("min_score", Value::Float(f64::MIN))
}

#[tokio::test]
async fn an_episode_says_what_its_worst_reading_says() {
    let store = Store::memory();
    small(&store).await;
    let worst = outlier("device_2", "2026-01-06T12:00:00Z", "2026-01-06T12:00:00Z", 3.0, "flatline");
    fixture::score(&store, 6, std::slice::from_ref(&worst)).await;
    let engine = engine(&store).await;
    let rows = text(&engine, &episodes(), Format::Ndjson).await;
    let rows: Vec<Json> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0]["device_id"], "device_2");
    assert_eq!(rows[0]["artifact"], true);
    let episode = &rows[1];
    assert_eq!(episode["started_at"], "2026-01-05T11:00:00.000Z");
    assert_eq!(episode["ended_at"], "2026-01-06T09:00:00.000Z");
    assert_eq!(episode["peak_at"], "2026-01-06T09:00:00.000Z");
    assert_eq!((&episode["readings"], &episode["peak_score"]), (&2.into(), &9.5.into()));
    assert_eq!(episode["why"], "heart rate 118 bpm, usually 72 (tachycardia)");
    let only = |name, value| episodes().bind(name, value);
    let count = async |statement: Statement| text(&engine, &statement, Format::Ndjson).await.lines().count();
    assert_eq!(count(only("device", Value::Text("device_1".into()))).await, 1);
    assert_eq!(count(only("cause", Value::Text("flatline".into()))).await, 1);
    assert_eq!(count(only("min_score", Value::Float(9.6))).await, 0);
    assert_eq!(count(only("since", Value::Time(fixture::moment("2026-01-06")))).await, 2);
    assert_eq!(count(only("until", Value::Time(fixture::moment("2026-01-06T12:00:00Z")))).await, 1);
    assert_eq!(text(&engine, &episodes().counted(), Format::Csv).await, "found\n2\n");
}

#[tokio::test]
async fn devices_come_worst_first_and_sensor_faults_do_not_count() {
    let store = Store::memory();
    small(&store).await;
    let fault = outlier("device_2", "2026-01-06T09:30:00Z", "2026-01-06T09:30:00Z", 99.0, "flatline");
    fixture::score(&store, 6, std::slice::from_ref(&fault)).await;
    land(&store, 6, &[reading("device_0", "2026-01-06T13:00:00Z", 60.0)]).await;
    let engine = engine(&store).await;
    let devices =
        Statement::template(statement::DEVICES).bind("since", Value::Time(0)).bind("until", Value::Time(i64::MAX / 2));
    let csv = text(&engine, &devices, Format::Csv).await;
    let rows: Vec<_> = csv.lines().collect();
    assert_eq!(
        rows,
        [
            "device_id,episodes,artifacts,outliers,peak_score,news2,last_outlier,readings,last_seen",
            "device_1,1,0,2,9.5,5,2026-01-06T09:00:00.000Z,3,2026-01-06T09:00:00.000Z",
            "device_2,0,1,1,99,5,2026-01-06T09:30:00.000Z,2,2026-01-06T09:30:00.000Z",
            "device_0,0,0,0,,,,1,2026-01-06T13:00:00.000Z",
        ]
    );
}

fn history(device: &str, newest: i64) -> Statement {
    Statement::template(statement::HISTORY)
        .bind("device", Value::Text(device.to_owned()))
        .bind("since", Value::Time(0))
        .bind("until", Value::Time(i64::MAX / 2))
        .bind("newest", Value::Int(newest))
}

#[tokio::test]
async fn history_is_the_newest_readings_newest_last_with_their_verdicts() {
    let store = Store::memory();
    small(&store).await;
    let engine = engine(&store).await;
    let seen = async |statement: Statement| -> Vec<(String, Json)> {
        let lines = text(&engine, &statement, Format::Ndjson).await;
        let rows = lines.lines().map(|line| serde_json::from_str::<Json>(line).unwrap());
        rows.map(|row| (row["ts"].as_str().unwrap()[..16].to_owned(), row["score"].clone())).collect()
    };
    let all = [("2026-01-05T10:00", Json::Null), ("2026-01-05T11:00", 8.0.into()), ("2026-01-06T09:00", 9.5.into())];
    let all = all.map(|(ts, score)| (ts.to_owned(), score));
    assert_eq!(seen(history("device_1", i64::MAX)).await, all);
    assert_eq!(seen(history("device_1", 2)).await, all[1..]);
    assert_eq!(seen(history("device_9", 2)).await, []);
}

#[tokio::test]
async fn a_reading_that_was_sent_twice_shows_twice_not_four_times() {
    let store = Store::memory();
    let twice = reading("d", "2026-01-06T09:00:00Z", 140.0);
    land(&store, 0, &[twice.clone(), twice]).await;
    let found = outlier("d", "2026-01-06T09:00:00Z", "2026-01-06T09:00:00Z", 5.0, "tachycardia");
    fixture::score(&store, 0, &[found.clone(), found]).await;
    let engine = engine(&store).await;
    assert_eq!(text(&engine, &history("d", 10), Format::Ndjson).await.lines().count(), 2);
}

#[tokio::test]
async fn what_people_write_is_a_value_and_never_sql() {
    let store = Store::memory();
    small(&store).await;
    let engine = engine(&store).await;
    for nasty in ["' OR ''='", "device_1' --", "$since", "\"; DROP TABLE readings; --", "device_1\0", "%", "?"] {
        let rows = text(&engine, &history(nasty, 10), Format::Ndjson).await;
        assert_eq!(rows, "", "{nasty}");
        let filtered = episodes().bind("cause", Value::Text(nasty.to_owned()));
        assert_eq!(text(&engine, &filtered, Format::Ndjson).await, "", "{nasty}");
    }
}

#[tokio::test]
async fn sql_sees_the_views_and_nothing_else() {
    let store = Store::memory();
    small(&store).await;
    let engine = engine(&store).await;
    let tables = ask(
        &engine,
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY table_name",
    );
    assert_eq!(tables.await, ["dead_letters", "outliers", "readings"]);
    for hidden in
        ["landing", "scored", "cuts", "readings_days", "\"state\"", "\"Cargo.toml\"", "\"x.parquet\"", "nothing"]
    {
        let error = refused(&engine, &format!("SELECT * FROM {hidden}")).await;
        assert!(error.to_string().contains("there is no table"), "{hidden}: {error}");
    }
    for nasty in ["SELECT * FROM '/etc/passwd'", "COPY readings TO '/tmp/x'", "SELECT 1; SELECT 2"] {
        assert!(matches!(refused(&engine, nasty).await, QueryError::NotReadOnly { .. } | QueryError::Sql { .. }));
    }
}

#[tokio::test]
async fn errors_in_sql_are_short_and_name_what_is_near() {
    let store = Store::memory();
    small(&store).await;
    let engine = engine(&store).await;
    for (sql, message, hint) in [
        ("SELECT hart_rate FROM readings", "there is no column `hart_rate`", Some("did you mean `heart_rate`?")),
        ("SELECT * FROM reading", "there is no table `reading`", Some("did you mean `readings`?")),
        (
            "SELECT r.ts FROM readings r, outliers o WHERE ts > now()",
            "column `ts` is in more than one table",
            Some("write `table.column`"),
        ),
        ("SELEC 1", "expected: an SQL statement, found: SELEC at Line: 1, Column: 1", None),
        ("SELECT 1 FROM", "expected: identifier, found: EOF", None),
        ("SELECT 1/0", "divide by zero error", None),
        (
            "SELECT CAST(device_id AS INT) FROM readings",
            "cast error: Cannot cast string 'device_1' to value of Int32 type",
            None,
        ),
    ] {
        let error = refused(&engine, sql).await;
        assert_eq!((error.to_string().as_str(), error.hint().as_deref()), (message, hint), "{sql}");
    }
    let error = refused(&engine, "SELECT frobnicate(ts) FROM readings").await;
    assert!(error.to_string().starts_with("invalid function 'frobnicate'"), "{error}");
    let error = refused(&engine, "SELECT * FROM readings WHERE ts > $since").await;
    assert!(!error.to_string().contains('\n'), "{error}");
    assert!(engine.take_warnings().is_empty());
}

#[tokio::test]
async fn damaged_and_foreign_files_are_named_and_left_out() {
    let store = Store::memory();
    small(&store).await;
    let good = landing_bytes(10, &[reading("device_3", "2026-01-06T10:00:00Z", 80.0)]);
    let files = [
        (10, good.slice(..good.len() / 2), "cut short"),
        (20, bytes::Bytes::new(), "empty"),
        (30, bytes::Bytes::from_static(b"not a parquet file at all, but long enough for one"), "no Parquet"),
        (40, good.clone(), "another's"),
        (50, fixture::parquet(&fixture::batch(&crate::reading::columns::READING, &[]), vec![]), "foreign"),
    ];
    for (first, bytes, _) in &files {
        fixture::create(&store, &layout::landing_file(fixture::CHAIN, 0, *first), bytes.clone()).await;
    }
    let engine = engine(&store).await;
    assert_eq!(ask(&engine, "SELECT count(*) FROM readings").await, ["5"]);
    let warnings = engine.take_warnings();
    assert_eq!(warnings.len(), files.len(), "{warnings:?}");
    for (first, _, what) in &files {
        let key = layout::landing_file(fixture::CHAIN, 0, *first).to_string();
        assert!(warnings.iter().any(|w| w.starts_with(&format!("left out `{key}`: "))), "{what}: {warnings:?}");
    }
    assert_eq!(ask(&engine, "SELECT count(*) FROM readings").await, ["5"]);
    assert!(engine.take_warnings().is_empty(), "each file is named once");
    let answer = engine.run(&Statement::of_person("SELECT 1 AS x").unwrap()).await.unwrap();
    let buffer = Buffer::default();
    let mut writer =
        output::writer(Format::Json, "t", &answer.schema, Style::default(), false, Box::new(buffer.clone())).unwrap();
    writer.finish(&output::Counts { warnings: vec!["a \"b\"".to_owned()], ..output::Counts::default() }).unwrap();
    let json: Json = serde_json::from_slice(&buffer.0.lock().unwrap()).unwrap();
    assert_eq!(json["warnings"], serde_json::json!(["a \"b\""]));
}

#[tokio::test]
async fn a_damaged_page_is_found_and_its_file_left_out() {
    let store = Store::memory();
    small(&store).await;
    let rows: Vec<_> = (0..500).map(|i| reading("device_3", "2026-01-06T10:00:00Z", f64::from(i))).collect();
    let mut bytes = landing_bytes(10, &rows).to_vec();
    bytes[4..40].fill(0xff);
    fixture::create(&store, &layout::landing_file(fixture::CHAIN, 0, 10), bytes.into()).await;
    let engine = engine(&store).await;
    assert_eq!(ask(&engine, "SELECT device_id FROM readings ORDER BY ts, device_id").await.len(), 5);
    let warnings = engine.take_warnings();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("00000000000000000010.parquet"), "{warnings:?}");
}

#[tokio::test]
async fn random_damage_ends_no_statement_in_a_panic() {
    // Values inside a page have no checksum, so a changed value can't be noticed; what must hold is that every statement
    // ends, and that rows are never multiplied.
    let rows: Vec<_> = (0..50).map(|i| reading("device_3", "2026-01-06T10:00:00Z", f64::from(i))).collect();
    let good = landing_bytes(0, &rows);
    let mut seed = 1_u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    for _ in 0..150 {
        let mut bytes = good.to_vec();
        for _ in 0..=random(4) {
            let at = random(bytes.len());
            bytes[at] = random(256) as u8;
        }
        let store = Store::memory();
        fixture::create(&store, &layout::landing_file(fixture::CHAIN, 0, 0), bytes.into()).await;
        let engine = engine(&store).await;
        let statement = Statement::of_person("SELECT * FROM readings").unwrap();
        if let Ok(answer) = engine.run(&statement).await
            && let Ok(batches) = answer.collect().await
        {
            assert!(batches.iter().map(arrow::array::RecordBatch::num_rows).sum::<usize>() <= 50);
        }
    }
}

#[tokio::test]
async fn files_outside_the_time_that_is_asked_for_are_not_opened() {
    let store = Store::memory();
    small(&store).await;
    // The closed day's file is damaged, which nobody finds who does not ask for its times.
    let key = layout::run_part(Table::Readings, crate::lake::Day::parse("2026-01-05").unwrap(), "run-1", 0);
    store.delete(vec![key.clone()]).await.unwrap();
    fixture::create(&store, &key, bytes::Bytes::from_static(b"damaged")).await;
    let engine = engine(&store).await;
    assert_eq!(ask(&engine, "SELECT count(*) FROM readings WHERE ts >= '2026-01-06'").await, ["2"]);
    assert_eq!(ask(&engine, "SELECT count(*) FROM readings WHERE dt > '2026-01-05'").await, ["0"]);
    assert!(engine.take_warnings().is_empty());
    assert_eq!(ask(&engine, "SELECT count(*) FROM readings WHERE ts >= '2026-01-05'").await, ["2"]);
    assert_eq!(engine.take_warnings().len(), 1);
}

#[tokio::test]
async fn a_clean_up_between_two_statements_is_noticed() {
    let store = Store::memory();
    let rows = [reading("a", "2026-01-06T09:00:00Z", 60.0), reading("b", "2026-01-06T09:01:00Z", 61.0)];
    land(&store, 0, &rows).await;
    let engine = engine(&store).await;
    assert_eq!(ask(&engine, "SELECT count(*), count(dt) FROM readings").await, ["2,0"]);
    fixture::close(&store, "2026-01-06", &rows, &[], 2).await;
    store.delete(vec![layout::landing_file(fixture::CHAIN, 0, 0)]).await.unwrap();
    assert_eq!(ask(&engine, "SELECT count(*), count(dt) FROM readings").await, ["2,2"]);
    assert!(engine.take_warnings().is_empty());
}

#[tokio::test]
async fn a_run_that_is_not_there_is_named() {
    let store = Store::memory();
    small(&store).await;
    let day = crate::lake::Day::parse("2026-01-05").unwrap();
    store.delete(vec![layout::run_part(Table::Readings, day, "run-1", 0)]).await.unwrap();
    let engine = engine(&store).await;
    assert_eq!(ask(&engine, "SELECT count(*) FROM readings").await, ["2"]);
    let warnings = engine.take_warnings();
    assert_eq!(warnings, ["left out `readings/dt=2026-01-05/run-1/part-00000.parquet`: it is not there"]);
}

#[tokio::test]
async fn too_little_memory_is_an_error_with_advice() {
    let store = Store::memory();
    let rows: Vec<_> = (0..20_000).map(|i| reading(&format!("d{i}"), "2026-01-06T10:00:00Z", f64::from(i))).collect();
    land(&store, 0, &rows).await;
    let engine = LocalEngine::open(store, Options { memory_bytes: 200_000, threads: 1 }).await.unwrap();
    let sql = "SELECT count(*) FROM readings a JOIN readings b ON a.device_id = b.device_id";
    let error = refused(&engine, sql).await;
    assert!(matches!(error, QueryError::OutOfMemory { .. }), "{error}");
    assert!(error.hint().is_some());
}

#[tokio::test]
async fn a_long_chain_does_not_exhaust_the_stack() {
    let engine = engine(&Store::memory()).await;
    let sql = format!("SELECT {} FROM readings", vec!["heart_rate"; 190].join("+"));
    assert_eq!(ask(&engine, &sql).await.len(), 0);
    let sql = format!("SELECT * FROM readings WHERE {}", vec!["ts > now()"; 190].join(" OR "));
    assert_eq!(ask(&engine, &sql).await.len(), 0);
    let sql = vec!["SELECT 1"; 190].join(" UNION ALL ");
    assert_eq!(ask(&engine, &sql).await.len(), 190);
    let sql = vec!["SELECT 1"; 190].join(" EXCEPT ");
    assert_eq!(ask(&engine, &sql).await.len(), 0);
    let readings: Vec<_> = (0..40).map(|i| format!("readings r{i}")).collect();
    let sql = format!("SELECT count(*) FROM {}", readings.join(" CROSS JOIN "));
    assert_eq!(ask(&engine, &sql).await.len(), 1);
}

#[tokio::test]
async fn dead_letters_of_closed_days_show_too() {
    let store = Store::memory();
    let mut row = dead("2026-01-05T09:00:00Z", "no_timestamp", b"{}");
    let origin = serde_json::json!({"chain": "c", "partition": 1, "first": 0, "offset": 7, "item": -1});
    row.as_object_mut().unwrap().extend(origin.as_object().unwrap().clone());
    let run = fixture::run(&store, Table::DeadLetters, "2026-01-05", &[row]).await;
    let mut state = crate::lake::State::load(&store).await.unwrap();
    let day = crate::lake::Day::parse("2026-01-05").unwrap();
    state.days.entry(day).or_default().dead_letters = Some(run);
    state.upto = Some(day);
    state.commit(&store).await.unwrap();
    let engine = engine(&store).await;
    let sql = "SELECT reason, \"partition\", item, payload, dt FROM dead_letters WHERE arrived_at >= '2026-01-05'";
    assert_eq!(ask(&engine, sql).await, ["no_timestamp,1,-1,{},2026-01-05"]);
    assert_eq!(ask(&engine, "SELECT * FROM dead_letters WHERE arrived_at >= '2026-01-06'").await.len(), 0);
}

#[tokio::test]
async fn what_waits_for_the_scorer_is_counted() {
    let store = Store::memory();
    let look = async || {
        let view = crate::lake::View::open(&store).await.unwrap();
        standing::standing(&store, &view).await.unwrap()
    };
    assert!(look().await.empty);
    let rows = [reading("a", "2026-01-06T09:00:00Z", 60.0), dead("2026-01-06T09:00:01Z", "not_json", b"x")];
    land(&store, 0, &rows).await;
    let seen = look().await;
    assert_eq!((seen.empty, seen.scored, seen.waiting), (false, false, 1));
    fixture::score(&store, 0, &[]).await;
    land(&store, 2, &rows).await;
    let seen = look().await;
    assert_eq!((seen.scored, seen.waiting, seen.unscored_days.len()), (true, 1, 0));
    fixture::close(&store, "2026-01-06", &rows[..1], &[], 2).await;
    let mut state = crate::lake::State::load(&store).await.unwrap();
    state.days.values_mut().for_each(|runs| runs.scored_by = None);
    state.commit(&store).await.unwrap();
    assert_eq!(look().await.unscored_days, ["2026-01-06"]);
}
