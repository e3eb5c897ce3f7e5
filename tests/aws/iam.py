"""In the place of IAM: each call is judged by the policy of the role that makes it. moto judges actions alone, and
takes any condition for a refusal, so this reads policies itself: actions, resources, and the conditions that ours
have."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from eventwagon.drivers.aws.clients import Clients
from eventwagon.drivers.aws.errors import AWSRefused

POLICIES = Path(__file__).resolve().parents[2] / "deploy" / "aws"
ACCOUNT = "123456789012"
REGION = "eu-west-1"
_acting: ContextVar[str] = ContextVar("acting", default="")
_OTHERWISE = {  # AWS checks other rights for these
    "sqs:SendMessageBatch": "sqs:SendMessage",
    "sqs:DeleteMessageBatch": "sqs:DeleteMessage",
    "sqs:ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
    "lambda:Invoke": "lambda:InvokeFunction",
}


class Asked(NamedTuple):
    """One right that a call needs."""

    action: str
    resource: str = "*"
    context: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Condition keys and their values in the request."""


class Iam:
    """The policies of each role, and what they allowed. What is called without a role is the test's own and may be."""

    def __init__(self) -> None:
        self.policies: dict[str, Sequence[Mapping[str, Any]]] = {}
        self.denied: list[tuple[str, Asked]] = []
        self.used: set[tuple[str, str, str]] = set()
        """Role, statement and action that allowed something."""

    @contextmanager
    def enforced(self) -> Iterator[None]:
        """While entered, clients ask here first."""
        real, iam = Clients.call, self

        async def call(clients: Clients, service: str, operation: str, /, **given: Any) -> dict[str, Any]:
            if role := _acting.get():
                for right in rights(service, operation, given):
                    iam.judge(role, right)
            answer: dict[str, Any] = await real(clients, service, operation, **given)
            return answer

        Clients.call = call  # type: ignore[method-assign]
        try:
            yield
        finally:
            Clients.call = real  # type: ignore[method-assign]

    def judge(self, role: str, right: Asked) -> None:
        """Raises AWSRefused as AWS refuses."""
        for statement in self.policies[role]:
            if allows(statement, right):
                self.used.add((role, statement["Sid"], right.action))
                return
        self.denied.append((role, right))
        text = f"{role} is not authorized to perform: {right.action} on resource: {right.resource}"
        said = {
            "Error": {"Code": "AccessDeniedException", "Message": text},
            "ResponseMetadata": {"HTTPStatusCode": 400},
        }
        raise AWSRefused(ClientError(said, right.action))

    def unused(self, role: str) -> set[tuple[str, str]]:
        """Statements and actions of its policies that allowed nothing."""
        given = {(s["Sid"], action) for s in self.policies[role] for action in listed(s["Action"])}
        return given - {(sid, action) for who, sid, action in self.used if who == role}


@contextmanager
def acting(role: str) -> Iterator[None]:
    """What is called, and what is started, while entered is done by that role."""
    token = _acting.set(role)
    try:
        yield
    finally:
        _acting.reset(token)


def statements(*names: str, **words: str) -> list[Mapping[str, Any]]:
    """Of shipped policies, their placeholders filled in."""
    found: list[Mapping[str, Any]] = []
    for name in names:
        text = (POLICIES / f"{name}-policy.json").read_text()
        for word, value in {"REGION": REGION, "ACCOUNT": ACCOUNT, **words}.items():
            text = text.replace(word, value)
        document = json.loads(text)
        assert document["Version"] == "2012-10-17"
        found += [{**statement, "Sid": f"{name}:{statement['Sid']}"} for statement in document["Statement"]]
    assert all(each["Effect"] == "Allow" for each in found)
    return found


def allows(statement: Mapping[str, Any], right: Asked) -> bool:
    """Whether it allows that: action, resource and all conditions."""
    if right.action not in listed(statement["Action"]):
        return False
    if not any(fnmatch.fnmatchcase(right.resource, each) for each in listed(statement["Resource"])):
        return False
    context = dict(right.context)
    for operator, keys in statement.get("Condition", {}).items():
        every, _, kind = operator.rpartition(":")
        assert kind in ("StringLike", "StringEquals", "ArnLike"), operator
        assert every in ("", "ForAllValues"), operator
        for key, patterns in keys.items():
            values = context.get(key, ())
            if not values and not every:
                return False
            if not all(any(fnmatch.fnmatchcase(value, each) for each in listed(patterns)) for value in values):
                return False
    return True


def listed(value: str | Sequence[str]) -> Sequence[str]:
    """One or several, as policies write both."""
    return [value] if isinstance(value, str) else value


def rights(service: str, operation: str, given: Mapping[str, Any]) -> list[Asked]:
    """The rights that AWS asks for, for this call."""
    name = f"{service}:{operation.title().replace('_', '')}"
    action = _OTHERWISE.get(name, name)
    arn = f"arn:aws:{service}:{REGION}:{ACCOUNT}"
    if service == "sqs":
        queue = given.get("QueueName") or str(given["QueueUrl"]).rpartition("/")[2]
        asked = [Asked(action, f"{arn}:{queue}")]
        return [*asked, Asked("sqs:TagQueue", f"{arn}:{queue}")] if given.get("tags") else asked
    if operation == "transact_write_items":  # no right of its own: those of its parts
        parts = [(kind, part) for each in given["TransactItems"] for kind, part in each.items()]
        return [_of_table(f"dynamodb:{kind}Item", arn, part) for kind, part in parts]
    if service == "dynamodb":
        return [_of_table(action, arn, given)]
    if service == "lambda":
        return _of_lambda(action, arn, given)
    return _of_ecs(action, arn, given)


def _of_table(action: str, arn: str, given: Mapping[str, Any]) -> Asked:
    keys = [given[name]["pk"]["S"] for name in ("Key", "Item") if name in given]
    tables = [given["TableName"]] if "TableName" in given else list(given["RequestItems"])
    for asked in given.get("RequestItems", {}).values():
        if isinstance(asked, dict):
            keys += [key["pk"]["S"] for key in asked["Keys"]]
        else:
            keys += [
                (each.get("PutRequest") or each["DeleteRequest"]).popitem()[1]["pk"]["S"] for each in _copies(asked)
            ]
    if "KeyConditionExpression" in given:
        keys.append(given["ExpressionAttributeValues"][":pk"]["S"])
    (table,) = tables
    return Asked(action, f"{arn}:table/{table}", (("dynamodb:LeadingKeys", tuple(sorted(set(keys)))),) if keys else ())


def _copies(requests: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, dict[str, Any]]]:
    for request in requests:
        yield {kind: dict(what) for kind, what in request.items()}


def _of_lambda(action: str, arn: str, given: Mapping[str, Any]) -> list[Asked]:
    if action == "lambda:ListEventSourceMappings":
        return [Asked(action)]
    if "EventSourceMapping" in action:
        named = given.get("FunctionName") or _mapped.get(given.get("UUID", ""), "")
        context = (("lambda:FunctionArn", (f"{arn}:function:{named}",)),) if named else ()
        asked = [Asked(action, f"{arn}:event-source-mapping:{given.get('UUID', 'new')}", context)]
        return [*asked, Asked("lambda:TagResource", f"{arn}:event-source-mapping:new")] if given.get("Tags") else asked
    return [Asked(action, f"{arn}:function:{given['FunctionName']}")]


_mapped: dict[str, str] = {}
"""By mapping: its function, which AWS knows and a request need not say."""


def know_mappings(clients: Clients) -> None:
    """From now on, of the mappings that this client makes."""
    real = clients.call

    async def call(service: str, operation: str, /, **given: Any) -> dict[str, Any]:
        answer: dict[str, Any] = await real(service, operation, **given)
        if operation == "create_event_source_mapping":
            _mapped[answer["UUID"]] = given["FunctionName"]
        return answer

    clients.call = call  # type: ignore[method-assign]


def _of_ecs(action: str, arn: str, given: Mapping[str, Any]) -> list[Asked]:
    asked: list[Asked] = []
    if action == "ecs:RegisterTaskDefinition":
        asked.append(Asked(action))
        roles = {given[each] for each in ("taskRoleArn", "executionRoleArn") if given.get(each)}
        service = (("iam:PassedToService", ("ecs-tasks.amazonaws.com",)),)
        asked += [Asked("iam:PassRole", role, service) for role in sorted(roles)]
        tagged = f"{arn}:task-definition/{given['family']}:1"
    elif "TaskDefinition" in action:
        return [Asked(action)]
    else:
        name = given.get("serviceName") or given.get("service") or given["services"][0]
        tagged = f"{arn}:service/{given['cluster']}/{name}"
        asked.append(Asked(action, tagged))
    if given.get("tags"):
        asked.append(Asked("ecs:TagResource", tagged))
    return asked
