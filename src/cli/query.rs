//! `vitals query`: which readings are outliers, and why; devices, worst first; one device's history; any SELECT.

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Subcommand};

use self::{
    ask::{Asked, Asks, Question},
    engine::EngineArgs,
};
use super::{
    Exit,
    moment::{Moment, parse_moment},
};
use crate::{
    lake::now_ms,
    query::{
        QueryError, Statement, Value,
        output::{Format, shapes},
        statement,
    },
    reading::time::MAX_TIME_MS,
};

mod ask;
mod empty;
mod engine;
#[cfg(test)]
mod tests;

/// The exit code of a wrong use of the command.
const USAGE: u8 = 2;
/// The exit code for what is not there.
const NOT_FOUND: u8 = 3;

/// Ask the lake: outliers with their reasons, devices, a device's history, or your own SQL
///
/// Examples:
///
///   # episodes of the last day, newest first
///   vitals query outliers
///
///   # every outlying reading of one device in January, as JSON
///   vitals query outliers --readings --device device_7 --since 2026-01-01 --until 2026-02-01 --output json
///
///   # devices, worst first
///   vitals query devices --since 7d
///
///   # the newest readings of one device, with what the model says of them
///   vitals query history device_7
///
///   # the same of a deployed stack, and at most 5 GB read for it
///   vitals query outliers --target aws --max-scan 5GB
///
///   # start a long one and look at its rows later
///   vitals query sql 'SELECT cause, count(*) FROM outliers GROUP BY cause' --target aws --no-wait
///   vitals query result 7a3b1c9e-0000-0000-0000-000000000000
///
///   # your own SELECT over readings, outliers and dead_letters
///   vitals query sql 'SELECT reason, count(*) AS packets FROM dead_letters GROUP BY reason'
#[derive(Debug, Clone, Args)]
#[command(verbatim_doc_comment)]
pub struct QueryArgs {
    #[command(subcommand)]
    command: Query,
}

#[derive(Debug, Clone, Subcommand)]
enum Query {
    /// Outliers and why they are, newest first: grouped to episodes, or each reading
    Outliers(OutliersArgs),
    /// Devices, worst first, with when they were last seen
    Devices(DevicesArgs),
    /// The newest readings of one device, newest last, with what the model says of them
    History(HistoryArgs),
    /// One SELECT of your own over the tables readings, outliers and dead_letters; nothing but reading is run
    Sql(SqlArgs),
    /// The rows of a query that was started with `--target aws --no-wait`
    Result(ResultArgs),
}

#[derive(Debug, Clone, Args)]
struct OutliersArgs {
    /// From when: 24h, 7d, 2026-01-31, 2026-01-31T05:00:00Z; by the readings' own time
    #[arg(long, value_name = "WHEN", default_value = "24h", value_parser = parse_moment)]
    since: Moment,
    /// Until before when
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    until: Option<Moment>,
    /// Of this device only
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    /// With this cause only, such as heart_rate_high, fever, spo2_low, flatline
    #[arg(long, value_name = "CODE")]
    cause: Option<String>,
    /// With at least this score (episodes: at their peak)
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    min_score: Option<f64>,
    /// Outliers that belong together as one row (the default)
    #[arg(long, conflicts_with = "readings")]
    episodes: bool,
    /// Every outlying reading as a row
    #[arg(long)]
    readings: bool,
    /// Rows to show at most; 0 shows all
    #[arg(long, value_name = "ROWS", default_value_t = 50)]
    limit: u64,
    #[command(flatten)]
    ask: AskArgs,
}

#[derive(Debug, Clone, Args)]
struct DevicesArgs {
    #[command(flatten)]
    span: SpanArgs,
    /// Rows to show at most; 0 shows all
    #[arg(long, value_name = "ROWS", default_value_t = 50)]
    limit: u64,
    #[command(flatten)]
    ask: AskArgs,
}

#[derive(Debug, Clone, Args)]
struct HistoryArgs {
    /// The device
    #[arg(value_name = "DEVICE")]
    device: String,
    #[command(flatten)]
    span: SpanArgs,
    /// Rows to show at most, the newest; 0 shows all
    #[arg(long, value_name = "ROWS", default_value_t = 50)]
    limit: u64,
    #[command(flatten)]
    ask: AskArgs,
}

#[derive(Debug, Clone, Args)]
struct SqlArgs {
    /// The SELECT
    #[arg(value_name = "SELECT")]
    sql: String,
    /// Rows to show at most; 0 shows all
    #[arg(long, value_name = "ROWS", default_value_t = 1_000)]
    limit: u64,
    #[command(flatten)]
    ask: AskArgs,
}

#[derive(Debug, Clone, Args)]
struct ResultArgs {
    /// The query's id, as `--no-wait` printed it
    #[arg(value_name = "ID")]
    id: String,
    /// Rows to show at most; 0 shows all
    #[arg(long, value_name = "ROWS", default_value_t = 1_000)]
    limit: u64,
    #[command(flatten)]
    ask: AskArgs,
}

/// What every question has.
#[derive(Debug, Clone, Args)]
struct AskArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

#[derive(Debug, Clone, Args)]
struct OutputArgs {
    /// How the rows are written
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value = "table")]
    output: Format,
    /// Write the rows to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// A time, by the readings' own; everything where nobody says.
#[derive(Debug, Clone, Args)]
struct SpanArgs {
    /// From when: 24h, 7d, 2026-01-31, 2026-01-31T05:00:00Z [default: everything]
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    since: Option<Moment>,
    /// Until before when
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    until: Option<Moment>,
}

impl SpanArgs {
    /// Milliseconds since 1970 UTC: from when, and until before when.
    fn ms(&self) -> (i64, i64) {
        let now = now_ms();
        (self.since.map_or(0, |since| since.ms(now)), until_ms(self.until, now))
    }
}

impl Query {
    fn ask(&self) -> &AskArgs {
        match self {
            Query::Outliers(args) => &args.ask,
            Query::Devices(args) => &args.ask,
            Query::History(args) => &args.ask,
            Query::Sql(args) => &args.ask,
            Query::Result(args) => &args.ask,
        }
    }
}

/// Runs `vitals query`.
pub async fn run(args: QueryArgs) -> anyhow::Result<ExitCode> {
    let output = &args.command.ask().output;
    if output.output == Format::Parquet && output.out.is_none() && io::stdout().is_terminal() {
        say("error: Parquet is not written to a terminal\nhint: add `--out FILE`, or redirect the output");
        return Ok(ExitCode::from(USAGE));
    }
    match args.command {
        Query::Outliers(args) => outliers(args).await,
        Query::Devices(args) => devices(args).await,
        Query::History(args) => history(args).await,
        Query::Sql(args) => sql(args).await,
        Query::Result(args) => result(args).await,
    }
}

/// Says something beside the rows. That nobody listens is no fault.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// The default of `--until`: later than any reading.
fn until_ms(until: Option<Moment>, now: i64) -> i64 {
    until.map_or(MAX_TIME_MS, |until| until.ms(now))
}

fn limit_of(rows: u64) -> Option<u64> {
    (rows > 0).then_some(rows)
}

async fn outliers(args: OutliersArgs) -> anyhow::Result<ExitCode> {
    let now = now_ms();
    let filter = empty::Filter {
        since: args.since.ms(now),
        until: until_ms(args.until, now),
        device: args.device.unwrap_or_default(),
        cause: args.cause.unwrap_or_default(),
        min_score: args.min_score.unwrap_or(f64::MIN),
    };
    let (name, text, row, shape) = if args.readings {
        ("outlier_readings", statement::OUTLIER_READINGS, "outlying readings", shapes::OUTLIERS)
    } else {
        ("outlier_episodes", statement::OUTLIER_EPISODES, "episodes", shapes::EPISODES)
    };
    let statement = filter.bind(Statement::template(text)).bind("since", Value::Time(filter.since));
    let limit = limit_of(args.limit);
    let question = Question {
        name,
        asks: Asks::Statement(statement),
        row,
        shape: Some(shape),
        limit,
        limits_itself: false,
        counted: true,
    };
    let asked = Asked::open(&args.ask.engine).await?;
    let Some(counts) = asked.show(question, &args.ask.output).await? else { return Ok(ExitCode::SUCCESS) };
    let standing = asked.standing().await?;
    if counts.shown == 0 && standing.scored {
        say(&empty::no_outliers(asked.engine.as_ref(), &filter, &standing).await?);
    }
    Ok(ExitCode::SUCCESS)
}

async fn devices(args: DevicesArgs) -> anyhow::Result<ExitCode> {
    let (since, until) = args.span.ms();
    let statement =
        Statement::template(statement::DEVICES).bind("since", Value::Time(since)).bind("until", Value::Time(until));
    let limit = limit_of(args.limit);
    let (row, shape) = ("devices", Some(shapes::DEVICES));
    let question = Question {
        name: "devices",
        asks: Asks::Statement(statement),
        row,
        shape,
        limit,
        limits_itself: false,
        counted: true,
    };
    let asked = Asked::open(&args.ask.engine).await?;
    let Some(counts) = asked.show(question, &args.ask.output).await? else { return Ok(ExitCode::SUCCESS) };
    let standing = asked.standing().await?;
    if counts.shown == 0 && !standing.empty {
        say(&empty::no_readings(asked.engine.as_ref(), "", since, until).await?.0);
    }
    Ok(ExitCode::SUCCESS)
}

async fn history(args: HistoryArgs) -> anyhow::Result<ExitCode> {
    let (since, until) = args.span.ms();
    let limit = limit_of(args.limit);
    let newest = limit.map_or(i64::MAX, |rows| i64::try_from(rows).unwrap_or(i64::MAX));
    let statement = Statement::template(statement::HISTORY)
        .bind("device", Value::Text(args.device.clone()))
        .bind("since", Value::Time(since))
        .bind("until", Value::Time(until))
        .bind("newest", Value::Int(newest));
    let shape = Some(shapes::HISTORY);
    let row = "readings";
    let question = Question {
        name: "history",
        asks: Asks::Statement(statement),
        row,
        shape,
        limit,
        limits_itself: true,
        counted: true,
    };
    let asked = Asked::open(&args.ask.engine).await?;
    let Some(counts) = asked.show(question, &args.ask.output).await? else { return Ok(ExitCode::SUCCESS) };
    if counts.shown > 0 {
        return Ok(ExitCode::SUCCESS);
    }
    let standing = asked.standing().await?;
    if standing.empty {
        return Ok(ExitCode::from(NOT_FOUND));
    }
    let (why, known) = empty::no_readings(asked.engine.as_ref(), &args.device, since, until).await?;
    say(&why);
    Ok(if known { ExitCode::SUCCESS } else { ExitCode::from(NOT_FOUND) })
}

async fn sql(args: SqlArgs) -> anyhow::Result<ExitCode> {
    let statement = match Statement::of_person(&args.sql) {
        Ok(statement) => statement,
        Err(error) => {
            say(&format!("error: {:#}", explained(error)));
            return Ok(ExitCode::from(USAGE));
        }
    };
    let limit = limit_of(args.limit);
    let row = "rows";
    let question = Question {
        name: "sql",
        asks: Asks::Statement(statement),
        row,
        shape: None,
        limit,
        limits_itself: false,
        counted: false,
    };
    let asked = Asked::open(&args.ask.engine).await?;
    asked.show(question, &args.ask.output).await?;
    Ok(ExitCode::SUCCESS)
}

async fn result(args: ResultArgs) -> anyhow::Result<ExitCode> {
    let asked = Asked::open_athena(&args.ask.engine).await?;
    let question = Question {
        name: "result",
        asks: Asks::Started(args.id),
        row: "rows",
        shape: None,
        limit: limit_of(args.limit),
        limits_itself: false,
        counted: false,
    };
    asked.show(question, &args.ask.output).await?;
    Ok(ExitCode::SUCCESS)
}

/// An error with what may help on a line of its own, and with the exit code of its kind.
fn explained(error: QueryError) -> anyhow::Error {
    let text = match error.hint() {
        Some(hint) => format!("{error}\nhint: {hint}"),
        None => error.to_string(),
    };
    match error {
        QueryError::Interrupted(_) => Exit::interrupted(text),
        QueryError::NoSuchQuery { .. } => Exit::not_found(text),
        QueryError::Refused { no_access: true, .. } => Exit::no_access(text),
        QueryError::Store(_) => error.into(),
        _ => anyhow::anyhow!(text),
    }
}
