"""An event as a Pulsar message, and back.

CloudEvents has no adopted binding for Pulsar; this is its binary content mode with the prefix of its HTTP binding
(https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md): an attribute is the
message's property `ce-` + name, `datacontenttype` the property `content-type`, the data the payload, and the subject
also the partition key. When reading, the prefix `ce_` of other bindings is taken as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from ...event import JSON, Event, seconds_of

_PREFIXES = ("ce-", "ce_")
_OWN = frozenset(("specversion", "id", "type", "source", "time", "subject", "datacontenttype"))

_ALL = frozenset(("ce-specversion", "ce-id", "ce-type", "ce-source", "ce-time", "content-type"))


def properties(event: Event) -> dict[str, str]:
    """The properties of the message that carries it."""
    found = {
        "ce-specversion": "1.0",
        "ce-id": event.id,
        "ce-type": event.type,
        "ce-source": event.source,
        "ce-time": _rfc3339(event.time),
        "content-type": event.content_type,
    }
    if event.subject is not None:
        found["ce-subject"] = event.subject
    for name, value in event.extensions.items():
        found["ce-" + name] = value
    return found


def event_from(found: Mapping[str, str], data: bytes, *, position: str, published: float) -> Event:
    """The event of a message, whoever wrote it. What is missing: the id is its `position` (stable), the time that of its
    publishing, the type and source say that they are unknown."""
    subject = found.get("ce-subject")
    if "ce-id" in found and len(found) == (6 if subject is None else 7) and found.keys() >= _ALL:
        # as written here, without extensions: most events
        return Event(
            found["ce-id"] or position,
            found["ce-type"] or "unknown",
            found["ce-source"] or "unknown",
            seconds_of(found["ce-time"], published),
            data,
            subject,
            found["content-type"],
        )
    ce = {key[3:]: value for key, value in found.items() if key.startswith(_PREFIXES)}
    content_type = found.get("content-type")
    if content_type is None:
        content_type = ce.get("datacontenttype", JSON)
    return Event(
        ce.get("id") or position,
        ce.get("type") or "unknown",
        ce.get("source") or "unknown",
        seconds_of(ce.get("time"), published),
        data,
        ce.get("subject"),
        content_type,
        {name: value for name, value in ce.items() if name not in _OWN},
    )


def _rfc3339(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="microseconds")[:-6] + "Z"
