//! How the deployed pipeline stands, part by part, as its services tell it.

use std::time::{Duration, SystemTime};

use aws_sdk_cloudwatch::{
    primitives::DateTime,
    types::{Dimension, StateValue, Statistic},
};
use chrono::Utc;
use serde::Serialize;

use super::Described;
use crate::aws::clients::{Access, CallFailed, failed};

/// How far metrics are looked back.
const LOOK_BACK: Duration = Duration::from_secs(3600);

/// The consumer group of the workers, as the template names it.
const GROUP: &str = "vitals";

/// One thing that is known of the pipeline, or why it is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The part of the pipeline.
    pub part: &'static str,
    pub state: State,
    pub text: String,
}

/// What a line means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Good,
    /// Something a person should look at.
    Attention,
    /// The service could not be asked, or the stack has no such part.
    Unknown,
}

impl Line {
    pub fn new(part: &'static str, state: State, text: impl Into<String>) -> Line {
        Line { part, state, text: text.into() }
    }
}

/// Asks every service of the stack, all at once.
pub async fn look(access: &Access, held: &Described) -> Vec<Line> {
    let (brokers, destination, rule, lag, services, training, alarms) = tokio::join!(
        brokers(access, held),
        destination(access, held),
        rule(access, held),
        lag(access, held),
        services(access, held),
        training(access, held),
        alarms(access, held),
    );
    let single =
        [("brokers", brokers), ("destination", destination), ("rule", rule), ("lag", lag), ("training", training)];
    let known = |(part, line): (&'static str, Result<Option<Line>, CallFailed>)| match line {
        Ok(Some(line)) => line,
        Ok(None) => Line::new(part, State::Unknown, "not in this stack yet"),
        Err(error) => Line::new(part, State::Unknown, error.message),
    };
    let mut lines: Vec<Line> = single.into_iter().map(known).collect();
    for (part, several) in [("services", services), ("alarms", alarms)] {
        match several {
            Ok(several) => lines.extend(several),
            Err(error) => lines.push(Line::new(part, State::Unknown, error.message)),
        }
    }
    lines
}

async fn brokers(access: &Access, held: &Described) -> Result<Option<Line>, CallFailed> {
    let Some(arn) = held.output("ClusterArn") else { return Ok(None) };
    let client = aws_sdk_kafka::Client::new(access.config());
    let answer =
        client.describe_cluster_v2().cluster_arn(arn).send().await.map_err(failed("asking for the cluster"))?;
    let Some(cluster) = answer.cluster_info() else { return Ok(None) };
    let state = cluster.state().map_or("UNKNOWN", |state| state.as_str()).to_owned();
    let provisioned = cluster.provisioned();
    let count = provisioned.and_then(|p| p.number_of_broker_nodes()).unwrap_or_default();
    let version = provisioned.and_then(|p| p.current_broker_software_info()?.kafka_version()).unwrap_or("?");
    let good = if state == "ACTIVE" { State::Good } else { State::Attention };
    Ok(Some(Line::new("brokers", good, format!("{count} brokers of Kafka {version}, {state}"))))
}

async fn destination(access: &Access, held: &Described) -> Result<Option<Line>, CallFailed> {
    let Some(arn) = held.output("DestinationArn") else { return Ok(None) };
    let client = aws_sdk_iot::Client::new(access.config());
    let answer =
        client.get_topic_rule_destination().arn(arn).send().await.map_err(failed("asking for the destination"))?;
    let Some(destination) = answer.topic_rule_destination() else { return Ok(None) };
    let status = destination.status().map_or("UNKNOWN", |status| status.as_str());
    let reason = destination.status_reason().map_or_else(String::new, |reason| format!(": {reason}"));
    let state = if status == "ENABLED" { State::Good } else { State::Attention };
    Ok(Some(Line::new("destination", state, format!("IoT's way to the brokers is {status}{reason}"))))
}

async fn rule(access: &Access, held: &Described) -> Result<Option<Line>, CallFailed> {
    let Some(rule) = held.output("RuleName") else { return Ok(None) };
    let metrics = Metrics::of(access);
    let action = [("RuleName", rule), ("ActionType", "Kafka")];
    let sent = metrics.sum("AWS/IoT", "Success", &action).await?;
    let failures = metrics.sum("AWS/IoT", "Failure", &action).await?.unwrap_or(0.0);
    let Some(sent) = sent else {
        return Ok(Some(Line::new("rule", State::Unknown, "no message in the last hour")));
    };
    let state = if failures > 0.0 { State::Attention } else { State::Good };
    let failures =
        if failures > 0.0 { format!(", {failures:.0} failed (the error action kept them)") } else { String::new() };
    Ok(Some(Line::new("rule", state, format!("{sent:.0} messages in the last hour{failures}"))))
}

async fn lag(access: &Access, held: &Described) -> Result<Option<Line>, CallFailed> {
    let Some(group) = group(held) else { return Ok(None) };
    let metrics = Metrics::of(access);
    let Some(records) = metrics.newest("AWS/Kafka", "SumOffsetLag", &group).await? else {
        return Ok(Some(Line::new(
            "lag",
            State::Unknown,
            "not measured in the last hour: workers have not committed yet",
        )));
    };
    let seconds = metrics.newest("AWS/Kafka", "EstimatedMaxTimeLag", &group).await?;
    let time = seconds.map_or_else(String::new, |seconds| format!(", the oldest {seconds:.0} s old"));
    Ok(Some(Line::new("lag", State::Good, format!("{records:.0} records wait to be stored{time}"))))
}

/// The dimensions of the workers' lag.
fn group(held: &Described) -> Option<[(&str, &str); 3]> {
    let cluster = held.output("ClusterArn")?.split('/').nth(1)?;
    Some([("Cluster Name", cluster), ("Consumer Group", GROUP), ("Topic", held.output("TopicName")?)])
}

/// How many records wait in the topic to be stored, where that is known.
pub async fn waiting(access: &Access, held: &Described) -> Option<f64> {
    Metrics::of(access).newest("AWS/Kafka", "SumOffsetLag", &group(held)?).await.ok()?
}

/// Classes of storage, by CloudWatch's name, and dollars a GB and month.
const STORAGE: [(&str, f64); 3] =
    [("StandardStorage", 0.023), ("DeepArchiveStorage", 0.000_99), ("GlacierStorage", 0.0036)];

/// How many GB a bucket has and what they cost a month, where S3 has measured it, which it does once a day.
pub async fn bucket_cost(access: &Access, bucket: &str) -> Option<(f64, f64)> {
    let metrics = Metrics {
        client: aws_sdk_cloudwatch::Client::new(access.config()),
        back: 3 * 24 * LOOK_BACK,
        period_s: 86_400,
    };
    let (mut gb, mut dollars, mut measured) = (0.0, 0.0, false);
    for (class, price) in STORAGE {
        let dimensions = [("BucketName", bucket), ("StorageType", class)];
        if let Some(bytes) = metrics.newest("AWS/S3", "BucketSizeBytes", &dimensions).await.ok()? {
            gb += bytes / 1e9;
            dollars += bytes / 1e9 * price;
            measured = true;
        }
    }
    measured.then_some((gb, dollars))
}

async fn services(access: &Access, held: &Described) -> Result<Vec<Line>, CallFailed> {
    let names = ["IngestServiceName", "ScorerServiceName"].map(|output| held.output(output));
    let names: Vec<String> = names.into_iter().flatten().map(str::to_owned).collect();
    let (Some(cluster), false) = (held.output("EcsClusterName"), names.is_empty()) else { return Ok(Vec::new()) };
    let client = aws_sdk_ecs::Client::new(access.config());
    let answer = client.describe_services().cluster(cluster).set_services(Some(names)).send().await;
    let answer = answer.map_err(failed("asking for the services"))?;
    let line = |service: &aws_sdk_ecs::types::Service| {
        let (running, desired) = (service.running_count(), service.desired_count());
        let name = service.service_name().unwrap_or("?");
        let state = if running >= desired && desired > 0 { State::Good } else { State::Attention };
        let newest = service.events().first().and_then(|event| event.message()).filter(|_| state != State::Good);
        let newest = newest.map_or_else(String::new, |message| format!("; {message}"));
        Line::new("services", state, format!("{name}: {running} of {desired} tasks run{newest}"))
    };
    Ok(answer.services().iter().map(line).collect())
}

async fn training(access: &Access, held: &Described) -> Result<Option<Line>, CallFailed> {
    let Some(arn) = held.output("StateMachineArn") else { return Ok(None) };
    let client = aws_sdk_sfn::Client::new(access.config());
    let answer = client.list_executions().state_machine_arn(arn).max_results(1).send().await;
    let answer = answer.map_err(failed("asking for trainings"))?;
    let Some(last) = answer.executions().first() else {
        return Ok(Some(Line::new("training", State::Unknown, "none yet")));
    };
    let status = last.status().as_str();
    let state = if ["SUCCEEDED", "RUNNING"].contains(&status) { State::Good } else { State::Attention };
    let when = super::moment_of(last.start_date().secs());
    let more = match state {
        State::Attention => format!("; `vitals train --follow {}` says why", last.execution_arn()),
        _ => String::new(),
    };
    Ok(Some(Line::new("training", state, format!("the last began {when}: {status}{more}"))))
}

async fn alarms(access: &Access, held: &Described) -> Result<Vec<Line>, CallFailed> {
    let client = aws_sdk_cloudwatch::Client::new(access.config());
    let stack = held.id.rsplit('/').nth(1).unwrap_or(&held.id);
    let mut all = 0;
    let mut lines = Vec::new();
    let mut pages = client.describe_alarms().alarm_name_prefix(format!("{stack}-")).into_paginator().send();
    while let Some(page) = pages.next().await {
        let page = page.map_err(failed("asking for alarms"))?;
        for alarm in page.metric_alarms() {
            all += 1;
            if alarm.state_value() == Some(&StateValue::Alarm) {
                let name = alarm.alarm_name().unwrap_or("?");
                let what = alarm.alarm_description().unwrap_or("no description");
                lines.push(Line::new("alarms", State::Attention, format!("{name}: {what}")));
            }
        }
    }
    if lines.is_empty() && all > 0 {
        lines.push(Line::new("alarms", State::Good, format!("none of {all} rings")));
    }
    Ok(lines)
}

/// CloudWatch's numbers.
struct Metrics {
    client: aws_sdk_cloudwatch::Client,
    /// How far it is looked back.
    back: Duration,
    period_s: i32,
}

impl Metrics {
    /// Of the last hour, by five minutes.
    fn of(access: &Access) -> Metrics {
        Metrics { client: aws_sdk_cloudwatch::Client::new(access.config()), back: LOOK_BACK, period_s: 300 }
    }

    /// The sum over the time that is looked back.
    async fn sum(&self, space: &str, name: &str, dimensions: &[(&str, &str)]) -> Result<Option<f64>, CallFailed> {
        let points = self.points(space, name, dimensions, Statistic::Sum).await?;
        Ok((!points.is_empty()).then(|| points.iter().map(|(_, value)| value).sum()))
    }

    /// The newest value.
    async fn newest(&self, space: &str, name: &str, dimensions: &[(&str, &str)]) -> Result<Option<f64>, CallFailed> {
        let points = self.points(space, name, dimensions, Statistic::Maximum).await?;
        Ok(points.into_iter().max_by_key(|(at, _)| *at).map(|(_, value)| value))
    }

    async fn points(
        &self,
        space: &str,
        name: &str,
        dimensions: &[(&str, &str)],
        statistic: Statistic,
    ) -> Result<Vec<(i64, f64)>, CallFailed> {
        let now = SystemTime::now();
        let dimensions = dimensions.iter().map(|(name, value)| Dimension::builder().name(*name).value(*value).build());
        let call = self
            .client
            .get_metric_statistics()
            .namespace(space)
            .metric_name(name)
            .set_dimensions(Some(dimensions.collect()))
            .start_time(DateTime::from(now - self.back))
            .end_time(DateTime::from(now))
            .period(self.period_s)
            .statistics(statistic);
        let answer = call.send().await.map_err(failed("asking for a metric"))?;
        let point = |point: &aws_sdk_cloudwatch::types::Datapoint| {
            let value = point.sum().or(point.maximum())?;
            Some((point.timestamp().map_or(Utc::now().timestamp(), DateTime::secs), value))
        };
        Ok(answer.datapoints().iter().filter_map(point).collect())
    }
}
