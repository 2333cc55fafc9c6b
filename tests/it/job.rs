//! Days that a job of many machines sorts: the same days as `compact` makes, and nothing else is put in force.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, Int64Array, RecordBatch},
    compute::{SortColumn, concat_batches, lexsort_to_indices, take_record_batch},
    datatypes::{DataType, Float64Type},
};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{memory::InMemory, path::Path};
use parquet::arrow::ArrowWriter;
use vitals::{
    lake::{
        Created, Day, State, Store, Table,
        compact::{CompactOptions, compact},
        job::{JobError, PATIENCE_MS, Plan, Sealed, Staged, Work, commit::commit, count, plan::plan, seal},
        layout, now_ms, run,
    },
    reading::Reason,
    score::{ScoreOptions, load_model, score_lake},
};

use crate::{
    faults::copy,
    support::{DAY_MS, HOUR_MS, Outcome, good, land, reading, rows},
};

/// 2026-03-01T00:00:00Z.
const MARCH: i64 = 1_772_323_200_000;
const OPTIONS: CompactOptions = CompactOptions { now_ms: MARCH + 4 * DAY_MS, running_day: false };

/// Two stores in memory: the lake, and where the job works.
struct Lake {
    objects: Arc<InMemory>,
    store: Store,
    work: Store,
}

impl Lake {
    fn of(objects: Arc<InMemory>) -> Lake {
        Lake { store: Store::of(objects.clone(), "lake"), objects, work: Store::memory() }
    }

    async fn plan(&self) -> Option<Plan> {
        plan(&self.store, OPTIONS).await.unwrap()
    }

    /// The rows that go into a table, as a job sorts them.
    async fn sorted(&self, plan: &Plan, table: Table) -> RecordBatch {
        let schema = seal::staged_schema(table);
        let mut batches = Vec::new();
        for input in plan.files.iter().filter(|input| input.kind.tables().contains(&table)) {
            batches
                .extend(count::rows(&self.store, input, table).await.unwrap().try_collect::<Vec<_>>().await.unwrap());
        }
        let all = concat_batches(&schema, &batches).unwrap();
        let places: ArrayRef = Arc::new(Int64Array::from_iter_values(0..all.num_rows() as i64));
        let by: &[&str] = if table == Table::DeadLetters {
            &[]
        } else {
            &["device_id", "ts", "chain", "partition", "offset", "item"]
        };
        let columns = by.iter().map(|name| all.column_by_name(name).unwrap().clone()).chain([places]);
        let columns: Vec<_> = columns.map(|values| SortColumn { values, options: None }).collect();
        take_record_batch(&all, &lexsort_to_indices(&columns, None).unwrap()).unwrap()
    }

    /// Writes sorted rows as the file that is to be a part.
    async fn stage(&self, plan: &Plan, table: Table, part: usize, rows: &RecordBatch) -> Staged {
        let mut file = ArrowWriter::try_new(Vec::new(), rows.schema(), None).unwrap();
        file.write(rows).unwrap();
        let key = format!("{}/{}/{part}.parquet", plan.run, table.name());
        self.work.replace(&Path::from(key.as_str()), Bytes::from(file.into_inner().unwrap())).await.unwrap();
        let (day, run, before) = (plan.day, plan.run.clone(), plan.before.clone());
        Staged { table, part, key, day, run, before, dropped_in: Vec::new() }
    }

    async fn seal(&self, staged: &Staged) -> Sealed {
        seal::seal(&self.store, &self.work, staged).await.unwrap()
    }

    /// Everything that a job does before its work is put in force; `harm` is done to the sorted readings. Readings go
    /// into two parts, whose rows of one device and time are in one.
    async fn work(&self, plan: Plan, harm: impl Fn(RecordBatch) -> RecordBatch) -> Work {
        let (mut sealed, mut dropped_in) = (Vec::new(), Vec::new());
        for table in Table::ALL {
            let rows = self.sorted(&plan, table).await;
            if rows.num_rows() == 0 {
                continue;
            }
            let rows = if table == Table::Readings { harm(rows) } else { rows };
            let devices = rows.column_by_name("device_id").unwrap().as_string::<i32>().clone();
            let split = if table == Table::Readings {
                (0..rows.num_rows()).find(|&row| devices.value(row) >= "b").unwrap_or(0)
            } else {
                0
            };
            for (part, rows) in [rows.slice(0, split), rows.slice(split, rows.num_rows() - split)]
                .into_iter()
                .filter(|rows| rows.num_rows() > 0)
                .enumerate()
            {
                let mut staged = self.stage(&plan, table, part, &rows).await;
                staged.dropped_in.clone_from(&dropped_in);
                sealed.push(self.seal(&staged).await);
                // A task that runs twice changes nothing.
                assert_eq!(self.seal(&staged).await, *sealed.last().unwrap());
            }
            if table == Table::Readings {
                dropped_in = sealed.iter().filter(|part| part.dropped > 0).map(|part| part.part).collect();
            }
        }
        Work { plan, counted: Vec::new(), sealed }
    }

    async fn commit(&self, work: &Work) -> Result<bool, JobError> {
        commit(&self.store, work, now_ms()).await.map(|closed| closed.is_some())
    }

    /// What was refused, in words. Nothing may have changed.
    async fn refused(&self, work: &Work) -> String {
        let before = State::load(&self.store).await.unwrap();
        let said = self.commit(work).await.unwrap_err().to_string();
        assert_eq!(State::load(&self.store).await.unwrap(), before);
        said
    }
}

fn whole(rows: RecordBatch) -> RecordBatch {
    rows
}

/// Two days in two partitions' worth of slices that straddle midnight, with dead letters, outliers, and readings that were
/// sent twice: in one slice, in two, and on the day after.
async fn sample() -> Arc<InMemory> {
    let objects = Arc::new(InMemory::new());
    let store = Store::of(objects.clone(), "lake");
    let at = |hour: i64| MARCH + hour * HOUR_MS;
    let again = |hour: i64, arrived: i64, rate: f64| Outcome {
        device: "a",
        arrived_ms: at(arrived),
        outcome: Ok(reading(at(hour), at(arrived), rate)),
    };
    let bad = |hour| Outcome { device: "b", arrived_ms: at(hour), outcome: Err(Reason::NotJson) };
    let early = [again(1, 1, 300.0), again(1, 2, 300.0), good("a", at(2), 71.0), good("b", at(3), 0.0), bad(3)];
    let next = land(&store, "c", 0, &early).await;
    let over = [good("b", at(3), -0.0), again(1, 4, 300.0), good("b", at(5), 70.0), good("c", at(25), 74.0), bad(26)];
    let next = land(&store, "c", next, &over).await;
    land(&store, "c", next, &[again(1, 27, 300.0), again(2, 28, 71.5), good("c", at(30), 310.0)]).await;
    land(&store, "d", 0, &[again(2, 3, 71.0), good("d", at(4), 65.0), good("d", at(40), 66.0)]).await;
    let model = load_model(&store, "builtin").await.unwrap();
    score_lake(&store, &model, ScoreOptions::default(), |_| ()).await.unwrap();
    objects
}

/// All that the views show, in the order in which the files of closed days have it.
async fn shown(store: &Store) -> Vec<Vec<Vec<String>>> {
    vec![
        rows(store, "SELECT * FROM readings ORDER BY device_id, ts, arrived_at, heart_rate").await,
        rows(store, "SELECT * FROM outliers ORDER BY device_id, ts, arrived_at").await,
        rows(
            store,
            r#"SELECT device_id, arrived_at, reason, chain, "partition", "offset", item FROM dead_letters
                        ORDER BY chain, "partition", "offset", item"#,
        )
        .await,
    ]
}

/// The parts of a table's runs, joined in their order.
async fn parts(store: &Store, day: Day, table: Table) -> RecordBatch {
    let state = State::load(store).await.unwrap();
    let Some(run) = state.days.get(&day).and_then(|runs| runs.of(table).cloned()) else {
        return RecordBatch::new_empty(table.schema());
    };
    let batches: Vec<_> = run::rows(store, table, day, &run).try_collect().await.unwrap();
    concat_batches(&table.schema(), &batches).unwrap()
}

#[tokio::test]
async fn a_job_closes_days_like_compact_does() {
    let objects = sample().await;
    let (here, job) = (Lake::of(copy(&objects).await), Lake::of(objects));
    let closed = compact(&here.store, OPTIONS, |_| ()).await.unwrap();
    assert_eq!(closed.iter().map(|day| (day.readings, day.sent_twice)).collect::<Vec<_>>(), [(6, 3), (4, 1)]);
    let mut days = Vec::new();
    while let Some(plan) = job.plan().await {
        let work = job.work(plan, whole).await;
        let said = serde_json::to_string(&work).unwrap();
        let work: Work = serde_json::from_str(&said).unwrap();
        days.push(commit(&job.store, &work, now_ms()).await.unwrap().unwrap());
    }
    for (day, here) in days.iter().zip(&closed) {
        assert_eq!(
            (day.day, day.readings, day.outliers, day.dead_letters, day.sent_twice),
            (here.day, here.readings, here.outliers, here.dead_letters, here.sent_twice)
        );
        assert!(here.outliers > 0 && here.dead_letters > 0, "{here:?}");
    }
    assert_eq!(shown(&job.store).await, shown(&here.store).await);
    let (ours, theirs) = (State::load(&job.store).await.unwrap(), State::load(&here.store).await.unwrap());
    assert_eq!((&ours.cut, ours.upto, ours.early), (&theirs.cut, theirs.upto, theirs.early));
    for (&day, runs) in &theirs.days {
        assert_eq!(ours.days[&day].scored_by, runs.scored_by);
        for table in Table::ALL {
            // To the row, to the bit, in the same order.
            assert_eq!(parts(&job.store, day, table).await, parts(&here.store, day, table).await, "{table:?} of {day}");
        }
    }
}

#[tokio::test]
async fn a_day_that_is_closed_again_takes_in_what_it_has() {
    let objects = sample().await;
    let day = CompactOptions { now_ms: MARCH + 5 * HOUR_MS, running_day: true };
    compact(&Store::of(objects.clone(), "lake"), day, |_| ()).await.unwrap();
    let more = [good("a", MARCH + 20 * HOUR_MS, 70.0), good("b", MARCH + 3 * HOUR_MS, 0.0)];
    land(&Store::of(objects.clone(), "lake"), "e", 0, &more).await;
    let (here, job) = (Lake::of(copy(&objects).await), Lake::of(objects));
    compact(&here.store, OPTIONS, |_| ()).await.unwrap();
    while let Some(plan) = job.plan().await {
        let work = job.work(plan, whole).await;
        assert!(job.commit(&work).await.unwrap());
    }
    assert_eq!(shown(&job.store).await, shown(&here.store).await);
    for table in Table::ALL {
        let day = Day::of(MARCH);
        assert_eq!(parts(&job.store, day, table).await, parts(&here.store, day, table).await, "{table:?}");
    }
}

#[tokio::test]
async fn of_two_jobs_one_closes_the_day() {
    let job = Lake::of(sample().await);
    let (first, second) = (job.plan().await.unwrap(), job.plan().await.unwrap());
    let (first, second) = (job.work(first, whole).await, job.work(second, whole).await);
    assert!(job.commit(&second).await.unwrap());
    let shown_before = shown(&job.store).await;
    // It is told to plan anew; so is whoever repeats what is in force already.
    assert!(!job.commit(&first).await.unwrap());
    assert!(!job.commit(&second).await.unwrap());
    assert_eq!(shown(&job.store).await, shown_before);
}

#[tokio::test]
async fn sorted_rows_that_are_not_what_the_files_have_are_refused() {
    let job = Lake::of(sample().await);
    let without = |row: usize| {
        move |rows: RecordBatch| joined(&[rows.slice(0, row), rows.slice(row + 1, rows.num_rows() - row - 1)])
    };
    let plan = || async { job.plan().await.unwrap() };
    for row in [0, 3, 8] {
        let said = job.refused(&job.work(plan().await, without(row)).await).await;
        assert!(said.contains("the job has sorted 8 rows, the files have 9"), "row {row}: {said}");
    }
    // As many rows, of which one has another value.
    let altered = |rows: RecordBatch| {
        let at = rows.schema().index_of("heart_rate").unwrap();
        let mut columns = rows.columns().to_vec();
        let rates = columns[at].as_primitive::<Float64Type>();
        columns[at] = Arc::new(rates.unary::<_, Float64Type>(|rate| if rate == 65.0 { 65.5 } else { rate }));
        RecordBatch::try_new(rows.schema(), columns).unwrap()
    };
    let said = job.refused(&job.work(plan().await, altered).await).await;
    assert!(said.contains("as many rows as the files have, but others"), "{said}");
    // A row twice, out of order, or of another type is not even made a part.
    let first = plan().await;
    let rows = job.sorted(&first, Table::Readings).await;
    let refused = async |rows: &RecordBatch| {
        let staged = job.stage(&first, Table::Readings, 0, rows).await;
        seal::seal(&job.store, &job.work, &staged).await.unwrap_err().to_string()
    };
    let twice = joined(&[rows.slice(0, 3), rows.slice(2, rows.num_rows() - 2)]);
    assert!(refused(&twice).await.contains("not in the order of the log"));
    let last = rows.num_rows() - 1;
    let unsorted = joined(&[rows.slice(last, 1), rows.slice(0, last)]);
    assert!(refused(&unsorted).await.contains("its rows are not sorted"));
    let rates = arrow::compute::cast(rows.column(2), &DataType::Float32).unwrap();
    let mut fields = rows.schema().fields().to_vec();
    fields[2] = Arc::new(arrow::datatypes::Field::new("heart_rate", DataType::Float32, true));
    let mut columns = rows.columns().to_vec();
    columns[2] = rates;
    let narrow = RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), columns).unwrap();
    assert!(refused(&narrow).await.contains("its column `heart_rate` is Float32, not Float64"));
}

fn joined(rows: &[RecordBatch]) -> RecordBatch {
    concat_batches(&rows[0].schema(), rows).unwrap()
}

/// Puts another file in the place of a part.
async fn replace_part(job: &Lake, work: &Work, rows: &RecordBatch) {
    let key = layout::run_part(Table::Readings, work.plan.day, &work.plan.run, 0);
    let mut file = ArrowWriter::try_new(Vec::new(), rows.schema(), None).unwrap();
    file.write(rows).unwrap();
    job.store.replace(&key, Bytes::from(file.into_inner().unwrap())).await.unwrap();
}

#[tokio::test]
async fn parts_that_are_not_what_was_written_are_refused() {
    let job = Lake::of(sample().await);
    let work = job.work(job.plan().await.unwrap(), whole).await;
    let part = run_rows(&job, &work).await;
    let n = part.num_rows();
    assert!(n >= 2);
    let mut columns = part.columns().to_vec();
    columns[2] = Arc::new(columns[2].as_primitive::<Float64Type>().unary::<_, Float64Type>(|rate| rate + 1.0));
    let harmed = [
        RecordBatch::try_new(part.schema(), columns).unwrap(),
        joined(&[part.slice(1, n - 1)]),
        joined(&[part.clone(), part.slice(n - 1, 1)]),
        joined(&[part.slice(n - 1, 1), part.slice(0, n - 1)]),
        part.project(&[0, 1, 2, 3]).unwrap(),
    ];
    for rows in &harmed {
        replace_part(&job, &work, rows).await;
        // Also where its size is told as it is now.
        let mut told = work.clone();
        let (_, bytes) =
            job.store.tail(&layout::run_part(Table::Readings, work.plan.day, &work.plan.run, 0), 0).await.unwrap();
        told.sealed[0].bytes = bytes;
        for work in [&work, &told] {
            let said = job.refused(work).await;
            assert!(said.contains("readings of 2026-03-01 is not put in force"), "{said}");
            assert!(said.contains("is damaged"), "{said}");
        }
    }
    job.store.delete(vec![layout::run_part(Table::Readings, work.plan.day, &work.plan.run, 0)]).await.unwrap();
    assert!(job.refused(&work).await.contains("is not in the lake"));
    let mut fewer = work.clone();
    fewer.sealed.retain(|part| part.table != Table::Readings || part.part > 0);
    assert!(job.refused(&fewer).await.contains("part 0 is missing"));
}

async fn run_rows(job: &Lake, work: &Work) -> RecordBatch {
    let (times, part) = (work.sealed[0].times.unwrap(), &work.sealed[0]);
    let run = vitals::lake::state::Run {
        run: work.plan.run.clone(),
        rows: part.rows.rows,
        parts: vec![part.bytes],
        min_ts: times.0,
        max_ts: times.1,
    };
    let batches: Vec<_> = run::rows(&job.store, Table::Readings, work.plan.day, &run).try_collect().await.unwrap();
    joined(&batches)
}

#[tokio::test]
async fn a_plan_that_is_not_of_this_lake_is_refused() {
    let job = Lake::of(sample().await);
    let work = job.work(job.plan().await.unwrap(), whole).await;
    let changed = |change: &dyn Fn(&mut Work)| {
        let mut work = work.clone();
        change(&mut work);
        work
    };
    let without_file = changed(&|work| drop(work.plan.files.remove(0)));
    assert!(job.refused(&without_file).await.contains("leaves out `landing/c/00000/"));
    let more = changed(&|work| work.plan.takes[0].to += 100);
    assert!(job.refused(&more).await.contains("leaves out `landing/c/00000/"));
    let further = changed(&|work| work.plan.takes[1].to += 100);
    assert!(job.refused(&further).await.contains("and the lake has them up to"));
    let from = changed(&|work| work.plan.takes[0].from += 1);
    assert!(job.refused(&from).await.contains("the closed days end at 0"));
    let first = changed(&|work| work.plan.takes[0].first = 0);
    assert!(job.refused(&first).await.contains("and the lake has them up to"));
    let outliers = changed(&|work| work.plan.files.retain(|file| !file.key.starts_with("scored/")));
    assert!(job.refused(&outliers).await.contains("names other files"));
    let version = changed(&|work| work.plan.schema_version = 9);
    assert!(job.refused(&version).await.contains("version 9"));
    let said = commit(&job.store, &work, now_ms() + PATIENCE_MS).await.unwrap_err().to_string();
    assert!(said.contains("began over 24 h ago") && said.contains("run it again"), "{said}");
    assert!(job.commit(&work).await.unwrap());
}

#[tokio::test]
async fn a_part_of_another_is_not_overwritten() {
    let job = Lake::of(sample().await);
    let plan = job.plan().await.unwrap();
    let rows = job.sorted(&plan, Table::Readings).await;
    let staged = job.stage(&plan, Table::Readings, 0, &rows).await;
    let key = layout::run_part(Table::Readings, plan.day, &plan.run, 0);
    assert_eq!(job.store.create(&key, Bytes::from_static(b"theirs")).await.unwrap(), Created::New);
    let said = seal::seal(&job.store, &job.work, &staged).await.unwrap_err().to_string();
    assert!(said.contains("another part of this name is there"), "{said}");
    assert_eq!(job.store.get(&key).await.unwrap(), Bytes::from_static(b"theirs"));
}

#[tokio::test]
async fn rows_of_the_day_before_are_looked_up_for_the_devices_at_hand_only() {
    let objects = sample().await;
    let job = Lake::of(objects);
    let first = job.work(job.plan().await.unwrap(), whole).await;
    assert!(job.commit(&first).await.unwrap());
    let second = job.plan().await.unwrap();
    assert!(second.before.is_some());
    let rows = job.sorted(&second, Table::Readings).await;
    let staged = job.stage(&second, Table::Readings, 0, &rows).await;
    let sealed = job.seal(&staged).await;
    assert_eq!((sealed.dropped, sealed.staged.rows), (1, 5));
    // Who does not look keeps it twice.
    let mut blind = Staged { part: 1, before: None, ..staged.clone() };
    blind.key = staged.key;
    assert_eq!(job.seal(&blind).await.dropped, 0);
    let _ = &job.objects;
}
