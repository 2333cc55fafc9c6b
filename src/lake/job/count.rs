//! What the files that go into a day have, read beside the job that sorts them.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;

use super::{Counted, Input, Kind, Sum};
use crate::{
    lake::{
        compact::{closed_rows, landing_rows},
        landing::{self, Footer, SliceFile},
        layout::Table,
        scan::{self, Batches, Offsets, Rows},
        store::{Store, StoreError},
    },
    reading::columns,
};

/// Sums up what a file gives to each table. A landing file that is taken whole must have as many rows as its footer says.
pub async fn count(store: &Store, input: &Input) -> Result<Counted, StoreError> {
    let mut sums = BTreeMap::new();
    for &table in input.kind.tables() {
        let mut batches = rows(store, input, table).await?;
        let mut sum = Sum::default();
        while let Some(batch) = batches.try_next().await? {
            sum.add(&batch).map_err(|e| damaged(input, e.to_string()))?;
        }
        sums.insert(table, sum);
    }
    if input.kind == Kind::Landing {
        let footer = landing::footer(store, &key(input)).await?;
        agrees(&footer, input, &sums).map_err(|what| damaged(input, what))?;
    }
    Ok(Counted { key: input.key.clone(), sums })
}

fn key(input: &Input) -> Path {
    Path::from(input.key.as_str())
}

fn damaged(input: &Input, what: String) -> StoreError {
    StoreError::Damaged { key: key(input), what }
}

fn agrees(footer: &Footer, input: &Input, sums: &BTreeMap<Table, Sum>) -> Result<(), String> {
    let whole = input.from <= footer.first && footer.next <= input.to;
    for (table, said) in [(Table::Readings, footer.readings), (Table::DeadLetters, footer.dead)] {
        let found = sums.get(&table).map_or(0, |sum| sum.rows);
        if found > said || (whole && found != said) {
            return Err(format!("its footer says {said} {}, and it has {found}", table.name().replace('_', " ")));
        }
    }
    Ok(())
}

/// The rows of a file that go into a table, each with its place in the log, as the job is to sort them.
pub async fn rows(store: &Store, input: &Input, table: Table) -> Result<Batches, StoreError> {
    let offsets = Offsets { from: input.from, to: input.to };
    let slice = || SliceFile {
        key: key(input),
        bytes: input.bytes,
        chain: input.chain.clone(),
        partition: input.partition,
        first: 0,
    };
    Ok(match input.kind {
        Kind::Landing if table == Table::DeadLetters => landing_rows(store, &slice(), offsets, Rows::DeadLetters),
        Kind::Landing => landing_rows(store, &slice(), offsets, Rows::Readings),
        Kind::Scored => {
            let batches = scan::open(store, &key(input), input.bytes, &columns::SCORED).await?;
            let key = key(input);
            let within = move |batch| {
                let damaged =
                    |e: arrow::error::ArrowError| StoreError::Damaged { key: key.clone(), what: e.to_string() };
                scan::within(&batch, offsets).map_err(damaged)
            };
            batches.and_then(move |batch| std::future::ready(within(batch))).boxed()
        }
        Kind::Readings => closed_rows(scan::open(store, &key(input), input.bytes, &columns::READING).await?),
        Kind::Outliers => {
            let key = key(input);
            let batches = scan::open(store, &key, input.bytes, &columns::OUTLIER).await?;
            let shape = move |batch| {
                let damaged =
                    |e: arrow::error::ArrowError| StoreError::Damaged { key: key.clone(), what: e.to_string() };
                columns::outliers_without_origin(&batch).map_err(damaged)
            };
            batches.and_then(move |batch| std::future::ready(shape(batch))).boxed()
        }
        Kind::DeadLetters => scan::open(store, &key(input), input.bytes, &columns::DEAD_LETTER).await?,
    })
}
