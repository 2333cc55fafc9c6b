//! Work on many devices at once, with results in the order of the devices.

use std::thread;

/// What `work` makes of every item, in the order of the items. 0 threads: as many as the machine has.
pub(super) fn map<I: Sync, T: Send>(items: &[I], threads: usize, work: impl Fn(&I) -> T + Sync) -> Vec<T> {
    let threads = match threads {
        0 => thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let threads = threads.clamp(1, items.len().max(1));
    let work = &work;
    // Every so many items, so that devices with long histories, often neighbours by name, spread over the threads.
    let deal = |first: usize| items.iter().skip(first).step_by(threads).map(work).collect::<Vec<T>>();
    let deal = &deal;
    let mut hands: Vec<_> = thread::scope(|scope| {
        let hands: Vec<_> = (0..threads).map(|first| scope.spawn(move || deal(first))).collect();
        // A thread's panic is this thread's: there is nothing sensible to go on with.
        let join =
            |hand: thread::ScopedJoinHandle<'_, Vec<T>>| hand.join().unwrap_or_else(|e| std::panic::resume_unwind(e));
        hands.into_iter().map(|hand| join(hand).into_iter()).collect()
    });
    (0..items.len()).filter_map(|i| hands.get_mut(i % threads).and_then(Iterator::next)).collect()
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
