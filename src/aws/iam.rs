//! The few questions to IAM: whether somebody may do what is needed, and the roles that services have in an account.

use serde::Deserialize;

use super::{
    clients::{Access, CallFailed},
    service::Service,
};

const VERSION: &str = "2010-05-08";

/// What whoever deploys must be allowed to do, one action for each service that the stack is made of.
pub const TO_DEPLOY: [&str; 23] = [
    "cloudformation:CreateChangeSet",
    "cloudformation:ExecuteChangeSet",
    "cloudformation:SetStackPolicy",
    "ec2:CreateVpc",
    "iam:CreateRole",
    "iam:PassRole",
    "iot:CreateTopicRule",
    "iot:CreateTopicRuleDestination",
    "iot:CreateKeysAndCertificate",
    "kafka:CreateClusterV2",
    "kafka:GetBootstrapBrokers",
    "kafka-cluster:CreateTopic",
    "kms:CreateKey",
    "kms:CreateGrant",
    "s3:CreateBucket",
    "glue:CreateDatabase",
    "athena:CreateWorkGroup",
    "ecr:PutImage",
    "ecs:CreateService",
    "emr-serverless:CreateApplication",
    "states:CreateStateMachine",
    "scheduler:CreateSchedule",
    "secretsmanager:CreateSecret",
];

/// Services whose first use in an account needs a role of theirs; creating a stack often fails where it is not there.
pub const WITH_ROLES: [&str; 4] = [
    "ecs.amazonaws.com",
    "kafka.amazonaws.com",
    "ops.emr-serverless.amazonaws.com",
    "ecs.application-autoscaling.amazonaws.com",
];

/// Makes the role of a service, if it is not there yet; says whether it was made now.
///
/// # Errors
/// Where IAM refuses for another reason than that it is there.
pub async fn make_service_role(access: &Access, service: &str) -> anyhow::Result<bool> {
    #[derive(Deserialize)]
    struct Answer {}
    let iam = Service::global(access, "iam").await;
    let doing = format!("making the role of {service}");
    let made: anyhow::Result<Answer> =
        iam.query(&doing, VERSION, "CreateServiceLinkedRole", &[("AWSServiceName", service)]).await;
    match made {
        Ok(Answer {}) => Ok(true),
        Err(error) => match error.downcast_ref::<CallFailed>() {
            // IAM's own words where the name is taken, and the code that others use for it.
            Some(refused) if refused.message.contains("has been taken") => Ok(false),
            Some(refused) if refused.code.as_deref() == Some("EntityAlreadyExists") => Ok(false),
            _ => Err(error),
        },
    }
}

/// Of these actions, those that a principal may not do; `None` where it may not ask.
///
/// `principal` is the ARN of a user or a role; that of a session is taken for its role's.
///
/// # Errors
/// Where IAM can't be asked.
pub async fn denied(access: &Access, principal: &str, actions: &[&str]) -> anyhow::Result<Option<Vec<String>>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        simulate_principal_policy_result: Evaluated,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Evaluated {
        evaluation_results: Members,
    }
    #[derive(Deserialize)]
    struct Members {
        #[serde(default)]
        member: Vec<Decision>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Decision {
        eval_action_name: String,
        eval_decision: String,
    }
    let iam = Service::global(access, "iam").await;
    let names: Vec<String> = (1..=actions.len()).map(|n| format!("ActionNames.member.{n}")).collect();
    let source = role_of(principal);
    let mut fields = vec![("PolicySourceArn", source.as_str()), ("MaxItems", "1000")];
    fields.extend(names.iter().map(String::as_str).zip(actions.iter().copied()));
    let answer: anyhow::Result<Answer> =
        iam.query("asking for permissions", VERSION, "SimulatePrincipalPolicy", &fields).await;
    match answer {
        Ok(answer) => {
            let decisions = answer.simulate_principal_policy_result.evaluation_results.member;
            let denied = decisions.into_iter().filter(|decision| decision.eval_decision != "allowed");
            Ok(Some(denied.map(|decision| decision.eval_action_name).collect()))
        }
        Err(error) => match error.downcast_ref::<CallFailed>() {
            Some(refused) if refused.is_denied() || refused.code.as_deref() == Some("NoSuchEntity") => Ok(None),
            _ => Err(error),
        },
    }
}

/// The ARN of the role whose session an ARN names; any other stays as it is.
fn role_of(principal: &str) -> String {
    let session = principal.split_once(":sts::").and_then(|(start, rest)| {
        let (account, role) = rest.split_once(":assumed-role/")?;
        let role = role.split('/').next()?;
        Some(format!("{start}:iam::{account}:role/{role}"))
    });
    session.unwrap_or_else(|| principal.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_judged_by_its_role() {
        let session = "arn:aws:sts::123456789012:assumed-role/Admin/me@example.org";
        assert_eq!(role_of(session), "arn:aws:iam::123456789012:role/Admin");
        assert_eq!(role_of("arn:aws:iam::123456789012:user/me"), "arn:aws:iam::123456789012:user/me");
    }
}
