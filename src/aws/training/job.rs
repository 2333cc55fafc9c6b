//! The training job of SageMaker that a training waits for, and what tasks have written to their log.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::aws::{
    clients::{Access, CallFailed},
    service::Service,
};

/// Where SageMaker keeps the figures that a job prints, and by what they are known.
const NAMESPACE: &str = "/aws/sagemaker/TrainingJobs";
const DIMENSION: &str = "TrainingJobName";
const CLOUDWATCH: &str = "2010-08-01";

/// The figure that says how far a training is; the others come at its end.
const TREES: &str = "trees";

/// How far back the newest figure is looked for.
const LOOK_BACK: TimeDelta = TimeDelta::hours(3);

/// How many lines of a task's log are looked through for why it failed.
const LINES: u32 = 50;

/// How often how a job stands is worth a question.
pub const PAUSE: Duration = Duration::from_secs(20);

/// How a job stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Job {
    /// What it is doing, in words.
    pub doing: String,
    /// Figures that it has printed, by their names.
    pub figures: BTreeMap<String, f64>,
}

/// The services that know of jobs and tasks.
#[derive(Debug, Clone)]
pub struct Watch {
    sagemaker: Service,
    cloudwatch: Service,
    logs: Service,
}

impl Watch {
    pub async fn new(access: &Access) -> Watch {
        Watch {
            sagemaker: Service::regional(access, "sagemaker").await,
            cloudwatch: Service::regional(access, "monitoring").await,
            logs: Service::regional(access, "logs").await,
        }
    }

    /// Services on a server of a test.
    #[cfg(test)]
    pub(crate) fn of_test(endpoint: &str) -> Watch {
        let service = |name| Service::of_test(name, endpoint);
        Watch { sagemaker: service("sagemaker"), cloudwatch: service("monitoring"), logs: service("logs") }
    }

    /// How a job stands.
    ///
    /// # Errors
    /// Where SageMaker can't be asked.
    pub async fn job(&self, name: &str) -> anyhow::Result<Job> {
        let asked = json!({ "TrainingJobName": name });
        let said = self.sagemaker.json("asking for the training job", "SageMaker.DescribeTrainingJob", &asked).await;
        let said = said.map_err(|error| needing(error, "sagemaker:DescribeTrainingJob"))?;
        let figure = |one: &Value| Some((one["MetricName"].as_str()?.to_owned(), one["Value"].as_f64()?));
        let figures = said["FinalMetricDataList"].as_array().into_iter().flatten().filter_map(figure).collect();
        Ok(Job { doing: doing(said["SecondaryStatus"].as_str().unwrap_or_default()), figures })
    }

    /// How many trees a job has grown, as far as it has told.
    ///
    /// # Errors
    /// Where CloudWatch can't be asked.
    pub async fn trees(&self, job: &str, now: DateTime<Utc>) -> anyhow::Result<Option<f64>> {
        let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
        let (since, until) = (time(now - LOOK_BACK), time(now));
        let query = "MetricDataQueries.member.1.";
        let metric = [
            ("Id", TREES),
            ("MetricStat.Metric.Namespace", NAMESPACE),
            ("MetricStat.Metric.MetricName", TREES),
            ("MetricStat.Metric.Dimensions.member.1.Name", DIMENSION),
            ("MetricStat.Metric.Dimensions.member.1.Value", job),
            ("MetricStat.Period", "60"),
            ("MetricStat.Stat", "Maximum"),
        ];
        let metric: Vec<(String, &str)> = metric.map(|(name, value)| (format!("{query}{name}"), value)).into();
        let mut fields =
            vec![("StartTime", since.as_str()), ("EndTime", until.as_str()), ("ScanBy", "TimestampDescending")];
        fields.extend(metric.iter().map(|(name, value)| (name.as_str(), *value)));
        let said = self.cloudwatch.query("asking for its figures", CLOUDWATCH, "GetMetricData", &fields).await;
        let said: Answer = said.map_err(|error| needing(error, "cloudwatch:GetMetricData"))?;
        Ok(said
            .get_metric_data_result
            .metric_data_results
            .member
            .first()
            .and_then(|one| one.values.member.first().copied()))
    }

    /// What a task of ECS said last that it could not do, from its log; `task` is its ARN, and `prefix` what its log's name
    /// begins with.
    ///
    /// # Errors
    /// Where CloudWatch can't be asked for the log.
    pub async fn last_error(&self, group: &str, prefix: &str, task: &str) -> anyhow::Result<Option<String>> {
        let id = task.rsplit('/').next().unwrap_or(task);
        let stream = format!("{prefix}/vitals/{id}");
        let asked = json!({ "logGroupName": group, "logStreamName": stream, "limit": LINES, "startFromHead": false });
        let said = self.logs.json("reading the task's log", "Logs_20140328.GetLogEvents", &asked).await;
        let said = said.map_err(|error| needing(error, "logs:GetLogEvents")).context("its log can't be read")?;
        let lines: Vec<&str> =
            said["events"].as_array().into_iter().flatten().filter_map(|e| e["message"].as_str()).collect();
        Ok(lines.iter().rev().find_map(|line| error_in(line)))
    }
}

/// What a line of a log says that went wrong: of this program's, which writes JSON in tasks, and of a plain one.
fn error_in(line: &str) -> Option<String> {
    if let Ok(said) = serde_json::from_str::<Value>(line) {
        let is_error = said["level"] == "ERROR";
        return said["fields"]["message"].as_str().filter(|_| is_error).map(str::to_owned);
    }
    line.strip_prefix("error: ").map(str::to_owned)
}

/// What a job does, by SageMaker's word for it.
fn doing(status: &str) -> String {
    let words = match status {
        "Starting" | "Pending" | "LaunchingMLInstances" | "InsufficientCapacityError" => "waiting for a machine",
        "PreparingTrainingStack" => "starting the machine",
        "DownloadingTrainingImage" => "loading the image",
        "Downloading" => "loading the sample",
        "Training" => "learning",
        "Uploading" => "storing the model",
        "Interrupted" => "interrupted; waiting for spot capacity",
        "Restarting" => "starting again",
        "Completed" => "done",
        other => other,
    };
    words.to_owned()
}

/// An error with the permission that a denied call needs.
pub(super) fn needing(error: anyhow::Error, action: &str) -> anyhow::Error {
    match error.downcast::<CallFailed>() {
        Ok(refused) => refused.needing(action).into(),
        Err(error) => error,
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    get_metric_data_result: Results,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Results {
    #[serde(default)]
    metric_data_results: Members<OfMetric>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OfMetric {
    #[serde(default)]
    values: Members<f64>,
}

/// A list, as the Query protocol writes it.
#[derive(Debug, Deserialize)]
struct Members<T> {
    #[serde(default = "Vec::new")]
    member: Vec<T>,
}

impl<T> Default for Members<T> {
    fn default() -> Self {
        Members { member: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::replay::Replay;

    #[tokio::test]
    async fn a_job_tells_how_it_stands_and_its_figures() {
        let xml = "<GetMetricDataResponse xmlns=\"x\"><GetMetricDataResult><MetricDataResults><member><Id>trees</Id><Timestamps/>\
               <Values><member>120.0</member><member>110.0</member></Values></member></MetricDataResults></GetMetricDataResult></GetMetricDataResponse>";
        let replay = Replay::start(move |asked| match asked.operation.as_str() {
            "DescribeTrainingJob" => {
                let figures = json!([{ "MetricName": "recall", "Value": 0.5, "Timestamp": 1.0 }]);
                (200, json!({ "SecondaryStatus": "Training", "FinalMetricDataList": figures }))
            }
            _ => (200, json!(xml)),
        })
        .await;
        let job = Watch::of_test(&replay.endpoint).job("vitals-a").await.unwrap();
        assert_eq!((job.doing.as_str(), job.figures["recall"]), ("learning", 0.5));
        assert_eq!(Watch::of_test(&replay.endpoint).trees("vitals-a", Utc::now()).await.unwrap(), Some(120.0));
        assert_eq!(replay.counts()["GetMetricData"], 1);
        let none = Replay::start(|_| (200, json!("<GetMetricDataResponse><GetMetricDataResult><MetricDataResults/></GetMetricDataResult></GetMetricDataResponse>"))).await;
        assert_eq!(Watch::of_test(&none.endpoint).trees("vitals-a", Utc::now()).await.unwrap(), None);
    }
}
