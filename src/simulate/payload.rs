//! What a simulated device publishes: the packet of one reading, or of several in the batch form.

use std::fmt::Write;

use crate::reading::time::format_rfc3339_ms;
use crate::reading::{Reading, Vital};

/// The JSON packet of `readings` of one device: the single form for one reading, else the batch form. Vitals that are
/// absent are left out; numbers are written as they are, without loss.
pub fn payload(device_id: &str, readings: &[Reading]) -> String {
    let mut json = String::with_capacity(64 + 192 * readings.len());
    // Ids have no character that JSON would escape: see `valid_device_id`.
    let _ = write!(json, "{{\"device_id\":\"{device_id}\"");
    if let [reading] = readings {
        json.push(',');
        fields(&mut json, reading);
    } else {
        json.push_str(",\"readings\":[");
        for (i, reading) in readings.iter().enumerate() {
            json.push_str(if i == 0 { "{" } else { ",{" });
            fields(&mut json, reading);
            json.push('}');
        }
        json.push(']');
    }
    json.push('}');
    json
}

fn fields(json: &mut String, reading: &Reading) {
    let _ = write!(json, "\"timestamp\":\"{}\"", format_rfc3339_ms(reading.ts_ms));
    let value = |vital: Vital| Some(reading.vitals[vital.index()]).filter(|value| value.is_finite());
    let pressures = (value(Vital::Systolic), value(Vital::Diastolic));
    for vital in Vital::ALL {
        let _ = match (vital, pressures, value(vital)) {
            (Vital::Systolic, (Some(systolic), Some(diastolic)), _) => {
                write!(json, ",\"blood_pressure\":\"{systolic}/{diastolic}\"")
            }
            (Vital::Diastolic, (Some(_), Some(_)), _) | (_, _, None) => Ok(()),
            (_, _, Some(number)) => write!(json, ",\"{}\":{number}", vital.column()),
        };
    }
    if let Some(seq) = reading.seq {
        let _ = write!(json, ",\"seq\":{seq}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::packet::Parser;
    use crate::reading::{MAX_PACKET_BYTES, NO_VITALS};
    use crate::simulate::fleet::{Fleet, tests::options};
    use crate::simulate::{MAX_BATCH, device_id};

    fn reading() -> Reading {
        let ts_ms = 1_795_410_000_000;
        Reading { ts_ms, arrived_ms: ts_ms, seq: Some(123), vitals: [72.0, 118.0, 76.0, 36.7, 97.0, 15.0] }
    }

    #[test]
    fn a_packet_is_the_documented_json() {
        assert_eq!(
            payload("device_1", &[reading()]),
            "{\"device_id\":\"device_1\",\"timestamp\":\"2026-11-23T05:00:00.000Z\",\"heart_rate\":72,\
             \"blood_pressure\":\"118/76\",\"temperature\":36.7,\"spo2\":97,\"respiratory_rate\":15,\"seq\":123}"
        );
    }

    #[test]
    fn a_batch_carries_every_reading_and_absent_vitals_are_left_out() {
        let mut lone = reading();
        lone.vitals[Vital::Diastolic.index()] = f64::NAN;
        let empty = Reading { vitals: NO_VITALS, seq: None, ..reading() };
        assert_eq!(
            payload("d", &[lone, empty]),
            "{\"device_id\":\"d\",\"readings\":[{\"timestamp\":\"2026-11-23T05:00:00.000Z\",\"heart_rate\":72,\
             \"systolic\":118,\"temperature\":36.7,\"spo2\":97,\"respiratory_rate\":15,\"seq\":123},\
             {\"timestamp\":\"2026-11-23T05:00:00.000Z\"}]}"
        );
        let json: serde_json::Value = serde_json::from_str(&payload("d", &[lone, empty])).unwrap();
        assert_eq!(json["readings"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn what_a_fleet_publishes_is_read_back_as_it_was() {
        let readings: Vec<Reading> = Fleet::new(options(1, 48)).unwrap().map(|(_, reading)| reading).collect();
        let arrived_ms = readings.last().unwrap().ts_ms;
        let mut parser = Parser::new();
        for batch in [1, 7, MAX_BATCH as usize] {
            for part in readings.chunks(batch) {
                let json = payload(&device_id(0), part);
                assert!(json.len() < MAX_PACKET_BYTES, "{}", json.len());
                let packet = parser.parse(Some("device_1"), json.as_bytes(), arrived_ms).unwrap();
                assert_eq!(packet.len(), part.len());
                for (item, reading) in packet.items().zip(part) {
                    match item.outcome {
                        Ok(read) => assert_eq!(read, Reading { arrived_ms, ..*reading }),
                        Err(reason) => panic!("{reason}: {json}"),
                    }
                }
            }
        }
    }
}
