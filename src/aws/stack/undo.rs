//! What must end before a stack can be deleted.

use std::time::Duration;

use aws_sdk_cloudformation::types::{Capability, Parameter};
use aws_sdk_sfn::types::ExecutionStatus;

use super::{Described, Held, Stack};
use crate::aws::{
    clients::{Access, CallFailed, failed},
    service::{Request, Service},
};

/// How long between two looks at Spark, and how often.
const PAUSE: Duration = Duration::from_secs(5);
const MOST: u32 = 60;

impl Stack {
    /// Begins to take the stack back to where these parameters are empty; `false` where there is nothing to take back.
    ///
    /// # Errors
    /// Where CloudFormation refuses.
    pub async fn back(&self, held: &Described, emptied: &[&str], token: &str) -> Result<bool, CallFailed> {
        let parameters = held.parameters.keys().map(|name| {
            let parameter = Parameter::builder().parameter_key(name);
            match emptied.contains(&name.as_str()) {
                true => parameter.parameter_value("").build(),
                false => parameter.use_previous_value(true).build(),
            }
        });
        let call = self
            .client
            .update_stack()
            .stack_name(&self.name)
            .use_previous_template(true)
            .set_parameters(Some(parameters.collect()))
            .capabilities(Capability::CapabilityNamedIam)
            .client_request_token(token);
        match call.send().await.map_err(failed("taking back the second pass")) {
            Ok(_) => Ok(true),
            Err(refused) if refused.message.contains("No updates are to be performed") => Ok(false),
            Err(refused) => Err(refused),
        }
    }

    /// The ARN of the newest deleted stack of this name; CloudFormation remembers it for 90 days.
    ///
    /// # Errors
    /// Where CloudFormation can't be asked.
    pub async fn deleted(&self) -> Result<Option<String>, CallFailed> {
        use aws_sdk_cloudformation::types::StackStatus;
        let call = self.client.list_stacks().stack_status_filter(StackStatus::DeleteComplete);
        let mut pages = call.into_paginator().send();
        let mut newest: Option<(i64, String)> = None;
        while let Some(page) = pages.next().await {
            let page = page.map_err(failed("asking for deleted stacks"))?;
            for stack in page.stack_summaries().iter().filter(|stack| stack.stack_name() == Some(&self.name)) {
                let at = stack.deletion_time().map_or(0, |at| at.secs());
                if let Some(id) = stack.stack_id().filter(|_| newest.as_ref().is_none_or(|(newest, _)| *newest <= at)) {
                    newest = Some((at, id.to_owned()));
                }
            }
        }
        Ok(newest.map(|(_, id)| id))
    }

    /// What was in a stack that is deleted.
    ///
    /// # Errors
    /// Where CloudFormation can't be asked.
    pub async fn resources_of(&self, id: &str) -> Result<Vec<Held>, CallFailed> {
        Stack { name: id.to_owned(), client: self.client.clone() }.resources().await
    }
}

/// Whether any certificate has this policy of IoT.
///
/// # Errors
/// Where IoT can't be asked.
pub async fn policy_is_attached(access: &Access, policy: &str) -> Result<bool, CallFailed> {
    let client = aws_sdk_iot::Client::new(access.config());
    let answer = client.list_targets_for_policy().policy_name(policy).page_size(1).send().await;
    match answer.map_err(failed("asking who has the policy")) {
        Ok(answer) => Ok(!answer.targets().is_empty()),
        Err(refused) if refused.code.as_deref() == Some("ResourceNotFoundException") => Ok(false),
        Err(refused) => Err(refused),
    }
}

/// Stops what runs of a workflow, which stops what that had begun; says how many.
///
/// # Errors
/// Where Step Functions refuse.
pub async fn stop_executions(access: &Access, machine: &str) -> Result<usize, CallFailed> {
    let client = aws_sdk_sfn::Client::new(access.config());
    let call = client.list_executions().state_machine_arn(machine).status_filter(ExecutionStatus::Running);
    let running = match call.send().await.map_err(failed("asking for trainings")) {
        Ok(answer) => answer,
        Err(refused) if refused.code.as_deref() == Some("StateMachineDoesNotExist") => return Ok(0),
        Err(refused) => return Err(refused),
    };
    for execution in running.executions() {
        let call = client.stop_execution().execution_arn(execution.execution_arn()).cause("vitals destroy");
        call.send().await.map_err(failed("stopping a training"))?;
    }
    Ok(running.executions().len())
}

/// Stops the Spark application and waits until it has: only then it can be deleted.
///
/// # Errors
/// Where EMR Serverless refuses, or it does not stop.
pub async fn stop_spark(access: &Access, application: &str) -> anyhow::Result<()> {
    let spark = Service::regional(access, "emr-serverless").await;
    let path = format!("/applications/{application}");
    let stop = format!("{path}/stop");
    let request = |method, path| Request { method, path, headers: &[("content-type", "application/json")], body: "" };
    match spark.rest("stopping Spark", &request("POST", &stop)).await {
        Ok(_) => {}
        Err(error) => match error.downcast_ref::<CallFailed>().and_then(|refused| refused.code.as_deref()) {
            Some("ResourceNotFoundException") => return Ok(()),
            // It is in no state to be stopped from: stopped, or never started.
            Some("ValidationException" | "ConflictException") => {}
            _ => return Err(error),
        },
    }
    for _ in 0..MOST {
        let answer = spark.rest("asking for Spark", &request("GET", &path)).await?;
        let state = answer["application"]["state"].as_str().unwrap_or("STOPPED");
        if ["CREATED", "STOPPED", "TERMINATED"].contains(&state) {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    anyhow::bail!(
        "Spark does not stop\nhint: cancel its jobs: `aws emr-serverless list-job-runs --application-id {application}`"
    )
}
