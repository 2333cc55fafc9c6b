//! The spool as ingest reads it.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;

use super::queue::{Shared, Synced};
use super::segment::{self, Segment};
use super::{PARTITION, SpoolError};
use crate::log::{Bounds, LogEvent, Lookup, Record, Records, Source};

/// Reads a spool's synced records, in order, while others append, about a megabyte at a time.
pub struct SpoolSource {
    dir: PathBuf,
    chain: String,
    shared: Arc<Shared>,
    synced: watch::Receiver<Synced>,
    /// The partition was announced.
    assigned: bool,
    paused: bool,
    place: Option<Place>,
    /// The open file of the segment that is being read.
    file: Option<(i64, File)>,
}

/// Where reading goes on.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Records below are skipped.
    offset: i64,
    /// The segment that was read last, and the byte in it after what was read.
    read: Option<(i64, u64)>,
}

/// What there is to read at a place.
enum Ahead {
    /// Bytes of this segment from here on.
    Bytes(Segment, u64),
    Nothing,
    End,
}

impl SpoolSource {
    pub(super) fn new(dir: PathBuf, chain: String, shared: Arc<Shared>) -> SpoolSource {
        let synced = shared.synced.subscribe();
        SpoolSource { dir, chain, shared, synced, assigned: false, paused: false, place: None, file: None }
    }

    /// Reads one chunk; empty where all of it is below the wanted offset.
    async fn read(&mut self, place: Place, segment: Segment, from: u64) -> Result<Records, SpoolError> {
        let path = segment::path(&self.dir, segment.first);
        let open = self.file.take().filter(|(first, _)| *first == segment.first).map(|(_, file)| file);
        let reading = tokio::task::spawn_blocking(move || {
            let mut file = match open {
                Some(file) => file,
                None => File::open(&path).map_err(|e| SpoolError::io("open", &path, e))?,
            };
            let mut records = Records::default();
            let read = segment::read(&mut file, &path, from, segment, |frame| {
                if frame.offset >= place.offset {
                    records.push(Record {
                        partition: PARTITION,
                        offset: frame.offset,
                        arrived_ms: frame.arrived_ms,
                        stamped_ms: frame.arrived_ms,
                        device: Some(frame.device),
                        payload: frame.payload,
                    });
                }
            })?;
            Ok((file, records, read))
        });
        let (file, records, read) = joined(reading.await, &self.dir)?;
        self.file = Some((segment.first, file));
        let offset = records.iter().last().map_or(place.offset, |record| record.offset + 1);
        self.place = Some(Place { offset, read: Some((segment.first, read)) });
        Ok(records)
    }

    /// What there is to read at `place`. Marks the present state as seen.
    fn ahead(&mut self, place: Place) -> Ahead {
        let synced = self.synced.borrow_and_update();
        let (first, byte) = place.read.unwrap_or_else(|| (segment_of(&synced.segments, place.offset), 0));
        let at = synced.segments.partition_point(|segment| segment.first < first);
        let unread = synced.segments[at..].iter().find_map(|&segment| {
            let from = if segment.first == first { byte } else { 0 };
            (from < segment.bytes).then_some(Ahead::Bytes(segment, from))
        });
        match unread {
            Some(ahead) => ahead,
            None if synced.closed => Ahead::End,
            None => Ahead::Nothing,
        }
    }
}

#[async_trait]
impl Source for SpoolSource {
    fn chain(&self) -> &str {
        &self.chain
    }

    fn lookup(&self) -> Arc<dyn Lookup> {
        Arc::new(SpoolLookup { dir: self.dir.clone(), synced: self.synced.clone() })
    }

    async fn next(&mut self, wait: Duration) -> anyhow::Result<LogEvent> {
        if !self.assigned {
            self.assigned = true;
            return Ok(LogEvent::Assigned(vec![PARTITION]));
        }
        let deadline = Instant::now() + wait;
        loop {
            let Some(place) = self.place.filter(|_| !self.paused) else {
                tokio::time::sleep_until(deadline).await;
                return Ok(LogEvent::Idle);
            };
            match self.ahead(place) {
                Ahead::Bytes(segment, from) => {
                    let records = self.read(place, segment, from).await?;
                    if !records.is_empty() {
                        return Ok(LogEvent::Records(records));
                    }
                }
                Ahead::End => return Ok(LogEvent::End),
                Ahead::Nothing => match tokio::time::timeout_at(deadline, self.synced.changed()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return Ok(LogEvent::End),
                    Err(_) => return Ok(LogEvent::Idle),
                },
            }
        }
    }

    async fn seek(&mut self, partition: i32, offset: i64) -> anyhow::Result<()> {
        check(partition)?;
        self.place = Some(Place { offset, read: None });
        Ok(())
    }

    async fn pause(&mut self, partitions: &[i32]) -> anyhow::Result<()> {
        partitions.iter().try_for_each(|&partition| check(partition))?;
        self.paused |= !partitions.is_empty();
        Ok(())
    }

    async fn resume(&mut self, partitions: &[i32]) -> anyhow::Result<()> {
        partitions.iter().try_for_each(|&partition| check(partition))?;
        self.paused &= partitions.is_empty();
        Ok(())
    }

    /// Deletes the segments that hold only records below `next`; never the last one, which keeps the time of the log's
    /// last record.
    async fn stored(&mut self, partition: i32, next: i64) -> anyhow::Result<()> {
        check(partition)?;
        let mut below = Vec::new();
        self.shared.synced.send_if_modified(|synced| {
            let keep = synced.segments.partition_point(|segment| segment.first <= next).saturating_sub(1);
            below.extend(synced.segments.drain(..keep));
            false
        });
        for segment in below {
            let path = segment::path(&self.dir, segment.first);
            match tokio::fs::remove_file(&path).await {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(e)
                        .with_context(|| format!("could not delete `{}`, which the lake holds", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// What a spool holds.
struct SpoolLookup {
    dir: PathBuf,
    synced: watch::Receiver<Synced>,
}

#[async_trait]
impl Lookup for SpoolLookup {
    async fn bounds(&self, partition: i32) -> anyhow::Result<Bounds> {
        check(partition)?;
        let synced = self.synced.borrow();
        Ok(Bounds { start: synced.segments.first().map_or(synced.next, |segment| segment.first), end: synced.next })
    }

    async fn stamped_at(&self, partition: i32, offset: i64) -> anyhow::Result<Option<i64>> {
        check(partition)?;
        let segments = self.synced.borrow().segments.clone();
        let first = segment_of(&segments, offset);
        let Some(&segment) = segments.iter().find(|segment| segment.first == first && first <= offset) else {
            return Ok(None);
        };
        let path = segment::path(&self.dir, first);
        let searching = tokio::task::spawn_blocking(move || {
            let mut file = File::open(&path).map_err(|e| SpoolError::io("open", &path, e))?;
            let (mut from, mut found, mut past) = (0, None, false);
            while from < segment.bytes && !past {
                from = segment::read(&mut file, &path, from, segment, |frame| {
                    if frame.offset == offset {
                        found = Some(frame.arrived_ms);
                    }
                    past |= frame.offset >= offset;
                })?;
            }
            Ok(found)
        });
        Ok(joined(searching.await, &self.dir)?)
    }
}

/// The name of the segment that holds `offset`, or of the next after it.
fn segment_of(segments: &[Segment], offset: i64) -> i64 {
    let after = segments.partition_point(|segment| segment.first <= offset);
    segments.get(after.saturating_sub(1)).map_or(offset, |segment| segment.first)
}

/// The result of work on another thread.
fn joined<T>(
    result: Result<Result<T, SpoolError>, tokio::task::JoinError>,
    dir: &std::path::Path,
) -> Result<T, SpoolError> {
    result.unwrap_or_else(|e| Err(SpoolError::io("read", dir, io::Error::other(e))))
}

fn check(partition: i32) -> anyhow::Result<()> {
    ensure!(partition == PARTITION, "a spool has partition {PARTITION} only, not {partition}");
    Ok(())
}
