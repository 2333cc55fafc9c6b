//! NDJSON: a packet per line, as devices publish them, which names its device; `ts` may stand for `timestamp`.

use std::{
    collections::VecDeque,
    io::{BufRead, Read},
};

use super::{Column, Row, Rows, arrived, meaning};
use crate::reading::{MAX_PACKET_BYTES, packet::Parser};

pub(super) struct JsonRows {
    text: Box<dyn BufRead + Send>,
    parser: Parser,
    line: Vec<u8>,
    /// The rows of a batch after its first.
    waiting: VecDeque<Row>,
    ignored: Vec<String>,
    now_ms: i64,
}

impl JsonRows {
    pub(super) fn new(mut text: Box<dyn BufRead + Send>, now_ms: i64) -> std::io::Result<JsonRows> {
        let ignored = unknown_fields(text.fill_buf()?);
        let (parser, line, waiting) = (Parser::for_files(), Vec::new(), VecDeque::new());
        Ok(JsonRows { text, parser, line, waiting, ignored, now_ms })
    }

    /// The next line that is not blank into `line`, of one too long only its beginning; false at the end.
    fn next_line(&mut self) -> std::io::Result<bool> {
        loop {
            self.line.clear();
            let limit = MAX_PACKET_BYTES as u64 + 2;
            let length = (&mut self.text).take(limit).read_until(b'\n', &mut self.line)?;
            if length == 0 {
                return Ok(false);
            }
            if self.line.last() != Some(&b'\n') && length as u64 == limit {
                skip_line(&mut *self.text)?;
            }
            self.line.truncate(self.line.trim_ascii_end().len());
            if !self.line.is_empty() {
                return Ok(true);
            }
        }
    }
}

/// Fields of the first line that mean nothing here, as far as it can be read.
fn unknown_fields(text: &[u8]) -> Vec<String> {
    let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let Ok(serde_json::Value::Object(fields)) = serde_json::from_slice(line) else { return Vec::new() };
    fields
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| name != "readings" && meaning(name) == Column::Ignored)
        .collect()
}

fn skip_line(text: &mut dyn BufRead) -> std::io::Result<()> {
    loop {
        let available = text.fill_buf()?;
        let (length, found) = match available.iter().position(|&byte| byte == b'\n') {
            Some(end) => (end + 1, true),
            None => (available.len(), available.is_empty()),
        };
        text.consume(length);
        if found {
            return Ok(());
        }
    }
}

impl Rows for JsonRows {
    fn next(&mut self, row: &mut Row) -> anyhow::Result<bool> {
        if let Some(waiting) = self.waiting.pop_front() {
            *row = waiting;
            return Ok(true);
        }
        if !self.next_line()? {
            return Ok(false);
        }
        match self.parser.parse(None, &self.line, self.now_ms) {
            Ok(packet) => {
                let mut rows = packet.items().map(|item| Row {
                    device: packet.device.to_owned(),
                    reading: Some(arrived(item.outcome, self.now_ms)),
                    raw: if item.outcome.is_err() { item.text.to_vec() } else { Vec::new() },
                });
                *row = rows.next().unwrap_or_default();
                self.waiting.extend(rows);
            }
            Err(reason) => {
                *row = Row { device: String::new(), reading: Some(Err(reason)), raw: std::mem::take(&mut self.line) };
            }
        }
        Ok(true)
    }

    fn ignored_columns(&self) -> &[String] {
        &self.ignored
    }
}
