//! The rules by which one partition's records become links of its chain, without any input or output.
//!
//! [`Partition`] takes what happened ([`Event`]) and says what to do ([`Action`]). The worker that runs in production, the
//! tests that inject faults and the checker that tries every order of events all drive this same type, so what is
//! checked is what runs.
//!
//! ```text
//!              Head(none) ─▶ Bounds ─▶ put a Start link (or none, where the log starts at 0)
//! assigned ─▶  Head(next) ─▶ is it the same log? ─▶ read from `next`
//! reading ─▶ Record… ─▶ Close ─▶ put [first, next) ─┬─ Done  ─▶ stored(next), next slice
//!                                                   └─ Taken ─▶ drop everything, read on from the other's `next`
//! ```
//!
//! Rules that the promise rests on:
//!
//! 1. `first` of a slice is always the `next` of the chain's head as last seen;
//! 2. one write is under way per partition; while it is, records gather in the slice after it;
//! 3. a record below the slice's `next` is never added to it (it came twice), a hole in the offsets is covered by it;
//! 4. after "taken" everything gathered is dropped and read again from the winner's `next`: it is rare, and simple. The
//!    log gives no older record after a seek ([`crate::log::Source::seek`]), so no hole can come of it.

/// What happened to a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The lake's head was read: how far the chain goes, and the last record that it holds with the log's time of it.
    Head(Option<Head>),
    /// What the log holds now, and the log's time of the head's last record (`None` where the log doesn't hold it).
    Log { start: i64, end: i64, head_stamped_ms: Option<i64> },
    /// The log gave a record.
    Record { offset: i64 },
    /// The slice is to be closed: its window ended, its budget is used up, or the worker goes.
    Close,
    /// The write that was under way succeeded.
    Stored,
    /// The key was taken by a file that goes up to `next`.
    Taken { next: i64 },
}

/// The head of a chain in the lake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub next: i64,
    /// The last record in the chain: its offset and the log's time of it.
    pub last: Option<(i64, i64)>,
}

/// What is to be done for a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask the log what it holds, and for the record at this offset.
    AskLog { record: Option<i64> },
    /// Read from this offset on.
    Seek { offset: i64 },
    /// Add the record that was just given to the slice.
    Keep,
    /// Let go of the record that was just given: the lake has it.
    Skip,
    /// Write the slice `[first, next)`; an empty link where it has no rows.
    Put { first: i64, next: i64, link: Link },
    /// Let go of every gathered row; the log gives again what the lake lacks.
    Discard,
    /// The lake holds everything below this offset.
    Commit { next: i64 },
    /// Stop: a person must decide.
    Stop(Stop),
}

/// Why a link is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// The rows gathered so far.
    Slice,
    /// The chain's first link: the log starts at its `next`.
    Start,
    /// The log lost `[first, next)` before it was read.
    Gap,
}

/// Why a partition can't be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// The log ends before what the lake holds of it, or its record there is another one.
    #[error(
        "the log is not the one that the lake has: the lake holds it up to offset {next}, and the log's record there is \
         missing or another (was the topic deleted and made anew?); name a new chain with `--chain`"
    )]
    AnotherLog {
        /// How far the lake goes.
        next: i64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    /// Waiting for the head.
    Starting,
    /// Waiting for what the log holds; the head's `next` and last record.
    Asking {
        next: i64,
        last: Option<(i64, i64)>,
        fresh: bool,
    },
    Reading,
    Stopped,
}

/// One assigned partition. See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Partition {
    phase: Phase,
    /// The first offset of the slice that gathers.
    first: i64,
    /// The offset after the last record in it.
    next: i64,
    /// The end of the write under way.
    writing: Option<i64>,
    /// Whether to close again as soon as the write under way is done.
    close_again: bool,
}

impl Default for Partition {
    fn default() -> Self {
        Partition::new()
    }
}

impl Partition {
    /// A partition that was just assigned: the first event is its head.
    pub fn new() -> Partition {
        Partition { phase: Phase::Starting, first: 0, next: 0, writing: None, close_again: false }
    }

    /// `[first, next)` of the slice that gathers.
    pub fn gathering(&self) -> (i64, i64) {
        (self.first, self.next)
    }

    /// Whether a write is under way.
    pub fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Whether records may come.
    pub fn is_reading(&self) -> bool {
        self.phase == Phase::Reading
    }

    /// Takes an event and gives the actions, in order.
    pub fn on(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Head(head) => self.on_head(head),
            Event::Log { start, end, head_stamped_ms } => self.on_log(start, end, head_stamped_ms),
            Event::Record { offset } => vec![if self.takes(offset) { Action::Keep } else { Action::Skip }],
            Event::Close => self.on_close(),
            Event::Stored => self.on_stored(),
            Event::Taken { next } => self.on_taken(next),
        }
    }

    fn on_head(&mut self, head: Option<Head>) -> Vec<Action> {
        let (next, last, fresh) = head.map_or((0, None, true), |head| (head.next, head.last, false));
        self.phase = Phase::Asking { next, last, fresh };
        vec![Action::AskLog { record: last.map(|(offset, _)| offset) }]
    }

    fn on_log(&mut self, start: i64, end: i64, head_stamped_ms: Option<i64>) -> Vec<Action> {
        let Phase::Asking { next, last, fresh } = self.phase else { return Vec::new() };
        let gone = last.is_some_and(|(offset, _)| offset < start);
        let same = match (last, head_stamped_ms) {
            // Retention has taken the record that would tell; the log's end still must not be behind the lake.
            _ if end < next => false,
            (Some((_, stored_ms)), Some(log_ms)) => stored_ms == log_ms,
            // A record that the log should hold and doesn't can have been compacted away only where there is a hole
            // around it; a log made anew is far likelier, and going on would mix two logs.
            // (A spool whose disk lost records that the lake has goes on exactly at the lake's head.)
            (Some(_), None) => gone || end == next,
            (None, _) => true,
        };
        if !same {
            self.phase = Phase::Stopped;
            return vec![Action::Stop(Stop::AnotherLog { next })];
        }
        self.phase = Phase::Reading;
        (self.first, self.next) = (next, next);
        let mut actions = vec![Action::Seek { offset: next.max(start) }];
        if start > next {
            self.next = start;
            actions.push(self.put(if fresh { Link::Start } else { Link::Gap }));
        }
        actions
    }

    /// [`Event::Record`] without a list of actions, as it comes a million times a second: whether to keep the record.
    pub fn takes(&mut self, offset: i64) -> bool {
        let wanted = self.wants(offset);
        if wanted {
            self.next = offset + 1;
        }
        wanted
    }

    /// Whether [`Partition::takes`] would be true.
    pub fn wants(&self, offset: i64) -> bool {
        self.phase == Phase::Reading && offset >= self.next
    }

    fn on_close(&mut self) -> Vec<Action> {
        if self.phase != Phase::Reading || self.next == self.first {
            return Vec::new();
        }
        if self.writing.is_some() {
            self.close_again = true;
            return Vec::new();
        }
        vec![self.put(Link::Slice)]
    }

    fn put(&mut self, link: Link) -> Action {
        let (first, next) = (self.first, self.next);
        self.writing = Some(next);
        self.first = next;
        Action::Put { first, next, link }
    }

    fn on_stored(&mut self) -> Vec<Action> {
        let Some(next) = self.writing.take() else { return Vec::new() };
        let mut actions = vec![Action::Commit { next }];
        if std::mem::take(&mut self.close_again) {
            actions.extend(self.on_close());
        }
        actions
    }

    /// The winner's file covers up to `next`; what of ours lies beyond is read again.
    fn on_taken(&mut self, next: i64) -> Vec<Action> {
        if self.writing.take().is_none() {
            return Vec::new();
        }
        (self.first, self.next, self.close_again) = (next, next, false);
        vec![Action::Discard, Action::Commit { next }, Action::Seek { offset: next }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A partition of a log that starts at 0, with a chain that goes to `next`.
    fn reading_from(next: i64) -> Partition {
        let mut partition = Partition::new();
        let head = (next > 0).then_some(Head { next, last: Some((next - 1, 7)) });
        partition.on(Event::Head(head));
        let actions = partition.on(Event::Log { start: 0, end: next + 100, head_stamped_ms: (next > 0).then_some(7) });
        assert_eq!(actions, [Action::Seek { offset: next }]);
        partition
    }

    #[test]
    fn a_slice_begins_where_the_head_ends() {
        let mut partition = reading_from(10);
        assert_eq!(partition.on(Event::Record { offset: 9 }), [Action::Skip]);
        assert_eq!(partition.on(Event::Record { offset: 10 }), [Action::Keep]);
        assert_eq!(partition.on(Event::Record { offset: 13 }), [Action::Keep]);
        assert_eq!(partition.on(Event::Close), [Action::Put { first: 10, next: 14, link: Link::Slice }]);
        assert_eq!(partition.on(Event::Stored), [Action::Commit { next: 14 }]);
        assert_eq!(partition.on(Event::Close), []);
    }

    #[test]
    fn one_write_at_a_time_and_the_next_follows_it() {
        let mut partition = reading_from(0);
        partition.on(Event::Record { offset: 0 });
        partition.on(Event::Close);
        assert_eq!(partition.on(Event::Record { offset: 1 }), [Action::Keep]);
        assert_eq!(partition.on(Event::Close), []);
        let actions = partition.on(Event::Stored);
        assert_eq!(actions, [Action::Commit { next: 1 }, Action::Put { first: 1, next: 2, link: Link::Slice }]);
    }

    #[test]
    fn a_taken_key_is_followed_from_the_winners_end() {
        let mut partition = reading_from(0);
        (0..5).for_each(|offset| drop(partition.on(Event::Record { offset })));
        partition.on(Event::Close);
        partition.on(Event::Record { offset: 5 });
        let actions = partition.on(Event::Taken { next: 3 });
        assert_eq!(actions, [Action::Discard, Action::Commit { next: 3 }, Action::Seek { offset: 3 }]);
        assert_eq!(partition.on(Event::Record { offset: 3 }), [Action::Keep]);
        assert_eq!(partition.on(Event::Close), [Action::Put { first: 3, next: 4, link: Link::Slice }]);
    }

    #[test]
    fn a_log_that_starts_later_is_linked_first() {
        let mut fresh = Partition::new();
        fresh.on(Event::Head(None));
        let actions = fresh.on(Event::Log { start: 500, end: 600, head_stamped_ms: None });
        assert_eq!(actions, [Action::Seek { offset: 500 }, Action::Put { first: 0, next: 500, link: Link::Start }]);

        let mut late = Partition::new();
        late.on(Event::Head(Some(Head { next: 100, last: Some((99, 7)) })));
        let actions = late.on(Event::Log { start: 500, end: 600, head_stamped_ms: None });
        assert_eq!(actions, [Action::Seek { offset: 500 }, Action::Put { first: 100, next: 500, link: Link::Gap }]);
    }

    #[test]
    fn another_log_under_the_same_name_stops_the_partition() {
        let cases = [
            Event::Log { start: 0, end: 50, head_stamped_ms: None },
            Event::Log { start: 0, end: 200, head_stamped_ms: Some(8) },
            Event::Log { start: 0, end: 200, head_stamped_ms: None },
        ];
        for log in cases {
            let mut partition = Partition::new();
            partition.on(Event::Head(Some(Head { next: 100, last: Some((99, 7)) })));
            assert_eq!(partition.on(log), [Action::Stop(Stop::AnotherLog { next: 100 })]);
            assert_eq!(partition.on(Event::Record { offset: 100 }), [Action::Skip]);
        }
    }
}
