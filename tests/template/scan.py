"""Runs the scanners: cfn-lint and checkov on the template as written, cfn-guard and our checks on it as evaluated."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "engines"))

import install  # noqa: E402
import mistakes  # noqa: E402,F401  registers its checks
import posture  # noqa: E402,F401
import traps  # noqa: E402,F401
from checks import CHECKS, Stack, walk  # noqa: E402

CFN_LINT = "cfn-lint==1.58.0"
CHECKOV = "checkov==3.3.30"
CFN_GUARD = "3.2.1"
REGIONS = ("us-east-1", "eu-central-1", "ap-southeast-2")
RULES = HERE / "rules"


def install_cfn_lint() -> Path:
    """Where cfn-lint is installed; its YAML reader can be imported from then on."""
    environment = install.python_packages(CFN_LINT)
    install.importable(environment)
    return environment / "bin" / "cfn-lint"


def install_checkov() -> Path:
    """Where checkov is installed."""
    return install.python_packages(CHECKOV) / "bin" / "checkov"


def install_cfn_guard() -> Path:
    """Where cfn-guard is: it comes as source only, and is compiled once (about three minutes of CPU)."""
    found = shutil.which("cfn-guard")
    if found and CFN_GUARD in subprocess.run([found, "--version"], capture_output=True, text=True).stdout:
        return Path(found)
    with install.folder_once(f"cfn-guard-{CFN_GUARD}") as (folder, fresh):
        if fresh:
            cargo = shutil.which("cargo")
            if not cargo:
                raise install.Missing(f"cfn-guard {CFN_GUARD} is not on PATH, and there is no cargo to compile it")
            argv = [cargo, "install", f"cfn-guard@{CFN_GUARD}", "--locked", "--quiet", "--root", folder]
            install.run(argv, "compiling cfn-guard", env={**os.environ, "CARGO_TARGET_DIR": str(folder / "target")})
            shutil.rmtree(folder / "target", ignore_errors=True)
    return folder / "bin" / "cfn-guard"


class Broken(Exception):
    """A scanner did not do its work; the text says what it said."""


def run(argv, ok, **options) -> str:
    done = subprocess.run([str(part) for part in argv], capture_output=True, text=True, timeout=600, **options)
    if done.returncode not in ok:
        raise Broken(f"`{argv[0]}` ended with {done.returncode}: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def lint(program: Path, templates: list) -> dict:
    """What cfn-lint finds in templates, notes and warnings as well: lists of texts by file."""
    regions = ["--regions", *REGIONS]
    found = json.loads(
        run([program, "--format", "json", "--include-checks", "I", *regions, "--", *templates], range(0, 64)) or "[]"
    )
    by_file: dict = {}
    for finding in found:
        where = "/".join(map(str, finding["Location"].get("Path") or []))
        text = f"{finding['Rule']['Id']} {where}: {finding['Message']}"
        by_file.setdefault(finding["Filename"], []).append(text)
    return by_file


def checkov(program: Path, template: Path) -> dict:
    """What checkov says of a template: lists of its checks by `passed`, `failed`, `skipped`."""
    argv = [program, "--file", template, "--framework", "cloudformation", "--output", "json", "--skip-download"]
    said = json.loads(run(argv, (0, 1), env={**os.environ, "LOG_LEVEL": "ERROR"}))
    if said["summary"]["parsing_errors"]:
        raise Broken(f"checkov can't read {template}")
    return {kind: said["results"][f"{kind}_checks"] for kind in ("passed", "failed", "skipped")}


def guard_files() -> dict:
    """The rules of cfn-guard: text by file name."""
    return {path.name: path.read_text() for path in sorted(RULES.glob("*.guard"))}


def guard_rules() -> dict:
    """Every rule of cfn-guard with its file and the types that it looks at."""
    rules = {}
    for file, text in guard_files().items():
        kinds = {
            name: set(re.findall(r"AWS::\w+::\w+", body))
            for name, body in re.findall(r"^let (\w+) = (.*)$", text, re.MULTILINE)
        }
        bodies = {name: body for name, body in re.findall(r"^let (\w+) = (.*)$", text, re.MULTILINE)}
        for name, body in bodies.items():
            for other in re.findall(r"%(\w+)", body):
                kinds[name] |= kinds[other]
        for name, body in re.findall(r"^rule (\w+)(.*?)^\}", text, re.MULTILINE | re.DOTALL):
            used = set().union(*(kinds.get(variable, set()) for variable in re.findall(r"%(\w+)", body)), set())
            rules[name] = (file, tuple(sorted(used)))
    return rules


@dataclass(frozen=True)
class Verdict:
    """What cfn-guard says of one stack: the rules that hold, and those that don't, each with its reasons."""

    holds: frozenset
    fails: dict


def guard(program: Path, stacks: list) -> list:
    """The verdicts on all stacks, in their order.

    cfn-guard is called once for each file of rules. It is given only what that file's rules look at, and what is
    the same in several stacks only once: most mutations change one type of resource, and evaluating rules is slow.
    """
    holds, fails = [set() for _ in stacks], [{} for _ in stacks]
    kinds = {file: set() for file in guard_files()}
    for file, types in guard_rules().values():
        kinds[file].update(types)
    for file, text in guard_files().items():
        looked_at = [json.dumps({"Resources": stack.of(*kinds[file])}, sort_keys=True) for stack in stacks]
        distinct = list(dict.fromkeys(looked_at))
        results = dict(zip(distinct, evaluate(program, text, distinct)))
        for at, data in enumerate(looked_at):
            holds[at] |= set(results[data]["compliant"])
            fails[at].update({r["Rule"]["name"]: reasons(r) for r in results[data]["not_compliant"]})
    return [Verdict(frozenset(h), f) for h, f in zip(holds, fails)]


def evaluate(program: Path, rules: str, data: list) -> list:
    """What cfn-guard says of each text of data."""
    argv = [program, "validate", "--payload", "--structured", "--output-format", "json", "--show-summary", "none"]
    said = json.loads(run(argv, (0, 19), input=json.dumps({"rules": [rules], "data": data})))
    # Results are named DATA_STDIN[1], …
    said.sort(key=lambda result: int(re.search(r"\[(\d+)\]", result["name"]).group(1)))
    if len(said) != len(data):
        raise Broken(f"cfn-guard gave {len(said)} results for {len(data)} templates")
    return said


def reasons(node) -> list:
    """The places and messages of a rule that fails, from cfn-guard's tree of clauses."""
    found = []
    for _, part in walk(node):
        if isinstance(part, dict) and "messages" in part and "context" in part:
            place = re.search(r"Path=/Resources/([^\[]*)\[", part["messages"].get("error_message") or "")
            why = part["messages"].get("custom_message") or part["context"].strip()
            found.append(f"{place.group(1) if place else 'the template'}: {why}")
    return list(dict.fromkeys(found))


def failing_checks(stack: Stack) -> dict:
    """Our own checks that a stack fails: what is wrong, by name."""
    found = {name: list(check.problems(stack)) for name, check in CHECKS.items()}
    return {name: problems for name, problems in found.items() if problems}
