//! Forests from unlabelled histories: synthetic events are put into copies of them, and the forests learn to tell.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::features::{HEAD, ROW};
use super::filter::Unit;
use super::forest::Forest;
use super::grow::{Edges, GrowOptions, Rows, grow};
use super::grown::{Growth, Part};
use super::inject::{INSIDE, inject};
use super::population::Population;
use super::score::{Observation, observe, units};
use super::state::DeviceState;
use super::threads;
use super::training::History;
use crate::reading::{VITALS, Vitals};

/// How often each device is used, every time with other events.
const REPLICATES: usize = 4;
/// Rows that are learnt from, at most: what bounds memory (about 250 bytes each) and time.
const MOST_ROWS: usize = 600_000;
/// Rows of one device in one replicate, at most.
const MOST_DEVICE_ROWS: usize = 2_000;
/// Rows of a device are at least this far apart, in milliseconds, so that talkative devices don't outweigh others.
const APART_MS: i64 = 45 * 60_000;
/// Share of a row's vitals that the head learns from.
const CELLS: f64 = 0.4;
/// Bins are laid by this many rows, at most.
const EDGE_ROWS: usize = 60_000;

const HEAD_OPTIONS: GrowOptions =
    GrowOptions { trees: 200, rate: 0.1, l2: 5.0, inputs: 0.7, rows: 0.6, seed: 1, threads: 1 };
/// Trees of both forests together, where every one of them helps.
pub(super) const TREES: usize = HEAD_OPTIONS.trees + ROW_OPTIONS.trees;
const ROW_OPTIONS: GrowOptions = GrowOptions { inputs: 0.5, seed: 2, ..HEAD_OPTIONS };

/// How many rows a history can give.
pub(super) fn rows_of(history: &History) -> usize {
    let mut next_ms = i64::MIN;
    let apart = history.readings.iter().filter(|reading| {
        let taken = reading.ts_ms >= next_ms;
        if taken {
            next_ms = reading.ts_ms.saturating_add(APART_MS);
        }
        taken
    });
    apart.count().min(MOST_DEVICE_ROWS)
}

/// The two forests.
pub(super) struct Forests {
    pub head: Forest,
    pub row: Forest,
}

/// Learns the forests from these devices' histories. The same whatever the number of threads, 0 for as many as the machine
/// has, and whatever trees are there already.
pub(super) fn learn(
    histories: &[&History],
    population: &Population,
    seed: u64,
    threads: usize,
    growth: &mut Growth<'_>,
) -> Forests {
    let threads = threads::count(threads);
    let plan = Plan::of(histories, seed);
    let units = units(population);
    let context = Context { histories, population, units: &units, seed };
    let (head_edges, row_edges) = context.edges(&plan);
    let share = plan.jobs.len().div_ceil(threads).max(1);
    let gather = &|jobs: &[Job]| {
        let mut gathered = (Rows::new(head_edges.clone()), Rows::new(row_edges.clone()));
        for job in jobs {
            context.replay(job, &mut |seen, vitals, mark, rng| {
                gathered.1.push(&seen.row_inputs(), mark & INSIDE != 0);
                each_cell(seen, vitals, rng, |j, inputs| gathered.0.push(inputs, mark >> j & 1 == 1));
            });
        }
        gathered
    };
    let parts = threads::each(plan.jobs.chunks(share).map(|jobs| move || gather(jobs)));
    let (mut heads, mut rows) = (Rows::new(head_edges.clone()), Rows::new(row_edges.clone()));
    for (head, row) in parts {
        heads.append(head);
        rows.append(row);
    }
    let of = |options: GrowOptions| GrowOptions { seed: options.seed ^ seed << 8, threads, ..options };
    let Growth { from, told } = growth;
    Forests {
        head: grow(&heads, &of(HEAD_OPTIONS), &from.head, &mut |tree| told(Part::Head, tree)),
        row: grow(&rows, &of(ROW_OPTIONS), &from.row, &mut |tree| told(Part::Row, tree)),
    }
}

/// One history, once more with other events.
#[derive(Debug, Clone, Copy)]
struct Job {
    history: usize,
    replicate: usize,
}

struct Plan {
    jobs: Vec<Job>,
}

impl Plan {
    /// As many replicates of as many devices as the bound on rows allows; which, the seed says.
    fn of(histories: &[&History], seed: u64) -> Plan {
        let mut all: Vec<Job> = (0..REPLICATES)
            .flat_map(|replicate| (0..histories.len()).map(move |history| Job { history, replicate }))
            .collect();
        let rows: usize = histories.iter().map(|history| rows_of(history)).sum::<usize>() * REPLICATES;
        if rows > MOST_ROWS {
            let mut rng = Pcg64Mcg::seed_from_u64(seed);
            let share = MOST_ROWS as f64 / rows as f64;
            all.retain(|_| rng.random::<f64>() < share);
        }
        Plan { jobs: all }
    }
}

struct Context<'a> {
    histories: &'a [&'a History],
    population: &'a Population,
    units: &'a [Unit; VITALS],
    seed: u64,
}

impl Context<'_> {
    /// Goes through a history with events in it; gives each row that is learnt from: what was seen, the reading's vitals,
    /// its mark, and the chance to go on with.
    fn replay(&self, job: &Job, each: &mut impl FnMut(&Observation, &Vitals, u8, &mut Pcg64Mcg)) {
        let key = self.seed.wrapping_mul(1_000_003) ^ ((job.replicate as u64) << 40) ^ job.history as u64;
        let mut rng = Pcg64Mcg::seed_from_u64(key.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let donor = self.histories[rng.random_range(0..self.histories.len())];
        let mut readings = self.histories[job.history].readings.clone();
        let marks = inject(&mut readings, &donor.readings, self.population, &mut rng);
        let mut state = DeviceState::new(0, self.units);
        let (mut next_ms, mut rows) = (i64::MIN, 0);
        for (reading, mark) in readings.iter().zip(marks) {
            let seen = observe(self.units, &mut state, reading.ts_ms, &reading.vitals);
            let known = seen.latest.iter().any(|value| !value.is_nan());
            if reading.ts_ms < next_ms || !known || rows == MOST_DEVICE_ROWS {
                continue;
            }
            // Not always the same phase of a tick.
            let jitter_ms = if next_ms == i64::MIN { 0 } else { rng.random_range(0..APART_MS / 9) };
            next_ms = reading.ts_ms.saturating_add(APART_MS + jitter_ms);
            rows += 1;
            each(&seen, &reading.vitals, mark, &mut rng);
        }
    }

    /// Where the bins lie, by a sample of the rows.
    fn edges(&self, plan: &Plan) -> (Edges, Edges) {
        let (mut cells, mut rows) = (Vec::new(), Vec::new());
        let step = (plan.jobs.len() / 700).max(1);
        for job in plan.jobs.iter().step_by(step) {
            self.replay(job, &mut |seen, vitals, _, rng| {
                if rows.len() < EDGE_ROWS * ROW {
                    rows.extend_from_slice(&seen.row_inputs());
                    each_cell(seen, vitals, rng, |_, inputs| cells.extend_from_slice(inputs));
                }
            });
        }
        (Edges::of(&cells, HEAD), Edges::of(&rows, ROW))
    }
}

/// Some of a row's sound vitals, as inputs of the head.
fn each_cell(seen: &Observation, vitals: &Vitals, rng: &mut Pcg64Mcg, mut each: impl FnMut(usize, &[f32; HEAD])) {
    let mut inputs = None;
    for j in 0..VITALS {
        if vitals[j].is_nan() || seen.faults[j].is_some() || rng.random::<f64>() >= CELLS {
            continue;
        }
        let lanes = inputs.get_or_insert_with(|| seen.head_inputs());
        each(j, &std::array::from_fn(|input| lanes[input][j]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::bodies::{Fleet, HOUR};
    use crate::model::population::adults;

    #[test]
    fn forests_are_the_same_whatever_the_threads_and_know_events_from_none() {
        let bodies = Fleet { devices: 60, interval_ms: HOUR, ..Fleet::default() }.histories();
        let taught: Vec<&History> = bodies.iter().collect();
        let population = adults();
        let one = learn(&taught, &population, 5, 1, &mut Growth::anew(&mut |_, _| ()));
        let three = learn(&taught, &population, 5, 3, &mut Growth::anew(&mut |_, _| ()));
        assert!(one.head == three.head && one.row == three.row);

        let fresh = Fleet { devices: 40, interval_ms: HOUR, seed: 9, ..Fleet::default() }.histories();
        let fresh: Vec<&History> = fresh.iter().collect();
        let units = units(&population);
        let context = Context { histories: &fresh, population: &population, units: &units, seed: 6 };
        let (mut inside, mut outside) = (Vec::new(), Vec::new());
        for job in Plan::of(&fresh, 6).jobs {
            context.replay(&job, &mut |seen, _, mark, _| {
                let sums = if mark & INSIDE != 0 { &mut inside } else { &mut outside };
                sums.push(one.row.sum(&seen.row_inputs()));
            });
        }
        outside.sort_unstable_by(f32::total_cmp);
        let beaten: usize = inside.iter().map(|sum| outside.partition_point(|other| other < sum)).sum();
        let auroc = beaten as f64 / (inside.len() * outside.len()) as f64;
        assert!(auroc > 0.7, "{auroc}");
    }
}
