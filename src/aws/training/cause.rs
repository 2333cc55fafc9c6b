//! Why a training on AWS failed, in words, and what to do about it.

use serde_json::Value;

use super::{Standing, Status};

/// Errors of the state machine's own: of an input that it refuses, of a job that ended without a model and has not failed
/// either, of a training of which nobody could be told.
const BAD_INPUT: &str = "BadInput";
const STOPPED: &str = "TrainingStopped";
const NOT_TOLD: &str = "NotTold";
const TIMEOUT: &str = "States.Timeout";

/// How long the state machine gives a training, in seconds.
pub(super) const LONGEST_S: u64 = 345_600;

/// Why an execution failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// In what it failed, in words.
    pub step: Option<String>,
    /// Step Functions' name of the error.
    pub error: String,
    /// One sentence, without a full stop.
    pub why: String,
}

impl Failure {
    /// Of an execution that has failed, was stopped, or took too long; `step` is the one that it was at.
    pub fn of(standing: &Standing, name: &str, step: Option<&str>) -> Failure {
        let error = standing.error.clone().unwrap_or_default();
        let cause = standing.cause.as_deref().filter(|cause| !cause.trim().is_empty());
        let step = step.map(str::to_owned);
        match standing.status {
            Status::Aborted => Failure { step, error, why: cause.unwrap_or("nobody said why").to_owned() },
            Status::TimedOut => {
                let days = LONGEST_S / 86_400;
                Failure { step, error: TIMEOUT.to_owned(), why: format!("all of it may take {days} days") }
            }
            _ => {
                // The state machine's own words, which begin with the name: "NAME failed at STEP: ERROR: CAUSE".
                let own = cause.and_then(|cause| cause.strip_prefix(name));
                let parts = own.and_then(|own| {
                    let (step, rest) = own.strip_prefix(" failed at ")?.split_once(": ")?;
                    let (error, cause) = rest.split_once(": ")?;
                    Some((step, error, cause))
                });
                match (parts, own) {
                    (Some((step, error, cause)), _) => {
                        let why = short(error, Some(cause).filter(|cause| *cause != "no more is known"));
                        Failure { step: Some(step.to_owned()), error: error.to_owned(), why }
                    }
                    (None, Some(own)) if error == NOT_TOLD => {
                        let done = own.trim_start_matches(": ").trim_end_matches('.');
                        Failure { step: Some("telling it".to_owned()), error, why: format!("all else is done: {done}") }
                    }
                    _ => Failure { step, why: short(&error, cause), error },
                }
            }
        }
    }

    /// The task whose log has more, by its ARN.
    pub fn task(&self) -> Option<&str> {
        let (_, task) = self.why.rsplit_once("more is in the log of ")?;
        task.contains(":task/").then_some(task)
    }

    /// Says what the program itself said in its log, which is the better reason.
    pub fn said_in_log(&mut self, said: &str) {
        self.why = said.to_owned();
    }

    /// What to do about it, where that is known. `train` and `deploy` are the commands for this stack.
    pub fn hint(&self, status: Status, train: &str, deploy: &str) -> Option<String> {
        let again = format!("`{train}` starts another");
        if status == Status::Aborted {
            return Some(again);
        }
        let found = |words: &[&str]| words.iter().any(|word| self.why.contains(word) || self.error.contains(word));
        let at = |step: &str| self.step.as_deref() == Some(step);
        let hint = match () {
            () if self.why.contains("\nhint: ") => return None,
            () if self.error == NOT_TOLD => {
                "the topic for notices could not be written to: does it exist, and may the state machine's role publish to it?"
                    .to_owned()
            }
            () if self.error == BAD_INPUT => {
                "another version of this program may have made the state machine: `vitals deploy` brings it up to date"
                    .replace("vitals deploy", deploy)
            }
            () if found(&["ResourceLimitExceeded"]) => format!(
                "the account's quota for this machine is too small: Service Quotas, SageMaker, \"… for training job usage\", \
                 for spot and on demand; or another machine: `{deploy} --set TrainingInstanceType=ml.m5.large`"
            ),
            () if found(&["CapacityError", "apacity", "MaxWaitTimeExceeded", "Interrupted", "Spot"]) => format!(
                "AWS had no machine to spare, at spot prices or on demand: {again} later; \
                 `{deploy} --set TrainingInstanceType=ml.m5.2xlarge` takes another kind"
            ),
            () if found(&["MaxRuntimeExceeded"]) || self.error == TIMEOUT && at("training") => format!(
                "a larger machine is faster: `{deploy} --set TrainingInstanceType=ml.m5.4xlarge`; `--since 30d` learns from less"
            ),
            () if found(&["Throttl", "TooManyRequests", "Rate exceeded"]) => {
                format!("too much was asked of AWS at once, again and again: {again} later")
            }
            () if found(&["CannotPull", "Cannot pull", "pull image", "manifest"]) => {
                format!("the container image can't be had: `{deploy}` pushes it again")
            }
            () if found(&["AccessDenied", "not authorized", "UnauthorizedOperation"]) => format!(
                "a role of the stack lacks that permission: `{deploy}` brings roles up to date; a permission boundary or the \
                 organisation's policies may deny it as well"
            ),
            () if found(&["nothing to learn from", "no readings", "no data"]) => {
                "`vitals status` says whether readings arrive; `--since` with an earlier day, or none, takes more of them".to_owned()
            }
            () if found(&["OutOfMemory", "MemoryError"]) => {
                format!("it needs more memory: `{deploy} --set JobMemory=16384`")
            }
            () if self.error == TIMEOUT => {
                format!("`{deploy} --set JobCpu=4096 --set JobMemory=16384` gives tasks a larger machine; then {again}")
            }
            () => return None,
        };
        Some(hint)
    }
}

/// An error of a step in one line: what services write as JSON is read for its reason.
pub fn short(error: &str, cause: Option<&str>) -> String {
    let Some(cause) = cause.map(str::trim).filter(|cause| !cause.is_empty() && *cause != error) else {
        return match error {
            TIMEOUT => "it took longer than it may".to_owned(),
            "MaxWaitTimeExceeded" => "spot capacity never came (MaxWaitTimeExceeded)".to_owned(),
            "MaxRuntimeExceeded" => "it ran longer than it may (MaxRuntimeExceeded)".to_owned(),
            "Interrupted" => "spot capacity was taken away (Interrupted)".to_owned(),
            "" => "no reason is given".to_owned(),
            error => error.to_owned(),
        };
    };
    let said: Value = serde_json::from_str(cause).unwrap_or_default();
    let text = |name: &str| said[name].as_str().filter(|text| !text.is_empty());
    if let Some(reason) = text("FailureReason").or(text("StateDetails")) {
        return reason.to_owned();
    }
    if let Some(reason) = text("StoppedReason") {
        let log = text("TaskArn").map_or_else(String::new, |task| format!("; more is in the log of {task}"));
        return format!("{reason}{log}");
    }
    if let Some(status) = text("SecondaryStatus") {
        return short(status, None);
    }
    match error {
        "" | "States.TaskFailed" | STOPPED | BAD_INPUT => short_status(cause),
        error if cause.contains(error) => cause.to_owned(),
        error => format!("{} ({error})", short_status(cause)),
    }
}

/// Some causes are no more than a status of SageMaker.
fn short_status(cause: &str) -> String {
    let is_status = cause.chars().all(char::is_alphanumeric);
    if is_status { short(cause, None) } else { cause.to_owned() }
}
