//! What each format makes of an answer.

use super::*;

#[tokio::test]
async fn each_format_says_the_same() {
    let store = Store::memory();
    small(&store).await;
    let engine = engine(&store).await;
    let sql = "SELECT device_id, arrived_at AS at, reason, payload, 1.5 AS x, NULL AS n FROM dead_letters";
    let statement = Statement::of_person(sql).unwrap();
    let csv = text(&engine, &statement, Format::Csv).await;
    assert_eq!(csv, "device_id,at,reason,payload,x,n\n,2026-01-06T09:10:00.000Z,not_json,{\u{1b}[31m\u{fffd},1.5,\n");
    assert_eq!(
        text(&engine, &statement, Format::Ndjson).await,
        "{\"device_id\":null,\"at\":\"2026-01-06T09:10:00.000Z\",\"reason\":\"not_json\",\
         \"payload\":\"{\\u001b[31m\u{fffd}\",\"x\":1.5,\"n\":null}\n"
    );
    let json: Json = serde_json::from_str(&text(&engine, &statement, Format::Json).await).unwrap();
    assert_eq!(json["schema_version"], 1);
    assert_eq!(json["query"], "test");
    assert_eq!(json["columns"], serde_json::json!(["device_id", "at", "reason", "payload", "x", "n"]));
    assert_eq!(json["rows"][0]["reason"], "not_json");
    assert_eq!((&json["shown"], &json["found"], &json["more"]), (&1.into(), &1.into(), &false.into()));
    assert_eq!(
        text(&engine, &statement, Format::Markdown).await,
        "| device_id | at | reason | payload | x | n |\n| --- | --- | --- | --- | ---: | --- |\n\
         |  | 2026-01-06T09:10:00.000Z | not_json | {\\\\u{1b}[31m\u{fffd} | 1.5 |  |\n"
    );
    let table = text(&engine, &statement, Format::Table).await;
    assert_eq!(
        table,
        "device_id  at                    reason    payload         x  n\n\
         \u{20}          2026-01-06 09:10:00Z  not_json  {\\u{1b}[31m\u{fffd}  1.5\n"
    );
    let parquet = written(&engine, &statement, Format::Parquet, Style::default()).await;
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(bytes::Bytes::from(parquet), 10);
    let rows: usize = reader.unwrap().map(|batch| batch.unwrap().num_rows()).sum();
    assert_eq!(rows, 1);
}

#[tokio::test]
async fn the_table_fits_its_width() {
    let store = Store::memory();
    small(&store).await;
    let engine = engine(&store).await;
    for width in [120, 80, 60, 40, 10, 1] {
        let style = Style { shape: Some(output::shapes::EPISODES), width: Some(width), colour: false };
        let table = String::from_utf8(written(&engine, &episodes(), Format::Table, style).await).unwrap();
        let widest = table.lines().map(|line| line.chars().count()).max().unwrap();
        // Device, start, peak and cause stay.
        assert!(widest <= width.max(52), "{width}: {widest}\n{table}");
        let any = Style { shape: None, width: Some(width), colour: false };
        let all = Statement::of_person("SELECT * FROM outliers").unwrap();
        let table = String::from_utf8(written(&engine, &all, Format::Table, any).await).unwrap();
        let widest = table.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= width, "{width}: {widest}\n{table}");
    }
    let style = Style { shape: Some(output::shapes::EPISODES), width: Some(80), colour: false };
    insta::assert_snapshot!(String::from_utf8(written(&engine, &episodes(), Format::Table, style).await).unwrap(), @"
    DEVICE    START                 LASTED  PEAK  CAUSE        STANDS OUT
    device_1  2026-01-05 11:00:00Z     22h   9.5  tachycardia  heart rate 118 bpm…
    ");
    let style = Style { width: Some(140), ..style };
    insta::assert_snapshot!(String::from_utf8(written(&engine, &episodes(), Format::Table, style).await).unwrap(), @"
    DEVICE    START                 LASTED  READINGS  PEAK  CAUSE        STANDS OUT                     NEWS2  FAULT  WHY
    device_1  2026-01-05 11:00:00Z     22h         2   9.5  tachycardia  heart rate 118 bpm (usual 72)      5         heart rate 118 bpm,…
    ");
}

#[tokio::test]
async fn a_long_answer_comes_in_pieces_and_is_whole() {
    let store = Store::memory();
    for slice in 0..4 {
        let rows: Vec<_> = (0..5_000).map(|i| reading("d", "2026-01-06T10:00:00Z", f64::from(i))).collect();
        land(&store, slice * 5_000, &rows).await;
    }
    let engine = engine(&store).await;
    let sql = "SELECT heart_rate FROM readings";
    assert_eq!(ask(&engine, sql).await.len(), 20_000);
    let limited = Statement::of_person(sql).unwrap().limit(Some(7));
    assert_eq!(text(&engine, &limited, Format::Ndjson).await.lines().count(), 7);
    assert!(engine.bytes_scanned() > 0);
    let table = text(&engine, &Statement::of_person(sql).unwrap(), Format::Table).await;
    assert_eq!(table.lines().count(), 20_001, "one heading however many pages");
}

/// A reader that has gone away.
struct Gone;

impl std::io::Write for Gone {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_is_known_as_such_in_every_format() {
    let store = Store::memory();
    small(&store).await;
    let engine = engine(&store).await;
    for format in [Format::Table, Format::Json, Format::Ndjson, Format::Csv, Format::Markdown, Format::Parquet] {
        let answer = engine.run(&Statement::of_person("SELECT * FROM readings").unwrap()).await.unwrap();
        let schema = answer.schema.clone();
        let outcome = async {
            let mut writer = output::writer(format, "test", &schema, Style::default(), false, Box::new(Gone))?;
            let counts = output::write_rows(answer, writer.as_mut(), None).await?;
            writer.finish(&counts)?;
            Ok::<(), output::OutputError>(())
        };
        let error = outcome.await.unwrap_err();
        assert!(error.is_broken_pipe(), "{format:?}: {error:?}");
    }
}
