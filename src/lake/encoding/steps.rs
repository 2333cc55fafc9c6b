//! A column of 64-bit integers in DELTA_BINARY_PACKED, made for rows that are sorted by device.
//!
//! The encoding packs the steps between values in blocks of 128, less the block's least step, each quarter of a block
//! with its own width. Times of one device go on in steady steps with a little jitter: 9 bits, say. But where one device
//! ends and the next begins the time falls back by hours; taken as the least step, that one makes every step of its
//! block 25 bits wide. So the least step is chosen here without such outliers, and they wrap around: the format adds
//! modulo 2⁶⁴. Their quarter is then 64 bits wide, nearly all of it zero bytes, and those ZSTD removes.

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array, NullBufferBuilder},
    compute::cast,
    datatypes::{DataType, Int64Type},
};
use bytes::Bytes;
use parquet::{
    basic::{BoundaryOrder, Encoding},
    column::writer::ColumnCloseResult,
    errors::Result,
    file::statistics::Statistics,
    schema::types::ColumnDescPtr,
};

use super::{
    PAGE_ROWS,
    chunk::{Chunk, Rows, Zstd, varint, zigzag},
};

/// Steps of a block, and of a quarter of it with a width of its own.
const BLOCK: usize = 128;
const QUARTER: usize = 32;

/// The column of one row group.
pub(super) struct StepsColumn {
    chunk: Chunk,
    /// Rows of the page at hand: values that are not null, and which rows are.
    values: Vec<i64>,
    nulls: NullBufferBuilder,
    bounds: Option<(i64, i64)>,
}

impl StepsColumn {
    pub fn new(descriptor: ColumnDescPtr) -> StepsColumn {
        StepsColumn {
            chunk: Chunk::new(descriptor, Encoding::DELTA_BINARY_PACKED),
            values: Vec::with_capacity(PAGE_ROWS),
            nulls: NullBufferBuilder::new(PAGE_ROWS),
            bounds: None,
        }
    }

    /// Appends rows: integers, or times.
    pub fn append(&mut self, rows: &ArrayRef, zstd: &mut Zstd) -> Result<()> {
        let rows = cast(rows, &DataType::Int64)?;
        let mut rows: Int64Array = rows.as_primitive::<Int64Type>().clone();
        while !rows.is_empty() {
            let take = rows.len().min(PAGE_ROWS - self.nulls.len());
            let page = rows.slice(0, take);
            match page.nulls().filter(|nulls| nulls.null_count() > 0) {
                Some(nulls) => {
                    self.values.extend(nulls.valid_indices().map(|row| page.value(row)));
                    self.nulls.append_buffer(nulls);
                }
                None => {
                    self.values.extend_from_slice(page.values());
                    self.nulls.append_n_non_nulls(take);
                }
            }
            if self.nulls.len() == PAGE_ROWS {
                self.end_page(zstd)?;
            }
            rows = rows.slice(take, rows.len() - take);
        }
        Ok(())
    }

    /// About how many bytes it would take in the file if it ended now.
    pub fn bytes(&self) -> usize {
        self.chunk.len() + self.values.len() * 2
    }

    fn end_page(&mut self, zstd: &mut Zstd) -> Result<()> {
        let count = self.nulls.len();
        let nulls = self.nulls.finish();
        let bounds = self.values.iter().copied().min().zip(self.values.iter().copied().max());
        if let Some((least, greatest)) = bounds {
            let (a, b) = self.bounds.unwrap_or((least, greatest));
            self.bounds = Some((a.min(least), b.max(greatest)));
        }
        let bounds = bounds.map(|(least, greatest)| (least.to_le_bytes().to_vec(), greatest.to_le_bytes().to_vec()));
        self.chunk.page(Rows { count, nulls: nulls.as_ref(), bounds }, zstd, |out| encode(&self.values, out))?;
        self.values.clear();
        Ok(())
    }

    /// The encoded column chunk.
    pub fn close(mut self, zstd: &mut Zstd) -> Result<(Bytes, ColumnCloseResult)> {
        if !self.nulls.is_empty() {
            self.end_page(zstd)?;
        }
        let (least, greatest) = self.bounds.unzip();
        self.chunk
            .finish(BoundaryOrder::UNORDERED, |nulls| Statistics::int64(least, greatest, None, Some(nulls), false))
    }
}

/// Appends values in DELTA_BINARY_PACKED.
fn encode(values: &[i64], out: &mut Vec<u8>) {
    varint(BLOCK as u64, out);
    varint((BLOCK / QUARTER) as u64, out);
    varint(values.len() as u64, out);
    zigzag(values.first().copied().unwrap_or(0), out);
    let mut steps = [0i64; BLOCK];
    let mut at = 0;
    while at + 1 < values.len() {
        let count = BLOCK.min(values.len() - 1 - at);
        for (step, pair) in steps.iter_mut().zip(values[at..=at + count].windows(2)) {
            *step = pair[1].wrapping_sub(pair[0]);
        }
        encode_block(&steps[..count], out);
        at += count;
    }
}

fn encode_block(steps: &[i64], out: &mut Vec<u8>) {
    let least = least_step(steps);
    zigzag(least, out);
    let widths_at = out.len();
    out.extend_from_slice(&[0; BLOCK / QUARTER]);
    for (index, quarter) in steps.chunks(QUARTER).enumerate() {
        let width = width(quarter, least);
        out[widths_at + index] = width as u8;
        pack(quarter, least, width, out);
    }
}

/// How many bits the steps of a quarter need above `least`, which may be above some of them.
fn width(quarter: &[i64], least: i64) -> u32 {
    u64::BITS - quarter.iter().fold(0, |all, step| all | step.wrapping_sub(least) as u64).leading_zeros()
}

/// What to count a block's steps from: its least, or the least of those that are near each other.
fn least_step(steps: &[i64]) -> i64 {
    // A few steps may fall out of line; more are no outliers.
    let mut lowest = [i64::MAX; 5];
    for &step in steps {
        if step < lowest[4] {
            let at = lowest.partition_point(|&lower| lower <= step);
            lowest.copy_within(at..4, at + 1);
            lowest[at] = step;
        }
    }
    let size = |least: i64| steps.chunks(QUARTER).map(|quarter| compressed_bits(quarter, least)).sum::<u32>();
    let [mut best, candidates @ ..] = lowest;
    let mut best_size = size(best);
    for least in candidates {
        if least != best && best_size > 0 {
            let size = size(least);
            if size < best_size {
                (best, best_size) = (least, size);
            }
        }
    }
    best
}

/// About how many bits a step of this quarter takes once compressed.
fn compressed_bits(quarter: &[i64], least: i64) -> u32 {
    let (mut all, mut wrapped) = (0, 0);
    for step in quarter {
        let outlier = *step < least;
        wrapped += u32::from(outlier);
        all |= if outlier { 0 } else { step.wrapping_sub(least) as u64 };
    }
    let width = u64::BITS - all.leading_zeros();
    // Zero bytes above the others cost about 9 bits, an outlier all of its own.
    if wrapped == 0 { width } else { width + 9 + wrapped * u64::BITS / QUARTER as u32 }
}

/// Appends a quarter's steps above `least`, `width` bits each, least bit first; missing ones as 0.
fn pack(quarter: &[i64], least: i64, width: u32, out: &mut Vec<u8>) {
    let (mut buffer, mut bits) = (0u128, 0);
    let end = out.len() + QUARTER * width as usize / 8;
    for step in quarter {
        buffer |= u128::from(step.wrapping_sub(least) as u64) << bits;
        bits += width;
        if bits >= u64::BITS {
            out.extend_from_slice(&(buffer as u64).to_le_bytes());
            buffer >>= u64::BITS;
            bits -= u64::BITS;
        }
    }
    out.extend_from_slice(&(buffer as u64).to_le_bytes());
    out.resize(end, 0);
}
