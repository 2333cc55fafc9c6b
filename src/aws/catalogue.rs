//! Puts the lake's state in force in Glue's catalogue, so that Athena shows it: [`crate::lake::catalogue`] says which steps
//! that takes, here they are done.
//!
//! Whoever comes last looks whether the state that was put in force is still the newest, and goes on with that one if not. So
//! two at the same time may do each other's steps again, and end with the newest. A view is changed by the version that was
//! read of it, and never to a lower state number.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use anyhow::Context;
use base64::Engine as _;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use super::{clients::CallFailed, glue::Glue};
use crate::{
    lake::{
        Day, Place, State, Store, Table,
        catalogue::{self, Base, Column, Shown, Step},
        layout, now_ms,
    },
    query::{
        Statement,
        statement::{RULE_FAILURES, VIEWS},
    },
};

/// How often it is begun anew because the lake or the catalogue changed meanwhile.
const ROUNDS: u32 = 20;

/// How many days are set at the same time.
const AT_ONCE: usize = 8;

/// How long a view has to have been shown until no query can go on that began before: Athena ends them after 30 minutes.
const SETTLED_MS: i64 = 3_600_000;

/// How long the cuts of states that are no longer shown are kept.
const CUTS_KEPT_MS: i64 = 2 * 86_400_000;

/// The parameters of a view that say which state it shows, and since when.
const STATE: &str = "vitals.state";
const SINCE: &str = "vitals.since_ms";

/// The table of a deployed stack that has what its topic rule could not hand to the log. The template makes it.
const FAILURES_TABLE: &str = "rule_failures";

/// What came of putting a state in force.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InForce {
    /// The state's number.
    pub n: u64,
    /// How many changes it took.
    pub steps: usize,
    /// The state that all views had shown for an hour before: no query is at anything older.
    pub settled: Option<u64>,
}

/// The catalogue of one lake.
pub struct Catalogue<'a> {
    glue: &'a Glue,
    database: &'a str,
    store: &'a Store,
    /// The lake's address, without `/` at its end.
    root: String,
}

/// What is there of the views.
#[derive(Debug, Clone, Default)]
struct FoundViews {
    versions: BTreeMap<Table, Option<String>>,
    since_ms: BTreeMap<Table, i64>,
    /// There is a table of what the topic rule could not hand to the log.
    failures: bool,
}

impl<'a> Catalogue<'a> {
    /// The catalogue in `database` of the lake at `place`, which `store` opens.
    pub fn new(glue: &'a Glue, database: &'a str, store: &'a Store, place: &Place) -> Catalogue<'a> {
        Catalogue { glue, database, store, root: place.to_string().trim_end_matches('/').to_owned() }
    }

    /// Lets tables and views show the state in force. What shows it already is not touched, so it can be repeated at will.
    ///
    /// # Errors
    /// Where Glue or the lake does not do what it is asked; what was done stays done, and shows the older state, whole.
    pub async fn put_in_force(&self) -> anyhow::Result<InForce> {
        let (mut in_force, mut first) = (InForce::default(), true);
        for _ in 0..ROUNDS {
            let state = State::load(self.store).await?;
            let (shown, found) = self.shown().await?;
            if std::mem::take(&mut first) {
                in_force.settled = settled(&shown, &found, now_ms());
            }
            let Some(steps) = catalogue::steps(&state, &shown) else {
                // The state may have been read before it changed; otherwise the views are of another lake.
                let newest = State::newest(self.store).await?.unwrap_or(0);
                let most = shown.views.values().max().copied().unwrap_or(0);
                anyhow::ensure!(
                    newest >= most,
                    "the views of the database `{}` show state {most}, the lake `{}` has come to {newest}\nhint: is that \
                     the database of another lake?",
                    self.database,
                    self.root
                );
                continue;
            };
            in_force.n = state.n;
            in_force.steps += steps.len();
            if self.done(&state, &steps, &found).await? && State::newest(self.store).await?.unwrap_or(0) == state.n {
                self.remove_old_cuts(&state).await?;
                return Ok(in_force);
            }
        }
        anyhow::bail!("the catalogue `{}` changes too often: somebody else keeps changing it", self.database)
    }

    /// What the catalogue shows.
    async fn shown(&self) -> anyhow::Result<(Shown, FoundViews)> {
        let (mut shown, mut found) = (Shown::default(), FoundViews::default());
        for base in Base::ALL {
            let Some(table) = self.table(base.name()).await? else { continue };
            let there = table["StorageDescriptor"]["Location"].as_str().unwrap_or_default().trim_end_matches('/');
            anyhow::ensure!(
                there == format!("{}/{}", self.root, base.folder()),
                "the table `{}` of the database `{}` shows `{there}`, which is not of the lake `{}`\nhint: each lake \
                 needs a database of its own",
                base.name(),
                self.database,
                self.root
            );
            shown.tables.insert(base);
        }
        for table in Table::ALL {
            if shown.tables.contains(&Base::Days(table)) {
                self.days(table, &mut shown.days).await?;
            }
            let Some(view) = self.table(table.name()).await? else { continue };
            let parameter = |name: &str| view["Parameters"][name].as_str().and_then(|text| text.parse::<i64>().ok());
            // A view that says nothing of a state is none of ours yet: it shows less than any state.
            let n = parameter(STATE).and_then(|n| u64::try_from(n).ok());
            if let Some(n) = n {
                shown.views.insert(table, n);
            }
            found.since_ms.insert(table, parameter(SINCE).unwrap_or(i64::MAX));
            found.versions.insert(table, view["VersionId"].as_str().map(str::to_owned));
        }
        found.failures = self.table(FAILURES_TABLE).await?.is_some();
        let cuts = self.store.list(&layout::CUTS.into()).await?;
        shown.cuts = cuts.iter().filter_map(|entry| layout::parse_cuts(&entry.key)).collect();
        Ok((shown, found))
    }

    /// A table or a view, where it is there.
    async fn table(&self, name: &str) -> anyhow::Result<Option<Value>> {
        let asked = self.glue.call("GetTable", &json!({"DatabaseName": self.database, "Name": name})).await;
        match asked {
            Ok(answer) => Ok(Some(answer["Table"].clone())),
            Err(error) if is(&error, "EntityNotFoundException") => {
                if error.to_string().contains("Database") {
                    return Err(error.context(format!(
                        "there is no database `{}` in Glue's catalogue\nhint: `vitals deploy` makes it",
                        self.database
                    )));
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The folder that each day of a table shows.
    async fn days(&self, table: Table, days: &mut BTreeMap<(Table, Day), String>) -> anyhow::Result<()> {
        let mut next = Value::Null;
        loop {
            let mut asks = json!({
                "DatabaseName": self.database, "TableName": Base::Days(table).name(), "ExcludeColumnSchema": true
            });
            if !next.is_null() {
                asks["NextToken"] = next;
            }
            let answer = self.glue.call("GetPartitions", &asks).await?;
            for partition in answer["Partitions"].as_array().into_iter().flatten() {
                let day = partition["Values"][0].as_str().and_then(Day::parse);
                let location = partition["StorageDescriptor"]["Location"].as_str().unwrap_or_default();
                let Some(day) = day else { continue };
                let folder = location.strip_prefix(&self.root).map_or(location, |rest| rest.trim_start_matches('/'));
                days.insert((table, day), folder.to_owned());
            }
            next = answer["NextToken"].clone();
            if next.is_null() {
                return Ok(());
            }
        }
    }

    /// Does the steps in order; days of the same kind go together. `false` where somebody else changed a view meanwhile.
    async fn done(&self, state: &State, steps: &[Step], found: &FoundViews) -> anyhow::Result<bool> {
        let kind = |step: &Step| matches!(step, Step::Set { .. } | Step::Drop { .. });
        for group in steps.chunk_by(|a, b| kind(a) && kind(b)) {
            let done: Vec<bool> = stream::iter(group)
                .map(|step| self.step(state, step, found))
                .buffer_unordered(AT_ONCE)
                .try_collect()
                .await?;
            if done.contains(&false) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn step(&self, state: &State, step: &Step, found: &FoundViews) -> anyhow::Result<bool> {
        match step {
            Step::Make(base) => self.make(*base).await?,
            Step::Cuts => {
                let bytes = catalogue::cuts_file(state).context("writing the cuts")?;
                // Where it is taken, somebody else wrote the same.
                self.store.create(&layout::cuts_file(state.n), bytes).await?;
            }
            Step::Set { table, day, folder, is_new } => self.set(*table, *day, folder, *is_new).await?,
            Step::Drop { table, day } => {
                let name = Base::Days(*table).name();
                let asks = json!({
                    "DatabaseName": self.database, "TableName": name, "PartitionValues": [day.to_string()]
                });
                let dropped = self.glue.call("DeletePartition", &asks).await;
                unless(dropped, "EntityNotFoundException")?;
            }
            Step::View { table, .. } => return self.view(state, *table, found).await,
        }
        Ok(true)
    }

    async fn make(&self, base: Base) -> anyhow::Result<()> {
        let asks = json!({"DatabaseName": self.database, "TableInput": {
            "Name": base.name(),
            "TableType": "EXTERNAL_TABLE",
            "Parameters": {
                "EXTERNAL": "TRUE", "classification": "parquet",
                // Objects that were restored from an archive are read too.
                "read_restored_glacier_objects": "true",
            },
            "PartitionKeys": hive(&base.partition_keys()),
            "StorageDescriptor": self.descriptor(&base.columns(), &format!("{}/", base.folder())),
        }});
        unless(self.glue.call("CreateTable", &asks).await, "AlreadyExistsException").map(drop)
    }

    async fn set(&self, table: Table, day: Day, folder: &str, is_new: bool) -> anyhow::Result<()> {
        let base = Base::Days(table);
        let values = json!([day.to_string()]);
        let partition = json!({"Values": values, "StorageDescriptor": self.descriptor(&base.columns(), folder)});
        let mut asks = json!({
            "DatabaseName": self.database, "TableName": base.name(), "PartitionInput": partition
        });
        if is_new && unless(self.glue.call("CreatePartition", &asks).await, "AlreadyExistsException")?.is_some() {
            return Ok(());
        }
        asks["PartitionValueList"] = values;
        self.glue.call("UpdatePartition", &asks).await.map(drop)
    }

    /// How files of Parquet below a folder of the lake are read.
    fn descriptor(&self, columns: &[Column], folder: &str) -> Value {
        json!({
            "Columns": hive(columns),
            "Location": format!("{}/{folder}", self.root),
            "InputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat",
            "OutputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat",
            "SerdeInfo": {
                "SerializationLibrary": "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe",
                "Parameters": {"serialization.format": "1"},
            },
        })
    }

    /// Lets a view show the state; `false` where somebody else changed it since it was read.
    async fn view(&self, state: &State, table: Table, found: &FoundViews) -> anyhow::Result<bool> {
        let input = view_input(state, table, self.database, found.failures, now_ms())?;
        let mut asks = json!({"DatabaseName": self.database, "TableInput": input});
        let Some(version) = found.versions.get(&table) else {
            let made = self.glue.call("CreateTable", &asks).await;
            return Ok(unless(made, "AlreadyExistsException")?.is_some());
        };
        asks["SkipArchive"] = json!(true);
        if let Some(version) = version {
            asks["VersionId"] = json!(version);
        }
        let changed = self.glue.call("UpdateTable", &asks).await;
        let changed = changed.or_else(|error| {
            let raced = ["ConcurrentModificationException", "VersionMismatchException", "EntityNotFoundException"];
            if raced.iter().any(|code| is(&error, code)) { Ok(Value::Null) } else { Err(error) }
        })?;
        Ok(!changed.is_null())
    }

    /// Every query reads all files of cuts, so those of states that nobody is shown any more go.
    async fn remove_old_cuts(&self, state: &State) -> anyhow::Result<()> {
        let now = now_ms();
        let entries = self.store.list(&layout::CUTS.into()).await?;
        let old = entries.into_iter().filter(|entry| {
            layout::parse_cuts(&entry.key).is_some_and(|n| n < state.n) && now - entry.modified_ms >= CUTS_KEPT_MS
        });
        let old: Vec<_> = old.map(|entry| entry.key).collect();
        if !old.is_empty() {
            self.store.delete(old).await?;
        }
        Ok(())
    }
}

/// The state that all views have shown for an hour.
fn settled(shown: &Shown, found: &FoundViews, now_ms: i64) -> Option<u64> {
    let all: BTreeSet<_> = Table::ALL.into_iter().collect();
    let there: BTreeSet<_> = shown.views.keys().copied().collect();
    let long = found.since_ms.values().all(|since| now_ms.saturating_sub(*since) >= SETTLED_MS);
    shown.views.values().min().copied().filter(|_| all == there && long)
}

fn hive(columns: &[Column]) -> Value {
    columns.iter().map(|column| json!({"Name": column.name, "Type": column.hive})).collect()
}

/// A view as Athena keeps it in Glue: what it itself writes there for `CREATE VIEW`.
fn view_input(state: &State, table: Table, database: &str, failures: bool, now_ms: i64) -> anyhow::Result<Value> {
    let (name, text) = VIEWS.into_iter().find(|(name, _)| *name == table.name()).context("a table without a view")?;
    let text = match table {
        Table::DeadLetters if failures => Cow::Owned(format!("{text}\nUNION ALL\n{RULE_FAILURES}")),
        _ => Cow::Borrowed(text),
    };
    let columns = catalogue::view_columns(table);
    let typed = columns.iter().map(|column| json!({"name": column.name, "type": column.engine}));
    let definition = json!({
        "originalSql": Statement::view(text, state).literal()?,
        "catalog": "awsdatacatalog",
        "schema": database,
        "columns": typed.collect::<Vec<_>>(),
    });
    let encoded = base64::engine::general_purpose::STANDARD.encode(definition.to_string());
    Ok(json!({
        "Name": name,
        // Whose rights count when the view reads its tables; engines refuse a view that is nobody's.
        "Owner": "vitals",
        "TableType": "VIRTUAL_VIEW",
        "Parameters": {
            "presto_view": "true", "comment": "Presto View",
            STATE: state.n.to_string(), SINCE: now_ms.to_string(),
        },
        "PartitionKeys": [],
        "StorageDescriptor": {"Columns": hive(&columns), "SerdeInfo": {}},
        "ViewOriginalText": format!("/* Presto View: {encoded} */"),
        "ViewExpandedText": "/* Presto View */",
    }))
}

fn is(error: &anyhow::Error, code: &str) -> bool {
    error.downcast_ref::<CallFailed>().is_some_and(|error| error.is(code))
}

/// An answer; `None` where it is the refusal of this code.
fn unless(answer: anyhow::Result<Value>, code: &str) -> anyhow::Result<Option<Value>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if is(&error, code) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
