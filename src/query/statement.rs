//! The statements, and what an engine makes of their parameters.
//!
//! A statement's text is the same for every engine, but for its parameters: written `$name` in `templates/`, they reach
//! DataFusion as named values ([`Statement::values`]), Athena and Trino as `?` in order of appearance
//! ([`Statement::positional`]). Athena takes `?` in a WHERE only: a value that stands elsewhere, and those of a view's
//! definition ([`Statement::literal`]), are written out as literals.
//!
//! In every statement that has them, `$since` and `$until` bound the time of all rows that it reads, of whatever table:
//! by that an engine knows which days it needs ([`Statement::range_ms`]).

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use super::{QueryError, readonly};
use crate::lake::State;

/// Outliers grouped to episodes, newest first.
pub const OUTLIER_EPISODES: &str = include_str!("../../templates/queries/outlier_episodes.sql");
/// Outlying readings, newest first.
pub const OUTLIER_READINGS: &str = include_str!("../../templates/queries/outlier_readings.sql");
/// Devices, worst first.
pub const DEVICES: &str = include_str!("../../templates/queries/devices.sql");
/// The newest readings of one device.
pub const HISTORY: &str = include_str!("../../templates/queries/history.sql");
/// When the newest outlier was.
pub const NEWEST_OUTLIER: &str = include_str!("../../templates/queries/newest_outlier.sql");
/// The span of the readings.
pub const NEWEST_READING: &str = include_str!("../../templates/queries/newest_reading.sql");
/// The name of every device.
pub const DEVICE_IDS: &str = include_str!("../../templates/queries/device_ids.sql");
/// What outliers were taken for.
pub const CAUSES: &str = include_str!("../../templates/queries/causes.sql");

/// The views over the lake's files, by name.
pub const VIEWS: [(&str, &str); 3] = [
    ("readings", include_str!("../../templates/views/readings.sql")),
    ("outliers", include_str!("../../templates/views/outliers.sql")),
    ("dead_letters", include_str!("../../templates/views/dead_letters.sql")),
];

/// What the view `dead_letters` of a deployed stack shows besides: packets that never reached the log.
pub const RULE_FAILURES: &str = include_str!("../../templates/views/rule_failures.sql");

/// The value of a parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any text, people's included.
    Text(String),
    /// An integer.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// A moment, milliseconds since 1970 UTC.
    Time(i64),
}

/// One SELECT, with the values of its parameters.
#[derive(Debug, Clone)]
pub struct Statement {
    text: Cow<'static, str>,
    values: BTreeMap<&'static str, Value>,
    limit: Option<u64>,
    /// What was found in a person's statement; `None` for ours.
    person: Option<readonly::Facts>,
}

/// A stretch of a statement's text.
#[derive(Debug, PartialEq)]
enum Piece<'a> {
    Text(&'a str),
    /// A parameter, and whether it stands in a WHERE.
    Name(&'a str, bool),
}

impl Statement {
    /// A statement of ours.
    pub fn template(text: &'static str) -> Statement {
        Statement { text: Cow::Borrowed(text), values: BTreeMap::new(), limit: None, person: None }
    }

    /// The definition of one of the [`VIEWS`] over the picture of the lake that a state shows.
    pub fn view(text: impl Into<Cow<'static, str>>, state: &State) -> Statement {
        let upto = state.upto.map(|day| day.to_string()).unwrap_or_default();
        Statement { text: text.into(), ..Statement::template("") }
            .bind("upto", Value::Text(upto))
            .bind("n", Value::Int(i64::try_from(state.n).unwrap_or(i64::MAX)))
            .bind("model", Value::Text(state.model().to_owned()))
    }

    /// A person's statement, which must do nothing but read.
    pub fn of_person(text: &str) -> Result<Statement, QueryError> {
        let person = Some(readonly::check(text)?);
        let text = text.trim().trim_end_matches([';', ' ', '\n', '\t', '\r']);
        Ok(Statement { text: Cow::Owned(text.to_owned()), values: BTreeMap::new(), limit: None, person })
    }

    /// Gives a parameter its value.
    pub fn bind(mut self, name: &'static str, value: Value) -> Statement {
        self.values.insert(name, value);
        self
    }

    /// Takes no more than so many rows; `None` takes them all.
    pub fn limit(mut self, rows: Option<u64>) -> Statement {
        self.limit = rows;
        self
    }

    /// The number of rows that are taken at most; the engine sees to it.
    pub fn row_limit(&self) -> Option<u64> {
        self.limit
    }

    /// The statement that counts this one's rows, without its limit, in a column `found`.
    pub fn counted(&self) -> Statement {
        let text = format!("SELECT COUNT(*) AS found FROM (\n{}\n) AS counted", self.text);
        Statement { text: Cow::Owned(text), values: self.values.clone(), limit: None, person: self.person.clone() }
    }

    /// What was found in a person's statement; `None` for ours.
    pub fn of_whom(&self) -> Option<&readonly::Facts> {
        self.person.as_ref()
    }

    /// The tables that it reads, in the order of their names.
    pub fn tables(&self) -> Result<BTreeSet<String>, QueryError> {
        match &self.person {
            Some(facts) => Ok(facts.tables.clone()),
            None => Ok(readonly::check(&self.text)?.tables),
        }
    }

    /// From which moment until before which the rows lie that it reads, milliseconds since 1970 UTC; `None` where any may.
    pub fn range_ms(&self) -> Option<(i64, i64)> {
        let names: BTreeSet<_> = pieces(&self.text).iter().filter_map(Piece::name).collect();
        let time = |name| match self.values.get(name).filter(|_| names.contains(name)) {
            Some(Value::Time(ms)) => Some(*ms),
            _ => None,
        };
        let (since, until) = (time("since"), time("until"));
        (since.is_some() || until.is_some()).then(|| (since.unwrap_or(i64::MIN), until.unwrap_or(i64::MAX)))
    }

    /// The text with `$name` where a parameter stands.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The parameters by name, every one that the text has.
    pub fn values(&self) -> Result<Vec<(&str, &Value)>, QueryError> {
        let mut found = BTreeMap::new();
        for name in pieces(&self.text).iter().filter_map(Piece::name) {
            found.insert(name, self.value(name)?);
        }
        Ok(found.into_iter().collect())
    }

    /// The text with `?` where a parameter stands in a WHERE, and the values in that order. The limit is part of the text,
    /// unless it has one already.
    pub fn positional(&self) -> Result<(String, Vec<&Value>), QueryError> {
        let mut values = Vec::new();
        let mut text = self.render(|value, in_where| {
            if !in_where {
                return value.literal();
            }
            values.push(value);
            "?".to_owned()
        })?;
        let limited = self.person.as_ref().is_some_and(|facts| facts.limited);
        if let Some(limit) = self.limit.filter(|_| !limited) {
            text = format!("{}\nLIMIT {limit}", text.trim_end());
        }
        Ok((text, values))
    }

    /// The text with its values written out as SQL literals, for the definition of a view.
    pub fn literal(&self) -> Result<String, QueryError> {
        self.render(|value, _| value.literal())
    }

    fn value(&self, name: &str) -> Result<&Value, QueryError> {
        self.values.get(name).ok_or_else(|| QueryError::Unbound { name: name.to_owned() })
    }

    fn render<'a>(&'a self, mut write: impl FnMut(&'a Value, bool) -> String) -> Result<String, QueryError> {
        let mut text = String::with_capacity(self.text.len());
        for piece in pieces(&self.text) {
            match piece {
                Piece::Text(part) => text.push_str(part),
                Piece::Name(name, in_where) => text.push_str(&write(self.value(name)?, in_where)),
            }
        }
        Ok(text)
    }
}

impl Value {
    /// As SQL writes it.
    pub fn literal(&self) -> String {
        match self {
            Value::Text(text) => format!("'{}'", text.replace('\'', "''")),
            Value::Int(int) => int.to_string(),
            Value::Float(float) if float.is_nan() => "nan()".to_owned(),
            Value::Float(f64::INFINITY) => "infinity()".to_owned(),
            Value::Float(f64::NEG_INFINITY) => "-infinity()".to_owned(),
            Value::Float(float) => format!("{float:e}"),
            Value::Time(ms) => {
                format!(
                    "TIMESTAMP '{}'",
                    crate::reading::time::format_rfc3339_ms(*ms).replace('T', " ").replace('Z', "")
                )
            }
        }
    }
}

impl<'a> Piece<'a> {
    fn name(&self) -> Option<&'a str> {
        if let Piece::Name(name, _) = self { Some(name) } else { None }
    }
}

/// Words that begin another clause than WHERE.
const CLAUSES: [&str; 10] = ["SELECT", "FROM", "ON", "GROUP", "HAVING", "WINDOW", "ORDER", "LIMIT", "UNION", "VALUES"];

/// Splits a text into what stands between the parameters, and the parameters; quoted text and comments have none.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let bytes = text.as_bytes();
    let (mut pieces, mut from, mut at) = (Vec::new(), 0, 0);
    // Whether this is a WHERE, and whether it was before each parenthesis that is open.
    let (mut in_where, mut outer) = (false, Vec::new());
    let is_word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    let find = |start: usize, end: &str| text[start..].find(end).map_or(text.len(), |i| start + i + end.len());
    while at < bytes.len() {
        match bytes[at] {
            // A doubled quote ends one quoted text and starts the next, which comes to the same.
            b'\'' => at = find(at + 1, "'"),
            b'"' => at = find(at + 1, "\""),
            b'-' if bytes[at..].starts_with(b"--") => at = find(at, "\n"),
            b'$' => {
                let name = at + 1;
                let end = name + bytes[name..].iter().take_while(|b| is_word(b)).count();
                if end > name {
                    pieces.push(Piece::Text(&text[from..at]));
                    pieces.push(Piece::Name(&text[name..end], in_where));
                    from = end;
                }
                at = end;
            }
            b'(' => {
                outer.push(in_where);
                at += 1;
            }
            b')' => {
                in_where = outer.pop().unwrap_or(false);
                at += 1;
            }
            b if is_word(&b) => {
                let end = at + bytes[at..].iter().take_while(|b| is_word(b)).count();
                let word = text[at..end].to_ascii_uppercase();
                in_where = word == "WHERE" || (in_where && !CLAUSES.contains(&word.as_str()));
                at = end;
            }
            _ => at += 1,
        }
    }
    pieces.push(Piece::Text(&text[from..]));
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found_outside_quotes_and_comments_only() {
        let text = "-- $a\nSELECT '$b', '''$c', \"$d\", $e FROM t WHERE x=$e_1";
        let names: Vec<_> = pieces(text).into_iter().filter_map(|piece| piece.name()).collect();
        assert_eq!(names, ["e", "e_1"]);
    }

    #[test]
    fn an_unclosed_quote_ends_with_the_text() {
        assert_eq!(pieces("SELECT 'ä"), [Piece::Text("SELECT 'ä")]);
        assert_eq!(pieces("a $"), [Piece::Text("a $")]);
    }

    #[test]
    fn positional_parameters_come_in_order_and_as_often_as_they_stand() {
        let statement = Statement::template("SELECT 1 WHERE a = $x AND b = $y OR $x = ''\n")
            .bind("x", Value::Text("'; DROP TABLE readings --".into()))
            .bind("y", Value::Int(7))
            .limit(Some(5));
        let (text, values) = statement.positional().unwrap();
        assert_eq!(text, "SELECT 1 WHERE a = ? AND b = ? OR ? = ''\nLIMIT 5");
        let x = Value::Text("'; DROP TABLE readings --".into());
        assert_eq!(values, [&x, &Value::Int(7), &x]);
    }

    #[test]
    fn parameters_outside_a_where_are_written_out() {
        let text = "SELECT CASE WHEN a < $x THEN $t END FROM (SELECT a FROM r WHERE (a > $x OR b IN ($t)) AND c = $t \
                    GROUP BY a HAVING MAX(a) > $x) AS s WHERE a = $x ORDER BY $x";
        let statement = Statement::template(text).bind("x", Value::Int(7)).bind("t", Value::Text("it's".into()));
        let (text, values) = statement.positional().unwrap();
        assert_eq!(
            text,
            "SELECT CASE WHEN a < 7 THEN 'it''s' END FROM (SELECT a FROM r WHERE (a > ? OR b IN (?)) AND c = ? \
             GROUP BY a HAVING MAX(a) > 7) AS s WHERE a = ? ORDER BY 7"
        );
        assert_eq!(values.len(), 4);
    }

    #[test]
    fn a_limit_is_added_where_there_is_none() {
        let text = |sql: &str| Statement::of_person(sql).unwrap().limit(Some(3)).positional().unwrap().0;
        assert_eq!(text("SELECT 1 -- one"), "SELECT 1 -- one\nLIMIT 3");
        for has in ["SELECT 1 LIMIT 9", "SELECT 1 FETCH FIRST 9 ROWS ONLY", "(SELECT 1) UNION SELECT 2 LIMIT 9"] {
            assert_eq!(text(has), has);
        }
        assert!(text("SELECT * FROM (SELECT 1 LIMIT 9) AS t").ends_with("LIMIT 3"));
    }

    #[test]
    fn a_statement_knows_its_tables_and_its_range() {
        let statement = Statement::template(DEVICES);
        assert_eq!(statement.range_ms(), None);
        let bound = statement.bind("since", Value::Time(5)).bind("other", Value::Time(1));
        assert_eq!(bound.range_ms(), Some((5, i64::MAX)));
        assert_eq!(bound.tables().unwrap().into_iter().collect::<Vec<_>>(), ["outliers", "readings"]);
        assert_eq!(Statement::template(CAUSES).bind("since", Value::Time(5)).range_ms(), None);
    }

    #[test]
    fn a_parameter_without_a_value_is_an_error() {
        let statement = Statement::template("SELECT $x");
        assert!(matches!(statement.values(), Err(QueryError::Unbound { name }) if name == "x"));
        assert!(statement.positional().is_err());
    }

    #[test]
    fn literals_are_quoted() {
        let statement = Statement::template("$t|$n|$f|$at")
            .bind("t", Value::Text("it's".into()))
            .bind("n", Value::Int(-3))
            .bind("f", Value::Float(0.5))
            .bind("at", Value::Time(1_700_000_000_123));
        assert_eq!(statement.literal().unwrap(), "'it''s'|-3|5e-1|TIMESTAMP '2023-11-14 22:13:20.123'");
    }

    #[test]
    fn every_template_is_one_readable_statement() {
        let queries = [
            OUTLIER_EPISODES,
            OUTLIER_READINGS,
            DEVICES,
            HISTORY,
            NEWEST_OUTLIER,
            NEWEST_READING,
            DEVICE_IDS,
            CAUSES,
            VIEWS[0].1,
            VIEWS[1].1,
            VIEWS[2].1,
            RULE_FAILURES,
        ];
        for text in queries {
            Statement::of_person(text).unwrap_or_else(|e| panic!("{e}: {text}"));
        }
    }
}
