//! A column chunk that this crate encodes by itself: pages, offsets, bounds and metadata around given values.
//!
//! Data pages are of version 1: definition levels and values, compressed together.

use arrow::buffer::NullBuffer;
use bytes::Bytes;
use parquet::{
    basic::{BoundaryOrder, Compression, Encoding, PageType, ZstdLevel},
    column::{
        page::{CompressedPage, Page, PageWriteSpec, PageWriter},
        writer::ColumnCloseResult,
    },
    errors::{ParquetError, Result},
    file::{
        metadata::{ColumnChunkMetaData, ColumnIndexBuilder, OffsetIndexBuilder, PageEncodingStats},
        statistics::Statistics,
        writer::{SerializedPageWriter, TrackedWrite},
    },
    schema::types::ColumnDescPtr,
};

/// A compressor, used for all pages of a file in turn.
pub(super) type Zstd = zstd::bulk::Compressor<'static>;

/// A column chunk in the making.
pub(super) struct Chunk {
    descriptor: ColumnDescPtr,
    bytes: TrackedWrite<Vec<u8>>,
    /// A page before compression; kept to be used again.
    plain: Vec<u8>,
    uncompressed: usize,
    rows: usize,
    nulls: usize,
    dictionary_len: Option<usize>,
    pages: i32,
    encoding: Encoding,
    offsets: OffsetIndexBuilder,
    index: ColumnIndexBuilder,
}

/// The rows of one data page.
pub(super) struct Rows<'a> {
    pub count: usize,
    pub nulls: Option<&'a NullBuffer>,
    /// Least and greatest value as statistics write them; `None` where all rows are null or no bound can be given.
    pub bounds: Option<(Vec<u8>, Vec<u8>)>,
}

impl Chunk {
    /// An empty chunk whose data pages will have `encoding`.
    pub fn new(descriptor: ColumnDescPtr, encoding: Encoding) -> Chunk {
        Chunk {
            bytes: TrackedWrite::new(Vec::new()),
            plain: Vec::new(),
            uncompressed: 0,
            rows: 0,
            nulls: 0,
            dictionary_len: None,
            pages: 0,
            encoding,
            offsets: OffsetIndexBuilder::new(),
            index: ColumnIndexBuilder::new(descriptor.physical_type()),
            descriptor,
        }
    }

    /// A chunk whose data pages will hold indices into a dictionary: `count` values in ascending order, in PLAIN encoding.
    ///
    /// Without values it has no dictionary, and its pages, all null, hold nothing: not every reader takes an empty one.
    pub fn with_dictionary(descriptor: ColumnDescPtr, count: usize, plain: &[u8], zstd: &mut Zstd) -> Result<Chunk> {
        if count == 0 {
            return Ok(Chunk::new(descriptor, Encoding::PLAIN));
        }
        let mut chunk = Chunk::new(descriptor, Encoding::RLE_DICTIONARY);
        chunk.plain.extend_from_slice(plain);
        let num_values = count as u32; // Dictionaries are limited to far less.
        let page = |buf| Page::DictionaryPage { buf, num_values, encoding: Encoding::PLAIN, is_sorted: true };
        chunk.dictionary_len = Some(chunk.write(page, zstd)?.compressed_size);
        Ok(chunk)
    }

    /// The bytes of the pages so far.
    pub fn len(&self) -> usize {
        self.bytes.bytes_written()
    }

    /// Writes a data page; `values` appends the encoded values that are not null.
    pub fn page(&mut self, rows: Rows<'_>, zstd: &mut Zstd, values: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        self.plain.clear();
        if self.descriptor.max_def_level() > 0 {
            definition_levels(rows.count, rows.nulls, &mut self.plain);
        }
        if self.encoding != Encoding::PLAIN {
            values(&mut self.plain);
        }
        let (num_values, encoding) = (rows.count as u32, self.encoding); // At most a page's rows.
        let page = |buf| Page::DataPage {
            buf,
            num_values,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let written = self.write(page, zstd)?;
        let too_large = |_| ParquetError::General("a page of over 2 GiB".to_owned());
        self.offsets.append_row_count(rows.count as i64);
        self.offsets
            .append_offset_and_size(written.offset as i64, i32::try_from(written.compressed_size).map_err(too_large)?);
        let nulls = rows.nulls.map_or(0, NullBuffer::null_count);
        if rows.bounds.is_none() && nulls < rows.count {
            self.index.to_invalid();
        }
        let (least, greatest) = rows.bounds.unwrap_or_default();
        self.index.append(nulls == rows.count, least, greatest, nulls as i64);
        self.rows += rows.count;
        self.nulls += nulls;
        self.pages += 1;
        Ok(())
    }

    fn write(&mut self, page: impl FnOnce(Bytes) -> Page, zstd: &mut Zstd) -> Result<PageWriteSpec> {
        let compressed = Bytes::from(zstd.compress(&self.plain)?);
        let page = CompressedPage::new(page(compressed), self.plain.len());
        let written = SerializedPageWriter::new(&mut self.bytes).write_page(page)?;
        self.uncompressed += written.uncompressed_size;
        Ok(written)
    }

    /// The chunk, with offsets that count from its start. `statistics` makes its own from the number of nulls.
    pub fn finish(
        mut self,
        order: BoundaryOrder,
        statistics: impl FnOnce(u64) -> Statistics,
    ) -> Result<(Bytes, ColumnCloseResult)> {
        let bytes = Bytes::from(self.bytes.into_inner()?);
        let pages = |page_type, encoding, count| PageEncodingStats { page_type, encoding, count };
        let mut encodings = vec![Encoding::RLE, self.encoding];
        let mut page_stats = vec![pages(PageType::DATA_PAGE, self.encoding, self.pages)];
        if self.dictionary_len.is_some() {
            encodings.push(Encoding::PLAIN);
            page_stats.insert(0, pages(PageType::DICTIONARY_PAGE, Encoding::PLAIN, 1));
        }
        let metadata = ColumnChunkMetaData::builder(self.descriptor)
            .set_encodings(encodings)
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_num_values(self.rows as i64)
            .set_total_compressed_size(bytes.len() as i64)
            .set_total_uncompressed_size(self.uncompressed as i64)
            .set_dictionary_page_offset(self.dictionary_len.map(|_| 0))
            .set_data_page_offset(self.dictionary_len.unwrap_or(0) as i64)
            .set_page_encoding_stats(page_stats)
            .set_statistics(statistics(self.nulls as u64))
            .build()?;
        self.index.set_boundary_order(order);
        let close = ColumnCloseResult {
            bytes_written: bytes.len() as u64,
            rows_written: self.rows as u64,
            metadata,
            bloom_filter: None,
            column_index: if self.index.valid() { Some(self.index.build()?) } else { None },
            offset_index: Some(self.offsets.build()),
        };
        Ok((bytes, close))
    }
}

/// Appends the definition levels of a page, 1 where a value is present: one run, of equal levels or of single bits.
fn definition_levels(rows: usize, nulls: Option<&NullBuffer>, out: &mut Vec<u8>) {
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    match nulls.filter(|nulls| nulls.null_count() > 0) {
        Some(nulls) if nulls.null_count() < rows => {
            let bytes = rows.div_ceil(8);
            varint((bytes as u64) << 1 | 1, out);
            let bits = out.len();
            out.resize(bits + bytes, 0);
            nulls.valid_indices().for_each(|row| out[bits + row / 8] |= 1 << (row % 8));
        }
        nulls => {
            varint((rows as u64) << 1, out);
            out.push(u8::from(nulls.is_none()));
        }
    }
    let length = (out.len() - length_at - 4) as u32; // A page's levels are a few thousand bytes.
    out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
}

/// Appends an unsigned integer, seven bits to a byte, least first.
pub(super) fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed integer as [`varint`], small if near zero.
pub(super) fn zigzag(value: i64, out: &mut Vec<u8>) {
    varint((value << 1 ^ value >> 63) as u64, out);
}
