//! What a deployment does once the stack stands: waits for IoT's way to the brokers, writes the configuration, says what
//! can be done now.

use std::{path::Path, time::Duration};

use anyhow::Context;
use aws_sdk_iot::types::TopicRuleDestinationStatus;
use toml_edit::{DocumentMut, Item, Value};

use super::{
    super::{config::file::DEFAULT_FILE, say, tell, write_whole},
    DeployArgs,
};
use crate::{
    aws::{
        catalogue::Catalogue,
        clients::{Access, failed},
        glue::Glue,
        stack::Described,
    },
    lake::{Place, Store},
};

/// How long between two questions for the destination, and how often it is asked.
const PAUSE: Duration = Duration::from_secs(10);
const MOST: u32 = 90;

/// Everything after the second pass.
pub async fn finish(access: &Access, held: &Described, args: &DeployArgs) -> anyhow::Result<()> {
    if let Some(destination) = held.output("DestinationArn") {
        wait_for_destination(access, destination).await?;
    }
    show_lake(access, held).await?;
    if !args.no_config {
        let path = Path::new(DEFAULT_FILE);
        let region = access.region();
        let changed = remember(path, &[("target", "aws"), ("stack", &args.stack.stack), ("region", region)])?;
        if changed {
            tell(&format!(
                "wrote target, stack and region to {DEFAULT_FILE}: commands in this folder now mean the stack"
            ));
        }
    }
    for (name, value) in &held.outputs {
        say(&format!("{name:<26}{value}"))?;
    }
    tell("next: vitals devices add 100; vitals simulate --devices 100; vitals train; vitals query outliers");
    Ok(())
}

/// Lets Glue's catalogue show what is in force in the lake: partitions and views, which the template can't make.
async fn show_lake(access: &Access, held: &Described) -> anyhow::Result<()> {
    let (Some(lake), Some(database)) = (held.output("LakeUri"), held.output("GlueDatabase")) else { return Ok(()) };
    let place: Place = lake.parse()?;
    let store = Store::at(&place).await?;
    let glue = Glue::in_region(access.region()).await?;
    let shown =
        Catalogue::new(&glue, database, &store, &place).put_in_force().await.context("making the lake's views")?;
    tell(&format!("the catalogue's database `{database}` shows state {} of {lake}", shown.n));
    Ok(())
}

/// A destination is in progress for minutes, and until it is enabled the rule's messages fail.
async fn wait_for_destination(access: &Access, arn: &str) -> anyhow::Result<()> {
    let client = aws_sdk_iot::Client::new(access.config());
    for left in (0..MOST).rev() {
        let answer = client.get_topic_rule_destination().arn(arn).send().await;
        let answer = answer.map_err(failed("asking for the destination"))?;
        let destination = answer.topic_rule_destination().context("IoT does not know its destination")?;
        let reason = destination.status_reason().unwrap_or("no reason is given");
        match destination.status() {
            Some(TopicRuleDestinationStatus::Enabled) => return Ok(()),
            Some(TopicRuleDestinationStatus::Error | TopicRuleDestinationStatus::Disabled) => {
                anyhow::bail!(
                    "IoT's way to the brokers failed: {reason}\nhint: `vitals doctor` looks at its role and network"
                )
            }
            _ if left % 6 == 0 => tell("waiting for IoT's way to the brokers, which takes some minutes"),
            _ => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
    anyhow::bail!(
        "IoT's way to the brokers is not ready after a quarter of an hour\nhint: `vitals status` shows it; run the command again"
    )
}

/// Sets keys at the top of a configuration, whatever else is in it; says whether anything changed.
fn remember(path: &Path, values: &[(&str, &str)]) -> anyhow::Result<bool> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(e).with_context(|| format!("reading `{}`", path.display())),
    };
    let mut document: DocumentMut = text.parse().with_context(|| format!("reading `{}`", path.display()))?;
    for (name, value) in values {
        match document.get_mut(name).and_then(Item::as_value_mut) {
            // With the remark that stands behind it.
            Some(old) => {
                let decor = old.decor().clone();
                *old = Value::from(*value);
                *old.decor_mut() = decor;
            }
            None => document[name] = toml_edit::value(*value),
        }
    }
    let new = document.to_string();
    if new == text {
        return Ok(false);
    }
    write_whole(path, |file| Ok(file.write_all(new.as_bytes())?))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_a_configuration_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vitals.toml");
        assert!(remember(&path, &[("target", "aws")]).unwrap());
        std::fs::write(&path, "# mine\nlake = \"a\"\nstack = \"old\" # this\n\n[up]\nwindow = \"30s\"\n").unwrap();
        assert!(remember(&path, &[("target", "aws"), ("stack", "new")]).unwrap());
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "# mine\nlake = \"a\"\nstack = \"new\" # this\ntarget = \"aws\"\n\n[up]\nwindow = \"30s\"\n");
        assert!(!remember(&path, &[("target", "aws"), ("stack", "new")]).unwrap());
    }
}
