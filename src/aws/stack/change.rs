//! Change sets: what an update of a stack would do, and doing it.

use std::{collections::BTreeMap, time::Duration};

use aws_sdk_cloudformation::types::{
    Capability, Change, ChangeSetStatus, ChangeSetType, Parameter, RequiresRecreation, ResourceAttribute, Tag,
};
use chrono::Utc;
use serde::Serialize;

use super::{Pauses, Stack, Standing, body::Body};
use crate::aws::clients::{CallFailed, failed};

/// How long between two questions whether a change set is there: at first, and at most.
const PAUSES: Pauses = Pauses { next: Duration::from_millis(250), most: Duration::from_secs(2) };

/// A change set that CloudFormation has worked out.
#[derive(Debug, Clone)]
pub struct ChangeSet {
    /// Its ARN.
    pub id: String,
    pub name: String,
    pub stack_id: String,
    /// In the order of CloudFormation; none where nothing would change.
    pub rows: Vec<Row>,
}

/// What would happen to one resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    pub action: Action,
    pub resource: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub replacement: Replacement,
    /// The properties that change, each with whether it alone would replace the resource.
    pub properties: Vec<String>,
}

/// What is done to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Add,
    Modify,
    Remove,
    Import,
    /// CloudFormation finds out while it works.
    Dynamic,
}

/// Whether a resource becomes another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Replacement {
    No,
    /// It depends on values that are not known before.
    Maybe,
    Yes,
}

/// Why there is no change set.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error(transparent)]
    Call(#[from] CallFailed),
    /// CloudFormation could not work it out.
    #[error("CloudFormation does not take this template and these parameters: {0}")]
    Refused(String),
    /// It went away while it was waited for.
    #[error("the change set {0} is gone\nhint: another `vitals` may have deleted it; run the command again")]
    Gone(String),
}

/// What a stack is to become.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub body: Body,
    /// Values by name; a parameter that is not here keeps the value it has, or its default.
    pub parameters: BTreeMap<String, String>,
    /// Names of all parameters that the body declares.
    pub declared: Vec<String>,
    pub tags: Vec<(String, String)>,
}

impl Stack {
    /// Asks CloudFormation what it would do, and waits for the answer. Nothing is changed, though a stack that was not there
    /// appears in `REVIEW_IN_PROGRESS` and holds nothing.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn propose(&self, wanted: &Wanted) -> Result<ChangeSet, ChangeError> {
        let held = self.describe().await?;
        let is_new = held.as_ref().is_none_or(|held| held.standing() == Standing::New);
        let name = format!("vitals-{}", Utc::now().format("%Y%m%d-%H%M%S"));
        let parameters = wanted.declared.iter().filter_map(|name| {
            let parameter = Parameter::builder().parameter_key(name);
            match wanted.parameters.get(name) {
                Some(value) => Some(parameter.parameter_value(value).build()),
                None if !is_new && held.as_ref()?.parameters.contains_key(name) => {
                    Some(parameter.use_previous_value(true).build())
                }
                None => None,
            }
        });
        let tags = wanted.tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build());
        let call = self
            .client
            .create_change_set()
            .stack_name(&self.name)
            .change_set_name(&name)
            .change_set_type(if is_new { ChangeSetType::Create } else { ChangeSetType::Update })
            .set_parameters(Some(parameters.collect()))
            .set_tags(Some(tags.collect()))
            .capabilities(Capability::CapabilityNamedIam);
        let asked =
            wanted.body.give(call).send().await.map_err(failed("asking for a change set")).map_err(|refused| {
                match refused.code.as_deref() {
                    Some("ValidationError") => ChangeError::Refused(refused.message),
                    _ => ChangeError::Call(refused),
                }
            })?;
        let id = asked.id().unwrap_or(&name).to_owned();
        self.read_change_set(&id).await
    }

    /// A change set by name or ARN, once CloudFormation has worked it out.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn read_change_set(&self, id: &str) -> Result<ChangeSet, ChangeError> {
        let mut pauses = PAUSES;
        loop {
            let call = self.client.describe_change_set().stack_name(&self.name).change_set_name(id);
            let answer = match call.send().await.map_err(failed("asking for the change set")) {
                Ok(answer) => answer,
                Err(refused) if refused.code.as_deref() == Some("ChangeSetNotFound") => {
                    return Err(ChangeError::Gone(id.to_owned()));
                }
                Err(refused) => return Err(refused.into()),
            };
            let reason = answer.status_reason().unwrap_or("no reason is given");
            let mut set = ChangeSet {
                id: answer.change_set_id().unwrap_or(id).to_owned(),
                name: answer.change_set_name().unwrap_or(id).to_owned(),
                stack_id: answer.stack_id().unwrap_or(&self.name).to_owned(),
                rows: answer.changes().iter().filter_map(row).collect(),
            };
            match answer.status() {
                Some(ChangeSetStatus::CreateComplete) => {
                    let mut next = answer.next_token().map(str::to_owned);
                    while let Some(token) = next {
                        let call = self.client.describe_change_set().stack_name(&self.name).change_set_name(&set.id);
                        let page = call.next_token(token).send().await.map_err(failed("asking for the change set"))?;
                        set.rows.extend(page.changes().iter().filter_map(row));
                        next = page.next_token().map(str::to_owned);
                    }
                    return Ok(set);
                }
                Some(ChangeSetStatus::Failed) if is_empty(reason) => {
                    set.rows.clear();
                    return Ok(set);
                }
                Some(ChangeSetStatus::Failed) => {
                    let reason = reason.to_owned();
                    self.drop_change_set(&set).await?;
                    return Err(ChangeError::Refused(reason));
                }
                Some(ChangeSetStatus::DeleteComplete) => return Err(ChangeError::Gone(id.to_owned())),
                _ => pauses.rest().await,
            }
        }
    }

    /// Lets CloudFormation begin to do what a change set says.
    ///
    /// # Errors
    /// Where it refuses, for example because the stack has changed since.
    pub async fn execute(&self, set: &ChangeSet, token: &str) -> Result<(), CallFailed> {
        let call = self.client.execute_change_set().stack_name(&self.name).change_set_name(&set.id);
        call.client_request_token(token).send().await.map_err(failed("executing the change set")).map(drop)
    }

    /// Takes a change set away, and the empty shell of a stack that was made for it.
    ///
    /// # Errors
    /// Where CloudFormation refuses.
    pub async fn drop_change_set(&self, set: &ChangeSet) -> Result<(), CallFailed> {
        let call = self.client.delete_change_set().stack_name(&self.name).change_set_name(&set.id);
        call.send().await.map_err(failed("deleting the change set"))?;
        let shell = self.describe().await?.is_some_and(|held| held.status.as_str() == "REVIEW_IN_PROGRESS");
        if shell { self.delete(&[], &super::new_token()).await } else { Ok(()) }
    }
}

/// Whether a change set failed because there is nothing to change, which is no failure.
fn is_empty(reason: &str) -> bool {
    ["didn't contain changes", "No updates are to be performed", "does not contain changes", "no changes"]
        .iter()
        .any(|words| reason.contains(words))
}

fn row(change: &Change) -> Option<Row> {
    let change = change.resource_change()?;
    let mut properties: Vec<String> = change
        .details()
        .iter()
        .filter_map(|detail| detail.target())
        .map(|target| {
            let name = match (target.attribute(), target.name()) {
                (Some(ResourceAttribute::Properties), Some(name)) => name.to_owned(),
                (Some(attribute), _) => attribute.as_str().to_owned(),
                (None, name) => name.unwrap_or("?").to_owned(),
            };
            match target.requires_recreation() {
                Some(RequiresRecreation::Always) => format!("{name} (replaces)"),
                Some(RequiresRecreation::Conditionally) => format!("{name} (may replace)"),
                _ => name,
            }
        })
        .collect();
    properties.sort();
    properties.dedup();
    Some(Row {
        action: match change.action().map(|action| action.as_str()) {
            Some("Add") => Action::Add,
            Some("Modify") => Action::Modify,
            Some("Remove") => Action::Remove,
            Some("Import") => Action::Import,
            _ => Action::Dynamic,
        },
        resource: change.logical_resource_id().unwrap_or_default().to_owned(),
        kind: change.resource_type().unwrap_or_default().to_owned(),
        replacement: match change.replacement().map(|replacement| replacement.as_str()) {
            Some("True") => Replacement::Yes,
            Some("Conditional") => Replacement::Maybe,
            _ => Replacement::No,
        },
        properties,
    })
}
