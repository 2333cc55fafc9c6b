//! Every order of events of two workers that hold the same partition, checked: no record is lost, none is stored twice.
//!
//! The world is small (a log of a few records, a lake, two workers of which one may die once), but everything that can
//! happen in it at any moment is tried, and the workers are [`super::core::Partition`], as in production.

use std::collections::HashSet;

use super::core::{Action, Event, Head, Link, Partition};

/// A link of the chain in the lake.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Stored {
    first: i64,
    next: i64,
    link: u8,
    rows: Vec<i64>,
    writer: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Writing {
    /// Sent; the store has not seen it yet.
    Sent(Stored),
    /// The store has decided; the worker does not know yet. (An answer that is lost and asked for again is the same.)
    Decided(Stored),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Worker {
    name: u8,
    core: Partition,
    started: bool,
    /// The next offset that the log gives it.
    at: i64,
    gathered: Vec<i64>,
    writing: Option<Writing>,
}

impl Worker {
    fn new(name: u8) -> Worker {
        Worker { name, core: Partition::new(), started: false, at: 0, gathered: Vec::new(), writing: None }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    start: i64,
    end: i64,
    chain: Vec<Stored>,
    workers: [Worker; 2],
    deaths: u8,
    /// Take "taken" for "stored": a mistake that the checker must find.
    careless: bool,
}

impl World {
    fn new(start: i64, end: i64, careless: bool) -> World {
        World { start, end, chain: Vec::new(), workers: [Worker::new(0), Worker::new(1)], deaths: 0, careless }
    }

    /// Every world that can be next.
    fn successors(&self) -> Vec<World> {
        let mut next = Vec::new();
        for w in 0..2 {
            let worker = &self.workers[w];
            let mut step = |change: &dyn Fn(&mut World)| {
                let mut world = self.clone();
                change(&mut world);
                next.push(world);
            };
            if !worker.started {
                step(&|world| world.start_worker(w));
                continue;
            }
            if worker.core.is_reading() && worker.at < self.end {
                step(&|world| world.read(w));
            }
            if !worker.gathered.is_empty() {
                step(&|world| world.happened(w, Event::Close));
            }
            match &worker.writing {
                Some(Writing::Sent(_)) => step(&|world| world.store(w)),
                Some(Writing::Decided(_)) => step(&|world| world.answer(w)),
                None => {}
            }
            if self.deaths == 0 {
                // What was sent may still arrive after its sender has died; what was not sent is gone.
                step(&|world| {
                    world.deaths = 1;
                    world.workers[w] = Worker::new(2);
                });
                if matches!(worker.writing, Some(Writing::Sent(_))) {
                    step(&|world| {
                        world.store(w);
                        world.deaths = 1;
                        world.workers[w] = Worker::new(2);
                    });
                }
            }
        }
        next
    }

    fn start_worker(&mut self, w: usize) {
        self.workers[w].started = true;
        let last = |chain: &[Stored]| chain.iter().flat_map(|link| link.rows.iter().copied()).max();
        let head = self.chain.last().map(|link| Head { next: link.next, last: last(&self.chain).map(|o| (o, o)) });
        self.happened(w, Event::Head(head));
    }

    fn read(&mut self, w: usize) {
        let offset = self.workers[w].at;
        self.workers[w].at += 1;
        self.happened(w, Event::Record { offset });
    }

    /// The store decides on a write: creation is a compare-and-swap on the key.
    fn store(&mut self, w: usize) {
        let Some(Writing::Sent(file)) = self.workers[w].writing.take() else { return };
        if !self.chain.iter().any(|link| link.first == file.first) {
            self.chain.push(file.clone());
        }
        self.workers[w].writing = Some(Writing::Decided(file));
    }

    /// The worker learns what the store has under its key, and knows its own file by writer and end.
    fn answer(&mut self, w: usize) {
        let Some(Writing::Decided(file)) = self.workers[w].writing.take() else { return };
        let there = self.chain.iter().find(|link| link.first == file.first).cloned().unwrap_or(file.clone());
        let own = there.writer == file.writer && there.next == file.next;
        let event = if own || self.careless { Event::Stored } else { Event::Taken { next: there.next } };
        self.happened(w, event);
    }

    fn happened(&mut self, w: usize, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let offset = match event {
                Event::Record { offset } => offset,
                _ => -1,
            };
            for action in self.workers[w].core.on(event.clone()) {
                let worker = &mut self.workers[w];
                match action {
                    Action::AskLog { record } => {
                        let head_stamped_ms = record.filter(|offset| (self.start..self.end).contains(offset));
                        events.push(Event::Log { start: self.start, end: self.end, head_stamped_ms });
                    }
                    Action::Seek { offset } => worker.at = offset,
                    Action::Keep => worker.gathered.push(offset),
                    Action::Discard => worker.gathered.clear(),
                    Action::Put { first, next, link } => {
                        let link = if link == Link::Slice { 0 } else { 1 };
                        let rows = std::mem::take(&mut worker.gathered);
                        let file = Stored { first, next, link, rows, writer: worker.name };
                        worker.writing = Some(Writing::Sent(file));
                    }
                    Action::Skip | Action::Commit { .. } => {}
                    Action::Stop(why) => panic!("{why}"),
                }
            }
        }
    }

    /// What must hold at every moment: the chain has no hole and no overlap, and has every record up to its end once.
    fn check(&self) -> Result<(), String> {
        let mut next = 0;
        let mut rows = Vec::new();
        for link in &self.chain {
            if link.first != next {
                return Err(format!("a link begins at {} after one that ends at {next}", link.first));
            }
            next = link.next;
            rows.extend(link.rows.iter().copied());
        }
        let expected: Vec<i64> = (self.start..next).collect();
        if rows != expected { Err(format!("the lake has {rows:?} of {expected:?}")) } else { Ok(()) }
    }

    /// Whether nothing can happen any more but a death.
    fn is_done(&self) -> bool {
        let idle = |w: &Worker| w.started && w.at >= self.end && w.gathered.is_empty() && w.writing.is_none();
        self.workers.iter().all(idle)
    }
}

/// Goes through every world that can be reached; gives how many there are, or what went wrong in one of them.
fn explore(first: World) -> Result<usize, String> {
    let mut seen = HashSet::from([first.clone()]);
    let mut ahead = vec![first];
    while let Some(world) = ahead.pop() {
        world.check().map_err(|what| format!("{what} in {world:?}"))?;
        if world.is_done() && world.chain.last().is_none_or(|link| link.next != world.end) {
            return Err(format!("nobody will store the rest in {world:?}"));
        }
        ahead.extend(world.successors().into_iter().filter(|next| seen.insert(next.clone())));
    }
    Ok(seen.len())
}

#[test]
fn two_workers_and_a_death_lose_nothing_and_store_nothing_twice() {
    let worlds = explore(World::new(0, 3, false)).unwrap();
    assert!(worlds > 1000, "only {worlds} worlds: this shows little");
    explore(World::new(1, 3, false)).unwrap();
}

#[test]
fn a_worker_that_takes_taken_for_stored_is_caught() {
    explore(World::new(0, 3, true)).unwrap_err();
}
