"""What the tests on moto need: channels, events, and answers that moto does not give."""

from __future__ import annotations

import time
from collections.abc import Callable
from secrets import token_hex
from typing import Any

from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from eventwagon._aws.clients import Clients
from eventwagon._aws.trouble import Refused
from eventwagon.event import Channel, Event, new_ids


def a_channel(name: str = "") -> Channel:
    return Channel(f"test_{token_hex(5)}", 1, name)


def events(count: int, data: bytes = b"1") -> list[Event]:
    now = time.time()
    return [Event(id=new, type="t", source="s", time=now, data=data) for new in new_ids(count, now)]


def refused(code: str, status: int = 400) -> Refused:
    """An error as AWS answers it."""
    said = {"Error": {"Code": code, "Message": "made up by the test"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return Refused(ClientError(said, "Test"))


class Between:
    """Stands between a driver and its client, and gives in some calls an answer that moto would not: what AWS throttles,
    loses or takes in part. `meddle(operation, request, ask)` answers instead; `ask` asks moto."""

    def __init__(self, clients: Clients, meddle: Callable[[str, dict[str, Any], Callable[[], Any]], Any]) -> None:
        self._real = clients.call
        self._meddle = meddle
        clients.call = self._call  # type: ignore[method-assign]

    async def _call(self, service: str, operation: str, /, **given: Any) -> dict[str, Any]:
        answer: dict[str, Any] = await self._meddle(operation, given, lambda: self._real(service, operation, **given))
        return answer
