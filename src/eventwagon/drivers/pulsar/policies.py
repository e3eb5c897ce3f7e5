"""The policies of a topic, its namespace and the server that drop unsettled events. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ...contracts.broker import Finding

_EVICTION = "consumer_backlog_eviction"


class Level(msgspec.Struct, frozen=True):
    """Policies as they were set at one level; None: not set there, or not visible."""

    ttl: int | None = None
    """Seconds."""
    expiration: int | None = None
    """Of idle subscriptions, in minutes."""
    quotas: Mapping[str, Any] | None = None
    """A backlog quota for each kind (destination_storage, message_age)."""
    inactive: Mapping[str, Any] | None = None


def of_topic(ttl: Any, quotas: Any, inactive: Any) -> Level:
    """From the API's answers about the topic's own policies."""
    return Level(ttl if isinstance(ttl, int) else None, None, quotas or None, inactive or None)


def of_namespace(policies: Mapping[str, Any]) -> Level:
    """From the namespace's policies."""
    return Level(
        policies.get("message_ttl_in_seconds"),
        policies.get("subscription_expiration_time_minutes"),
        policies.get("backlog_quota_map") or None,
        policies.get("inactive_topic_policies") or None,
    )


def of_server(runtime: Mapping[str, str]) -> Level:
    """From the server's configuration."""
    policy = runtime.get("backlogQuotaDefaultRetentionPolicy", "")
    size = max(
        float(runtime.get("backlogQuotaDefaultLimitBytes", -1)),
        float(runtime.get("backlogQuotaDefaultLimitGB", -1)) * (1 << 30),
    )
    age = int(runtime.get("backlogQuotaDefaultLimitSecond", -1))
    return Level(
        int(runtime.get("ttlDurationDefaultInSeconds", 0)),
        int(runtime.get("subscriptionExpirationTimeMinutes", 0)),
        {
            "destination_storage": {"limitSize": int(size), "policy": policy},
            "message_age": {"limitTime": age, "policy": policy},
        },
        {
            "deleteWhileInactive": runtime.get("brokerDeleteInactiveTopicsEnabled") == "true",
            "inactiveTopicDeleteMode": runtime.get("brokerDeleteInactiveTopicsMode", ""),
        },
    )


def dropping(levels: Mapping[str, Level], namespace: str, topic: str = "") -> list[Finding]:
    """The policies that drop events, given those of each level that may be read: `topic`, `namespace`, `server`. The
    first level that sets a policy decides."""
    command = {
        "topic": "pulsar-admin topicPolicies",
        "namespace": "pulsar-admin namespaces",
        "server": "pulsar-admin namespaces",
    }
    name = {"topic": topic, "namespace": namespace, "server": namespace}
    found = []

    def add(level: str, what: str, means: str, undo: str) -> None:
        todo = f"{command[level]} {undo} {name[level]}"
        if level == "server":
            todo += ", or change the server's configuration"
        found.append(Finding(severity="loses", what=f"{level}: {what}", means=means, todo=todo))

    for level, ttl in _set(levels, "ttl"):
        if ttl > 0:
            undo = "remove-message-ttl" if level == "topic" else "set-message-ttl --messageTTL 0"
            add(level, f"message TTL of {ttl} s", "events are dropped by age, handled or not", undo)
    for level, minutes in _set(levels, "expiration"):
        if minutes > 0:
            add(
                level,
                f"subscriptions expire after {minutes} min",
                "a channel to which no worker is attached for that long vanishes with its events",
                "set-subscription-expiration-time --time 0",
            )
    for level, quotas in _set(levels, "quotas"):
        for kind, quota in sorted(quotas.items()):
            limit = quota.get("limitTime" if kind == "message_age" else "limitSize", quota.get("limit", -1))
            if quota.get("policy") == _EVICTION and limit >= 0:
                unit = "s" if kind == "message_age" else "bytes"
                undo = f"remove-backlog-quota --type {kind}"
                if level == "server":
                    undo = f"set-backlog-quota --type {kind} --policy producer_exception --limit 100G"
                what = f"backlog quota of {limit} {unit} with {_EVICTION}"
                add(level, what, "events are dropped from a long backlog, handled or not", undo)
    for level, inactive in _set(levels, "inactive"):
        if inactive.get("deleteWhileInactive") and "caught_up" in str(inactive.get("inactiveTopicDeleteMode")):
            undo = "remove-inactive-topic-policies"
            if level == "server":
                undo = (
                    "set-inactive-topic-policies --enable-delete-while-inactive --max-inactive-duration 1d "
                    "--delete-mode delete_when_no_subscriptions"
                )
            means = "a channel that is empty and idle vanishes: events published to it then are refused"
            add(level, "inactive topics are deleted when they are caught up", means, undo)
    return found


def _set(levels: Mapping[str, Level], policy: str) -> list[tuple[str, Any]]:
    """The deciding level and its value; none if no level sets one."""
    for level in ("topic", "namespace", "server"):
        if level in levels and (value := getattr(levels[level], policy)) is not None:
            return [(level, value)]
    return []
