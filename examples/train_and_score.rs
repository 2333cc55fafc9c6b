//! Trains a model and scores with it, without a lake: `cargo run --release --example train_and_score`
//!
//! Forty simulated devices measure once a minute. The model learns from their first three days, without labels, and
//! judges the fourth reading by reading, as they would come from a log. What it finds is then compared with what the
//! simulator did.

use vitals::{
    model::{
        History, Model, TrainOptions,
        episodes::{Episode, Gather, Span},
        evaluate::{SLACK_MS, Tally, compare},
        train,
    },
    reading::time::format_rfc3339_ms,
    simulate::{Fleet, FleetOptions, device_id, device_labels},
};

const DEVICES: u32 = 40;
const DAY_MS: i64 = 86_400_000;

/// 2026-03-01T00:00:00Z.
const START_MS: i64 = 1_772_323_200_000;

/// Until when the model learns; what comes later is judged.
const SPLIT_MS: i64 = START_MS + 3 * DAY_MS;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let fleet = FleetOptions {
        devices: DEVICES,
        seed: 7,
        interval_ms: 60_000,
        start_ms: START_MS,
        end_ms: START_MS + 4 * DAY_MS,
        origin_ms: START_MS,
        episodes_per_device_day: 0.5,
        warmup_ms: DAY_MS / 2,
    };
    let histories = histories(&fleet)?;

    let model = train(&past(&histories), &TrainOptions::default())?;
    let card = model.card();
    println!("model {}: {} readings of {} devices", model.id(), card.trained_on.readings, card.trained_on.devices);
    println!("a score of {:.1} raises an alarm; the budget is {} a day\n", card.threshold, card.alarms_per_device_day);

    // A model is a file: whoever scores reads it from its bytes.
    let model = Model::from_bytes(&model.to_bytes())?;
    let mut tally = Tally::default();
    for (index, history) in (0..).zip(&histories) {
        let episodes = judge(&model, history);
        episodes.iter().for_each(|episode| tell(&history.device_id, episode));
        tally.add(&against_labels(&fleet, index, &episodes));
    }
    println!("\nfound {} of {} simulated episodes", tally.found, tally.events);
    println!("false alarms: {:.2} per device and day", tally.false_alarms_per_device_day());
    Ok(())
}

/// What each device sent.
fn histories(fleet: &FleetOptions) -> Result<Vec<History>, Box<dyn std::error::Error>> {
    let mut histories: Vec<History> =
        (0..fleet.devices).map(|index| History { device_id: device_id(index), readings: Vec::new() }).collect();
    for (device, reading) in Fleet::new(fleet.clone())? {
        histories[device as usize].readings.push(reading);
    }
    Ok(histories)
}

/// What the model may learn from.
fn past(histories: &[History]) -> Vec<History> {
    let before = |history: &History| {
        let readings = history.readings.iter().take_while(|reading| reading.ts_ms < SPLIT_MS).copied().collect();
        History { device_id: history.device_id.clone(), readings }
    };
    histories.iter().map(before).collect()
}

/// The episodes that one device raises after the split. What it sent before makes up its state.
fn judge(model: &Model, history: &History) -> Vec<Episode> {
    let mut state = model.new_state();
    let mut episodes = Gather::default();
    for reading in &history.readings {
        let verdict = model.score(&mut state, reading.ts_ms, &reading.vitals);
        if reading.ts_ms >= SPLIT_MS {
            episodes.take(reading.ts_ms, &verdict);
        }
    }
    episodes.finish()
}

/// One line for an episode.
fn tell(device: &str, episode: &Episode) {
    let (start, minutes) =
        (format_rfc3339_ms(episode.span.start_ms), (episode.span.end_ms - episode.span.start_ms) / 60_000);
    println!("{device:<10} {start} {minutes:>4} min  {:<22} {}", episode.peak.cause.code(), episode.peak.sentence());
}

/// Alarms of one device against the simulator's labels of the same time.
fn against_labels(fleet: &FleetOptions, index: u32, episodes: &[Episode]) -> Tally {
    let labels = device_labels(fleet, index, fleet.end_ms);
    let events: Vec<Span> = labels
        .iter()
        .filter(|label| label.start_ms >= SPLIT_MS)
        .map(|label| Span { start_ms: label.start_ms, end_ms: label.end_ms })
        .collect();
    // Alarms of events that reach over the split belong to neither.
    let over =
        |span: &Span| labels.iter().any(|label| label.start_ms < SPLIT_MS && span.start_ms <= label.end_ms + SLACK_MS);
    let alarms: Vec<Span> = episodes.iter().map(|episode| episode.span).filter(|span| !over(span)).collect();
    compare(&alarms, &events, SLACK_MS, fleet.end_ms - SPLIT_MS).0
}
