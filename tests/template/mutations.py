"""Broken fixtures: for each rule a change to the real template, after which that rule fails, and no other.

A change is made to the evaluated resources of one scenario (or to a file of the templates), so that it does not depend
on how the template is written. One that finds nothing to change is an error. Paths are keys parted by `/`, `*` for all.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Callable, Tuple

MUTATIONS: list = []


@dataclass(frozen=True)
class Mutation:
    """A change, the rule that it must trip, and others that can't but fail with it."""

    rule: str
    change: Callable
    label: str
    scenario: str
    also: Tuple[str, ...]


class NothingToChange(Exception):
    """The template has nothing that a mutation is about."""


def trips(rule: str, change, label: str = "", scenario: str = "full", also: Tuple[str, ...] = ()) -> None:
    """Registers a change that must make a rule fail."""
    MUTATIONS.append(Mutation(rule, change, label or change.label, scenario, also))


def labelled(label: str):
    """Gives a change the text that names it in messages."""

    def name(change):
        change.label = label
        return change

    return name


def places(node, path):
    """The (container, key) pairs that a path leads to; the last key need not be there in a dictionary."""
    if len(path) == 1:
        keys = (range(len(node)) if isinstance(node, list) else list(node)) if path[0] == "*" else [path[0]]
        return [(node, key) for key in keys]
    inside = (node if isinstance(node, list) else list(node.values())) if path[0] == "*" else [node.get(path[0])]
    return [found for part in inside if isinstance(part, (dict, list)) for found in places(part, path[1:])]


def matching(stack, kind: str, where) -> list:
    """The resources of a type whose properties fulfil a condition."""
    found = [r for r in stack.of(kind).values() if where is None or where(r["Properties"])]
    if not found:
        raise NothingToChange(f"no {kind}" + (" of that kind" if where else ""))
    return found


def put(kind: str, path: str, value, where=None):
    """Sets a property of all resources of a type."""

    @labelled(f"{kind.split('::', 1)[1]}: {path} = {json.dumps(value)[:60]}")
    def change(stack):
        parts, changed = path.split("/"), 0
        for resource in matching(stack, kind, where):
            for container, key in places(resource["Properties"], parts):
                changed += isinstance(container, list) or container.get(key) != value
                container[key] = value
        if not changed:
            raise NothingToChange(f"{kind}: nothing at {path}, or it is so already")

    return change


def drop(kind: str, path: str, where=None):
    """Removes a property of all resources of a type."""

    @labelled(f"{kind.split('::', 1)[1]}: no {path}")
    def change(stack):
        changed = 0
        for resource in matching(stack, kind, where):
            for container, key in reversed(places(resource["Properties"], path.split("/"))):
                if isinstance(container, list) or key in container:
                    del container[key]
                    changed += 1
        if not changed:
            raise NothingToChange(f"{kind}: nothing at {path}")

    return change


def attribute(kind: str, key: str, value):
    """Sets an attribute beside the properties, or removes it by None."""

    @labelled(f"{kind.split('::', 1)[1]}: {key} {value}")
    def change(stack):
        for resource in matching(stack, kind, None):
            resource.pop(key, None)
            if value is not None:
                resource[key] = value

    return change


def add(resource: dict):
    """Adds a resource."""

    @labelled(f"one more {resource['Type'].split('::', 1)[1]}")
    def change(stack):
        stack.resources["Added"] = {"DependsOn": [], "Properties": {}, **resource}

    return change


def remove(kind: str, where=None):
    """Removes all resources of a type."""

    @labelled(f"no {kind.split('::', 1)[1]}")
    def change(stack):
        for resource in matching(stack, kind, where):
            stack.resources = {name: r for name, r in stack.resources.items() if r is not resource}

    return change


def each(kind: str, edit, label: str, where=None):
    """Changes all resources of a type by a function of one's properties, which says whether it changed something."""

    @labelled(f"{kind.split('::', 1)[1]}: {label}")
    def change(stack):
        before = json.dumps(stack.resources)
        for resource in matching(stack, kind, where):
            edit(resource["Properties"])
        if json.dumps(stack.resources) == before:
            raise NothingToChange(f"{kind}: nothing there for `{label}`")

    return change


def role_statements(role: dict) -> list:
    """The statements of a role's or of a managed policy's properties."""
    documents = [policy["PolicyDocument"] for policy in [*role.get("Policies", []), role] if "PolicyDocument" in policy]
    return [s for document in documents for s in document["Statement"]]


def who_may(stack, action: str, trusted: str) -> list:
    """The statements with an action, of managed policies and of roles, or of roles that one service takes."""
    kinds = ("AWS::IAM::Role", "AWS::IAM::ManagedPolicy") if trusted is None else ("AWS::IAM::Role",)
    chosen = [
        p
        for _, p in stack.properties(*kinds)
        if trusted is None or trusted in json.dumps(p["AssumeRolePolicyDocument"])
    ]
    found = [s for properties in chosen for s in role_statements(properties) if action in s["Action"]]
    if not found:
        raise NothingToChange(f"no role may {action}")
    return found


def forbid(action: str, trusted: str = None):
    """Takes an action away from everybody, or from the roles of one service."""

    @labelled(f"nobody may {action}")
    def change(stack):
        for statement in who_may(stack, action, trusted):
            statement["Action"] = [a for a in statement["Action"] if a != action] or ["sts:GetCallerIdentity"]

    return change


def with_action(action: str, edit, label: str, trusted: str = None):
    """Changes every statement that allows an action."""

    @labelled(f"{action}: {label}")
    def change(stack):
        for statement in who_may(stack, action, trusted):
            edit(statement)

    return change


def topic_setting(key: str, value):
    """Sets a setting within a topic's Configs."""

    @labelled(f"MSK::Topic: {key} {value}")
    def change(stack):
        for topic in matching(stack, "AWS::MSK::Topic", None):
            found = json.loads(base64.b64decode(topic["Properties"]["Configs"]))
            found[key] = value
            topic["Properties"]["Configs"] = base64.b64encode(json.dumps(found).encode()).decode()

    return change


def with_machine(change):
    """A change that shows only where the training's state machine is there."""

    @labelled(change.label)
    def whole(stack):
        if not stack.machine():
            raise NothingToChange("no templates/training.asl.json")
        change(stack)

    return whole


def machine(edit, label: str):
    """Changes the training's state machine in its file."""

    @labelled(f"training.asl.json: {label}")
    def change(stack):
        found = stack.machine()
        if not found:
            raise NothingToChange("no templates/training.asl.json")
        before = json.dumps(found)
        edit(found)
        if json.dumps(found) == before:
            raise NothingToChange(f"training.asl.json: nothing there for `{label}`")
        stack.files["training.asl.json"] = json.dumps(found)

    return change


def job(edit, label: str):
    """Changes the arguments with which the workflow begins its training job."""
    from checks import tasks

    def whole(found):
        jobs = [state for _, state in tasks(found) if "createTrainingJob" in state["Resource"]]
        if not jobs:
            raise NothingToChange("the workflow begins no training job")
        for state in jobs:
            edit(state.get("Arguments") or state["Parameters"])

    return machine(whole, label)


def state(edit, label: str):
    """Changes the tasks of the workflow."""
    from checks import tasks

    return machine(lambda found: [edit(task) for _, task in tasks(found)], label)


def file(name: str, text: str, label: str):
    """A file that is there as well."""

    @labelled(label)
    def change(stack):
        stack.files[name] = text

    return change
