//! The image of the second pass.

use anyhow::Context;

use super::{
    super::image::{build, push_shown},
    DeployArgs,
};
use crate::aws::{
    image::{Architecture, Auth, Image, Target},
    stack::Described,
};

/// The image that is to be pushed; `None` where one is named that is there. Before anything is made in AWS: a program that
/// can't be read, or that runs in no container, is better told now than after half an hour.
///
/// # Errors
/// Where it can't be built.
pub async fn built(args: &DeployArgs) -> anyhow::Result<Option<Image>> {
    if args.image.is_some() { Ok(None) } else { build(&args.source).await.map(Some) }
}

/// Sees to it that the image is in the stack's repository, `image` or one that is built now; gives the parameters that name
/// it.
///
/// # Errors
/// Where it can't be built or pushed.
pub async fn provide(
    held: &Described,
    args: &DeployArgs,
    image: Option<Image>,
) -> anyhow::Result<Vec<(String, String)>> {
    if let Some(digest) = &args.image {
        return Ok(vec![("ImageDigest".to_owned(), digest.clone())]);
    }
    let repository = held.output("RepositoryUri").context("the stack has no output `RepositoryUri`")?;
    let target: Target = repository.parse().map_err(anyhow::Error::msg)?;
    // Better said before an image is built than after.
    let auth = Auth::to_push(&target.host).await?;
    let image = match image {
        Some(image) => image,
        None => build(&args.source).await?,
    };
    push_shown(&image, &target, auth).await?;
    Ok(named(&image))
}

fn named(image: &Image) -> Vec<(String, String)> {
    let architecture = match image.architecture() {
        Architecture::Amd64 => "X86_64",
        Architecture::Arm64 => "ARM64",
    };
    vec![
        ("ImageDigest".to_owned(), image.digest().to_owned()),
        ("ImageArchitecture".to_owned(), architecture.to_owned()),
    ]
}
