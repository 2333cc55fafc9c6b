//! What the standing parts of a stack cost, whether anything is sent or not.

/// Where and when these prices are from: list prices, without discounts or free tiers.
pub const SOURCE: &str = "us-east-1, autumn 2026";

/// Hours in a month, as AWS counts.
const MONTH_H: f64 = 730.0;

/// Dollars an hour of one broker.
const BROKERS: [(&str, f64); 2] = [("kafka.t3.small", 0.0456), ("kafka.m7g.large", 0.204)];

/// Dollars a GB and month of a broker's storage.
const BROKER_GB: f64 = 0.10;

/// Dollars an hour of one vCPU, and of one GB of memory, on Fargate.
const FARGATE: (f64, f64) = (0.040_48, 0.004_445);

/// Dollars an hour of one interface endpoint in one zone.
const ENDPOINT: f64 = 0.01;

/// The standing parts of a stack.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    pub broker_type: String,
    pub brokers: f64,
    pub broker_gb: f64,
    /// Interface endpoints times zones.
    pub endpoints: f64,
    /// vCPU of all tasks that always run.
    pub vcpu: f64,
    /// Memory of all tasks that always run.
    pub memory_gb: f64,
}

impl Standing {
    /// Dollars a month by part; `None` for brokers of a type whose price is not here.
    pub fn monthly(&self) -> [(&'static str, Option<f64>); 4] {
        let broker = BROKERS.iter().find(|(kind, _)| *kind == self.broker_type).map(|(_, price)| price);
        [
            ("brokers", broker.map(|price| self.brokers * price * MONTH_H)),
            ("their storage", Some(self.brokers * self.broker_gb * BROKER_GB)),
            ("endpoints", Some(self.endpoints * ENDPOINT * MONTH_H)),
            ("workers", Some((self.vcpu * FARGATE.0 + self.memory_gb * FARGATE.1) * MONTH_H)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_of_the_demo() {
        let demo = Standing {
            broker_type: "kafka.t3.small".to_owned(),
            brokers: 2.0,
            broker_gb: 20.0,
            endpoints: 8.0,
            vcpu: 1.0,
            memory_gb: 2.0,
        };
        let parts: Vec<i64> = demo.monthly().iter().map(|(_, dollars)| dollars.unwrap().round() as i64).collect();
        assert_eq!(parts, [67, 4, 58, 36]);
        let other = Standing { broker_type: "kafka.m5.large".to_owned(), ..demo };
        assert_eq!(other.monthly()[0].1, None);
    }
}
