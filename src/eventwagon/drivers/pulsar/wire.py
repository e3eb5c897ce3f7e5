"""An event as a Pulsar message, and back.

CloudEvents has no adopted binding for Pulsar; this is its binary content mode with the prefix of its HTTP binding
(https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md): an attribute is the
message's property `ce-` + name, `datacontenttype` the property `content-type`, the data the payload, and the subject
also the partition key. When reading, the prefix `ce_` of other bindings is taken as well, and structured and batch
mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...cloudevents import known, read, rfc3339, undecodable
from ...display.text import said
from ...event import Event

_ALL = frozenset(("ce-specversion", "ce-id", "ce-type", "ce-source", "ce-time", "content-type"))


def properties(event: Event) -> dict[str, str]:
    """The properties of the message that carries it."""
    found = {
        "ce-specversion": "1.0",
        "ce-id": event.id,
        "ce-type": event.type,
        "ce-source": event.source,
        "ce-time": rfc3339(event.time),
        "content-type": event.content_type,
    }
    if event.subject is not None:
        found["ce-subject"] = event.subject
    for name, value in event.extensions.items():
        found["ce-" + name] = value
    return found


def event_of(message: Any, channel: object) -> Event:
    """The event of a message of the client, whoever wrote it. Never raises."""
    handle = message.message_id()
    position = f"{channel}/{handle.ledger_id()}:{handle.entry_id()}:{handle.batch_index()}"
    published = message.publish_timestamp() / 1000
    try:
        found = message.properties()
    except Exception as e:  # noqa: BLE001 - the client reads them as UTF-8
        return undecodable(message.data(), (), position=position, written=published, because=said(e))
    return event_from(found, message.data(), position=position, published=published)


def event_from(found: Mapping[str, str], data: bytes, *, position: str, published: float) -> Event:
    """The event of a message with these properties, whoever wrote it; see `cloudevents.read`. Never raises."""
    if len(found) == len(_ALL) and found.keys() == _ALL and found["ce-specversion"] == "1.0":  # as written here
        event = known(
            found["ce-id"], found["ce-type"], found["ce-source"], found["ce-time"], data, found["content-type"]
        )
        if event is not None:
            return event
    return read(list(found.items()), data, position=position, written=published)
