//! The schedule by which EventBridge Scheduler starts trainings.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::job::needing;
use crate::aws::{
    clients::Access,
    service::{Request, Service},
};

/// What `GetSchedule` tells and `UpdateSchedule` does not take.
const TOLD_ONLY: [&str; 4] = ["Arn", "CreationDate", "LastModificationDate", "Name"];

/// A schedule of a stack.
#[derive(Debug, Clone)]
pub struct Schedule {
    scheduler: Service,
    name: String,
    /// All that Scheduler knows of it: an update replaces everything.
    held: Map<String, Value>,
}

impl Schedule {
    /// # Errors
    /// Where Scheduler can't be asked, or has none of this name.
    pub async fn read(access: &Access, name: &str) -> anyhow::Result<Schedule> {
        Schedule::at(Service::regional(access, "scheduler").await, name).await
    }

    pub(super) async fn at(scheduler: Service, name: &str) -> anyhow::Result<Schedule> {
        let request = Request { method: "GET", path: &path(name), headers: &[], body: "" };
        let said = scheduler.rest("asking for the schedule", &request).await;
        let said = said.map_err(|error| needing(error, "scheduler:GetSchedule"))?;
        let held = said.as_object().cloned().unwrap_or_default();
        Ok(Schedule { scheduler, name: name.to_owned(), held })
    }

    /// When trainings are started: Scheduler's expression, or `off`.
    pub fn when(&self) -> String {
        let expression = self.held.get("ScheduleExpression").and_then(Value::as_str).unwrap_or_default();
        if self.is_on() { expression.to_owned() } else { "off".to_owned() }
    }

    fn is_on(&self) -> bool {
        self.held.get("State").is_none_or(|state| state == "ENABLED")
    }

    /// The input of the trainings that it starts.
    pub fn input(&self) -> Value {
        let text = self.held.get("Target").and_then(|target| target["Input"].as_str());
        text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_else(|| Value::Object(Map::new()))
    }

    /// The same schedule at other times, with some of the input set; the first at `first`.
    pub fn every(mut self, rate: &str, first: DateTime<Utc>, input: &Map<String, Value>) -> Schedule {
        self.set("ScheduleExpression", rate);
        self.set("State", "ENABLED");
        // Without it the first would be now.
        self.set("StartDate", first.timestamp());
        if !input.is_empty()
            && let Value::Object(mut all) = self.input()
            && let Some(target) = self.held.get_mut("Target").and_then(Value::as_object_mut)
        {
            all.extend(input.clone());
            target.insert("Input".to_owned(), Value::String(Value::Object(all).to_string()));
        }
        self
    }

    /// The same schedule, switched off.
    pub fn off(mut self) -> Schedule {
        self.set("State", "DISABLED");
        self
    }

    fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.held.insert(name.to_owned(), value.into());
    }

    /// Puts it in Scheduler as it is here.
    ///
    /// # Errors
    /// Where Scheduler refuses.
    pub async fn write(&self) -> anyhow::Result<()> {
        let mut body = self.held.clone();
        TOLD_ONLY.iter().for_each(|name| drop(body.remove(*name)));
        // Times come with a fraction, which is not taken back.
        for name in ["StartDate", "EndDate"] {
            if let Some(at) = body.get(name).and_then(Value::as_f64) {
                body.insert(name.to_owned(), Value::from(at as i64));
            }
        }
        body.insert("ClientToken".to_owned(), Value::from(crate::aws::stack::new_token()));
        let body = Value::Object(body).to_string();
        let headers = [("content-type", "application/json")];
        let request = Request { method: "PUT", path: &path(&self.name), headers: &headers, body: &body };
        let written = self.scheduler.rest("setting the schedule", &request).await;
        written.map(drop).map_err(|error| needing(error, "scheduler:UpdateSchedule (and iam:PassRole for its role)"))
    }
}

fn path(name: &str) -> String {
    format!("/schedules/{}", url::form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>())
}

/// Scheduler's expression for a period.
///
/// # Errors
/// Where it has none for it: a period is of whole minutes.
pub fn rate(every: Duration) -> Result<String, String> {
    let seconds = every.as_secs();
    let units = [("day", 86_400), ("hour", 3_600), ("minute", 60)];
    let unit = units.iter().find(|(_, length)| seconds >= *length && seconds.is_multiple_of(*length));
    match unit {
        Some((unit, length)) if every.subsec_nanos() == 0 => {
            let count = seconds / length;
            Ok(format!("rate({count} {unit}{})", if count == 1 { "" } else { "s" }))
        }
        _ => Err("on AWS a period is of whole minutes: 12h, 7d".to_owned()),
    }
}
