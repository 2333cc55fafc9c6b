//! Rows in temporary files by the hash of their device, so that any number of them is compared in bounded memory.
//!
//! Both sides of a device lie in the same bucket. A bucket that is too large for memory is dealt out again by another
//! hash of the device; one that has a single device, by a hash of device and time.
//!
//! A temporary file has no name, so whatever happens nothing of it stays.

use std::{
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, BufReader, BufWriter, Read, Seek, Write},
    rc::Rc,
};

use anyhow::bail;
use hashbrown::HashMap;

use crate::{
    lake::StoreError,
    reading::{VITALS, Vitals},
};

/// Where a row comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The file of what was sent.
    Sent,
    /// The view `readings`.
    Stored,
    /// The view `dead_letters`.
    Dead,
}

/// A row of either side, without its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub side: Side,
    /// Always there, but for dead letters.
    pub ts_ms: Option<i64>,
    pub seq: Option<i64>,
    /// Bits by which equal numbers are equal: see [`vital_bits`].
    pub vitals: [u64; VITALS],
    /// When it was published, or when it arrived, milliseconds since 1970 UTC.
    pub at_ms: Option<i64>,
    pub acknowledged: bool,
    /// How often it was sent; of a dead letter, the number of its reason.
    pub number: u32,
}

/// The bits of vitals, the same for numbers that are equal and for all that are absent.
pub(super) fn vital_bits(vitals: &Vitals) -> [u64; VITALS] {
    // A zero is a zero, whatever its sign.
    vitals.map(|value| if value.is_nan() { u64::MAX } else { (value + 0.0).to_bits() })
}

/// The bytes of a row in its file, without the device's name.
const ROW_BYTES: usize = 1 + 1 + 3 * 8 + 4 + VITALS * 8;

/// How many buckets a bucket that is too large is dealt out to.
const FAN_OUT: usize = 16;

/// How often rows are dealt out again before that is given up.
const DEEPEST: u32 = 12;

/// The memory of a row beside its bytes in the file: the rest of [`Row`], and its device's places in [`Rows::names`]
/// and in the table of names, if no other row has the same device.
const MEMORY_PER_ROW: u64 = 160;

/// What rows are dealt out by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Device,
    /// Device and time.
    Moment,
    /// Device and the device's own count.
    Seq,
}

fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Temporary { folder: std::env::temp_dir().display().to_string(), what: error.to_string() }
}

/// Buckets being filled.
pub(super) struct Buckets {
    buckets: Vec<Bucket>,
    by: By,
    /// Makes hashes differ from those by which the rows were dealt out before.
    depth: u32,
}

impl Buckets {
    pub(super) fn new(count: usize, by: By) -> Result<Buckets, StoreError> {
        Buckets::at_depth(count, by, 0)
    }

    fn at_depth(count: usize, by: By, depth: u32) -> Result<Buckets, StoreError> {
        let buckets = (0..count.max(1)).map(|_| Bucket::new()).collect::<Result<_, _>>()?;
        Ok(Buckets { buckets, by, depth })
    }

    pub(super) fn push(&mut self, device: &str, facts: &Facts) -> Result<(), StoreError> {
        let mut hasher = DefaultHasher::new();
        (self.depth, device).hash(&mut hasher);
        match self.by {
            By::Device => {}
            By::Moment => facts.ts_ms.hash(&mut hasher),
            By::Seq => facts.seq.hash(&mut hasher),
        }
        let place = hasher.finish() % self.buckets.len() as u64;
        self.buckets[place as usize].push(device, facts)
    }

    /// Hands over everything, in parts that need no more than `budget` bytes of memory.
    pub(super) fn each_part(self, budget: u64, take: &mut TakePart<'_>) -> anyhow::Result<()> {
        let Buckets { buckets, by, depth } = self;
        buckets.into_iter().try_for_each(|bucket| bucket.parts(by, depth, budget, take))
    }
}

/// Rows that belong together.
pub(super) enum Part<'a> {
    /// All rows of their devices; or, with `one_device`, some of a single device, of which rows were sent.
    Rows { rows: Rows, one_device: bool },
    /// The rows of a single device follow in more than one part.
    Divided,
    /// A dead letter without a time, of a device whose other rows come in more than one part.
    Apart(&'a str, Facts),
}

/// Who takes the parts.
pub(super) type TakePart<'a> = dyn FnMut(Part<'_>) -> anyhow::Result<()> + 'a;

/// The rows of a part.
#[derive(Default)]
pub(super) struct Rows {
    pub names: Vec<Rc<str>>,
    pub sent: Vec<Row>,
    pub stored: Vec<Row>,
    pub dead: Vec<Row>,
}

/// One of [`Rows`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    /// The place of its device in [`Rows::names`].
    pub device: u32,
    pub facts: Facts,
}

/// Which devices a bucket has.
enum Devices {
    None,
    One(String),
    Many,
}

struct Bucket {
    file: BufWriter<File>,
    bytes: u64,
    rows: [u64; 3],
    devices: Devices,
}

impl Bucket {
    fn new() -> Result<Bucket, StoreError> {
        let file = BufWriter::with_capacity(32 * 1024, tempfile::tempfile().map_err(failed)?);
        Ok(Bucket { file, bytes: 0, rows: [0; 3], devices: Devices::None })
    }

    fn push(&mut self, device: &str, facts: &Facts) -> Result<(), StoreError> {
        let Ok(length) = u8::try_from(device.len()) else {
            return Err(failed(format!("`{device}` is too long for a device's name")));
        };
        match &self.devices {
            Devices::None => self.devices = Devices::One(device.to_owned()),
            Devices::One(known) if known != device => self.devices = Devices::Many,
            Devices::One(_) | Devices::Many => {}
        }
        self.rows[facts.side as usize] += 1;
        self.bytes += (ROW_BYTES + device.len()) as u64;
        let mut write = |bytes: &[u8]| self.file.write_all(bytes).map_err(failed);
        write(&encoded(facts, length))?;
        write(device.as_bytes())
    }

    /// The memory that its rows need at most.
    fn memory(&self) -> u64 {
        self.bytes + MEMORY_PER_ROW * self.rows.iter().sum::<u64>()
    }

    fn parts(self, by: By, depth: u32, budget: u64, take: &mut TakePart<'_>) -> anyhow::Result<()> {
        if matches!(self.devices, Devices::None) {
            return Ok(());
        }
        if self.memory() <= budget {
            return take(Part::Rows { rows: self.load()?, one_device: by == By::Moment });
        }
        if depth >= DEEPEST {
            let device = if let Devices::One(device) = &self.devices { device } else { "a device" };
            bail!("too many different readings of {device} have the same time or number to be compared");
        }
        let by = match (by, &self.devices) {
            // Nothing of this device was sent, so nothing of it is compared.
            (By::Device, Devices::One(_)) if self.rows[Side::Sent as usize] == 0 => return Ok(()),
            (By::Device, Devices::One(_)) => {
                take(Part::Divided)?;
                By::Moment
            }
            (by, _) => by,
        };
        let mut smaller = Buckets::at_depth(FAN_OUT, by, depth + 1)?;
        self.each(|device, facts| {
            if by == By::Moment && facts.ts_ms.is_none() {
                take(Part::Apart(device, facts))
            } else {
                Ok(smaller.push(device, &facts)?)
            }
        })?;
        smaller.each_part(budget, take)
    }

    fn load(self) -> anyhow::Result<Rows> {
        let mut rows = Rows::default();
        let space = |side: Side| Vec::with_capacity(usize::try_from(self.rows[side as usize]).unwrap_or(0));
        (rows.sent, rows.stored, rows.dead) = (space(Side::Sent), space(Side::Stored), space(Side::Dead));
        let mut numbers: HashMap<Rc<str>, u32> = HashMap::new();
        self.each(|device, facts| {
            let device = match numbers.get(device) {
                Some(&number) => number,
                None => {
                    let (name, number) = (Rc::<str>::from(device), u32::try_from(rows.names.len())?);
                    rows.names.push(Rc::clone(&name));
                    numbers.insert(name, number);
                    number
                }
            };
            let side = match facts.side {
                Side::Sent => &mut rows.sent,
                Side::Stored => &mut rows.stored,
                Side::Dead => &mut rows.dead,
            };
            side.push(Row { device, facts });
            Ok(())
        })?;
        Ok(rows)
    }

    /// Every row in the order in which they came.
    fn each(self, mut take: impl FnMut(&str, Facts) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut file = self.file.into_inner().map_err(|e| failed(e.error()))?;
        file.rewind().map_err(failed)?;
        let mut file = BufReader::with_capacity(128 * 1024, file);
        let (mut row, mut name) = ([0; ROW_BYTES], [0; u8::MAX as usize]);
        for _ in 0..self.rows.iter().sum() {
            file.read_exact(&mut row).map_err(failed)?;
            let (facts, length) = decoded(&row).map_err(failed)?;
            let name = &mut name[..usize::from(length)];
            file.read_exact(name).map_err(failed)?;
            take(std::str::from_utf8(name).map_err(failed)?, facts)?;
        }
        Ok(())
    }
}

const HAS_TS: u8 = 1 << 2;
const HAS_SEQ: u8 = 1 << 3;
const HAS_AT: u8 = 1 << 4;
const ACKNOWLEDGED: u8 = 1 << 5;

fn encoded(facts: &Facts, device_length: u8) -> [u8; ROW_BYTES] {
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    let flags = facts.side as u8
        | flag(facts.ts_ms.is_some(), HAS_TS)
        | flag(facts.seq.is_some(), HAS_SEQ)
        | flag(facts.at_ms.is_some(), HAS_AT)
        | flag(facts.acknowledged, ACKNOWLEDGED);
    let mut row = [0; ROW_BYTES];
    row[0] = flags;
    row[1] = device_length;
    for (place, value) in row[2..26].chunks_exact_mut(8).zip([facts.ts_ms, facts.seq, facts.at_ms]) {
        place.copy_from_slice(&value.unwrap_or(0).to_le_bytes());
    }
    row[26..30].copy_from_slice(&facts.number.to_le_bytes());
    for (place, bits) in row[30..].chunks_exact_mut(8).zip(facts.vitals) {
        place.copy_from_slice(&bits.to_le_bytes());
    }
    row
}

fn decoded(row: &[u8; ROW_BYTES]) -> io::Result<(Facts, u8)> {
    let has = |flag: u8| row[0] & flag != 0;
    let mut words = row[2..26].as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
    let mut time = |flag: u8| Some(words.next().unwrap_or(0).cast_signed()).filter(|_| has(flag));
    let (ts_ms, seq, at_ms) = (time(HAS_TS), time(HAS_SEQ), time(HAS_AT));
    let mut vitals = [0; VITALS];
    for (bits, bytes) in vitals.iter_mut().zip(row[30..].as_chunks::<8>().0) {
        *bits = u64::from_le_bytes(*bytes);
    }
    let side = match row[0] & 3 {
        0 => Side::Sent,
        1 => Side::Stored,
        2 => Side::Dead,
        _ => return Err(io::Error::other("a row of it is not what was written")),
    };
    let number = u32::from_le_bytes([row[26], row[27], row[28], row[29]]);
    Ok((Facts { side, ts_ms, seq, vitals, at_ms, acknowledged: has(ACKNOWLEDGED), number }, row[1]))
}
