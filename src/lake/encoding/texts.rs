//! A column of texts that come in runs, as devices do in sorted rows.
//!
//! A row that repeats the one before is only counted, so that a run of any length costs one look into the dictionary.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, NullBufferBuilder, StringBuilder},
    buffer::NullBuffer,
};
use bytes::Bytes;
use hashbrown::HashMap;
use parquet::{
    basic::BoundaryOrder,
    column::writer::ColumnCloseResult,
    data_type::ByteArray,
    errors::Result,
    file::statistics::{Statistics, ValueStatistics},
    schema::types::ColumnDescPtr,
};

use super::{
    PAGE_ROWS,
    chunk::{Chunk, Rows, Zstd, varint},
};

/// The largest dictionary: beyond it, texts are hardly the same twice.
const MAX_BYTES: usize = 1 << 20;

/// The longest text that is stored as a bound.
const MAX_BOUND: usize = 128;

/// The column of one row group.
#[derive(Default)]
pub(super) struct TextsColumn {
    codes: HashMap<Arc<str>, u32>,
    texts: Vec<Arc<str>>,
    /// Size of the dictionary in its PLAIN encoding.
    text_bytes: usize,
    runs: Vec<Run>,
}

/// So many rows of the same text, or of none.
#[derive(Clone, Copy)]
struct Run {
    code: Option<u32>,
    rows: u32,
}

impl TextsColumn {
    /// Appends rows up to the first with one text too many; how many it took.
    pub fn append(&mut self, rows: &ArrayRef) -> usize {
        let mut taken = 0;
        for text in rows.as_string::<i32>() {
            let same = |run: &&mut Run| run.code.map(|code| &*self.texts[code as usize]) == text;
            match self.runs.last_mut().filter(same) {
                Some(run) => run.rows += 1,
                None => {
                    let code = match text {
                        Some(text) => match self.code(text) {
                            Some(code) => Some(code),
                            None => return taken,
                        },
                        None => None,
                    };
                    self.runs.push(Run { code, rows: 1 });
                }
            }
            taken += 1;
        }
        taken
    }

    fn code(&mut self, text: &str) -> Option<u32> {
        if let Some(&code) = self.codes.get(text) {
            return Some(code);
        }
        self.text_bytes += size_of::<u32>() + text.len();
        if self.text_bytes > MAX_BYTES {
            return None;
        }
        let text: Arc<str> = text.into();
        let code = self.texts.len() as u32; // Fewer than MAX_BYTES.
        self.texts.push(Arc::clone(&text));
        self.codes.insert(text, code);
        Some(code)
    }

    /// The rows as they came.
    pub fn into_array(self) -> ArrayRef {
        let mut array = StringBuilder::new();
        for run in &self.runs {
            let text = run.code.map(|code| &*self.texts[code as usize]);
            (0..run.rows).for_each(|_| array.append_option(text));
        }
        Arc::new(array.finish())
    }

    /// About how many bytes it will take in the file.
    pub fn bytes(&self) -> usize {
        self.text_bytes / 2 + self.runs.len() * 3
    }

    /// The encoded column chunk.
    pub fn close(mut self, descriptor: ColumnDescPtr, zstd: &mut Zstd) -> Result<(Bytes, ColumnCloseResult)> {
        self.sort_texts();
        let mut plain = Vec::with_capacity(self.text_bytes);
        for text in &self.texts {
            plain.extend_from_slice(&(text.len() as u32).to_le_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        let mut chunk = Chunk::with_dictionary(descriptor, self.texts.len(), &plain, zstd)?;
        let width = (u32::BITS - (self.texts.len().saturating_sub(1) as u32).leading_zeros()).max(1);
        let bound = |code: u32| self.texts.get(code as usize).filter(|text| text.len() <= MAX_BOUND);
        for runs in pages(&self.runs) {
            let count = runs.iter().map(|run| run.rows as usize).sum();
            let nulls = nulls(&runs);
            let codes = || runs.iter().filter_map(|run| run.code);
            let bounds = codes().min().and_then(bound).zip(codes().max().and_then(bound));
            let bounds = bounds.map(|(least, greatest)| (least.as_bytes().to_vec(), greatest.as_bytes().to_vec()));
            chunk.page(Rows { count, nulls: nulls.as_ref(), bounds }, zstd, |out| indices(&runs, width, out))?;
        }
        let bound = |text: Option<&Arc<str>>| {
            text.filter(|text| text.len() <= MAX_BOUND).map(|text| ByteArray::from(text.as_bytes().to_vec()))
        };
        let (least, greatest) = (bound(self.texts.first()), bound(self.texts.last()));
        chunk.finish(BoundaryOrder::UNORDERED, |nulls| {
            Statistics::ByteArray(ValueStatistics::new(least, greatest, None, Some(nulls), false))
        })
    }

    /// Puts the texts in ascending order, so that minima and maxima of codes are those of texts.
    fn sort_texts(&mut self) {
        let mut order: Vec<u32> = (0..self.texts.len() as u32).collect();
        order.sort_unstable_by(|&a, &b| self.texts[a as usize].cmp(&self.texts[b as usize]));
        let mut code_of = vec![0; order.len()];
        order.iter().zip(0..).for_each(|(&code, rank)| code_of[code as usize] = rank);
        self.texts = order.iter().map(|&code| Arc::clone(&self.texts[code as usize])).collect();
        self.runs.iter_mut().for_each(|run| run.code = run.code.map(|code| code_of[code as usize]));
    }
}

/// Runs cut at the ends of pages.
fn pages(runs: &[Run]) -> Vec<Vec<Run>> {
    let (mut pages, mut page, mut room) = (Vec::new(), Vec::new(), PAGE_ROWS as u32);
    for run in runs {
        let mut run = *run;
        while run.rows >= room {
            page.push(Run { rows: room, ..run });
            run.rows -= room;
            pages.push(std::mem::take(&mut page));
            room = PAGE_ROWS as u32;
        }
        if run.rows > 0 {
            page.push(run);
            room -= run.rows;
        }
    }
    if !page.is_empty() {
        pages.push(page);
    }
    pages
}

fn nulls(runs: &[Run]) -> Option<NullBuffer> {
    let mut nulls = NullBufferBuilder::new(PAGE_ROWS);
    for run in runs {
        match run.code {
            Some(_) => nulls.append_n_non_nulls(run.rows as usize),
            None => nulls.append_n_nulls(run.rows as usize),
        }
    }
    nulls.finish()
}

/// Appends indices of the given width in bits: runs in the format as they are here.
fn indices(runs: &[Run], width: u32, out: &mut Vec<u8>) {
    out.push(width as u8);
    for run in runs {
        if let Some(code) = run.code {
            varint(u64::from(run.rows) << 1, out);
            out.extend_from_slice(&code.to_le_bytes()[..width.div_ceil(8) as usize]);
        }
    }
}
