//! The file of what was sent: one JSON object per reading, for comparing with what arrived.
//!
//! Rows have the columns of a reading (`device_id, timestamp, heart_rate, …, seq`), then `published_ms`,
//! `acknowledged_ms` (null at QoS 0 and where the broker never answered) and `sends`, how often the packet went out.
//! A row is written when its packet is acknowledged, at QoS 0 when it is on its way, or when the run ends without.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::fleet::device_id;
use crate::reading::time::format_rfc3339_ms;
use crate::reading::{Reading, Vital};

/// Packets that wait for the disk; more make the devices wait.
const WAITING: usize = 256;

/// One packet that was published.
#[derive(Debug)]
pub(super) struct SentPacket {
    pub(super) device: u32,
    pub(super) readings: Vec<Reading>,
    /// When it first went out, milliseconds since 1970 UTC.
    pub(super) published_ms: i64,
    pub(super) acknowledged_ms: Option<i64>,
    /// How often it went out: more than once after a lost connection.
    pub(super) sends: u32,
}

/// Make the file at `path` anew and start the task that writes it. The task ends, and answers how many rows it wrote,
/// when every sender is gone; it ends early, and its senders find it gone, when the file can't be written.
///
/// # Errors
/// When the file can't be made.
pub(super) fn create(path: &Path) -> io::Result<(mpsc::Sender<SentPacket>, JoinHandle<io::Result<u64>>)> {
    let mut file = BufWriter::with_capacity(256 * 1024, File::create(path)?);
    let (sender, mut packets) = mpsc::channel::<SentPacket>(WAITING);
    let task = tokio::task::spawn_blocking(move || {
        let mut rows = 0;
        while let Some(packet) = packets.blocking_recv() {
            write_packet(&mut file, &packet)?;
            rows += packet.readings.len() as u64;
        }
        file.flush()?;
        file.get_ref().sync_all()?;
        Ok(rows)
    });
    Ok((sender, task))
}

#[derive(Serialize)]
struct Row<'a> {
    device_id: &'a str,
    timestamp: String,
    heart_rate: Option<f64>,
    systolic: Option<f64>,
    diastolic: Option<f64>,
    temperature: Option<f64>,
    spo2: Option<f64>,
    respiratory_rate: Option<f64>,
    seq: Option<i64>,
    published_ms: i64,
    acknowledged_ms: Option<i64>,
    sends: u32,
}

fn write_packet(file: &mut impl Write, packet: &SentPacket) -> io::Result<()> {
    let device_id = device_id(packet.device);
    for reading in &packet.readings {
        let value = |vital: Vital| Some(reading.vitals[vital.index()]).filter(|value| value.is_finite());
        let row = Row {
            device_id: &device_id,
            timestamp: format_rfc3339_ms(reading.ts_ms),
            heart_rate: value(Vital::HeartRate),
            systolic: value(Vital::Systolic),
            diastolic: value(Vital::Diastolic),
            temperature: value(Vital::Temperature),
            spo2: value(Vital::Spo2),
            respiratory_rate: value(Vital::RespiratoryRate),
            seq: reading.seq,
            published_ms: packet.published_ms,
            acknowledged_ms: packet.acknowledged_ms,
            sends: packet.sends,
        };
        serde_json::to_writer(&mut *file, &row)?;
        file.write_all(b"\n")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_row_has_the_reading_and_when_its_packet_went() {
        let reading = Reading {
            ts_ms: 1_795_410_000_000,
            arrived_ms: 0,
            seq: Some(7),
            vitals: [72.0, f64::NAN, 76.0, 36.7, 97.0, 15.0],
        };
        let packet =
            SentPacket { device: 0, readings: vec![reading; 2], published_ms: 5, acknowledged_ms: None, sends: 2 };
        let mut text = Vec::new();
        write_packet(&mut text, &packet).unwrap();
        let rows: Vec<Value> =
            String::from_utf8(text).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0]["device_id"], "device_1");
        assert_eq!(rows[0]["timestamp"], "2026-11-23T05:00:00.000Z");
        assert_eq!(rows[0]["temperature"], 36.7);
        assert!(rows[0]["systolic"].is_null() && rows[0]["acknowledged_ms"].is_null());
        assert_eq!((rows[0]["seq"].as_i64(), rows[0]["sends"].as_i64()), (Some(7), Some(2)));
    }
}
