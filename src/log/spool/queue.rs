//! What appenders and the writer share: the group that is being collected, and the byte budget.
//!
//! While one group is written and synced, everybody else's records collect in the next, so the disk's pace sets the size
//! of groups and no timer is needed. A record's offset and arrival time are given when it joins a group, under one lock:
//! both rise together.

use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{Semaphore, watch};

use super::segment::Segment;
use super::{SpoolError, SpoolStats, frame};

/// The most bytes of records that wait for the disk. Who wants to append beyond this waits.
pub const BUDGET_BYTES: usize = 16 * 1024 * 1024;

/// What became of a group; `None` while it is on its way.
type Outcome = Option<Result<(), SpoolError>>;

/// Records that are written and synced together.
pub struct Group {
    pub bytes: Vec<u8>,
    /// Offset of the first record.
    pub first: i64,
    /// The offset after the last record.
    pub next: i64,
    pub records: u64,
    outcome: watch::Sender<Outcome>,
}

impl Group {
    fn new(bytes: Vec<u8>, next: i64) -> Group {
        Group { bytes, first: next, next, records: 0, outcome: watch::Sender::new(None) }
    }
}

struct Queue {
    /// The group that is being collected.
    group: Group,
    /// When the last record arrived, milliseconds since 1970 UTC.
    arrived_ms: i64,
    closed: bool,
}

/// What readers may see.
#[derive(Debug, Clone)]
pub struct Synced {
    /// Segments with records, in order.
    pub segments: Vec<Segment>,
    /// The offset after the last synced record.
    pub next: i64,
    /// Nothing will come any more.
    pub closed: bool,
}

/// See the module's own words.
pub struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    budget: Semaphore,
    pub synced: watch::Sender<Synced>,
    records: AtomicU64,
    bytes: AtomicU64,
    groups: AtomicU64,
    refused: AtomicU64,
}

/// A record on its way to the disk.
#[derive(Debug)]
pub struct Ticket {
    offset: i64,
    outcome: watch::Receiver<Outcome>,
}

impl Ticket {
    /// Waits until the record is stored for good and gives its offset. An error means that it is not in the log. May be
    /// dropped and called again.
    pub async fn stored(&mut self) -> Result<i64, SpoolError> {
        match self.outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Err(SpoolError::Closed)).map(|()| self.offset),
            Err(_) => Err(SpoolError::Closed),
        }
    }

    /// What [`Ticket::stored`] would give at once; `None` where it would wait.
    pub fn try_stored(&self) -> Option<Result<i64, SpoolError>> {
        let gone = self.outcome.has_changed().is_err();
        // Looked at after the question whether the writer is gone, as it speaks before it goes.
        let outcome = self.outcome.borrow().clone();
        match outcome {
            Some(outcome) => Some(outcome.map(|()| self.offset)),
            None if gone => Some(Err(SpoolError::Closed)),
            None => None,
        }
    }
}

impl Shared {
    pub fn new(segments: Vec<Segment>, next: i64, arrived_ms: i64) -> Shared {
        Shared {
            queue: Mutex::new(Queue { group: Group::new(Vec::new(), next), arrived_ms, closed: false }),
            work: Condvar::new(),
            budget: Semaphore::new(BUDGET_BYTES),
            synced: watch::Sender::new(Synced { segments, next, closed: false }),
            records: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            groups: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Puts a record into the group that is being collected, once the budget has room for it.
    pub async fn enqueue(&self, device: &str, payload: &[u8]) -> Result<Ticket, SpoolError> {
        let size = frame::encoded_len(device, payload);
        // The frame's length is limited far below the budget, which itself fits 32 bits.
        let permit = self.budget.acquire_many(size as u32).await.map_err(|_| SpoolError::Closed)?;
        let mut queue = self.lock();
        if queue.closed {
            return Err(SpoolError::Closed);
        }
        // The writer gives the permits back when the group is done.
        permit.forget();
        queue.arrived_ms = queue.arrived_ms.max(now_ms());
        let arrived_ms = queue.arrived_ms;
        let group = &mut queue.group;
        let offset = group.next;
        frame::encode(&mut group.bytes, offset, arrived_ms, device, payload);
        group.next += 1;
        group.records += 1;
        if group.records == 1 {
            self.work.notify_one();
        }
        Ok(Ticket { offset, outcome: group.outcome.subscribe() })
    }

    /// Waits for records and takes them; `None` once the spool is closed and nothing is left. `spare` is an empty buffer
    /// for the next group.
    pub fn take(&self, spare: Vec<u8>) -> Option<Group> {
        let mut queue = self.lock();
        while queue.group.records == 0 {
            if queue.closed {
                return None;
            }
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let next = queue.group.next;
        Some(mem::replace(&mut queue.group, Group::new(spare, next)))
    }

    /// Tells everybody who waits for a group what became of it. Gives its buffer back.
    pub fn finish(&self, group: Group, outcome: Result<(), SpoolError>) -> Vec<u8> {
        let Group { mut bytes, records, outcome: waiting, .. } = group;
        match outcome {
            Ok(()) => {
                self.groups.fetch_add(1, Ordering::Relaxed);
                self.records.fetch_add(records, Ordering::Relaxed);
                self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            Err(_) => {
                self.refused.fetch_add(records, Ordering::Relaxed);
            }
        }
        waiting.send_replace(Some(outcome));
        self.budget.add_permits(bytes.len());
        bytes.clear();
        bytes.shrink_to(1024 * 1024);
        bytes
    }

    /// Moves the next offset up to `next`; a hole is left where it was below.
    pub fn resume_at(&self, next: i64) {
        let mut queue = self.lock();
        if queue.group.records == 0 && queue.group.next < next {
            queue.group.next = next;
            queue.group.first = next;
            self.synced.send_modify(|synced| synced.next = synced.next.max(next));
        }
    }

    /// From now on nothing is taken; what was taken is still written.
    pub fn close(&self) {
        self.lock().closed = true;
        self.budget.close();
        self.work.notify_one();
    }

    /// The writer has gone: nobody waits for it any more.
    pub fn writer_gone(&self) {
        self.close();
        let mut queue = self.lock();
        let next = queue.group.next;
        queue.group = Group::new(Vec::new(), next);
        drop(queue);
        self.synced.send_modify(|synced| synced.closed = true);
    }

    pub fn stats(&self) -> SpoolStats {
        SpoolStats {
            records: self.records.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            groups: self.groups.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while it holds the lock; if something did, the queue would still be whole records.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Milliseconds since 1970 UTC by this machine's clock.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
