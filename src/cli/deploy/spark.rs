//! Spark's jobs, before anything can start them.

use anyhow::Context;
use bytes::Bytes;

use super::{super::tell, DeployArgs};
use crate::{
    aws::{
        spark::{self, FOLDER},
        stack::Described,
    },
    lake::Store,
};

/// Puts jobs and program into the stack's bucket.
///
/// # Errors
/// Where the program can't be read, or the bucket not written.
pub async fn provide(held: &Described, args: &DeployArgs) -> anyhow::Result<()> {
    let Some(bucket) = held.output("ArtifactsBucket") else { return Ok(()) };
    let store = Store::s3(bucket, &FOLDER.into()).await?;
    let written = spark::provide(&store, program(args)?).await?;
    if !written.is_empty() {
        tell(&format!("Spark's jobs in s3://{bucket}/{FOLDER}: put {}", written.join(", ")));
    }
    Ok(())
}

/// The program that the image has. With an image that somebody else pushed, the one that is there stays.
fn program(args: &DeployArgs) -> anyhow::Result<Option<Bytes>> {
    if args.image.is_some() {
        return Ok(None);
    }
    let program = args.source.program()?;
    if let Err(why) = program.runs_alone() {
        // The image has a base that brings what it needs; Spark's machines need not.
        tell(&format!("warning: Spark's jobs get no program: {why}"));
        return Ok(None);
    }
    let bytes = std::fs::read(program.path()).context("reading the program")?;
    Ok(Some(Bytes::from(bytes)))
}
