//! A statement as Athena runs it: `?` and parameters, over the lake's views only, and of those only the days that the
//! state says hold what is asked for.
//!
//! A day holds readings by when they arrived, so the days that hold an hour follow from the state alone, which knows the
//! least and greatest time in each. They are written before the statement:
//!
//! ```sql
//! WITH readings AS (SELECT * FROM "vitals"."readings" WHERE dt IS NULL OR dt > '2026-01-09' OR dt BETWEEN …)
//! ```
//!
//! `dt` is null for what has landed and is in no closed day yet. Days after the state's last one were closed since it was
//! read: they are looked at whatever they hold.

use std::fmt::Write;

use super::{QueryError, Statement};
use crate::{
    lake::{Day, State, Table},
    query::{readonly::TABLES_IN_WORDS, statement::VIEWS},
};

/// Tables that say what tables there are.
const ABOUT_TABLES: [&str; 2] = ["information_schema.columns", "information_schema.tables"];

/// The text and the parameters of a statement, each parameter as SQL writes it.
pub(super) fn render(
    statement: &Statement,
    database: &str,
    state: &State,
) -> Result<(String, Vec<String>), QueryError> {
    let (text, values) = statement.positional()?;
    let tables = statement.tables()?;
    // A name with a dot, or of another table, would reach beyond the lake's views.
    let known = |name: &str| VIEWS.iter().any(|(view, _)| *view == name) || ABOUT_TABLES.contains(&name);
    if let Some(other) = tables.iter().find(|name| !known(name)) {
        return Err(QueryError::Sql {
            message: format!("there is no table `{other}`"),
            hint: Some(format!("there are {TABLES_IN_WORDS}")),
        });
    }
    let mut before = String::new();
    if let Some(range) = statement.range_ms().filter(|_| statement.of_whom().is_none()) {
        for table in Table::ALL.into_iter().filter(|table| tables.contains(table.name())) {
            let Some(days) = days(state, table, range) else { continue };
            let (word, name) = (if before.is_empty() { "WITH" } else { "," }, table.name());
            // Writing to a String does not fail.
            let _ = writeln!(before, "{word} {name} AS (SELECT * FROM \"{database}\".\"{name}\" WHERE {days})");
        }
    }
    Ok((before + &text, values.into_iter().map(|value| value.literal()).collect()))
}

/// The condition on `dt` that lets through every day of a table that may hold a moment of `[since, until)`; `None` where
/// that is all of them.
fn days(state: &State, table: Table, range: (i64, i64)) -> Option<String> {
    let upto = state.upto?;
    let needed = state.days_with(table, range);
    let held: Vec<Day> = state.days.iter().filter(|(_, runs)| runs.of(table).is_some()).map(|(day, _)| *day).collect();
    if needed.len() == held.len() {
        return None;
    }
    let mut condition = format!("dt IS NULL OR dt > '{upto}'");
    // Days that follow each other in the state are one range, whatever the calendar has between.
    let stretches = held.chunk_by(|a, b| needed.contains(a) == needed.contains(b));
    for stretch in stretches.filter(|stretch| needed.contains(&stretch[0])) {
        let (first, last) = (stretch[0], stretch[stretch.len() - 1]);
        let _ = if first == last {
            write!(condition, " OR dt = '{first}'")
        } else {
            write!(condition, " OR dt BETWEEN '{first}' AND '{last}'")
        };
    }
    Some(condition)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lake::state::{DayRuns, Run},
        query::{Value, statement},
    };

    const DAY: i64 = 86_400_000;

    /// Days from 1970-01-01 on, each with readings of that day; the fourth also has some of the first.
    fn state(days: i64) -> State {
        let mut state = State::default();
        for n in 0..days {
            let min_ts = if n == 3 { 0 } else { n * DAY };
            let run = Run { run: "r".into(), rows: 1, parts: vec![1], min_ts, max_ts: n * DAY + 1 };
            let runs = DayRuns { readings: Some(run), ..DayRuns::default() };
            state.days.insert(Day::of(n * DAY), runs);
            state.upto = Some(Day::of(n * DAY));
        }
        state
    }

    fn condition(since: i64, until: i64) -> Option<String> {
        days(&state(6), Table::Readings, (since, until))
    }

    #[test]
    fn only_days_that_hold_the_time_are_read_and_those_that_were_closed_since() {
        let always = "dt IS NULL OR dt > '1970-01-06'";
        assert_eq!(condition(0, i64::MAX), None);
        assert_eq!(condition(4 * DAY, 5 * DAY).unwrap(), format!("{always} OR dt = '1970-01-05'"));
        assert_eq!(condition(0, 2).unwrap(), format!("{always} OR dt = '1970-01-01' OR dt = '1970-01-04'"));
        let from_third = format!("{always} OR dt BETWEEN '1970-01-03' AND '1970-01-06'");
        assert_eq!(condition(2 * DAY + 1, i64::MAX).unwrap(), from_third);
        assert_eq!(condition(9 * DAY, 10 * DAY).unwrap(), always);
        assert_eq!(days(&State::default(), Table::Readings, (0, 1)), None);
    }

    #[test]
    fn a_statement_of_ours_says_the_days_of_each_of_its_tables() {
        let devices = Statement::template(statement::DEVICES)
            .bind("since", Value::Time(4 * DAY))
            .bind("until", Value::Time(5 * DAY))
            .limit(Some(7));
        let (text, parameters) = render(&devices, "vitals", &state(6)).unwrap();
        let days = "dt IS NULL OR dt > '1970-01-06' OR dt = '1970-01-05'";
        let with = format!("WITH readings AS (SELECT * FROM \"vitals\".\"readings\" WHERE {days})\n-- Devices");
        assert!(text.starts_with(&with), "{text}");
        assert!(text.ends_with("\nLIMIT 7") && !text.contains('$'), "{text}");
        let (since, until) = ("TIMESTAMP '1970-01-05 00:00:00.000'", "TIMESTAMP '1970-01-06 00:00:00.000'");
        assert_eq!(parameters, [since, until, since, until]);
        readonly(&text);
    }

    /// What is sent is still one query that only reads.
    fn readonly(text: &str) {
        crate::query::readonly::check(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    }

    #[test]
    fn nothing_but_the_lakes_views_is_read() {
        let said = |sql: &str| render(&Statement::of_person(sql).unwrap(), "vitals", &State::default());
        assert_eq!(said("SELECT 1").unwrap().0, "SELECT 1");
        for sql in [
            "SELECT * FROM READINGS",
            "WITH x AS (SELECT * FROM outliers) SELECT * FROM x JOIN dead_letters ON true",
            "SELECT * FROM information_schema.columns",
        ] {
            assert_eq!(said(sql).unwrap().0, sql);
        }
        for sql in [
            "SELECT * FROM landing",
            "SELECT * FROM other.readings",
            "SELECT * FROM \"other.readings\"",
            "SELECT (SELECT max(x) FROM secret.t)",
            "SELECT * FROM awsdatacatalog.vitals.readings",
            "SELECT * FROM \"readings$partitions\"",
        ] {
            assert!(said(sql).unwrap_err().to_string().starts_with("there is no table"), "{sql}");
        }
    }
}
