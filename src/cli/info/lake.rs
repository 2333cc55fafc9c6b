//! What a lake's folder says of itself, without a change to it.

use std::{
    collections::HashMap,
    fs::{File, TryLockError},
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use object_store::local::LocalFileSystem;
use serde::Serialize;

use crate::{
    lake::{
        State, Store, StoreError, Table,
        landing::{self, SliceFile},
        layout,
    },
    reading::time::format_rfc3339_ms,
};

/// The most damaged files that are named.
const MAX_NAMED: usize = 20;

/// The locks of a lake's folder: who holds it, and where.
const LOCKS: [(&str, &str); 2] = [("log", "spool/spool.lock"), ("scorer", "scorer.lock")];

/// A process that works on the lake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Held {
    /// `log` (as `vitals up` does) or `scorer`.
    part: &'static str,
    /// The process, where its file says so.
    pid: Option<u32>,
}

impl Held {
    /// On one line.
    pub fn describe(&self) -> String {
        let process = self.pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
        format!("the {} by {process}", self.part)
    }
}

/// Who holds the lake. Locks are files that stay: only what the system says counts.
pub fn held(folder: &Path, problems: &mut Vec<String>) -> Vec<Held> {
    let mut held = Vec::new();
    for (part, name) in LOCKS {
        let path = folder.join(name);
        match pid_of_lock(&path) {
            Ok(Some(pid)) => held.push(Held { part, pid }),
            Ok(None) => {}
            Err(error) => problems.push(format!("can't see whether `{}` is locked: {error}", path.display())),
        }
    }
    held
}

fn pid_of_lock(path: &Path) -> io::Result<Option<Option<u32>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
        Err(e) => return Err(e),
    };
    // Shared, so that two who look do not see each other; let go of when the file is closed, at once.
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let read = file.take(20).read_to_string(&mut pid);
            Ok(Some(read.ok().and_then(|_| pid.trim().parse().ok())))
        }
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// The lake in a folder, to look at: unlike [`Store::folder`] this makes nothing and clears nothing.
pub fn open(folder: &Path) -> Result<Store, object_store::Error> {
    let files = LocalFileSystem::new_with_prefix(folder)?;
    Ok(Store::of(Arc::new(files), &folder.display().to_string()))
}

/// How much a lake holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Contents {
    pub readings: u64,
    pub closed_readings: u64,
    /// The size of the files that hold them.
    pub bytes: u64,
    /// Whether `readings` is exact: a landing file of which only a part is in a closed day is counted whole.
    pub exact: bool,
    /// When the newest record arrived, or the newest file was imported.
    pub last_arrival: Option<String>,
}

impl Default for Contents {
    fn default() -> Contents {
        Contents { readings: 0, closed_readings: 0, bytes: 0, exact: true, last_arrival: None }
    }
}

/// Adds up what the state and the footers of landing files say; names files that are missing or damaged.
pub async fn contents(store: &Store, state: &State, problems: &mut Vec<String>) -> Contents {
    let mut contents = Contents::default();
    let mut wrong = check_runs(store, state).await;
    for run in state.days.values().filter_map(|day| day.readings.as_ref()) {
        contents.closed_readings += run.rows;
        contents.bytes += run.bytes();
    }
    contents.readings = contents.closed_readings;
    let mut last_arrived_ms = state.imports.values().map(|import| import.at_ms).max();
    let above_cut = |file: &SliceFile| file.first >= state.cut(&file.chain, file.partition).first;
    match landing::list(store, &layout::LANDING.into()).await {
        Ok(files) => {
            for file in files.into_iter().filter(above_cut) {
                let footer = match landing::footer(store, &file.key).await {
                    Ok(footer) => footer,
                    // It was there a moment ago: it is in a closed day meanwhile.
                    Err(error) if error.is_not_found() => continue,
                    Err(error) => {
                        wrong.push(error.to_string());
                        continue;
                    }
                };
                last_arrived_ms = last_arrived_ms.max(footer.last_arrived_ms);
                let cut = state.cut(&file.chain, file.partition).offset;
                if footer.next <= cut {
                    continue;
                }
                contents.exact &= footer.first >= cut;
                contents.readings += footer.readings;
                contents.bytes += file.bytes;
            }
        }
        Err(error) => wrong.push(error.to_string()),
    }
    contents.last_arrival = last_arrived_ms.map(format_rfc3339_ms);
    let more = wrong.len().saturating_sub(MAX_NAMED);
    problems.extend(wrong.into_iter().take(MAX_NAMED));
    problems.extend((more > 0).then(|| format!("{more} more files are missing or damaged")));
    contents
}

/// Files of closed days that are missing, or have another size than the state says.
async fn check_runs(store: &Store, state: &State) -> Vec<String> {
    let mut wrong = Vec::new();
    for table in Table::ALL {
        let there: HashMap<_, _> = match store.list(&table.name().into()).await {
            Ok(entries) => entries.into_iter().map(|entry| (entry.key, entry.bytes)).collect(),
            Err(error) => {
                wrong.push(error.to_string());
                continue;
            }
        };
        for (day, run) in state.days.iter().filter_map(|(day, runs)| Some((*day, runs.of(table)?))) {
            for (part, bytes) in run.parts.iter().enumerate() {
                let key = layout::run_part(table, day, &run.run, part);
                match there.get(&key) {
                    Some(found) if found == bytes => {}
                    Some(found) => {
                        let what = format!("it has {found} bytes, not {bytes}");
                        wrong.push(StoreError::Damaged { key, what }.to_string());
                    }
                    None => wrong.push(StoreError::NotFound { key }.to_string()),
                }
            }
        }
    }
    wrong
}
