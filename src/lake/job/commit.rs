//! What a job has written is checked and put in force, or refused.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;

use super::{
    Counted, Input, JobError, PATIENCE_MS, Plan, SCHEMA_VERSION, Sealed, Sum, Taken, Work, count, order, plan,
};
use crate::lake::{
    compact::{self, Closed, Ending, Take},
    landing::{self, SliceFile},
    layout::{self, Table},
    merge::{self, Merge},
    run, scan,
    state::{DayRuns, Run},
    store::{Store, StoreError},
    view::View,
};

/// Puts the runs of a job in force; `None` where another state came first, so that the job has to plan anew.
///
/// # Errors
/// The runs are not what the plan's files give, or began too long ago: nothing has changed.
pub async fn commit(store: &Store, work: &Work, now_ms: i64) -> Result<Option<Closed>, JobError> {
    let Work { plan, counted, sealed } = work;
    let refuse = |what: &str, why: String| JobError::Refused { what: what.to_owned(), day: plan.day, why };
    if plan.schema_version != SCHEMA_VERSION {
        let why = format!("its plan has version {}, this program knows {SCHEMA_VERSION}", plan.schema_version);
        return Err(refuse("the work", why));
    }
    if run::begun_ms(&plan.run).is_none_or(|begun| now_ms - begun >= PATIENCE_MS) {
        return Err(JobError::TooOld { run: plan.run.clone() });
    }
    let view = View::open(store).await?;
    if view.state.n != plan.state {
        return Ok(None);
    }
    let takes = takes(store, &view, plan).await?.map_err(|why| refuse("the work", why))?;
    if plan::files(&view, plan.day, &takes) != plan.files {
        return Err(refuse("the work", "its plan names other files than the lake has for it".to_owned()));
    }
    let totals = totals(store, plan, counted).await?;
    let mut runs = DayRuns { scored_by: plan.scored_by.clone(), ..DayRuns::default() };
    let mut sent_twice = 0;
    for table in Table::ALL {
        let name = table.name().replace('_', " ");
        let parts = parts(table, sealed).map_err(|why| refuse(&name, why))?;
        is_all_there(&parts, totals.get(&table).copied().unwrap_or_default()).map_err(|why| refuse(&name, why))?;
        for checked in checked(store, plan, &parts).await? {
            checked.map_err(|why| refuse(&name, why))?;
        }
        if table == Table::Readings {
            sent_twice = parts.iter().map(|part| part.dropped).sum();
        }
        *runs.of_mut(table) = run_of(&plan.run, &parts);
    }
    let cuts = plan.takes.iter().map(|taken| (taken.chain.clone(), taken.partition, taken.cut()));
    let ending = Ending { day: plan.day, early: plan.early, cuts, runs, sent_twice };
    Ok(compact::put_in_force(store, view.state, ending).await?)
}

/// What the plan takes of each partition, with the files that the lake has for it; the inner error says what is wrong.
async fn takes(store: &Store, view: &View, plan: &Plan) -> Result<Result<Vec<Take>, String>, StoreError> {
    let planned: HashSet<&str> = plan.files.iter().map(|file| file.key.as_str()).collect();
    let take = |taken: &Taken| {
        let (taken, planned) = (taken.clone(), &planned);
        async move { take(store, view, &taken, planned).await }
    };
    let takes: Vec<Result<Take, String>> =
        stream::iter(plan.takes.iter().map(take)).buffered(at_a_time()).try_collect().await?;
    Ok(takes.into_iter().collect())
}

async fn take(
    store: &Store,
    view: &View,
    taken: &Taken,
    planned: &HashSet<&str>,
) -> Result<Result<Take, String>, StoreError> {
    let Taken { chain, partition, from, to, .. } = taken;
    let of = format!("offsets {from} to {to} of `{chain}` partition {partition}");
    let cut = view.state.cut(chain, *partition);
    if cut.offset != *from || to < from {
        return Ok(Err(format!("its plan takes {of}, and the closed days end at {}", cut.offset)));
    }
    let mine = |file: &&SliceFile| file.chain == *chain && file.partition == *partition && file.first < *to;
    let mut files = Vec::new();
    let (mut end, mut holds) = (cut.offset, cut.first);
    for file in view.landing.iter().filter(mine) {
        let footer = landing::footer(store, &file.key).await?;
        (end, holds) = (footer.next, file.first);
        let has_rows = to > from && footer.next > *from && footer.readings + footer.dead > 0;
        match (has_rows, planned.contains(file.key.as_ref())) {
            (true, false) => return Ok(Err(format!("its plan takes {of} and leaves out `{}`", file.key))),
            (true, true) => files.push(file.clone()),
            (false, _) => {}
        }
    }
    let first = match (to > from, end == *to) {
        (false, _) => cut.first,
        (true, true) => *to,
        (true, false) => holds,
    };
    if end < *to || first != taken.first {
        return Ok(Err(format!("its plan takes {of}, and the lake has them up to {end}")));
    }
    Ok(Ok(Take { chain: chain.clone(), partition: *partition, offsets: taken.offsets(), files, cut: taken.cut() }))
}

/// How many files are read at a time.
fn at_a_time() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from) * 2
}

/// What the plan's files give to each table. What nobody has counted is read now.
async fn totals(store: &Store, plan: &Plan, counted: &[Counted]) -> Result<BTreeMap<Table, Sum>, StoreError> {
    let counted: HashMap<&str, &Counted> = counted.iter().map(|counted| (counted.key.as_str(), counted)).collect();
    let mut totals = BTreeMap::<Table, Sum>::new();
    let mut add = |sums: &BTreeMap<Table, Sum>| {
        sums.iter().for_each(|(&table, &sum)| totals.entry(table).or_default().join(sum));
    };
    let mut uncounted: Vec<Input> = Vec::new();
    for file in &plan.files {
        match counted.get(file.key.as_str()) {
            Some(counted) => add(&counted.sums),
            None => uncounted.push(file.clone()),
        }
    }
    let count = |input: Input| {
        let store = store.clone();
        async move { tokio::spawn(async move { count::count(&store, &input).await }).await }
    };
    let mut counts = stream::iter(uncounted.into_iter().map(count)).buffer_unordered(at_a_time());
    while let Some(counted) = counts.next().await {
        add(&counted.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?.sums);
    }
    Ok(totals)
}

/// The parts of a table in their order, none missing and none twice.
fn parts(table: Table, sealed: &[Sealed]) -> Result<Vec<&Sealed>, String> {
    let mut parts: Vec<&Sealed> = sealed.iter().filter(|part| part.table == table).collect();
    parts.sort_by_key(|part| part.part);
    match parts.iter().enumerate().find(|(place, part)| *place != part.part) {
        Some((place, _)) => Err(format!("part {place} is missing, or another one is there twice")),
        None => Ok(parts),
    }
}

/// Whether the parts have what the files had, and follow each other.
fn is_all_there(parts: &[&Sealed], total: Sum) -> Result<(), String> {
    let mut staged = Sum::default();
    parts.iter().for_each(|part| staged.join(part.staged));
    if staged.rows != total.rows {
        return Err(format!("the job has sorted {} rows, the files have {}", staged.rows, total.rows));
    }
    if staged.hash != total.hash {
        return Err("the job has sorted as many rows as the files have, but others".to_owned());
    }
    if let Some(part) = parts.iter().find(|part| part.rows.rows + part.dropped != part.staged.rows) {
        return Err(format!("part {} has {} rows of {}", part.part, part.rows.rows, part.staged.rows));
    }
    let ends: Vec<_> = parts.iter().filter_map(|part| Some((part.part, part.ends.as_ref()?))).collect();
    match ends.windows(2).find(|pair| pair[0].1[1] >= pair[1].1[0]) {
        Some(pair) => Err(format!("part {} does not begin behind part {}", pair[1].0, pair[0].0)),
        None => Ok(()),
    }
}

/// Reads the parts once more, several at a time: what is in force is what is there, not what was said of it.
async fn checked(store: &Store, plan: &Plan, parts: &[&Sealed]) -> Result<Vec<Result<(), String>>, StoreError> {
    let check = |part: &&Sealed| {
        let (store, part) = (store.clone(), (*part).clone());
        let key = layout::run_part(part.table, plan.day, &plan.run, part.part);
        async move {
            let checked = tokio::spawn(async move {
                match check(&store, &key, &part).await {
                    Err(e @ (StoreError::Damaged { .. } | StoreError::NotFound { .. })) => Ok(Err(e.to_string())),
                    other => other.map(Ok),
                }
            });
            checked.await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
        }
    };
    stream::iter(parts.iter().map(check)).buffered(at_a_time()).try_collect().await
}

async fn check(store: &Store, key: &Path, part: &Sealed) -> Result<(), StoreError> {
    let damaged = |what: String| StoreError::Damaged { key: key.clone(), what };
    let schema = part.table.schema();
    let metadata = store.parquet_metadata(key).await?;
    let columns = metadata.file_metadata().schema_descr().num_columns();
    let (_, bytes) = store.tail(key, 0).await?;
    if (columns, bytes) != (schema.fields().len(), part.bytes) {
        return Err(damaged(format!("it has {columns} columns and {bytes} bytes, not {}", part.bytes)));
    }
    let mut rows = scan::open(store, key, bytes, &schema).await?;
    let mut sum = Sum::default();
    let mut add = |batch| sum.add(&batch).map_err(|e| damaged(e.to_string()));
    if part.table != Table::DeadLetters {
        let mut order = order::Order::default();
        rows = order::seen(rows, key.clone(), move |batch| order.follow(batch));
    }
    if part.table == Table::Readings {
        let mut merge = Merge::new(&schema, vec![merge::Input { batches: rows, keep: true }], true).await?;
        while let Some(batch) = merge.next().await? {
            add(batch)?;
        }
        if merge.dropped > 0 {
            return Err(damaged(format!("it has {} readings twice", merge.dropped)));
        }
    } else {
        while let Some(batch) = rows.try_next().await? {
            add(batch)?;
        }
    }
    if sum.rows != part.rows.rows {
        return Err(damaged(format!("it has {} rows, {} were written", sum.rows, part.rows.rows)));
    }
    if sum != part.rows {
        return Err(damaged("it has other rows than were written".to_owned()));
    }
    Ok(())
}

/// The run that the parts are; none where they have no rows.
fn run_of(name: &str, parts: &[&Sealed]) -> Option<Run> {
    let rows = parts.iter().map(|part| part.rows.rows).sum();
    let times = || parts.iter().filter_map(|part| part.times);
    Some(Run {
        run: name.to_owned(),
        rows,
        parts: parts.iter().map(|part| part.bytes).collect(),
        min_ts: times().map(|(least, _)| least).min()?,
        max_ts: times().map(|(_, greatest)| greatest).max()?,
    })
}
