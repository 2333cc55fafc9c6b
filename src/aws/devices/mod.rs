//! Identities of devices: things of AWS IoT Core with a certificate each, and the folder that holds their keys.
//!
//! | part | what it does |
//! |---|---|
//! | [`folder`] | the folder: keys, certificates, an index that the simulator reads, a journal of work that is under way |
//! | [`add`] | makes things and certificates, and goes on where a run was interrupted |
//! | [`remove`] | takes them back: revoked first, then deleted |
//!
//! A key exists once, in the answer to the call that makes it. So it is on disk, whole and synced, before its certificate
//! is allowed anything. A certificate whose answer never arrived has neither policy nor thing, and the journal tells when
//! it must have been made: the next run deletes it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::AtomicU32,
    time::Duration,
};

use aws_sdk_iot::Client;
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until},
};

use super::{
    clients::{Access, CallFailed, failed},
    stack::Described,
};

pub mod add;
pub mod folder;
pub mod remove;

/// What AWS takes of the slowest of the calls, `CreateKeysAndCertificate`, and of several others.
const CALLS_PER_S: u32 = 10;

/// Devices that are worked on at once: as many as fit into the time that some calls take at that rate.
const AT_ONCE: usize = 8;

/// What the devices of a stack have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    /// The stack's name.
    pub stack: String,
    pub region: String,
    pub thing_type: String,
    /// The policy of each certificate.
    pub policy: String,
    /// The rule to which devices publish.
    pub rule: String,
}

impl Fleet {
    /// The fleet of a stack; the error is the output that is missing.
    pub fn of(access: &Access, name: &str, stack: &Described) -> Result<Fleet, &'static str> {
        let output = |name: &'static str| stack.output(name).map(str::to_owned).ok_or(name);
        Ok(Fleet {
            stack: name.to_owned(),
            region: access.region().to_owned(),
            thing_type: output("ThingTypeName")?,
            policy: output("ThingPolicyName")?,
            rule: output("RuleName")?,
        })
    }
}

/// IoT Core's registry, as far as a fleet is concerned.
#[derive(Debug)]
pub struct Registry {
    iot: Client,
    fleet: Fleet,
    pace: Pace,
    /// How often a certificate was asked for and no answer came, so that there may be one whose key is lost.
    lost_answers: AtomicU32,
}

/// A certificate as IoT has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Certificate {
    pub arn: String,
    /// Such as `ACTIVE`; `None` where it is gone.
    pub status: Option<String>,
}

/// A thing of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Thing {
    pub name: String,
    pub certificates: Vec<Certificate>,
}

impl Registry {
    pub fn new(access: &Access, fleet: Fleet) -> Registry {
        Registry {
            iot: Client::new(access.config()),
            fleet,
            pace: Pace::new(CALLS_PER_S),
            lost_answers: AtomicU32::new(0),
        }
    }

    /// The host that devices of this account and region connect to.
    ///
    /// # Errors
    /// Where IoT can't be asked.
    pub async fn endpoint(&self) -> Result<String, CallFailed> {
        let doing = "asking for IoT's endpoint";
        let answer = self.iot.describe_endpoint().endpoint_type("iot:Data-ATS").send().await.map_err(failed(doing))?;
        let none = || CallFailed { doing: doing.to_owned(), code: None, message: "there is none".to_owned() };
        answer.endpoint_address().map(str::to_owned).ok_or_else(none)
    }

    /// The names of the fleet's things.
    ///
    /// # Errors
    /// Where IoT can't be asked.
    pub async fn names(&self) -> Result<BTreeSet<String>, CallFailed> {
        let mut names = BTreeSet::new();
        let mut pages = self.iot.list_things().thing_type_name(&self.fleet.thing_type).into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(failed("listing things"))?;
            names.extend(page.things().iter().filter_map(|thing| thing.thing_name()).map(str::to_owned));
        }
        Ok(names)
    }

    /// The fleet's things with their certificates; `told` hears how many are done, of how many.
    ///
    /// # Errors
    /// Where IoT can't be asked.
    pub async fn things(&self, mut told: impl FnMut(u64, u64)) -> Result<Vec<Thing>, CallFailed> {
        let names = self.names().await?;
        let total = names.len() as u64;
        let status = if names.is_empty() { BTreeMap::new() } else { self.certificates().await? };
        let things = futures::stream::iter(names).map(|name| async {
            self.pace.turn().await;
            let certificates = self.certificates_of(&name).await?.into_iter();
            let certificates = certificates.map(|arn| Certificate { status: status.get(&arn).cloned(), arn }).collect();
            Ok(Thing { name, certificates })
        });
        let things = things.buffered(AT_ONCE).enumerate().map(|(done, thing)| {
            told(done as u64 + 1, total);
            thing
        });
        things.try_collect().await
    }

    /// The status of every certificate of the account, by ARN.
    async fn certificates(&self) -> Result<BTreeMap<String, String>, CallFailed> {
        let mut found = BTreeMap::new();
        let mut pages = self.iot.list_certificates().page_size(250).into_paginator().send();
        while let Some(page) = pages.next().await {
            for one in page.map_err(failed("listing certificates"))?.certificates() {
                if let (Some(arn), Some(status)) = (one.certificate_arn(), one.status()) {
                    found.insert(arn.to_owned(), status.as_str().to_owned());
                }
            }
        }
        Ok(found)
    }

    /// The ARNs of a thing's certificates; none where it is not there.
    async fn certificates_of(&self, name: &str) -> Result<Vec<String>, CallFailed> {
        let mut found = Vec::new();
        let mut pages = self.iot.list_thing_principals().thing_name(name).into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = match page.map_err(failed(format!("asking for the certificates of {name}"))) {
                Err(refused) if is_gone(&refused) => return Ok(Vec::new()),
                page => page?,
            };
            found.extend(page.principals().iter().filter(|arn| arn.contains(":cert/")).cloned());
        }
        Ok(found)
    }

    /// The things that a certificate is for.
    async fn things_of(&self, arn: &str) -> Result<Vec<String>, CallFailed> {
        let mut found = Vec::new();
        let mut pages = self.iot.list_principal_things().principal(arn).into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = match page.map_err(failed("asking for the things of a certificate")) {
                Err(refused) if is_gone(&refused) => return Ok(Vec::new()),
                page => page?,
            };
            found.extend(page.things().iter().cloned());
        }
        Ok(found)
    }

    /// The policies that a certificate has.
    async fn policies_of(&self, arn: &str) -> Result<Vec<String>, CallFailed> {
        let mut found = Vec::new();
        let mut pages = self.iot.list_attached_policies().target(arn).into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = match page.map_err(failed("asking for the policies of a certificate")) {
                Err(refused) if is_gone(&refused) => return Ok(Vec::new()),
                page => page?,
            };
            found.extend(page.policies().iter().filter_map(|policy| policy.policy_name()).map(str::to_owned));
        }
        Ok(found)
    }
}

/// Whether what was asked about is not there (any more).
fn is_gone(refused: &CallFailed) -> bool {
    refused.code.as_deref() == Some("ResourceNotFoundException")
}

/// Waits for what may be done already, as after an interrupted run.
fn unless_gone<T>(result: Result<T, CallFailed>) -> Result<(), CallFailed> {
    match result {
        Err(refused) if is_gone(&refused) => Ok(()),
        other => other.map(drop),
    }
}

/// The id of a certificate in its ARN.
fn id_in(arn: &str) -> &str {
    arn.rsplit_once('/').map_or(arn, |(_, id)| id)
}

/// Lets so many a second pass.
#[derive(Debug)]
struct Pace {
    next: Mutex<Instant>,
    every: Duration,
}

impl Pace {
    fn new(per_s: u32) -> Pace {
        Pace { next: Mutex::new(Instant::now()), every: Duration::from_secs(1) / per_s }
    }

    async fn turn(&self) {
        let turn = {
            let mut next = self.next.lock().await;
            let turn = (*next).max(Instant::now());
            *next = turn + self.every;
            turn
        };
        sleep_until(turn).await;
    }
}
