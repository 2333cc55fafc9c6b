//! Values between TOML, the words of a command line, and JSON.

use std::{any::TypeId, error::Error, ffi::OsStr};

use clap::{
    Arg, ArgAction, Command,
    error::{ContextKind, ContextValue},
};
use serde::Serialize;
use toml_edit::Value;

/// What a TOML value is, in words.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a time",
        Value::Array(_) => "an array",
        Value::InlineTable(_) => "a table",
    }
}

/// Whether an argument takes several values.
pub fn is_repeatable(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append) || arg.get_num_args().is_some_and(|range| range.max_values() > 1)
}

/// Whether an argument takes a word; the error is what its parser says against it.
pub fn parse(arg: &Arg, word: &str) -> Result<(), String> {
    // The argument itself may require others: only its parser is wanted.
    let alone = Arg::new("value")
        .allow_hyphen_values(true)
        .ignore_case(arg.is_ignore_case_set())
        .value_parser(arg.get_value_parser().clone());
    let command = Command::new("vitals").no_binary_name(true).disable_help_flag(true).arg(alone);
    let Err(error) = command.try_get_matches_from(["--", word]) else { return Ok(()) };
    if let Some(said) = error.source() {
        return Err(said.to_string());
    }
    if word.is_empty() {
        return Err("it is empty".to_owned());
    }
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(valid)) if !valid.is_empty() => {
            let valid: Vec<String> = valid.iter().map(|valid| format!("`{valid}`")).collect();
            Err(format!("`{word}` is none of {}", valid.join(", ")))
        }
        _ => Err(format!("`{word}` is not a value of it")),
    }
}

/// An effective value, as TOML and JSON write it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Shown {
    Flag(bool),
    Whole(i64),
    Number(f64),
    Text(String),
    List(Vec<Shown>),
}

impl Shown {
    /// From the words that an argument was given; `None` where they are no text.
    pub fn of<'w>(arg: &Arg, mut words: impl Iterator<Item = &'w OsStr>) -> Option<Shown> {
        if is_repeatable(arg) {
            return words.map(|word| Some(Shown::of_word(arg, word.to_str()?))).collect::<Option<_>>().map(Shown::List);
        }
        words.next()?.to_str().map(|word| Shown::of_word(arg, word))
    }

    fn of_word(arg: &Arg, word: &str) -> Shown {
        let text = || Shown::Text(word.to_owned());
        match arg.get_action() {
            ArgAction::SetTrue => return Shown::Flag(word == "true"),
            ArgAction::Count => return word.parse().map_or_else(|_| text(), Shown::Whole),
            _ => {}
        }
        if !takes_number(arg) {
            return text();
        }
        let number = || word.parse().ok().filter(|number: &f64| number.is_finite()).map(Shown::Number);
        // What TOML can't write as a number, such as those above 2^63, is written as a text.
        word.parse()
            .map(Shown::Whole)
            .ok()
            .or_else(|| if takes_fraction(arg) { number() } else { None })
            .unwrap_or_else(text)
    }

    /// As TOML.
    pub fn toml(&self) -> String {
        match self {
            Shown::Flag(value) => value.to_string(),
            Shown::Whole(value) => value.to_string(),
            // With a point or an exponent, without which it would be a whole number.
            Shown::Number(value) => format!("{value:?}"),
            Shown::Text(text) => quoted(text),
            Shown::List(values) => format!("[{}]", values.iter().map(Shown::toml).collect::<Vec<_>>().join(", ")),
        }
    }
}

fn takes_fraction(arg: &Arg) -> bool {
    let parser = arg.get_value_parser().type_id();
    parser == TypeId::of::<f64>() || parser == TypeId::of::<f32>()
}

fn takes_number(arg: &Arg) -> bool {
    let parser = arg.get_value_parser().type_id();
    let whole = [
        TypeId::of::<u8>(),
        TypeId::of::<u16>(),
        TypeId::of::<u32>(),
        TypeId::of::<u64>(),
        TypeId::of::<usize>(),
        TypeId::of::<i8>(),
        TypeId::of::<i16>(),
        TypeId::of::<i32>(),
        TypeId::of::<i64>(),
    ];
    takes_fraction(arg) || whole.iter().any(|id| parser == *id)
}

/// A text as a TOML string on one line.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
