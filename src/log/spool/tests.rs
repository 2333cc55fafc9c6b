use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::segment::{Segment, SegmentFile};
use super::*;
use crate::log::{Bounds, LogEvent, Records, Source};

const SOON: Duration = Duration::from_millis(20);

/// A record that was read.
#[derive(Debug)]
pub(crate) struct Read {
    pub offset: i64,
    pub arrived_ms: i64,
    pub device: Option<String>,
    pub payload: Vec<u8>,
}

fn owned(records: &Records) -> impl Iterator<Item = Read> {
    records.iter().map(|record| Read {
        offset: record.offset,
        arrived_ms: record.arrived_ms,
        device: record.device.map(str::to_owned),
        payload: record.payload.to_vec(),
    })
}

/// Everything that a closed or idle spool has from `offset` on.
pub(crate) async fn read_from(source: &mut SpoolSource, offset: i64) -> anyhow::Result<Vec<Read>> {
    source.seek(PARTITION, offset).await?;
    let mut all = Vec::new();
    loop {
        match source.next(SOON).await? {
            LogEvent::Assigned(partitions) => assert_eq!(partitions, [PARTITION]),
            LogEvent::Records(records) => all.extend(owned(&records)),
            LogEvent::Idle | LogEvent::End => return Ok(all),
            LogEvent::Revoked(_) => panic!("a spool revokes nothing"),
        }
    }
}

pub(crate) fn offsets(records: &[Read]) -> Vec<i64> {
    records.iter().map(|record| record.offset).collect()
}

fn only(records: &Records, offset: i64) -> bool {
    records.iter().map(|record| record.offset).eq([offset])
}

fn small_segments(dir: &Path, bytes: u64) -> Spool {
    Spool::open_with(dir, |writer| writer.with_segment_bytes(bytes), Box::new(segment::open_file)).unwrap()
}

fn segments_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".log"))
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn what_is_appended_is_read_in_order_also_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    let chain = spool.chain().to_string();
    assert!(chain.starts_with("spool-") && chain.len() == 18, "{chain}");
    let appender = spool.appender();
    for n in 0..100 {
        assert_eq!(appender.append(&format!("device_{n}"), &vec![n as u8; n]).await.unwrap(), n as i64);
    }
    let bad = "no id: ä \u{7f}";
    appender.append(bad, b"").await.unwrap();
    spool.close().await;
    assert!(matches!(appender.append("late", b"x").await, Err(SpoolError::Closed)));
    let mut source = spool.source();
    let before = read_from(&mut source, 0).await.unwrap();
    drop(spool);

    let spool = Spool::open(dir.path()).unwrap();
    assert_eq!(spool.chain(), chain);
    let mut source = spool.source();
    let records = read_from(&mut source, 0).await.unwrap();
    assert_eq!(offsets(&records), (0..=100).collect::<Vec<_>>());
    assert_eq!(records[7].device.as_deref(), Some("device_7"));
    assert_eq!(&records[7].payload[..], [7; 7]);
    assert_eq!(records[100].device.as_deref(), Some(bad));
    assert!(records.windows(2).all(|pair| pair[0].arrived_ms <= pair[1].arrived_ms));
    assert!(records.iter().zip(&before).all(|(a, b)| a.arrived_ms == b.arrived_ms && a.payload == b.payload));
    assert_eq!(spool.appender().append("device_1", b"more").await.unwrap(), 101);
    assert_eq!(source.lookup().bounds(PARTITION).await.unwrap(), Bounds { start: 0, end: 102 });
    assert_eq!(source.lookup().stamped_at(PARTITION, 42).await.unwrap(), Some(records[42].arrived_ms));
    assert_eq!(source.lookup().stamped_at(PARTITION, 102).await.unwrap(), None);
    assert_eq!(offsets(&read_from(&mut source, 99).await.unwrap()), [99, 100, 101]);
}

#[tokio::test]
async fn a_reader_is_woken_by_new_records_and_told_of_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    let mut source = spool.source();
    assert!(matches!(source.next(SOON).await.unwrap(), LogEvent::Assigned(_)));
    assert!(matches!(source.next(SOON).await.unwrap(), LogEvent::Idle), "nothing comes before a seek");
    source.seek(PARTITION, 0).await.unwrap();
    let appender = spool.appender();
    let reading = tokio::spawn(async move {
        let event = source.next(Duration::from_secs(60)).await.unwrap();
        (source, event)
    });
    appender.append("device_1", b"a").await.unwrap();
    let (mut source, event) = reading.await.unwrap();
    assert!(matches!(event, LogEvent::Records(records) if only(&records, 0)));

    source.pause(&[PARTITION]).await.unwrap();
    appender.append("device_1", b"b").await.unwrap();
    assert!(matches!(source.next(SOON).await.unwrap(), LogEvent::Idle), "paused");
    spool.close().await;
    source.resume(&[PARTITION]).await.unwrap();
    assert!(matches!(source.next(SOON).await.unwrap(), LogEvent::Records(records) if only(&records, 1)));
    assert!(matches!(source.next(SOON).await.unwrap(), LogEvent::End));
}

#[tokio::test]
async fn a_second_opener_is_told_who_has_the_spool() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    let Err(error) = Spool::open(dir.path()) else { panic!("opened twice") };
    let text = error.to_string();
    assert!(text.contains(&std::process::id().to_string()) && text.contains(dir.path().to_str().unwrap()), "{text}");
    drop(spool);
    Spool::open(dir.path()).unwrap();
}

#[tokio::test]
async fn segments_go_once_the_lake_has_them_but_never_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let spool = small_segments(dir.path(), 100);
    for _ in 0..6 {
        spool.appender().append("device_1", b"0123456789").await.unwrap();
    }
    // A frame is 44 bytes, so two fit into a segment.
    let names: Vec<_> = [0, 2, 4].map(|first| format!("{first:020}.log")).into();
    assert_eq!(segments_in(dir.path()), names);
    let mut source = spool.source();
    assert_eq!(offsets(&read_from(&mut source, 0).await.unwrap()), [0, 1, 2, 3, 4, 5]);
    source.stored(PARTITION, 1).await.unwrap();
    assert_eq!(segments_in(dir.path()), names);
    source.stored(PARTITION, 2).await.unwrap();
    assert_eq!(segments_in(dir.path()), names[1..]);
    assert_eq!(source.lookup().bounds(PARTITION).await.unwrap(), Bounds { start: 2, end: 6 });
    assert_eq!(source.lookup().stamped_at(PARTITION, 1).await.unwrap(), None);
    source.stored(PARTITION, 6).await.unwrap();
    assert_eq!(segments_in(dir.path()), names[2..]);
    assert!(source.lookup().stamped_at(PARTITION, 5).await.unwrap().is_some());
    assert_eq!(offsets(&read_from(&mut source, 0).await.unwrap()), [4, 5]);
    drop(spool);
    let spool = small_segments(dir.path(), 100);
    assert_eq!(spool.appender().append("device_1", b"x").await.unwrap(), 6);
    assert_eq!(offsets(&read_from(&mut spool.source(), 0).await.unwrap()), [4, 5, 6]);
}

#[tokio::test]
async fn a_lake_that_is_ahead_leaves_a_hole_and_no_offset_twice() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    spool.appender().append("device_1", b"x").await.unwrap();
    drop(spool);
    let spool = Spool::open(dir.path()).unwrap();
    spool.resume_at(0);
    spool.resume_at(1000);
    let mut source = spool.source();
    assert_eq!(source.lookup().bounds(PARTITION).await.unwrap(), Bounds { start: 0, end: 1000 });
    assert_eq!(source.lookup().stamped_at(PARTITION, 999).await.unwrap(), None);
    assert_eq!(spool.appender().append("device_1", b"y").await.unwrap(), 1000);
    assert_eq!(offsets(&read_from(&mut source, 0).await.unwrap()), [0, 1000]);
    assert_eq!(offsets(&read_from(&mut source, 500).await.unwrap()), [1000]);
    drop(spool);
    assert_eq!(Spool::open(dir.path()).unwrap().appender().append("d", b"z").await.unwrap(), 1001);
}

/// Appends 22 records of many lengths into segments of 200 bytes; gives the records with the bytes that the last
/// segment had when each was acknowledged, and that segment.
async fn filled(dir: &Path) -> (Vec<(String, Vec<u8>)>, Vec<u64>, PathBuf) {
    let spool = small_segments(dir, 200);
    let (mut records, mut ends) = (Vec::new(), Vec::new());
    let mut last = PathBuf::new();
    for n in 0..22usize {
        let record = (format!("device_{n}"), vec![n as u8; n % 13]);
        spool.appender().append(&record.0, &record.1).await.unwrap();
        let now = dir.join(segments_in(dir).pop().unwrap());
        if now != last {
            ends.clear();
            last = now;
        }
        ends.push(fs::metadata(&last).unwrap().len());
        records.push(record);
    }
    assert!(segments_in(dir).len() > 3 && ends.len() > 2);
    (records, ends, last)
}

/// A folder in memory where there is one: this is about bytes, not about disks, which take their time for each sync.
fn quick_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

#[tokio::test]
async fn a_cut_at_any_byte_keeps_what_was_acknowledged_before_it_and_invents_nothing() {
    let origin = tempfile::tempdir().unwrap();
    let (records, ends, last) = filled(origin.path()).await;
    let whole = fs::read(&last).unwrap();
    let before = records.len() - ends.len();
    let garbage: [&[u8]; 3] = [b"", &[0; 70], b"\x20\0\0\0garbage that was never a record, of some length"];
    for cut in 0..=whole.len() {
        // Nothing behind the cut everywhere, something behind it in some places.
        for tail in garbage.into_iter().take(if cut % 10 == 0 { 3 } else { 1 }) {
            let dir = quick_dir();
            for name in segments_in(origin.path()).iter().map(String::as_str).chain(["spool.json"]) {
                fs::copy(origin.path().join(name), dir.path().join(name)).unwrap();
            }
            fs::write(dir.path().join(last.file_name().unwrap()), [&whole[..cut], tail].concat()).unwrap();

            let spool = small_segments(dir.path(), 200);
            let survive = before + ends.iter().filter(|end| **end <= cut as u64).count();
            let next = spool.appender().append("after", b"the crash").await.unwrap();
            assert_eq!(next, survive as i64, "cut at {cut}");
            let read = read_from(&mut spool.source(), 0).await.unwrap();
            assert_eq!(read.len(), survive + 1, "cut at {cut}");
            for (n, (record, (device, payload))) in read.iter().zip(&records[..survive]).enumerate() {
                assert_eq!((record.offset, record.device.as_deref()), (n as i64, Some(device.as_str())));
                assert_eq!(&record.payload[..], &payload[..]);
            }
            assert_eq!(read[survive].device.as_deref(), Some("after"));
            assert!(read.windows(2).all(|pair| pair[0].arrived_ms <= pair[1].arrived_ms));
        }
    }
}

#[tokio::test]
async fn damage_before_the_last_segment_is_named_with_its_byte() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    let file = dir.path().join(&segments_in(dir.path())[1]);
    let mut bytes = fs::read(&file).unwrap();
    bytes[70] ^= 1;
    fs::write(&file, bytes).unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    let error = read_from(&mut spool.source(), 0).await.unwrap_err();
    let Some(SpoolError::Damaged { path, byte, .. }) = error.downcast_ref() else { panic!("{error:#}") };
    assert_eq!(path, &file);
    assert!((1..=70).contains(byte), "{byte}");
    // Moved away, as the message says, it leaves a gap.
    drop(spool);
    fs::remove_file(&file).unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    let read = read_from(&mut spool.source(), 0).await.unwrap();
    assert!(read.len() < 22 && read.last().unwrap().offset == 21);
}

#[test]
fn a_foreign_description_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spool.json");
    for (text, part) in [("{}", "format"), ("{\"format\":9,\"id\":\"0123456789ab\"}", "format is 9"), ("x", "expected")]
    {
        fs::write(&path, text).unwrap();
        let Err(error) = Spool::open(dir.path()) else { panic!("took {text}") };
        assert!(error.to_string().contains(part), "{error}");
    }
    fs::remove_file(&path).unwrap();
    fs::write(dir.path().join(format!("{:020}.log", 5)), "").unwrap();
    let Err(error) = Spool::open(dir.path()) else { panic!("took segments of unknown name") };
    assert!(error.to_string().contains("it is missing"), "{error}");
}

/// A disk with room for some bytes, which may fail to sync or to cut too.
#[derive(Clone, Default)]
pub(crate) struct SmallDisk {
    pub(crate) room: Arc<AtomicI64>,
    sync_fails: Arc<Mutex<bool>>,
    cut_fails: Arc<Mutex<bool>>,
}

struct SmallFile(File, SmallDisk);

impl SegmentFile for SmallFile {
    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let room = self.1.room.fetch_sub(bytes.len() as i64, Ordering::SeqCst);
        if room < bytes.len() as i64 {
            self.0.write_all(&bytes[..room.max(0) as usize])?;
            self.1.room.store(0, Ordering::SeqCst);
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.0.append(bytes)
    }

    fn sync(&mut self) -> std::io::Result<()> {
        if *self.1.sync_fails.lock().unwrap() { Err(std::io::Error::other("bad block")) } else { self.0.sync() }
    }

    fn cut(&mut self, len: u64) -> std::io::Result<()> {
        if *self.1.cut_fails.lock().unwrap() { Err(std::io::Error::other("bad block")) } else { self.0.cut(len) }
    }
}

pub(crate) fn on_small_disk(dir: &Path, disk: &SmallDisk) -> Spool {
    let disk = disk.clone();
    let open = move |path: &Path| {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        Ok(Box::new(SmallFile(file, disk.clone())) as Box<dyn SegmentFile>)
    };
    Spool::open_with(dir, |writer| writer, Box::new(open)).unwrap()
}

#[tokio::test]
async fn a_full_disk_acknowledges_nothing_and_recovers_when_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::default();
    disk.room.store(100, Ordering::SeqCst);
    let spool = on_small_disk(dir.path(), &disk);
    let appender = spool.appender();
    let (mut stored, mut refused) = (Vec::new(), 0);
    for round in 0..3 {
        for n in 0..5 {
            match appender.append("device_1", &[round * 10 + n; 10]).await {
                Ok(offset) => stored.push((offset, round * 10 + n)),
                Err(error) => {
                    assert!(matches!(error, SpoolError::Full { .. } | SpoolError::Io { .. }), "{error}");
                    refused += 1;
                }
            }
        }
        // In the second round the half-written group can't even be cut off at first.
        *disk.cut_fails.lock().unwrap() = round == 0;
        disk.room.store(130, Ordering::SeqCst);
        if round == 1 {
            *disk.cut_fails.lock().unwrap() = false;
        }
    }
    assert!(!stored.is_empty() && refused > 0);
    assert_eq!(spool.stats().records, stored.len() as u64);
    assert_eq!(spool.stats().refused, refused);
    let live = read_from(&mut spool.source(), 0).await.unwrap();
    drop(spool);
    let spool = Spool::open(dir.path()).unwrap();
    let again = read_from(&mut spool.source(), 0).await.unwrap();
    for read in [live, again] {
        let read: Vec<_> = read.iter().map(|record| (record.offset, record.payload[0])).collect();
        assert_eq!(read, stored);
    }
}

#[tokio::test]
async fn a_failed_sync_stores_nothing_of_its_group() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::default();
    disk.room.store(1_000_000, Ordering::SeqCst);
    let spool = on_small_disk(dir.path(), &disk);
    let appender = spool.appender();
    appender.append("device_1", b"good").await.unwrap();
    *disk.sync_fails.lock().unwrap() = true;
    let error = appender.append("device_1", b"lost").await.unwrap_err();
    assert!(matches!(error, SpoolError::Io { .. }), "{error}");
    *disk.sync_fails.lock().unwrap() = false;
    appender.append("device_1", b"also good").await.unwrap();
    drop(spool);
    let spool = Spool::open(dir.path()).unwrap();
    let read = read_from(&mut spool.source(), 0).await.unwrap();
    let payloads: Vec<_> = read.iter().map(|record| &record.payload[..]).collect();
    assert_eq!(payloads, [&b"good"[..], b"also good"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_appenders_share_groups_and_keep_their_own_order() {
    let dir = tempfile::tempdir().unwrap();
    let spool = small_segments(dir.path(), 20_000);
    let mut source = spool.source();
    let mut tasks = tokio::task::JoinSet::new();
    for device in 0..50 {
        let appender = spool.appender();
        tasks.spawn(async move {
            let mut tickets = Vec::new();
            for n in 0..40u8 {
                tickets.push(appender.enqueue(&format!("device_{device}"), &[n; 30]).await.unwrap());
            }
            for ticket in &mut tickets {
                let offset = ticket.stored().await.unwrap();
                assert_eq!(ticket.try_stored().unwrap().unwrap(), offset);
            }
        });
    }
    // Read while they write.
    source.seek(PARTITION, 0).await.unwrap();
    let mut read = Vec::new();
    while read.len() < 2000 {
        if let LogEvent::Records(records) = source.next(Duration::from_secs(10)).await.unwrap() {
            read.extend(owned(&records));
        }
    }
    tasks.join_all().await;
    assert_eq!(offsets(&read), (0..2000).collect::<Vec<_>>());
    for device in 0..50 {
        let own = read.iter().filter(|record| record.device.as_deref() == Some(&format!("device_{device}")));
        assert_eq!(own.map(|record| record.payload[0]).collect::<Vec<_>>(), (0..40).collect::<Vec<_>>());
    }
    assert!(spool.stats().groups < 2000);
}

#[test]
fn an_empty_folder_recovers_to_nothing() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(segment::recover(dir.path()).unwrap(), segment::Recovered::default());
    let file = segment::path(dir.path(), 7);
    fs::write(&file, "").unwrap();
    let open = Some(Segment { first: 7, bytes: 0 });
    assert_eq!(segment::recover(dir.path()).unwrap(), segment::Recovered { open, next: 7, ..Default::default() });
}
