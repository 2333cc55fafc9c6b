//! A packet: the JSON that a device publishes, to readings or to reasons why not.
//!
//! ```json
//! {"device_id":"device_1","timestamp":"2026-11-23T05:00:00.000Z","heart_rate":72,"blood_pressure":"118/76",
//!  "temperature":36.7,"spo2":97,"respiratory_rate":15,"seq":123}
//! {"device_id":"device_1","readings":[{"timestamp":1795410000000,"heart_rate":72},{"timestamp":1795410060000}]}
//! ```
//!
//! # Rules
//!
//! - *Text*: one JSON object in UTF-8, without byte order mark, at most [`MAX_PACKET_BYTES`] long and 64 levels deep.
//!   Bare `NaN` and `Infinity` are not JSON.
//! - *Device*: the one that the log authenticated. `device_id` may be left out then, and must be the same if it is
//!   there; without authentication it is the identity. [`valid_device_id`] holds for either.
//! - `timestamp`: RFC 3339 text (letters of either case, a space for the `T`, any offset, any number of fraction
//!   digits), or epoch milliseconds as a whole number; in the years 1970 to 9999.
//! - *Vitals*: finite numbers. `blood_pressure` is `"systolic/diastolic"`, spaces around the parts allowed; given
//!   together with `systolic` or `diastolic` it must agree with them, else the reading has the wrong type.
//! - `seq`: a whole number of 64 bits; `7.0` is one.
//! - `null` is the same as leaving a field out. Any vital may be absent, all of them too.
//! - Fields that are not known are ignored, whatever they hold. A field that is known may not appear twice.
//! - *Batch*: where `readings` is there, the packet is what is in it, and the envelope's own timestamp and vitals are
//!   fields like any unknown one. A reading in a batch may repeat the device, not name another one.
//!
//! # Faults
//!
//! A fault of the text or the envelope loses the packet (item −1), one of a reading only that reading. Of several faults
//! one is told:
//!
//! 1. of the text: too large, not UTF-8, then not JSON or too deep, whichever is met first, then not an object;
//! 2. of the envelope: `device_id` twice or no text, no device, a bad or wrong one, then `readings` twice, no array, empty;
//! 3. of a reading: its fields in the order of the text (the wrong type, an unreadable time, twice), its `device_id` twice
//!    or no text, contradicting pressures, no timestamp, clock ahead, wrong device.

use super::{MAX_CLOCK_AHEAD_MS, MAX_PACKET_BYTES, NO_VITALS, Reading, Reason, Vital, Vitals, time, valid_device_id};
use json::{Cursor, Text};
use keys::{KEYS, Key};

mod json;
mod keys;
#[cfg(test)]
mod tests;

/// The item of a dead letter that is a whole packet.
pub const ENVELOPE: i32 = -1;

/// Reads packets. One parser reads any number of them, and allocates only for batches larger than any before.
#[derive(Debug, Default)]
pub struct Parser {
    items: Vec<Stored>,
    /// The devices that readings of the batch name, one after the other.
    names: String,
    device: String,
    scratch: String,
    /// Whether `ts` is another name of `timestamp`, as in files.
    ts_alias: bool,
    /// Which key came first, second, … the last time: those of the next object are likely the same.
    likely: [u8; PLACES],
}

/// For how many keys of an object it is remembered which came there.
const PLACES: usize = 16;

/// What a packet holds.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// The device that everything in the packet belongs to.
    pub device: &'a str,
    payload: &'a [u8],
    items: &'a [Stored],
}

/// One reading of a packet, or why it isn't one.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    /// Its place in the packet: 0 if it is the only one.
    pub item: i32,
    pub outcome: Result<Reading, Reason>,
    /// Its own JSON text.
    pub text: &'a [u8],
}

#[derive(Debug)]
struct Stored {
    outcome: Result<Reading, Reason>,
    /// Its text in the payload.
    span: (usize, usize),
    /// The device that a reading of a batch names, in [`Parser::names`].
    device: Option<(usize, usize)>,
}

impl<'a> Packet<'a> {
    /// How many items the packet has: at least one.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Never: an empty batch is a fault.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The items in their order.
    pub fn items(&self) -> impl ExactSizeIterator<Item = Item<'a>> + use<'a> {
        let payload = self.payload;
        self.items.iter().enumerate().map(move |(index, stored)| Item {
            item: index as i32, // A packet is far shorter than i32::MAX.
            outcome: stored.outcome,
            text: payload.get(stored.span.0..stored.span.1).unwrap_or_default(),
        })
    }
}

impl Parser {
    /// A parser of packets.
    pub fn new() -> Self {
        Self::default()
    }

    /// A parser of lines in files, where `ts` may stand for `timestamp`, as in the lake's own columns.
    pub fn for_files() -> Self {
        Self { ts_alias: true, ..Self::default() }
    }

    /// Reads one packet.
    ///
    /// `device` is whom the log authenticated, `arrived_ms` when the log took the packet (milliseconds since 1970 UTC).
    ///
    /// # Errors
    ///
    /// Why the packet as a whole can't be read. It belongs to `device` then, if to anybody.
    pub fn parse<'a>(
        &'a mut self,
        device: Option<&'a str>,
        payload: &'a [u8],
        arrived_ms: i64,
    ) -> Result<Packet<'a>, Reason> {
        self.items.clear();
        self.names.clear();
        if payload.len() > MAX_PACKET_BYTES {
            return Err(Reason::TooLarge);
        }
        let text = std::str::from_utf8(payload).map_err(|_| Reason::NotUtf8)?;
        let mut cursor = Cursor::new(text);
        if !cursor.take(b'{') {
            cursor.skip_value(0)?;
            cursor.end()?;
            return Err(Reason::NotAnObject);
        }
        let top = self.object(&mut cursor, 1, arrived_ms)?;
        cursor.end()?;

        let named = top.device?.map(|name| name.resolve(&mut self.device));
        let device = match (device, named) {
            (Some(authenticated), _) if !valid_device_id(authenticated) => return Err(Reason::BadDeviceId),
            (Some(authenticated), Some(named)) if authenticated != named => return Err(Reason::WrongDevice),
            (Some(authenticated), _) => authenticated,
            (None, Some(named)) if valid_device_id(named) => named,
            (None, Some(_)) => return Err(Reason::BadDeviceId),
            (None, None) => return Err(Reason::NoDevice),
        };
        if top.is_batch? {
            if self.items.is_empty() {
                return Err(Reason::EmptyBatch);
            }
            for item in &mut self.items {
                let named = item.device.and_then(|(start, end)| self.names.get(start..end));
                if item.outcome.is_ok() && named.is_some_and(|named| named != device) {
                    item.outcome = Err(Reason::WrongDevice);
                }
            }
        } else {
            let outcome = top.fields.finish(arrived_ms);
            self.items.push(Stored { outcome, span: (0, payload.len()), device: None });
        }
        Ok(Packet { device, payload, items: &self.items })
    }

    /// Reads an object, whose brace is behind the cursor, with `depth` arrays and objects open.
    ///
    /// Only the outermost one, at depth 1, may hold a batch. Errors are faults of the text.
    #[inline]
    fn object<'a>(&mut self, cursor: &mut Cursor<'a>, depth: u32, arrived_ms: i64) -> Result<Object<'a>, Reason> {
        let mut object = Object { fields: Fields::default(), device: Ok(None), is_batch: Ok(false) };
        let mut seen = 0u32;
        for place in 0.. {
            let likely = &mut self.likely[place.min(PLACES - 1)];
            let field = if cursor.take_key(&KEYS[usize::from(*likely)], place == 0) {
                KEYS[usize::from(*likely)].field
            } else {
                let Some(key) = cursor.next_key(place == 0)? else { break };
                let key = key.resolve(&mut self.scratch);
                match keys::number(key) {
                    Some(number) => {
                        *likely = number;
                        KEYS[usize::from(number)].field
                    }
                    None if depth == 1 && key == "readings" => Field::Readings,
                    None if self.ts_alias && key == "ts" => Field::Timestamp,
                    None => {
                        cursor.skip_value(depth)?;
                        continue;
                    }
                }
            };
            let bit = 1 << field.number();
            let twice = seen & bit != 0;
            seen |= bit;
            if twice {
                cursor.skip_value(depth)?;
                match field {
                    Field::Device => object.device = object.device.and(Err(Reason::DuplicateKey)),
                    Field::Readings => object.is_batch = object.is_batch.and(Err(Reason::DuplicateKey)),
                    _ => object.fields.blame(Reason::DuplicateKey),
                }
            } else if matches!(field, Field::Readings) && cursor.take(b'[') {
                object.is_batch = Ok(true);
                self.batch(cursor, arrived_ms)?;
            } else {
                object.set(field, cursor, depth, &mut self.scratch)?;
            }
        }
        Ok(object)
    }

    /// Reads the elements of `readings`, whose bracket is behind the cursor.
    fn batch(&mut self, cursor: &mut Cursor<'_>, arrived_ms: i64) -> Result<(), Reason> {
        let mut first = true;
        while cursor.next_element(first)? {
            first = false;
            let is_object = cursor.token() == b'{';
            let start = cursor.at();
            let (outcome, device) = if is_object {
                cursor.take(b'{');
                let object = self.object(cursor, 3, arrived_ms)?;
                match object.device {
                    Ok(device) => (object.fields.finish(arrived_ms), device),
                    Err(reason) => (Err(object.fields.fault.unwrap_or(reason)), None),
                }
            } else {
                cursor.skip_value(2)?;
                (Err(Reason::NotAnObject), None)
            };
            let device = device.map(|name| {
                let start = self.names.len();
                self.names.push_str(name.resolve(&mut self.scratch));
                (start, self.names.len())
            });
            self.items.push(Stored { outcome, span: (start, cursor.at()), device });
        }
        Ok(())
    }
}

/// The fields that a packet may have.
#[derive(Clone, Copy)]
enum Field {
    Vital(Vital),
    Pressure,
    Timestamp,
    Seq,
    Device,
    Readings,
}

impl Field {
    /// A small number of its own.
    #[inline]
    fn number(self) -> usize {
        match self {
            Field::Vital(vital) => vital.index(),
            Field::Pressure => 6,
            Field::Timestamp => 7,
            Field::Seq => 8,
            Field::Device => 9,
            Field::Readings => 10,
        }
    }
}

/// What an object said: as a reading, and as an envelope.
struct Object<'a> {
    fields: Fields,
    device: Result<Option<Text<'a>>, Reason>,
    is_batch: Result<bool, Reason>,
}

impl<'a> Object<'a> {
    /// Reads the value of a field that is there for the first time. Errors are faults of the text.
    #[inline(always)]
    fn set(&mut self, field: Field, cursor: &mut Cursor<'a>, depth: u32, scratch: &mut String) -> Result<(), Reason> {
        let fields = &mut self.fields;
        match cursor.token() {
            b'n' => return cursor.word("null"),
            b'-' | b'0'..=b'9' => {
                let number = cursor.number()?;
                match field {
                    Field::Vital(vital) => match number.to_f64() {
                        Some(value) => fields.vitals[vital.index()] = value,
                        None => fields.blame(Reason::WrongType),
                    },
                    Field::Timestamp => fields.set_time(number.to_i64()),
                    Field::Seq => match number.to_i64() {
                        Some(seq) => fields.seq = Some(seq),
                        None => fields.blame(Reason::WrongType),
                    },
                    _ => self.wrong_type(field),
                }
            }
            b'"' => {
                let text = cursor.string()?;
                match field {
                    Field::Timestamp => {
                        fields.set_time(time::parse_rfc3339_ms(text.resolve(scratch).as_bytes()));
                    }
                    Field::Pressure => match parse_pressure(text.resolve(scratch)) {
                        Some(pressure) => fields.pressure = Some(pressure),
                        None => fields.blame(Reason::WrongType),
                    },
                    Field::Device => self.device = Ok(Some(text)),
                    _ => self.wrong_type(field),
                }
            }
            _ => {
                cursor.skip_value(depth)?;
                self.wrong_type(field);
            }
        }
        Ok(())
    }

    #[cold]
    fn wrong_type(&mut self, field: Field) {
        match field {
            Field::Device => self.device = Err(Reason::WrongType),
            Field::Readings => self.is_batch = Err(Reason::WrongType),
            _ => self.fields.blame(Reason::WrongType),
        }
    }
}

/// A reading in the making: from a packet, or from a file's row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields {
    pub ts_ms: Option<i64>,
    pub seq: Option<i64>,
    pub vitals: Vitals,
    pub pressure: Option<(f64, f64)>,
    /// The first fault found.
    pub fault: Option<Reason>,
}

impl Default for Fields {
    fn default() -> Self {
        Self { ts_ms: None, seq: None, vitals: NO_VITALS, pressure: None, fault: None }
    }
}

impl Fields {
    pub fn blame(&mut self, reason: Reason) {
        self.fault.get_or_insert(reason);
    }

    #[inline]
    pub fn set_time(&mut self, ts_ms: Option<i64>) {
        self.ts_ms = ts_ms.filter(|&ms| time::is_sane_ms(ms));
        if self.ts_ms.is_none() {
            self.blame(Reason::BadTimestamp);
        }
    }

    /// The reading, if nothing is wrong with it.
    #[inline]
    pub fn finish(mut self, arrived_ms: i64) -> Result<Reading, Reason> {
        if let Some(reason) = self.fault {
            return Err(reason);
        }
        if let Some((systolic, diastolic)) = self.pressure {
            for (vital, value) in [(Vital::Systolic, systolic), (Vital::Diastolic, diastolic)] {
                let known = &mut self.vitals[vital.index()];
                if !known.is_nan() && *known != value {
                    return Err(Reason::WrongType);
                }
                *known = value;
            }
        }
        let ts_ms = self.ts_ms.ok_or(Reason::NoTimestamp)?;
        if ts_ms.saturating_sub(arrived_ms) > MAX_CLOCK_AHEAD_MS {
            return Err(Reason::ClockAhead);
        }
        Ok(Reading { ts_ms, arrived_ms, seq: self.seq, vitals: self.vitals })
    }
}

/// Reads `118/76`.
pub(super) fn parse_pressure(text: &str) -> Option<(f64, f64)> {
    if let Some(pressure) = parse_plain_pressure(text.as_bytes()) {
        return Some(pressure);
    }
    let (systolic, diastolic) = text.split_once('/')?;
    let number = |part: &str| json::parse_number(part.trim())?.to_f64();
    Some((number(systolic)?, number(diastolic)?))
}

/// Reads `118/76` where it is just that: two numbers of two or three digits.
#[inline]
fn parse_plain_pressure(text: &[u8]) -> Option<(f64, f64)> {
    let number = |digits: &[u8]| match digits {
        [b'1'..=b'9', rest @ ..] if matches!(rest.len(), 1 | 2) && rest.iter().all(u8::is_ascii_digit) => {
            Some(f64::from(digits.iter().fold(0, |number, digit| number * 10 + u32::from(digit - b'0'))))
        }
        _ => None,
    };
    let slash = text.iter().position(|&byte| byte == b'/')?;
    Some((number(&text[..slash])?, number(&text[slash + 1..])?))
}

/// Reads a whole number, as `seq` may be written.
pub(super) fn parse_i64(text: &str) -> Option<i64> {
    json::parse_number(text)?.to_i64()
}
