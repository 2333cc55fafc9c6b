//! Training on AWS: executions of the stack's state machine, `templates/training.asl.json`.
//!
//! | part | what it does |
//! |---|---|
//! | here | starting an execution, asking how it stands, stopping it |
//! | [`history`] | what happens in it, step by step |
//! | [`job`] | how the job of SageMaker stands, and the figures that it prints |
//! | [`cause`] | why it failed, in words, and what to do about it |
//! | [`schedule`] | when it is started by the clock |

use std::{fmt, str::FromStr};

use aws_sdk_sfn::{Client, types::ExecutionStatus};
use chrono::{DateTime, Utc};
use serde_json::Value;

use super::clients::{Access, CallFailed, failed};

pub mod cause;
pub mod history;
pub mod job;
pub mod schedule;
#[cfg(test)]
mod tests;

use history::Event;

/// How many events of an execution are asked for at once.
const PAGE: i32 = 200;

/// Step Functions' code for a name that another execution has had.
const NAME_IS_TAKEN: &str = "ExecutionAlreadyExists";

/// The ARN of an execution: `arn:aws:states:REGION:ACCOUNT:execution:MACHINE:NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arn {
    text: String,
    pub region: String,
    /// The state machine's name.
    pub machine: String,
    /// The execution's name.
    pub name: String,
}

impl FromStr for Arn {
    type Err = String;

    fn from_str(text: &str) -> Result<Arn, String> {
        let parts: Vec<&str> = text.split(':').collect();
        match parts.as_slice() {
            ["arn", _, "states", region, account, "execution", machine, name]
                if [region, account, machine, name].iter().all(|part| !part.is_empty()) =>
            {
                let [region, machine, name] = [region, machine, name].map(|part| (*part).to_owned());
                Ok(Arn { text: text.to_owned(), region, machine, name })
            }
            _ => {
                Err("it is no execution's ARN, such as arn:aws:states:REGION:ACCOUNT:execution:MACHINE:NAME".to_owned())
            }
        }
    }
}

impl fmt::Display for Arn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Arn {
    /// Where AWS's console shows it.
    pub fn console(&self) -> String {
        let domain = match self.text.split(':').nth(1) {
            Some("aws-cn") => "console.amazonaws.cn",
            Some("aws-us-gov") => "console.amazonaws-us-gov.com",
            _ => "console.aws.amazon.com",
        };
        let region = &self.region;
        format!("https://{region}.{domain}/states/home?region={region}#/v2/executions/details/{self}")
    }
}

/// A state machine.
#[derive(Debug, Clone)]
pub struct Machine {
    client: Client,
    pub arn: String,
}

/// One of a machine's executions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub arn: String,
    pub began: Option<DateTime<Utc>>,
}

impl Machine {
    pub fn new(access: &Access, arn: &str) -> Machine {
        Machine { client: Client::new(access.config()), arn: arn.to_owned() }
    }

    /// Starts an execution. A request that is repeated, as its answer was lost, starts nothing more: the name is the same.
    ///
    /// # Errors
    /// Where Step Functions refuses, or does not answer.
    pub async fn start(&self, name: &str, input: &Value) -> Result<Arn, CallFailed> {
        let doing = "starting the training";
        let call = self.client.start_execution().state_machine_arn(&self.arn).name(name).input(input.to_string());
        let arn = match call.send().await.map_err(failed(doing)) {
            Ok(started) => started.execution_arn,
            // Nobody else draws this name: the first request came through, and what it started is over already.
            Err(refused) if refused.is(NAME_IS_TAKEN) => {
                format!("{}:{name}", self.arn.replacen(":stateMachine:", ":execution:", 1))
            }
            Err(refused) => return Err(refused.needing("states:StartExecution")),
        };
        arn.parse().map_err(|why: String| CallFailed { doing: doing.to_owned(), code: None, message: why })
    }

    /// The executions that run, newest first.
    ///
    /// # Errors
    /// Where Step Functions can't be asked.
    pub async fn running(&self) -> Result<Vec<Run>, CallFailed> {
        let call = self.client.list_executions().state_machine_arn(&self.arn);
        self.listed(call.status_filter(ExecutionStatus::Running)).await
    }

    /// The execution that was started last.
    ///
    /// # Errors
    /// Where Step Functions can't be asked.
    pub async fn newest(&self) -> Result<Option<Run>, CallFailed> {
        let call = self.client.list_executions().state_machine_arn(&self.arn).max_results(1);
        Ok(self.listed(call).await?.into_iter().next())
    }

    async fn listed(
        &self,
        call: aws_sdk_sfn::operation::list_executions::builders::ListExecutionsFluentBuilder,
    ) -> Result<Vec<Run>, CallFailed> {
        let answer = call.send().await.map_err(failed("asking for trainings"));
        let answer = answer.map_err(|refused| refused.needing("states:ListExecutions"))?;
        let run =
            |one: aws_sdk_sfn::types::ExecutionListItem| Run { began: moment(one.start_date), arn: one.execution_arn };
        Ok(answer.executions.into_iter().map(run).collect())
    }
}

/// How an execution stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub status: Status,
    pub began: Option<DateTime<Utc>>,
    pub ended: Option<DateTime<Utc>>,
    pub input: Value,
    /// What it gave, where it succeeded.
    pub output: Value,
    pub error: Option<String>,
    pub cause: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Running,
    Succeeded,
    Failed,
    TimedOut,
    Aborted,
}

impl Status {
    fn of(status: &ExecutionStatus) -> Status {
        match status {
            ExecutionStatus::Succeeded => Status::Succeeded,
            ExecutionStatus::Failed => Status::Failed,
            ExecutionStatus::TimedOut => Status::TimedOut,
            ExecutionStatus::Aborted => Status::Aborted,
            // Also where it waits to be driven again after a failure.
            _ => Status::Running,
        }
    }
}

/// An execution that is followed.
#[derive(Debug)]
pub struct Execution {
    client: Client,
    pub arn: Arn,
    /// The last event that was told.
    seen: i64,
}

impl Execution {
    pub fn new(access: &Access, arn: Arn) -> Execution {
        Execution { client: Client::new(access.config()), arn, seen: 0 }
    }

    /// How it stands.
    ///
    /// # Errors
    /// Where Step Functions can't be asked, or has no such execution (any more: it forgets them after 90 days).
    pub async fn standing(&self) -> Result<Standing, CallFailed> {
        let call = self.client.describe_execution().execution_arn(self.arn.to_string());
        let said = call.send().await.map_err(failed("asking for the training"));
        let said = said.map_err(|refused| refused.needing("states:DescribeExecution"))?;
        let json = |text: Option<&str>| text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
        Ok(Standing {
            status: Status::of(&said.status),
            began: moment(said.start_date),
            ended: said.stop_date.and_then(moment),
            input: json(said.input.as_deref()),
            output: json(said.output.as_deref()),
            error: said.error,
            cause: said.cause,
        })
    }

    /// What has happened since the last time, oldest first.
    ///
    /// # Errors
    /// Where Step Functions can't be asked.
    pub async fn news(&mut self) -> Result<Vec<Event>, CallFailed> {
        // Backwards, as there is no other way to ask for the newest events only.
        let (mut news, mut next): (Vec<Event>, Option<String>) = (Vec::new(), None);
        loop {
            let call = self.client.get_execution_history().execution_arn(self.arn.to_string());
            let call = call.reverse_order(true).max_results(PAGE).include_execution_data(true).set_next_token(next);
            let page = call.send().await.map_err(failed("asking what happens in the training"));
            let page = page.map_err(|refused| refused.needing("states:GetExecutionHistory"))?;
            let last = page.events.last().map_or(0, |event| event.id);
            news.extend(page.events.into_iter().filter(|event| event.id > self.seen).map(Event::of));
            next = page.next_token;
            if next.is_none() || last <= self.seen {
                break;
            }
        }
        news.sort_by_key(|event| event.id);
        news.dedup_by_key(|event| event.id);
        self.seen = news.last().map_or(self.seen, |event| event.id);
        Ok(news)
    }

    /// Stops it, and with it the job or task that it waits for.
    ///
    /// # Errors
    /// Where Step Functions refuses.
    pub async fn stop(&self, cause: &str) -> Result<(), CallFailed> {
        let call = self.client.stop_execution().execution_arn(self.arn.to_string()).error("Stopped").cause(cause);
        let stopped = call.send().await.map_err(failed("stopping the training")).map(drop);
        stopped.map_err(|refused| refused.needing("states:StopExecution"))
    }
}

fn moment(time: aws_sdk_sfn::primitives::DateTime) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(time.secs(), time.subsec_nanos())
}

/// A name for an execution that nobody has had: when it was asked for, and some letters by chance.
pub fn new_name(now: DateTime<Utc>) -> String {
    format!("vitals-{}-{:08x}", now.format("%Y%m%dT%H%M%SZ"), rand::random::<u32>())
}
