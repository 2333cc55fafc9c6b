//! The devices of a fleet with the identities that `vitals devices add` made.

use std::{collections::HashMap, path::Path};

use super::Exit;
use crate::{
    aws::devices::folder::{Device, FolderError, Index},
    simulate::{Broker, Things, Tls, device_id},
};

/// device_1 to device_N from a folder; `stack` is the one that is meant, if one is.
///
/// # Errors
/// Where the folder can't be read, is of another stack, or has fewer devices, with what makes them.
pub fn things(folder: &Path, devices: u32, stack: Option<&str>) -> anyhow::Result<Things> {
    let index = match Index::read(folder) {
        Err(error @ FolderError::NotThere { .. }) => {
            return Err(Exit::not_found(format!("{error}\nhint: `vitals devices add {devices}` makes them")));
        }
        other => other?,
    };
    if let Some(stack) = stack.filter(|stack| *stack != index.stack) {
        anyhow::bail!(
            "`{}` holds devices of stack {}, not of {stack}\nhint: `--identities` names another folder, `--stack` another stack",
            folder.display(),
            index.stack
        );
    }
    let held: HashMap<&str, &Device> = index.devices.iter().map(|device| (device.thing.as_str(), device)).collect();
    let mut certificates = Vec::new();
    for id in (0..devices).map(device_id) {
        let Some(device) = held.get(id.as_str()) else {
            return Err(Exit::not_found(format!(
                "`{}` has no {id}, and {devices} devices are to publish\nhint: `vitals devices add {devices}` makes those that \
                 are missing",
                folder.display()
            )));
        };
        certificates.push((folder.join(&device.certificate), folder.join(&device.key)));
    }
    let tls = Tls { ca: Some(folder.join(&index.ca)), certificate: None };
    Ok(Things {
        broker: Broker { host: index.endpoint, port: index.port, tls: Some(tls) },
        rule: index.rule,
        certificates,
    })
}
