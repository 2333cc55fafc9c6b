//! The comparison itself: rows that were sent against rows that are stored, part by part.
//!
//! Rows of the same device, `ts` and `seq` are looked at together. Those that also have the same vitals are one *content*:
//! a packet that was sent twice, or a reading that is in the file twice, is the same content more than once.
//!
//! 1. A content that is stored has been found. It may be stored as often as it was sent, and once is enough: closing a
//!    day drops what was sent twice.
//! 2. A content that isn't stored is looked for among the dead letters.
//! 3. If it isn't there either, but another content of the same device, `ts` and `seq` is stored, it was altered.
//! 4. What is left was lost, or is missing where nobody promised anything.
//!
//! Dead letters without a time can only be found by device and `seq`; that is a second round, over what rule 4 left.

use std::{collections::VecDeque, ops::Range};

use super::{
    bucket::{Buckets, Facts, Part, Row, Rows, Side, TakePart, vital_bits},
    report::{Found, Readings},
};
use crate::reading::{Reading, Reason, Vital, time::format_rfc3339_ms};

/// The comparison so far.
pub(super) struct Comparison {
    pub late_ms: i64,
    pub readings: Readings,
    /// What goes into the second round; `None` where no dead letter needs it.
    pub by_seq: Option<Buckets>,
}

/// The name of a dead letter's reason, from the number in its row.
fn reason(facts: &Facts) -> &'static str {
    Reason::ALL.get(facts.number as usize).map_or("unknown", |reason| reason.code())
}

/// The number of a reason's name.
pub(super) fn reason_number(code: &str) -> u32 {
    Reason::ALL.iter().zip(0..).find(|(reason, _)| reason.code() == code).map_or(u32::MAX, |(_, number)| number)
}

/// What rows have in common whose vitals are compared.
fn key(row: &Row) -> (u32, Option<i64>, Option<i64>) {
    (row.device, row.facts.ts_ms, row.facts.seq)
}

fn sort(rows: &mut [Row]) {
    rows.sort_unstable_by_key(|row| (key(row), row.facts.vitals, row.facts.at_ms, row.facts.acknowledged));
}

/// Where rows that begin at `from` stop being the same.
fn run<K: PartialEq>(rows: &[Row], from: usize, what: impl Fn(&Row) -> K) -> Range<usize> {
    let end = rows[from..].iter().position(|row| what(row) != what(&rows[from])).map_or(rows.len(), |n| from + n);
    from..end
}

/// The contents of rows of the same key, each as a slice of equal rows.
fn contents(rows: &[Row]) -> impl Iterator<Item = &[Row]> {
    rows.chunk_by(|a, b| a.facts.vitals == b.facts.vitals)
}

/// Dead letters of a part, and which of them belong to a reading that was sent.
struct Letters<'a> {
    rows: &'a [Row],
    taken: Vec<bool>,
}

impl Letters<'_> {
    /// Gives each letter with this key a content of its own, and drops these from `left`. Copies of a letter that find
    /// none left belong to those all the same.
    fn take<'r, K: Ord>(
        &mut self,
        wanted: K,
        key: impl Fn(&Row) -> K,
        left: &mut VecDeque<&'r [Row]>,
    ) -> Vec<(&'r [Row], &'static str)> {
        let start = self.rows.partition_point(|row| key(row) < wanted);
        let end = self.rows.partition_point(|row| key(row) <= wanted);
        let mut found: Vec<(&[Row], &str)> = Vec::new();
        for (letter, taken) in self.rows[start..end].iter().zip(&mut self.taken[start..end]).filter(|(_, t)| !**t) {
            match left.pop_front() {
                Some(content) => found.push((content, reason(&letter.facts))),
                None if found.is_empty() || letter.facts.seq.is_none() => break,
                None => {}
            }
            *taken = true;
        }
        found
    }
}

impl Comparison {
    /// One part of the first round.
    pub(super) fn take(&mut self, part: Part<'_>) -> anyhow::Result<()> {
        match part {
            Part::Rows { rows, one_device } => self.compare(rows, one_device),
            Part::Divided => {
                self.readings.sent.devices += 1;
                Ok(())
            }
            Part::Apart(device, letter) => self.keep_letter(device, &letter),
        }
    }

    /// The second round, once the first is over.
    pub(super) fn second_round(&mut self, budget: u64) -> anyhow::Result<()> {
        let Some(by_seq) = self.by_seq.take() else { return Ok(()) };
        let take: &mut TakePart<'_> = &mut |part| {
            if let Part::Rows { rows, .. } = part {
                self.match_by_seq(rows);
            }
            Ok(())
        };
        by_seq.each_part(budget, take)
    }

    fn compare(&mut self, mut rows: Rows, one_device: bool) -> anyhow::Result<()> {
        let mut was_sent = vec![one_device; rows.names.len()];
        rows.sent.iter().for_each(|row| was_sent[row.device as usize] = true);
        self.readings.sent.devices += if one_device { 0 } else { was_sent.iter().filter(|sent| **sent).count() as u64 };
        for side in [&mut rows.sent, &mut rows.stored, &mut rows.dead] {
            sort(side);
        }
        let mut letters = Letters { rows: &rows.dead, taken: vec![false; rows.dead.len()] };
        let (mut at_sent, mut at_stored) = (0, 0);
        while at_sent < rows.sent.len() || at_stored < rows.stored.len() {
            let (next_sent, next_stored) = (rows.sent.get(at_sent).map(key), rows.stored.get(at_stored).map(key));
            let least = next_sent.into_iter().chain(next_stored).min();
            let here = |rows: &[Row], from: usize, next| if next == least { run(rows, from, key) } else { from..from };
            let sent = &rows.sent[here(&rows.sent, at_sent, next_sent)];
            let stored = &rows.stored[here(&rows.stored, at_stored, next_stored)];
            (at_sent, at_stored) = (at_sent + sent.len(), at_stored + stored.len());
            let Some(first) = sent.first().or(stored.first()) else { break };
            if !was_sent[first.device as usize] {
                continue;
            }
            let device = &*rows.names[first.device as usize];
            self.readings.stored += stored.len() as u64;
            self.compare_key(device, sent, stored, &mut letters)?;
        }
        for (letter, taken) in rows.dead.iter().zip(letters.taken) {
            if !taken && was_sent[letter.device as usize] {
                self.keep_letter(&rows.names[letter.device as usize], &letter.facts)?;
            }
        }
        Ok(())
    }

    /// Rows of one device, `ts` and `seq`.
    fn compare_key(
        &mut self,
        device: &str,
        sent: &[Row],
        stored: &[Row],
        letters: &mut Letters<'_>,
    ) -> anyhow::Result<()> {
        let (mut left, mut others) = (VecDeque::new(), VecDeque::new());
        let mut unseen = contents(stored).peekable();
        for content in contents(sent) {
            let vitals = content[0].facts.vitals;
            while let Some(other) = unseen.next_if(|other| other[0].facts.vitals < vitals) {
                others.push_back(other);
            }
            match unseen.next_if(|other| other[0].facts.vitals == vitals) {
                Some(other) => self.found(device, content, other),
                None => left.push_back(content),
            }
        }
        others.extend(unseen);
        if let Some(first) = left.front().and_then(|content| content.first()) {
            let (device_number, ts_ms, seq) = key(first);
            let mut found = letters.take((device_number, ts_ms, seq), key, &mut left);
            // A letter that has lost its count may be any reading of its time.
            found.extend(letters.take((device_number, ts_ms, None), key, &mut left));
            for (content, reason) in found {
                self.dead_lettered(device, content, reason);
            }
        }
        let altered = left.len().min(others.len());
        for (content, other) in left.drain(..altered).zip(others.drain(..altered)) {
            self.altered(device, content, other);
        }
        for row in left.into_iter().flatten() {
            match &mut self.by_seq {
                Some(by_seq) if row.facts.seq.is_some() => by_seq.push(device, &row.facts)?,
                _ => self.gone(device, &row.facts),
            }
        }
        for row in others.into_iter().flatten() {
            self.readings.unexpected.count_one(device, &row.facts, || "it is not in the file".to_owned());
        }
        Ok(())
    }

    /// A content that was sent and is stored.
    fn found(&mut self, device: &str, sent: &[Row], stored: &[Row]) {
        self.readings.found += sent.len() as u64;
        self.count_copies(device, sent, stored);
        // The earliest of the stored ones is compared with the earliest that was published, and so on.
        for (arrived, place) in stored.iter().zip(0..) {
            let published = sent[place.min(sent.len() - 1)].facts.at_ms;
            let (Some(arrived_ms), Some(published_ms)) = (arrived.facts.at_ms, published) else { continue };
            let late_ms = arrived_ms.saturating_sub(published_ms);
            if late_ms > self.late_ms {
                self.readings.late.add(device, &arrived.facts, late_ms, published_ms);
            }
        }
    }

    /// Of a content that is stored more than once: what is explained by sending it more than once, and what isn't.
    fn count_copies(&mut self, device: &str, sent: &[Row], stored: &[Row]) {
        let sends: u64 = sent.iter().map(|row| u64::from(row.facts.number)).sum();
        let copies = stored.len() as u64;
        let explained = copies.min(sends) - 1;
        let what = || format!("sent {sends} times, stored {copies} times");
        self.readings.sent_twice.count(explained, device, &stored[0].facts, what);
        self.readings.stored_twice.count(copies - 1 - explained, device, &stored[0].facts, what);
    }

    fn altered(&mut self, device: &str, sent: &[Row], stored: &[Row]) {
        self.count_copies(device, sent, stored);
        let (was, is) = (&sent[0].facts, &stored[0].facts);
        self.readings.altered.count(sent.len() as u64, device, was, || difference(was, is));
    }

    fn dead_lettered(&mut self, device: &str, content: &[Row], reason: &'static str) {
        let readings = content.len() as u64;
        *self.readings.dead_lettered.by_reason.entry(reason).or_default() += readings;
        self.readings.dead_lettered.found.count(readings, device, &content[0].facts, || reason.to_owned());
    }

    /// A dead letter of a device of the file that is none of its readings so far.
    fn keep_letter(&mut self, device: &str, letter: &Facts) -> anyhow::Result<()> {
        match &mut self.by_seq {
            Some(by_seq) if letter.ts_ms.is_none() && letter.seq.is_some() => Ok(by_seq.push(device, letter)?),
            _ => {
                self.unmatched(letter);
                Ok(())
            }
        }
    }

    fn unmatched(&mut self, letter: &Facts) {
        *self.readings.dead_lettered.unmatched_by_reason.entry(reason(letter)).or_default() += 1;
        self.readings.dead_lettered.unmatched += 1;
    }

    /// A reading that is nowhere.
    fn gone(&mut self, device: &str, row: &Facts) {
        let published = || row.at_ms.map_or_else(String::new, |ms| format!("published {}, ", format_rfc3339_ms(ms)));
        if row.acknowledged {
            self.readings.lost.count_one(device, row, || format!("{}acknowledged", published()));
        } else {
            self.readings.missing.count_one(device, row, || format!("{}never acknowledged", published()));
        }
    }

    fn match_by_seq(&mut self, mut rows: Rows) {
        let key = |row: &Row| (row.device, row.facts.seq);
        rows.sent.sort_unstable_by_key(|row| (key(row), row.facts.ts_ms, row.facts.vitals));
        rows.dead.sort_unstable_by_key(|row| (key(row), row.facts.number));
        let mut letters = Letters { rows: &rows.dead, taken: vec![false; rows.dead.len()] };
        for sent in rows.sent.chunk_by(|a, b| key(a) == key(b)) {
            let device = &*rows.names[sent[0].device as usize];
            let same_content = |a: &Row, b: &Row| (a.facts.ts_ms, a.facts.vitals) == (b.facts.ts_ms, b.facts.vitals);
            let mut left = sent.chunk_by(same_content).collect();
            for (content, reason) in letters.take(key(&sent[0]), key, &mut left) {
                self.dead_lettered(device, content, reason);
            }
            left.into_iter().flatten().for_each(|row| self.gone(device, &row.facts));
        }
        let unmatched = rows.dead.iter().zip(letters.taken).filter(|(_, taken)| !taken);
        unmatched.for_each(|(letter, _)| self.unmatched(&letter.facts));
    }
}

/// What differs between a reading as it was sent and as it is stored.
fn difference(sent: &Facts, stored: &Facts) -> String {
    let value = |bits: u64| if bits == u64::MAX { "nothing".to_owned() } else { f64::from_bits(bits).to_string() };
    let vitals = Vital::ALL.into_iter().filter(|vital| sent.vitals[vital.index()] != stored.vitals[vital.index()]);
    let differs = |vital: Vital| {
        let (was, is) = (value(sent.vitals[vital.index()]), value(stored.vitals[vital.index()]));
        format!("{}: sent {was}, stored {is}", vital.column())
    };
    vitals.map(differs).collect::<Vec<_>>().join("; ")
}

impl Found {
    fn count_one(&mut self, device: &str, facts: &Facts, what: impl FnOnce() -> String) {
        self.count(1, device, facts, what);
    }

    fn count(&mut self, count: u64, device: &str, facts: &Facts, what: impl FnOnce() -> String) {
        if count > 0 {
            self.add(count, device, facts.ts_ms.unwrap_or(0), facts.seq, what);
        }
    }
}

/// A row of the file of what was sent, or of the view `readings`.
pub(super) fn facts(side: Side, reading: &Reading, at_ms: Option<i64>) -> Facts {
    let vitals = vital_bits(&reading.vitals);
    let (ts_ms, seq) = (Some(reading.ts_ms), reading.seq);
    Facts { side, ts_ms, seq, vitals, at_ms, acknowledged: false, number: 1 }
}
