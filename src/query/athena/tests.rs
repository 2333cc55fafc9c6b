//! The engine against AWS's answers, replayed by a server of the test.

use arrow::{array::AsArray, datatypes::Float64Type};
use serde_json::{Value as Json, json};

use super::*;
use crate::{
    aws::replay::{Asked, Replay},
    query::{Value, statement},
};

const ID: &str = "11111111-2222-3333-4444-555555555555";

/// What Athena says of a query that has a state.
fn execution(state: &str, reason: Option<&str>, bytes: u64) -> Json {
    let mut status = json!({"State": state});
    if let Some(reason) = reason {
        status["StateChangeReason"] = json!(reason);
    }
    json!({"QueryExecution": {"QueryExecutionId": ID, "Status": status, "Statistics": {"DataScannedInBytes": bytes}}})
}

fn row(values: &[Option<&str>]) -> Json {
    let data = values.iter().map(|value| value.map_or_else(|| json!({}), |text| json!({"VarCharValue": text})));
    json!({"Data": data.collect::<Vec<_>>()})
}

/// A page with a device and its peak in each row.
fn page(rows: &[Json], next: Option<&str>) -> Json {
    let column = |name: &str, kind: &str| json!({"Name": name, "Type": kind, "Precision": 17, "Scale": 0});
    let columns = [column("device_id", "varchar"), column("peak", "double")];
    let mut page = json!({"ResultSet": {"Rows": rows, "ResultSetMetadata": {"ColumnInfo": columns}}});
    if let Some(token) = next {
        page["NextToken"] = json!(token);
    }
    page
}

fn header() -> Json {
    row(&[Some("device_id"), Some("peak")])
}

fn error(code: &str, message: &str) -> (u16, Json) {
    (400, json!({"__type": code, "Message": message}))
}

/// All goes well: queued, running, two pages.
fn well(asked: &Asked) -> (u16, Json) {
    let answer = match (asked.operation.as_str(), asked.n) {
        ("StartQueryExecution", _) => json!({"QueryExecutionId": ID}),
        ("GetQueryExecution", 0) => execution("QUEUED", None, 0),
        ("GetQueryExecution", 1) => execution("RUNNING", None, 1_000),
        ("GetQueryExecution", _) => execution("SUCCEEDED", None, 2_500),
        ("GetQueryResults", 0) => page(&[header(), row(&[Some("a"), Some("9.5")]), row(&[Some("b"), None])], Some("t")),
        ("GetQueryResults", _) => page(&[row(&[Some("c"), Some("1.0E1")])], None),
        ("StopQueryExecution", _) => json!({}),
        (other, _) => panic!("{other} is not asked for"),
    };
    (200, answer)
}

struct Bench {
    replay: Replay,
    engine: AthenaEngine,
    interrupt: watch::Sender<bool>,
}

impl Bench {
    async fn open(
        options: impl FnOnce(&mut Options),
        answer: impl Fn(&Asked) -> (u16, Json) + Send + Sync + 'static,
    ) -> Result<Bench, QueryError> {
        let replay = Replay::start(answer).await;
        let (interrupt, receiver) = watch::channel(false);
        let mut chosen = Options { first_pause: Duration::from_millis(1), ..Options::new(receiver) };
        options(&mut chosen);
        let target = Target {
            region: "eu-central-1".to_owned(),
            work_group: "vitals".to_owned(),
            database: "vitals_db".to_owned(),
        };
        let engine = AthenaEngine::open(&replay.config(), target, Store::memory(), chosen).await?;
        Ok(Bench { replay, engine, interrupt })
    }

    async fn new(answer: impl Fn(&Asked) -> (u16, Json) + Send + Sync + 'static) -> Bench {
        Bench::open(|_| {}, answer).await.unwrap()
    }

    /// What was billed, in millionths of a dollar.
    fn micro_dollars(&self) -> f64 {
        (self.engine.dollars().unwrap() * 1e6).round()
    }

    async fn fails(&self) -> QueryError {
        match self.engine.run(&devices()).await {
            Err(error) => error,
            Ok(answer) => answer.collect().await.unwrap_err(),
        }
    }
}

fn devices() -> Statement {
    Statement::of_person("SELECT device_id, max(score) AS peak FROM outliers GROUP BY 1").unwrap()
}

#[tokio::test]
async fn a_query_is_started_followed_and_read_page_by_page() {
    let bench = Bench::new(well).await;
    let statement = Statement::template(statement::HISTORY)
        .bind("device", Value::Text("o'neill".to_owned()))
        .bind("since", Value::Time(0))
        .bind("until", Value::Time(86_400_000))
        .bind("newest", Value::Int(50));
    let batches = bench.engine.run(&statement).await.unwrap().collect().await.unwrap();
    assert_eq!(batches.iter().map(|batch| batch.num_rows()).collect::<Vec<_>>(), [2, 1]);
    let names: Vec<_> = batches.iter().flat_map(|batch| batch.column(0).as_string::<i32>().iter().flatten()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    let peaks: Vec<_> = batches.iter().flat_map(|batch| batch.column(1).as_primitive::<Float64Type>().iter()).collect();
    assert_eq!(peaks, [Some(9.5), None, Some(10.0)]);

    let [sent] = bench.replay.bodies("StartQueryExecution").try_into().unwrap();
    assert_eq!(sent["WorkGroup"], "vitals");
    assert_eq!(sent["QueryExecutionContext"]["Database"], "vitals_db");
    assert!(sent.get("ResultConfiguration").is_none() && sent.get("ResultReuseConfiguration").is_none(), "{sent}");
    let (text, parameters) = (sent["QueryString"].as_str().unwrap(), sent["ExecutionParameters"].as_array().unwrap());
    assert_eq!(text.matches('?').count(), parameters.len(), "{sent}");
    assert!(!text.contains("neill"), "{text}");
    let (from, to) = ("TIMESTAMP '1970-01-01 00:00:00.000'", "TIMESTAMP '1970-01-02 00:00:00.000'");
    assert_eq!(parameters, &["'o''neill'", from, to, "'o''neill'", from, to, "50"]);
    assert!(sent["ClientRequestToken"].as_str().unwrap().len() >= 32);
    let pages = bench.replay.bodies("GetQueryResults");
    assert_eq!(pages[0]["MaxResults"], 1_000);
    assert_eq!((pages[0].get("NextToken"), &pages[1]["NextToken"]), (None, &json!("t")));
    // 10 MB are billed at least.
    assert_eq!((bench.engine.bytes_scanned(), bench.micro_dollars()), (2_500, 50.0));
}

#[tokio::test]
async fn what_was_read_before_may_be_taken_and_then_costs_nothing() {
    let reused = |asked: &Asked| match asked.operation.as_str() {
        "GetQueryExecution" => {
            let mut query = execution("SUCCEEDED", None, 0);
            query["QueryExecution"]["Statistics"]["ResultReuseInformation"] = json!({"ReusedPreviousResult": true});
            (200, query)
        }
        _ => well(asked),
    };
    let bench = Bench::open(|options| options.reuse_minutes = Some(15), reused).await.unwrap();
    bench.engine.run(&devices()).await.unwrap();
    let sent = bench.replay.bodies("StartQueryExecution").remove(0);
    let by_age = json!({"Enabled": true, "MaxAgeInMinutes": 15});
    assert_eq!(sent["ResultReuseConfiguration"], json!({"ResultReuseByAgeConfiguration": by_age}));
    assert_eq!(bench.micro_dollars(), 0.0);
}

#[tokio::test]
async fn a_throttled_call_is_made_again_and_starts_one_query() {
    let bench = Bench::new(|asked| match (asked.operation.as_str(), asked.n) {
        ("StartQueryExecution", 0) => error("TooManyRequestsException", "You have exceeded the limit"),
        ("StartQueryExecution", 1) => (500, json!({"__type": "InternalServerException", "Message": "oops"})),
        ("GetQueryResults", 0) => error("ThrottlingException", "Rate exceeded"),
        ("GetQueryResults", 1) => (200, page(&[header(), row(&[Some("a"), Some("1.0")])], None)),
        _ => well(asked),
    })
    .await;
    let batches = bench.engine.run(&devices()).await.unwrap().collect().await.unwrap();
    assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 1);
    let tokens: Vec<_> =
        bench.replay.bodies("StartQueryExecution").iter().map(|body| body["ClientRequestToken"].clone()).collect();
    assert_eq!(tokens.len(), 3);
    assert!(tokens.iter().all(|token| *token == tokens[0]), "{tokens:?}");
}

#[tokio::test]
async fn throttling_that_does_not_end_is_told() {
    let bench = Bench::new(|_| error("TooManyRequestsException", "You have exceeded the limit")).await;
    let failed = bench.fails().await;
    assert_eq!(bench.replay.counts()["StartQueryExecution"], ATTEMPTS as usize);
    assert_eq!(failed.to_string(), "starting the query: You have exceeded the limit (TooManyRequestsException)");
    assert!(failed.hint().unwrap().contains("try again"), "{failed:?}");
}

#[tokio::test]
async fn a_failed_query_says_why() {
    for (state, reason, said) in [
        (
            "CANCELLED",
            "Query cancelled! : Bytes scanned limit was exceeded",
            "more than the work group `vitals` allows",
        ),
        ("FAILED", "Bytes scanned limit was exceeded", "more than the work group `vitals` allows"),
        ("FAILED", "TABLE_NOT_FOUND: line 1:15: Table 'x.vitals_db.outliers' does not exist", "is missing"),
        ("FAILED", "COLUMN_NOT_FOUND: line 1:8: Column 'peek' cannot be resolved", "there is no column `peek`"),
        ("CANCELLED", "by somebody", "was cancelled: by somebody"),
    ] {
        let bench = Bench::new(move |asked| match asked.operation.as_str() {
            "GetQueryExecution" => (200, execution(state, Some(reason), 20_000_000)),
            _ => well(asked),
        })
        .await;
        let failed = bench.fails().await;
        assert!(failed.to_string().contains(said), "{failed}");
        // It is billed all the same.
        assert_eq!(bench.micro_dollars(), 100.0);
        assert!(!bench.replay.counts().contains_key("GetQueryResults"));
    }
}

#[tokio::test]
async fn expired_credentials_are_no_access_and_denied_ones_say_what_is_needed() {
    let bench = Bench::new(|_| error("ExpiredTokenException", "The security token has expired")).await;
    let failed = bench.fails().await;
    assert!(matches!(&failed, QueryError::Refused { no_access: true, .. }), "{failed:?}");
    assert!(failed.to_string().contains("has expired") && failed.hint().unwrap().contains("sso login"), "{failed}");
    assert_eq!(bench.replay.counts()["StartQueryExecution"], 1);
    let bench = Bench::new(|_| error("AccessDeniedException", "User: x is not authorized to perform: y")).await;
    let failed = bench.fails().await;
    assert!(matches!(&failed, QueryError::Refused { no_access: false, .. }), "{failed:?}");
    assert!(failed.hint().unwrap().contains("athena:StartQueryExecution"), "{failed:?}");
}

#[tokio::test]
async fn an_interruption_stops_the_query() {
    let bench = Bench::new(|asked| match asked.operation.as_str() {
        "GetQueryExecution" => (200, execution("RUNNING", None, 0)),
        _ => well(asked),
    })
    .await;
    let (failed, ()) = tokio::join!(bench.fails(), async {
        while !bench.replay.counts().contains_key("GetQueryExecution") {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        bench.interrupt.send(true).unwrap();
    });
    assert!(matches!(&failed, QueryError::Interrupted(said) if said.contains(ID)), "{failed:?}");
    assert_eq!(bench.replay.bodies("StopQueryExecution"), [json!({"QueryExecutionId": ID})]);
    // Whoever only waits for the result of a query leaves it running.
    let failed = bench.engine.result(ID).await.err().unwrap();
    assert!(failed.to_string().contains("vitals query result"), "{failed}");
    assert_eq!(bench.replay.bodies("StopQueryExecution").len(), 1);
}

#[tokio::test]
async fn a_query_that_reads_more_than_it_may_is_stopped() {
    let answer = |asked: &Asked| match (asked.operation.as_str(), asked.n) {
        ("GetWorkGroup", _) => (
            200,
            json!({"WorkGroup": {"Name": "vitals", "Configuration": {"BytesScannedCutoffPerQuery": 1_000_000_000}}}),
        ),
        ("GetQueryExecution", n) => (200, execution("RUNNING", None, 40_000_000 * n as u64)),
        _ => well(asked),
    };
    let bench = Bench::open(|options| options.max_scan = Some(100_000_000), answer).await.unwrap();
    let failed = bench.fails().await;
    assert!(failed.to_string().contains("120000000 bytes, more than `--max-scan` allows"), "{failed}");
    assert_eq!(bench.replay.bodies("StopQueryExecution").len(), 1);
    assert_eq!(bench.micro_dollars(), 600.0);
    let refused = Bench::open(|options| options.max_scan = Some(2_000_000_000), answer).await.err().unwrap();
    assert!(refused.to_string().contains("stops a query at 1000000000"), "{refused}");
}

#[tokio::test]
async fn an_unknown_id_is_no_query() {
    let bench = Bench::new(|_| error("InvalidRequestException", "QueryExecution abc was not found")).await;
    let failed = bench.engine.result("abc").await.err().unwrap();
    assert!(matches!(&failed, QueryError::NoSuchQuery { id } if id == "abc"), "{failed:?}");
}
