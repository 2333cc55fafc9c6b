//! What is looked at before anything is made, and what only AWS can tell between the passes.

use anyhow::Context;

use super::super::{in_words, plan, tell};
use crate::aws::{
    clients::{Access, failed},
    doctor::{self, Verdict},
    iam,
    prices::{self, Standing as Parts},
    stack::{Described, Stack, Standing, Template, change::Wanted},
};

/// Says who deploys what where, and finds what would fail half an hour later.
///
/// # Errors
/// Where credentials are no good, or a permission is missing for certain.
pub async fn preflight(
    access: &Access,
    stack: &Stack,
    template: &Template,
    held: Option<&Described>,
) -> anyhow::Result<()> {
    let who = aws_sdk_sts::Client::new(access.config()).get_caller_identity().send().await;
    let who = who.map_err(failed("asking who we are"))?;
    let (account, arn) = (who.account().unwrap_or("?"), who.arn().unwrap_or("?"));
    let state = held.map_or("new".to_owned(), |held| held.status.as_str().to_owned());
    tell(&format!("stack {} ({state}) in {}, account {account}, as {arn}", stack.name, access.region()));
    match iam::denied(access, arn, &iam::TO_DEPLOY).await {
        Ok(Some(denied)) if !denied.is_empty() => anyhow::bail!(
            "{arn} may not do what the stack needs: {}\nhint: an administrator gives these permissions, or deploys",
            denied.join(", ")
        ),
        Ok(Some(_)) => {}
        Ok(None) => {
            tell("permissions: not checked (iam:SimulatePrincipalPolicy is not allowed, or this is the root user)")
        }
        Err(error) => tell(&format!("permissions: not checked ({})", in_words(&error))),
    }
    for check in [doctor::quotas(access, held).await, doctor::kafka_version(access, &kafka_version(template)).await] {
        let todo = check.todo.map_or_else(String::new, |todo| format!("\nhint: {todo}"));
        match check.verdict {
            Verdict::Ok => tell(&format!("{}: {}", check.name, check.found)),
            Verdict::Warn => tell(&format!("{}: {}{todo}", check.name, check.found)),
            Verdict::Fail => anyhow::bail!("{}: {}{todo}", check.name, check.found),
        }
    }
    let is_new = held.is_none_or(|held| held.standing() == Standing::New);
    if is_new {
        for service in iam::WITH_ROLES {
            match iam::make_service_role(access, service).await {
                Ok(true) => tell(&format!("made the role of {service}, which the account had not used before")),
                Ok(false) => {}
                Err(error) => tell(&format!("the role of {service} could not be made: {}", in_words(&error))),
            }
        }
    }
    Ok(())
}

/// The version of Kafka that a new stack gets.
fn kafka_version(template: &Template) -> String {
    let parameters = template.parameters();
    let version = parameters.into_iter().find(|parameter| parameter.name == "KafkaVersion");
    version.and_then(|version| version.default).unwrap_or_default()
}

/// The addresses of the brokers, as parameters of the second pass.
///
/// # Errors
/// Where MSK can't be asked, or has none yet.
pub async fn brokers(access: &Access, held: &Described) -> anyhow::Result<Vec<(String, String)>> {
    let cluster = held.output("ClusterArn").context("the stack has no output `ClusterArn`")?;
    let client = aws_sdk_kafka::Client::new(access.config());
    let answer =
        client.get_bootstrap_brokers().cluster_arn(cluster).send().await.map_err(failed("asking for the brokers"))?;
    let scram = answer.bootstrap_broker_string_sasl_scram();
    let iam = answer.bootstrap_broker_string_sasl_iam();
    let (Some(scram), Some(iam)) = (scram, iam) else {
        anyhow::bail!("MSK gives no addresses for SCRAM and IAM yet\nhint: run the command again in some minutes");
    };
    // In one order, or every deployment would change the services.
    let sorted = |addresses: &str| {
        let mut addresses: Vec<&str> = addresses.split(',').collect();
        addresses.sort_unstable();
        addresses.join(",")
    };
    Ok(vec![("BootstrapBrokersScram".to_owned(), sorted(scram)), ("BootstrapBrokersIam".to_owned(), sorted(iam))])
}

/// What the standing parts will cost, in words.
pub fn estimate(template: &Template, wanted: &Wanted, held: Option<&Described>) -> String {
    let value = |name: &str| plan::effective(name, &wanted.parameters, held, template);
    let number = |name: &str| value(name).parse::<f64>().unwrap_or(0.0);
    let interfaces = template.resources().values().filter(|r| r.kind == "AWS::EC2::VPCEndpoint").count() as f64 - 1.0;
    let endpoints = if value("CreateEndpoints") == "true" { interfaces * number("ZoneCount") } else { 0.0 };
    let parts = Parts {
        broker_type: value("BrokerInstanceType"),
        brokers: number("BrokerCount"),
        broker_gb: number("BrokerVolumeGiB"),
        endpoints,
        vcpu: (number("WorkerCpu") * number("WorkerMinCount") + number("ScorerCpu")) / 1024.0,
        memory_gb: (number("WorkerMemory") * number("WorkerMinCount") + number("ScorerMemory")) / 1024.0,
    };
    let told = parts.monthly().map(|(part, dollars)| match dollars {
        Some(dollars) => format!("{part} ${dollars:.0}"),
        None => format!("{part} of type {} (price not known here)", parts.broker_type),
    });
    let known: f64 = parts.monthly().iter().filter_map(|(_, dollars)| *dollars).sum();
    format!(
        "about ${known:.0} a month while nothing is sent ({}; {}); messages, storage and queries come on top",
        told.join(", "),
        prices::SOURCE
    )
}
