//! One question: its rows, what stands beside them, and where they go.

use std::{
    fs::File,
    io::{self, BufWriter, IsTerminal, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use indicatif::{HumanBytes, HumanCount};

use super::{
    OutputArgs, empty,
    engine::{EngineArgs, Opened},
    explained, say,
};
use crate::{
    cli::archived::missing,
    lake::{Place, State, Store, Table},
    query::{
        Engine, QueryError, Statement, Value,
        athena::AthenaEngine,
        output::{self, Counts, OutputError, Shape, Style},
        standing::{Standing, standing},
    },
};

/// How wide a table is where there is no terminal and no COLUMNS.
const WIDTH_OF_A_FILE: usize = 120;

/// What a command asks, and how its answer is shown.
pub(super) struct Question {
    /// Its name in JSON.
    pub(super) name: &'static str,
    pub(super) asks: Asks,
    /// What a row is.
    pub(super) row: &'static str,
    pub(super) shape: Option<Shape>,
    pub(super) limit: Option<u64>,
    /// Whether the statement sees to the limit itself (which then takes other rows than the first ones).
    pub(super) limits_itself: bool,
    /// Whether rows beyond the limit are counted, by a second statement.
    pub(super) counted: bool,
}

/// Where a question's rows come from.
pub(super) enum Asks {
    Statement(Statement),
    /// A query of Athena that was started before.
    Started(String),
}

/// A lake that is being asked.
pub(super) struct Asked {
    store: Store,
    place: Place,
    pub(super) engine: Arc<dyn Engine>,
    athena: Option<Arc<AthenaEngine>>,
    /// Whether the rows are waited for.
    waits: bool,
    /// Whether an answer without days that are archived is none.
    complete: bool,
    started: Instant,
}

impl Asked {
    pub(super) async fn open(args: &EngineArgs) -> anyhow::Result<Asked> {
        let started = Instant::now();
        let Opened { store, place, engine, athena } = args.open().await?;
        let (waits, complete) = (!args.no_wait, args.require_complete);
        Ok(Asked { store, place, engine, athena, waits, complete, started })
    }

    /// The Athena of a stack, whose queries are known by ids.
    pub(super) async fn open_athena(args: &EngineArgs) -> anyhow::Result<Asked> {
        let started = Instant::now();
        let Opened { store, place, engine, athena } = args.athena().await?;
        Ok(Asked { store, place, engine, athena, waits: true, complete: false, started })
    }

    /// How far scoring has come; says what people should know of it.
    pub(super) async fn standing(&self) -> anyhow::Result<Standing> {
        let standing = standing(&self.store, &self.engine.current_view().await?).await?;
        standing.remarks(self.store.place()).iter().for_each(|remark| say(remark));
        Ok(standing)
    }

    /// Writes the rows, and the footer beside them; `None` where nobody reads on (`| head`), or nobody waits for them.
    pub(super) async fn show(&self, question: Question, output: &OutputArgs) -> anyhow::Result<Option<Counts>> {
        if let (false, Some(athena), Asks::Statement(statement)) = (self.waits, &self.athena, &question.asks) {
            let id = athena.start(&statement.clone().limit(question.limit)).await.map_err(explained)?;
            crate::cli::say(&id)?;
            say(&format!("started; `vitals query result {id}` shows its rows"));
            return Ok(None);
        }
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
        let archived = match &question.asks {
            Asks::Statement(statement) => self.archived(statement).await?,
            Asks::Started(_) => None,
        };
        let limit = question.limit.filter(|_| !question.limits_itself);
        // One row more than is shown tells whether there are more.
        let one_more = limit.map(|rows| rows.saturating_add(1));
        let answer = match (&question.asks, &self.athena) {
            (Asks::Statement(statement), _) => self.engine.run(&statement.clone().limit(one_more)).await?,
            (Asks::Started(id), Some(athena)) => athena.result(id).await?,
            (Asks::Started(id), None) => return Err(QueryError::NoSuchQuery { id: id.clone() }.into()),
        };
        let mut target = Target::open(output.out.as_deref())?;
        let to_terminal = output.out.is_none() && io::stdout().is_terminal();
        let style = style(question.shape, to_terminal);
        let (format, out) = (output.output, target.take()?);
        let mut writer = output::writer(format, question.name, &answer.schema, style, to_terminal, out)?;
        let mut counts = output::write_rows(answer, writer.as_mut(), limit).await?;
        if question.limits_itself && question.limit == Some(counts.shown) {
            counts = Counts { found: None, more: true, ..counts };
        }
        if let Asks::Statement(statement) = &question.asks
            && question.counted
            && counts.more
        {
            counts.found = Some(self.count(statement).await?);
            counts.more = counts.found > Some(counts.shown);
        }
        counts.warnings = self.engine.take_warnings();
        counts.warnings.extend(archived);
        writer.finish(&counts)?;
        let remark = writer.remark();
        drop(writer);
        target.keep()?;
        Ok((counts, remark))
    }

    /// What to say of days that a statement asks for and that are archived; an error where the answer must be complete.
    async fn archived(&self, statement: &Statement) -> Result<Option<String>, QueryError> {
        if !matches!(self.place, Place::S3 { .. }) {
            return Ok(None);
        }
        let state = State::load(&self.store).await?;
        let (asked, range) = (statement.tables()?, statement.range_ms().unwrap_or((i64::MIN, i64::MAX)));
        let tables = Table::ALL.into_iter().filter(|table| asked.contains(table.name()));
        let missing = missing(&self.place, &state, tables, range).await;
        let Some(missing) = missing.map_err(|error| QueryError::Failed(crate::cli::in_words(&error)))? else {
            return Ok(None);
        };
        self.engine.leave_out(&missing.keys);
        if self.complete {
            return Err(QueryError::Refused { what: missing.what, hint: Some(missing.hint), no_access: false });
        }
        Ok(Some(missing.warning()))
    }

    async fn count(&self, statement: &Statement) -> Result<u64, QueryError> {
        let counted = statement.counted().bind("newest", Value::Int(i64::MAX));
        let found = empty::first_row(self.engine.as_ref(), &counted).await?;
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
        let cost = self.engine.dollars().map(cost).unwrap_or_default();
        say(&format!("{rows}{all} · {bytes} scanned{cost} · {:.2} s", self.started.elapsed().as_secs_f64()));
        remark.iter().for_each(|remark| say(remark));
    }
}

/// What queries cost, for the footer.
fn cost(dollars: f64) -> String {
    if dollars == 0.0 {
        return ", free: the same answer as before".to_owned();
    }
    format!(", about ${dollars:.5} ($5 a TB, 10 MB a query at least)")
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
