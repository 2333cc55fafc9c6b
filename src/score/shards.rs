//! Closed days scored by several processes, each a share of the devices, for lakes whose days are too much for one.
//!
//! A device's verdicts follow from what it sent alone, so devices can be dealt out. The first process of a *job* notes
//! which days it is about, and their runs ([`Plan`]); runs never change, so all of them go through the same rows. Each
//! keeps, beside the model and out of force, what it found of each day and its devices' states at the end. When all are
//! done, [`put_in_force`] merges the shares day by day, scores what has come since, and puts everything in force in one
//! state, as [`super::score_lake`] would have: no reader sees some of it.
//!
//! A share that is scored twice, or by two at once, writes the same twice. What a job found of a day whose readings
//! changed meanwhile is not used.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use arrow::{array::BooleanArray, compute::filter_record_batch};
use bytes::Bytes;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    DayOutliers, ScoreOptions, Scored, checkpoint,
    follow::Share,
    score_rest,
    scorer::{ReadingColumns, Scorer, States},
};
use crate::{
    lake::{
        Created, Day, State, Store, Table,
        encoding::{FileWriter, Shape},
        layout,
        merge::{Input, Merge},
        now_ms,
        run::{self, RunWriter},
        scan,
        state::DayRuns,
    },
    model::Model,
    reading::columns,
};

/// The version of a plan's format.
const FORMAT: u32 = 1;

/// What a job is about.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Plan {
    format: u32,
    /// How many shares there are.
    of: u32,
    /// Every closed day, with its readings.
    days: BTreeMap<Day, DayRuns>,
}

/// What a share has done.
#[derive(Debug, Serialize, Deserialize)]
struct Done {
    readings: u64,
    outliers: u64,
}

impl Plan {
    /// The plan of a job, made by whoever comes first.
    async fn of_job(store: &Store, model: &str, job: &str, of: u32) -> anyhow::Result<Plan> {
        if let Some(plan) = Plan::read(store, model, job).await? {
            return plan.for_shares(job, of);
        }
        let days = State::load(store).await?.days;
        let readings = |(day, runs): (Day, DayRuns)| (day, DayRuns { readings: runs.readings, ..DayRuns::default() });
        let plan = Plan { format: FORMAT, of, days: days.into_iter().map(readings).collect() };
        let bytes = Bytes::from(serde_json::to_vec_pretty(&plan)?);
        match store.create(&layout::job_plan(model, job), bytes).await.context("keeping the job's plan")? {
            Created::New => Ok(plan),
            Created::Taken => {
                let there = Plan::read(store, model, job).await?;
                there.context("the job's plan came and went")?.for_shares(job, of)
            }
        }
    }

    async fn read(store: &Store, model: &str, job: &str) -> anyhow::Result<Option<Plan>> {
        let key = layout::job_plan(model, job);
        let bytes = match store.get(&key).await {
            Ok(bytes) => bytes,
            Err(e) if e.is_not_found() => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let plan: Plan = serde_json::from_slice(&bytes).with_context(|| format!("reading `{key}`"))?;
        ensure!(plan.format == FORMAT, "`{key}` has format {}, this program reads format {FORMAT}", plan.format);
        Ok(Some(plan))
    }

    fn for_shares(self, job: &str, of: u32) -> anyhow::Result<Plan> {
        ensure!(self.of == of, "the job `{job}` has {} shares, not {of}; name another job", self.of);
        Ok(self)
    }
}

/// Scores a share of the devices in the closed days, for [`put_in_force`] of the same model and job.
///
/// # Errors
/// The lake can't be read or written, or the job has another number of shares.
pub async fn score_share(
    store: &Store,
    model: &Model,
    job: &str,
    share: Share,
    mut told: impl FnMut(&Scored),
) -> anyhow::Result<Scored> {
    let plan = Plan::of_job(store, model.id(), job, share.of).await?;
    let key = |file: &str| layout::job_share(model.id(), job, share.index, file);
    let mut done = Scored { model: model.id().to_owned(), ..Scored::default() };
    let mut scorer = Scorer::new(model);
    for (&day, runs) in &plan.days {
        let Some(readings) = &runs.readings else { continue };
        let mut file = FileWriter::new(Shape::Outliers, Vec::new())?;
        let mut batches = run::rows(store, Table::Readings, day, readings);
        while let Some(batch) = batches.try_next().await? {
            let own = filter_record_batch(&batch, &devices_of(share, &ReadingColumns::of(&batch)?))?;
            let outliers = scorer.score(&own)?;
            done.readings += own.num_rows() as u64;
            done.outliers += outliers.num_rows() as u64;
            file.write(&outliers)?;
            told(&done);
            tokio::task::yield_now().await;
        }
        store.replace(&key(&found_file(day)), file.finish()?).await?;
        done.days += 1;
    }
    let states = checkpoint::write(&scorer.into_states())?;
    store.replace(&key("devices.bin"), Bytes::from(states)).await?;
    // Last: what it says is there.
    let told = Done { readings: done.readings, outliers: done.outliers };
    store.replace(&key("done.json"), Bytes::from(serde_json::to_vec(&told)?)).await?;
    Ok(done)
}

fn found_file(day: Day) -> String {
    format!("dt={day}.parquet")
}

/// Which rows are of the share's devices: by a hash of the name that is the same everywhere.
fn devices_of(share: Share, rows: &ReadingColumns) -> BooleanArray {
    let has = |device: &str| {
        let digest = Sha256::digest(device.as_bytes());
        let place = digest.iter().take(8).fold(0, |place: u64, byte| (place << 8) | u64::from(*byte));
        place % u64::from(share.of) == u64::from(share.index)
    };
    let mut at = None;
    let row = |row: usize| {
        let device = rows.device(row);
        // Rows are sorted by device.
        match at {
            Some((last, has)) if last == device => Some(has),
            _ => Some(at.insert((device, has(device))).1),
        }
    };
    (0..rows.rows()).map(row).collect()
}

/// Puts a model in force with what the shares of a job have found, and what has come since. Nobody else may follow the log
/// meanwhile.
///
/// # Errors
/// A share is not done, or the lake can't be read or written.
pub async fn put_in_force(
    store: &Store,
    model: &Model,
    job: &str,
    told: impl FnMut(&Scored),
) -> anyhow::Result<Scored> {
    let plan = Plan::read(store, model.id(), job).await?;
    let plan = plan.with_context(|| format!("the lake has no job `{job}` of the model `{}`", model.id()))?;
    let mut sum = Scored::default();
    for share in 0..plan.of {
        let done = store.get(&layout::job_share(model.id(), job, share, "done.json")).await;
        let which = || format!("share {}/{} of the job `{job}` is not done", share + 1, plan.of);
        let done: Done = serde_json::from_slice(&done.with_context(which)?).with_context(which)?;
        sum.readings += done.readings;
        sum.outliers += done.outliers;
    }
    let name = run::new_name(now_ms());
    let mut gathered = DayOutliers::new();
    for (&day, runs) in &plan.days {
        let Some(readings) = &runs.readings else { continue };
        let mut writer = RunWriter::new(store, Table::Outliers, day, &name);
        let mut merge = Merge::new(&columns::OUTLIER, found(store, model, job, &plan, day).await?, false).await?;
        while let Some(batch) = merge.next().await? {
            writer.write(&batch).await?;
        }
        gathered.insert(day, (readings.run.clone(), writer.finish().await?));
    }
    let mut states = States::default();
    for share in 0..plan.of {
        let key = layout::job_share(model.id(), job, share, "devices.bin");
        let own = checkpoint::load(store, model, &key).await?;
        states.extend(own.with_context(|| format!("`{key}` is of another version of the program: score again"))?);
    }
    let days: Vec<(Day, &DayRuns)> = plan.days.iter().map(|(&day, runs)| (day, runs)).collect();
    checkpoint::save(store, model, &states, &days).await?;
    let rest = score_rest(store, model, ScoreOptions::default(), gathered, told).await?;
    let leftover = store.list(&layout::job_folder(model.id(), job)).await?;
    store.delete(leftover.into_iter().map(|entry| entry.key).collect()).await?;
    let days = plan.days.values().filter(|runs| runs.readings.is_some()).count() as u64;
    Ok(Scored {
        readings: sum.readings + rest.readings,
        outliers: sum.outliers + rest.outliers,
        days: days + rest.days,
        ..rest
    })
}

/// What the shares have found of a day, each sorted.
async fn found(store: &Store, model: &Model, job: &str, plan: &Plan, day: Day) -> anyhow::Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for share in 0..plan.of {
        let key = layout::job_share(model.id(), job, share, &found_file(day));
        let (_, bytes) = store.tail(&key, 0).await?;
        inputs.push(Input { batches: scan::open(store, &key, bytes, &columns::OUTLIER).await?, keep: true });
    }
    Ok(inputs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lake::layout::MODELS,
        reading::{NO_VITALS, Reading, Vital},
        score::score_lake,
    };

    const HOUR: i64 = 3_600_000;

    /// A lake of closed days: a dozen devices, whose hearts race now and then.
    async fn lake(days: i64) -> Store {
        let store = Store::memory();
        for day in 0..days {
            add_day(&store, day).await;
        }
        store
    }

    async fn add_day(store: &Store, day: i64) {
        let start = 1_709_251_200_000 + day * 24 * HOUR;
        let reading = |device: i64, i: i64| {
            let mut vitals = NO_VITALS;
            let racing = (i + device) % 37 == 0;
            vitals[Vital::HeartRate.index()] = if racing { 190.0 } else { 60.0 + ((i * 7 + device) % 5) as f64 };
            let ts_ms = start + i * HOUR / 2;
            Reading { ts_ms, arrived_ms: ts_ms, seq: None, vitals }
        };
        let names: Vec<String> = (10..22).map(|device| format!("device_{device}")).collect();
        let rows: Vec<(&str, Reading)> = names
            .iter()
            .zip(0..)
            .flat_map(|(name, device)| (0..48).map(move |i| (name.as_str(), reading(device, i))))
            .collect();
        let batch = columns::readings(rows.iter().map(|(name, reading)| (*name, reading))).unwrap();
        let of = Day::of(start);
        let mut writer = RunWriter::new(store, Table::Readings, of, &run::new_name(start));
        writer.write(&batch).await.unwrap();
        let mut next = State::load(store).await.unwrap();
        next.days.insert(of, DayRuns { readings: writer.finish().await.unwrap(), ..DayRuns::default() });
        next.upto = Some(of);
        next.commit(store).await.unwrap();
    }

    /// What the state in force shows of outliers, and who has scored each day.
    async fn outliers(store: &Store) -> (Vec<String>, Vec<Option<String>>) {
        let state = State::load(store).await.unwrap();
        let mut rows = Vec::new();
        for (&day, runs) in &state.days {
            let Some(outliers) = &runs.outliers else { continue };
            let mut batches = run::rows(store, Table::Outliers, day, outliers);
            while let Some(batch) = batches.try_next().await.unwrap() {
                rows.extend((0..batch.num_rows()).map(|row| format!("{:?}", batch.slice(row, 1))));
            }
        }
        (rows, state.days.values().map(|runs| runs.scored_by.clone()).collect())
    }

    fn share(index: u32, of: u32) -> Share {
        Share { index, of }
    }

    #[tokio::test]
    async fn shares_put_in_force_what_one_process_would_have() {
        let model = Model::builtin().with_budget(5.0).unwrap();
        let (whole, parts) = (lake(3).await, lake(3).await);
        let one = score_lake(&whole, &model, ScoreOptions::default(), |_| ()).await.unwrap();
        let before = State::load(&parts).await.unwrap();
        // In any order, one of them twice.
        for index in [2, 0, 1, 2] {
            score_share(&parts, &model, "j", share(index, 3), |_| ()).await.unwrap();
        }
        assert_eq!(State::load(&parts).await.unwrap(), before, "shares put nothing in force");
        let all = put_in_force(&parts, &model, "j", |_| ()).await.unwrap();
        assert_eq!((all.readings, all.outliers, all.days), (one.readings, one.outliers, one.days));
        let (rows, scored_by) = outliers(&whole).await;
        assert!(rows.len() > 20 && scored_by.iter().all(|by| by.as_deref() == Some(model.id())));
        assert_eq!(outliers(&parts).await, (rows, scored_by));
        assert_eq!(State::load(&parts).await.unwrap().model(), model.id());
        let left = parts.list(&MODELS.into()).await.unwrap();
        assert!(left.iter().all(|entry| !entry.key.as_ref().contains("/jobs/")), "{left:?}");
        // Devices go on from the same states.
        let again = score_lake(&parts, &model, ScoreOptions::default(), |_| ()).await.unwrap();
        assert_eq!(again.readings, 0);
        add_day(&whole, 3).await;
        add_day(&parts, 3).await;
        for store in [&whole, &parts] {
            score_lake(store, &model, ScoreOptions::default(), |_| ()).await.unwrap();
        }
        assert_eq!(outliers(&parts).await, outliers(&whole).await);
    }

    #[tokio::test]
    async fn days_that_came_or_changed_meanwhile_are_scored_too() {
        let model = Model::builtin().with_budget(5.0).unwrap();
        let parts = lake(3).await;
        for index in 0..2 {
            score_share(&parts, &model, "j", share(index, 2), |_| ()).await.unwrap();
        }
        add_day(&parts, 3).await;
        // An import gives a day another run.
        let mut next = State::load(&parts).await.unwrap();
        let (&day, runs) = next.days.iter_mut().nth(1).unwrap();
        let old = runs.readings.clone().unwrap();
        let mut writer = RunWriter::new(&parts, Table::Readings, day, "20240303T000000Z-imported");
        let mut batches = run::rows(&parts, Table::Readings, day, &old);
        writer.write(&batches.try_next().await.unwrap().unwrap().slice(0, 48)).await.unwrap();
        runs.readings = writer.finish().await.unwrap();
        next.commit(&parts).await.unwrap();

        put_in_force(&parts, &model, "j", |_| ()).await.unwrap();
        let state = State::load(&parts).await.unwrap();
        assert!(state.days.values().all(|runs| runs.scored_by.as_deref() == Some(model.id())));
        let changed = state.days[&day].outliers.as_ref().unwrap();
        let mut batches = run::rows(&parts, Table::Outliers, day, changed);
        let batch = batches.try_next().await.unwrap().unwrap();
        // What the job found of the readings that the day had before is not shown.
        let rows = ReadingColumns::of(&batch).unwrap();
        assert!((0..rows.rows()).all(|row| rows.device(row) == "device_10"));
    }

    #[tokio::test]
    async fn a_job_that_is_not_done_or_another_is_refused() {
        let model = Model::builtin().with_budget(5.0).unwrap();
        let store = lake(1).await;
        let refused = async |job: &str| put_in_force(&store, &model, job, |_| ()).await.unwrap_err().to_string();
        assert!(refused("j").await.contains("no job `j`"));
        score_share(&store, &model, "j", share(0, 2), |_| ()).await.unwrap();
        assert!(refused("j").await.contains("share 2/2 of the job `j` is not done"));
        let other = score_share(&store, &model, "j", share(0, 3), |_| ()).await.unwrap_err().to_string();
        assert!(other.contains("has 2 shares, not 3"), "{other}");
        assert_eq!(outliers(&store).await.1, [None]);
    }
}
