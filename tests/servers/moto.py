"""moto, an emulator of AWS that speaks its HTTP interface. It is not AWS: docs/brokers/sqs.md says what it can't
show."""

from __future__ import annotations

import http.client
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.servers.install import Missing
from tests.servers.ports import free_port
from tests.servers.server import Server

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "eu-west-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""What clients of it need: keys that open nothing."""
_SERVE = """\
import logging, sys, threading, time
import moto.backends, moto.server
from moto.sqs.models import Queue, SQSBackend
Queue.lambda_event_source_mappings = property(lambda queue: {}, lambda queue, given: None)
logging.getLogger("werkzeug").setLevel(logging.ERROR)
run, alone = moto.server.run_simple, threading.Lock()
def serve(host, port, app, **given):
    def one_at_a_time(environ, start_response):
        if environ.get("HTTP_X_AMZ_TARGET") == "AmazonSQS.ReceiveMessage":  # it may wait: see receive
            return app(environ, start_response)
        with alone:
            return app(environ, start_response)
    run(host, port, one_at_a_time, **given)
look = SQSBackend.receive_message
def receive(self, queue, count, wait, *rest):
    until = time.monotonic() + (wait or 0)
    while True:
        with alone:
            found = look(self, queue, count, 0, *rest)
        if found or time.monotonic() >= until:
            return found
        time.sleep(0.02)
SQSBackend.receive_message = receive
names = tuple(moto.backends.list_of_moto_modules())
moto.backends.list_of_moto_modules = lambda: names
moto.server.run_simple = serve
moto.server.main(sys.argv[1:])
"""
"""moto is not safe for threads (it loses messages, counts and whole writes, and gives one message to two who wait): it
does one thing at a time, and who waits for a message looks again and again. And it would call a mapped function itself,
in Docker, while it takes a message: it calls none."""


class MotoServer(Server):
    """All of it lives in its memory: what it held is gone with its process."""

    name = "moto"
    patience = 60.0

    def __init__(self, directory: Path | None = None) -> None:
        if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask") is None:
            raise Missing("moto: the package moto[server] is not installed: make install")
        super().__init__(directory)
        self.port = free_port()

    @property
    def endpoint(self) -> str:
        """Where all services answer."""
        return f"http://{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"sqs://eu-west-1/ew?endpoint={self.endpoint}"

    def command(self) -> Sequence[str]:
        return [sys.executable, "-c", _SERVE, "-H", self.host, "-p", str(self.port)]

    def launch(self) -> None:
        os.environ.update(ENVIRONMENT)
        super().launch()

    def ready(self) -> bool:
        """Its own page answers."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=5)
        try:
            connection.request("GET", "/moto-api/data.json")
            return connection.getresponse().status == 200
        finally:
            connection.close()
