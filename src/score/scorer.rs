//! A model and the state of every device: readings in, outliers out.

use arrow::{
    array::{Array, AsArray, Float64Array, Int64Array, RecordBatch, StringArray},
    datatypes::Float64Type,
};
use hashbrown::HashMap;

use super::rows::{OutlierRows, RowOrigin};
use crate::{
    lake::scan,
    model::{DeviceState, Model, Verdict, state::STATE_BYTES},
    reading::{NO_VITALS, Reading, Vital, columns},
};

/// The states of devices, in their stored form, which is half as large as the one that is worked with.
#[derive(Debug, Default)]
pub struct States(HashMap<Box<str>, Box<[u8; STATE_BYTES]>>);

impl States {
    /// How many devices.
    pub fn devices(&self) -> usize {
        self.0.len()
    }

    /// Takes a device's state.
    pub(super) fn insert(&mut self, device: &str, state: &DeviceState) {
        self.0.insert(device.into(), Box::new(state.to_array()));
    }

    /// Takes the states of other devices.
    pub(super) fn extend(&mut self, others: States) {
        self.0.extend(others.0);
    }

    /// Every device's state, by name.
    pub(super) fn sorted(&self) -> Vec<(&str, &[u8])> {
        let mut states: Vec<(&str, &[u8])> = self.0.iter().map(|(device, s)| (device.as_ref(), s.as_slice())).collect();
        states.sort_unstable_by_key(|(device, _)| *device);
        states
    }
}

/// Scores readings, each device with what it sent before. Memory: one state of at most 512 bytes, and its name, per
/// device seen.
pub struct Scorer<'a> {
    model: &'a Model,
    states: States,
    /// Where a device that is not among the states begins.
    base: Option<&'a States>,
    /// The state that is worked with; its stored form in `states` may be older. Rows come device by device.
    open: Option<(Box<str>, DeviceState)>,
}

/// The columns of a batch of readings.
pub struct ReadingColumns {
    device: StringArray,
    ts: Int64Array,
    arrived: Int64Array,
    seq: Int64Array,
    vitals: Vec<Float64Array>,
}

impl ReadingColumns {
    /// From a batch that has the columns of [`columns::READING`].
    pub fn of(batch: &RecordBatch) -> anyhow::Result<ReadingColumns> {
        let missing = |name: &str| anyhow::anyhow!("rows without `{name}`");
        let device = batch.column_by_name("device_id").and_then(|c| c.as_string_opt::<i32>());
        let vital = |v: Vital| {
            let column = batch.column_by_name(v.column()).and_then(|c| c.as_primitive_opt::<Float64Type>());
            column.cloned().ok_or_else(|| missing(v.column()))
        };
        Ok(ReadingColumns {
            device: device.ok_or_else(|| missing("device_id"))?.clone(),
            ts: scan::times(batch, "ts"),
            arrived: scan::times(batch, "arrived_at"),
            seq: scan::int64(batch, "seq"),
            vitals: Vital::ALL.into_iter().map(vital).collect::<anyhow::Result<_>>()?,
        })
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.device.len()
    }

    /// The device of a row.
    pub fn device(&self, row: usize) -> &str {
        self.device.value(row)
    }

    /// The reading of a row.
    pub fn reading(&self, row: usize) -> Reading {
        let mut vitals = NO_VITALS;
        for (value, column) in vitals.iter_mut().zip(&self.vitals) {
            if column.is_valid(row) {
                *value = column.value(row);
            }
        }
        Reading {
            ts_ms: self.ts.value(row),
            arrived_ms: self.arrived.value(row),
            seq: self.seq.is_valid(row).then(|| self.seq.value(row)),
            vitals,
        }
    }
}

impl<'a> Scorer<'a> {
    /// A scorer that has seen no device yet.
    pub fn new(model: &'a Model) -> Scorer<'a> {
        Scorer { model, states: States::default(), base: None, open: None }
    }

    /// A scorer that goes on from `states`; a device that is not there begins as in `base`, or as never seen.
    pub fn resume(model: &'a Model, states: States, base: &'a States) -> Scorer<'a> {
        Scorer { model, states, base: Some(base), open: None }
    }

    /// What it has come to know.
    pub fn into_states(mut self) -> States {
        self.put_away();
        self.states
    }

    /// Its model.
    pub fn model(&self) -> &'a Model {
        self.model
    }

    /// The verdict on one reading.
    pub fn judge(&mut self, device: &str, reading: &Reading) -> Verdict {
        let model = self.model;
        let is_open = self.open.as_ref().is_some_and(|(open, _)| open.as_ref() == device);
        let state = match &mut self.open {
            Some((_, state)) if is_open => state,
            _ => self.open(device),
        };
        model.score(state, reading.ts_ms, &reading.vitals)
    }

    /// Puts the open state away and opens a device's.
    fn open(&mut self, device: &str) -> &mut DeviceState {
        self.put_away();
        let stored = self.states.0.get(device).or_else(|| self.base?.0.get(device));
        let stored = stored.map(|bytes| self.model.read_state(bytes.as_slice()));
        // What `put_away` and `insert` keep is a state of this model, so it can be read.
        let state = stored.and_then(Result::ok).unwrap_or_else(|| self.model.new_state());
        &mut self.open.insert((device.into(), state)).1
    }

    fn put_away(&mut self) {
        if let Some((device, state)) = self.open.take() {
            self.states.0.insert(device, Box::new(state.to_array()));
        }
    }

    /// Scores rows in the order in which they stand (sorted by device and time), and gives the outliers among them.
    pub fn score(&mut self, batch: &RecordBatch) -> anyhow::Result<RecordBatch> {
        let rows = ReadingColumns::of(batch)?;
        let mut found = OutlierRows::new(self.model.id(), false);
        for row in 0..rows.rows() {
            let reading = rows.reading(row);
            let verdict = self.judge(rows.device(row), &reading);
            if verdict.outlier || verdict.artifact {
                found.push(rows.device(row), &reading, &verdict, None);
            }
        }
        Ok(found.finish()?)
    }

    /// Scores the rows of a landing file, which are sorted by device, each device in the order of the log; gives the
    /// outliers sorted by device and time, with their origins.
    pub fn score_log(&mut self, batch: &RecordBatch) -> anyhow::Result<RecordBatch> {
        let rows = ReadingColumns::of(batch)?;
        let origins: Vec<RowOrigin<'_>> = (0..rows.rows()).map(|row| row_origin(batch, row)).collect();
        let mut order: Vec<usize> = (0..rows.rows()).collect();
        order.sort_by(|&a, &b| {
            let log = |row: usize| (origins[row].offset, origins[row].item);
            rows.device(a).cmp(rows.device(b)).then_with(|| log(a).cmp(&log(b)))
        });
        let mut verdicts = Vec::new();
        for row in order {
            let reading = rows.reading(row);
            let verdict = self.judge(rows.device(row), &reading);
            if verdict.outlier || verdict.artifact {
                verdicts.push((row, reading, verdict));
            }
        }
        // Rows of a landing file stand in the order of device and time.
        verdicts.sort_by_key(|(row, ..)| *row);
        let mut found = OutlierRows::new(self.model.id(), true);
        for (row, reading, verdict) in &verdicts {
            found.push(rows.device(*row), reading, verdict, Some(origins[*row]));
        }
        Ok(found.finish()?)
    }
}

fn row_origin(batch: &RecordBatch, row: usize) -> RowOrigin<'_> {
    let first = scan::int64(batch, "first");
    let (chain, partition, offset, item) = columns::origin(batch, row).unwrap_or(("", 0, columns::NO_OFFSET, 0));
    RowOrigin { chain, partition, first: first.value(row), offset, item }
}
