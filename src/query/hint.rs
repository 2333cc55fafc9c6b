//! An engine's errors in words that help: one line on what is wrong, and the nearest name where one was mistyped.

use datafusion::{common::SchemaError, error::DataFusionError};

use super::{QueryError, readonly, statement::VIEWS};
use crate::lake::StoreError;

/// What a DataFusion error says to a person.
pub(super) fn explain(error: DataFusionError, memory_bytes: usize) -> QueryError {
    let error = match store_error(error) {
        Ok(store) => return QueryError::Store(store),
        Err(error) => error,
    };
    match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => QueryError::OutOfMemory { limit_mib: memory_bytes >> 20 },
        DataFusionError::SchemaError(schema, _) => of_schema(schema),
        DataFusionError::Plan(message) => of_plan(message),
        DataFusionError::SQL(error, _) => sql(tidy(&error.to_string()), None),
        DataFusionError::NotImplemented(message) => sql(format!("not supported: {}", tidy(message)), None),
        DataFusionError::Execution(message) => sql(tidy(message), None),
        DataFusionError::ArrowError(error, _) => sql(tidy(&error.to_string()), None),
        root => QueryError::Failed(tidy(&root.strip_backtrace())),
    }
}

/// The lake's own error inside, where it is one.
fn store_error(error: DataFusionError) -> Result<StoreError, DataFusionError> {
    match error {
        DataFusionError::External(inner) => {
            inner.downcast::<StoreError>().map(|store| *store).map_err(DataFusionError::External)
        }
        DataFusionError::Context(_, inner) => store_error(*inner),
        other => Err(other),
    }
}

fn sql(message: String, hint: Option<String>) -> QueryError {
    QueryError::Sql { message, hint }
}

fn of_schema(error: &SchemaError) -> QueryError {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let names: Vec<&str> = valid_fields.iter().map(|column| column.name.as_str()).collect();
            let near = nearest(&field.name, names.iter().copied(), 3);
            let hint =
                if near.is_empty() { Some(listed("the columns are", &names)) } else { Some(did_you_mean(&near)) };
            sql(format!("there is no column `{}`", field.name), hint.filter(|_| !names.is_empty()))
        }
        SchemaError::AmbiguousReference { field } => {
            sql(format!("column `{}` is in more than one table", field.name), Some("write `table.column`".to_owned()))
        }
        other => sql(tidy(&other.to_string()), None),
    }
}

fn of_plan(message: &str) -> QueryError {
    if let Some(name) = message.strip_prefix("table '").and_then(|rest| rest.strip_suffix("' not found")) {
        let name = name.rsplit('.').next().unwrap_or(name);
        let near = nearest(name, VIEWS.iter().map(|(name, _)| *name), 1);
        let hint = match near.as_slice() {
            [] => format!("there are {}", readonly::TABLES_IN_WORDS),
            near => did_you_mean(near),
        };
        return sql(format!("there is no table `{name}`"), Some(hint));
    }
    let mut lines = message.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or(message);
    sql(tidy(first), lines.find(|line| line.starts_with("Did you mean")).map(tidy))
}

fn did_you_mean(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    format!("did you mean {}?", quoted.join(" or "))
}

fn listed(what: &str, names: &[&str]) -> String {
    const SHOWN: usize = 40;
    let more = if names.len() > SHOWN { ", …" } else { "" };
    format!("{what} {}{more}", names[..names.len().min(SHOWN)].join(", "))
}

/// A message on one line, lower-case at its start, without the engine's own prefixes and advice.
pub(super) fn tidy(message: &str) -> String {
    let message = message.split("\n\nbacktrace:").next().unwrap_or(message);
    let line: Vec<_> = message.split_whitespace().collect();
    let mut line = line.join(" ");
    for prefix in [
        "Error during planning: ",
        "Execution error: ",
        "Optimizer rule ",
        "Parquet error: ",
        "External: ",
        "Arrow error: ",
        "sql parser error: ",
        "SQL error: ",
        "Internal error: ",
    ] {
        if let Some(rest) = line.strip_prefix(prefix) {
            line = rest.to_owned();
        }
    }
    let mut chars = line.chars();
    match (chars.next(), chars.clone().next()) {
        // "SQL …" and "EOF" stay as they are.
        (Some(first), Some(second)) if first.is_uppercase() && !second.is_uppercase() => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => line,
    }
}

/// The names most like `name`, best first: those within two changes, or a third of its length.
pub fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>, most: usize) -> Vec<&'a str> {
    let allowed = (name.chars().count() / 3).max(2);
    let lower = name.to_lowercase();
    let mut near: Vec<_> = names
        .map(|candidate| (distance(&lower, &candidate.to_lowercase(), allowed), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .collect();
    near.sort_unstable();
    near.dedup();
    near.truncate(most);
    near.into_iter().map(|(_, name)| name).collect()
}

/// The Levenshtein distance of two texts; anything over `enough` where it is more than that.
fn distance(a: &str, b: &str, enough: usize) -> usize {
    let b: Vec<char> = b.chars().collect();
    if a.chars().count().abs_diff(b.len()) > enough {
        return enough + 1;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = corner + usize::from(from != *to);
            corner = row[j + 1];
            row[j + 1] = change.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_comes_first() {
        let names = ["heart_rate", "systolic", "temperature", "device_1", "device_2"];
        assert_eq!(nearest("hart_rate", names.into_iter(), 3), ["heart_rate"]);
        assert_eq!(nearest("DEVICE_1", names.into_iter(), 2), ["device_1", "device_2"]);
        assert!(nearest("zzz", names.into_iter(), 3).is_empty());
        assert!(nearest("", names.into_iter(), 3).is_empty());
    }

    #[test]
    fn distances_are_levenshteins() {
        assert_eq!(distance("kitten", "sitting", 9), 3);
        assert_eq!(distance("", "abc", 9), 3);
        assert_eq!(distance("same", "same", 9), 0);
    }

    #[test]
    fn messages_become_one_line() {
        assert_eq!(tidy("Error during planning: Invalid\n  function"), "invalid function");
        assert_eq!(tidy("EOF: file too short"), "EOF: file too short");
    }
}
