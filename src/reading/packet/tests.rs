use std::fmt;

use proptest::prelude::*;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::*;
use crate::reading::same_vitals;

const NOW: i64 = 1_795_410_000_000; // 2026-11-23T05:00:00Z
const STAMP: &str = r#""timestamp":1795410000000"#;

type Outcome = Result<(String, Vec<Result<Reading, Reason>>), Reason>;

/// What a new parser says, and one that knows the packet's keys already.
fn parse(device: Option<&str>, payload: &[u8]) -> Outcome {
    let mut parser = Parser::new();
    let fresh = parse_with(&mut parser, device, payload);
    assert_eq!(parse_with(&mut parser, device, payload), fresh);
    fresh
}

fn parse_with(parser: &mut Parser, device: Option<&str>, payload: &[u8]) -> Outcome {
    let packet = parser.parse(device, payload, NOW)?;
    Ok((packet.device.to_owned(), packet.items().map(|item| item.outcome).collect()))
}

/// The reading of a packet that has one, on its own topic.
fn single(payload: &str) -> Result<Reading, Reason> {
    let (_, mut items) = parse(Some("d"), payload.as_bytes())?;
    assert_eq!(items.len(), 1);
    items.remove(0)
}

fn with(fields: &str) -> Result<Reading, Reason> {
    single(&format!("{{{STAMP},{fields}}}"))
}

#[test]
fn the_packet_of_the_documentation_is_read() {
    let payload = br#"{"device_id":"device_1","timestamp":"2026-11-23T05:00:00.000Z","heart_rate":72,
        "blood_pressure":"118/76","temperature":36.7,"spo2":97,"respiratory_rate":15,"seq":123}"#;
    let expected =
        Reading { ts_ms: NOW, arrived_ms: NOW, seq: Some(123), vitals: [72.0, 118.0, 76.0, 36.7, 97.0, 15.0] };
    for device in [None, Some("device_1")] {
        assert_eq!(parse(device, payload), Ok(("device_1".into(), vec![Ok(expected)])));
    }
}

#[test]
fn keys_that_begin_like_the_one_that_was_there_before_are_others() {
    let packet = |key: &str| format!(r#"{{"device_id":"d",{STAMP},{key}72,"x":"so that many bytes follow it"}}"#);
    let mut parser = Parser::new();
    let mut heart_rate = |key| {
        let (_, items) = parse_with(&mut parser, None, packet(key).as_bytes())?;
        items[0].map(|reading| reading.vitals[0])
    };
    assert_eq!(heart_rate(r#""heart_rate":"#), Ok(72.0));
    for other in [r#""heart_rates":"#, r#""heart":"#, r#""Heart_rate":"#, r#""":"#] {
        assert!(heart_rate(other).unwrap().is_nan(), "{other}");
    }
    for same in [r#""heart_rate":"#, r#""heart_rate" : "#, r#""heart\u005Frate":"#] {
        assert_eq!(heart_rate(same), Ok(72.0), "{same}");
    }
    for broken in [r#""heart_rate""#, r#"heart_rate":"#, r#""heart_rate: "#, r#","heart_rate":"#] {
        assert_eq!(heart_rate(broken), Err(Reason::NotJson), "{broken}");
    }
}

#[test]
fn whatever_is_said_of_the_text_or_the_envelope_loses_the_packet() {
    let too_large = format!(r#"{{{STAMP},"x":"{}"}}"#, "x".repeat(MAX_PACKET_BYTES));
    let million = format!(r#"{{"readings":[{}]}}"#, vec!["{}"; 1_000_000].join(","));
    let long_id = format!(r#"{{"device_id":"{}",{STAMP}}}"#, "x".repeat(129));
    let deep = |levels| format!(r#"{{{STAMP},"x":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
    let (too_deep, far_too_deep) = (deep(64), "[".repeat(100_000));
    let cases: &[(Option<&str>, &[u8], Reason)] = &[
        (Some("d"), too_large.as_bytes(), Reason::TooLarge),
        (Some("d"), million.as_bytes(), Reason::TooLarge),
        (Some("d"), b"{\"timestamp\":1795410000000,\"x\":\"\xff\"}", Reason::NotUtf8),
        (Some("d"), b"", Reason::NotJson),
        (Some("d"), b"  ", Reason::NotJson),
        (Some("d"), b"hello", Reason::NotJson),
        (Some("d"), b"{", Reason::NotJson),
        (Some("d"), b"{}}", Reason::NotJson),
        (Some("d"), b"{} x", Reason::NotJson),
        (Some("d"), b"{'timestamp':1}", Reason::NotJson),
        (Some("d"), b"{\"a\":1,}", Reason::NotJson),
        (Some("d"), b"{\"a\":01}", Reason::NotJson),
        (Some("d"), b"{\"a\":1.}", Reason::NotJson),
        (Some("d"), b"{\"a\":tru}", Reason::NotJson),
        (Some("d"), b"{\"a\":\"\n\"}", Reason::NotJson),
        (Some("d"), b"{\"a\":\"\\x\"}", Reason::NotJson),
        (Some("d"), b"{\"a\":[1,]}", Reason::NotJson),
        (Some("d"), b"{\"a\":[1}", Reason::NotJson),
        (Some("d"), b"{\"heart_rate\":NaN}", Reason::NotJson),
        (Some("d"), b"{\"heart_rate\":Infinity}", Reason::NotJson),
        (Some("d"), b"{\"heart_rate\":-Infinity}", Reason::NotJson),
        (Some("d"), b"\xef\xbb\xbf{}", Reason::NotJson),
        (Some("d"), too_deep.as_bytes(), Reason::TooDeep),
        (Some("d"), far_too_deep.as_bytes(), Reason::TooDeep),
        (Some("d"), b"[]", Reason::NotAnObject),
        (Some("d"), b"null", Reason::NotAnObject),
        (Some("d"), b"17", Reason::NotAnObject),
        (Some("d"), b"\"{}\"", Reason::NotAnObject),
        (Some("d"), b"{\"device_id\":\"d\",\"device_id\":\"d\"}", Reason::DuplicateKey),
        (Some("d"), b"{\"readings\":[{}],\"readings\":[{}]}", Reason::DuplicateKey),
        (Some("d"), b"{\"device_id\":7}", Reason::WrongType),
        (Some("d"), b"{\"readings\":{}}", Reason::WrongType),
        (Some("d"), b"{\"readings\":[]}", Reason::EmptyBatch),
        (Some("d"), b"{\"device_id\":\"e\"}", Reason::WrongDevice),
        (Some("d"), b"{\"device_id\":\"\"}", Reason::WrongDevice),
        (Some("d d"), b"{}", Reason::BadDeviceId),
        (None, b"{}", Reason::NoDevice),
        (None, b"{\"device_id\":null}", Reason::NoDevice),
        (None, b"{\"device_id\":\"\"}", Reason::BadDeviceId),
        (None, b"{\"device_id\":\"a/b\"}", Reason::BadDeviceId),
        (None, "{\"device_id\":\"ä\"}".as_bytes(), Reason::BadDeviceId),
        (None, b"{\"device_id\":\"a\\u0000\"}", Reason::BadDeviceId),
        (None, long_id.as_bytes(), Reason::BadDeviceId),
    ];
    for (device, payload, reason) in cases {
        let start = String::from_utf8_lossy(&payload[..payload.len().min(60)]);
        assert_eq!(parse(*device, payload), Err(*reason), "{start}");
    }
    assert!(single(&deep(63)).is_ok());
}

#[test]
fn whatever_is_said_of_a_reading_loses_that_reading() {
    for (fields, reason) in [
        (r#""heart_rate":"72""#, Reason::WrongType),
        (r#""heart_rate":true"#, Reason::WrongType),
        (r#""heart_rate":[72]"#, Reason::WrongType),
        (r#""heart_rate":{"bpm":72}"#, Reason::WrongType),
        (r#""heart_rate":"NaN""#, Reason::WrongType),
        (r#""heart_rate":"inf""#, Reason::WrongType),
        (r#""heart_rate":1e999"#, Reason::WrongType),
        (r#""blood_pressure":118"#, Reason::WrongType),
        (r#""blood_pressure":"118""#, Reason::WrongType),
        (r#""blood_pressure":"118/""#, Reason::WrongType),
        (r#""blood_pressure":"118/NaN""#, Reason::WrongType),
        (r#""blood_pressure":"118/76/50""#, Reason::WrongType),
        (r#""blood_pressure":"118/76","systolic":119"#, Reason::WrongType),
        (r#""seq":"7""#, Reason::WrongType),
        (r#""seq":7.5"#, Reason::WrongType),
        (r#""seq":9223372036854775808"#, Reason::WrongType),
        (r#""heart_rate":72,"heart_rate":72"#, Reason::DuplicateKey),
        (r#""heart_rate":null,"heart\u005frate":72"#, Reason::DuplicateKey),
        (r#""timestamp":1795410000000"#, Reason::DuplicateKey),
    ] {
        assert_eq!(with(fields), Err(reason), "{fields}");
    }
    for (timestamp, reason) in [
        ("null", Reason::NoTimestamp),
        (r#""""#, Reason::BadTimestamp),
        (r#""yesterday""#, Reason::BadTimestamp),
        (r#""2026-11-23T05:00:00""#, Reason::BadTimestamp),
        (r#""1795410000000""#, Reason::BadTimestamp),
        (r#""1969-12-31T23:59:59Z""#, Reason::BadTimestamp),
        ("-1", Reason::BadTimestamp),
        ("1795410000000.5", Reason::BadTimestamp),
        ("253402300800000", Reason::BadTimestamp),
        ("1e300", Reason::BadTimestamp),
        ("true", Reason::WrongType),
        ("[1795410000000]", Reason::WrongType),
        ("1795496400001", Reason::ClockAhead),
        (r#""2026-11-24T05:00:00.001Z""#, Reason::ClockAhead),
    ] {
        assert_eq!(single(&format!(r#"{{"timestamp":{timestamp}}}"#)), Err(reason), "{timestamp}");
    }
    assert_eq!(single("{}"), Err(Reason::NoTimestamp));
    assert_eq!(single(r#"{"heart_rate":72}"#), Err(Reason::NoTimestamp));
}

#[test]
fn forms_of_a_timestamp() {
    for (timestamp, ts_ms) in [
        ("0", 0),
        ("1795410000000.0", NOW),
        ("1.79541e12", NOW),
        ("1795496400000", NOW + MAX_CLOCK_AHEAD_MS),
        (r#""2026-11-23t07:00:00.0009+02:00""#, NOW),
        (r#""2026-11-23 05:00:00Z""#, NOW),
        (r#""2026\u002d11-23T05:00:00Z""#, NOW),
    ] {
        let reading = single(&format!(r#"{{"timestamp":{timestamp}}}"#));
        assert_eq!(reading.map(|r| r.ts_ms), Ok(ts_ms), "{timestamp}");
    }
}

#[test]
fn what_is_odd_but_readable_is_data() {
    for (fields, seq, vitals) in [
        (r#""x":null"#, None, NO_VITALS),
        (r#""heart_rate":null,"blood_pressure":null,"seq":null,"device_id":null"#, None, NO_VITALS),
        (r#""heart_rate":900,"temperature":98.6"#, None, [900.0, f64::NAN, f64::NAN, 98.6, f64::NAN, f64::NAN]),
        (r#""heart_rate":-7.25e1,"seq":-7.0"#, Some(-7), [-72.5, f64::NAN, f64::NAN, f64::NAN, f64::NAN, f64::NAN]),
        (r#""seq":9223372036854775807"#, Some(i64::MAX), NO_VITALS),
        (r#""seq":-9223372036854775808"#, Some(i64::MIN), NO_VITALS),
        (
            r#""blood_pressure":" 118.5 \/ 76","systolic":118.5"#,
            None,
            [f64::NAN, 118.5, 76.0, f64::NAN, f64::NAN, f64::NAN],
        ),
        (r#""Heart_Rate":1,"ts":5,"x":{"heart_rate":[{"a":"}\""},1e999,true,"\ud800"]}"#, None, NO_VITALS),
    ] {
        let expected = Reading { ts_ms: NOW, arrived_ms: NOW, seq, vitals };
        assert_eq!(with(fields), Ok(expected), "{fields}");
    }
}

#[test]
fn one_bad_reading_does_not_harm_its_siblings() {
    let payload = format!(
        r#"{{"readings":[{{{STAMP},"heart_rate":72}}, {{"heart_rate":"x"}},7,{{{STAMP},"device_id":"e"}},
           {{{STAMP},"device_id":"\u0064"}},{{"device_id":9}},{{}},{{{STAMP},"readings":[1]}}],"device_id":"d"}}"#
    );
    let mut parser = Parser::new();
    let packet = parser.parse(None, payload.as_bytes(), NOW).unwrap();
    let reasons: Vec<_> = packet.items().map(|item| item.outcome.err()).collect();
    let expected = [
        None,
        Some(Reason::WrongType),
        Some(Reason::NotAnObject),
        Some(Reason::WrongDevice),
        None,
        Some(Reason::WrongType),
        Some(Reason::NoTimestamp),
        None,
    ];
    assert_eq!(reasons, expected);
    let texts: Vec<_> = packet.items().map(|item| std::str::from_utf8(item.text).unwrap()).collect();
    assert_eq!(&texts[1..3], [r#"{"heart_rate":"x"}"#, "7"]);
    assert_eq!(packet.items().last().unwrap().item, 7);
}

#[test]
fn a_batch_is_only_what_is_in_it() {
    let payload = format!(r#"{{"timestamp":"sent just now","heart_rate":"?","readings":[{{{STAMP}}}]}}"#);
    let reading = Reading { ts_ms: NOW, arrived_ms: NOW, seq: None, vitals: NO_VITALS };
    assert_eq!(single(&payload), Ok(reading));
}

#[test]
fn a_parser_keeps_nothing_of_the_packet_before() {
    let mut parser = Parser::new();
    parser.parse(Some("d"), br#"{"readings":[{},{}]}"#, NOW).unwrap();
    assert_eq!(parser.parse(Some("d"), b"{}", NOW).unwrap().len(), 1);
    assert!(parser.parse(None, br#"{"readings":[{"device_id":"\u0064"}]}"#, NOW).is_err());
    assert_eq!(parser.parse(None, br#"{"device_id":"\u0065","readings":[{}]}"#, NOW).unwrap().device, "e");
}

/// JSON as serde_json reads it, with every key that is there.
#[derive(Debug)]
enum Json {
    Null,
    Int(i64),
    Float(f64),
    Text(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
    Other,
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Json;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_unit<E>(self) -> Result<Json, E> {
                Ok(Json::Null)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Json, E> {
                Ok(Json::Other)
            }
            fn visit_i64<E>(self, v: i64) -> Result<Json, E> {
                Ok(Json::Int(v))
            }
            fn visit_u64<E>(self, v: u64) -> Result<Json, E> {
                Ok(i64::try_from(v).map_or(Json::Float(v as f64), Json::Int))
            }
            fn visit_f64<E>(self, v: f64) -> Result<Json, E> {
                Ok(Json::Float(v))
            }
            fn visit_str<E>(self, v: &str) -> Result<Json, E> {
                Ok(Json::Text(v.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
                let mut all = Vec::new();
                while let Some(element) = seq.next_element()? {
                    all.push(element);
                }
                Ok(Json::Array(all))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
                let mut all = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    all.push(entry);
                }
                Ok(Json::Object(all))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// The rules once more, written for clarity alone, on a tree. `None` where serde_json is stricter than the grammar.
fn reference(device: Option<&str>, payload: &[u8]) -> Option<Outcome> {
    const BAD_UTF8: Outcome = Err(Reason::NotUtf8);
    let Ok(text) = std::str::from_utf8(payload) else { return Some(BAD_UTF8) };
    let json: Json = match serde_json::from_str(text) {
        Ok(json) => json,
        Err(error) => {
            let message = error.to_string();
            let strict = ["number out of range", "surrogate", "hex escape", "recursion limit"];
            return (!strict.iter().any(|s| message.contains(s))).then_some(Err(Reason::NotJson));
        }
    };
    Some(judge(device, &json))
}

fn judge(device: Option<&str>, json: &Json) -> Outcome {
    let Json::Object(entries) = json else { return Err(Reason::NotAnObject) };
    let named = device_of(entries)?;
    let device = match (device, named) {
        (Some(topic), Some(name)) if topic != name => return Err(Reason::WrongDevice),
        (topic, name) => topic.or(name).ok_or(Reason::NoDevice)?,
    };
    if !valid_device_id(device) {
        return Err(Reason::BadDeviceId);
    }
    let items = match unique(entries, "readings")? {
        None | Some(Json::Null) => vec![reading_of(entries)],
        Some(Json::Array(elements)) if elements.is_empty() => return Err(Reason::EmptyBatch),
        Some(Json::Array(elements)) => elements
            .iter()
            .map(|element| {
                let Json::Object(entries) = element else { return Err(Reason::NotAnObject) };
                let field_fault = fault_of(entries);
                if let Some(reason) = field_fault {
                    return Err(reason);
                }
                let named = device_of(entries)?;
                let reading = reading_of(entries)?;
                if named.is_some_and(|name| name != device) { Err(Reason::WrongDevice) } else { Ok(reading) }
            })
            .collect(),
        Some(_) => return Err(Reason::WrongType),
    };
    Ok((device.to_owned(), items))
}

fn unique<'a>(entries: &'a [(String, Json)], key: &str) -> Result<Option<&'a Json>, Reason> {
    let mut found = entries.iter().filter(|(name, _)| name == key);
    let first = found.next().map(|(_, value)| value);
    let wrong = match (key, first) {
        ("device_id", Some(value)) => !matches!(value, Json::Text(_) | Json::Null),
        ("readings", Some(value)) => !matches!(value, Json::Array(_) | Json::Null),
        _ => false,
    };
    match found.next() {
        _ if wrong => Err(Reason::WrongType),
        Some(_) => Err(Reason::DuplicateKey),
        None => Ok(first),
    }
}

fn device_of(entries: &[(String, Json)]) -> Result<Option<&str>, Reason> {
    Ok(match unique(entries, "device_id")? {
        Some(Json::Text(name)) => Some(name),
        _ => None,
    })
}

/// The first field of a reading that is wrong in itself.
fn fault_of(entries: &[(String, Json)]) -> Option<Reason> {
    entries.iter().enumerate().find_map(|(index, (key, value))| {
        let known = Vital::from_column(key).is_some() || ["timestamp", "blood_pressure", "seq"].contains(&&key[..]);
        if !known {
            return None;
        }
        if entries[..index].iter().any(|(earlier, _)| earlier == key) {
            return Some(Reason::DuplicateKey);
        }
        match (key.as_str(), value) {
            (_, Json::Null) => None,
            ("timestamp", Json::Int(_) | Json::Float(_) | Json::Text(_)) => {
                time_of(value).is_none().then_some(Reason::BadTimestamp)
            }
            ("seq", _) => whole(value).is_none().then_some(Reason::WrongType),
            ("blood_pressure", Json::Text(text)) => {
                let parts: Vec<&str> = text.split('/').map(str::trim).collect();
                let good =
                    |part: &&str| serde_json::from_str::<f64>(part).is_ok() && !part.contains(char::is_whitespace);
                (parts.len() != 2 || !parts.iter().all(good)).then_some(Reason::WrongType)
            }
            ("timestamp" | "blood_pressure", _) => Some(Reason::WrongType),
            (_, Json::Int(_) | Json::Float(_)) => None,
            _ => Some(Reason::WrongType),
        }
    })
}

fn whole(value: &Json) -> Option<i64> {
    match value {
        Json::Int(value) => Some(*value),
        Json::Float(value) if value.fract() == 0.0 && value.abs() <= 9007199254740992.0 => Some(*value as i64),
        _ => None,
    }
}

fn time_of(value: &Json) -> Option<i64> {
    let ms = match value {
        Json::Text(text) => time::parse_rfc3339_ms(text.as_bytes()),
        value => whole(value),
    };
    ms.filter(|&ms| time::is_sane_ms(ms))
}

fn reading_of(entries: &[(String, Json)]) -> Result<Reading, Reason> {
    if let Some(reason) = fault_of(entries) {
        return Err(reason);
    }
    let get = |key: &str| entries.iter().find(|(name, _)| name == key).map_or(&Json::Null, |(_, value)| value);
    let mut vitals = Vital::ALL.map(|vital| match get(vital.column()) {
        Json::Int(value) => *value as f64,
        Json::Float(value) => *value,
        _ => f64::NAN,
    });
    if let Json::Text(text) = get("blood_pressure") {
        for (index, part) in [1, 2].into_iter().zip(text.split('/')) {
            let value: f64 = serde_json::from_str(part.trim()).unwrap();
            if !vitals[index].is_nan() && vitals[index] != value {
                return Err(Reason::WrongType);
            }
            vitals[index] = value;
        }
    }
    let timestamp = get("timestamp");
    if matches!(timestamp, Json::Null) {
        return Err(Reason::NoTimestamp);
    }
    let ts_ms = time_of(timestamp).unwrap();
    if ts_ms > NOW + MAX_CLOCK_AHEAD_MS {
        return Err(Reason::ClockAhead);
    }
    Ok(Reading { ts_ms, arrived_ms: NOW, seq: whole(get("seq")), vitals })
}

/// serde_json rounds a few long decimals to a neighbour of the nearest double.
fn same(a: &Outcome, b: &Outcome) -> bool {
    let close = |x: &f64, y: &f64| x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= 1e-15 * x.abs();
    match (a, b) {
        (Ok((device, ours)), Ok((other, theirs))) => {
            device == other
                && ours.len() == theirs.len()
                && ours.iter().zip(theirs).all(|pair| match pair {
                    (Ok(x), Ok(y)) => {
                        (x.ts_ms, x.seq) == (y.ts_ms, y.seq) && x.vitals.iter().zip(&y.vitals).all(|(x, y)| close(x, y))
                    }
                    (x, y) => x == y,
                })
        }
        (a, b) => a == b,
    }
}

fn value() -> impl Strategy<Value = String> {
    let time = r#""2026-11-23T0[0-9]:00:0[0-9](\.[0-9]{1,4})?(Z|[+]02:00)""#;
    prop_oneof![
        4 => "-?(0|[1-9][0-9]{0,3})(\\.[0-9]{1,3})?([eE][+-]?[0-9]{1,2})?",
        1 => "-?[1-9][0-9]{10,30}",
        1 => "0\\.[0-9]{10,25}",
        3 => time,
        2 => "17954[0-9]{8}",
        2 => r#""[0-9]{1,3}(\.[0-9])? ?(/|\\/) ?[0-9]{1,3}""#,
        1 => r#""(d|e|\\u0064|\\n|\\"|[a-z ]|\\\\|é)*""#,
        1 => r#""d""#,
        1 => "null|true|false|NaN|\\[\\]|\\{\\}|\\[1, \\{\"a\" : \\[\\]\\}\\]|nul",
    ]
}

fn object(batches: bool) -> BoxedStrategy<String> {
    let key = prop_oneof![
        3 => Just("timestamp"), 2 => Just("heart_rate"), 1 => Just("systolic"), 1 => Just("diastolic"),
        1 => Just("blood_pressure"), 1 => Just("temperature"), 1 => Just("spo2"), 1 => Just("respiratory_rate"),
        1 => Just("seq"), 1 => Just("device_id"), 1 => Just("unknown"), 1 => Just("heart\\u005frate"), 1 => Just("readings"),
    ];
    let fields = proptest::collection::vec((key, value(), "[ \n\t\r]?"), 0..8);
    let batch = proptest::collection::vec(if batches { object(false) } else { value().boxed() }, 0..4);
    (fields, batch, any::<bool>())
        .prop_map(move |(fields, batch, is_batch)| {
            let mut parts: Vec<_> =
                fields.iter().map(|(key, value, gap)| format!("{gap}\"{key}\"{gap}:{gap}{value}{gap}")).collect();
            if batches && is_batch {
                parts.insert(parts.len() / 2, format!("\"readings\":[{}]", batch.join(", ")));
            }
            format!("{{{}}}", parts.join(","))
        })
        .boxed()
}

fn packet() -> impl Strategy<Value = Vec<u8>> {
    let mutation = (
        any::<prop::sample::Index>(),
        0..3u8,
        prop_oneof![3 => prop::sample::select(b"{}[]\",:\\0e.-u \n".to_vec()), 1 => any::<u8>()],
    );
    (object(true), proptest::collection::vec(mutation, 0..3)).prop_map(|(text, mutations)| {
        let mut bytes = text.into_bytes();
        for (index, kind, byte) in mutations {
            let at = index.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
            if bytes.is_empty() {
                bytes.push(b' ');
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_scanner_agrees_with_serde_json_and_the_rules_written_plainly(payload in packet(), authenticated in any::<bool>()) {
        let device = authenticated.then_some("d");
        let ours = parse(device, &payload);
        if let Some(expected) = reference(device, &payload) {
            prop_assert!(same(&ours, &expected), "{}\n{:?}\n{:?}", String::from_utf8_lossy(&payload), ours, expected);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(None, &payload);
        let _ = parse(Some("d"), &payload);
    }

    #[test]
    fn any_punctuation_is_read_or_refused(payload in "[\\[\\]{}\",:\\\\u0-9dntrue.eE+ -]{0,60}") {
        if let Some(expected) = reference(Some("d"), payload.as_bytes()) {
            prop_assert!(same(&parse(Some("d"), payload.as_bytes()), &expected), "{}", payload);
        }
    }

    #[test]
    fn numbers_are_the_nearest_doubles(text in "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?") {
        let expected = text.parse::<f64>().ok().filter(|value| value.is_finite());
        prop_assert_eq!(json::parse_number(&text).unwrap().to_f64().map(f64::to_bits), expected.map(f64::to_bits), "{}", text);
    }

    #[test]
    fn what_is_written_is_read_and_a_batch_of_one_is_the_same(
        ts_ms in 0..NOW, seq in any::<Option<i64>>(), values in proptest::array::uniform6(proptest::option::of(-1e6..1e6f64)),
    ) {
        let vitals = values.map(|value| value.unwrap_or(f64::NAN));
        let mut fields = vec![format!("\"timestamp\":\"{}\"", time::format_rfc3339_ms(ts_ms))];
        fields.extend(seq.map(|seq| format!("\"seq\":{seq}")));
        fields.extend(Vital::ALL.iter().zip(values).filter_map(|(vital, value)| Some(format!("\"{}\":{}", vital.column(), value?))));
        let reading = single(&format!("{{{}}}", fields.join(","))).unwrap();
        prop_assert_eq!((reading.ts_ms, reading.seq), (ts_ms, seq));
        prop_assert!(same_vitals(&reading.vitals, &vitals));
        prop_assert_eq!(single(&format!("{{\"readings\":[{{{}}}]}}", fields.join(", "))), Ok(reading));
    }
}
