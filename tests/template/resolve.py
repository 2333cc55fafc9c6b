"""The template as CloudFormation sees it: read with its tags, and evaluated for given parameters.

What only exists once it is deployed stays as a mark: `<Cluster.Arn>` for an attribute, `<Cluster>` for a reference. So
rules see names, versions and policies as they will be, whichever function, mapping or condition they come from.
"""

from __future__ import annotations

import base64
import copy
import ipaddress
import json
import re

# A stack name as somebody may choose it: what is made of it must not break where hyphens or capitals are refused.
PSEUDO = {
    "AWS::AccountId": "111122223333",
    "AWS::Partition": "aws",
    "AWS::Region": "us-east-1",
    "AWS::StackName": "Vitals-Prod",
    "AWS::StackId": "arn:aws:cloudformation:us-east-1:111122223333:stack/Vitals-Prod/"
    "0a1b2c3d-e9f8-11ee-a506-0242ac120002",
    "AWS::URLSuffix": "amazonaws.com",
    "AWS::NotificationARNs": [],
}
REMOVED = object()
IN_TEXT = re.compile(r"\$\{(!?)([^}]*)\}")


class Unresolved(Exception):
    """The template holds something that can't be evaluated; the text says what."""


def read(text: str) -> dict:
    """A template in YAML or JSON, its tags written out as functions."""
    import yaml  # cfn-lint brings it

    class Loader(yaml.SafeLoader):
        """Without dates: a policy's version is text."""

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:timestamp"]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def function(loader, tag, node):
        if isinstance(node, yaml.ScalarNode):
            value = loader.construct_scalar(node)
        elif isinstance(node, yaml.SequenceNode):
            value = loader.construct_sequence(node, deep=True)
        else:
            value = loader.construct_mapping(node, deep=True)
        if tag == "GetAtt" and isinstance(value, str):
            value = value.split(".", 1)
        return {tag if tag in ("Ref", "Condition") else f"Fn::{tag}": value}

    Loader.add_multi_constructor("!", function)
    return yaml.load(text, Loader)


class Piece(str):
    """Something that can't be split before it is known."""


class Resolver:
    """Evaluates a template for a set of parameters."""

    def __init__(self, template: dict, given: dict):
        self.template = template
        self.parameters = dict(PSEUDO)
        unknown = set(given) - set(template.get("Parameters", {}))
        if unknown:
            raise Unresolved(f"the template has no parameters {sorted(unknown)}")
        for name, declared in template.get("Parameters", {}).items():
            self.parameters[name] = parameter(name, declared, given)
        self.conditions: dict = {}
        self.absent = {
            name
            for name, resource in template["Resources"].items()
            if "Condition" in resource and not self.condition(resource["Condition"])
        }

    def resources(self) -> dict:
        """Every resource that exists, evaluated."""
        present = {n: r for n, r in self.template["Resources"].items() if n not in self.absent}
        return {name: self.resource(name, resource) for name, resource in present.items()}

    def resource(self, name: str, resource: dict) -> dict:
        try:
            found = {key: self.value(value) for key, value in resource.items() if key != "Condition"}
        except Unresolved as error:
            raise Unresolved(f"{name}: {error}") from error
        depends = found.get("DependsOn", [])
        # Waiting for what does not exist is not waiting.
        found["DependsOn"] = [
            on for on in ([depends] if isinstance(depends, str) else depends) if on not in self.absent
        ]
        found.setdefault("Properties", {})
        return policies_as_lists(found)

    def outputs(self) -> dict:
        """The outputs whose condition holds."""
        declared = self.template.get("Outputs", {})
        return {
            name: self.value(output["Value"])
            for name, output in declared.items()
            if "Condition" not in output or self.condition(output["Condition"])
        }

    def condition(self, name: str) -> bool:
        """Whether a condition of the template holds."""
        if name not in self.conditions:
            self.conditions[name] = self.holds(self.template["Conditions"][name])
        return self.conditions[name]

    def holds(self, expression) -> bool:
        ((function, argument),) = expression.items()
        if function == "Condition":
            return self.condition(argument)
        if function == "Fn::Equals":
            left, right = (text(self.value(side)) for side in argument)
            return left == right
        if function == "Fn::Not":
            return not self.holds(argument[0])
        if function in ("Fn::And", "Fn::Or"):
            return (all if function == "Fn::And" else any)([self.holds(part) for part in argument])
        raise Unresolved(f"no condition function {function}")

    def value(self, node):
        """A node with its functions evaluated."""
        if isinstance(node, list):
            return [found for found in map(self.value, node) if found is not REMOVED]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            ((key, argument),) = node.items()
            if key == "Ref":
                return self.reference(argument)
            # In policies `Condition` is a key as any other; as a function it stands in conditions only.
            if key.startswith("Fn::"):
                return self.function(key, argument)
        found = {key: self.value(value) for key, value in node.items()}
        return {key: value for key, value in found.items() if value is not REMOVED}

    def reference(self, name: str):
        if name == "AWS::NoValue":
            return REMOVED
        if name in self.parameters:
            return self.parameters[name]
        if name in self.absent:
            raise Unresolved(f"refers to {name}, which does not exist under these parameters")
        if name not in self.template["Resources"]:
            raise Unresolved(f"refers to {name}, which is nowhere")
        return f"<{name}>"

    def attribute(self, resource: str, name: str) -> str:
        self.reference(resource)
        return f"<{resource}.{name}>"

    def function(self, key: str, argument):
        if key == "Fn::If":
            return self.value(argument[1 if self.condition(argument[0]) else 2])
        if key == "Fn::Sub":
            return self.substituted(argument)
        if key == "Fn::GetAtt":
            parts = argument.split(".", 1) if isinstance(argument, str) else argument
            return self.attribute(parts[0], self.value(parts[1]))
        argument = self.value(argument)
        if key == "Fn::Join":
            return argument[0].join(text(part) for part in as_list(argument[1]))
        if key == "Fn::Split":
            parts = argument[1].split(argument[0])
            # What is within a mark is not known yet: a piece of it is the mark.
            return Piece(argument[1]) if len(parts) == 1 and "<" in argument[1] else parts
        if key == "Fn::Select":
            return self.selected(*argument)
        if key == "Fn::FindInMap":
            return self.mapped(argument)
        if key == "Fn::Base64":
            return base64.b64encode(argument.encode()).decode()
        if key == "Fn::GetAZs":
            return [f"<zone {letter} by the order of a list>" for letter in "abc"]
        if key == "Fn::Cidr":
            return subnets(*argument)
        if key == "Fn::ToJsonString":
            return json.dumps(argument)
        if key == "Fn::Length":
            return len(argument)
        raise Unresolved(f"can't evaluate {key}")

    def substituted(self, argument) -> str:
        pattern, own = argument if isinstance(argument, list) else (argument, {})
        own = {key: self.value(value) for key, value in own.items()}

        def one(match):
            literal, name = match.groups()
            if literal:
                return f"${{{name}}}"
            if name in own:
                return text(own[name])
            resource, _, attribute = name.partition(".")
            return text(self.attribute(resource, attribute) if attribute else self.reference(name))

        return IN_TEXT.sub(one, pattern)

    def selected(self, index, values):
        if isinstance(values, Piece):
            return str(values)
        if int(index) >= len(values):
            raise Unresolved(f"selects item {index} of {len(values)}")
        return values[int(index)]

    def mapped(self, argument):
        name, first, second = argument[:3]
        try:
            return copy.deepcopy(self.template["Mappings"][name][first][second])
        except KeyError as error:
            if len(argument) > 3:
                return argument[3]["DefaultValue"]
            raise Unresolved(f"mapping {name} has no {first} / {second}") from error


def parameter(name: str, declared: dict, given: dict):
    """A parameter's value, checked as CloudFormation checks it."""
    value = given.get(name, declared.get("Default"))
    if value is None:
        raise Unresolved(f"parameter {name} has no default and is not given")
    kind = declared["Type"]
    parts = str(value).split(",") if "List" in kind else [str(value)]
    for part in parts:
        allowed, pattern = declared.get("AllowedValues"), declared.get("AllowedPattern")
        if allowed is not None and part not in map(str, allowed):
            raise Unresolved(f"parameter {name}: `{part}` is none of {allowed}")
        if pattern is not None and not re.fullmatch(pattern, part):
            raise Unresolved(f"parameter {name}: `{part}` does not match {pattern}")
    if kind.startswith("AWS::SSM"):
        return f"<parameter store {value}>"
    if "List" in kind:
        return [part.strip() for part in parts if part.strip()]
    if kind != "Number":
        return str(value)
    return float(value) if "." in str(value) else int(value)


def subnets(block: str, count, bits=8) -> list:
    """What Fn::Cidr gives."""
    network = ipaddress.ip_network(block)
    cut = network.subnets(new_prefix=network.max_prefixlen - int(bits))
    return [str(next(cut)) for _ in range(int(count))]


def text(value) -> str:
    """A value within a text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(map(text, value))
    return str(value)


def as_list(value) -> list:
    return value if isinstance(value, list) else [value]


def policies_as_lists(node):
    """Statements, actions, resources as lists everywhere, so that a rule has one form to look at."""
    if isinstance(node, list):
        return [policies_as_lists(part) for part in node]
    if not isinstance(node, dict):
        return node
    found = {key: policies_as_lists(value) for key, value in node.items()}
    if "Statement" in found:
        found["Statement"] = as_list(found["Statement"])
    if "Effect" in found:
        for key in ("Action", "NotAction", "Resource", "NotResource"):
            if key in found:
                found[key] = as_list(found[key])
        if isinstance(found.get("Principal"), dict):
            found["Principal"] = {kind: as_list(who) for kind, who in found["Principal"].items()}
    return found


def resolve(template: dict, given: dict) -> dict:
    """The template under these parameters: resources that exist, evaluated, and the outputs."""
    resolver = Resolver(template, given)
    return {"Resources": resolver.resources(), "Outputs": resolver.outputs()}
