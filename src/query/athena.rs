//! The engine of a deployed stack: Athena, over the tables and views that [`crate::aws::catalogue`] puts in force.
//!
//! ```text
//! Statement ──► text with `?` and parameters ──► StartQueryExecution ──► GetQueryExecution … ──► GetQueryResults …
//!                └─ only days that the state says hold what is asked for         └─ Ctrl-C, --max-scan: StopQueryExecution
//! ```
//!
//! What a query reads is billed, 10 MB at least, also when it is stopped; [`Engine::dollars`] says about how much.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use aws_config::{Region, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_athena::{
    Client,
    operation::get_query_results::GetQueryResultsOutput,
    types::{
        QueryExecution, QueryExecutionContext, QueryExecutionState, ResultReuseByAgeConfiguration,
        ResultReuseConfiguration,
    },
};
use futures::{StreamExt, stream};
use tokio::sync::watch;

use super::{Answer, Engine, QueryError, Statement};
use crate::lake::{State, Store, View};

mod days;
mod explain;
mod rows;
#[cfg(test)]
mod tests;

/// What is billed for a query at least.
const LEAST_BYTES: u64 = 10_000_000;

/// What reading costs in most regions, in US dollars a terabyte (2026-11).
const DOLLARS_A_TERABYTE: f64 = 5.0;

/// How often a call is tried that is throttled or gets no answer, with AWS's back-off between.
const ATTEMPTS: u32 = 8;

/// How long one attempt of a call may take.
const ATTEMPT: Duration = Duration::from_secs(30);

/// The longest pause between two looks at a query that runs.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Rows in a page of results, the most that there are.
const PAGE_ROWS: i32 = 1_000;

/// Where queries run.
#[derive(Debug, Clone)]
pub struct Target {
    /// The region, such as `eu-central-1`.
    pub region: String,
    /// The work group, which sets limits and the place of results.
    pub work_group: String,
    /// The database in Glue's catalogue that holds the lake's views.
    pub database: String,
}

/// How queries run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Take the results of the same query where they are no older than so many minutes.
    pub reuse_minutes: Option<i32>,
    /// Stop a query that has read more than so many bytes.
    pub max_scan: Option<u64>,
    /// Turns true when somebody wants no answer any more.
    pub interrupt: watch::Receiver<bool>,
    /// The pause after the first look at a query that runs; later ones are longer.
    pub first_pause: Duration,
}

impl Options {
    /// The usual ones; `interrupt` stops a query.
    pub fn new(interrupt: watch::Receiver<bool>) -> Options {
        Options { reuse_minutes: None, max_scan: None, interrupt, first_pause: Duration::from_millis(200) }
    }
}

/// What was read so far.
#[derive(Debug, Default)]
struct Spent {
    scanned: AtomicU64,
    billed: AtomicU64,
}

impl Spent {
    fn add(&self, query: &QueryExecution) {
        let statistics = query.statistics();
        if statistics.and_then(|s| s.result_reuse_information()).is_some_and(|r| r.reused_previous_result()) {
            return;
        }
        let scanned = bytes_of(query);
        self.scanned.fetch_add(scanned, Relaxed);
        self.billed.fetch_add(scanned.max(LEAST_BYTES), Relaxed);
    }
}

fn bytes_of(query: &QueryExecution) -> u64 {
    let bytes = query.statistics().and_then(|statistics| statistics.data_scanned_in_bytes());
    bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0)
}

/// An engine over a lake in S3 whose catalogue is in Glue.
pub struct AthenaEngine {
    client: Client,
    target: Target,
    store: Store,
    state: State,
    options: Options,
    spent: Spent,
}

/// Why a query is no longer followed.
enum Stop {
    Interrupted,
    TooMuch(u64),
}

impl AthenaEngine {
    /// An engine over the lake in `store` as it is now.
    ///
    /// # Errors
    /// Where the lake can't be read, or the work group lets no query read as much as `max_scan`.
    pub async fn open(config: &SdkConfig, target: Target, store: Store, options: Options) -> Result<Self, QueryError> {
        let retry = config.retry_config().cloned().unwrap_or_else(RetryConfig::standard).with_max_attempts(ATTEMPTS);
        let config = aws_sdk_athena::config::Builder::from(config)
            .region(Region::new(target.region.clone()))
            .retry_config(retry)
            .timeout_config(TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT).build())
            .build();
        let state = State::load(&store).await?;
        let client = Client::from_conf(config);
        let engine = AthenaEngine { client, target, store, state, options, spent: Spent::default() };
        engine.check_max_scan().await?;
        Ok(engine)
    }

    /// The work group's own limit holds whatever is asked for: then a higher one would only mislead.
    async fn check_max_scan(&self) -> Result<(), QueryError> {
        let Some(wanted) = self.options.max_scan else { return Ok(()) };
        let work_group = &self.target.work_group;
        let asked = self.client.get_work_group().work_group(work_group).send().await;
        let found = asked.map_err(|e| explain::refused("asking for the work group", &e, &self.target))?;
        let cutoff = found.work_group().and_then(|group| group.configuration());
        let cutoff =
            cutoff.and_then(|c| c.bytes_scanned_cutoff_per_query()).and_then(|bytes| u64::try_from(bytes).ok());
        match cutoff {
            Some(cutoff) if wanted > cutoff => Err(QueryError::Refused {
                what: format!(
                    "`--max-scan` allows {wanted} bytes, and the work group `{work_group}` stops a query at {cutoff}"
                ),
                hint: Some(format!("`--max-scan {cutoff}` is the most; the stack's work group sets it")),
                no_access: false,
            }),
            _ => Ok(()),
        }
    }

    /// Starts a statement and gives the query's id; nothing is waited for.
    ///
    /// # Errors
    /// Where the statement reads what is not the lake's, or AWS does not start it.
    pub async fn start(&self, statement: &Statement) -> Result<String, QueryError> {
        let (text, parameters) = days::render(statement, &self.target.database, &self.state)?;
        let reuse = self.options.reuse_minutes.map(|minutes| {
            let by_age = ResultReuseByAgeConfiguration::builder().enabled(true).max_age_in_minutes(minutes).build();
            ResultReuseConfiguration::builder().result_reuse_by_age_configuration(by_age).build()
        });
        let parameters = (!parameters.is_empty()).then_some(parameters);
        // The SDK gives each call a token, and each attempt of it the same: an answer that is lost starts no second query.
        let started = self
            .client
            .start_query_execution()
            .query_string(text)
            .set_execution_parameters(parameters)
            .query_execution_context(QueryExecutionContext::builder().database(&self.target.database).build())
            .work_group(&self.target.work_group)
            .set_result_reuse_configuration(reuse)
            .send()
            .await
            .map_err(|e| explain::refused("starting the query", &e, &self.target))?;
        let id = started.query_execution_id.unwrap_or_default();
        tracing::debug!(%id, "Athena has the query");
        Ok(id)
    }

    /// The rows of a query that was started before. Waits for it; an interruption leaves it running.
    ///
    /// # Errors
    /// Where there is no such query, or it failed.
    pub async fn result(&self, id: &str) -> Result<Answer, QueryError> {
        self.followed(id, false).await?;
        self.answer(id).await
    }

    /// Waits until a query has its rows.
    async fn followed(&self, id: &str, stops: bool) -> Result<(), QueryError> {
        let stop = tokio::select! {
            done = self.done(id) => match done? {
                Ok(query) => {
                    self.spent.add(&query);
                    return explain::outcome(&query, &self.target);
                }
                Err(stop) => stop,
            },
            () = interrupted(self.options.interrupt.clone()) => Stop::Interrupted,
        };
        if stops {
            self.stop(id).await?;
        }
        match stop {
            Stop::Interrupted if stops => {
                Err(QueryError::Interrupted(format!("interrupted: query {id} was stopped; what it had read is billed")))
            }
            Stop::Interrupted => Err(QueryError::Interrupted(format!(
                "interrupted: query {id} goes on; `vitals query result {id}` shows its rows"
            ))),
            Stop::TooMuch(bytes) => Err(QueryError::Refused {
                what: format!("query {id} had read {bytes} bytes, more than `--max-scan` allows, and was stopped"),
                hint: Some(
                    "ask for a shorter time (`--since`, `--until`), or allow more; what it read is billed".to_owned(),
                ),
                no_access: false,
            }),
        }
    }

    /// The query when it has ended, well or not, or why it is to be stopped.
    async fn done(&self, id: &str) -> Result<Result<QueryExecution, Stop>, QueryError> {
        let mut pause = self.options.first_pause;
        loop {
            let asked = self.client.get_query_execution().query_execution_id(id).send().await;
            let asked = asked.map_err(|e| explain::of_query(id, &e, &self.target))?;
            let query = asked.query_execution.ok_or_else(|| QueryError::NoSuchQuery { id: id.to_owned() })?;
            let state = query.status().and_then(|status| status.state());
            if !matches!(state, Some(QueryExecutionState::Queued | QueryExecutionState::Running)) {
                return Ok(Ok(query));
            }
            let bytes = bytes_of(&query);
            if self.options.max_scan.is_some_and(|most| bytes > most) {
                self.spent.add(&query);
                return Ok(Err(Stop::TooMuch(bytes)));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(LONGEST_PAUSE);
        }
    }

    async fn stop(&self, id: &str) -> Result<(), QueryError> {
        let asked = self.client.stop_query_execution().query_execution_id(id).send().await;
        asked
            .map(drop)
            .map_err(|e| explain::refused(&format!("stopping query {id}, which may go on"), &e, &self.target))
    }

    /// The rows of a query that has them, page by page.
    async fn answer(&self, id: &str) -> Result<Answer, QueryError> {
        let pages = Pages {
            client: self.client.clone(),
            target: self.target.clone(),
            id: id.to_owned(),
            interrupt: self.options.interrupt.clone(),
        };
        let first = pages.page(None).await?;
        let columns = Arc::new(rows::columns(&first)?);
        // Athena writes the names of the columns as the first row of a SELECT's results.
        let held = rows::batch(&columns, &first, 1)?;
        let schema = columns.schema();
        let next = first.next_token;
        let rest = stream::unfold((pages, columns, next), |(pages, columns, next)| async move {
            let page = match pages.page(Some(next?)).await {
                Ok(page) => page,
                Err(error) => return Some((Err(error), (pages, columns, None))),
            };
            let batch = rows::batch(&columns, &page, 0);
            Some((batch, (pages, columns, page.next_token)))
        });
        Ok(Answer { schema, batches: stream::iter([Ok(held)]).chain(rest).boxed() })
    }
}

/// The results of one query.
struct Pages {
    client: Client,
    target: Target,
    id: String,
    interrupt: watch::Receiver<bool>,
}

impl Pages {
    async fn page(&self, token: Option<String>) -> Result<GetQueryResultsOutput, QueryError> {
        let request = self.client.get_query_results().query_execution_id(&self.id).max_results(PAGE_ROWS);
        tokio::select! {
            page = request.set_next_token(token).send() => page.map_err(|e| explain::of_query(&self.id, &e, &self.target)),
            () = interrupted(self.interrupt.clone()) => Err(QueryError::Interrupted("interrupted".to_owned())),
        }
    }
}

/// Returns when somebody interrupts; never where nobody can.
async fn interrupted(mut interrupt: watch::Receiver<bool>) {
    if interrupt.wait_for(|interrupted| *interrupted).await.is_err() {
        std::future::pending().await
    }
}

#[async_trait]
impl Engine for AthenaEngine {
    async fn run(&self, statement: &Statement) -> Result<Answer, QueryError> {
        let id = self.start(statement).await?;
        self.followed(&id, true).await?;
        self.answer(&id).await
    }

    async fn current_view(&self) -> Result<View, QueryError> {
        Ok(View::open(&self.store).await?)
    }

    fn take_warnings(&self) -> Vec<String> {
        Vec::new()
    }

    fn bytes_scanned(&self) -> u64 {
        self.spent.scanned.load(Relaxed)
    }

    fn dollars(&self) -> Option<f64> {
        Some(self.spent.billed.load(Relaxed) as f64 / 1e12 * DOLLARS_A_TERABYTE)
    }
}
