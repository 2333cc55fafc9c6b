//! What happens to a stack: its events as they come, and which of them went wrong first.

use std::{collections::HashSet, time::Duration};

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{Described, Pauses, Stack, moment};
use crate::aws::clients::{CallFailed, failed};

/// How long between two questions for news, at first and at most. A stack takes half an hour; CloudFormation's rate is shared
/// by an account.
const PAUSES: Pauses = Pauses { next: Duration::from_millis(250), most: Duration::from_secs(4) };

/// The most events of one operation that are looked through for its cause.
const MOST: usize = 5_000;

/// Something that happened to a resource, or to the stack itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    #[serde(skip)]
    pub id: String,
    pub at: Option<DateTime<Utc>>,
    /// The logical id.
    pub resource: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub physical: String,
    /// Such as `CREATE_IN_PROGRESS`.
    pub status: String,
    pub reason: Option<String>,
    /// Of the operation that it belongs to.
    #[serde(skip)]
    pub token: Option<String>,
}

impl Event {
    /// Whether it is about the stack as a whole.
    pub fn is_of_stack(&self) -> bool {
        self.kind == "AWS::CloudFormation::Stack"
    }

    pub fn has_failed(&self) -> bool {
        self.status.ends_with("_FAILED")
    }

    /// Whether nothing more happens to the resource in this operation, unless it is taken back.
    pub fn is_settled(&self) -> bool {
        self.status.ends_with("_COMPLETE") || self.has_failed() || self.status.ends_with("_SKIPPED")
    }

    /// Whether a resource failed only because another had failed before.
    fn is_aftermath(&self) -> bool {
        let reason = self.reason.as_deref().unwrap_or_default();
        ["Resource creation cancelled", "Resource update cancelled", "Resource deletion cancelled"]
            .iter()
            .any(|words| reason.contains(words))
            || reason.starts_with("The following resource(s) failed")
    }
}

/// The first event of an operation that failed by itself; `events` in the order of time. That of the stack is only taken
/// where no resource's says more.
pub fn first_cause(events: &[Event]) -> Option<&Event> {
    let own = |event: &&Event| event.has_failed() && !event.is_aftermath();
    let of_resource = events.iter().filter(own).find(|event| !event.is_of_stack());
    let of_stack = || events.iter().filter(own).find(|event| event.is_of_stack());
    // A resource that failed while an update was taken back is a consequence, unless there is nothing else.
    of_resource.or_else(of_stack).or_else(|| events.iter().find(|event| event.has_failed()))
}

/// Follows one operation.
#[derive(Debug)]
pub struct Follower<'a> {
    stack: &'a Stack,
    /// The stack's ARN: of a stack that is deleted nothing else answers.
    id: String,
    token: Option<String>,
    seen: HashSet<String>,
    all: Vec<Event>,
    pauses: Pauses,
}

/// What is new.
#[derive(Debug)]
pub enum News {
    Events(Vec<Event>),
    /// The operation has ended, well or not; all its events were told.
    Ended(Box<Described>),
}

impl<'a> Follower<'a> {
    /// Follows the operation of a token; without one, the stack's last.
    pub fn new(stack: &'a Stack, id: &str, token: Option<&str>) -> Follower<'a> {
        let (id, token) = (id.to_owned(), token.map(str::to_owned));
        Follower { stack, id, token, seen: HashSet::new(), all: Vec::new(), pauses: PAUSES }
    }

    /// Every event of the operation so far, in the order of time.
    pub fn events(&self) -> &[Event] {
        &self.all
    }

    /// Waits for news.
    ///
    /// # Errors
    /// Where CloudFormation can't be asked, after as many tries as the client makes.
    pub async fn next(&mut self) -> Result<News, CallFailed> {
        loop {
            // In this order: what happens between the two questions belongs to the next round.
            let held = self.stack.described(&self.id).await?;
            let news = self.news().await?;
            if !news.is_empty() {
                return Ok(News::Events(news));
            }
            match held {
                Some(held) if held.status.as_str().ends_with("_IN_PROGRESS") => {}
                Some(held) => return Ok(News::Ended(Box::new(held))),
                // Some stand-ins forget a stack that was deleted.
                None => return Ok(News::Ended(Box::new(gone(&self.id)))),
            }
            self.pauses.rest().await;
        }
    }

    async fn news(&mut self) -> Result<Vec<Event>, CallFailed> {
        let mut news = match self.stack.events_of(&self.id, self.token.as_deref(), &self.seen).await {
            Ok(news) => news,
            Err(refused) if refused.is_absent() => Vec::new(),
            Err(refused) => return Err(refused),
        };
        news.reverse();
        if self.token.is_none() {
            self.token = news.last().and_then(|event| event.token.clone());
            let token = self.token.clone();
            news.retain(|event| event.token == token);
        }
        self.seen.extend(news.iter().map(|event| event.id.clone()));
        self.all.extend(news.iter().cloned());
        Ok(news)
    }
}

/// A stack of which nothing is left.
fn gone(id: &str) -> Described {
    Described {
        id: id.to_owned(),
        status: aws_sdk_cloudformation::types::StackStatus::DeleteComplete,
        reason: None,
        changed: None,
        parameters: Default::default(),
        outputs: Default::default(),
    }
}

impl Stack {
    /// Events of one operation, or of the last, newest first, up to one that was seen.
    async fn events_of(&self, id: &str, token: Option<&str>, seen: &HashSet<String>) -> Result<Vec<Event>, CallFailed> {
        let mut events: Vec<Event> = Vec::new();
        let mut token = token.map(str::to_owned);
        let mut pages = self.client.describe_stack_events().stack_name(id).into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(failed("asking for the stack's events"))?;
            for event in page.stack_events() {
                let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
                let event = Event {
                    id: text(event.event_id()),
                    at: event.timestamp().and_then(moment),
                    resource: text(event.logical_resource_id()),
                    kind: text(event.resource_type()),
                    physical: text(event.physical_resource_id()),
                    status: event.resource_status().map(|s| s.as_str().to_owned()).unwrap_or_default(),
                    reason: event.resource_status_reason().map(str::to_owned),
                    token: event.client_request_token().map(str::to_owned),
                };
                if token.is_none() {
                    token = event.token.clone();
                }
                // Tokens are kept of what people begin; without one, an operation ends where the one before it did.
                let is_older = match (&token, &event.token) {
                    (Some(token), Some(other)) => token != other,
                    _ => events.iter().any(is_begin),
                };
                if seen.contains(&event.id) || is_older || events.len() >= MOST {
                    return Ok(events);
                }
                events.push(event);
            }
        }
        Ok(events)
    }

    /// Every event of the stack's last operation, in the order of time.
    ///
    /// # Errors
    /// Where it can't be asked for.
    pub async fn last_events(&self, id: &str) -> Result<Vec<Event>, CallFailed> {
        let mut events = self.events_of(id, None, &HashSet::new()).await?;
        events.reverse();
        Ok(events)
    }
}

/// Whether an event is the first of an operation.
fn is_begin(event: &Event) -> bool {
    let begun = ["CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "DELETE_IN_PROGRESS", "REVIEW_IN_PROGRESS"];
    event.is_of_stack() && begun.contains(&event.status.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(resource: &str, status: &str, reason: &str) -> Event {
        let kind = if resource == "vitals" { "AWS::CloudFormation::Stack" } else { "AWS::S3::Bucket" };
        Event {
            id: format!("{resource}-{status}"),
            at: None,
            resource: resource.to_owned(),
            kind: kind.to_owned(),
            physical: String::new(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()).filter(|reason| !reason.is_empty()),
            token: None,
        }
    }

    #[test]
    fn the_cause_is_what_failed_first_by_itself() {
        let events = [
            event("vitals", "CREATE_IN_PROGRESS", ""),
            event("A", "CREATE_FAILED", "Resource creation cancelled"),
            event("B", "CREATE_FAILED", "Access denied"),
            event("C", "CREATE_FAILED", "Bucket exists"),
            event("vitals", "ROLLBACK_IN_PROGRESS", "The following resource(s) failed to create: [A, B, C]."),
        ];
        assert_eq!(first_cause(&events).unwrap().resource, "B");
        assert_eq!(first_cause(&events[..2]).unwrap().resource, "A");
        assert_eq!(first_cause(&events[..1]), None);
    }
}
