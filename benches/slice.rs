//! Records → landing file, and how small a day becomes: `cargo bench --bench slice`.
//!
//! Before the timings it prints how many bytes a reading takes in a compacted day and in a landing file, column by column,
//! beside the order-0 entropy of the same sorted column: of its values for vitals, of its steps from row to row for
//! times and counts, of "another device than the row before" for the device.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use bytes::Bytes;
use divan::{Bencher, black_box, counter::ItemsCount};
use parquet::file::reader::{FileReader, SerializedFileReader};
use vitals::{
    ingest::slice::Slice,
    lake::{
        encoding::{self, Shape},
        landing::{Footer, Kind},
    },
    log::{Record, Records},
    reading::{Reading, Vital, columns, packet::Parser},
    simulate::{Fleet, FleetOptions, device_id, payload},
};

const START_MS: i64 = 1_795_392_000_000; // 2026-11-23T00:00:00Z
const MINUTE_MS: i64 = 60_000;

fn main() {
    // Somebody who names one bench wants that.
    if std::env::args().skip(1).all(|argument| argument.starts_with('-')) {
        report("a compacted day: 1,000 devices, a reading a minute", &day());
        report("a landing file: 10,000 devices, 1,000,000 readings", &landing());
    }
    divan::main();
}

/// Readings in the order in which they arrive, a few tens of milliseconds after they were made.
fn readings(devices: u32, minutes: i64) -> Vec<(u32, Reading)> {
    let fleet = Fleet::new(FleetOptions {
        devices,
        seed: 1,
        interval_ms: MINUTE_MS,
        start_ms: START_MS,
        end_ms: START_MS + minutes * MINUTE_MS,
        origin_ms: 0,
        episodes_per_device_day: 0.5,
        warmup_ms: 0,
    });
    let mut state = 1u64;
    let mut arrived_ms = 0;
    let mut arrive = |(device, mut reading): (u32, Reading)| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        arrived_ms = arrived_ms.max(reading.ts_ms + 5 + (state >> 59) as i64);
        reading.arrived_ms = arrived_ms;
        reading.seq = Some((reading.ts_ms - START_MS) / MINUTE_MS);
        (device, reading)
    };
    fleet.map(|fleet| fleet.map(&mut arrive).collect()).unwrap_or_default()
}

fn records(readings: &[(u32, Reading)]) -> Records {
    let mut records = Records::default();
    for (offset, (device, reading)) in readings.iter().enumerate() {
        let device = device_id(*device);
        records.push(Record {
            partition: 0,
            offset: offset as i64,
            arrived_ms: reading.arrived_ms,
            stamped_ms: reading.arrived_ms,
            device: Some(&device),
            payload: payload(&device, std::slice::from_ref(reading)).as_ref(),
        });
    }
    records
}

fn slice(records: &Records) -> Slice {
    let (mut slice, mut parser) = (Slice::new("bench", 0), Parser::new());
    records.iter().for_each(|record| slice.push(&mut parser, record));
    slice
}

fn footer(slice: &Slice) -> Footer {
    let mut footer = Footer::empty(Kind::Slice, "bench", 0, 0, slice.rows() as i64, "bench");
    footer.readings = slice.readings();
    footer
}

fn day() -> Bytes {
    let mut rows = readings(1_000, 24 * 60);
    rows.sort_by_cached_key(|(device, reading)| (device_id(*device), reading.ts_ms));
    let times = |time: fn(&Reading) -> i64| -> ArrayRef {
        let times = TimestampMillisecondArray::from_iter_values(rows.iter().map(|(_, reading)| time(reading)));
        Arc::new(times.with_timezone("UTC"))
    };
    let mut all: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|(device, _)| device_id(*device)))),
        times(|reading| reading.ts_ms),
    ];
    for vital in Vital::ALL {
        let value = |(_, reading): &(u32, Reading)| Some(reading.vitals[vital.index()]).filter(|value| !value.is_nan());
        all.push(Arc::new(Float64Array::from_iter(rows.iter().map(value))));
    }
    all.push(times(|reading| reading.arrived_ms));
    all.push(Arc::new(Int64Array::from_iter(rows.iter().map(|(_, reading)| reading.seq))));
    RecordBatch::try_new(Arc::clone(&columns::READING), all)
        .map_err(Into::into)
        .and_then(|batch| encoding::to_parquet(Shape::Readings, &[batch], Vec::new()))
        .expect("a bench may fail")
}

fn landing() -> Bytes {
    let slice = slice(&records(&readings(10_000, 100)));
    slice.encode(&footer(&slice)).expect("a bench may fail")
}

/// Bits per symbol.
fn entropy<T: Hash + Eq>(symbols: impl Iterator<Item = T>) -> f64 {
    let mut counts: HashMap<T, u64> = HashMap::new();
    symbols.for_each(|symbol| *counts.entry(symbol).or_default() += 1);
    let total = counts.values().sum::<u64>() as f64;
    counts.values().map(|&count| count as f64 / total).map(|p| p * -p.log2()).sum::<f64>().abs()
}

fn column_entropy(batches: &[RecordBatch], column: usize) -> f64 {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampMillisecondType};
    let columns = || batches.iter().map(|batch| batch.column(column));
    match batches.first().map(|batch| batch.column(column).data_type().clone()) {
        Some(DataType::Float64) => {
            entropy(columns().flat_map(|c| c.as_primitive::<Float64Type>().iter().map(|value| value.map(f64::to_bits))))
        }
        Some(DataType::Utf8) => {
            let mut before = None;
            entropy(columns().flat_map(|c| c.as_string::<i32>().iter()).map(|value| {
                let changed = value != before;
                before = value;
                changed
            }))
        }
        Some(DataType::Int64 | DataType::Timestamp(..)) => {
            let mut before = None;
            let values = |c: &ArrayRef| match c.as_primitive_opt::<Int64Type>() {
                Some(numbers) => numbers.iter().collect::<Vec<_>>(),
                None => c.as_primitive::<TimestampMillisecondType>().iter().collect(),
            };
            entropy(columns().flat_map(values).map(|value| {
                let step = value.zip(before).map(|(value, before)| value - before);
                before = value;
                step
            }))
        }
        _ => 0.0,
    }
}

fn report(title: &str, file: &Bytes) {
    let reader = SerializedFileReader::new(file.clone()).expect("a file just written");
    let metadata = reader.metadata();
    let batches: Vec<RecordBatch> =
        parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(file.clone(), 1 << 20)
            .expect("a file just written")
            .collect::<Result<_, _>>()
            .expect("a file just written");
    let rows = metadata.file_metadata().num_rows() as f64;
    println!("\n{title}\n{:<18}{:>12}{:>12}{:>8}", "bytes a reading", "stored", "entropy", "ratio");
    let mut floor = 0.0;
    for (index, field) in batches[0].schema().fields().iter().enumerate() {
        let stored: i64 = metadata.row_groups().iter().map(|group| group.column(index).compressed_size()).sum();
        let (stored, entropy) = (stored as f64 / rows, column_entropy(&batches, index) / 8.0);
        floor += entropy;
        // Of next to nothing there is no ratio to speak of.
        let ratio = if entropy < 0.001 { String::new() } else { format!("{:.2}", stored / entropy) };
        println!("{:<18}{stored:>12.3}{entropy:>12.3}{ratio:>8}", field.name());
    }
    let all = file.len() as f64 / rows;
    println!("{:<18}{all:>12.3}{floor:>12.3}{:>8.2}\n", "the file", all / floor);
}

/// Records → rows in memory, with the parsing of every packet.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn push(bencher: Bencher) {
    let records = records(&readings(10_000, 100));
    bencher.counter(ItemsCount::new(records.len())).bench_local(|| slice(black_box(&records)));
}

/// Rows in memory → a sorted Parquet file in memory: 1,000,000 rows of 10,000 devices.
#[divan::bench(sample_count = 10, sample_size = 1)]
fn encode(bencher: Bencher) {
    let slice = slice(&records(&readings(10_000, 100)));
    let footer = footer(&slice);
    bencher.counter(ItemsCount::new(slice.rows())).bench_local(|| slice.encode(black_box(&footer)));
}
