//! The file of what was sent, row by row: `vitals simulate --sent` writes it as NDJSON; CSV and Parquet do as well.
//!
//! A row is a reading by the rules of [`crate::reading`], and says how its packet went: `published_ms`,
//! `acknowledged_ms` (null where nobody answered) and `sends`. A file without these columns says less: see [`Assumed`].
//! Other columns are ignored. The file is our own account, so a row that can't be read is an error that names it.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use anyhow::{Context, anyhow, bail};
use arrow::{
    array::{Array, AsArray, Int64Array, RecordBatch},
    compute::cast,
    datatypes::{DataType, Int64Type, TimeUnit},
};
use parquet::arrow::{
    ProjectionMask,
    arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
};
use serde::{Deserialize, Deserializer};
use serde_json::Number;

use crate::reading::{MAX_PACKET_BYTES, Reading, file::FileReader, packet::Parser};

/// One reading that was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct SentRow<'a> {
    pub device: &'a str,
    pub reading: Reading,
    pub published_ms: Option<i64>,
    pub acknowledged: bool,
    /// How often its packet went out, at least once.
    pub sends: u32,
}

/// What had to be assumed of rows that do not say it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Assumed {
    /// That they were acknowledged.
    pub acknowledged: u64,
    /// That they went out once.
    pub sends: u64,
    /// Nothing: when they were published is not known.
    pub published: u64,
}

/// What a row says of its packet's way; the outer `None` is a column that is not there.
#[derive(Debug, Clone, Default, Deserialize)]
struct Delivery {
    #[serde(default)]
    published_ms: Option<Number>,
    #[serde(default, deserialize_with = "there")]
    acknowledged_ms: Option<Option<Number>>,
    #[serde(default)]
    sends: Option<Number>,
}

/// Tells `null` from a field that is not there.
fn there<'de, D: Deserializer<'de>>(field: D) -> Result<Option<Option<Number>>, D::Error> {
    Option::deserialize(field).map(Some)
}

/// The columns of [`Delivery`], in its order.
const COLUMNS: [&str; 3] = ["published_ms", "acknowledged_ms", "sends"];

/// Reads the file and hands over every row.
///
/// # Errors
/// The file, or a row of it, can't be read; or `take` failed.
pub(super) fn read(path: &Path, mut take: impl FnMut(&SentRow<'_>) -> anyhow::Result<()>) -> anyhow::Result<Assumed> {
    let reading = || format!("reading `{}`", path.display());
    let mut assumed = Assumed::default();
    let mut take =
        |device: &str, reading: Reading, delivery: &Delivery| take(&delivery.row(device, reading, &mut assumed)?);
    let mut magic = Vec::new();
    File::open(path).with_context(reading)?.take(4).read_to_end(&mut magic).with_context(reading)?;
    if magic == b"PAR1" {
        // The readings come first, so that a file that has none of their columns is refused in their words.
        let file = FileReader::open(path, i64::MAX)?;
        read_beside(path, file, ParquetDeliveries::open(path).with_context(reading)?, &mut take)?;
    } else {
        let mut text = open_text(path, &magic).with_context(reading)?;
        if is_json(&mut text).with_context(reading)? {
            read_lines(text, &mut take).with_context(reading)?;
        } else {
            let file = FileReader::open(path, i64::MAX)?;
            read_beside(path, file, csv_deliveries(text).with_context(reading)?, &mut take)?;
        }
    }
    Ok(assumed)
}

impl Delivery {
    fn row<'a>(&self, device: &'a str, reading: Reading, assumed: &mut Assumed) -> anyhow::Result<SentRow<'a>> {
        let published_ms = whole("published_ms", self.published_ms.as_ref())?;
        let acknowledged = match &self.acknowledged_ms {
            None => true,
            Some(at) => whole("acknowledged_ms", at.as_ref())?.is_some(),
        };
        let sends = match whole("sends", self.sends.as_ref())? {
            None => 1,
            Some(sends) => u32::try_from(sends).map_err(|_| anyhow!("`sends` is {sends}"))?,
        };
        assumed.published += u64::from(published_ms.is_none());
        assumed.acknowledged += u64::from(self.acknowledged_ms.is_none());
        assumed.sends += u64::from(self.sends.is_none());
        // A packet that nobody saw go out may have gone out all the same.
        Ok(SentRow { device, reading, published_ms, acknowledged, sends: sends.max(1) })
    }
}

/// A whole number; other programs write those of a column with gaps as `5.0`.
fn whole(name: &str, number: Option<&Number>) -> anyhow::Result<Option<i64>> {
    let Some(number) = number else { return Ok(None) };
    let float = || number.as_f64().filter(|f| f.fract() == 0.0 && f.abs() <= (1_i64 << 53) as f64).map(|f| f as i64);
    number.as_i64().or_else(float).map(Some).ok_or_else(|| anyhow!("`{name}` is {number}, which is no whole number"))
}

fn open_text(path: &Path, magic: &[u8]) -> std::io::Result<Box<dyn BufRead + Send>> {
    let text = BufReader::with_capacity(128 * 1024, File::open(path)?);
    if magic.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(BufReader::with_capacity(128 * 1024, flate2::bufread::MultiGzDecoder::new(text))));
    }
    Ok(Box::new(text))
}

/// Whether the text begins with an object; a byte order mark before it is consumed.
fn is_json(text: &mut dyn BufRead) -> std::io::Result<bool> {
    if text.fill_buf()?.starts_with(&[0xef, 0xbb, 0xbf]) {
        text.consume(3);
    }
    Ok(text.fill_buf()?.trim_ascii_start().first() == Some(&b'{'))
}

/// Who takes a reading of a device, and what its row says of its way.
type Take<'a> = dyn FnMut(&str, Reading, &Delivery) -> anyhow::Result<()> + 'a;

/// NDJSON: lines are packets, with the columns of their way beside them.
fn read_lines(mut text: Box<dyn BufRead + Send>, take: &mut Take<'_>) -> anyhow::Result<()> {
    let limit = MAX_PACKET_BYTES as u64 + 2;
    let (mut parser, mut line, mut number) = (Parser::for_files(), Vec::new(), 0_u64);
    loop {
        line.clear();
        let length = (&mut text).take(limit).read_until(b'\n', &mut line)?;
        if length == 0 {
            return Ok(());
        }
        number += 1;
        if length as u64 == limit && line.last() != Some(&b'\n') {
            bail!("line {number} is longer than {MAX_PACKET_BYTES} bytes");
        }
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        // Nobody's clock is ahead of the end of time: what was sent is taken as it is.
        let packet = parser.parse(None, line, i64::MAX).map_err(|reason| anyhow!("line {number}: {reason}"))?;
        let delivery: Delivery = serde_json::from_slice(line).with_context(|| format!("line {number}"))?;
        for item in packet.items() {
            let reading = item.outcome.map_err(|reason| anyhow!("line {number}: {reason}"))?;
            take(packet.device, reading, &delivery).with_context(|| format!("line {number}"))?;
        }
    }
}

/// CSV and Parquet: the readings from one reader, and in step with it the columns of their way from another.
fn read_beside(
    path: &Path,
    mut file: FileReader,
    mut deliveries: impl Iterator<Item = anyhow::Result<Delivery>>,
    take: &mut Take<'_>,
) -> anyhow::Result<()> {
    while let Some(row) = file.next_row()? {
        let at = || format!("reading `{}`: row {}", path.display(), row.row + 1);
        let reading = row.reading.map_err(|reason| anyhow!("{}: {reason}", at()))?;
        let delivery = deliveries.next().ok_or_else(|| anyhow!("{}: it changes while it is read", at()))?;
        take(row.device, reading, &delivery.with_context(at)?).with_context(at)?;
    }
    Ok(())
}

fn csv_deliveries(text: Box<dyn BufRead + Send>) -> anyhow::Result<impl Iterator<Item = anyhow::Result<Delivery>>> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text);
    let header = reader.headers().context("it is neither CSV, NDJSON nor Parquet, plain or .gz")?;
    let places = COLUMNS.map(|name| header.iter().position(|there| there.trim() == name));
    let delivery = move |record: csv::ByteRecord| {
        let cell = |column: usize| -> anyhow::Result<Option<Option<Number>>> {
            let Some(place) = places[column] else { return Ok(None) };
            let text = std::str::from_utf8(record.get(place).unwrap_or_default())?.trim();
            if matches!(text, "" | "NA" | "NaN" | "nan" | "null") {
                return Ok(Some(None));
            }
            text.parse().map(|number| Some(Some(number))).with_context(|| format!("`{}` is `{text}`", COLUMNS[column]))
        };
        Ok(Delivery { published_ms: cell(0)?.flatten(), acknowledged_ms: cell(1)?, sends: cell(2)?.flatten() })
    };
    Ok(reader.into_byte_records().map(move |record| delivery(record?)))
}

/// The columns of [`Delivery`] of a Parquet file, row by row.
struct ParquetDeliveries {
    /// `None` where the file has none of them.
    batches: Option<ParquetRecordBatchReader>,
    columns: [Option<Int64Array>; 3],
    at: usize,
    rows: usize,
}

impl ParquetDeliveries {
    fn open(path: &Path) -> anyhow::Result<ParquetDeliveries> {
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let file = File::open(path)?;
        let builder = guarded(|| ParquetRecordBatchReaderBuilder::try_new_with_options(file, options))??;
        let schema = builder.schema();
        let known = |name: &str| COLUMNS.contains(&name);
        let places =
            schema.fields().iter().enumerate().filter(|(_, field)| known(field.name())).map(|(place, _)| place);
        let places: Vec<usize> = places.collect();
        let mut batches = None;
        if !places.is_empty() {
            let projection = ProjectionMask::roots(builder.parquet_schema(), places);
            let builder = builder.with_projection(projection).with_batch_size(8 * 1024);
            batches = Some(guarded(|| builder.build())??);
        }
        Ok(ParquetDeliveries { batches, columns: [None, None, None], at: 0, rows: 0 })
    }

    /// The next row's delivery; `None` at the end.
    fn delivery(&mut self) -> anyhow::Result<Option<Delivery>> {
        let Some(batches) = &mut self.batches else { return Ok(Some(Delivery::default())) };
        while self.at >= self.rows {
            let Some(batch) = guarded(|| batches.next())? else { return Ok(None) };
            let batch = batch.context("it is damaged")?;
            for (column, name) in self.columns.iter_mut().zip(COLUMNS) {
                *column = whole_numbers(&batch, name)?;
            }
            (self.at, self.rows) = (0, batch.num_rows());
        }
        let row = self.at;
        self.at += 1;
        let cell = |column: usize| {
            let numbers = self.columns[column].as_ref()?;
            Some(numbers.is_valid(row).then(|| Number::from(numbers.value(row))))
        };
        Ok(Some(Delivery { published_ms: cell(0).flatten(), acknowledged_ms: cell(1), sends: cell(2).flatten() }))
    }
}

impl Iterator for ParquetDeliveries {
    type Item = anyhow::Result<Delivery>;

    fn next(&mut self) -> Option<Self::Item> {
        self.delivery().transpose()
    }
}

/// A column as whole numbers, times as milliseconds since 1970 UTC; `None` where it is not there.
fn whole_numbers(batch: &RecordBatch, name: &str) -> anyhow::Result<Option<Int64Array>> {
    let Some(column) = batch.column_by_name(name) else { return Ok(None) };
    let wrong = || anyhow!("its column `{name}` is {}, not a whole number", column.data_type());
    let numbers = match column.data_type() {
        DataType::Timestamp(_, zone) => cast(column, &DataType::Timestamp(TimeUnit::Millisecond, zone.clone()))?,
        kind if kind.is_numeric() || *kind == DataType::Null => column.clone(),
        _ => return Err(wrong()),
    };
    let numbers = cast(&numbers, &DataType::Int64)?;
    let numbers = numbers.as_primitive_opt::<Int64Type>().ok_or_else(wrong)?;
    if numbers.null_count() != column.logical_null_count() {
        return Err(wrong());
    }
    Ok(Some(numbers.clone()))
}

/// Reads with the `parquet` crate, which asserts some of what a damaged file breaks: an error here like any other.
fn guarded<T>(read: impl FnOnce() -> T) -> anyhow::Result<T> {
    // What a panic leaves behind is not looked at again: the error ends the reading.
    catch_unwind(AssertUnwindSafe(read)).map_err(|_| anyhow!("it is damaged"))
}
