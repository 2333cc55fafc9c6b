//! Whether AWS can be used from here, for what a stack needs: what `vitals doctor` looks at.
//!
//! Each question stands alone and ends as a [`Check`]; one that can't be asked is a warning, not a failure.

use std::{net::ToSocketAddrs, time::Duration};

use aws_sdk_iot::types::TopicRuleDestinationStatus;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    NoCredentials,
    clients::{Access, CallFailed, NoRegion, failed},
    iam,
    service::Service,
    stack::{Described, Stack},
};

/// The clock may be off by this much before it is worth a word, and before signatures are refused.
const SKEW_TOLD_S: i64 = 30;
const SKEW_FATAL_S: i64 = 270;

/// How long a port is waited for.
const PORT_WAIT: Duration = Duration::from_secs(5);

/// How one question ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One question, and what was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at, in a word or two.
    pub name: &'static str,
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub todo: Option<String>,
}

impl Check {
    pub fn ok(name: &'static str, found: impl Into<String>) -> Check {
        Check { name, verdict: Verdict::Ok, found: found.into(), todo: None }
    }

    pub fn warn(name: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Check {
        Check { name, verdict: Verdict::Warn, found: found.into(), todo: Some(todo.into()) }
    }

    pub fn fail(name: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Check {
        Check { name, verdict: Verdict::Fail, found: found.into(), todo: Some(todo.into()) }
    }

    /// What a failed call says; its hint, if it has one, is what to do.
    fn failed(name: &'static str, error: &anyhow::Error) -> Check {
        let text = format!("{error:#}");
        match text.split_once("\nhint: ") {
            Some((found, todo)) => Check::fail(name, found, todo),
            None => Check { name, verdict: Verdict::Fail, found: text, todo: None },
        }
    }

    /// The same, where nothing depends on it: it could not be looked at.
    fn unknown(name: &'static str, error: &anyhow::Error) -> Check {
        Check { verdict: Verdict::Warn, ..Check::failed(name, error) }
    }
}

/// Looks at everything that a stack in AWS needs. `is_meant`: whether commands here work on AWS, so that no access is a
/// failure; `actions`: what whoever deploys has to be allowed to do; `kafka`: the version that a new stack gets.
pub async fn examine(region: Option<&str>, stack: &str, is_meant: bool, actions: &[&str], kafka: &str) -> Vec<Check> {
    let access = match Access::new(region).await {
        Ok(access) => access,
        Err(error) => {
            let name = if error.is::<NoRegion>() { "region" } else { "credentials" };
            let mut check = Check::failed(name, &error);
            if !is_meant && (error.is::<NoRegion>() || error.is::<NoCredentials>()) {
                check.verdict = Verdict::Warn;
                check.found.push_str("; only commands on AWS need that");
            }
            return vec![check];
        }
    };
    let mut checks = vec![Check::ok("region", access.region())];
    let principal = match identity(&access).await {
        Ok((check, principal)) => {
            checks.push(check);
            principal
        }
        Err(error) => {
            checks.push(Check::failed("credentials", &error));
            checks.push(clock(&access).await);
            return checks;
        }
    };
    checks.push(clock(&access).await);
    checks.push(permissions(&access, &principal, actions).await);
    let held = match Stack::new(&access, stack).describe().await {
        Ok(held) => held,
        Err(error) => {
            checks.push(Check::failed("stack", &error.into()));
            return checks;
        }
    };
    checks.push(standing(stack, held.as_ref()));
    checks.push(quotas(&access, held.as_ref()).await);
    let kafka = held.as_ref().and_then(|held| held.parameters.get("KafkaVersion")).map_or(kafka, String::as_str);
    checks.push(kafka_version(&access, kafka).await);
    if let Some(held) = &held {
        checks.push(endpoint(&access).await);
        checks.extend(destination(&access, held).await);
    }
    checks
}

/// Who we are, and the ARN.
async fn identity(access: &Access) -> anyhow::Result<(Check, String)> {
    let who = aws_sdk_sts::Client::new(access.config()).get_caller_identity().send().await;
    let who = who.map_err(failed("asking who we are"))?;
    let (account, arn) = (who.account().unwrap_or("?"), who.arn().unwrap_or("?").to_owned());
    let found = format!("account {account}, as {arn}");
    let check = if arn.ends_with(":root") {
        Check::warn("credentials", found, "work as a user or role, not as the root user")
    } else {
        Check::ok("credentials", found)
    };
    Ok((check, arn))
}

/// This machine's clock against that of AWS, which says the time in every answer, also to strangers.
async fn clock(access: &Access) -> Check {
    let sts = Service::regional(access, "sts").await;
    let answer = async {
        let client = reqwest::Client::builder().timeout(PORT_WAIT).build()?;
        anyhow::Ok(client.get(&sts.url).send().await?)
    };
    let answer = match answer.await {
        Ok(answer) => answer,
        Err(error) => return Check::unknown("clock", &error.context("asking AWS for the time")),
    };
    let date = answer.headers().get("date").and_then(|date| date.to_str().ok());
    match date.and_then(|date| DateTime::parse_from_rfc2822(date).ok()) {
        Some(theirs) => skew((Utc::now() - theirs.with_timezone(&Utc)).num_seconds()),
        None => Check::warn("clock", "AWS did not say the time", "compare the clock by hand"),
    }
}

fn skew(seconds: i64) -> Check {
    let way = if seconds < 0 { "behind" } else { "ahead of" };
    let found = format!("{} s {way} that of AWS", seconds.abs());
    let todo = "set the clock (`timedatectl set-ntp true`): AWS refuses signatures that are 5 minutes off, and readings get \
                wrong times";
    match seconds.abs() {
        0..=SKEW_TOLD_S => Check::ok("clock", found),
        skew if skew <= SKEW_FATAL_S => Check::warn("clock", found, todo),
        _ => Check::fail("clock", found, todo),
    }
}

async fn permissions(access: &Access, principal: &str, actions: &[&str]) -> Check {
    match iam::denied(access, principal, actions).await {
        Ok(Some(denied)) if denied.is_empty() => {
            Check::ok("permissions", format!("all {} actions that were asked for are allowed", actions.len()))
        }
        Ok(Some(denied)) => Check::fail(
            "permissions",
            format!("not allowed: {}", denied.join(", ")),
            "an administrator allows these, or deploys; commands that only use the stack need fewer",
        ),
        Ok(None) => Check::warn(
            "permissions",
            "not checked: IAM does not let this principal ask",
            "allow iam:SimulatePrincipalPolicy, or see what `vitals deploy` says",
        ),
        Err(error) => Check::unknown("permissions", &error),
    }
}

fn standing(name: &str, held: Option<&Described>) -> Check {
    match held {
        None => Check::ok("stack", format!("`{name}` is not deployed here")),
        Some(held) if held.succeeded() => Check::ok("stack", format!("`{name}` is {}", held.status.as_str())),
        Some(held) => {
            let status = held.status.as_str();
            let found = format!("`{name}` is {status}");
            if status.ends_with("_IN_PROGRESS") {
                Check::warn("stack", found, "`vitals status` shows how it goes")
            } else {
                Check::fail("stack", found, "`vitals why` says what happened, `vitals deploy` mends it")
            }
        }
    }
}

/// Quotas by which new accounts are often stopped: how many processors may run at once.
pub async fn quotas(access: &Access, held: Option<&Described>) -> Check {
    let number = |name: &str| held?.parameters.get(name)?.parse::<f64>().ok();
    // What the stack's services and one job want at most, in processors.
    let wanted =
        || Some((number("WorkerMaxCount")? * number("WorkerCpu")? + number("ScorerCpu")? + number("JobCpu")?) / 1024.0);
    let mut found = Vec::new();
    let mut few = false;
    for (service, words, wanted) in [("fargate", "On-Demand vCPU", wanted()), ("emr-serverless", "vCPU", None)] {
        match quota(access, service, words).await {
            Ok(Some(value)) => {
                few |= value < wanted.unwrap_or(1.0);
                let wanted = wanted.map_or_else(String::new, |wanted| format!(" (the stack uses up to {wanted:.1})"));
                found.push(format!("{service} {value:.0} vCPU{wanted}"));
            }
            Ok(None) => found.push(format!("{service} not known")),
            Err(error) => return Check::unknown("quotas", &error),
        }
    }
    let found = found.join(", ");
    if few {
        Check::warn("quotas", found, "ask for more in the console of Service Quotas; it can take a day")
    } else {
        Check::ok("quotas", found)
    }
}

/// The value of the first quota of a service whose name has these words.
async fn quota(access: &Access, service: &str, words: &str) -> anyhow::Result<Option<f64>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        #[serde(default)]
        quotas: Vec<Quota>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Quota {
        quota_name: String,
        value: f64,
    }
    let quotas = Service::regional(access, "servicequotas").await;
    let body = serde_json::json!({ "ServiceCode": service, "MaxResults": 100 });
    let answer = quotas.json("asking for quotas", "ServiceQuotasV20190624.ListServiceQuotas", &body).await?;
    let answer: Answer = serde_json::from_value(answer)?;
    Ok(answer.quotas.into_iter().find(|quota| quota.quota_name.contains(words)).map(|quota| quota.value))
}

/// Whether MSK still has the version of Kafka.
pub async fn kafka_version(access: &Access, wanted: &str) -> Check {
    let client = aws_sdk_kafka::Client::new(access.config());
    let mut active = Vec::new();
    let mut pages = client.list_kafka_versions().into_paginator().send();
    while let Some(page) = pages.next().await {
        let page = match page.map_err(failed("asking for Kafka's versions")) {
            Ok(page) => page,
            Err(error) => return Check::unknown("kafka", &error.into()),
        };
        let usable =
            page.kafka_versions().iter().filter(|version| version.status().is_none_or(|s| s.as_str() == "ACTIVE"));
        active.extend(usable.filter_map(|version| version.version()).map(str::to_owned));
    }
    if active.iter().any(|version| version == wanted) {
        Check::ok("kafka", format!("MSK has version {wanted}"))
    } else {
        let newest = active.iter().rev().take(3).cloned().collect::<Vec<_>>().join(", ");
        Check::fail(
            "kafka",
            format!("MSK has no version {wanted} (it has {newest}, …)"),
            "`vitals deploy --set KafkaVersion=…`",
        )
    }
}

/// Whether devices here would reach IoT Core.
async fn endpoint(access: &Access) -> Check {
    let client = aws_sdk_iot::Client::new(access.config());
    let answer = client.describe_endpoint().endpoint_type("iot:Data-ATS").send().await;
    let host = match answer.map_err(failed("asking for IoT's endpoint")) {
        Ok(answer) => answer.endpoint_address().unwrap_or_default().to_owned(),
        Err(error) => return Check::unknown("ports", &error.into()),
    };
    let (mqtt, https) = tokio::join!(reaches(&host, 8883), reaches(&host, 443));
    match (mqtt, https) {
        (Ok(()), _) => Check::ok("ports", format!("{host}:8883 answers")),
        (Err(why), Ok(())) => Check::warn(
            "ports",
            format!("{host}:8883 does not answer ({why}), 443 does"),
            "open 8883 in the firewall, or set `\"port\": 443` in devices.json of the identities",
        ),
        (Err(why), Err(_)) => Check::fail(
            "ports",
            format!("neither 8883 nor 443 of {host} answers ({why})"),
            "open 8883 in the firewall of this network",
        ),
    }
}

async fn reaches(host: &str, port: u16) -> Result<(), String> {
    let host = host.to_owned();
    let connect = async {
        // By the system's resolver, which may block.
        let found = tokio::task::spawn_blocking(move || (host.as_str(), port).to_socket_addrs().map(Vec::from_iter));
        let addresses = found.await.map_err(std::io::Error::other)??;
        tokio::net::TcpStream::connect(addresses.as_slice()).await.map(drop)
    };
    match tokio::time::timeout(PORT_WAIT, connect).await {
        Ok(connected) => connected.map_err(|e| e.to_string()),
        Err(_) => Err(format!("nothing in {} s", PORT_WAIT.as_secs())),
    }
}

/// Whether the rule's way to the brokers is open: it is closed after 30 days without traffic, or when role or network change.
async fn destination(access: &Access, held: &Described) -> Option<Check> {
    let rule = held.output("RuleName")?;
    match destination_status(access, rule).await {
        Ok(None) => {
            Some(Check::warn("rule", format!("{rule} has no destination in a network"), "`vitals deploy` makes it"))
        }
        Ok(Some((TopicRuleDestinationStatus::Enabled, _))) => {
            Some(Check::ok("rule", format!("{rule}'s destination is enabled")))
        }
        Ok(Some((status, reason))) => Some(Check::fail(
            "rule",
            format!("{rule}'s destination is {}: {reason}", status.as_str()),
            "`aws iot update-topic-rule-destination --arn … --status ENABLED` opens it again, if role and network are right",
        )),
        Err(error) => Some(Check::unknown("rule", &error.into())),
    }
}

async fn destination_status(
    access: &Access,
    rule: &str,
) -> Result<Option<(TopicRuleDestinationStatus, String)>, CallFailed> {
    let client = aws_sdk_iot::Client::new(access.config());
    let answer = client.get_topic_rule().rule_name(rule).send().await.map_err(failed("asking for the rule"))?;
    let actions = answer.rule().map(|rule| rule.actions()).unwrap_or_default();
    let Some(arn) = actions.iter().find_map(|action| action.kafka()).map(|kafka| kafka.destination_arn()) else {
        return Ok(None);
    };
    let answer = client.get_topic_rule_destination().arn(arn).send().await;
    let answer = answer.map_err(failed("asking for the rule's destination"))?;
    let destination = answer.topic_rule_destination();
    let status = destination.and_then(|one| one.status()).cloned();
    let reason = destination.and_then(|one| one.status_reason()).unwrap_or("no reason is given").to_owned();
    Ok(status.map(|status| (status, reason)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_judged_by_how_far_it_is_off_in_either_direction() {
        for (seconds, verdict) in
            [(0, Verdict::Ok), (-30, Verdict::Ok), (31, Verdict::Warn), (-271, Verdict::Fail), (90_000, Verdict::Fail)]
        {
            assert_eq!(skew(seconds).verdict, verdict, "{seconds}");
        }
        assert!(skew(-40).found.contains("40 s behind"));
    }

    #[test]
    fn a_hint_of_an_error_is_what_to_do() {
        let check = Check::failed("region", &NoRegion.into());
        assert_eq!(check.found, "no AWS region is named");
        assert!(check.todo.is_some_and(|todo| todo.starts_with("`--region")));
    }

    #[tokio::test]
    async fn a_port_that_nobody_listens_on_is_told_from_one_that_answers() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(reaches("127.0.0.1", port).await, Ok(()));
        drop(listener);
        assert!(reaches("127.0.0.1", port).await.is_err());
        assert!(reaches("no.such.host.invalid", 1).await.is_err());
    }
}
