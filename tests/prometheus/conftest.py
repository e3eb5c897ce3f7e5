"""A Prometheus that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.prometheus.shipped import in_seconds
from tests.servers.prometheus import PrometheusServer


@pytest.fixture(scope="session")
def prometheus_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    """With the shipped rules, their times shortened."""
    rules = tmp_path_factory.mktemp("rules") / "eventwagon.rules.yaml"
    rules.write_text(in_seconds())
    with PrometheusServer(tmp_path_factory.getbasetemp(), rules=[rules]) as server:
        yield server
