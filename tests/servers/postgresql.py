"""PostgreSQL: one server, which everybody on this machine may log in to."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

import psycopg

from tests.servers.install import postgresql
from tests.servers.ports import free_port
from tests.servers.server import Server, StartFailed

_NOBODY = ("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "--pdeathsig", "KILL")
"""PostgreSQL refuses to run as root. The death signal is lost with a change of user: it is set again."""


class PostgresServer(Server):
    """A killed process loses nothing that it acknowledged: that is in the system's memory."""

    name = "postgresql"

    def __init__(self) -> None:
        self._binaries = postgresql()
        super().__init__(None)  # pytest's own folders are closed to other users
        self.port = free_port()
        self._data = self.directory / "data"

    @property
    def url(self) -> str:
        return f"postgresql://tests@{self.host}:{self.port}/postgres"

    def command(self) -> Sequence[str]:
        as_user: Sequence[str] = ()
        if os.geteuid() == 0:
            as_user = _NOBODY
            shutil.chown(self.directory, "nobody", "nogroup")
        if not self._data.exists():
            made = subprocess.run(
                [
                    *as_user,
                    self._binaries / "initdb",
                    "-D",
                    self._data,
                    "-U",
                    "tests",
                    "-A",
                    "trust",
                    "-N",
                    "-E",
                    "UTF8",
                ],
                cwd=self.directory,
                capture_output=True,
                text=True,
                check=False,
            )
            if made.returncode != 0:
                raise StartFailed(f"initdb: {made.stderr}")
        settings = {
            "listen_addresses": self.host,
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": 60,
            "shared_buffers": "16MB",
            "dynamic_shared_memory_type": "mmap",
        }
        return [
            *as_user,
            str(self._binaries / "postgres"),
            "-D",
            str(self._data),
            *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
        ]

    def ready(self) -> bool:
        """It lets somebody in: after a crash it answers sooner, and refuses."""
        try:
            psycopg.connect(self.url, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True
