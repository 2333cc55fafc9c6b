//! Making devices: a thing, a key, a certificate, the policy, in this order for each; several at once, none doubled.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use anyhow::Context;
use aws_sdk_iot::{config::retry::RetryConfig, operation::create_keys_and_certificate::CreateKeysAndCertificateOutput};
use futures::StreamExt;
use tokio::sync::watch;

use super::{
    AT_ONCE, Registry,
    folder::{Device, Folder, Index, Unfinished},
    id_in, unless_gone,
};
use crate::{
    aws::clients::{CallFailed, failed},
    lake::now_ms,
};

/// How far apart the clocks of AWS and of this machine may be, together with how long the answer to a call may take, when
/// certificates of an interrupted run are looked for.
const AROUND_MS: i64 = 5 * 60 * 1000;

/// How often a certificate is asked for, and the pause after the first time; doubled after each.
const TRIES: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(300);

/// What came of `devices add`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Added {
    /// Devices that are new, those included that an interrupted run had begun.
    pub made: Vec<String>,
    /// Devices that were there already, with their keys.
    pub there: Vec<String>,
    /// Things that are there with a certificate whose key is not in the folder.
    pub elsewhere: Vec<String>,
    /// Certificates of an interrupted run that were deleted, as their keys are lost.
    pub deleted: usize,
    /// Whether it was stopped before the end.
    pub interrupted: bool,
}

enum Outcome {
    Made(Device),
    There,
    Elsewhere,
}

/// What is known before devices are made.
struct Known {
    index: Index,
    /// Things of the fleet in AWS.
    things: BTreeSet<String>,
    left: Unfinished,
}

impl Registry {
    /// Makes devices of these names; those that are there stay as they are. When it is stopped or fails, what is done is in
    /// the folder, and the next run goes on. `told` hears how many are done.
    ///
    /// # Errors
    /// Where AWS refuses, or a file can't be written.
    pub async fn add(
        &self,
        folder: &Folder,
        names: &[String],
        stop: watch::Receiver<bool>,
        mut told: impl FnMut(usize),
    ) -> anyhow::Result<Added> {
        let mut known = self.known(folder).await?;
        let mut added = Added { deleted: self.delete_lost(&known.left, &known.index).await?, ..Added::default() };
        // Those that an interrupted run had begun are ended, whether or not they are named again.
        let begun = known.left.issued.values().filter(|device| !names.contains(&device.thing) && folder.has(device));
        let names: Vec<String> = names.iter().cloned().chain(begun.map(|device| device.thing.clone())).collect();

        let broken = AtomicBool::new(false);
        let going_on = |_: &&String| std::future::ready(!broken.load(Relaxed) && !*stop.borrow());
        let (mut devices, mut failure, mut done) = (Vec::new(), None, 0);
        {
            let known = &known;
            let work = futures::stream::iter(&names).take_while(going_on);
            let mut work =
                work.map(|name| async move { (name, self.one(folder, known, name).await) }).buffer_unordered(AT_ONCE);
            while let Some((name, outcome)) = work.next().await {
                match outcome {
                    Ok(Outcome::Made(device)) => devices.push(device),
                    Ok(Outcome::There) => added.there.push(name.clone()),
                    Ok(Outcome::Elsewhere) => added.elsewhere.push(name.clone()),
                    Err(error) => {
                        // Those under way come to their end; no more are begun.
                        broken.store(true, Relaxed);
                        failure.get_or_insert(error);
                    }
                }
                done += 1;
                told(done);
            }
        }
        added.interrupted = done < names.len();
        added.made = devices.iter().map(|device| device.thing.clone()).collect();
        for device in devices {
            known.index.devices.retain(|old| old.thing != device.thing);
            known.index.devices.push(device);
        }
        known.index.devices.sort_by_cached_key(|device| natural(&device.thing));
        folder.write_index(&known.index)?;
        match failure {
            Some(error) => {
                let good = added.made.len() + added.there.len();
                Err(error.context(format!("{good} of {} devices are there; the same command goes on", names.len())))
            }
            None => {
                if self.lost_answers.load(Relaxed) > 0 {
                    added.deleted += self.delete_lost(&folder.unfinished()?, &known.index).await?;
                }
                folder.finished()?;
                for names in [&mut added.made, &mut added.there, &mut added.elsewhere] {
                    names.sort_by_cached_key(|name| natural(name));
                }
                Ok(added)
            }
        }
    }

    async fn known(&self, folder: &Folder) -> anyhow::Result<Known> {
        let endpoint = self.endpoint().await?;
        let fleet = &self.fleet;
        let fresh = Folder::new_index(&fleet.stack, &fleet.region, &endpoint, &fleet.rule);
        let index = match folder.index()? {
            Some(held) => {
                let is_ours = (&held.stack, &held.region) == (&fleet.stack, &fleet.region);
                anyhow::ensure!(
                    is_ours,
                    "`{}` holds devices of stack {} in {}, not of {} in {}\nhint: `--identities` names another folder",
                    folder.path().display(),
                    held.stack,
                    held.region,
                    fleet.stack,
                    fleet.region
                );
                Index { devices: held.devices, port: held.port, ..fresh }
            }
            None => fresh,
        };
        Ok(Known { index, things: self.names().await?, left: folder.unfinished()? })
    }

    /// Deletes certificates that were asked for and whose answer never arrived: they were made when the journal says, and
    /// nobody gave them a policy or a thing.
    async fn delete_lost(&self, left: &Unfinished, index: &Index) -> Result<usize, CallFailed> {
        let Some((first_ms, last_ms)) = left.asked_ms else { return Ok(0) };
        let held: BTreeSet<&str> = (left.issued.values())
            .chain(&index.devices)
            .filter_map(|device| device.certificate_arn.as_deref())
            .collect();
        let mut lost = 0;
        for (arn, made_ms) in self.made_certificates().await? {
            let then = (first_ms - AROUND_MS..=last_ms + AROUND_MS).contains(&made_ms);
            if !then || held.contains(arn.as_str()) {
                continue;
            }
            self.pace.turn().await;
            if self.things_of(&arn).await?.is_empty() && self.policies_of(&arn).await?.is_empty() {
                self.revoke(&arn).await?;
                self.delete_certificate(&arn).await?;
                lost += 1;
            }
        }
        Ok(lost)
    }

    /// Every certificate of the account and when it was made, milliseconds since 1970 UTC.
    async fn made_certificates(&self) -> Result<Vec<(String, i64)>, CallFailed> {
        let mut found = Vec::new();
        let mut pages = self.iot.list_certificates().page_size(250).into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(failed("listing certificates"))?;
            found.extend(page.certificates().iter().filter_map(|one| {
                let made_ms = one.creation_date()?.to_millis().ok()?;
                Some((one.certificate_arn()?.to_owned(), made_ms))
            }));
        }
        Ok(found)
    }

    /// One device, from wherever it stands.
    async fn one(&self, folder: &Folder, known: &Known, name: &str) -> anyhow::Result<Outcome> {
        let exists = known.things.contains(name);
        let held = known.index.devices.iter().find(|device| device.thing == name);
        if exists && held.is_some_and(|device| folder.has(device)) {
            return Ok(Outcome::There);
        }
        self.pace.turn().await;
        let issued = known.left.issued.get(name).filter(|device| folder.has(device));
        if exists && issued.is_none() && !self.certificates_of(name).await?.is_empty() {
            return Ok(Outcome::Elsewhere);
        }
        if !exists {
            self.create_thing(name).await?;
        }
        let device = match issued {
            Some(device) => device.clone(),
            None => self.issue(folder, name).await?,
        };
        let arn = device.certificate_arn.as_deref().context("the certificate has no ARN")?;
        let attach = self.iot.attach_policy().policy_name(&self.fleet.policy).target(arn);
        attach.send().await.map_err(failed(format!("giving {name} its policy")))?;
        let attach = self.iot.attach_thing_principal().thing_name(name).principal(arn);
        attach.send().await.map_err(failed(format!("giving {name} its certificate")))?;
        Ok(Outcome::Made(device))
    }

    async fn create_thing(&self, name: &str) -> anyhow::Result<()> {
        let call = self.iot.create_thing().thing_name(name).thing_type_name(&self.fleet.thing_type);
        match call.send().await.map_err(failed(format!("making {name}"))) {
            Err(refused) if refused.code.as_deref() == Some("ResourceAlreadyExistsException") => anyhow::bail!(
                "there is a thing `{name}` in this account that is none of the stack's (its type is not {})\nhint: choose \
                 another name, or remove that thing",
                self.fleet.thing_type
            ),
            other => Ok(other.map(drop)?),
        }
    }

    /// A key and its certificate, kept before anything is allowed to it.
    async fn issue(&self, folder: &Folder, name: &str) -> anyhow::Result<Device> {
        let answer = self.new_certificate(folder, name).await?;
        let key = answer.key_pair().and_then(|pair| pair.private_key());
        let (Some(arn), Some(certificate), Some(key)) = (answer.certificate_arn(), answer.certificate_pem(), key)
        else {
            anyhow::bail!("asking for a certificate for {name}: the answer lacks it");
        };
        let device = Device::new(name, arn);
        folder.keep(&device, certificate, key)?;
        Ok(device)
    }

    /// A new key and certificate. Asked for by hand again, not by the SDK: each time there may be one more certificate, of
    /// which the answer is lost.
    async fn new_certificate(&self, folder: &Folder, name: &str) -> anyhow::Result<CreateKeysAndCertificateOutput> {
        let once = || aws_sdk_iot::config::Builder::new().retry_config(RetryConfig::disabled());
        let mut pause = FIRST_PAUSE;
        for left in (0..TRIES).rev() {
            folder.asks(now_ms())?;
            let call = self.iot.create_keys_and_certificate().set_as_active(true);
            let answer = call.customize().config_override(once()).send().await;
            let refused = match answer.map_err(failed(format!("asking for a certificate for {name}"))) {
                Ok(answer) => return Ok(answer),
                Err(refused) => refused,
            };
            let is_throttled = refused.code.as_deref() == Some("ThrottlingException");
            let may_be_made = match refused.code.as_deref() {
                None => true,
                Some(code) => ["InternalFailureException", "ServiceUnavailableException"].contains(&code),
            };
            if may_be_made {
                self.lost_answers.fetch_add(1, Relaxed);
            }
            if left == 0 || !(is_throttled || may_be_made) {
                return Err(refused.into());
            }
            tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>())).await;
            self.pace.turn().await;
            pause *= 2;
        }
        unreachable!("the last try returns")
    }

    /// Takes all power from a certificate, at once.
    pub(super) async fn revoke(&self, arn: &str) -> Result<(), CallFailed> {
        let inactive = aws_sdk_iot::types::CertificateStatus::Inactive;
        let call = self.iot.update_certificate().certificate_id(id_in(arn)).new_status(inactive);
        unless_gone(call.send().await.map_err(failed("deactivating a certificate")))
    }
}

/// An order in which device_2 comes before device_10.
pub fn natural(name: &str) -> (String, u64, String) {
    let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (stem, number) = name.split_at(name.len() - digits);
    (stem.to_owned(), number.parse().unwrap_or(u64::MAX), name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_are_counted() {
        let mut names = ["device_10", "b", "device_9", "a7", "7", "device_99999999999999999999"];
        names.sort_by_cached_key(|name| natural(name));
        assert_eq!(names, ["7", "a7", "b", "device_9", "device_10", "device_99999999999999999999"]);
    }
}
