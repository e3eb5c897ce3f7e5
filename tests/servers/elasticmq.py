"""ElasticMQ, a server that speaks SQS. It takes some thousand messages a second, where moto takes eighty."""

from __future__ import annotations

import http.client
import os
from collections.abc import Sequence
from pathlib import Path

from tests.servers.install import elasticmq
from tests.servers.moto import ENVIRONMENT
from tests.servers.ports import free_port
from tests.servers.server import Server

_CONFIG = """\
include classpath("application.conf")
node-address {{ host = "{host}", port = {port} }}
rest-sqs {{ bind-hostname = "{host}", bind-port = {port} }}
rest-stats.enabled = false
aws {{ region = "eu-west-1", accountId = "123456789012" }}
"""


class ElasticMQServer(Server):
    """All of it lives in its memory: what it held is gone with its process."""

    name = "elasticmq"

    def __init__(self, directory: Path | None = None, *, jvm: Sequence[str] = ()) -> None:
        self._installed = elasticmq()
        super().__init__(directory)
        self.port = free_port()
        self._jvm = list(jvm)

    @property
    def endpoint(self) -> str:
        """Where SQS answers."""
        return f"http://{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"sqs://eu-west-1/ew?endpoint={self.endpoint}"

    def command(self) -> Sequence[str]:
        file = self.directory / "elasticmq.conf"
        file.write_text(_CONFIG.format(host=self.host, port=self.port))
        return [
            *self._installed.java(),
            *("-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError"),
            *self._jvm,
            f"-Dconfig.file={file}",
            "org.elasticmq.server.Main",
        ]

    def launch(self) -> None:
        os.environ.update(ENVIRONMENT)
        super().launch()

    def ready(self) -> bool:
        """It says that it is well."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        finally:
            connection.close()
