"""`doctor` leaves nothing on a real Pulsar, nor in the registry beside it."""

from __future__ import annotations

import json
import signal
from urllib.parse import quote
from urllib.request import urlopen

import pytest

from tests import doctors
from tests.redis.test_doctor import keys
from tests.servers.server import GivenServer, Server


def topics(server: Server) -> list[str]:
    """With their subscriptions; internal ones are the server's own."""
    at = f"http://{server.host}:{server.admin_port}/admin/v2/persistent/public/default"  # type: ignore[attr-defined]
    with urlopen(at) as answer:
        return sorted(name for name in json.load(answer) if "__" not in name)


@pytest.fixture
def url(pulsar_server: Server, redis_server: Server) -> str:
    if isinstance(pulsar_server, GivenServer):
        pytest.skip("it may have topics of others")
    mark = "&" if "?" in pulsar_server.url else "?"
    return f"{pulsar_server.url}{mark}registry={quote(f'{redis_server.url}?prefix=beside', safe='')}"


def standing(pulsar: Server, redis: Server) -> object:
    """All topics but those of tests that run before or at the same time, and all keys of the registry."""
    ours = [name for name in topics(pulsar) if "eventwagon-doctor" in name]
    return ours, [key for key in keys(redis) if key.startswith(b"beside")]


@pytest.mark.slow
def test_it_leaves_no_topic_and_no_key(url: str, pulsar_server: Server, redis_server: Server) -> None:
    doctors.leaves_nothing(url, lambda: standing(pulsar_server, redis_server), doctors.FEW[::2])


@pytest.mark.slow
def test_nor_when_interrupted(url: str, pulsar_server: Server, redis_server: Server) -> None:
    doctors.interrupt(url, lambda: bool(standing(pulsar_server, redis_server)[0]), signal.SIGINT)  # type: ignore[index]
    assert standing(pulsar_server, redis_server) == ([], [])
