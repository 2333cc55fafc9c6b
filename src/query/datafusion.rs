//! The engine of this machine: DataFusion over one consistent picture of the lake.
//!
//! ```text
//! View (one state) ──► base tables: landing, scored, cuts, readings_days, outliers_days, dead_letters_days
//!                          └─ templates/views/*.sql ──► readings, outliers, dead_letters: what statements see
//! ```
//!
//! The base tables live in a session of their own, so a person's SQL sees the three views and nothing else: no file, no
//! place, no setting.
//!
//! Before the first rows are handed out, [`HOLD_BACK_BYTES`] of them are held back: a damaged page that shows up by then
//! only costs another run without its file. The same goes for files that a clean-up has deleted since the picture was
//! taken: the lake is looked at anew, and the statement starts again.

use std::{
    any::Any,
    collections::VecDeque,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use async_trait::async_trait;
use datafusion::{
    common::ScalarValue,
    datasource::{MemTable, TableProvider, ViewTable},
    error::DataFusionError,
    execution::{
        SendableRecordBatchStream,
        memory_pool::{FairSpillPool, TrackConsumersPool},
        object_store::ObjectStoreUrl,
        runtime_env::{RuntimeEnv, RuntimeEnvBuilder},
    },
    prelude::{DataFrame, SQLOptions, SessionConfig, SessionContext},
};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use object_store::path::Path;

use super::{
    Answer, Engine, QueryError, Statement, Value,
    files::{Files, LakeFile},
    hint,
    statement::VIEWS,
    table::LakeTable,
};
use crate::{
    lake::{Store, StoreError, Table, View, catalogue},
    reading::columns,
};

/// What an engine may use.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The memory for sorting, joining and grouping; beyond it they go to temporary files, or fail.
    pub memory_bytes: usize,
    /// How many threads work on one statement.
    pub threads: usize,
}

impl Default for Options {
    /// 1 GiB, and every core of this machine.
    fn default() -> Options {
        Options { memory_bytes: 1 << 30, threads: std::thread::available_parallelism().map_or(1, usize::from) }
    }
}

/// How much of an answer is held back before its first rows are handed out.
const HOLD_BACK_BYTES: usize = 16 * 1024 * 1024;

/// The stack of a thread that plans.
const PLANNING_STACK: usize = 64 * 1024 * 1024;

/// Where the lake's files are for DataFusion. Nothing that a person writes can name it.
const LAKE_URL: &str = "lake://local";

/// An engine over a lake.
pub struct LocalEngine {
    store: Store,
    options: Options,
    runtime: Arc<RuntimeEnv>,
    files: Arc<Files>,
    picture: Mutex<Arc<Picture>>,
}

/// One consistent picture of the lake, with the views over it.
struct Picture {
    view: View,
    session: SessionContext,
}

/// Why a statement stopped.
enum Stop {
    Error(DataFusionError),
    Panic(String),
}

impl LocalEngine {
    /// An engine over the lake as it is now.
    ///
    /// The future is boxed so that whoever calls this does not compile the planner once more.
    pub fn open(store: Store, options: Options) -> BoxFuture<'static, Result<LocalEngine, QueryError>> {
        Self::open_now(store, options).boxed()
    }

    async fn open_now(store: Store, options: Options) -> Result<LocalEngine, QueryError> {
        let pool = TrackConsumersPool::new(FairSpillPool::new(options.memory_bytes), std::num::NonZeroUsize::MIN);
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(pool)).build_arc().map_err(failed)?;
        let url = ObjectStoreUrl::parse(LAKE_URL).map_err(failed)?;
        runtime.register_object_store(url.as_ref(), store.objects());
        let files = Arc::new(Files::new(store.clone()));
        let picture = picture(&store, options, &runtime, &files).await?;
        Ok(LocalEngine { store, options, runtime, files, picture: Mutex::new(Arc::new(picture)) })
    }

    /// The picture of the lake that statements see now.
    pub fn view(&self) -> View {
        self.picture().view.clone()
    }

    fn picture(&self) -> Arc<Picture> {
        Arc::clone(&self.picture.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn look_anew(&self) -> Result<Arc<Picture>, QueryError> {
        let anew = Arc::new(picture(&self.store, self.options, &self.runtime, &self.files).await?);
        *self.picture.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&anew);
        Ok(anew)
    }

    fn explained(&self, stop: Stop) -> QueryError {
        match stop {
            Stop::Error(error) => hint::explain(error, self.options.memory_bytes),
            Stop::Panic(what) => QueryError::Failed(what),
        }
    }
}

#[async_trait]
impl Engine for LocalEngine {
    async fn run(&self, statement: &Statement) -> Result<Answer, QueryError> {
        let values = parameters(statement)?;
        let mut picture = self.picture();
        let mut looked_anew = false;
        loop {
            let stop = match start(&picture.session, statement, values.clone()).await {
                Ok(started) => return Ok(self.answer(started)),
                Err(stop) => stop,
            };
            if self.files.any_missing() {
                if looked_anew {
                    self.files.leave_out_missing();
                } else {
                    self.files.forget_missing();
                    picture = self.look_anew().await?;
                    looked_anew = true;
                }
            } else if !stop.may_be_damage() || self.files.find_damaged().await?.is_empty() {
                return Err(self.explained(stop));
            }
        }
    }

    async fn current_view(&self) -> Result<View, QueryError> {
        Ok(self.view())
    }

    fn leave_out(&self, keys: &[Path]) {
        self.files.leave_out_unsaid(keys);
    }

    fn take_warnings(&self) -> Vec<String> {
        self.files.take_warnings()
    }

    fn bytes_scanned(&self) -> u64 {
        self.files.bytes_scanned()
    }
}

impl LocalEngine {
    /// What was held back, and then the rest as it comes.
    fn answer(&self, started: Started) -> Answer {
        let (files, memory_bytes) = (Arc::clone(&self.files), self.options.memory_bytes);
        let held = stream::iter(started.held.into_iter().map(Ok));
        let rest = stream::unfold(started.rest, move |rest| {
            let files = Arc::clone(&files);
            async move {
                let mut rest = rest?;
                match next(&mut rest).await {
                    Ok(batch) => batch.map(|batch| (Ok(batch), Some(rest))),
                    Err(stop) => Some((Err(too_late(stop, &files, memory_bytes).await), None)),
                }
            }
        });
        Answer { schema: started.schema, batches: held.chain(rest).boxed() }
    }
}

/// The error of a statement whose first rows have already been handed out.
async fn too_late(stop: Stop, files: &Arc<Files>, memory_bytes: usize) -> QueryError {
    if files.any_missing() {
        return QueryError::Incomplete { what: "files were removed by a clean-up meanwhile".to_owned() };
    }
    if stop.may_be_damage() {
        match files.find_damaged().await {
            Ok(found) if !found.is_empty() => return QueryError::Incomplete { what: found.join("; ") },
            Ok(_) => {}
            Err(error) => return error.into(),
        }
    }
    match stop {
        Stop::Error(error) => hint::explain(error, memory_bytes),
        Stop::Panic(what) => QueryError::Failed(what),
    }
}

/// A statement that runs.
struct Started {
    schema: SchemaRef,
    held: VecDeque<RecordBatch>,
    /// `None` where all of it is held.
    rest: Option<SendableRecordBatchStream>,
}

/// Plans a statement and starts it. Plans are as deep as the statement is, and planning recurses through them, so that is
/// done on a thread with more stack than a runtime's have.
async fn plan(
    session: SessionContext,
    statement: Statement,
    values: Vec<(String, ScalarValue)>,
) -> Result<SendableRecordBatchStream, Stop> {
    let planned = async move {
        let read_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        let state = session.state();
        let plan = state.create_logical_plan(statement.text()).await?;
        read_only.verify_plan(&plan)?;
        let plan = if values.is_empty() { plan } else { plan.with_param_values(values)? };
        let rows = DataFrame::new(state, plan);
        let rows = match statement.row_limit() {
            Some(limit) => rows.limit(0, Some(usize::try_from(limit).unwrap_or(usize::MAX)))?,
            None => rows,
        };
        rows.execute_stream().await
    };
    let runtime = tokio::runtime::Handle::current();
    let (done, outcome) = tokio::sync::oneshot::channel();
    let work = move || {
        // Nobody may be waiting any more: then nobody minds.
        let _ = done.send(runtime.block_on(AssertUnwindSafe(planned).catch_unwind()));
    };
    let thread = std::thread::Builder::new().name("plan".to_owned()).stack_size(PLANNING_STACK).spawn(work);
    thread.map_err(|error| Stop::Error(DataFusionError::IoError(error)))?;
    flat(outcome.await.unwrap_or_else(|ended| Err(Box::new(ended.to_string()))))
}

async fn start(
    session: &SessionContext,
    statement: &Statement,
    values: Vec<(String, ScalarValue)>,
) -> Result<Started, Stop> {
    let mut rest = plan(session.clone(), statement.clone(), values).await?;
    let (schema, mut held, mut held_bytes) = (rest.schema(), VecDeque::new(), 0);
    while held_bytes < HOLD_BACK_BYTES {
        match next(&mut rest).await? {
            None => return Ok(Started { schema, held, rest: None }),
            Some(batch) => {
                held_bytes += batch.get_array_memory_size();
                held.push_back(batch);
            }
        }
    }
    Ok(Started { schema, held, rest: Some(rest) })
}

async fn next(rows: &mut SendableRecordBatchStream) -> Result<Option<RecordBatch>, Stop> {
    flat(AssertUnwindSafe(rows.next()).catch_unwind().await.map(Option::transpose))
}

/// One kind of failure from two: an error, or a panic on damaged bytes.
fn flat<T>(outcome: Result<Result<T, DataFusionError>, Box<dyn Any + Send>>) -> Result<T, Stop> {
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Stop::Error(error)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(Stop::Panic(text.unwrap_or_else(|| "it panicked".to_owned())))
        }
    }
}

impl Stop {
    /// Whether a damaged file can be the cause: then files are worth decoding to find it.
    fn may_be_damage(&self) -> bool {
        use arrow::error::ArrowError;
        let error = match self {
            Stop::Panic(_) => return true,
            Stop::Error(error) => error.find_root(),
        };
        !matches!(
            error,
            DataFusionError::Plan(_)
                | DataFusionError::SchemaError(..)
                | DataFusionError::SQL(..)
                | DataFusionError::NotImplemented(_)
                | DataFusionError::Configuration(_)
                | DataFusionError::ResourcesExhausted(_)
                | DataFusionError::Execution(_)
        ) && !matches!(
            error,
            DataFusionError::ArrowError(arrow, _)
                if matches!(
                    **arrow,
                    ArrowError::CastError(_) | ArrowError::DivideByZero | ArrowError::ArithmeticOverflow(_)
                )
        )
    }
}

/// The values of a statement's parameters as DataFusion takes them.
fn parameters(statement: &Statement) -> Result<Vec<(String, ScalarValue)>, QueryError> {
    let scalar = |value: &Value| match value {
        Value::Text(text) => ScalarValue::Utf8(Some(text.clone())),
        Value::Int(int) => ScalarValue::Int64(Some(*int)),
        Value::Float(float) => ScalarValue::Float64(Some(*float)),
        Value::Time(ms) => ScalarValue::TimestampMillisecond(Some(*ms), Some("UTC".into())),
    };
    Ok(statement.values()?.into_iter().map(|(name, value)| (name.to_owned(), scalar(value))).collect())
}

async fn picture(
    store: &Store,
    options: Options,
    runtime: &Arc<RuntimeEnv>,
    files: &Arc<Files>,
) -> Result<Picture, QueryError> {
    let view = View::open(store).await?;
    let base = session(options, runtime);
    for (name, table) in base_tables(&view, files).map_err(failed)? {
        base.register_table(name, table).map_err(failed)?;
    }
    let session = session(options, runtime);
    for (name, text) in VIEWS {
        let statement = Statement::view(text, &view.state);
        let plan = base.state().create_logical_plan(statement.text()).await.map_err(failed)?;
        let plan = plan.with_param_values(parameters(&statement)?).map_err(failed)?;
        session.register_table(name, Arc::new(ViewTable::new(plan, None))).map_err(failed)?;
    }
    Ok(Picture { view, session })
}

fn session(options: Options, runtime: &Arc<RuntimeEnv>) -> SessionContext {
    let mut config = SessionConfig::new().with_target_partitions(options.threads.max(1)).with_information_schema(true);
    // The lake's text is Utf8: a `varchar` of another type would be cast back and forth.
    config.options_mut().sql_parser.map_string_types_to_utf8view = false;
    SessionContext::new_with_config_rt(config, Arc::clone(runtime))
}

/// A table and its name.
type NamedTable = (&'static str, Arc<dyn TableProvider>);

fn base_tables(view: &View, files: &Arc<Files>) -> Result<Vec<NamedTable>, DataFusionError> {
    let url = ObjectStoreUrl::parse(LAKE_URL)?;
    let slices = |slices: &[crate::lake::landing::SliceFile]| -> Vec<LakeFile> {
        let file = |f: &crate::lake::landing::SliceFile| LakeFile {
            key: f.key.clone(),
            bytes: f.bytes,
            dt: None,
            times_ms: None,
        };
        slices.iter().map(file).collect()
    };
    let days = |table| -> Vec<LakeFile> {
        let files = view.run_files(table).into_iter();
        files
            .map(|f| LakeFile {
                key: f.key,
                bytes: f.bytes,
                dt: Some(f.day.to_string()),
                times_ms: Some((f.min_ts, f.max_ts)),
            })
            .collect()
    };
    let table = |schema: &SchemaRef, is_days, time, listed| -> Arc<dyn TableProvider> {
        Arc::new(LakeTable::new(Arc::clone(schema), is_days, time, listed, Arc::clone(files), url.clone()))
    };
    Ok(vec![
        ("landing", table(&columns::LANDING, false, "ts", slices(&view.landing))),
        ("scored", table(&columns::SCORED, false, "ts", slices(&view.scored))),
        ("readings_days", table(&columns::READING, true, "ts", days(Table::Readings))),
        ("outliers_days", table(&columns::OUTLIER, true, "ts", days(Table::Outliers))),
        ("dead_letters_days", table(&columns::DEAD_LETTER, true, "arrived_at", days(Table::DeadLetters))),
        ("cuts", cuts(view)?),
    ])
}

fn cuts(view: &View) -> Result<Arc<dyn TableProvider>, DataFusionError> {
    let cuts = catalogue::cuts(&view.state)?;
    Ok(Arc::new(MemTable::try_new(cuts.schema(), vec![vec![cuts]])?))
}

fn failed(error: DataFusionError) -> QueryError {
    match error {
        DataFusionError::External(inner) => match inner.downcast::<StoreError>() {
            Ok(store) => QueryError::Store(*store),
            Err(other) => QueryError::Failed(other.to_string()),
        },
        other => QueryError::Failed(hint::tidy(&other.strip_backtrace())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::fixture;

    #[tokio::test]
    async fn joins_hold_the_cuts_in_memory_and_not_the_landing_files() {
        let store = Store::memory();
        fixture::small(&store).await;
        let engine = LocalEngine::open(store, Options::default()).await.unwrap();
        let session = &engine.picture().session;
        let rows = session.sql("EXPLAIN FORMAT INDENT SELECT * FROM readings WHERE ts >= '2026-01-06'").await.unwrap();
        let plan = rows.to_string().await.unwrap();
        // The side that is read into memory is named first: that of the cuts, whose source is no file.
        let join = plan.find("HashJoinExec: mode=CollectLeft").unwrap_or_else(|| panic!("{plan}"));
        let cuts = plan[join..].find("partition_sizes").unwrap_or_else(|| panic!("{plan}"));
        let landing = plan[join..].find("file_groups").unwrap_or_else(|| panic!("{plan}"));
        assert!(cuts < landing, "{plan}");
        assert!(!plan.contains("dt=2026-01-05"), "{plan}");
    }
}
