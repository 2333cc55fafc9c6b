//! `vitals query`: which readings are outliers, and why; devices, worst first; one device's history; any SELECT.

use std::{
    fs::File,
    io::{self, BufWriter, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use clap::{Args, Subcommand};
use indicatif::{HumanBytes, HumanCount};

use super::{
    LakeArgs,
    moment::{Moment, parse_moment},
};
use crate::{
    lake::{Store, now_ms},
    query::{
        Engine, LocalEngine, Options, QueryError, Statement, Value,
        output::{self, Counts, Format, OutputError, Shape, Style, shapes},
        standing::{Standing, standing},
        statement,
    },
    reading::time::MAX_TIME_MS,
};

mod empty;
#[cfg(test)]
mod tests;

/// The exit code of a wrong use of the command.
const USAGE: u8 = 2;
/// The exit code for what is not there.
const NOT_FOUND: u8 = 3;

/// How wide a table is where there is no terminal and no COLUMNS.
const WIDTH_OF_A_FILE: usize = 120;

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
    output: OutputArgs,
    #[command(flatten)]
    lake: LakeArgs,
}

#[derive(Debug, Clone, Args)]
struct DevicesArgs {
    /// From when: 24h, 7d, 2026-01-31, 2026-01-31T05:00:00Z [default: everything]
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    since: Option<Moment>,
    /// Until before when
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    until: Option<Moment>,
    /// Rows to show at most; 0 shows all
    #[arg(long, value_name = "ROWS", default_value_t = 50)]
    limit: u64,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    lake: LakeArgs,
}

#[derive(Debug, Clone, Args)]
struct HistoryArgs {
    /// The device
    #[arg(value_name = "DEVICE")]
    device: String,
    /// From when: 24h, 7d, 2026-01-31, 2026-01-31T05:00:00Z [default: everything]
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    since: Option<Moment>,
    /// Until before when
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    until: Option<Moment>,
    /// Rows to show at most, the newest; 0 shows all
    #[arg(long, value_name = "ROWS", default_value_t = 50)]
    limit: u64,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    lake: LakeArgs,
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
    output: OutputArgs,
    #[command(flatten)]
    lake: LakeArgs,
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

impl Query {
    fn output(&self) -> &OutputArgs {
        match self {
            Query::Outliers(args) => &args.output,
            Query::Devices(args) => &args.output,
            Query::History(args) => &args.output,
            Query::Sql(args) => &args.output,
        }
    }
}

/// Runs `vitals query`.
pub async fn run(args: QueryArgs) -> anyhow::Result<ExitCode> {
    let output = args.command.output();
    if output.output == Format::Parquet && output.out.is_none() && io::stdout().is_terminal() {
        say("error: Parquet is not written to a terminal\nhint: add `--out FILE`, or redirect the output");
        return Ok(ExitCode::from(USAGE));
    }
    match args.command {
        Query::Outliers(args) => outliers(args).await,
        Query::Devices(args) => devices(args).await,
        Query::History(args) => history(args).await,
        Query::Sql(args) => sql(args).await,
    }
}

/// What a command asks, and how its answer is shown.
struct Question {
    /// Its name in JSON.
    name: &'static str,
    statement: Statement,
    /// What a row is.
    row: &'static str,
    shape: Option<Shape>,
    limit: Option<u64>,
    /// Whether the statement sees to the limit itself (which then takes other rows than the first ones).
    limits_itself: bool,
    /// Whether rows beyond the limit are counted, by a second statement.
    counted: bool,
}

/// A lake that is being asked.
struct Asked {
    store: Store,
    engine: LocalEngine,
    started: Instant,
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
    let question = Question { name, statement, row, shape: Some(shape), limit, limits_itself: false, counted: true };
    let asked = Asked::open(&args.lake).await?;
    let Some(counts) = asked.show(question, &args.output).await? else { return Ok(ExitCode::SUCCESS) };
    let standing = asked.standing().await?;
    if counts.shown == 0 && standing.scored {
        say(&empty::no_outliers(&asked.engine, &filter, &standing).await?);
    }
    Ok(ExitCode::SUCCESS)
}

async fn devices(args: DevicesArgs) -> anyhow::Result<ExitCode> {
    let now = now_ms();
    let (since, until) = (args.since.map_or(0, |since| since.ms(now)), until_ms(args.until, now));
    let statement =
        Statement::template(statement::DEVICES).bind("since", Value::Time(since)).bind("until", Value::Time(until));
    let limit = limit_of(args.limit);
    let (row, shape) = ("devices", Some(shapes::DEVICES));
    let question = Question { name: "devices", statement, row, shape, limit, limits_itself: false, counted: true };
    let asked = Asked::open(&args.lake).await?;
    let Some(counts) = asked.show(question, &args.output).await? else { return Ok(ExitCode::SUCCESS) };
    let standing = asked.standing().await?;
    if counts.shown == 0 && !standing.empty {
        say(&empty::no_readings(&asked.engine, "", since, until).await?.0);
    }
    Ok(ExitCode::SUCCESS)
}

async fn history(args: HistoryArgs) -> anyhow::Result<ExitCode> {
    let now = now_ms();
    let (since, until) = (args.since.map_or(0, |since| since.ms(now)), until_ms(args.until, now));
    let limit = limit_of(args.limit);
    let newest = limit.map_or(i64::MAX, |rows| i64::try_from(rows).unwrap_or(i64::MAX));
    let statement = Statement::template(statement::HISTORY)
        .bind("device", Value::Text(args.device.clone()))
        .bind("since", Value::Time(since))
        .bind("until", Value::Time(until))
        .bind("newest", Value::Int(newest));
    let shape = Some(shapes::HISTORY);
    let row = "readings";
    let question = Question { name: "history", statement, row, shape, limit, limits_itself: true, counted: true };
    let asked = Asked::open(&args.lake).await?;
    let Some(counts) = asked.show(question, &args.output).await? else { return Ok(ExitCode::SUCCESS) };
    if counts.shown > 0 {
        return Ok(ExitCode::SUCCESS);
    }
    let standing = asked.standing().await?;
    if standing.empty {
        return Ok(ExitCode::from(NOT_FOUND));
    }
    let (why, known) = empty::no_readings(&asked.engine, &args.device, since, until).await?;
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
    let question = Question { name: "sql", statement, row, shape: None, limit, limits_itself: false, counted: false };
    let asked = Asked::open(&args.lake).await?;
    asked.show(question, &args.output).await?;
    Ok(ExitCode::SUCCESS)
}

impl Asked {
    async fn open(lake: &LakeArgs) -> anyhow::Result<Asked> {
        let started = Instant::now();
        let store = lake.open().await?;
        let engine = LocalEngine::open(store.clone(), Options::default()).await.map_err(explained)?;
        Ok(Asked { store, engine, started })
    }

    /// How far scoring has come; says what people should know of it.
    async fn standing(&self) -> anyhow::Result<Standing> {
        let standing = standing(&self.store, &self.engine.view()).await?;
        standing.remarks(self.store.place()).iter().for_each(|remark| say(remark));
        Ok(standing)
    }

    /// Writes the rows, and the footer beside them; `None` where nobody reads on (`| head`).
    async fn show(&self, question: Question, output: &OutputArgs) -> anyhow::Result<Option<Counts>> {
        let shown = self.write(&question, output).await;
        let warn = |warnings: &[String]| warnings.iter().for_each(|warning| say(&format!("warning: {warning}")));
        warn(&self.engine.take_warnings());
        match shown {
            Ok((counts, remark)) => {
                warn(&counts.warnings);
                self.footer(&question, &counts, remark);
                Ok(Some(counts))
            }
            Err(error) if error.is_broken_pipe() => Ok(None),
            Err(OutputError::Query(error)) => Err(explained(error)),
            Err(error) => Err(error.into()),
        }
    }

    async fn write(&self, question: &Question, output: &OutputArgs) -> Result<(Counts, Option<String>), OutputError> {
        // One row more than is shown tells whether there are more.
        let one_more = question.limit.map(|rows| rows.saturating_add(1));
        let (statement, limit) = if question.limits_itself {
            (question.statement.clone(), None)
        } else {
            (question.statement.clone().limit(one_more), question.limit)
        };
        let answer = self.engine.run(&statement).await?;
        let mut target = Target::open(output.out.as_deref())?;
        let to_terminal = output.out.is_none() && io::stdout().is_terminal();
        let style = style(question.shape, to_terminal);
        let (format, out) = (output.output, target.take()?);
        let mut writer = output::writer(format, question.name, &answer.schema, style, to_terminal, out)?;
        let mut counts = output::write_rows(answer, writer.as_mut(), limit).await?;
        if question.limits_itself && question.limit == Some(counts.shown) {
            counts = Counts { found: None, more: true, ..counts };
        }
        if question.counted && counts.more {
            counts.found = Some(self.count(&question.statement).await?);
            counts.more = counts.found > Some(counts.shown);
        }
        counts.warnings = self.engine.take_warnings();
        writer.finish(&counts)?;
        let remark = writer.remark();
        drop(writer);
        target.keep()?;
        Ok((counts, remark))
    }

    async fn count(&self, statement: &Statement) -> Result<u64, QueryError> {
        let counted = statement.counted().bind("newest", Value::Int(i64::MAX));
        let found = empty::first_row(&self.engine, &counted).await?;
        Ok(found.first().and_then(empty::Known::count).unwrap_or(0))
    }

    fn footer(&self, question: &Question, counts: &Counts, remark: Option<String>) {
        let row = if counts.found == Some(1) { question.row.trim_end_matches('s') } else { question.row };
        let rows = match counts.found {
            Some(found) if found == counts.shown => format!("{} {row}", HumanCount(found)),
            Some(found) => format!("{} of {} {row}", HumanCount(counts.shown), HumanCount(found)),
            None => format!("the first {} {row} of more", HumanCount(counts.shown)),
        };
        let all = if counts.more { "; `--limit 0` shows all" } else { "" };
        let bytes = HumanBytes(self.engine.bytes_scanned());
        say(&format!("{rows}{all} · {bytes} scanned · {:.2} s", self.started.elapsed().as_secs_f64()));
        remark.iter().for_each(|remark| say(remark));
    }
}

/// An error with what may help on a line of its own.
fn explained(error: QueryError) -> anyhow::Error {
    match error.hint() {
        Some(hint) => anyhow::anyhow!("{error}\nhint: {hint}"),
        None => error.into(),
    }
}

fn style(shape: Option<Shape>, to_terminal: bool) -> Style {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let columns = set("COLUMNS").and_then(|columns| columns.parse().ok()).filter(|columns| *columns > 0);
    let terminal =
        || to_terminal.then(|| comfy_table::Table::new().width().map(usize::from)).flatten().filter(|width| *width > 0);
    let width = columns.or_else(terminal).unwrap_or(WIDTH_OF_A_FILE);
    Style { shape, width: Some(width), colour: to_terminal && set("NO_COLOR").is_none() }
}

/// Where the rows go.
enum Target {
    Stdout,
    /// A file that takes its name only when it is whole.
    File(tempfile::NamedTempFile, PathBuf),
    /// What is there and is no file, such as a pipe.
    Device(PathBuf),
}

impl Target {
    fn open(out: Option<&Path>) -> io::Result<Target> {
        let Some(path) = out else { return Ok(Target::Stdout) };
        if path.metadata().is_ok_and(|there| !there.is_file()) {
            return Ok(Target::Device(path.to_owned()));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        Ok(Target::File(builder.tempfile_in(folder)?, path.to_owned()))
    }

    fn take(&mut self) -> io::Result<Box<dyn Write + Send>> {
        Ok(match self {
            Target::Stdout => Box::new(BufWriter::new(io::stdout())),
            Target::File(file, _) => Box::new(BufWriter::new(file.as_file().try_clone()?)),
            Target::Device(path) => Box::new(BufWriter::new(File::options().write(true).open(path)?)),
        })
    }

    fn keep(self) -> io::Result<()> {
        match self {
            Target::File(file, path) => file.persist(path).map(drop).map_err(|e| e.error),
            Target::Stdout | Target::Device(_) => Ok(()),
        }
    }
}
