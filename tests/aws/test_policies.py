"""The shipped IAM policies against the calls in the code: nothing is missing, and nothing is allowed that no code asks
for. Whether AWS agrees, moto can't tell: it enforces no policy."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = ROOT / "src" / "eventwagon"
_NAMED = re.compile(r'"(sqs|dynamodb|lambda|ecs)",\s*"([a-z_]+)"')
_OWN = re.compile(r'_(?:call|batch)\(\s*"([a-z_]+)"')
_OTHERWISE = {  # AWS checks other rights for these
    "sqs:SendMessageBatch": {"sqs:SendMessage"},
    "sqs:DeleteMessageBatch": {"sqs:DeleteMessage"},
    "sqs:ChangeMessageVisibilityBatch": {"sqs:ChangeMessageVisibility"},
    "sqs:CreateQueue": {"sqs:CreateQueue", "sqs:TagQueue"},
    "lambda:Invoke": {"lambda:InvokeFunction"},
    "ecs:CreateService": {"ecs:CreateService", "ecs:TagResource"},
    "ecs:RegisterTaskDefinition": {"ecs:RegisterTaskDefinition", "ecs:TagResource", "iam:PassRole"},
}
_ONCE = {"dynamodb:CreateTable"}  # documented as a right for making the table


def allowed(*policies: str) -> set[str]:
    actions: set[str] = set()
    for policy in policies:
        document = json.loads((ROOT / "deploy" / "aws" / f"{policy}-policy.json").read_text())
        assert document["Version"] == "2012-10-17"
        for statement in document["Statement"]:
            assert statement["Effect"] == "Allow"
            given = statement["Action"]
            actions |= {given} if isinstance(given, str) else set(given)
    assert not any("*" in action for action in actions)
    return actions


def asked(*files: str) -> set[str]:
    """The rights that the calls in these files need."""
    calls: set[str] = set()
    for path in (p for each in files for p in sorted(CODE.glob(each))):
        text = path.read_text()
        service = "dynamodb" if path.name == "table.py" else "sqs"
        found = [*_NAMED.findall(text), *((service, name) for name in _OWN.findall(text))]
        calls |= {f"{of}:{name.title().replace('_', '')}" for of, name in found}
    return {right for call in calls for right in _OTHERWISE.get(call, {call})} - _ONCE


def test_a_train_has_the_rights_that_its_calls_need_and_no_others() -> None:
    assert allowed("train") == asked("_aws/*.py", "brokers/sqs/*.py", "registries/dynamodb.py")
    publisher = allowed("publisher")
    assert publisher < allowed("train")
    assert publisher.isdisjoint({"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:DeleteQueue"})


@pytest.mark.parametrize(("policy", "file"), [("lambda", "mappings"), ("ecs", "services")])
def test_an_orchestrator_has_the_rights_that_its_calls_need_and_no_others(policy: str, file: str) -> None:
    assert allowed(f"{policy}-orchestrator") == asked(f"orchestrators/aws/{file}.py")
