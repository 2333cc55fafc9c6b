//! Taking devices back: what they could do ends first, then certificate, thing and key go.

use std::{collections::BTreeSet, time::Duration};

use futures::StreamExt;
use tokio::sync::watch;

use super::{
    AT_ONCE, Registry,
    folder::{Device, Folder, FolderError, Index},
    id_in, is_gone, unless_gone,
};
use crate::aws::clients::{CallFailed, failed};

/// IoT detaches in the background, and until it has, refuses to delete: how often it is asked again, and after how long.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);

/// What came of `devices rm`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Removed {
    pub removed: Vec<String>,
    /// Names of no device of the fleet, here or in AWS.
    pub unknown: Vec<String>,
    /// Whether it was stopped before the end.
    pub interrupted: bool,
}

impl Registry {
    /// Every device that there is to remove: things of the fleet, and those of which something is in the folder.
    ///
    /// # Errors
    /// Where IoT can't be asked, or the folder can't be read.
    pub async fn removable(&self, folder: &Folder) -> anyhow::Result<BTreeSet<String>> {
        let mut names = self.names().await?;
        names.extend(self.in_folder(folder)?.into_iter().map(|device| device.thing));
        Ok(names)
    }

    /// The folder's index, where it is of this fleet; others' devices are none of its business.
    fn own_index(&self, folder: &Folder) -> Result<Option<Index>, FolderError> {
        Ok(folder.index()?.filter(|index| index.stack == self.fleet.stack && index.region == self.fleet.region))
    }

    /// The fleet's devices of which something is in the folder.
    fn in_folder(&self, folder: &Folder) -> Result<Vec<Device>, FolderError> {
        let mut devices: Vec<Device> = folder.unfinished()?.issued.into_values().collect();
        devices.extend(self.own_index(folder)?.map(|index| index.devices).unwrap_or_default());
        Ok(devices)
    }

    /// Removes devices of the fleet. `told` hears how many are done.
    ///
    /// # Errors
    /// Where AWS refuses; what is done is done, and the next run goes on.
    pub async fn remove(
        &self,
        folder: &Folder,
        names: &[String],
        stop: watch::Receiver<bool>,
        mut told: impl FnMut(usize),
    ) -> anyhow::Result<Removed> {
        let (things, held) = (self.names().await?, self.in_folder(folder)?);
        let of = |name: &str| held.iter().filter(|device| device.thing == name).cloned().collect::<Vec<_>>();
        let is_known = |name: &String| things.contains(name) || held.iter().any(|device| device.thing == *name);
        let (known, unknown): (Vec<String>, Vec<String>) = names.iter().cloned().partition(is_known);
        let mut result = Removed { unknown, ..Removed::default() };
        let mut failure = None;
        {
            let stopped = |_: &&String| std::future::ready(!*stop.borrow());
            let work = futures::stream::iter(&known).take_while(stopped).map(|name| {
                let (held, is_thing) = (of(name), things.contains(name));
                async move { (name, self.remove_one(name, is_thing, &held).await, held) }
            });
            let mut work = work.buffer_unordered(AT_ONCE);
            while let Some((name, outcome, held)) = work.next().await {
                let gone = outcome.map_err(anyhow::Error::from).and_then(|()| {
                    held.iter().try_for_each(|device| folder.forget(device)).map_err(anyhow::Error::from)
                });
                match gone {
                    Ok(()) => result.removed.push(name.clone()),
                    Err(error) => {
                        failure.get_or_insert(error);
                    }
                }
                told(result.removed.len());
            }
        }
        result.interrupted = failure.is_none() && result.removed.len() < known.len();
        if let Some(mut index) = self.own_index(folder)? {
            index.devices.retain(|device| !result.removed.contains(&device.thing));
            folder.write_index(&index)?;
        }
        match failure {
            Some(error) => {
                Err(error.context(format!("{} of {} devices are removed", result.removed.len(), known.len())))
            }
            None => Ok(result),
        }
    }

    async fn remove_one(&self, name: &str, is_thing: bool, held: &[Device]) -> Result<(), CallFailed> {
        self.pace.turn().await;
        let mut arns: BTreeSet<String> = held.iter().filter_map(|device| device.certificate_arn.clone()).collect();
        if is_thing {
            arns.extend(self.certificates_of(name).await?);
        }
        for arn in &arns {
            let others = self.things_of(arn).await?.iter().any(|thing| thing != name);
            if !others {
                self.revoke(arn).await?;
                for policy in self.policies_of(arn).await? {
                    let call = self.iot.detach_policy().policy_name(policy).target(arn);
                    unless_gone(call.send().await.map_err(failed(format!("taking the policy of {name}"))))?;
                }
            }
            if is_thing {
                let call = self.iot.detach_thing_principal().thing_name(name).principal(arn);
                unless_gone(call.send().await.map_err(failed(format!("taking the certificate of {name}"))))?;
            }
            if !others {
                self.delete_certificate(arn).await?;
            }
        }
        if is_thing { self.delete_thing(name).await } else { Ok(()) }
    }

    /// Deletes a certificate that is not active and, soon, for no thing.
    pub(super) async fn delete_certificate(&self, arn: &str) -> Result<(), CallFailed> {
        self.patiently("DeleteConflictException", || async {
            let call = self.iot.delete_certificate().certificate_id(id_in(arn));
            call.send().await.map_err(failed("deleting a certificate")).map(drop)
        })
        .await
    }

    async fn delete_thing(&self, name: &str) -> Result<(), CallFailed> {
        self.patiently("InvalidRequestException", || async {
            let call = self.iot.delete_thing().thing_name(name);
            call.send().await.map_err(failed(format!("deleting {name}"))).map(drop)
        })
        .await
    }

    /// Asks again while IoT says that something is still attached.
    async fn patiently<F>(&self, attached: &str, call: impl Fn() -> F) -> Result<(), CallFailed>
    where
        F: Future<Output = Result<(), CallFailed>>,
    {
        for _ in 1..TRIES {
            match call().await {
                Err(refused) if refused.code.as_deref() == Some(attached) => tokio::time::sleep(PAUSE).await,
                Err(refused) if is_gone(&refused) => return Ok(()),
                other => return other,
            }
        }
        unless_gone(call().await)
    }
}
