//! Glue's answers, replayed: a catalogue in memory behind a server of the test, and answers that go wrong.

use std::sync::{Arc, Mutex};

use super::*;
use crate::{
    aws::replay::{Asked, Replay},
    query::fixture,
};

const ROOT: &str = "s3://wards/lake";

/// A catalogue that holds tables and partitions as Glue does, as far as it is asked here.
#[derive(Debug, Default)]
struct Glue {
    tables: BTreeMap<String, Value>,
    partitions: BTreeMap<(String, String), Value>,
}

fn refusal(code: &str) -> (u16, Value) {
    (400, json!({"__type": code, "Message": "so it is"}))
}

impl Glue {
    fn answer(&mut self, asked: &Asked) -> (u16, Value) {
        let body = &asked.body;
        assert_eq!(body["DatabaseName"], "wards");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match asked.operation.as_str() {
            "GetTable" => match self.tables.get(&text(&body["Name"])) {
                Some(table) => (200, json!({"Table": table})),
                None => refusal("EntityNotFoundException"),
            },
            "CreateTable" | "UpdateTable" => {
                let mut table = body["TableInput"].clone();
                let name = text(&table["Name"]);
                let version = self.tables.get(&name).map(|there| text(&there["VersionId"]));
                match (asked.operation.as_str(), version) {
                    ("CreateTable", Some(_)) => return refusal("AlreadyExistsException"),
                    ("CreateTable", None) => table["VersionId"] = json!("0"),
                    (_, None) => return refusal("EntityNotFoundException"),
                    (_, Some(version)) if body["VersionId"] != json!(version) => {
                        return refusal("ConcurrentModificationException");
                    }
                    (_, Some(version)) => {
                        table["VersionId"] = json!((version.parse::<u64>().unwrap() + 1).to_string());
                    }
                }
                self.tables.insert(name, table);
                (200, json!({}))
            }
            "GetPartitions" => {
                let name = text(&body["TableName"]);
                let all: Vec<_> = self.partitions.iter().filter(|((of, _), _)| *of == name).map(|(_, p)| p).collect();
                // One a page, so that pages are turned.
                let page: usize = body["NextToken"].as_str().map_or(0, |token| token.parse().unwrap());
                let mut answer =
                    json!({"Partitions": all.get(page..).unwrap_or_default().iter().take(1).collect::<Vec<_>>()});
                if page + 1 < all.len() {
                    answer["NextToken"] = json!((page + 1).to_string());
                }
                (200, answer)
            }
            "CreatePartition" | "UpdatePartition" => {
                let partition = body["PartitionInput"].clone();
                let key = (text(&body["TableName"]), text(&partition["Values"][0]));
                if (asked.operation == "CreatePartition") == self.partitions.contains_key(&key) {
                    let create = asked.operation == "CreatePartition";
                    return refusal(if create { "AlreadyExistsException" } else { "EntityNotFoundException" });
                }
                self.partitions.insert(key, partition);
                (200, json!({}))
            }
            "DeletePartition" => {
                let key = (text(&body["TableName"]), text(&body["PartitionValues"][0]));
                self.partitions.remove(&key).map_or_else(|| refusal("EntityNotFoundException"), |_| (200, json!({})))
            }
            other => panic!("{other} is not asked for"),
        }
    }

    /// The text of a view and its state's number.
    fn view(&self, name: &str) -> (String, u64) {
        let view = &self.tables[name];
        let encoded = view["ViewOriginalText"].as_str().unwrap();
        let encoded = encoded.strip_prefix("/* Presto View: ").unwrap().strip_suffix(" */").unwrap();
        let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap();
        let definition: Value = serde_json::from_slice(&decoded).unwrap();
        let n = view["Parameters"][STATE].as_str().unwrap().parse().unwrap();
        (definition["originalSql"].as_str().unwrap().to_owned(), n)
    }
}

/// A lake with one closed day, and a server over `glue`.
async fn bench(
    glue: &Arc<Mutex<Glue>>,
    before: impl Fn(&Asked, &mut Glue) -> Option<(u16, Value)> + Send + Sync + 'static,
) -> (Store, Replay) {
    let store = Store::memory();
    fixture::small(&store).await;
    let glue = Arc::clone(glue);
    let replay = Replay::start(move |asked| {
        let mut glue = glue.lock().unwrap();
        before(asked, &mut glue).unwrap_or_else(|| glue.answer(asked))
    })
    .await;
    (store, replay)
}

async fn put(store: &Store, replay: &Replay) -> anyhow::Result<InForce> {
    let glue = crate::aws::glue::Glue::of_test(&replay.endpoint);
    Catalogue::new(&glue, "wards", store, &ROOT.parse().unwrap()).put_in_force().await
}

#[tokio::test]
async fn an_empty_database_comes_to_show_the_lake_and_a_second_time_nothing_changes() {
    let glue = Arc::default();
    let (store, replay) = bench(&glue, |_, _| None).await;
    let in_force = put(&store, &replay).await.unwrap();
    assert_eq!((in_force.n, in_force.settled), (1, None));
    {
        let glue = glue.lock().unwrap();
        let names: Vec<_> = glue.tables.keys().map(String::as_str).collect();
        let expected =
            ["cuts", "dead_letters", "dead_letters_days", "landing", "outliers", "outliers_days", "readings"];
        assert_eq!(names[..7], expected);
        let day = &glue.partitions[&("readings_days".to_owned(), "2026-01-05".to_owned())];
        assert_eq!(day["StorageDescriptor"]["Location"], format!("{ROOT}/readings/dt=2026-01-05/run-1/"));
        let (text, n) = glue.view("readings");
        assert!(n == 1 && text.contains("dt <= '2026-01-05'") && text.contains("c.n = 1"), "{text}");
        assert!(glue.view("outliers").0.contains("s.model = 'builtin'"));
        let columns = &glue.tables["readings_days"]["StorageDescriptor"]["Columns"];
        assert_eq!(columns[1], json!({"Name": "ts", "Type": "timestamp"}));
        assert_eq!(glue.tables["readings_days"]["PartitionKeys"], json!([{"Name": "dt", "Type": "string"}]));
    }
    assert!(store.get(&layout::cuts_file(1)).await.unwrap().len() > 4);
    // The order: tables, then days, then views.
    let order: Vec<_> = replay.asked().into_iter().map(|asked| asked.operation).collect();
    let last_day = order.iter().rposition(|operation| operation == "CreatePartition").unwrap();
    assert_eq!(order[last_day + 1..], ["CreateTable"; 3]);

    let again = put(&store, &replay).await.unwrap();
    assert_eq!((again.n, again.steps), (1, 0));
}

#[tokio::test]
async fn what_a_topic_rule_could_not_hand_on_is_among_the_dead_letters_where_there_is_a_table_of_it() {
    for there in [false, true] {
        let glue: Arc<Mutex<Glue>> = Arc::default();
        if there {
            glue.lock().unwrap().tables.insert(FAILURES_TABLE.into(), json!({"Name": FAILURES_TABLE}));
        }
        let (store, replay) = bench(&glue, |_, _| None).await;
        put(&store, &replay).await.unwrap();
        let glue = glue.lock().unwrap();
        for table in Table::ALL {
            let (text, _) = glue.view(table.name());
            let shows = text.contains("FROM rule_failures");
            assert_eq!(shows, there && table == Table::DeadLetters, "{text}");
            assert!(!text.contains("$upto") && !text.contains("$n"), "{text}");
        }
    }
}

#[tokio::test]
async fn a_view_that_somebody_else_moved_on_meanwhile_is_looked_at_anew_and_not_taken_back() {
    let glue: Arc<Mutex<Glue>> = Arc::default();
    // Whoever else is at it has put state 2 in force just before our first change of a view.
    let (store, replay) = bench(&glue, |asked, glue| {
        let first = asked.operation == "UpdateTable" && asked.n == 0;
        if first {
            for table in Table::ALL {
                let view = glue.tables.get_mut(table.name()).unwrap();
                view["Parameters"][STATE] = json!("3");
                view["VersionId"] = json!("7");
            }
        }
        None
    })
    .await;
    put(&store, &replay).await.unwrap();
    let next = async |n: u64| {
        let mut state = State::load(&store).await.unwrap();
        state.model = Some(format!("m-{n}"));
        state.commit(&store).await.unwrap();
    };
    next(2).await;
    // Our state is 2, theirs 3, which the lake then has as well.
    let (outcome, ()) = tokio::join!(put(&store, &replay), next(3));
    let in_force = outcome.unwrap();
    assert_eq!(in_force.n, 3);
    let refused = replay.counts()["UpdateTable"];
    assert!(refused >= 1, "the first change was refused");
    for table in Table::ALL {
        assert_eq!(glue.lock().unwrap().tables[table.name()]["Parameters"][STATE], "3");
    }
}

#[tokio::test]
async fn what_fails_half_way_leaves_the_older_picture_and_is_finished_by_the_next() {
    let glue: Arc<Mutex<Glue>> = Arc::default();
    let broken = Arc::new(Mutex::new(false));
    let breaks = Arc::clone(&broken);
    let (store, replay) = bench(&glue, move |asked, _| {
        let stops = *breaks.lock().unwrap() && asked.operation.ends_with("Partition");
        stops.then(|| refusal("AccessDeniedException"))
    })
    .await;
    put(&store, &replay).await.unwrap();
    fixture::close(&store, "2026-01-06", &[fixture::reading("device_1", "2026-01-06T09:00:00Z", 119.0)], &[], 6).await;
    *broken.lock().unwrap() = true;
    let failed = put(&store, &replay).await.unwrap_err().to_string();
    assert!(failed.contains("asking Glue for CreatePartition") && failed.contains("AccessDenied"), "{failed}");
    assert_eq!(glue.lock().unwrap().view("readings").1, 1);
    *broken.lock().unwrap() = false;
    assert_eq!(put(&store, &replay).await.unwrap().n, 2);
    let glue = glue.lock().unwrap();
    assert_eq!((glue.view("readings").1, glue.partitions.len()), (2, 3));
}

#[tokio::test]
async fn another_lakes_database_is_refused() {
    let glue: Arc<Mutex<Glue>> = Arc::default();
    let (store, replay) = bench(&glue, |_, _| None).await;
    put(&store, &replay).await.unwrap();
    for table in Table::ALL {
        glue.lock().unwrap().tables.get_mut(table.name()).unwrap()["Parameters"][STATE] = json!("9");
    }
    let failed = put(&store, &replay).await.unwrap_err().to_string();
    assert!(failed.contains("show state 9") && failed.contains("another lake"), "{failed}");
    glue.lock().unwrap().tables.get_mut("landing").unwrap()["StorageDescriptor"]["Location"] = json!("s3://x/landing/");
    let failed = put(&store, &replay).await.unwrap_err().to_string();
    assert!(failed.contains("not of the lake"), "{failed}");
}

#[test]
fn only_what_all_views_have_shown_for_an_hour_is_settled() {
    let views = |n: [u64; 3]| Shown { views: Table::ALL.into_iter().zip(n).collect(), ..Shown::default() };
    let since = |ms: i64| FoundViews { since_ms: Table::ALL.map(|t| (t, ms)).into(), ..FoundViews::default() };
    assert_eq!(settled(&views([3, 2, 3]), &since(0), SETTLED_MS), Some(2));
    assert_eq!(settled(&views([3, 2, 3]), &since(1), SETTLED_MS), None);
    assert_eq!(settled(&Shown::default(), &since(0), SETTLED_MS), None);
}

#[test]
fn rule_failures_have_the_columns_of_dead_letters() {
    let names: Vec<_> = catalogue::view_columns(Table::DeadLetters).into_iter().map(|column| column.name).collect();
    let selected = RULE_FAILURES.split("SELECT").nth(1).unwrap().split("FROM").next().unwrap();
    let selected: Vec<_> =
        selected.split(" AS ").skip(1).filter_map(|rest| rest.split([',', '\n', ' ', ')']).next()).collect();
    // What is cast has a type behind its AS.
    let selected = selected.iter().map(|name| name.trim_matches('"'));
    let selected: Vec<_> = selected.filter(|selected| names.iter().any(|name| name == selected)).collect();
    assert_eq!(selected, names);
}

#[test]
fn views_have_the_columns_that_their_text_selects() {
    for (table, (name, text)) in Table::ALL.into_iter().zip(VIEWS) {
        assert_eq!(table.name(), name);
        let selected = text.split("SELECT").nth(1).unwrap().split("FROM").next().unwrap();
        let selected: Vec<_> = selected.split(',').map(|name| name.trim().replace('"', "")).collect();
        let columns: Vec<_> = catalogue::view_columns(table).into_iter().map(|column| column.name).collect();
        assert_eq!(columns, selected, "{name}");
    }
}

/// Names and types, in order.
type Columns = Vec<(String, String)>;

/// What the template says of a table: its columns and those of its partitions.
fn in_template(template: &str, table: &str) -> (Columns, Columns) {
    let from = template.find(&format!("Name: {table}\n")).unwrap_or_else(|| panic!("no table {table}"));
    let text = template[from..].split("AWS::").next().unwrap();
    let (mut columns, mut keys, mut of_keys) = (Vec::new(), Vec::new(), false);
    for line in text.lines().skip(1) {
        let line = line.trim();
        if line.starts_with("PartitionKeys:") || line.starts_with("Columns:") {
            of_keys = line.starts_with("PartitionKeys:");
        }
        for part in line.split("{Name: ").skip(1) {
            let part = part.split('}').next().unwrap();
            let (name, kind) = part.split_once(", Type: ").unwrap_or_else(|| panic!("{line}"));
            let column = (name.to_owned(), kind.trim_matches('\'').to_owned());
            if of_keys { keys.push(column) } else { columns.push(column) }
        }
    }
    (columns, keys)
}

#[test]
fn the_template_has_the_same_tables() {
    let template = crate::aws::stack::template::SOURCE;
    let pairs = |columns: Vec<Column>| columns.into_iter().map(|c| (c.name, c.hive.to_owned())).collect::<Vec<_>>();
    for base in Base::ALL {
        let expected = (pairs(base.columns()), pairs(base.partition_keys()));
        assert_eq!(in_template(template, base.name()), expected, "{}", base.name());
        assert!(template.contains(&format!("s3://${{LakeBucket}}/{}/\n", base.folder())), "{}", base.name());
    }
}
