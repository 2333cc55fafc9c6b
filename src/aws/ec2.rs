//! The few questions to EC2: zones of a region, and interfaces that IoT leaves in a network.

use serde::Deserialize;

use super::{clients::Access, service::Service};

const VERSION: &str = "2016-11-15";

/// Zones in which MSK has no brokers, whatever an account calls them.
/// Source: the provider's schema and documentation of `AWS::MSK::Cluster`.
const WITHOUT_MSK: [&str; 1] = ["use1-az3"];

/// A zone.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Zone {
    /// As this account calls it, such as `us-east-1a`.
    pub zone_name: String,
    /// What it is for everybody, such as `use1-az3`.
    pub zone_id: String,
    #[serde(default)]
    zone_state: String,
    #[serde(default)]
    zone_type: Option<String>,
}

/// Zones of the region in which everything of the stack can be, by name.
///
/// # Errors
/// Where EC2 can't be asked.
pub async fn zones(access: &Access) -> anyhow::Result<Vec<Zone>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        availability_zone_info: List<Zone>,
    }
    let ec2 = Service::regional(access, "ec2").await;
    let answer: Answer = ec2.query("asking for zones", VERSION, "DescribeAvailabilityZones", &[]).await?;
    let mut zones = answer.availability_zone_info.item;
    zones.retain(|zone| {
        let usual = zone.zone_type.as_deref().is_none_or(|kind| kind == "availability-zone");
        usual && zone.zone_state == "available" && !WITHOUT_MSK.contains(&zone.zone_id.as_str())
    });
    zones.sort_by(|a, b| a.zone_name.cmp(&b.zone_name));
    Ok(zones)
}

/// Interfaces in a security group: as long as there are some, group, subnets and network can't be deleted.
///
/// # Errors
/// Where EC2 can't be asked.
pub async fn interfaces_in(access: &Access, security_group: &str) -> anyhow::Result<Vec<String>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        #[serde(default)]
        network_interface_set: List<Interface>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Interface {
        network_interface_id: String,
    }
    let ec2 = Service::regional(access, "ec2").await;
    let filter = [("Filter.1.Name", "group-id"), ("Filter.1.Value.1", security_group)];
    let answer: Answer = ec2.query("asking for interfaces", VERSION, "DescribeNetworkInterfaces", &filter).await?;
    Ok(answer.network_interface_set.item.into_iter().map(|interface| interface.network_interface_id).collect())
}

/// A list, as EC2 writes it.
#[derive(Debug, Deserialize)]
struct List<T> {
    #[serde(default = "Vec::new")]
    item: Vec<T>,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        List { item: Vec::new() }
    }
}
