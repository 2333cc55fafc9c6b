//! Compaction: closes days. Landing rows become the sorted runs of the day in which they were stored.
//!
//! For each day, in order: find how far each partition goes (up to the first record that arrived after the day), merge,
//! drop rows that were sent twice, write the runs, and put the next state in force. Until that last step nothing has
//! changed for anybody; after it everything has. A crash in between leaves runs that no state names, which [`super::clean`]
//! removes in time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::array::{BooleanArray, RecordBatch};
use futures::{StreamExt, TryStreamExt};
use hashbrown::HashSet;

use super::{
    catalogue,
    landing::{self, Footer, SliceFile},
    layout::{Day, Table},
    merge::{Input, Merge, Origin},
    run::{self, RunWriter},
    scan::{self, Batches, Offsets, Rows},
    spill::narrow,
    state::{Commit, Cut, DayRuns, Run, State},
    store::{Store, StoreError},
    view::View,
};
use crate::reading::columns;

/// What to compact.
#[derive(Debug, Clone, Copy)]
pub struct CompactOptions {
    /// The time, milliseconds since 1970 UTC.
    pub now_ms: i64,
    /// Also close the running day, into which more may be merged later.
    pub running_day: bool,
}

/// A day that was closed.
#[derive(Debug, Clone, PartialEq)]
pub struct Closed {
    pub day: Day,
    /// Rows in the day's runs now.
    pub readings: u64,
    pub outliers: u64,
    pub dead_letters: u64,
    /// Rows dropped as sent twice.
    pub sent_twice: u64,
    pub bytes: u64,
}

/// How many footers are read at a time.
const FOOTERS: usize = 32;

/// How often a lost race for the next state is tried again.
const RACES: u32 = 20;

/// Closes every day that can be closed, and tells of each.
pub async fn compact(
    store: &Store,
    options: CompactOptions,
    mut told: impl FnMut(&Closed),
) -> Result<Vec<Closed>, StoreError> {
    let mut closed = Vec::new();
    let mut races = 0;
    loop {
        let view = View::open(store).await?;
        let Some(work) = work(store, &view, options).await? else { return Ok(closed) };
        match close_day(store, view, work).await? {
            Some(one) => {
                told(&one);
                closed.push(one);
            }
            None if races < RACES => races += 1,
            None => return Err(StoreError::Damaged { key: "state".into(), what: "it changes too often".to_owned() }),
        }
    }
}

/// The next day to close, and what goes into it.
pub(super) struct Work {
    pub day: Day,
    /// Whether it has not ended yet.
    pub early: bool,
    pub takes: Vec<Take>,
}

/// What is to be done next, if anything.
pub(super) async fn work(store: &Store, view: &View, options: CompactOptions) -> Result<Option<Work>, StoreError> {
    let today = Day::of(options.now_ms);
    let last = if options.running_day { today } else { today.previous() };
    let pieces = pieces(store, view).await?;
    // A day that a catalogue shows is never added to: see there.
    let open = if catalogue::shows(store).await? { view.state.upto.map(Day::next) } else { view.state.open_day() };
    let Some(day) = next_day(&view.state, open, &pieces, last) else { return Ok(None) };
    let mut takes = Vec::with_capacity(pieces.len());
    for piece in &pieces {
        takes.push(take(store, &view.state, piece, day).await?);
    }
    let early = day >= today;
    // Of a file that holds the cut, what is left may have arrived after the running day, by a clock that is ahead: then
    // closing that day once more would change nothing, again and again.
    let is_closed = view.state.upto == Some(day) && view.state.early == early;
    let is_empty = takes.iter().all(|take| take.offsets.from == take.offsets.to);
    Ok((!(is_closed && is_empty)).then_some(Work { day, early, takes }))
}

/// The unclosed end of one partition: its files from the one that holds the cut, oldest first.
struct Piece {
    chain: String,
    partition: i32,
    files: Vec<(SliceFile, Footer, Option<i64>)>,
    /// How far the model in force has scored, or can't, where scoring is on.
    scored_to: Option<i64>,
}

/// How far a partition may be closed that is scored up to `scored_to`. Records without a key, which have no order among
/// several partitions, hold no day up: they get their verdicts when it is closed.
fn may_close_to(scored_to: i64, files: &[(SliceFile, Footer, Option<i64>)]) -> i64 {
    let pass = |to, footer: &Footer| if footer.first <= to && footer.lacks_order() { to.max(footer.next) } else { to };
    files.iter().fold(scored_to, |to, (_, footer, _)| pass(to, footer))
}

/// Every partition that has anything at or above its cut.
async fn pieces(store: &Store, view: &View) -> Result<Vec<Piece>, StoreError> {
    let mut pieces: BTreeMap<(String, i32), Piece> = BTreeMap::new();
    // In the order of the files, many under way: a fleet has thousands of them.
    let metadata =
        |file: SliceFile| async move { Ok::<_, StoreError>((store.parquet_metadata(&file.key).await?, file)) };
    let mut footers = futures::stream::iter(view.landing.iter().cloned().map(metadata)).buffered(FOOTERS);
    while let Some((metadata, file)) = footers.try_next().await? {
        let damaged = |what| StoreError::Damaged { key: file.key.clone(), what };
        let footer = Footer::read(metadata.file_metadata()).map_err(damaged)?;
        if footer.next <= view.state.cut(&file.chain, file.partition).offset {
            continue;
        }
        let earliest = earliest_arrival(&metadata);
        let key = (file.chain.clone(), file.partition);
        let (chain, partition) = key.clone();
        let piece = pieces.entry(key).or_insert(Piece { chain, partition, files: Vec::new(), scored_to: None });
        piece.files.push((file.clone(), footer, earliest));
    }
    if view.state.scoring {
        for piece in pieces.values_mut() {
            let scored = view.scored.iter().rfind(|f| f.chain == piece.chain && f.partition == piece.partition);
            let to = match scored {
                Some(file) => landing::footer(store, &file.key).await?.next,
                None => 0,
            };
            let cut = view.state.cut(&piece.chain, piece.partition);
            piece.scored_to = Some(may_close_to(to.max(cut.offset), &piece.files));
        }
    }
    Ok(pieces.into_values().collect())
}

/// The least `arrived_at` by the statistics of a file, milliseconds since 1970 UTC.
fn earliest_arrival(metadata: &parquet::file::metadata::ParquetMetaData) -> Option<i64> {
    let least = |group: &parquet::file::metadata::RowGroupMetaData| {
        let column = group.columns().iter().find(|c| c.column_path().string() == "arrived_at")?;
        match column.statistics()? {
            parquet::file::statistics::Statistics::Int64(times) => times.min_opt().copied(),
            _ => None,
        }
    };
    metadata.row_groups().iter().filter_map(least).min()
}

/// The next day to close, none where there is nothing for a day up to `last`.
fn next_day(state: &State, open: Option<Day>, pieces: &[Piece], last: Day) -> Option<Day> {
    let waiting = pieces.iter().filter_map(|piece| {
        let floor = state.cut(&piece.chain, piece.partition).offset;
        let reachable = piece.files.iter().filter(|_| piece.scored_to.is_none_or(|to| to > floor));
        reachable.filter_map(|(_, _, earliest)| *earliest).min()
    });
    let arrived = Day::of(waiting.min()?);
    let day = open.map_or(arrived, |open| open.max(arrived));
    (day <= last).then_some(day)
}

/// What one partition gives to a day.
#[derive(Debug, Clone)]
pub(super) struct Take {
    pub chain: String,
    pub partition: i32,
    pub offsets: Offsets,
    /// The landing files that have rows there, oldest first.
    pub files: Vec<SliceFile>,
    /// Where the closed days end in it afterwards.
    pub cut: Cut,
}

/// The part of a partition that arrived before the end of `day`.
async fn take(store: &Store, state: &State, piece: &Piece, day: Day) -> Result<Take, StoreError> {
    let from = state.cut(&piece.chain, piece.partition);
    let mut taken = Take {
        chain: piece.chain.clone(),
        partition: piece.partition,
        offsets: Offsets { from: from.offset, to: from.offset },
        files: Vec::new(),
        cut: from,
    };
    for (file, footer, earliest) in &piece.files {
        if earliest.is_some_and(|at| at >= day.end_ms()) {
            break;
        }
        let whole = footer.last_arrived_ms.is_none_or(|at| at < day.end_ms());
        let mut to = if whole { footer.next } else { boundary(store, file, day).await?.unwrap_or(footer.next) };
        to = to.min(piece.scored_to.unwrap_or(to)).max(taken.offsets.to);
        if to > taken.offsets.to && footer.readings + footer.dead > 0 {
            taken.files.push(file.clone());
        }
        taken.offsets.to = to;
        taken.cut = Cut { offset: to, first: if to == footer.next { to } else { file.first } };
        if to < footer.next {
            break;
        }
    }
    Ok(taken)
}

/// The first offset in a file that arrived after `day`.
async fn boundary(store: &Store, file: &SliceFile, day: Day) -> Result<Option<i64>, StoreError> {
    let mut batches = scan::open(store, &file.key, file.bytes, &columns::LANDING).await?;
    let mut first: Option<i64> = None;
    while let Some(batch) = batches.try_next().await? {
        let (offsets, arrived) = (scan::int64(&batch, "offset"), scan::times(&batch, "arrived_at"));
        let after = (0..batch.num_rows()).filter(|&row| arrived.value(row) >= day.end_ms()).map(|r| offsets.value(r));
        first = first.into_iter().chain(after).min();
    }
    Ok(first)
}

/// Writes the runs of `day` and puts them in force; `None` where another state came first.
async fn close_day(store: &Store, view: View, work: Work) -> Result<Option<Closed>, StoreError> {
    let Work { day, early, takes } = work;
    let name = run::new_name(super::now_ms());
    let landed = takes.iter().flat_map(|t| t.files.iter().map(|f| (f.clone(), t.offsets))).collect::<Vec<_>>();

    let inputs = landed.iter().map(|(file, offsets)| landing_rows(store, file, *offsets, Rows::Readings)).collect();
    let merged = merge_readings(store, &view.state, day, &name, inputs).await?;
    let outliers = merge_outliers(store, &view, day, &name, &takes, &merged.dropped_origins).await?;
    let dead_letters = append_dead_letters(store, &view.state, day, &name, &landed).await?;
    let scored_by = scored_by(store, &view, day, &takes).await?;
    let runs = DayRuns { readings: merged.run, outliers, dead_letters, scored_by };
    let cuts = takes.iter().map(|taken| (taken.chain.clone(), taken.partition, taken.cut));
    put_in_force(store, view.state, Ending { day, early, cuts, runs, sent_twice: merged.sent_twice }).await
}

/// A day that is to be closed.
pub(super) struct Ending<C> {
    pub day: Day,
    /// Whether it has not ended yet.
    pub early: bool,
    /// Where the closed days end in each partition.
    pub cuts: C,
    pub runs: DayRuns,
    pub sent_twice: u64,
}

/// Makes a day's runs and its cuts count, in the state after `state`; `None` where another one came first.
pub(super) async fn put_in_force(
    store: &Store,
    state: State,
    ending: Ending<impl Iterator<Item = (String, i32, Cut)>>,
) -> Result<Option<Closed>, StoreError> {
    let Ending { day, early, cuts, runs, sent_twice } = ending;
    let mut next = state;
    for (chain, partition, cut) in cuts {
        next.cut.entry(chain).or_default().insert(partition, cut);
    }
    let rows = |table| runs.of(table).map_or(0, |run| run.rows);
    let closed = Closed {
        day,
        readings: rows(Table::Readings),
        outliers: rows(Table::Outliers),
        dead_letters: rows(Table::DeadLetters),
        sent_twice,
        bytes: Table::ALL.iter().filter_map(|&table| runs.of(table)).map(Run::bytes).sum(),
    };
    if runs == DayRuns::default() {
        next.days.remove(&day);
    } else {
        next.days.insert(day, runs);
    }
    (next.upto, next.early) = (Some(day), early);
    Ok(match next.commit(store).await? {
        Commit::Done => Some(closed),
        Commit::Raced => None,
    })
}

/// The model whose verdicts a day has that takes these rows in; none where it is not scored, or only in part.
pub(super) async fn scored_by(
    store: &Store,
    view: &View,
    day: Day,
    takes: &[Take],
) -> Result<Option<String>, StoreError> {
    let held = view.state.days.get(&day);
    let scored_before =
        held.is_none_or(|runs| runs.readings.is_none() || runs.scored_by.as_deref() == Some(view.state.model()));
    Ok((scored_before && is_scored(store, view, takes).await?).then(|| view.state.model().to_owned()))
}

/// Rows of one landing file, lazily opened so that no more files are open than the merge needs.
pub(super) fn landing_rows(store: &Store, file: &SliceFile, offsets: Offsets, rows: Rows) -> Batches {
    let (store, file) = (store.clone(), file.clone());
    let opened = async move {
        let batches = scan::open(&store, &file.key, file.bytes, &columns::LANDING).await?;
        let key = file.key.clone();
        let selected = move |batch: RecordBatch| {
            let damaged = |what: String| StoreError::Damaged { key: key.clone(), what };
            let selected = scan::select(&batch, rows, offsets).map_err(|e| damaged(e.to_string()))?;
            let shape = if rows == Rows::Readings { &columns::MERGED } else { &columns::DEAD_LETTER };
            scan::conform(&selected, shape).map_err(damaged)
        };
        Ok(batches.and_then(move |batch| std::future::ready(selected(batch))))
    };
    futures::stream::once(opened).try_flatten().boxed()
}

/// A new run of readings, and what was dropped on the way.
pub(super) struct Merged {
    pub run: Option<Run>,
    pub sent_twice: u64,
    pub dropped_origins: HashSet<Origin>,
}

/// Merges `inputs`, sorted and in the order of their rank, into the readings of `day`.
pub(super) async fn merge_readings(
    store: &Store,
    state: &State,
    day: Day,
    name: &str,
    inputs: Vec<Batches>,
) -> Result<Merged, StoreError> {
    let run_of = |day: Day| Some((day, state.days.get(&day)?.readings.as_ref()?));
    let closed = |(day, run): (Day, &Run)| closed_rows(run::rows(store, Table::Readings, day, run));
    let before = run_of(day.previous()).map(|found| Input { batches: closed(found), keep: false });
    let same = run_of(day).map(|found| Input { batches: closed(found), keep: true });
    let landed = narrow(&columns::MERGED, inputs).await?.into_iter().map(|batches| Input { batches, keep: true });
    let inputs = before.into_iter().chain(same).chain(landed).collect();

    let mut merge = Merge::new(&columns::MERGED, inputs, true).await?;
    let mut writer = RunWriter::new(store, Table::Readings, day, name);
    while let Some(batch) = merge.next().await? {
        writer.write(&batch).await?;
    }
    let run = writer.finish().await?;
    Ok(Merged { run, sent_twice: merge.dropped, dropped_origins: merge.dropped_origins })
}

/// Rows of closed days in the shape in which readings are merged.
pub(super) fn closed_rows(batches: Batches) -> Batches {
    let shape = |batch: RecordBatch| columns::without_origin(&batch).map_err(|e| damaged_run(&e.to_string()));
    batches.and_then(move |batch| std::future::ready(shape(batch))).boxed()
}

fn damaged_run(what: &str) -> StoreError {
    StoreError::Damaged { key: "readings".into(), what: what.to_owned() }
}

/// The outliers of `day`: those it holds, and those found in what was taken, less those of dropped rows.
async fn merge_outliers(
    store: &Store,
    view: &View,
    day: Day,
    name: &str,
    takes: &[Take],
    dropped: &HashSet<Origin>,
) -> Result<Option<Run>, StoreError> {
    let mut inputs = Vec::new();
    if let Some(run) = view.state.days.get(&day).and_then(|runs| runs.outliers.as_ref()) {
        inputs.push(run::rows(store, Table::Outliers, day, run));
    }
    let dropped = Arc::new(dropped.clone());
    for taken in takes {
        for file in scored_of(view, taken) {
            inputs.push(scored_rows(store, file, taken.offsets, Arc::clone(&dropped)));
        }
    }
    if inputs.is_empty() {
        return Ok(None);
    }
    let inputs = narrow(&columns::OUTLIER, inputs).await?;
    let inputs = inputs.into_iter().map(|batches| Input { batches, keep: true }).collect();
    let mut merge = Merge::new(&columns::OUTLIER, inputs, false).await?;
    let mut writer = RunWriter::new(store, Table::Outliers, day, name);
    while let Some(batch) = merge.next().await? {
        writer.write(&batch).await?;
    }
    writer.finish().await
}

/// The files of what was found in the landing files that are taken, oldest first.
pub(super) fn scored_of<'a>(view: &'a View, taken: &Take) -> impl Iterator<Item = &'a SliceFile> {
    let firsts: BTreeSet<i64> = taken.files.iter().map(|file| file.first).collect();
    let (chain, partition) = (taken.chain.clone(), taken.partition);
    let files = view.scored.iter().filter(move |file| file.chain == chain && file.partition == partition);
    files.filter(move |file| firsts.contains(&file.first))
}

/// The outliers found in one landing file, with an offset in `offsets`, less those of dropped rows.
fn scored_rows(store: &Store, file: &SliceFile, offsets: Offsets, dropped: Arc<HashSet<Origin>>) -> Batches {
    let (store, file) = (store.clone(), file.clone());
    let opened = async move {
        let batches = scan::open(&store, &file.key, file.bytes, &columns::SCORED).await?;
        let key = file.key.clone();
        let selected = move |batch: RecordBatch| {
            let damaged = |what: String| StoreError::Damaged { key: key.clone(), what };
            let batch = scan::within(&batch, offsets).map_err(|e| damaged(e.to_string()))?;
            let batch = kept(&batch, &dropped).map_err(|e| damaged(e.to_string()))?;
            scan::conform(&batch, &columns::OUTLIER).map_err(damaged)
        };
        Ok(batches.and_then(move |batch| std::future::ready(selected(batch))))
    };
    futures::stream::once(opened).try_flatten().boxed()
}

/// The rows whose record was not dropped.
pub(super) fn kept(batch: &RecordBatch, dropped: &HashSet<Origin>) -> Result<RecordBatch, arrow::error::ArrowError> {
    if dropped.is_empty() {
        return Ok(batch.clone());
    }
    let stays = |row| !columns::origin(batch, row).is_some_and(|origin| dropped.contains(&Origin::from(origin)));
    let mask: BooleanArray = (0..batch.num_rows()).map(|row| Some(stays(row))).collect();
    arrow::compute::filter_record_batch(batch, &mask)
}

/// Whether the model in force has scored all that was taken.
async fn is_scored(store: &Store, view: &View, takes: &[Take]) -> Result<bool, StoreError> {
    for taken in takes.iter().filter(|taken| !taken.files.is_empty()) {
        let head = view.scored.iter().rfind(|f| f.chain == taken.chain && f.partition == taken.partition);
        let Some(head) = head else { return Ok(false) };
        if landing::footer(store, &head.key).await?.next < taken.offsets.to {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The dead letters of `day`: those it holds, then those of what was taken.
async fn append_dead_letters(
    store: &Store,
    state: &State,
    day: Day,
    name: &str,
    landed: &[(SliceFile, Offsets)],
) -> Result<Option<Run>, StoreError> {
    let held = state.days.get(&day).and_then(|runs| runs.dead_letters.as_ref());
    let held = held.map(|run| run::rows(store, Table::DeadLetters, day, run));
    let landed = landed.iter().map(|(file, offsets)| landing_rows(store, file, *offsets, Rows::DeadLetters));
    let mut writer = RunWriter::new(store, Table::DeadLetters, day, name);
    for mut batches in held.into_iter().chain(landed) {
        while let Some(batch) = batches.try_next().await? {
            writer.write(&batch).await?;
        }
    }
    writer.finish().await
}
