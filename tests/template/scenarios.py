"""The parameters under which the template is looked at: passes, sizes, an existing network, everything asked for."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import resolve
from checks import Stack

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "templates"

BROKERS = {
    "BootstrapBrokersScram": "b-1.x.kafka.us-east-1.amazonaws.com:9096,b-2.x.kafka.us-east-1.amazonaws.com:9096",
    "BootstrapBrokersIam": "b-1.x.kafka.us-east-1.amazonaws.com:9098,b-2.x.kafka.us-east-1.amazonaws.com:9098",
}
IMAGE = {"ImageDigest": "sha256:" + "0123456789abcdef" * 4}
TWO_ZONES = {"Zones": "us-east-1a,us-east-1b"}
EXISTING = {"VpcId": "vpc-0a1b2c3d", "SubnetIds": "subnet-0a,subnet-0b"}
PRODUCTION = {
    "ZoneCount": 3,
    "Zones": "us-east-1a,us-east-1b,us-east-1d",
    "BrokerInstanceType": "kafka.m7g.large",
    "BrokerCount": 3,
    "BrokerVolumeGiB": 1000,
    "BrokerVolumeMaxGiB": 4000,
    "TopicPartitions": 48,
    "MinInsyncReplicas": 2,
    "WorkerMaxCount": 12,
}
ALL = {
    "NotebookInstance": "true",
    "PrepareWith": "spark",
    "AlarmEmail": "somebody@example.org",
    "QuickSightPrincipalArn": "arn:aws:quicksight:us-east-1:111122223333:user/default/somebody",
}
DESTINATION = "arn:aws:iot:us-east-1:111122223333:ruledestination/vpc/0a1b2c3d-0000-4000-8000-000000000000"


@dataclass(frozen=True)
class Scenario:
    """A name, the parameters that are given, and what rules want to know of it."""

    name: str
    given: dict = field(hash=False)
    tags: frozenset = frozenset()


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("first", TWO_ZONES, frozenset({"first"})),
        Scenario("image", {**TWO_ZONES, **IMAGE}),
        Scenario("brokers", {**TWO_ZONES, **BROKERS}),
        Scenario("demo", {**TWO_ZONES, **BROKERS, **IMAGE}),
        Scenario(
            "existing",
            {
                **EXISTING,
                **BROKERS,
                **IMAGE,
                "CreateEndpoints": "false",
                "ExistingDestinationArn": DESTINATION,
                "NotebookInstance": "true",
            },
        ),
        Scenario(
            "existing_endpoints",
            {**EXISTING, **BROKERS, **IMAGE, "RouteTableIds": "rtb-0a", "NotebookInstance": "true"},
        ),
        Scenario("full", {**PRODUCTION, **BROKERS, **IMAGE, **ALL}, frozenset({"full", "quicksight"})),
    )
}


def template_text() -> str:
    """The template as it is written."""
    return (TEMPLATES / "stack.yaml").read_text()


def files() -> dict:
    """The other files that the stack runs by: the workflow, jobs, statements; text by name."""
    kinds = (".json", ".py", ".sql")
    found = sorted(path for path in TEMPLATES.rglob("*") if path.suffix in kinds)
    return {str(path.relative_to(TEMPLATES)): path.read_text() for path in found}


def stack(raw: dict, texts: dict, name: str) -> Stack:
    """The template under a scenario's parameters."""
    scenario = SCENARIOS[name]
    return Stack(raw, resolve.resolve(raw, scenario.given), texts, scenario.tags)


def copy_of(original: Stack) -> Stack:
    """A copy that can be changed."""
    resources, raw = (json.loads(json.dumps(part)) for part in (original.resources, original.raw))
    return Stack(raw, {"Resources": resources}, dict(original.files), original.tags)
