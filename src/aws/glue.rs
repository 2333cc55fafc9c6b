//! Glue's catalogue, as far as it is asked here.

use serde_json::Value;

use super::{clients::Access, service::Service};

/// Glue in a region.
pub struct Glue(Service);

impl Glue {
    /// # Errors
    /// Where there are no credentials.
    pub async fn in_region(region: &str) -> anyhow::Result<Glue> {
        Ok(Glue(Service::regional(&Access::new(Some(region)).await?, "glue").await))
    }

    /// Glue on a server of a test.
    #[cfg(test)]
    pub(crate) fn of_test(endpoint: &str) -> Glue {
        Glue(Service::of_test("glue", endpoint))
    }

    /// Asks for an operation, such as `GetTable`.
    ///
    /// # Errors
    /// [`super::clients::CallFailed`] where Glue refuses; where it does not answer.
    pub async fn call(&self, operation: &str, body: &Value) -> anyhow::Result<Value> {
        self.0.json(&format!("asking Glue for {operation}"), &format!("AWSGlue.{operation}"), body).await
    }
}
