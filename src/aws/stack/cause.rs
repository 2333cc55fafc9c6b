//! What to do about a resource that failed: what CloudFormation says, and what is known of it.

use super::events::Event;

/// A cause that is known: words in the reason (all of them, in any case), types it is of (none: any), and the fix.
struct Known {
    words: &'static [&'static str],
    kinds: &'static [&'static str],
    fix: &'static str,
}

/// What is known, the most particular first. Sources: the services' documentation of the errors, and the handlers of
/// CloudFormation that report them.
const KNOWN: &[Known] = &[
    Known {
        words: &["already exists"],
        kinds: &["AWS::IoT::TopicRuleDestination"],
        fix: "a VPC has one destination with these subnets: name the one that is there by `--set ExistingDestinationArn=ARN` \
              (`aws iot list-topic-rule-destinations` shows it)",
    },
    Known {
        words: &["service linked role"],
        kinds: &[],
        fix: "the account's first use of this service makes its service-linked role, which takes a minute: run the command again",
    },
    Known {
        words: &["unable to assume"],
        kinds: &["AWS::IoT::TopicRule", "AWS::IoT::TopicRuleDestination"],
        fix: "IoT tests a role as soon as it is made, and roles take some seconds to be known everywhere: run the command again",
    },
    Known {
        words: &["cannotpullcontainer"],
        kinds: &[],
        fix: "the image is not in the repository, or the subnets don't reach ECR: `vitals image push`, then the command again",
    },
    Known {
        words: &["circuit breaker"],
        kinds: &["AWS::ECS::Service"],
        fix: "the containers end soon after they start: the log group of the service says why (`vitals status` names it)",
    },
    Known { words: &["use1-az3"], kinds: &[], fix: "MSK is not in that zone: `--set Zones=…` without it" },
    Known {
        words: &["unsupported availability zone"],
        kinds: &[],
        fix: "choose other zones: `--set Zones=eu-central-1a,eu-central-1b`",
    },
    Known {
        words: &["insufficient", "broker"],
        kinds: &["AWS::MSK::Cluster"],
        fix: "the account's quota of brokers is used up, or the type is not to be had: Service Quotas, or `--set BrokerInstanceType=…`",
    },
    Known {
        words: &["unsupported kafkaversion"],
        kinds: &["AWS::MSK::Cluster"],
        fix: "`aws kafka list-kafka-versions` shows those that live; `--set KafkaVersion=…`",
    },
    Known {
        words: &["topicalreadyexists"],
        kinds: &["AWS::MSK::Topic"],
        fix: "a topic of this name is in the cluster, left by an earlier stack: delete it, or `--set TopicName=…`",
    },
    Known {
        words: &["kafka-cluster"],
        kinds: &["AWS::MSK::Topic"],
        fix: "whoever deploys needs kafka-cluster:Connect, CreateTopic, DescribeTopic and AlterTopic on the cluster",
    },
    Known {
        words: &["not empty"],
        kinds: &["AWS::S3::Bucket"],
        fix: "a bucket with objects, versions or uploads can't be deleted: `vitals destroy --delete-data --confirm NAME` empties it",
    },
    Known {
        words: &["bucketalreadyownedbyyou"],
        kinds: &[],
        fix: "a bucket of this name was left by an earlier stack; give the stack another name by `--stack`",
    },
    Known {
        words: &["principal policy in use"],
        kinds: &["AWS::IoT::Policy"],
        fix: "devices still have this policy: `vitals devices rm --all`, then the command again",
    },
    Known {
        words: &["deleteconflict"],
        kinds: &["AWS::IoT::Policy"],
        fix: "devices still have this policy: `vitals devices rm --all`, then the command again",
    },
    Known {
        words: &["network interface", "in use"],
        kinds: &[],
        fix: "interfaces of the IoT destination stay for half an hour after it: wait, then the command again",
    },
    Known {
        words: &["has dependencies"],
        kinds: &["AWS::EC2::SecurityGroup", "AWS::EC2::Subnet", "AWS::EC2::VPC"],
        fix: "interfaces of the IoT destination stay for half an hour after it: wait, then the command again",
    },
    Known {
        words: &["dependencyviolation"],
        kinds: &[],
        fix: "something made by others uses it, or interfaces that stay for half an hour after the IoT destination: wait, then \
              the command again",
    },
    Known {
        words: &["must be stopped"],
        kinds: &["AWS::EMRServerless::Application"],
        fix: "cancel its jobs and stop it: `aws emr-serverless stop-application --application-id ID`",
    },
    Known {
        words: &["subscription"],
        kinds: &["AWS::QuickSight::DataSource", "AWS::QuickSight::DataSet", "AWS::QuickSight::Dashboard"],
        fix: "QuickSight needs a subscription of the account first; without it deploy with `--set QuickSightPrincipalArn=`",
    },
    Known {
        words: &["is not authorized to perform"],
        kinds: &[],
        fix: "whoever deploys lacks this permission: `vitals doctor` lists what is needed; then run the command again",
    },
    Known {
        words: &["access denied"],
        kinds: &[],
        fix: "whoever deploys lacks a permission: `vitals doctor` lists what is needed",
    },
    Known {
        words: &["limitexceeded"],
        kinds: &[],
        fix: "a quota of the account is used up: Service Quotas in the console raises it, or delete what is not needed",
    },
    Known {
        words: &["limit", "exceeded"],
        kinds: &[],
        fix: "a quota of the account is used up: Service Quotas raises it",
    },
    Known {
        words: &["rate exceeded"],
        kinds: &[],
        fix: "the account calls this service too often: run the command again in some minutes",
    },
    Known {
        words: &["token", "expired"],
        kinds: &[],
        fix: "the credentials ended while the stack was made: get new ones and run the command again",
    },
];

/// What is to be done about a failure, where its cause is known.
pub fn fix(event: &Event) -> Option<&'static str> {
    let reason = event.reason.as_deref().unwrap_or_default().to_lowercase();
    let fits = |known: &&Known| {
        known.words.iter().all(|words| reason.contains(words))
            && (known.kinds.is_empty() || known.kinds.contains(&event.kind.as_str()))
    };
    KNOWN.iter().find(fits).map(|known| known.fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fix_of(kind: &str, reason: &str) -> Option<&'static str> {
        fix(&Event {
            id: String::new(),
            at: None,
            resource: "It".to_owned(),
            kind: kind.to_owned(),
            physical: String::new(),
            status: "CREATE_FAILED".to_owned(),
            reason: Some(reason.to_owned()),
            token: None,
        })
    }

    #[test]
    fn a_known_cause_has_its_fix_and_others_have_none() {
        let exists = "Resource of type 'AWS::IoT::TopicRuleDestination' with identifier 'x' already exists.";
        assert!(fix_of("AWS::IoT::TopicRuleDestination", exists).unwrap().contains("ExistingDestinationArn"));
        assert!(fix_of("AWS::S3::Bucket", exists).is_none());
        let denied = "User: arn:aws:iam::1:user/u is not authorized to perform: kafka:CreateClusterV2";
        assert!(fix_of("AWS::MSK::Cluster", denied).unwrap().contains("permission"));
        assert!(fix_of("AWS::MSK::Cluster", "something else").is_none());
    }

    #[test]
    fn every_known_cause_can_be_reached() {
        for known in KNOWN {
            let kind = known.kinds.first().unwrap_or(&"AWS::Any::Thing");
            assert_eq!(fix_of(kind, &known.words.join(" ").to_uppercase()), Some(known.fix), "{:?}", known.words);
        }
    }
}
