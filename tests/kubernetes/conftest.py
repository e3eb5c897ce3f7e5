"""The cluster, once for all of these tests; the Redis beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.install import Missing, kubernetes
from tests.servers.kubernetes.cluster import Cluster
from tests.servers.kubernetes.image import worker_image
from tests.servers.redis import RedisServer

from .world import GivenCluster, Reached, World

PROGRAMS = [Path(__file__).parents[1] / "programs" / "pods.py"]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Reached]:
    """Ours, with the worker's image; or the one that KUBECONFIG names."""
    if given := os.environ.get("KUBECONFIG"):
        yield GivenCluster(given)
        return
    with Cluster(kubernetes()) as own, pytest.MonkeyPatch.context() as environment:
        own.load(worker_image(PROGRAMS, "v1", "v2"))
        environment.setenv("KUBECONFIG", str(own.kubeconfig))
        yield own


@pytest.fixture(scope="session")
def broker_url(cluster: Reached, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a Redis that Pods and tests reach."""
    if given := os.environ.get("EVENTWAGON_TEST_REDIS"):
        yield given
        return
    if not isinstance(cluster, Cluster):
        raise Missing("KUBECONFIG names the cluster: name with EVENTWAGON_TEST_REDIS a Redis that its Pods reach")
    config = [f"bind 127.0.0.1 {cluster.host}", "protected-mode no", "databases 500"]
    with RedisServer(tmp_path_factory.getbasetemp(), config=config) as redis:
        yield f"redis://{cluster.host}:{redis.port}/0"


@pytest.fixture
def world(cluster: Reached, broker_url: str) -> Iterator[World]:
    """A namespace and a database of the test's own."""
    with World(cluster, broker_url) as world:
        yield world
