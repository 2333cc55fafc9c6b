"""A broken fixture for the scanners of other people: the real template with everything undone that checkov looks at."""

from __future__ import annotations

import json

ALL = {"Effect": "Allow", "Action": "*", "Resource": "*"}
EVERYBODY = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "*", "Resource": "*"}
OPEN = [{"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "CidrIp": "0.0.0.0/0"} for port in (22, 80, 3389)]
# What is left out, by type.
LEFT_OUT = {
    "AWS::S3::Bucket": (
        "LoggingConfiguration",
        "VersioningConfiguration",
        "PublicAccessBlockConfiguration",
        "OwnershipControls",
    ),
    "AWS::Logs::LogGroup": ("KmsKeyId", "RetentionInDays"),
    "AWS::SecretsManager::Secret": ("KmsKeyId",),
    "AWS::ECR::Repository": ("EncryptionConfiguration", "ImageScanningConfiguration", "ImageTagMutability"),
    "AWS::SNS::Topic": ("KmsMasterKeyId",),
    "AWS::MSK::Cluster": ("LoggingInfo", "EncryptionInfo"),
    "AWS::KMS::Key": ("EnableKeyRotation",),
    "AWS::ECS::Cluster": ("ClusterSettings",),
    "AWS::EC2::SecurityGroupEgress": ("Description",),
}
# What is written in its place.
WRITTEN = {
    "AWS::S3::Bucket": {
        "BucketEncryption": {
            "ServerSideEncryptionConfiguration": [{"ServerSideEncryptionByDefault": {"SSEAlgorithm": "none"}}]
        }
    },
    "AWS::ECR::Repository": {"RepositoryPolicyText": {"Version": "2012-10-17", "Statement": [EVERYBODY]}},
    "AWS::KMS::Key": {"KeyPolicy": {"Version": "2012-10-17", "Statement": [EVERYBODY]}},
    "AWS::EC2::SecurityGroup": {"SecurityGroupIngress": OPEN},
    "AWS::IAM::Role": {
        "AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": [{**EVERYBODY, "Action": ["*"]}]},
        "Policies": [{"PolicyName": "all", "PolicyDocument": {"Version": "2012-10-17", "Statement": [ALL]}}],
    },
    "AWS::IAM::ManagedPolicy": {"PolicyDocument": {"Version": "2012-10-17", "Statement": [ALL]}},
    "AWS::ECS::TaskDefinition": {
        "Volumes": [
            {"Name": "tmp", "EFSVolumeConfiguration": {"FilesystemId": "fs-1", "TransitEncryption": "DISABLED"}}
        ]
    },
}


def weakened(raw: dict) -> dict:
    """The template, with each of its resources as weak as may be."""
    template = json.loads(json.dumps(raw))
    # Some checks look for one weakness and some for another: the first of a kind has the one, the others the other.
    access, takers = iter(["PublicRead"]), iter([["111122223333"]])
    for resource in template["Resources"].values():
        kind, properties = resource["Type"], resource.setdefault("Properties", {})
        resource.pop("Metadata", None)
        for key in LEFT_OUT.get(kind, ()):
            properties.pop(key, None)
        properties.update(json.loads(json.dumps(WRITTEN.get(kind, {}))))
        if kind == "AWS::S3::Bucket":
            properties["AccessControl"] = next(access, "PublicReadWrite")
        if kind == "AWS::IAM::Role":
            properties["AssumeRolePolicyDocument"]["Statement"][0]["Principal"]["AWS"] = next(takers, "*")
        if kind == "AWS::MSK::Cluster":
            properties["BrokerNodeGroupInfo"]["ConnectivityInfo"] = {"PublicAccess": {"Type": "SERVICE_PROVIDED_EIPS"}}
        if kind == "AWS::Athena::WorkGroup":
            properties["WorkGroupConfiguration"]["EnforceWorkGroupConfiguration"] = False
    return template


# For cfn-lint: mistakes that schemas show, each with the rule that must find it.
SLIPS = {
    "E3002": {
        "Type": "AWS::IoT::TopicRule",
        "Properties": {
            "TopicRulePayload": {
                "Sql": "SELECT *",
                "Actions": [
                    {
                        "Kafka": {
                            "BootstrapServers": "b-1:9096",
                            "DestinationArn": "arn",
                            "Topic": "vitals",
                            "ClientProperties": {},
                        }
                    }
                ],
            }
        },
    },
    "E1010": {
        "Type": "AWS::SSM::Parameter",
        "Properties": {"Type": "String", "Value": {"Fn::GetAtt": ["Cluster", "BootstrapBrokerString"]}},
    },
    "E3003": {"Type": "AWS::Glue::Database", "Properties": {"DatabaseInput": {"Name": "vitals"}}},
    "E3012": {"Type": "AWS::Logs::LogGroup", "Properties": {"RetentionInDays": "a while"}},
    "E3030": {"Type": "AWS::Logs::LogGroup", "Properties": {"RetentionInDays": 8}},
    "E3006": {"Type": "AWS::MSK::ClusterOfOurs"},
}


def slips() -> dict:
    """A small template that has them all."""
    resources = {f"Slip{number}": slip for number, slip in enumerate(SLIPS.values())}
    resources["Cluster"] = {"Type": "AWS::ECS::Cluster"}
    return {"AWSTemplateFormatVersion": "2010-09-09", "Resources": resources}
