//! Any faults in any readings, and any budget.

use super::*;

/// What happens to one reading.
#[derive(Debug, Clone, Copy)]
enum Fault {
    None,
    Lost,
    Missing,
    StoredTwice(usize),
    SentTwice,
    Altered,
    Late,
    DeadByTime,
    DeadBySeq,
    Unexpected,
}

fn faults() -> impl Strategy<Value = Fault> {
    prop_oneof![
        5 => Just(Fault::None),
        1 => Just(Fault::Lost),
        1 => Just(Fault::Missing),
        1 => (1_usize..4).prop_map(Fault::StoredTwice),
        1 => Just(Fault::SentTwice),
        1 => Just(Fault::Altered),
        1 => Just(Fault::Late),
        1 => Just(Fault::DeadByTime),
        1 => Just(Fault::DeadBySeq),
        1 => Just(Fault::Unexpected),
    ]
}

/// One reading: whose it is, what happens to it, how often the file has it, how often each of these went out.
fn one() -> impl Strategy<Value = (usize, Fault, usize, u32)> {
    (0..4_usize, faults(), 1..3_usize, 1..4_u32)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

async fn check_within(store: &Store, path: &Path, memory_bytes: u64) -> Report {
    let options = Options { sent: Some(path.to_owned()), memory_bytes, ..Options::default() };
    verify(store, &options, |_| {}).await.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn exactly_the_faults_that_were_made_are_found(ones in prop::collection::vec(one(), 1..60), tight in any::<bool>()) {
        let (mut file, mut lake, mut expected) = (Vec::new(), Vec::new(), std::collections::BTreeMap::new());
        // One that is in order at either end, so that all others lie in the span of the file.
        let device = |device: usize| format!("device_{device}");
        let last = ones.len() as i64;
        for (minute, name) in [(-1, 0), (last, 1), (last, 2), (last, 3)] {
            let row = reading(minute, None, 60.0);
            file.push(sent(&device(name), row));
            lake.push(stored(&device(name), row));
        }
        let mut count = |what: &'static str, n: usize| if n > 0 { *expected.entry(what).or_insert(0) += n as u64 };
        count("found", 4);
        for (at, (name, fault, rows, sends)) in (0_i64..).zip(&ones) {
            let device = device(*name);
            // Every second one has no number; then its time alone is its own.
            let by_seq = matches!(fault, Fault::DeadBySeq);
            let row = reading(at, (at % 2 == 0 || by_seq).then_some(at), 70.0 + at as f64 / 10.0);
            let ever = *rows as u64 * u64::from(*sends);
            let one = SentOne { sends: *sends, acknowledged: !matches!(fault, Fault::Missing), ..sent(&device, row) };
            if !matches!(fault, Fault::Unexpected) {
                file.extend(vec![one; *rows]);
            }
            match fault {
                Fault::None => {
                    lake.push(stored(&device, row));
                    count("found", *rows);
                }
                Fault::Lost => count("lost", *rows),
                Fault::Missing => count("missing", *rows),
                Fault::StoredTwice(more) => {
                    lake.extend(vec![stored(&device, row); ever as usize + more]);
                    count("found", *rows);
                    count("sent_twice", ever as usize - 1);
                    count("stored_twice", *more);
                }
                Fault::SentTwice => {
                    lake.extend(vec![stored(&device, row); ever as usize]);
                    count("found", *rows);
                    count("sent_twice", ever as usize - 1);
                }
                Fault::Altered => {
                    let mut changed = row;
                    changed.vitals[Vital::Spo2.index()] = 97.0;
                    lake.push(stored(&device, changed));
                    count("altered", *rows);
                }
                Fault::Late => {
                    lake.push(stored(&device, Reading { arrived_ms: row.ts_ms + HOUR_MS + 1, ..row }));
                    count("found", *rows);
                    count("late", 1);
                }
                Fault::DeadByTime => {
                    let seq = row.seq.map_or_else(|| "null".to_owned(), |seq| seq.to_string());
                    let payload = format!("{{\"timestamp\":{},\"seq\":{seq}}}", row.ts_ms);
                    lake.push(dead(&device, Reason::WrongType, &payload));
                    count("dead_lettered", *rows);
                }
                Fault::DeadBySeq => {
                    lake.push(dead(&device, Reason::NoTimestamp, &format!("{{\"seq\":{at}}}")));
                    count("dead_lettered", *rows);
                }
                Fault::Unexpected => {
                    lake.push(stored(&device, row));
                    count("unexpected", 1);
                }
            }
        }
        let report = block_on(async {
            let store = Store::memory();
            land(&store, 0, &lake).await;
            // Hardly more than the rows of one reading: nearly everything is dealt out more than once.
            check_within(&store, sent_file(&file).path(), if tight { 3_000 } else { 1 << 20 }).await
        });
        let found: std::collections::BTreeMap<_, _> = counts(&report).into_iter().collect();
        prop_assert_eq!(&found, &expected);
        let broken = ["lost", "stored_twice", "altered"].iter().any(|what| expected.contains_key(what));
        prop_assert_eq!(report.kept, !broken);
        prop_assert_eq!(readings(&report).sent.devices, 4);
    }

    /// Times, numbers and vitals that meet by chance, on both sides.
    #[test]
    fn nothing_is_counted_twice_or_not_at_all_within_any_budget(
        file in prop::collection::vec((0..3_usize, 0..4_i64, prop::option::of(0..2_i64), 0..3_u8, any::<bool>()), 1..50),
        lake in prop::collection::vec((0..3_usize, 0..4_i64, prop::option::of(0..2_i64), 0..3_u8), 0..50),
        letters in prop::collection::vec((0..3_usize, prop::option::of(0..4_i64), prop::option::of(0..2_i64)), 0..10),
    ) {
        let device = |device: usize| format!("device_{device}");
        let sent_rows: Vec<_> = file
            .iter()
            .map(|(d, at, seq, value, acknowledged)| SentOne {
                acknowledged: *acknowledged,
                ..sent(&device(*d), reading(*at, *seq, f64::from(*value)))
            })
            .collect();
        let mut records: Vec<_> =
            lake.iter().map(|(d, at, seq, value)| stored(&device(*d), reading(*at, *seq, f64::from(*value)))).collect();
        records.extend(letters.iter().map(|(d, at, seq)| {
            let time = at.map_or_else(|| "null".to_owned(), |at| (T + at * MINUTE_MS).to_string());
            let seq = seq.map_or_else(|| "null".to_owned(), |seq| seq.to_string());
            dead(&device(*d), Reason::WrongType, &format!("{{\"timestamp\":{time},\"seq\":{seq}}}"))
        }));
        records.push(stored("somebody", reading(0, None, 1.0)));
        let (roomy, tight) = block_on(async {
            let store = Store::memory();
            land(&store, 0, &records).await;
            let file = sent_file(&sent_rows);
            // Rows of one moment of one device can't be parted.
            (check_within(&store, file.path(), 1 << 20).await, check_within(&store, file.path(), 25_000).await)
        });
        let r = readings(&roomy);
        let became = r.found + r.altered.count + r.dead_lettered.found.count + r.lost.count + r.missing.count;
        prop_assert_eq!(became, r.sent.readings);
        let sent_devices: std::collections::BTreeSet<_> = file.iter().map(|row| row.0).collect();
        let least = file.iter().map(|row| row.1).min().unwrap();
        let greatest = file.iter().map(|row| row.1).max().unwrap();
        let there = lake.iter().filter(|row| sent_devices.contains(&row.0) && (least..=greatest).contains(&row.1));
        prop_assert_eq!(r.stored, there.count() as u64);
        prop_assert_eq!(counts(&roomy), counts(&tight));
        prop_assert_eq!((r.sent.devices, r.stored), (readings(&tight).sent.devices, readings(&tight).stored));
    }
}

#[test]
fn one_device_with_more_rows_than_the_budget_is_compared_all_the_same() {
    let rows: Vec<_> = (0..4_000).map(|at| reading(at, Some(at), 70.0)).collect();
    let file: Vec<_> = rows.iter().map(|row| sent("one", *row)).collect();
    let mut lake: Vec<_> = rows.iter().filter(|row| row.seq != Some(77)).map(|row| stored("one", *row)).collect();
    lake.push(dead("one", Reason::NoTimestamp, "{\"seq\":77}"));
    lake.push(dead("one", Reason::NotJson, "?"));
    let report = block_on(async {
        let store = Store::memory();
        land(&store, 0, &lake).await;
        check_within(&store, sent_file(&file).path(), 10_000).await
    });
    assert_eq!(counts(&report), [("found", 3_999), ("dead_lettered", 1), ("unmatched", 1)]);
    assert_eq!(readings(&report).sent.devices, 1);
}

#[test]
fn rows_that_cannot_be_parted_are_an_error_and_not_all_memory() {
    let file: Vec<_> = (0..500).map(|value| sent("one", reading(0, None, f64::from(value)))).collect();
    let error = block_on(async {
        let file = sent_file(&file);
        let options = Options { sent: Some(file.path().to_owned()), memory_bytes: 10_000, ..Options::default() };
        verify(&Store::memory(), &options, |_| {}).await.unwrap_err()
    });
    assert!(error.to_string().contains("too many different readings of one"), "{error}");
}
