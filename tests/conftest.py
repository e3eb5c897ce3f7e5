"""The servers' fixtures, for all tests."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator

import pytest

from eventwagon.display import json_lines, redaction
from tests.fuzz import by_default
from tests.servers.fixtures import (  # noqa: F401 - pytest finds them here
    elasticmq_server,
    kafka_cluster,
    kafka_server,
    missing,
    mosquitto_server,
    moto_server,
    own_kafka,
    own_mosquitto,
    own_pulsar,
    own_redis,
    own_valkey,
    postgresql_server,
    pulsar_server,
    redis_cluster,
    redis_server,
    running_kafka_cluster,
    running_redis_cluster,
    valkey_server,
)
from tests.servers.install import Missing

by_default()
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in background jobs; the programs that tests start inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Modules and collected tests stay to the end: the garbage collector need not look through them during each."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True)
def _no_secrets_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The redactor remembers what it learns for as long as its process lives: `open`, once a password, would be hidden
    in the messages of all later tests."""
    monkeypatch.setattr(redaction, "_known", {})
    monkeypatch.setattr(redaction, "_any_known", None)


@pytest.fixture(autouse=True)
def _no_formatter_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process in which a JsonFormatter was made notes for its logs what it handles."""
    monkeypatch.setattr(json_lines, "_in_use", False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    try:
        return (yield)
    except Missing as e:
        raise missing(e) from None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    try:
        return (yield)
    except Missing as e:
        raise missing(e) from None
