"""What the suite for orchestrators holds and watches on AWS."""

from __future__ import annotations

from pathlib import Path
from secrets import token_hex

from eventwagon.drivers.aws import SQSBroker
from tests import held
from tests.servers.moto import MotoServer


class Held(held.Held[SQSBroker]):
    """The part of a harness that Lambda and ECS have: the queues, and what the workers find in their environment."""

    outlives = True
    warm = False
    idles = False
    ends = True
    revision = ""

    def __init__(self, server: MotoServer, directory: Path) -> None:
        self.url = server.url.replace("/ew?", f"/p{token_hex(4)}?") + "&poll=0.2"
        super().__init__(SQSBroker.from_url(self.url), directory)
        self.environment = {"EVENTWAGON_URL": self.url, "HELD": str(self._held)}

    async def incarnation(self, unit: int) -> object:
        raise NotImplementedError  # not warm: nobody asks
