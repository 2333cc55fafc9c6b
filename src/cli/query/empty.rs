//! Why an answer has no rows: what there is instead, and which flag shows it.

use crate::{
    query::{
        Engine, QueryError, Statement, Value, nearest,
        output::{Cell, Column, columns_of, moment},
        standing::Standing,
        statement,
    },
    reading::time::{MAX_TIME_MS, format_day},
};

/// What outliers were asked for.
#[derive(Debug, Clone)]
pub(super) struct Filter {
    pub since: i64,
    pub until: i64,
    /// Empty for every device.
    pub device: String,
    /// Empty for every cause.
    pub cause: String,
    pub min_score: f64,
}

impl Filter {
    /// Everything but the start.
    pub(super) fn bind(&self, statement: Statement) -> Statement {
        statement
            .bind("until", Value::Time(self.until))
            .bind("device", Value::Text(self.device.clone()))
            .bind("cause", Value::Text(self.cause.clone()))
            .bind("min_score", Value::Float(self.min_score))
    }
}

/// A value that a small statement of ours gave.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Known {
    None,
    Count(u64),
    Time(i64),
    Text(String),
}

impl Known {
    pub(super) fn count(&self) -> Option<u64> {
        if let Known::Count(count) = self { Some(*count) } else { None }
    }

    fn time(&self) -> Option<i64> {
        if let Known::Time(ms) = self { Some(*ms) } else { None }
    }

    fn of(column: &Column, row: usize) -> Known {
        match column.cell(row) {
            Cell::Int(count) => Known::Count(u64::try_from(count).unwrap_or(0)),
            Cell::UInt(count) => Known::Count(count),
            Cell::Time(ms) => Known::Time(ms),
            Cell::Text(text) => Known::Text(text.into_owned()),
            Cell::Null | Cell::Bool(_) | Cell::Float(_) => Known::None,
        }
    }
}

/// The first row of a statement's answer; nothing where it has none.
pub(super) async fn first_row(engine: &dyn Engine, statement: &Statement) -> Result<Vec<Known>, QueryError> {
    let batches = engine.run(&statement.clone().limit(Some(1))).await?.collect().await?;
    let Some(batch) = batches.iter().find(|batch| batch.num_rows() > 0) else { return Ok(Vec::new()) };
    let columns = columns_of(batch).map_err(|e| QueryError::Failed(e.to_string()))?;
    Ok(columns.iter().map(|column| Known::of(column, 0)).collect())
}

/// The first column of a statement's answer, a text, `most` rows of it.
async fn texts(engine: &dyn Engine, statement: Statement, most: Option<u64>) -> Result<Vec<String>, QueryError> {
    let batches = engine.run(&statement.limit(most)).await?.collect().await?;
    let mut texts = Vec::new();
    for batch in &batches {
        let columns = columns_of(batch).map_err(|e| QueryError::Failed(e.to_string()))?;
        let Some(column) = columns.first() else { continue };
        texts.extend((0..batch.num_rows()).filter_map(|row| match Known::of(column, row) {
            Known::Text(text) => Some(text),
            _ => None,
        }));
    }
    Ok(texts)
}

/// A moment to the second, for a sentence.
fn at(ms: i64) -> String {
    moment(ms - ms.rem_euclid(1_000))
}

/// The time that was asked for, for a sentence.
fn window(since: i64, until: i64) -> String {
    match (since, until) {
        (0, MAX_TIME_MS) => String::new(),
        (since, MAX_TIME_MS) => format!(" since {}", at(since)),
        (0, until) => format!(" before {}", at(until)),
        (since, until) => format!(" from {} until {}", at(since), at(until)),
    }
}

/// Why there are no outliers although something has been scored.
pub(super) async fn no_outliers(
    engine: &dyn Engine,
    filter: &Filter,
    standing: &Standing,
) -> Result<String, QueryError> {
    let none = format!("no outliers{}", window(filter.since, filter.until));
    let newest = async |filter: &Filter| {
        let row = first_row(engine, &filter.bind(Statement::template(statement::NEWEST_OUTLIER))).await?;
        Ok::<_, QueryError>(row.first().and_then(Known::time).zip(row.get(1).and_then(Known::count)))
    };
    if let Some((time, _)) = newest(filter).await? {
        return Ok(format!("{none}: the newest is of {}; `--since {}` shows it", at(time), format_day(time)));
    }
    let any_time = Filter { until: MAX_TIME_MS, ..filter.clone() };
    if filter.until < MAX_TIME_MS
        && let Some((time, _)) = newest(&any_time).await?
    {
        return Ok(format!("{none}: there are later ones, the newest is of {}; leave out `--until`", at(time)));
    }
    if !filter.device.is_empty() {
        let of_device = Filter { cause: String::new(), min_score: f64::MIN, ..any_time.clone() };
        if newest(&of_device).await?.is_none() {
            let (readings, known) = no_readings(engine, &filter.device, 0, MAX_TIME_MS).await?;
            let unremarkable = format!("no outliers of `{}`; {}", filter.device, readings);
            return Ok(if known { unremarkable } else { readings });
        }
    }
    let anything = Filter { device: String::new(), cause: String::new(), min_score: f64::MIN, ..any_time };
    let Some((_, count)) = newest(&anything).await? else {
        let row = first_row(engine, &Statement::template(statement::NEWEST_READING).bind("device", text(""))).await?;
        let readings = row.get(2).and_then(Known::count).unwrap_or(0);
        return Ok(format!("no outliers at all: the model `{}` found none in {readings} readings", standing.model));
    };
    let causes = texts(engine, Statement::template(statement::CAUSES), Some(20)).await?;
    if !filter.cause.is_empty() && !causes.contains(&filter.cause) {
        return Ok(format!("no outlier has the cause `{}`; causes are {}", filter.cause, causes.join(", ")));
    }
    Ok(format!("none of the {count} outliers is like that: leave out `--device`, `--cause` or `--min-score`"))
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// Why there are no readings (of one device, or of any where it is empty), and whether that device is known.
pub(super) async fn no_readings(
    engine: &dyn Engine,
    device: &str,
    since: i64,
    until: i64,
) -> Result<(String, bool), QueryError> {
    let span = Statement::template(statement::NEWEST_READING).bind("device", text(device));
    let row = first_row(engine, &span).await?;
    let of = if device.is_empty() { String::new() } else { format!(" of `{device}`") };
    if let [Known::Time(oldest), Known::Time(newest), Known::Count(readings)] = row.as_slice() {
        let there = format!("{readings} readings{of} from {} to {}", at(*oldest), at(*newest));
        return Ok(if *newest >= since && *oldest < until {
            (format!("there are {there}"), true)
        } else {
            let flag = format!("`--since {}` shows the newest", format_day(*newest));
            (format!("no readings{of}{}: there are {there}; {flag}", window(since, until)), true)
        });
    }
    if device.is_empty() {
        return Ok((
            "there are no readings, only dead letters: `vitals query sql 'SELECT reason, count(*) FROM \
                    dead_letters GROUP BY reason'`"
                .to_owned(),
            false,
        ));
    }
    let devices = texts(engine, Statement::template(statement::DEVICE_IDS), None).await?;
    let near = nearest(device, devices.iter().map(String::as_str), 3);
    let hint = if near.is_empty() {
        "`vitals query devices` lists them".to_owned()
    } else {
        format!("did you mean `{}`?", near.join("` or `"))
    };
    Ok((format!("no device `{device}` among {}: {hint}", devices.len()), false))
}
