"""Dead letters as data."""

from __future__ import annotations

import msgspec

from ..event import DEATH, Event, born
from ..policy.letters import count_in, figure, read


def letter_of(event: Event) -> dict[str, object]:
    """A dead letter as `dead --json` prints it."""
    x = event.extensions
    return {
        "id": event.id,
        "type": event.type,
        "source": event.source,
        "subject": event.subject,
        "time": event.time,
        "began": began(event),
        "content_type": event.content_type,
        "extensions": {name: value for name, value in x.items() if name not in DEATH},
        "because": x.get("deadbecause", ""),
        "channel": read(event).channel,
        "wagon": count_in(x.get("deadwagon")),
        "attempts": count_in(x.get("deadattempts")),
        "retries": count_in(x.get("deadretries")),
        "at": figure(x.get("deadat"), 0.0),
        "data": data_of(event.data),
    }


def began(event: Event) -> float | None:
    """When the event was published from which this one of an inner channel came, by the time in its id; None if it is
    not of an inner channel, or its id has no time."""
    has_time = len(event.id) == 36 and event.id[14] == "7"
    return born(event) if event.extensions.get("deadchannel") and has_time else None


def data_of(data: bytes) -> object:
    """JSON unchanged, but on one line; anything else as bytes, which are encoded in Base64."""
    try:
        data.decode()
        return msgspec.Raw(msgspec.json.format(data, indent=-1))
    except (ValueError, RecursionError):
        return data
