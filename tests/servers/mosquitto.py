"""mosquitto: an MQTT broker."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from tests.servers.install import mosquitto
from tests.servers.ports import free_port
from tests.servers.server import Server

_CONNECT = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01r"
_CONNACK = b"\x20\x02\x00\x00"


class MosquittoServer(Server):
    """It writes sessions and their messages to disk when it is stopped. A killed one loses what it had not written."""

    name = "mosquitto"
    patience = 20.0

    def __init__(self, directory: Path | None = None) -> None:
        self._binary = mosquitto()
        super().__init__(directory)
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"mqtt://{self.host}:{self.port}"

    def command(self) -> Sequence[str]:
        lines = [
            f"listener {self.port} {self.host}",
            "allow_anonymous true",
            "persistence true",
            f"persistence_location {self.directory}/",
            "max_inflight_messages 0",
            "max_queued_messages 0",
            "user root",  # only where it is started by root: else it would become a user who can't write here
            "log_type warning",
            "log_type error",
        ]
        file = self.directory / "mosquitto.conf"
        file.write_text("\n".join([*lines, ""]))
        return [str(self._binary), "-c", str(file)]

    def ready(self) -> bool:
        """It accepts a client."""
        with socket.create_connection((self.host, self.port), timeout=5) as connection:
            connection.sendall(_CONNECT)
            return connection.recv(4) == _CONNACK
