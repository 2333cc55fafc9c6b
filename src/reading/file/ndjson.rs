//! NDJSON: a packet per line, as devices publish them, which names its device.

use std::{
    collections::VecDeque,
    io::{BufRead, Read},
};

use super::{Row, Rows, arrived};
use crate::reading::{MAX_PACKET_BYTES, packet::Parser};

pub(super) struct JsonRows {
    text: Box<dyn BufRead + Send>,
    parser: Parser,
    line: Vec<u8>,
    /// The rows of a batch after its first.
    waiting: VecDeque<Row>,
    now_ms: i64,
}

impl JsonRows {
    pub(super) fn new(text: Box<dyn BufRead + Send>, now_ms: i64) -> JsonRows {
        JsonRows { text, parser: Parser::for_files(), line: Vec::new(), waiting: VecDeque::new(), now_ms }
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
                let rows = packet.items().map(|item| Row {
                    device: packet.device.to_owned(),
                    reading: Some(arrived(item.outcome, self.now_ms)),
                    raw: item.text.to_vec(),
                });
                self.waiting.extend(rows);
                *row = self.waiting.pop_front().unwrap_or_default();
            }
            Err(reason) => {
                *row = Row { device: String::new(), reading: Some(Err(reason)), raw: std::mem::take(&mut self.line) };
            }
        }
        Ok(true)
    }

    fn ignored_columns(&self) -> &[String] {
        &[]
    }
}
