//! Values of parameters that don't go together. CloudFormation looks at each by itself, and would find out half an hour later.

/// The memory that Fargate gives with so many CPU units: least, most and step, MiB.
const FARGATE: [(u32, u32, u32, u32); 7] = [
    (256, 512, 2048, 1024),
    (512, 1024, 4096, 1024),
    (1024, 2048, 8192, 1024),
    (2048, 4096, 16_384, 1024),
    (4096, 8192, 30_720, 1024),
    (8192, 16_384, 61_440, 4096),
    (16_384, 32_768, 122_880, 8192),
];

/// What is wrong with the values together, in words; empty where nothing is. `value` gives the value that a parameter will
/// have, and an empty text where there is no such parameter, about which nothing is said then.
pub fn misfits(value: impl Fn(&str) -> String) -> Vec<String> {
    let number = |name: &str| value(name).parse::<u32>().ok();
    let both = |a: &str, b: &str| Some((number(a)?, number(b)?));
    let mut wrong = Vec::new();
    if let Some((brokers, zones)) = both("BrokerCount", "ZoneCount")
        && !brokers.is_multiple_of(zones)
    {
        wrong.push(format!("BrokerCount={brokers} is no multiple of ZoneCount={zones}: each zone has as many brokers"));
    }
    if let Some((needed, copies)) = both("MinInsyncReplicas", "ZoneCount")
        && needed > copies
    {
        wrong.push(format!(
            "MinInsyncReplicas={needed} is more than the {copies} replicas (ZoneCount): nothing could be sent"
        ));
    }
    if let Some((first, most)) = both("BrokerVolumeGiB", "BrokerVolumeMaxGiB")
        && first > most
    {
        wrong.push(format!("BrokerVolumeGiB={first} is more than BrokerVolumeMaxGiB={most}"));
    }
    if let Some((fewest, most)) = both("WorkerMinCount", "WorkerMaxCount")
        && fewest > most
    {
        wrong.push(format!("WorkerMinCount={fewest} is more than WorkerMaxCount={most}"));
    }
    if let Some((most, partitions)) = both("WorkerMaxCount", "TopicPartitions")
        && most > partitions
    {
        wrong.push(format!(
            "WorkerMaxCount={most} is more than TopicPartitions={partitions}: some would have nothing to do"
        ));
    }
    for of in ["Worker", "Scorer", "Job"] {
        if let Some((cpu, memory)) = both(&format!("{of}Cpu"), &format!("{of}Memory")) {
            wrong.extend(fargate(of, cpu, memory));
        }
    }
    if value("BrokerInstanceType") == "kafka.t3.small" && !value("KafkaVersion").starts_with("3.") {
        let version = value("KafkaVersion");
        if !version.is_empty() {
            wrong.push(format!(
                "KafkaVersion={version} does not run on BrokerInstanceType=kafka.t3.small, which takes 3.x only"
            ));
        }
    }
    wrong.extend(network(&value));
    wrong
}

/// Why Fargate has no such task.
fn fargate(of: &str, cpu: u32, memory: u32) -> Option<String> {
    let &(_, least, most, step) = FARGATE.iter().find(|(units, ..)| *units == cpu)?;
    // The smallest task can have half a step.
    let fits = (least..=most).contains(&memory) && (memory.is_multiple_of(step) || (cpu, memory) == (256, 512));
    (!fits).then(|| {
        format!(
            "{of}Memory={memory} does not go with {of}Cpu={cpu}: Fargate has {least} to {most} in steps of {step} MiB"
        )
    })
}

/// What is wrong with zones and subnets.
fn network(value: impl Fn(&str) -> String) -> Option<String> {
    let count: usize = value("ZoneCount").parse().ok()?;
    let listed = |name: &str| value(name).split(',').filter(|part| !part.trim().is_empty()).count();
    let (subnets, zones) = (listed("SubnetIds"), listed("Zones"));
    match value("VpcId").is_empty() {
        false if subnets != count => Some(format!(
            "SubnetIds has {subnets} subnets and ZoneCount={count}: an existing VPC gives one for each zone"
        )),
        true if subnets > 0 => Some("SubnetIds needs VpcId: the stack's own VPC makes its own subnets".to_owned()),
        // No zones are chosen yet.
        true if zones > 0 && zones != count => Some(format!("Zones has {zones} zones and ZoneCount={count}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::ValueEnum;

    use super::*;
    use crate::aws::stack::{Template, sizes::Size};

    /// What is wrong with the template's own values, those of a size, and some more.
    fn wrong(size: Size, set: &[(&str, &str)]) -> Vec<String> {
        let template = Template::embedded().unwrap();
        let mut values: BTreeMap<String, String> =
            template.parameters().into_iter().map(|p| (p.name, p.default.unwrap_or_default())).collect();
        let mut all: Vec<(&str, &str)> = size.parameters().collect();
        all.extend(set);
        for (name, value) in all {
            values.insert(name.to_owned(), value.to_owned()).unwrap_or_else(|| panic!("no parameter {name}"));
        }
        misfits(|name| values.get(name).cloned().unwrap_or_default())
    }

    #[test]
    fn sizes_fit() {
        for size in Size::value_variants() {
            assert_eq!(wrong(*size, &[]), [""; 0], "{size:?}");
        }
        assert_eq!(misfits(|_| String::new()), [""; 0], "a template of somebody's own");
    }

    #[test]
    fn what_does_not_go_together_is_said() {
        let cases: &[(&[(&str, &str)], &str)] = &[
            (&[("BrokerCount", "3")], "no multiple of ZoneCount=2"),
            (&[("MinInsyncReplicas", "3")], "more than the 2 replicas"),
            (&[("BrokerVolumeGiB", "2000")], "more than BrokerVolumeMaxGiB=1000"),
            (&[("WorkerMinCount", "5")], "more than WorkerMaxCount=4"),
            (&[("TopicPartitions", "3")], "more than TopicPartitions=3"),
            (
                &[("WorkerMemory", "1024")],
                "WorkerMemory=1024 does not go with WorkerCpu=1024: Fargate has 2048 to 8192",
            ),
            (&[("ScorerCpu", "256"), ("ScorerMemory", "1536")], "ScorerMemory=1536"),
            (&[("JobCpu", "8192"), ("JobMemory", "18432")], "in steps of 4096 MiB"),
            (&[("BrokerInstanceType", "kafka.t3.small"), ("KafkaVersion", "4.0.x.kraft")], "takes 3.x only"),
            (&[("VpcId", "vpc-1"), ("SubnetIds", "subnet-1")], "SubnetIds has 1 subnets"),
            (&[("SubnetIds", "subnet-1,subnet-2")], "SubnetIds needs VpcId"),
            (&[("Zones", "eu-central-1a")], "Zones has 1 zones"),
        ];
        for (set, expected) in cases {
            let found = wrong(Size::Small, set);
            assert!(found.len() == 1 && found[0].contains(expected), "{set:?}: {found:?}");
        }
        for fits in [("256", "512"), ("256", "1024"), ("4096", "30720")] {
            assert_eq!(wrong(Size::Small, &[("ScorerCpu", fits.0), ("ScorerMemory", fits.1)]), [""; 0]);
        }
    }
}
