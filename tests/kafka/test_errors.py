"""What a call says when nobody answers, or the wrong one: the cause, where, and what to do, within its time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import pytest

from eventwagon.drivers.kafka import KafkaBroker
from eventwagon.drivers.kafka.causes import Causes
from eventwagon.drivers.kafka.registry import KafkaRegistry
from eventwagon.errors import BrokerError
from tests.kafka.support import events, new_channel
from tests.servers.certificates import self_signed
from tests.servers.kafka import KafkaServer, login, sasl
from tests.servers.ports import free_port

USERS = {"admin": "adm1n-s3cret", "bob": "b0b-s3cret"}
TIMEOUT = 2.0


async def refused(url: str, *, timeout: float = TIMEOUT) -> str:
    """What every call says, each within its time."""
    url += f"{'&' if '?' in url else '?'}timeout={timeout:g}"
    said: list[str] = []
    async with KafkaBroker.from_url(url) as broker, KafkaRegistry.from_url(url) as registry:
        channel = new_channel()
        for step in (
            lambda: broker.create(channel),
            lambda: broker.publish(channel, events(1)),
            lambda: broker.depth([channel]),
            lambda: broker.channels("t"),
            lambda: registry.read("t"),
            lambda: registry.trains(),
        ):
            async with asyncio.timeout(10 * timeout):  # this machine has other work too
                with pytest.raises(BrokerError) as caught:
                    await step()
            said.append(str(caught.value))
    for one in said:
        assert "s3cret" not in one
    return "\n".join(said)


def each_says(text: str, *words: str) -> None:
    for line in text.splitlines():
        for word in words:
            assert word in line, line


def test_a_host_that_is_unknown() -> None:
    said = asyncio.run(refused("kafka://no-such-host.invalid:9092"))
    each_says(said, "no-such-host.invalid:9092", "the host no-such-host.invalid:9092 is unknown")


def test_a_port_at_which_nobody_listens() -> None:
    port = free_port()
    each_says(asyncio.run(refused(f"kafka://127.0.0.1:{port}")), f"127.0.0.1:{port}", "no server listens there")


@contextmanager
def listening(answer: bytes) -> Iterator[int]:
    """Somebody who answers so to whatever comes."""

    class Answering(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            connection: socket.socket = self.request
            connection.settimeout(10.0)
            answered = not answer
            with contextlib.suppress(OSError):
                while connection.recv(4096):  # closing with bytes unread would reset, and take the answer back
                    if not answered:
                        connection.sendall(answer)
                        connection.shutdown(socket.SHUT_WR)
                        answered = True

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def test_a_port_of_something_else() -> None:
    async def main() -> None:
        with listening(b"HTTP/1.1 400 Bad Request\r\n\r\nno") as port:
            each_says(await refused(f"kafka://127.0.0.1:{port}"), "does not speak Kafka", "check the port")

    asyncio.run(main())


def test_somebody_who_never_answers() -> None:
    async def main() -> None:
        with listening(b"") as port:
            each_says(await refused(f"kafka://127.0.0.1:{port}"), f"127.0.0.1:{port}")

    asyncio.run(main())


def test_logins(tmp_path: Path) -> None:
    """No login where one is wanted, a wrong one, a mechanism that the server has not, TLS where there is none."""

    async def main(server: KafkaServer) -> None:
        at = f"kafka://{server.bootstrap}"
        right = login("admin", USERS["admin"])
        each_says(await refused(at), "it may want TLS or a login", "security.protocol")
        each_says(await refused(f"{at}?{urlencode(login('admin', 'wr0ng-s3cret'))}"), "the login was refused")
        other = {**right, "sasl.mechanism": "SCRAM-SHA-256"}
        each_says(await refused(f"{at}?{urlencode(other)}"), "does not know this sasl.mechanism; it has PLAIN")
        each_says(await refused(f"{at}?security.protocol=SSL"), "we speak TLS and the server seems not to")
        controller = f"kafka://127.0.0.1:{server.controller_port}"
        each_says(await refused(controller), "port")

    with KafkaServer(tmp_path, config=sasl(USERS), client=login("admin", USERS["admin"])) as server:
        asyncio.run(main(server))


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    file, key = self_signed(tmp_path)
    (tmp_path / "both.pem").write_text(key.read_text() + file.read_text())
    return file


def test_a_server_that_speaks_tls(certificate: Path, tmp_path: Path) -> None:
    """Without TLS, and with a certificate that is not trusted; with the right options it works."""
    config = {
        "listener.security.protocol.map": "CLIENTS:SSL,CONTROLLER:PLAINTEXT",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(certificate.with_name("both.pem")),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(certificate),
        "ssl.client.auth": "none",
    }
    client = {"security.protocol": "SSL", "ssl.ca.location": str(certificate)}

    async def main(server: KafkaServer) -> None:
        at = f"kafka://{server.bootstrap}"
        each_says(await refused(at), "TLS")
        each_says(await refused(f"{at}?security.protocol=SSL"), "certificate is not trusted", "ssl.ca.location")
        async with KafkaBroker.from_url(server.url) as broker:
            channel = new_channel()
            await broker.create(channel)
            await broker.publish(channel, events(1))
            await broker.delete(channel)

    with KafkaServer(tmp_path, config=config, client=client) as server:
        asyncio.run(main(server))


def test_a_cluster_that_names_a_host_which_is_unknown_here() -> None:
    """Only the first server is reached: the cluster's own name for itself is what is wrong."""
    causes = Causes()
    causes.log(30, "%s", "FAIL", "x", "[thrd:a]: kafka-0.internal:9092/0: Failed to resolve 'kafka-0.internal:9092': x")
    assert "advertised.listeners" in causes.why("10.0.0.1:9092", 1.0)


def test_a_process_without_descriptors_is_told(caplog: pytest.LogCaptureFixture) -> None:
    causes = Causes()
    for number in range(3):
        text = f"[thrd:10.0.0.{number}:9092/1]: 10.0.0.{number}:9092/1: Failed to create socket: Too many open files"
        causes.log(40, "%s", "FAIL", "x", text)
    assert "raise `ulimit -n`" in causes.why("10.0.0.1:9092", 1.0)
    assert "advertised.listeners" not in causes.why("10.0.0.1:9092", 1.0)
    (told,) = (record for record in caplog.records if record.levelname == "WARNING")
    assert "no file descriptor left" in told.getMessage()


def test_a_server_that_hangs_up_while_we_still_send() -> None:
    """As where it hangs up while we wait: which of the two is met first is chance."""
    causes = Causes()
    causes.log(
        30, "%s", "FAIL", "x", "[thrd:a]: 10.0.0.1:9092/bootstrap: Send failed: Broken pipe (after 1ms in state UP)"
    )
    assert "it may want TLS or a login" in causes.why("10.0.0.1:9092", 1.0)


def test_why_ends_before_the_state_of_a_connection() -> None:
    causes = Causes()
    text = "h:1/bootstrap: Connect to ipv4#h:1 failed: Connection refused"
    state = "(after 0ms in state CONNECT, 5 identical error(s) suppressed)"
    causes.log(30, "%s", "FAIL", "x", f"[thrd:a]: {text} {state}")
    assert causes.why("h:1", 1.0).endswith("check host and port: Connect to ipv4#h:1 failed: Connection refused")
