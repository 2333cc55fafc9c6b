//! Work in several threads, with results in an order that does not depend on them.

use std::thread;

/// What `work` makes of every item, in the order of the items. 0 threads: as many as the machine has.
pub(crate) fn map<I: Sync, T: Send>(items: &[I], threads: usize, work: impl Fn(&I) -> T + Sync) -> Vec<T> {
    let threads = count(threads).clamp(1, items.len().max(1));
    let work = &work;
    // Every so many items, so that devices with long histories, often neighbours by name, spread over the threads.
    let deal = |first: usize| items.iter().skip(first).step_by(threads).map(work).collect::<Vec<T>>();
    let deal = &deal;
    let hands = each((0..threads).map(|first| move || deal(first)));
    let mut hands: Vec<_> = hands.into_iter().map(Vec::into_iter).collect();
    (0..items.len()).filter_map(|i| hands.get_mut(i % threads).and_then(Iterator::next)).collect()
}

/// Runs each job in a thread of its own; results in order of the jobs.
pub(crate) fn each<T: Send, F: FnOnce() -> T + Send>(jobs: impl Iterator<Item = F>) -> Vec<T> {
    thread::scope(|scope| {
        let jobs: Vec<_> = jobs.map(|job| scope.spawn(job)).collect();
        // A thread's panic is this thread's: there is nothing sensible to go on with.
        jobs.into_iter().map(|job| job.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

/// So many threads; 0 for as many as the machine has.
pub(crate) fn count(threads: usize) -> usize {
    match threads {
        0 => thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order_whatever_the_threads() {
        let items: Vec<u32> = (0..10).collect();
        for threads in [0, 1, 3, 99] {
            assert_eq!(map(&items, threads, |i| i * 2), [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]);
        }
        assert!(map(&[] as &[u32], 2, |i| *i).is_empty());
    }
}
