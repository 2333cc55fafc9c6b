"""Rules in Python: what a rule of cfn-guard can't say, since it looks at several resources or files together.

A check takes a `Stack` and gives what is wrong, one text each. Its name is the rule's, its docstring the promise.
"""

from __future__ import annotations

import fnmatch
import json
import re
from dataclasses import dataclass
from typing import Callable, Iterable, Tuple


@dataclass(frozen=True)
class Check:
    """A rule: the types of resources that it looks at, and what it promises."""

    name: str
    types: Tuple[str, ...]
    promise: str
    problems: Callable[["Stack"], Iterable[str]]
    file: str


CHECKS: dict = {}


def check(*types: str):
    """Registers a function as a rule about these types."""

    def register(function):
        promise = " ".join((function.__doc__ or "").split())
        assert promise, f"{function.__name__} says nothing of what it promises"
        assert function.__name__ not in CHECKS, f"two checks are named {function.__name__}"
        file = function.__module__ + ".py"
        CHECKS[function.__name__] = Check(function.__name__, types, promise, function, file)
        return function

    return register


class Stack:
    """A template as written, as it is under one scenario's parameters, and the files that it comes with."""

    def __init__(self, raw: dict, resolved: dict, files: dict, tags: frozenset):
        self.raw, self.resources, self.files, self.tags = raw, resolved["Resources"], files, tags

    def of(self, *types: str) -> dict:
        """The resources of some types, by their logical names."""
        return {name: resource for name, resource in self.resources.items() if resource["Type"] in types}

    def properties(self, *types: str) -> list:
        """Pairs of a logical name and its properties."""
        return [(name, resource["Properties"]) for name, resource in self.of(*types).items()]

    def roles(self, service: str = None) -> dict:
        """Roles by logical name, each with its statements that allow; of one service, where it is named."""
        found = {}
        for name, role in self.properties("AWS::IAM::Role"):
            trusted = [
                who for s in role["AssumeRolePolicyDocument"]["Statement"] for who in s["Principal"].get("Service", [])
            ]
            if service is None or service in trusted:
                found[name] = self.allowed(role)
        return found

    def allowed(self, role: dict) -> list:
        """What a role's policies allow: those in it, and those of this stack that it names."""
        managed = mentioned(role.get("ManagedPolicyArns", [])) & set(self.of("AWS::IAM::ManagedPolicy"))
        documents = [policy["PolicyDocument"] for policy in role.get("Policies", [])]
        documents += [self.resources[name]["Properties"]["PolicyDocument"] for name in sorted(managed)]
        return [s for document in documents for s in document["Statement"] if s["Effect"] == "Allow"]

    def allowed_by(self, roles: set) -> list:
        """The same for roles by their logical names."""
        return [
            s
            for role in roles & set(self.of("AWS::IAM::Role"))
            for s in self.allowed(self.resources[role]["Properties"])
        ]

    def machine(self) -> dict:
        """The training's state machine as its file has it; empty where there is none yet."""
        return json.loads(self.files.get("training.asl.json", "{}"))

    def spelt_out(self, node) -> str:
        """A node of the machine as text, each `$.path` in it followed by what a Pass state puts there."""
        put = {}
        for _, state in walk(self.machine()):
            if isinstance(state, dict) and state.get("Type") == "Pass":
                for _, part in walk(state.get("Parameters", {})):
                    if isinstance(part, dict):
                        put.update({key.removesuffix(".$"): json.dumps(value) for key, value in part.items()})
        spelt = json.dumps(node)
        # A path leads to another at most twice here; more rounds would only repeat it.
        for _ in range(3):
            spelt = re.sub(
                r"\$\.[\w.]*\b(\w+)(?!\w| :=)", lambda m: f"{m.group(0)} := {put.get(m.group(1), '?')}", spelt
            )
        return spelt

    def tasks_of_machine(self) -> dict:
        """Its states of type Task, however deep, by name."""
        return dict(tasks(self.machine()))


def allowing(found: list, action: str) -> list:
    """The statements that allow an action."""
    return [s for s in found if any(fnmatch.fnmatchcase(action, pattern) for pattern in s.get("Action", []))]


def resources_for(found: list, action: str) -> set:
    """Where a role may do something."""
    return {resource for statement in allowing(found, action) for resource in statement["Resource"]}


def tasks(machine: dict):
    """Pairs of name and state: those of type Task in a machine and in its branches and iterators."""
    for name, state in machine.get("States", {}).items():
        if state.get("Type") == "Task":
            yield name, state
        for part in within(state):
            yield from tasks(part)


def within(state: dict) -> list:
    """The machines within a state: branches of a Parallel, the processor of a Map."""
    return [*state.get("Branches", []), state.get("Iterator", {}), state.get("ItemProcessor", {})]


def walk(node, path=()):
    """Every node of a tree, with its path."""
    yield path, node
    if isinstance(node, dict):
        for key, value in node.items():
            yield from walk(value, (*path, key))
    elif isinstance(node, list):
        for at, value in enumerate(node):
            yield from walk(value, (*path, at))


def texts(node):
    """Every text of a tree, with its path."""
    return ((path, value) for path, value in walk(node) if isinstance(value, str))


def mentioned(value) -> set:
    """The logical names of the resources that an evaluated value refers to."""
    return {name for _, text in texts(value) for name in re.findall(r"<([A-Za-z0-9]+)(?:\.[A-Za-z.]+)?>", text)}


def bucket_of(arn: str) -> str:
    """The bucket in an evaluated ARN or address of S3, as a mark or a name."""
    found = re.match(r"(?:arn:aws:s3:::|s3://)?(<[A-Za-z0-9]+)", arn)
    return found.group(1)[1:] if found else re.sub(r"^(arn:aws:s3:::|s3://)", "", arn).split("/")[0]
