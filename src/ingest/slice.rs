//! The outcomes of one partition's records, gathered and then written as one Parquet file.
//!
//! A slice takes every record of its partition from an offset on, readings and dead letters alike, and becomes one
//! landing file: one write commits both. It is held as rows in the order of the log, about 100 bytes for a reading, and is
//! sorted by (device, time) only when it is written.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BinaryBuilder, Int32Array, Int64Array, PrimitiveArray, RecordBatch, StringArray, StringBuilder,
        TimestampMillisecondArray,
    },
    buffer::NullBuffer,
    datatypes::ArrowPrimitiveType,
    error::ArrowError,
};
use bytes::Bytes;
use parquet::errors::ParquetError;

use crate::{
    lake::{
        encoding::{FileWriter, Shape},
        landing::Footer,
    },
    log::Record,
    reading::{
        MAX_DEVICE_ID, MAX_PACKET_BYTES, Reading, Reason, Vital, columns,
        packet::{ENVELOPE, Item, Parser},
        valid_device_id,
    },
};
use rows::{Dead, Devices, Outcome, Row, Rows};

mod rows;
#[cfg(test)]
mod tests;

/// What came of the records `[first, next)` of one partition.
#[derive(Debug)]
pub struct Slice {
    chain: String,
    partition: i32,
    last: Option<(i64, i64)>,
    devices: Devices,
    readings: Rows,
    dead: Vec<Dead>,
    /// Bytes of the dead letters' payloads.
    payload_bytes: usize,
    reasons: [u64; Reason::ALL.len()],
}

impl Slice {
    /// An empty slice.
    pub fn new(chain: &str, partition: i32) -> Slice {
        Slice {
            chain: chain.to_owned(),
            partition,
            last: None,
            devices: Devices::default(),
            readings: Rows::default(),
            dead: Vec::new(),
            payload_bytes: 0,
            reasons: [0; Reason::ALL.len()],
        }
    }

    /// Takes the next record: every reading in it, and why the others are none. At least one row comes of it.
    pub fn push(&mut self, parser: &mut Parser, record: Record<'_>) {
        let Record { offset, arrived_ms, device, payload, .. } = record;
        match parser.parse(device, payload, arrived_ms) {
            Ok(packet) => {
                self.last = Some((offset, arrived_ms));
                // The parser has seen that it is one.
                let device = self.devices.intern(packet.device);
                for Item { item, outcome, text } in packet.items() {
                    match outcome {
                        Ok(reading) => self.readings.push(Row { reading, offset, device, item }),
                        Err(reason) => self.push_dead(offset, item, arrived_ms, Some(device), reason, text),
                    }
                }
            }
            Err(reason) => self.push_outcome(offset, ENVELOPE, arrived_ms, device, Err(reason), payload),
        }
    }

    /// Takes what came of one item of a record. Of a dead letter's `payload` up to 128 KB are kept.
    pub fn push_outcome(
        &mut self,
        offset: i64,
        item: i32,
        arrived_ms: i64,
        device: Option<&str>,
        outcome: Result<Reading, Reason>,
        payload: &[u8],
    ) {
        self.last = Some((offset, arrived_ms));
        let valid = device.is_some_and(valid_device_id);
        // Of an id that can't be one, enough is kept to recognise it.
        let device = device.map(|id| self.devices.intern(&id[..id.floor_char_boundary(MAX_DEVICE_ID)]));
        let reason = match (outcome, device) {
            (Ok(reading), Some(device)) if valid => return self.readings.push(Row { reading, offset, device, item }),
            (Ok(_), _) => Reason::BadDeviceId,
            (Err(reason), _) => reason,
        };
        self.push_dead(offset, item, arrived_ms, device, reason, payload);
    }

    fn push_dead(
        &mut self,
        offset: i64,
        item: i32,
        arrived_ms: i64,
        device: Option<u32>,
        reason: Reason,
        payload: &[u8],
    ) {
        let payload: Box<[u8]> = payload[..payload.len().min(MAX_PACKET_BYTES)].into();
        self.payload_bytes += payload.len();
        self.reasons[reason as usize] += 1;
        self.dead.push(Dead { device, offset, arrived_ms, item, reason, payload });
    }

    /// How many rows it has.
    pub fn rows(&self) -> usize {
        self.readings.len() + self.dead.len()
    }

    /// How much memory it takes, in bytes. Writing it takes about as much again for a moment.
    pub fn bytes(&self) -> usize {
        let dead = self.dead.capacity() * (size_of::<Dead>() + 16) + self.payload_bytes; // 16: the allocator's own.
        self.readings.bytes() + self.devices.bytes() + dead
    }

    /// Offset and arrival time of its last record.
    pub fn last(&self) -> Option<(i64, i64)> {
        self.last
    }

    /// How many rows are readings.
    pub fn readings(&self) -> u64 {
        self.readings.len() as u64
    }

    /// How many rows are dead letters.
    pub fn dead(&self) -> u64 {
        self.dead.len() as u64
    }

    /// Dead letters by reason, of which there are any.
    pub fn reasons(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.into_iter().zip(self.reasons).filter(|(_, count)| *count > 0)
    }

    /// The landing file, whose footer says what `footer` says.
    ///
    /// Rows are sorted by (device, time, offset, item). A device's dead letters, which have no time, follow its readings;
    /// those without a device are last.
    pub fn encode(&self, footer: &Footer) -> Result<Bytes, ParquetError> {
        let mut file = FileWriter::new(Shape::Landing, footer.key_values())?;
        let order = rows::sorted(&self.devices, &self.readings, &self.dead);
        for batch in order.chunks(BATCH_ROWS) {
            file.write(&self.batch(batch, footer.first)?)?;
        }
        file.finish()
    }

    /// The given rows as columns of [`columns::LANDING`].
    fn batch(&self, order: &[u32], first: i64) -> Result<RecordBatch, ArrowError> {
        // Sorted rows lie all over the memory. Nothing but copying them lets the processor fetch many at a time.
        let outcomes: Vec<Outcome> =
            order.iter().map(|&index| rows::outcome(index, &self.readings, &self.dead)).collect();
        let mut batch = Batch::with_capacity(order.len());
        for outcome in &outcomes {
            match outcome {
                Outcome::Reading(row) => batch.push_reading(row, self.devices.name(row.device)),
                Outcome::Dead(dead) => batch.push_dead(dead, dead.device.map(|device| self.devices.name(device))),
            }
        }
        batch.finish(&self.chain, self.partition, first)
    }
}

/// Rows that are turned into columns at a time: they should stay in the processor's own cache.
const BATCH_ROWS: usize = 4096;

/// Columns in the making.
struct Batch {
    device: StringBuilder,
    ts: Vec<i64>,
    vitals: [Vec<f64>; Vital::ALL.len()],
    arrived: Vec<i64>,
    seq: Vec<Option<i64>>,
    offset: Vec<i64>,
    item: Vec<i32>,
    reason: StringBuilder,
    payload: BinaryBuilder,
    /// Readings since the last dead letter.
    fine: usize,
}

/// The time of a row that has none, in a batch in the making.
const NO_TIME: i64 = i64::MIN;

impl Batch {
    fn with_capacity(rows: usize) -> Batch {
        Batch {
            device: StringBuilder::with_capacity(rows, rows * 16),
            ts: Vec::with_capacity(rows),
            vitals: std::array::from_fn(|_| Vec::with_capacity(rows)),
            arrived: Vec::with_capacity(rows),
            seq: Vec::with_capacity(rows),
            offset: Vec::with_capacity(rows),
            item: Vec::with_capacity(rows),
            reason: StringBuilder::new(),
            payload: BinaryBuilder::new(),
            fine: 0,
        }
    }

    fn push_reading(&mut self, row: &Row, device: &str) {
        self.device.append_value(device);
        self.ts.push(row.reading.ts_ms);
        self.vitals.iter_mut().zip(row.reading.vitals).for_each(|(column, value)| column.push(value));
        self.arrived.push(row.reading.arrived_ms);
        self.seq.push(row.reading.seq);
        self.offset.push(row.offset);
        self.item.push(row.item);
        self.fine += 1;
    }

    /// Adds what readings have of the columns that only dead letters fill, for all that came since the last one.
    fn catch_up(&mut self) {
        let fine = std::mem::take(&mut self.fine);
        self.reason.append_nulls(fine);
        self.payload.append_nulls(fine);
    }

    fn push_dead(&mut self, dead: &Dead, device: Option<&str>) {
        self.catch_up();
        self.device.append_option(device);
        self.ts.push(NO_TIME);
        self.vitals.iter_mut().for_each(|column| column.push(f64::NAN));
        self.arrived.push(dead.arrived_ms);
        self.seq.push(None);
        self.offset.push(dead.offset);
        self.item.push(dead.item);
        self.reason.append_value(dead.reason.code());
        self.payload.append_value(&dead.payload);
    }

    fn finish(mut self, chain: &str, partition: i32, first: i64) -> Result<RecordBatch, ArrowError> {
        self.catch_up();
        let rows = self.ts.len();
        let times = |column: TimestampMillisecondArray| Arc::new(column.with_timezone("UTC")) as ArrayRef;
        let mut all: Vec<ArrayRef> = vec![Arc::new(self.device.finish())];
        all.push(times(with_nulls(self.ts, |&ts| ts != NO_TIME)));
        for column in self.vitals {
            all.push(Arc::new(with_nulls::<arrow::datatypes::Float64Type>(column, |value| !value.is_nan())));
        }
        all.push(times(self.arrived.into()));
        all.push(Arc::new(Int64Array::from(self.seq)));
        all.push(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(chain, rows))));
        all.push(Arc::new(Int32Array::from_value(partition, rows)));
        all.push(Arc::new(Int64Array::from_value(first, rows)));
        all.push(Arc::new(Int64Array::from(self.offset)));
        all.push(Arc::new(Int32Array::from(self.item)));
        all.push(Arc::new(self.reason.finish()));
        all.push(Arc::new(self.payload.finish()));
        RecordBatch::try_new(Arc::clone(&columns::LANDING), all)
    }
}

/// An array that is null wherever a value does not count as one.
fn with_nulls<T: ArrowPrimitiveType>(values: Vec<T::Native>, valid: impl Fn(&T::Native) -> bool) -> PrimitiveArray<T> {
    let nulls = if values.iter().all(&valid) { None } else { Some(values.iter().map(valid).collect::<NullBuffer>()) };
    PrimitiveArray::new(values.into(), nulls)
}
