//! The stack: one CloudFormation template, and its life.
//!
//! | part | what it does |
//! |---|---|
//! | [`template`] | the template inside the program, and the body that is sent of it |
//! | [`body`] | how that gets to CloudFormation |
//! | [`sizes`] | what `--size` means in parameters |
//! | [`change`] | change sets: what an update would do, and doing it |
//! | [`events`] | what happens to a stack while it happens, and what went wrong first |
//! | [`cause`] | what to do about it |
//! | [`health`] | how what was deployed stands |
//! | [`undo`] | what must end before it can be deleted |
//! | [`leftovers`] | what stays then, and taking that away as well |
//!
//! A stack is made in two passes, for CloudFormation has no attribute for the addresses of MSK's brokers, and a service
//! whose image is not there yet never becomes stable: the first pass makes everything that needs neither; the image is
//! pushed and the brokers are asked for; the second pass adds the rule, its destination and the services.

use std::{collections::BTreeMap, time::Duration};

use aws_sdk_cloudformation::{Client, types::StackStatus};
use chrono::{DateTime, Utc};

use super::clients::{Access, CallFailed, failed};

pub mod body;
pub mod cause;
pub mod change;
pub mod events;
pub mod fit;
pub mod health;
pub mod leftovers;
mod policy;
pub mod sizes;
pub mod template;
pub mod undo;

pub use template::Template;

/// The training workflow, which goes into the template's body.
pub const WORKFLOW: &str = include_str!("../../../templates/training.asl.json");

/// How long to wait between two questions: longer each time, as what is not done soon takes its time.
#[derive(Debug, Clone, Copy)]
struct Pauses {
    next: Duration,
    most: Duration,
}

impl Pauses {
    async fn rest(&mut self) {
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 3 / 2).min(self.most);
    }
}

/// One stack by its name; it need not be there.
#[derive(Debug, Clone)]
pub struct Stack {
    pub name: String,
    client: Client,
}

/// A stack as it is.
#[derive(Debug, Clone)]
pub struct Described {
    /// Its ARN; that of a deleted stack still answers.
    pub id: String,
    pub status: StackStatus,
    pub reason: Option<String>,
    pub changed: Option<DateTime<Utc>>,
    pub parameters: BTreeMap<String, String>,
    pub outputs: BTreeMap<String, String>,
}

/// What can be done with a stack now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// There is none of this name, or only the shell that a change set made.
    New,
    /// It can be changed.
    Ready,
    /// Something is being done to it.
    Busy,
    /// It never came to be: it can only be deleted, and nothing is lost by that.
    Failed,
    /// An update failed and so did taking it back: that must be gone on with first.
    Stuck,
    /// Deleting it stopped halfway: it can only be deleted again.
    HalfDeleted,
}

impl Standing {
    /// Of a stack that is there.
    pub fn of(status: &StackStatus) -> Standing {
        let status = status.as_str();
        match status {
            "REVIEW_IN_PROGRESS" => Standing::New,
            "ROLLBACK_COMPLETE" | "ROLLBACK_FAILED" | "CREATE_FAILED" => Standing::Failed,
            "UPDATE_ROLLBACK_FAILED" | "UPDATE_FAILED" => Standing::Stuck,
            "DELETE_FAILED" => Standing::HalfDeleted,
            "DELETE_COMPLETE" => Standing::New,
            _ if status.ends_with("_IN_PROGRESS") => Standing::Busy,
            _ => Standing::Ready,
        }
    }
}

impl Described {
    pub fn standing(&self) -> Standing {
        Standing::of(&self.status)
    }

    /// Whether the last operation did what it was to do.
    pub fn succeeded(&self) -> bool {
        matches!(self.status.as_str(), "CREATE_COMPLETE" | "UPDATE_COMPLETE" | "IMPORT_COMPLETE" | "DELETE_COMPLETE")
    }

    /// An output, where the stack has it (those of the second pass are there after it).
    pub fn output(&self, name: &str) -> Option<&str> {
        self.outputs.get(name).map(String::as_str)
    }
}

impl Stack {
    pub fn new(access: &Access, name: &str) -> Stack {
        Stack { name: name.to_owned(), client: Client::new(access.config()) }
    }

    /// The stack as it is; `None` where there is none of this name.
    ///
    /// # Errors
    /// Where it can't be asked for.
    pub async fn describe(&self) -> Result<Option<Described>, CallFailed> {
        self.described(&self.name).await
    }

    /// The same by name or ARN: only the ARN finds a stack that was deleted.
    pub(super) async fn described(&self, name_or_id: &str) -> Result<Option<Described>, CallFailed> {
        let asked = self.client.describe_stacks().stack_name(name_or_id).send().await;
        let answer = match asked.map_err(failed("asking for the stack")) {
            Ok(answer) => answer,
            Err(refused) if refused.is_absent() => return Ok(None),
            Err(refused) => return Err(refused),
        };
        let Some(stack) = answer.stacks().first() else { return Ok(None) };
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        Ok(Some(Described {
            id: text(stack.stack_id()),
            status: stack.stack_status().cloned().unwrap_or_else(|| StackStatus::from("UNKNOWN")),
            reason: stack.stack_status_reason().map(str::to_owned),
            changed: stack.last_updated_time().or(stack.creation_time()).and_then(moment),
            parameters: stack
                .parameters()
                .iter()
                .map(|p| (text(p.parameter_key()), text(p.parameter_value())))
                .collect(),
            outputs: stack.outputs().iter().map(|o| (text(o.output_key()), text(o.output_value()))).collect(),
        }))
    }

    /// Begins to delete the stack. `retain` names resources to leave behind, which only a stack that could not be deleted
    /// allows.
    ///
    /// # Errors
    /// Where CloudFormation refuses.
    pub async fn delete(&self, retain: &[String], token: &str) -> Result<(), CallFailed> {
        let retain = Some(retain.to_vec()).filter(|retain| !retain.is_empty());
        let call =
            self.client.delete_stack().stack_name(&self.name).client_request_token(token).set_retain_resources(retain);
        call.send().await.map_err(failed("deleting the stack")).map(drop)
    }

    /// Goes on with taking back an update, where that had failed.
    ///
    /// # Errors
    /// Where CloudFormation refuses.
    pub async fn continue_rollback(&self, token: &str) -> Result<(), CallFailed> {
        let call = self.client.continue_update_rollback().stack_name(&self.name).client_request_token(token);
        call.send().await.map_err(failed("going on with the rollback")).map(drop)
    }

    /// What is in the stack: logical id, type, physical id and status of every resource.
    ///
    /// # Errors
    /// Where it can't be asked for.
    pub async fn resources(&self) -> Result<Vec<Held>, CallFailed> {
        let mut held = Vec::new();
        let mut pages = self.client.list_stack_resources().stack_name(&self.name).into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(failed("asking for the stack's resources"))?;
            held.extend(page.stack_resource_summaries().iter().map(|resource| Held {
                id: resource.logical_resource_id().unwrap_or_default().to_owned(),
                kind: resource.resource_type().unwrap_or_default().to_owned(),
                physical: resource.physical_resource_id().unwrap_or_default().to_owned(),
                status: resource.resource_status().map(|s| s.as_str().to_owned()).unwrap_or_default(),
            }));
        }
        Ok(held)
    }
}

/// A resource of a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its logical id, by which the template calls it.
    pub id: String,
    /// Such as `AWS::S3::Bucket`.
    pub kind: String,
    /// Its name or ARN.
    pub physical: String,
    pub status: String,
}

/// A time of an SDK.
pub(super) fn moment(time: &aws_sdk_cloudformation::primitives::DateTime) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(time.secs(), time.subsec_nanos())
}

/// Seconds since 1970 as people read them.
fn moment_of(seconds: i64) -> String {
    DateTime::<Utc>::from_timestamp(seconds, 0)
        .map_or_else(|| "?".to_owned(), |at| at.format("%Y-%m-%d %H:%M UTC").to_string())
}

/// A token for one operation, by which its events are known from those of others.
pub fn new_token() -> String {
    format!("vitals-{:016x}", rand::random::<u64>())
}
