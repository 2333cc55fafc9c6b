//! What several areas need: small lakes, and what a view shows.

use arrow::{
    array::AsArray,
    compute::cast,
    datatypes::{DataType, Int64Type},
};
use vitals::{
    ingest::slice::Slice,
    lake::{
        Store,
        landing::{self, Footer, Kind, Put},
    },
    query::{Engine, LocalEngine, Options, Statement},
    reading::{NO_VITALS, Reading, Reason, Vital},
};

pub const DAY_MS: i64 = 86_400_000;
pub const HOUR_MS: i64 = 3_600_000;

/// A reading with a heart rate.
pub fn reading(ts_ms: i64, arrived_ms: i64, heart_rate: f64) -> Reading {
    let mut vitals = NO_VITALS;
    vitals[Vital::HeartRate.index()] = heart_rate;
    Reading { ts_ms, arrived_ms, seq: None, vitals }
}

/// What one record of a log became.
pub struct Outcome {
    pub device: &'static str,
    pub arrived_ms: i64,
    pub outcome: Result<Reading, Reason>,
}

/// A reading that arrived when it was measured.
pub fn good(device: &'static str, ts_ms: i64, heart_rate: f64) -> Outcome {
    Outcome { device, arrived_ms: ts_ms, outcome: Ok(reading(ts_ms, ts_ms, heart_rate)) }
}

/// Writes the slice `[first, first + outcomes)` of partition 0 and gives its `next`.
pub async fn land(store: &Store, chain: &str, first: i64, outcomes: &[Outcome]) -> i64 {
    land_as(store, chain, 0, first, outcomes, |_| ()).await
}

/// The same for any partition, with a footer that says more.
pub async fn land_as(
    store: &Store,
    chain: &str,
    partition: i32,
    first: i64,
    outcomes: &[Outcome],
    describe: impl Fn(&mut Footer),
) -> i64 {
    let mut slice = Slice::new(chain, partition);
    for (offset, one) in (first..).zip(outcomes) {
        slice.push_outcome(offset, 0, one.arrived_ms, Some(one.device), one.outcome, b"{}");
    }
    let next = first + outcomes.len() as i64;
    let mut footer = Footer {
        last_offset: outcomes.last().map(|_| next - 1),
        last_arrived_ms: outcomes.last().map(|last| last.arrived_ms),
        readings: slice.readings(),
        dead: slice.dead(),
        ..Footer::empty(Kind::Slice, chain, partition, first, next, "test")
    };
    describe(&mut footer);
    let file = slice.encode(&footer).unwrap();
    assert_eq!(landing::put(store, chain, partition, first, file).await.unwrap(), Put::Done);
    next
}

/// Every row of the view `readings`: device, time, heart rate; sorted.
pub async fn readings(store: &Store) -> Vec<(String, i64, String)> {
    let rows = rows(store, "SELECT device_id, ts, heart_rate FROM readings ORDER BY device_id, ts, heart_rate").await;
    rows.into_iter().map(|row| (row[0].clone(), row[1].parse().unwrap(), row[2].clone())).collect()
}

/// The rows of a statement, as text; times in milliseconds.
pub async fn rows(store: &Store, sql: &'static str) -> Vec<Vec<String>> {
    let engine = LocalEngine::open(store.clone(), Options::default()).await.unwrap();
    let mut found = Vec::new();
    for batch in engine.run(&Statement::template(sql)).await.unwrap().collect().await.unwrap() {
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| match column.data_type() {
                DataType::Timestamp(..) => {
                    let millis = DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, None);
                    let numbers = cast(&cast(column, &millis).unwrap(), &DataType::Int64).unwrap();
                    let numbers = numbers.as_primitive::<Int64Type>().clone();
                    cast(&numbers, &DataType::Utf8).unwrap()
                }
                _ => cast(column, &DataType::Utf8).unwrap(),
            })
            .collect();
        for row in 0..batch.num_rows() {
            let cell = |column: &arrow::array::ArrayRef| {
                let column = column.as_string::<i32>();
                if arrow::array::Array::is_null(column, row) { "null".to_owned() } else { column.value(row).to_owned() }
            };
            found.push(columns.iter().map(cell).collect());
        }
    }
    assert_eq!(engine.take_warnings(), Vec::<String>::new());
    found
}
