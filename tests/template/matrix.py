"""MATRIX.md: which rules look at which type, what is suppressed and why, and what finds each mistake."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import mistakes
import scan
import traps
import verify
from checks import CHECKS

FILE = Path(__file__).resolve().parent / "MATRIX.md"

# Types that no rule of posture looks at, and why there is none. cfn-lint checks each against its schema all the same.
NO_RULE = {
    "AWS::EC2::FlowLog": "what it writes to and by which role is checked at the log group and the role",
    "AWS::EC2::RouteTable": "it has no route but S3's gateway; s3_endpoint_keeps_its_policy looks at that",
    "AWS::EC2::SubnetRouteTableAssociation": "joins a subnet and a table, and has no other property",
    "AWS::Events::Rule": "tells of failed tasks; its target's policy and key are checked there",
    "AWS::IoT::ThingType": "a name and a description",
    "AWS::KMS::Alias": "a name for a key, which is checked itself",
    "AWS::Logs::MetricFilter": "counts messages; it opens nothing",
    "AWS::MSK::Configuration": "settings of brokers as a text; a topic's own settings are checked",
    "AWS::SNS::Subscription": "an address that the user gives, who has to confirm it",
    "AWS::SageMaker::NotebookInstanceLifecycleConfig": "a script without secrets: it writes three names to a file",
    "AWS::CloudWatch::Dashboard": "only shows",
}
# Says that something is there, not how.
PRESENCE = "architecture_is_complete"


def our_rules() -> dict:
    """The rules that look at each type: names of cfn-guard's and of ours."""
    found: dict = {}
    for rule, (file, kinds) in scan.guard_rules().items():
        for kind in kinds:
            found.setdefault(kind, {}).setdefault(file, []).append(rule)
    for check in CHECKS.values():
        for kind in check.types if check.name != PRESENCE else ():
            found.setdefault(kind, {}).setdefault(check.file, []).append(check.name)
    return found


def problems() -> list:
    """Types without any rule and without a reason, and reasons that are left over."""
    ours, by_checkov = our_rules(), checkov_ids()
    used = {resource["Type"] for resource in verify.raw()["Resources"].values()}
    bare = {kind for kind in used if kind not in ours and kind not in by_checkov}
    return [f"{kind}: no rule looks at it, and no reason why not" for kind in sorted(bare - set(NO_RULE))] + [
        f"{kind}: a reason for no rule, and there is {'a rule' if kind in used else 'no such resource'}"
        for kind in sorted(set(NO_RULE) - bare)
    ]


def checkov_ids() -> dict:
    """The checks of checkov that pass or are suppressed, by type."""
    found: dict = {}
    results = verify.checkov_results()
    for finding in results["passed"] + results["skipped"] + results["failed"]:
        found.setdefault(finding["resource"].split(".")[0], set()).add(finding["check_id"])
    return found


def written() -> str:
    """The whole file."""
    lines = [
        "# Which rules look at what",
        "",
        "Written by `tests/template/check --write`; the test fails when it is out of date. cfn-lint "
        f"({scan.CFN_LINT.split('==')[1]}) holds every resource against its schema, in "
        f"{', '.join(scan.REGIONS)}, and finds nothing.",
        f"checkov is {scan.CHECKOV.split('==')[1]}, cfn-guard {scan.CFN_GUARD}. Each rule of ours fails on the "
        "mutations named beside it (broken.py, broken_checks.py), each check of checkov on what weak.py makes.",
        "No scanner has seen the stack run.",
        "",
        "## Types of resources",
        "",
    ]
    lines += types() + ["", "## Suppressions", "", "| resource | check | reason |", "|---|---|---|"]
    lines += [f"| {name} | checkov {check_id} | {reason} |" for name, check_id, reason in verify.suppressions()]
    lines += [
        f"| {name} | cfn-lint {check_id} | {verify.LINT_IGNORED.get(check_id)} |"
        for name, check_id in verify.lint_ignored()
    ]
    lines += ["", "## Wildcards in policies", "", "| resource | statement | reason |", "|---|---|---|"] + wildcards()
    lines += ["", "## Usual mistakes", "", "| mistake | found by |", "|---|---|"] + found_by(mistakes.MISTAKES)
    lines += ["", "## Traps that schemas don't show", "", "| trap | found by |", "|---|---|"] + found_by(traps.TRAPS)
    lines += ["", "## Rules, and the mutations that break them", ""] + rules()
    return "\n".join(lines) + "\n"


def types() -> list:
    ours, by_checkov = our_rules(), checkov_ids()
    lines = ["| type | resources | rules of ours | checkov |", "|---|---|---|---|"]
    for kind, count in sorted(Counter(resource["Type"] for resource in verify.raw()["Resources"].values()).items()):
        rules = sorted(rule for names in ours.get(kind, {}).values() for rule in names)
        ids = sorted(by_checkov.get(kind, ()))
        text = ", ".join(rules) or ("" if ids else f"none: {NO_RULE.get(kind, '?')}")
        lines.append(f"| {kind} | {count} | {text} | {', '.join(ids)} |")
    return lines


def wildcards() -> list:
    lines = []
    for name, resource in verify.raw()["Resources"].items():
        for sid, reason in resource.get("Metadata", {}).get("Wildcards", {}).items():
            lines.append(f"| {name} | {sid} | {reason} |")
    return lines


def found_by(items: dict) -> list:
    return [f"| {item} | {', '.join(rules)} |" for item, rules in items.items()]


def rules() -> list:
    where = {rule: file for rule, (file, _) in scan.guard_rules().items()} | {
        check.name: check.file for check in CHECKS.values()
    }
    labels: dict = {}
    for mutation in verify.MUTATIONS:
        labels.setdefault(mutation.rule, []).append(mutation.label.replace("|", "\\|"))
    lines = ["| rule | in | broken by |", "|---|---|---|"]
    for rule, file in sorted(where.items(), key=lambda item: (item[1], item[0])):
        lines.append(f"| {rule} | {file} | {'; '.join(labels.get(rule, ['nothing']))} |")
    return lines


def out_of_date() -> list:
    """Whether the file is not what it would be now."""
    now = FILE.read_text() if FILE.exists() else ""
    return [] if now == written() else [f"{FILE.name} is out of date: run tests/template/check --write"]
