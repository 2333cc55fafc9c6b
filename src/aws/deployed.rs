//! What a deployed stack gives to those who ask its lake.

use std::collections::BTreeMap;

use anyhow::Context;
use aws_config::Region;
use aws_sdk_cloudformation::error::ProvideErrorMetadata;

use crate::lake::Place;

/// Where a stack's lake is, and how it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployed {
    /// The region of everything.
    pub region: String,
    /// The work group of Athena.
    pub work_group: String,
    /// The database in Glue's catalogue.
    pub database: String,
    /// The lake, in S3.
    pub lake: Place,
}

/// There is no such stack.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no stack `{stack}` in {region}\nhint: `vitals deploy` makes it; `--stack` and `--region` name another"
)]
pub struct NoStack {
    stack: String,
    region: String,
}

/// The stack's outputs that name its parts, and the variables that take their place: for lakes that no stack made.
const WORK_GROUP: (&str, &str) = ("WorkGroupName", "VITALS_WORK_GROUP");
const DATABASE: (&str, &str) = ("GlueDatabase", "VITALS_DATABASE");
const LAKE: &str = "LakeUri";

impl Deployed {
    /// What is known of a stack; a `lake` that is named goes before the stack's own. The stack is only asked for what is not
    /// known otherwise.
    ///
    /// # Errors
    /// Where there is no such stack, or it lacks any of it.
    pub async fn of(stack: &str, region: Option<&str>, lake: Option<&Place>) -> anyhow::Result<Deployed> {
        let region = super::region_or(region).await?;
        super::stay_in(&region);
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let known = (set(WORK_GROUP.1), set(DATABASE.1), lake);
        if let (Some(work_group), Some(database), Some(lake)) = known {
            return Ok(Deployed { region, work_group, database, lake: lake.clone() });
        }
        let outputs = outputs(stack, &region).await?;
        let output = |name: &str| {
            let missing =
                || format!("the stack `{stack}` has no output `{name}`\nhint: `vitals deploy` brings it up to date");
            outputs.get(name).cloned().with_context(missing)
        };
        let lake = match lake {
            Some(lake) => lake.clone(),
            None => output(LAKE)?.parse().with_context(|| format!("the output `{LAKE}` of the stack `{stack}`"))?,
        };
        let work_group = known.0.map_or_else(|| output(WORK_GROUP.0), Ok)?;
        let database = known.1.map_or_else(|| output(DATABASE.0), Ok)?;
        Ok(Deployed { region, work_group, database, lake })
    }
}

/// The outputs of a stack.
async fn outputs(stack: &str, region: &str) -> anyhow::Result<BTreeMap<String, String>> {
    super::credentials().await?;
    let config = aws_sdk_cloudformation::config::Builder::from(&super::config().await);
    let client = aws_sdk_cloudformation::Client::from_conf(config.region(Region::new(region.to_owned())).build());
    let described = client.describe_stacks().stack_name(stack).send().await.map_err(|error| {
        let service = error.as_service_error();
        if service.and_then(|said| said.message()).is_some_and(|message| message.contains("does not exist")) {
            return NoStack { stack: stack.to_owned(), region: region.to_owned() }.into();
        }
        anyhow::Error::from(error).context(format!("asking for the stack `{stack}` in {region}"))
    })?;
    let outputs = described.stacks.into_iter().flatten().flat_map(|stack| stack.outputs.unwrap_or_default());
    Ok(outputs.filter_map(|output| output.output_key.zip(output.output_value)).collect())
}
