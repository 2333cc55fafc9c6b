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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::aws::replay::Replay;

    /// A schedule as `GetSchedule` has it.
    fn held() -> Value {
        json!({
            "Arn": "arn:aws:scheduler:x", "CreationDate": 1.5, "LastModificationDate": 2.5, "Name": "vitals-TrainSchedule-1",
            "GroupName": "default", "Description": "Training", "ScheduleExpression": "cron(0 3 ? * MON *)",
            "ScheduleExpressionTimezone": "UTC", "State": "ENABLED", "EndDate": 1_900_000_000.5,
            "FlexibleTimeWindow": { "Mode": "OFF" }, "ActionAfterCompletion": "NONE",
            "Target": { "Arn": "arn:aws:states:x", "RoleArn": "arn:aws:iam::1:role/r", "Input": "{\"alarm_budget\":0.25}",
                        "RetryPolicy": { "MaximumRetryAttempts": 10 } }
        })
    }

    #[tokio::test]
    async fn a_schedule_keeps_all_that_is_not_changed() {
        let replay = Replay::start(|_| (200, held())).await;
        let read = || async {
            Schedule::at(Service::of_test("scheduler", &replay.endpoint), "vitals-TrainSchedule-1").await.unwrap()
        };
        let schedule = read().await;
        assert_eq!(
            (schedule.when().as_str(), schedule.input()),
            ("cron(0 3 ? * MON *)", json!({ "alarm_budget": 0.25 }))
        );
        let first = DateTime::from_timestamp(1_767_571_200, 7).unwrap();
        let input = Map::from_iter([("since".to_owned(), json!("30d"))]);
        let wanted = schedule.every(&rate(Duration::from_secs(7 * 86_400)).unwrap(), first, &input);
        assert_eq!(wanted.when(), "rate(7 days)");
        wanted.write().await.unwrap();
        let off = read().await.off();
        assert_eq!(off.when(), "off");
        off.write().await.unwrap();

        let written = replay.bodies("PUT /schedules/vitals-TrainSchedule-1");
        let mut every = written[0].clone();
        let every = every.as_object_mut().unwrap();
        assert!(every.remove("ClientToken").is_some());
        let mut expected = held();
        for name in ["Arn", "CreationDate", "LastModificationDate", "Name"] {
            expected.as_object_mut().unwrap().remove(name);
        }
        for (name, value) in [
            ("ScheduleExpression", json!("rate(7 days)")),
            ("StartDate", json!(1_767_571_200)),
            ("EndDate", json!(1_900_000_000)),
        ] {
            expected[name] = value;
        }
        expected["Target"]["Input"] = json!("{\"alarm_budget\":0.25,\"since\":\"30d\"}");
        assert_eq!(Value::Object(every.clone()), expected);
        assert_eq!(
            (&written[1]["State"], &written[1]["ScheduleExpression"]),
            (&json!("DISABLED"), &json!("cron(0 3 ? * MON *)"))
        );
        assert_eq!(written[1]["Target"], held()["Target"]);
    }

    #[tokio::test]
    async fn a_schedule_that_may_not_be_set_says_what_it_needs() {
        let replay = Replay::start(|asked| {
            if asked.operation.starts_with("GET") {
                (200, held())
            } else {
                (403, json!({ "__type": "AccessDeniedException", "message": "no" }))
            }
        })
        .await;
        let schedule = Schedule::at(Service::of_test("scheduler", &replay.endpoint), "s").await.unwrap();
        let said = schedule.off().write().await.unwrap_err().to_string();
        assert!(said.contains("scheduler:UpdateSchedule"), "{said}");
    }

    #[test]
    fn periods_are_told_in_whole_units() {
        let told = |seconds| rate(Duration::from_secs(seconds));
        for (seconds, expected) in [
            (86_400, "rate(1 day)"),
            (7 * 86_400, "rate(7 days)"),
            (43_200, "rate(12 hours)"),
            (90 * 60, "rate(90 minutes)"),
            (60, "rate(1 minute)"),
        ] {
            assert_eq!(told(seconds).as_deref(), Ok(expected));
        }
        assert!(told(59).is_err() && told(90).is_err() && rate(Duration::from_millis(60_500)).is_err());
    }
}
