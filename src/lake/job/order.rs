//! Whether sorted rows are sorted.

use std::cmp::Ordering;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use futures::StreamExt;
use object_store::path::Path;

use crate::{
    lake::{
        scan::{self, Batches},
        store::StoreError,
    },
    reading::columns,
};

/// The last row that was seen: its device and time, and its place in the log where it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Last {
    device: String,
    ts_ms: i64,
    origin: Option<(String, i32, i64, i32)>,
}

/// Follows rows, and remembers the first and the last.
#[derive(Debug, Default)]
pub(super) struct Order {
    first: Option<(String, i64)>,
    last: Option<Last>,
}

impl Order {
    /// The device and time of the first and of the last row.
    pub fn ends(&self) -> Option<[(String, i64); 2]> {
        let last = self.last.as_ref()?;
        Some([self.first.clone()?, (last.device.clone(), last.ts_ms)])
    }

    /// Takes the next rows: by device and time; of the same, those of closed days first, then by their place in the log,
    /// which no two share.
    pub fn follow(&mut self, batch: &RecordBatch) -> Result<(), String> {
        let (devices, times) = (texts(batch, "device_id")?, scan::times(batch, "ts"));
        let has_origin = batch.column_by_name("chain").is_some();
        let at = |row: usize| (devices.value(row), times.value(row));
        for row in 0..batch.num_rows() {
            let origin = if has_origin { columns::origin(batch, row) } else { None };
            let before = match row.checked_sub(1) {
                None => match &self.last {
                    None => {
                        self.first = Some((devices.value(row).to_owned(), times.value(row)));
                        continue;
                    }
                    Some(last) => {
                        let origin_before = last.origin.as_ref().map(|(c, p, o, i)| (c.as_str(), *p, *o, *i));
                        ((last.device.as_str(), last.ts_ms), origin_before)
                    }
                },
                Some(row) => (at(row), if has_origin { columns::origin(batch, row) } else { None }),
            };
            let falls = match at(row).cmp(&before.0) {
                Ordering::Less => true,
                Ordering::Greater => false,
                // `None`, of a closed day, goes before every place in the log.
                Ordering::Equal => origin < before.1 || (origin.is_some() && origin == before.1),
            };
            if falls {
                let (device, ts_ms) = at(row);
                let after = &before.0;
                let what = if at(row) == before.0 { "in the order of the log" } else { "sorted" };
                return Err(format!(
                    "its rows are not {what}: `{device}` at {ts_ms} after `{}` at {}",
                    after.0, after.1
                ));
            }
        }
        if let Some(row) = batch.num_rows().checked_sub(1) {
            let origin = columns::origin(batch, row).filter(|_| has_origin);
            let origin = origin.map(|(chain, partition, offset, item)| (chain.to_owned(), partition, offset, item));
            self.last = Some(Last { device: devices.value(row).to_owned(), ts_ms: times.value(row), origin });
        }
        Ok(())
    }
}

fn texts(batch: &RecordBatch, name: &str) -> Result<StringArray, String> {
    let column = batch.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
    let column = column.ok_or_else(|| format!("it has no texts `{name}`"))?;
    if column.null_count() > 0 {
        return Err(format!("`{name}` is missing in a row"));
    }
    Ok(column.clone())
}

/// The same rows; what is done with each batch may refuse it.
pub(super) fn seen(
    batches: Batches,
    key: Path,
    mut see: impl FnMut(&RecordBatch) -> Result<(), String> + Send + 'static,
) -> Batches {
    let seen = batches.map(move |batch| {
        let batch = batch?;
        see(&batch).map_err(|what| StoreError::Damaged { key: key.clone(), what })?;
        Ok(batch)
    });
    seen.boxed()
}
