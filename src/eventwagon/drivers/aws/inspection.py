"""What the settings of the table and the queues mean for the events in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...contracts.broker import Finding, told_together
from .clients import Clients
from .errors import AWSRefused, is_forbidden

_LONGEST = 1_209_600
"""The longest, in seconds, for which SQS keeps a message."""
_LARGEST = 262_144
OURS = frozenset(
    {
        "published",
        "settled",
        "resent",
        "tried",
        "wagon",
        "revision",
        "until",
        "pages",
        "keep",
        "count",
        "handled",
        "held",
        "failed",
    }
)
"""Attributes of our items that are numbers: DynamoDB may be told to take one for an item's expiry time."""


async def inspect_table(clients: Clients, *, is_new: bool) -> list[Finding]:
    """Findings about the DynamoDB table; `is_new`: this process has created it. Raises one of TROUBLE."""
    name = clients.place.table
    found = list[Finding]()
    if is_new:
        means = "there was none; it stays, and costs nothing while it is empty"
        found.append(Finding(severity="fine", what=f"table {name} was created just now", means=means))
    found += list(findings_of_table(await _asked(clients, "dynamodb", "describe_table", TableName=name)))
    found += findings_of_expiry(await _asked(clients, "dynamodb", "describe_time_to_live", TableName=name))
    return found


async def inspect_queues(clients: Clients, queues: Mapping[str, str]) -> list[Finding]:
    """Findings about these queues, by name with their URLs. Raises one of TROUBLE."""
    found = dict[str, Sequence[Finding]]()
    for name, url in queues.items():
        try:
            answer = await _asked(clients, "sqs", "get_queue_attributes", QueueUrl=url, AttributeNames=["All"])
        except AWSRefused as e:
            if e.gone:
                continue
            raise
        found[name] = list(findings_of_queue(answer))
    return told_together(found)


async def _asked(clients: Clients, service: str, operation: str, **given: Any) -> dict[str, Any] | None:
    """The answer; None if the rights don't allow the call."""
    try:
        return await clients.call(service, operation, **given)
    except AWSRefused as e:
        if is_forbidden(e):
            return None
        raise


def findings_of_table(answer: Mapping[str, Any] | None) -> Iterator[Finding]:
    """What DescribeTable's answer means for events; None: it was refused."""
    if answer is None:
        means = "billing, protection and replicas of the table can't be seen"
        yield Finding(severity="unknown", what="the table", means=means, todo="allow dynamodb:DescribeTable")
        return
    table: Mapping[str, Any] = answer["Table"]
    mode = table.get("BillingModeSummary", {}).get("BillingMode", "PROVISIONED")
    if mode == "PAY_PER_REQUEST":
        yield Finding(severity="fine", what="BillingMode=PAY_PER_REQUEST", means="the table has no fixed capacity")
    else:
        yield Finding(
            severity="costs",
            what=f"BillingMode={mode}",
            means="writes above the provisioned capacity are refused, so publishing waits, just when a burst comes",
            todo="aws dynamodb update-table --billing-mode PAY_PER_REQUEST",
        )
    if table.get("DeletionProtectionEnabled"):
        yield Finding(severity="fine", what="deletion protection", means="the table can't be deleted by mistake")
    else:
        yield Finding(
            severity="costs",
            what="no deletion protection",
            means="one call deletes the table with all events and manifests",
            todo="aws dynamodb update-table --deletion-protection-enabled",
        )
    if table.get("Replicas"):
        yield Finding(
            severity="loses",
            what="a global table",
            means="regions overwrite each other blindly: one region's seal, claim or manifest can be lost to another",
            todo="only one region writes: no replicas",
        )


def findings_of_expiry(answer: Mapping[str, Any] | None) -> Iterator[Finding]:
    """What DescribeTimeToLive's answer means for events; None: it was refused."""
    what, todo = "time to live of the table's items", "aws dynamodb update-time-to-live --time-to-live-specification "
    if answer is None:
        means = "can't see whether DynamoDB removes items by a date in them"
        yield Finding(severity="unknown", what=what, means=means, todo="allow dynamodb:DescribeTimeToLive")
        return
    said = answer.get("TimeToLiveDescription", {})
    attribute = said.get("AttributeName", "")
    if said.get("TimeToLiveStatus") not in ("ENABLED", "ENABLING"):
        yield Finding(severity="fine", what=f"{what}: off", means="only eventwagon deletes items")
    elif attribute in OURS:
        means = (
            "events, counters, manifests or check-ins have this attribute with another meaning: DynamoDB removes them"
        )
        todo += f"Enabled=false,AttributeName={attribute}"
        yield Finding(severity="loses", what=f"{what}: by {attribute!r}", means=means, todo=todo)
    else:
        means = "none of eventwagon's items has such an attribute"
        yield Finding(severity="fine", what=f"{what}: by {attribute!r}", means=means)


def findings_of_queue(answer: Mapping[str, Any] | None) -> Iterator[Finding]:
    """What GetQueueAttributes' answer means for events; None: it was refused."""
    if answer is None:
        means = "retention, size and redrive policy of the queues can't be seen"
        yield Finding(severity="unknown", what="the queues", means=means, todo="allow sqs:GetQueueAttributes")
        return
    has: Mapping[str, str] = answer.get("Attributes", {})
    kept = int(has.get("MessageRetentionPeriod", _LONGEST))
    what = f"MessageRetentionPeriod={kept}"
    if kept < _LONGEST:
        means = f"SQS drops messages after {kept / 86_400:.1f} days; they are sent again from the table, at extra cost"
        yield Finding(severity="costs", what=what, means=means, todo=f"set it to {_LONGEST} (14 days)")
    else:
        means = "14 days, the maximum; events that wait longer are sent again from the table"
        yield Finding(severity="fine", what=what, means=means)
    if "RedrivePolicy" in has:
        yield Finding(
            severity="costs",
            what="a redrive policy",
            means="SQS moves away messages that were received several times; they are sent again from the table, late "
            "and twice",
            todo="none on these queues: eventwagon counts attempts and keeps dead letters by itself",
        )
    if int(has.get("DelaySeconds", 0)):
        means = "every event waits that long before it is delivered"
        yield Finding(severity="costs", what=f"DelaySeconds={has['DelaySeconds']}", means=means, todo="set it to 0")
    if (largest := int(has.get("MaximumMessageSize", _LARGEST))) < _LARGEST:
        means = "batches and events that are larger are refused"
        what = f"MaximumMessageSize={largest}"
        yield Finding(severity="costs", what=what, means=means, todo=f"set it to {_LARGEST} or more")
