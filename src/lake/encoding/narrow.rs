//! A column of doubles that takes few different values, written with one byte per value.
//!
//! A Parquet dictionary's indices are packed with as few bits as will do: 6 or 7 for a vital. Their boundaries then fall
//! inside of bytes, where ZSTD, whose entropy coder works on bytes, no longer sees the values and can't shorten them.
//! Packed with 8 bits they are bytes, and come out close to the entropy of the column. The format allows any width that
//! is large enough (it stands in the page), but no writer at hand offers it.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, Float64Array, NullBufferBuilder},
    datatypes::Float64Type,
};
use bytes::Bytes;
use parquet::{
    basic::BoundaryOrder, column::writer::ColumnCloseResult, errors::Result, file::statistics::Statistics,
    schema::types::ColumnDescPtr,
};

use super::{
    PAGE_ROWS,
    chunk::{Chunk, Rows, Zstd, varint},
};

/// How many different values a byte can tell apart.
const MAX_VALUES: usize = 256;

/// Slots of the table that finds a value's code: sparse, so that a probe almost always ends at the first slot.
const SLOTS: usize = 4 * MAX_VALUES;

/// The column of one row group, as codes into the values seen.
pub(super) struct NarrowColumn {
    values: Vec<f64>,
    /// Code + 1 of the value that hashes there, 0 where there is none.
    slots: Box<[u16; SLOTS]>,
    /// A code for every row; any code where the row is null.
    codes: Vec<u8>,
    nulls: NullBufferBuilder,
}

impl Default for NarrowColumn {
    fn default() -> Self {
        let (values, codes) = (Vec::new(), Vec::new());
        NarrowColumn { values, slots: Box::new([0; SLOTS]), codes, nulls: NullBufferBuilder::new(0) }
    }
}

impl NarrowColumn {
    /// Appends rows up to the first with one value too many; how many it took.
    pub fn append(&mut self, rows: &ArrayRef) -> usize {
        let rows: &Float64Array = rows.as_primitive::<Float64Type>();
        let mut taken = 0;
        for (row, &value) in rows.values().iter().enumerate() {
            let code = if rows.is_valid(row) { self.code(value) } else { Some(0) };
            let Some(code) = code else { break };
            self.codes.push(code);
            taken += 1;
        }
        match rows.nulls() {
            Some(nulls) => self.nulls.append_buffer(&nulls.slice(0, taken)),
            None => self.nulls.append_n_non_nulls(taken),
        }
        taken
    }

    /// The code of a value, `None` if there are too many.
    #[inline]
    fn code(&mut self, value: f64) -> Option<u8> {
        // Fibonacci hashing: the upper bits of the product depend on all bits of the value.
        let mut slot = (value.to_bits().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48) as usize % SLOTS;
        loop {
            match self.slots[slot] {
                0 if self.values.len() == MAX_VALUES => return None,
                0 => {
                    self.values.push(value);
                    self.slots[slot] = self.values.len() as u16;
                    return Some((self.values.len() - 1) as u8);
                }
                code if self.values[usize::from(code) - 1].to_bits() == value.to_bits() => {
                    return Some((code - 1) as u8);
                }
                _ => slot = (slot + 1) % SLOTS,
            }
        }
    }

    /// The rows as they came.
    pub fn into_array(mut self) -> ArrayRef {
        let value = |&code: &u8| self.values.get(usize::from(code)).copied().unwrap_or_default();
        Arc::new(Float64Array::new(self.codes.iter().map(value).collect(), self.nulls.finish()))
    }

    /// About how many bytes it will take in the file.
    pub fn bytes(&self) -> usize {
        self.codes.len() * 2 / 3
    }

    /// The encoded column chunk.
    pub fn close(mut self, descriptor: ColumnDescPtr, zstd: &mut Zstd) -> Result<(Bytes, ColumnCloseResult)> {
        self.sort_values();
        let nulls = self.nulls.finish();
        let plain: Vec<u8> = self.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut chunk = Chunk::with_dictionary(descriptor, self.values.len(), &plain, zstd)?;
        let mut present = Vec::with_capacity(PAGE_ROWS);
        for (page, codes) in self.codes.chunks(PAGE_ROWS).enumerate() {
            let nulls = nulls.as_ref().map(|nulls| nulls.slice(page * PAGE_ROWS, codes.len()));
            present.clear();
            match nulls.as_ref().filter(|nulls| nulls.null_count() > 0) {
                Some(nulls) => present.extend(nulls.valid_indices().map(|row| codes[row])),
                None => present.extend_from_slice(codes),
            }
            let value = |code: Option<&u8>| code.map(|&code| self.values[usize::from(code)]);
            let bounds = bounds(value(present.iter().min()), value(present.iter().max()));
            let bounds = bounds.map(|(a, b)| (a.to_le_bytes().to_vec(), b.to_le_bytes().to_vec()));
            let rows = Rows { count: codes.len(), nulls: nulls.as_ref(), bounds };
            chunk.page(rows, zstd, |out| indices(&present, out))?;
        }
        let all = bounds(self.values.first().copied(), self.values.last().copied());
        chunk.finish(BoundaryOrder::UNORDERED, |nulls| {
            Statistics::double(all.map(|all| all.0), all.map(|all| all.1), None, Some(nulls), false)
        })
    }

    /// Puts the values in ascending order, so that minima and maxima of codes are those of values.
    fn sort_values(&mut self) {
        let mut order: Vec<usize> = (0..self.values.len()).collect();
        order.sort_by(|&a, &b| self.values[a].total_cmp(&self.values[b]));
        let mut code_of = [0u8; MAX_VALUES];
        for (rank, &code) in order.iter().enumerate() {
            code_of[code] = rank as u8;
        }
        self.values = order.into_iter().map(|code| self.values[code]).collect();
        self.codes.iter_mut().for_each(|code| *code = code_of[usize::from(*code)]);
    }
}

/// Appends indices as one bit-packed run of width 8.
fn indices(codes: &[u8], out: &mut Vec<u8>) {
    out.push(8);
    if !codes.is_empty() {
        let groups = codes.len().div_ceil(8);
        varint((groups as u64) << 1 | 1, out);
        out.extend_from_slice(codes);
        out.resize(out.len() + groups * 8 - codes.len(), 0);
    }
}

/// Bounds as the format wants them: none where NaN takes part, and zeros of the sign that excludes neither zero.
fn bounds(least: Option<f64>, greatest: Option<f64>) -> Option<(f64, f64)> {
    let (least, greatest) = least.zip(greatest).filter(|(a, b)| !a.is_nan() && !b.is_nan())?;
    Some((if least == 0.0 { -0.0 } else { least }, if greatest == 0.0 { 0.0 } else { greatest }))
}
