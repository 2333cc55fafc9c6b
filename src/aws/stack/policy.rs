//! The stack's own guard: a policy that lets no update replace or delete what holds data, whoever asks for it.

use serde_json::json;

use super::{Stack, Template};
use crate::aws::clients::{CallFailed, failed};

impl Stack {
    /// Protects all that the template retains.
    ///
    /// # Errors
    /// Where CloudFormation refuses.
    pub async fn protect(&self, template: &Template) -> Result<(), CallFailed> {
        self.set_policy(&policy(template, &[])).await
    }

    /// Protects it but for the resources that are named; a stack that is not there yet has nothing to protect.
    ///
    /// # Errors
    /// Where CloudFormation refuses.
    pub async fn allow(&self, template: &Template, named: &[String]) -> Result<(), CallFailed> {
        let is_there = self.describe().await?.is_some_and(|held| held.standing() == super::Standing::Ready);
        if is_there && !named.is_empty() { self.set_policy(&policy(template, named)).await } else { Ok(()) }
    }

    async fn set_policy(&self, body: &str) -> Result<(), CallFailed> {
        let call = self.client.set_stack_policy().stack_name(&self.name).stack_policy_body(body);
        call.send().await.map_err(failed("protecting the stack")).map(drop)
    }
}

/// All may be done, but for replacing and deleting what is retained and not named.
fn policy(template: &Template, named: &[String]) -> String {
    let retained = template.resources().into_iter().filter(|(id, resource)| resource.retained && !named.contains(id));
    let protected: Vec<String> = retained.map(|(id, _)| format!("LogicalResourceId/{id}")).collect();
    let mut statements = vec![json!({ "Effect": "Allow", "Action": "Update:*", "Principal": "*", "Resource": "*" })];
    if !protected.is_empty() {
        let denied = ["Update:Replace", "Update:Delete"];
        statements.push(json!({ "Effect": "Deny", "Action": denied, "Principal": "*", "Resource": protected }));
    }
    json!({ "Statement": statements }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_retained_can_only_be_replaced_by_name() {
        let template = Template::embedded().unwrap();
        let retained: Vec<String> =
            template.resources().into_iter().filter(|(_, r)| r.retained).map(|(id, _)| id).collect();
        assert!(!retained.is_empty());
        let all = policy(&template, &[]);
        assert!(retained.iter().all(|id| all.contains(&format!("LogicalResourceId/{id}\""))));
        let but_one = policy(&template, &retained[..1]);
        assert!(!but_one.contains(&format!("LogicalResourceId/{}\"", retained[0])));
        // The most that CloudFormation takes.
        assert!(all.len() <= 16_384);
    }
}
