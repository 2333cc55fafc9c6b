//! What `--size` means in parameters of the template.

use clap::ValueEnum;

/// How large a stack is made. Each can be changed afterwards, but for the number of zones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Size {
    /// To look at: two small brokers, hundreds of devices
    Demo,
    /// A ward: two brokers that don't run out of CPU credits, some ten thousand devices
    Small,
    /// A fleet: three brokers in three zones, two of which have every record; a million devices
    Production,
}

/// Of a small broker, its type; of a large one, how many and where.
const DEMO: &[(&str, &str)] = &[
    ("ZoneCount", "2"),
    ("BrokerInstanceType", "kafka.t3.small"),
    ("BrokerCount", "2"),
    ("BrokerVolumeGiB", "20"),
    ("BrokerVolumeMaxGiB", "100"),
    ("KafkaVersion", "3.9.x"),
    ("TopicPartitions", "8"),
    // Two brokers: were both needed, all writes would stop while one is down.
    ("MinInsyncReplicas", "1"),
    ("WorkerMaxCount", "2"),
];

const SMALL: &[(&str, &str)] = &[
    ("ZoneCount", "2"),
    ("BrokerInstanceType", "kafka.m7g.large"),
    ("BrokerCount", "2"),
    ("BrokerVolumeGiB", "100"),
    ("BrokerVolumeMaxGiB", "1000"),
    ("KafkaVersion", "3.9.x"),
    ("TopicPartitions", "16"),
    ("MinInsyncReplicas", "1"),
    ("WorkerMaxCount", "4"),
    ("WorkerCpu", "1024"),
    ("WorkerMemory", "2048"),
];

const PRODUCTION: &[(&str, &str)] = &[
    ("ZoneCount", "3"),
    ("BrokerInstanceType", "kafka.m7g.large"),
    ("BrokerCount", "3"),
    ("BrokerVolumeGiB", "500"),
    ("BrokerVolumeMaxGiB", "4000"),
    ("KafkaVersion", "3.9.x"),
    ("TopicPartitions", "48"),
    ("MinInsyncReplicas", "2"),
    ("WorkerMinCount", "2"),
    ("WorkerMaxCount", "12"),
    ("WorkerCpu", "2048"),
    ("WorkerMemory", "4096"),
    ("ScorerCpu", "2048"),
    ("ScorerMemory", "8192"),
    ("JobCpu", "8192"),
    ("JobMemory", "32768"),
];

impl Size {
    /// The parameters it sets, with their values.
    pub fn parameters(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let set = match self {
            Size::Demo => DEMO,
            Size::Small => SMALL,
            Size::Production => PRODUCTION,
        };
        set.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::stack::Template;

    #[test]
    fn sizes_set_parameters_that_the_template_has_to_values_that_it_takes() {
        let declared = Template::embedded().unwrap().parameters();
        for size in Size::value_variants() {
            for (name, value) in size.parameters() {
                let parameter = declared.iter().find(|parameter| parameter.name == name);
                let parameter = parameter.unwrap_or_else(|| panic!("{size:?} sets {name}, which the template has not"));
                assert!(parameter.allowed.is_empty() || parameter.allowed.iter().any(|a| a == value), "{name}={value}");
            }
            let of =
                |name| size.parameters().find(|(n, _)| *n == name).map(|(_, v)| v.parse::<u32>().unwrap()).unwrap();
            assert_eq!(of("BrokerCount") % of("ZoneCount"), 0, "brokers are a multiple of zones");
            assert!(of("WorkerMaxCount") <= of("TopicPartitions"), "more workers than partitions have nothing to do");
        }
    }
}
