//! Scoring and training, in readings per second. `cargo bench --bench model`

use divan::{Bencher, counter::ItemsCount};
use vitals::{
    model::{
        Model,
        training::{History, TrainOptions, train},
    },
    reading::Reading,
    simulate::{Fleet, FleetOptions, device_id},
};

fn main() {
    divan::main();
}

const DEVICES: u32 = 100;

/// A day of a fleet, a reading a minute.
fn fleet() -> FleetOptions {
    let start_ms = 1_772_323_200_000;
    FleetOptions {
        devices: DEVICES,
        seed: 1,
        interval_ms: 60_000,
        start_ms,
        end_ms: start_ms + 86_400_000,
        origin_ms: start_ms,
        episodes_per_device_day: 0.5,
        warmup_ms: 0,
    }
}

/// Its readings in the order of time.
fn readings() -> Vec<(usize, Reading)> {
    let fleet = Fleet::new(fleet()).unwrap();
    fleet.map(|(device, reading)| (device as usize, reading)).collect()
}

/// One core; devices take turns, as in a log.
#[divan::bench(sample_count = 10, sample_size = 1)]
fn score(bencher: Bencher<'_, '_>) {
    let (model, readings) = (Model::builtin(), readings());
    bencher
        .counter(ItemsCount::new(readings.len()))
        .with_inputs(|| vec![model.new_state(); DEVICES as usize])
        .bench_local_values(|mut states| {
            let judged = readings
                .iter()
                .map(|(device, reading)| model.score(&mut states[*device], reading.ts_ms, &reading.vitals));
            judged.filter(|verdict| verdict.outlier).count()
        });
}

/// All cores.
#[divan::bench(sample_count = 3, sample_size = 1)]
fn training(bencher: Bencher<'_, '_>) {
    let mut histories: Vec<History> =
        (0..DEVICES).map(|index| History { device_id: device_id(index), readings: Vec::new() }).collect();
    readings().into_iter().for_each(|(device, reading)| histories[device].readings.push(reading));
    bencher
        .counter(ItemsCount::new(histories.iter().map(|history| history.readings.len()).sum::<usize>()))
        .bench_local(|| train(&histories, &TrainOptions::default()).unwrap());
}
