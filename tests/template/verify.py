"""What the tests of the template demand, and the words in which they say what is not so."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import broken  # noqa: F401  registers mutations
import broken_checks  # noqa: F401
import mistakes
import resolve
import scan
import scenarios
import traps
import weak
from checks import CHECKS, walk
from mutations import MUTATIONS, NothingToChange

WORKFLOW = "training.asl.json"
# What CloudFormation takes: within the request, by an address in S3, and in numbers.
INLINE_BYTES, BY_ADDRESS_BYTES = 51_200, 1_000_000
MOST = {"Resources": 500, "Parameters": 200, "Outputs": 200, "Mappings": 200}
# What is printed where something could not be tried.
notes: list = []


@functools.lru_cache(maxsize=None)
def raw() -> dict:
    """The template as written."""
    return resolve.read(scenarios.template_text())


def body() -> dict:
    """What is sent: the template with the workflow in its place, and without what only people and scanners read."""
    sent = json.loads(json.dumps(raw()))
    sent.pop("Metadata", None)
    workflow = scenarios.files().get(WORKFLOW)
    for resource in sent["Resources"].values():
        resource.pop("Metadata", None)
        if resource["Type"] == "AWS::StepFunctions::StateMachine" and workflow:
            resource["Properties"]["Definition"] = json.loads(workflow)
    return sent


def compact(template: dict) -> bytes:
    """A template in as few bytes as JSON takes."""
    return json.dumps(template, separators=(",", ":"), ensure_ascii=False).encode()


# ---- scanners of other people


# What cfn-lint is told to pass over in the template, and why.
LINT_IGNORED = {
    "W1030": "the defaults of parameters for an existing network are empty, and are not used then",
    "W1035": "the same, of one taken from a list",
    "E3002": "the workflow's definition is empty in the file; what is sent is linted with training.asl.json put in",
}


def lint_ignored() -> list:
    """The checks of cfn-lint that the template passes over: (resource or all, check)."""
    parts = [("the template", raw()), *raw()["Resources"].items()]
    config = lambda part: part.get("Metadata", {}).get("cfn-lint", {}).get("config", {})
    return [(name, check) for name, part in parts for check in config(part).get("ignore_checks", [])]


def for_lint(sent: dict) -> dict:
    """Without what cfn-lint wrongly refuses: its schema forgets that Succeed may choose from its input, as ASL says."""
    for _, node in walk(sent["Resources"]):
        if isinstance(node, dict) and node.get("Type") == "Succeed":
            node.pop("InputPath", None)
            node.pop("OutputPath", None)
    return sent


def lint_problems(folder: Path) -> list:
    """cfn-lint finds nothing in the template and in what is sent, and each slip in a template of slips."""
    ignored = {check for _, check in lint_ignored()}
    problems = [f"cfn-lint passes over {check} without a reason" for check in sorted(ignored - set(LINT_IGNORED))]
    problems += [
        f"there is a reason for passing over {check}, which is not done"
        for check in sorted(set(LINT_IGNORED) - ignored)
    ]
    files = [scenarios.TEMPLATES / "stack.yaml", folder / "slips.json"]
    files[1].write_bytes(compact(weak.slips()))
    if WORKFLOW in scenarios.files():
        # As sent, but for the template's own word on empty parameters.
        config = {"Metadata": {"cfn-lint": raw().get("Metadata", {}).get("cfn-lint", {})}}
        files.append(folder / "sent.json")
        files[2].write_bytes(compact({**for_lint(body()), **config}))
    else:
        notes.append(f"what is sent was not looked at: no templates/{WORKFLOW}")
    found = scan.lint(scan.install_cfn_lint(), files)
    problems += [text for file, texts in found.items() if file != str(files[1]) for text in texts]
    tripped = {text.split()[0] for text in found.get(str(files[1]), [])}
    return problems + [
        f"cfn-lint does not find {code} in a template that has it" for code in weak.SLIPS if code not in tripped
    ]


@functools.lru_cache(maxsize=None)
def checkov_results() -> dict:
    """What checkov says of the template."""
    return scan.checkov(scan.install_checkov(), scenarios.TEMPLATES / "stack.yaml")


def suppressions() -> list:
    """Every suppression: (resource, id, reason)."""
    found = []
    for name, resource in raw()["Resources"].items():
        for skip in resource.get("Metadata", {}).get("checkov", {}).get("skip", []):
            found.append((name, skip["id"], str(skip.get("comment", "")).strip()))
    return found


def checkov_problems(folder: Path) -> list:
    """checkov finds nothing, every suppression has its reason and is of use, and each check that passes can fail."""
    results = checkov_results()
    problems = [f"{f['check_id']} {f['resource']}: {f['check_name']}" for f in results["failed"]]
    in_use = {(f["resource"].split(".")[1], f["check_id"]) for f in results["skipped"]}
    for name, check_id, reason in suppressions():
        if len(reason) < 15:
            problems.append(f"{name}: {check_id} is suppressed without a reason")
        if (name, check_id) not in in_use:
            problems.append(f"{name}: the suppression of {check_id} is of no use")
    weakened = folder / "weakened.json"
    weakened.write_bytes(compact(weak.weakened(raw())))
    tripped = {f["check_id"] for f in scan.checkov(scan.install_checkov(), weakened)["failed"]}
    passed = {f["check_id"] for f in results["passed"]}
    return problems + [f"{check_id} passes on the weakened template too" for check_id in sorted(passed - tripped)]


# ---- rules of our own


@functools.lru_cache(maxsize=None)
def stacks() -> dict:
    """The template under each scenario."""
    texts = scenarios.files()
    return {name: scenarios.stack(raw(), texts, name) for name in scenarios.SCENARIOS}


@functools.lru_cache(maxsize=None)
def mutants() -> list:
    """Each mutation with the stack that it made, or with why it could not."""
    made = []
    for mutation in MUTATIONS:
        changed = scenarios.copy_of(stacks()[mutation.scenario])
        try:
            mutation.change(changed)
            made.append((mutation, changed, ""))
        except NothingToChange as why:
            made.append((mutation, None, str(why)))
    return made


@functools.lru_cache(maxsize=None)
def verdicts() -> list:
    """cfn-guard's verdicts, of all scenarios and then of all mutants that there are."""
    changed = [stack for _, stack, _ in mutants() if stack is not None]
    return scan.guard(scan.install_cfn_guard(), [*stacks().values(), *changed])


@functools.lru_cache(maxsize=None)
def failures() -> list:
    """The rules that fail, of all scenarios and then of all mutants that there are: why, by name."""
    looked_at = [*stacks().values(), *(stack for _, stack, _ in mutants() if stack is not None)]
    return [{**verdict.fails, **scan.failing_checks(stack)} for stack, verdict in zip(looked_at, verdicts())]


def unbroken_problems() -> list:
    """Every rule holds on the template under every scenario, and every rule of cfn-guard looks at something in one."""
    problems, ever = [], set()
    for name, verdict, failing in zip(stacks(), verdicts(), failures()):
        ever |= verdict.holds
        for rule, reasons in sorted(failing.items()):
            problems += [f"{rule} ({name}): {reason}" for reason in reasons]
    return problems + [f"{rule} looks at nothing under any scenario" for rule in sorted(set(scan.guard_rules()) - ever)]


def mutation_problems(rules: set) -> list:
    """Each of these rules fails on its mutations, and no other rule does that is not said to."""
    problems, tried = [], set()
    failing_before = {name: set(failing) for name, failing in zip(stacks(), failures())}
    judged = iter(failures()[len(stacks()) :])
    for mutation, stack, why in mutants():
        failing = set(next(judged)) if stack is not None else set()
        if mutation.rule not in rules:
            continue
        tried.add(mutation.rule)
        if stack is None:
            # The workflow's file may be absent while it is being written; anything else must be there.
            missing = WORKFLOW in why and WORKFLOW not in scenarios.files()
            (notes if missing else problems).append(f"{mutation.rule}: `{mutation.label}` was not tried: {why}")
            continue
        # What fails without any mutation is told elsewhere.
        failing -= failing_before[mutation.scenario]
        expected = {mutation.rule, *mutation.also} - failing_before[mutation.scenario]
        if failing != expected:
            problems.append(f"`{mutation.label}` must fail {sorted(expected)}, and fails {sorted(failing)}")
    return problems + [f"{rule} has no mutation that breaks it" for rule in sorted(rules - tried)]


def rules_of(*modules: str) -> set:
    """The names of our checks in some files."""
    return {name for name, check in CHECKS.items() if check.file in modules}


def rule_problems() -> list:
    """The rules of cfn-guard and of posture.py hold, and each can fail."""
    return unbroken_problems() + mutation_problems(set(scan.guard_rules()) | rules_of("posture.py"))


def mistake_problems() -> list:
    """Each usual mistake and each trap has rules that exist, and each of these fails on a template having it."""
    known = set(scan.guard_rules()) | set(CHECKS)
    listed = {**mistakes.MISTAKES, **traps.TRAPS}
    problems = [
        f"`{item}` is found by {rule}, which is no rule"
        for item, rules in listed.items()
        for rule in rules
        if rule not in known
    ]
    problems += [f"`{item}` is found by nothing" for item, rules in listed.items() if not rules]
    named = {rule for rules in listed.values() for rule in rules}
    own = rules_of("mistakes.py", "traps.py")
    problems += [f"{rule} is in no list" for rule in sorted(own - named)]
    return problems + mutation_problems((named & known) | own)


# ---- limits


def limit_problems() -> list:
    """What is sent is within CloudFormation's limits; where it is too large for a request, that is said."""
    sent, size = body(), len(compact(body()))
    problems = [
        f"{len(sent.get(part, {}))} {part}, {most} at most"
        for part, most in MOST.items()
        if len(sent.get(part, {})) > most
    ]
    if size > BY_ADDRESS_BYTES:
        problems.append(f"{size} bytes, {BY_ADDRESS_BYTES} at most")
    where = (
        "within a request" if size <= INLINE_BYTES else "BY AN ADDRESS IN S3 ONLY: `deploy` must make a bucket for it"
    )
    counts = ", ".join(f"{len(sent.get(part, {}))} {part.lower()}" for part in MOST if part in sent)
    notes.append(f"{size} bytes as compact JSON, so it is sent {where} (limit {INLINE_BYTES}); {counts}")
    for name, declared in sent.get("Parameters", {}).items():
        if len(name) > 255 or len(str(declared.get("Default", ""))) > 4096:
            problems.append(f"parameter {name} is too long")
    return problems
