//! The statements, and what an engine makes of their parameters.
//!
//! A statement's text is the same for every engine, but for its parameters: written `$name` in `templates/`, they reach
//! DataFusion as named values ([`Statement::values`]), Athena and Trino as `?` in order of appearance
//! ([`Statement::positional`]). A value is never pasted into a statement's text. Only a view's definition, which can't
//! have parameters in Athena, has its numbers and days written out ([`Statement::literal`]).

use std::{borrow::Cow, collections::BTreeMap};

use super::{QueryError, readonly};

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
}

/// A stretch of a statement's text.
#[derive(Debug, PartialEq)]
enum Piece<'a> {
    Text(&'a str),
    Name(&'a str),
}

impl Statement {
    /// A statement of ours.
    pub fn template(text: &'static str) -> Statement {
        Statement { text: Cow::Borrowed(text), values: BTreeMap::new(), limit: None }
    }

    /// A person's statement, which must do nothing but read.
    pub fn of_person(text: &str) -> Result<Statement, QueryError> {
        readonly::check(text)?;
        let text = text.trim().trim_end_matches([';', ' ', '\n', '\t', '\r']);
        Ok(Statement { text: Cow::Owned(text.to_owned()), values: BTreeMap::new(), limit: None })
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
        Statement { text: Cow::Owned(text), values: self.values.clone(), limit: None }
    }

    /// The text with `$name` where a parameter stands.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The parameters by name, every one that the text has.
    pub fn values(&self) -> Result<Vec<(&str, &Value)>, QueryError> {
        let mut found = BTreeMap::new();
        for piece in pieces(&self.text) {
            if let Piece::Name(name) = piece {
                found.insert(name, self.value(name)?);
            }
        }
        Ok(found.into_iter().collect())
    }

    /// The text with `?` where a parameter stands, and the values in that order; the limit is part of the text.
    pub fn positional(&self) -> Result<(String, Vec<&Value>), QueryError> {
        let mut values = Vec::new();
        let mut text = self.render(|value| {
            values.push(value);
            "?".to_owned()
        })?;
        if let Some(limit) = self.limit {
            text = format!("{}\nLIMIT {limit}", text.trim_end());
        }
        Ok((text, values))
    }

    /// The text with its values written out as SQL literals, for the definition of a view.
    pub fn literal(&self) -> Result<String, QueryError> {
        self.render(|value| match value {
            Value::Text(text) => format!("'{}'", text.replace('\'', "''")),
            Value::Int(int) => int.to_string(),
            Value::Float(float) => format!("{float:e}"),
            Value::Time(ms) => {
                format!(
                    "TIMESTAMP '{}'",
                    crate::reading::time::format_rfc3339_ms(*ms).replace('T', " ").replace('Z', "")
                )
            }
        })
    }

    fn value(&self, name: &str) -> Result<&Value, QueryError> {
        self.values.get(name).ok_or_else(|| QueryError::Unbound { name: name.to_owned() })
    }

    fn render<'a>(&'a self, mut write: impl FnMut(&'a Value) -> String) -> Result<String, QueryError> {
        let mut text = String::with_capacity(self.text.len());
        for piece in pieces(&self.text) {
            match piece {
                Piece::Text(part) => text.push_str(part),
                Piece::Name(name) => text.push_str(&write(self.value(name)?)),
            }
        }
        Ok(text)
    }
}

/// Splits a text into what stands between the parameters, and the parameters; quoted text and comments have none.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let bytes = text.as_bytes();
    let (mut pieces, mut from, mut at) = (Vec::new(), 0, 0);
    let find = |start: usize, end: &str| text[start..].find(end).map_or(text.len(), |i| start + i + end.len());
    while at < bytes.len() {
        match bytes[at] {
            // A doubled quote ends one quoted text and starts the next, which comes to the same.
            b'\'' => at = find(at + 1, "'"),
            b'"' => at = find(at + 1, "\""),
            b'-' if bytes[at..].starts_with(b"--") => at = find(at, "\n"),
            b'$' => {
                let name = at + 1;
                let is_name = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
                let end = name + bytes[name..].iter().take_while(|b| is_name(b)).count();
                if end > name {
                    pieces.push(Piece::Text(&text[from..at]));
                    pieces.push(Piece::Name(&text[name..end]));
                    from = end;
                }
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
        let names: Vec<_> = pieces(text)
            .into_iter()
            .filter_map(|p| if let Piece::Name(name) = p { Some(name) } else { None })
            .collect();
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
        ];
        for text in queries {
            Statement::of_person(text).unwrap_or_else(|e| panic!("{e}: {text}"));
        }
    }
}
