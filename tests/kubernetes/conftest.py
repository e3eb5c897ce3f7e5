"""The cluster, once for all of these tests; the Redis beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.kubernetes.world import GivenCluster, Reached, Unusable, World, clean_up
from tests.servers.install import kubernetes
from tests.servers.kubernetes.cluster import Cluster
from tests.servers.kubernetes.image import PODS, worker_image
from tests.servers.redis import RedisServer


@pytest.fixture(scope="session")
def cluster() -> Iterator[Reached]:
    """Ours, with the worker's image; or the one that KUBECONFIG names."""
    if given := os.environ.get("KUBECONFIG"):
        yield GivenCluster(given)
        return
    with Cluster(kubernetes()) as own, pytest.MonkeyPatch.context() as environment:
        own.load(worker_image([PODS], "v1", "v2"))
        environment.setenv("KUBECONFIG", str(own.kubeconfig))
        yield own


@pytest.fixture(scope="session")
def broker_url(cluster: Reached, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a Redis that Pods and tests reach."""
    if isinstance(cluster, GivenCluster):
        url = os.environ.get("EVENTWAGON_TEST_REDIS")
        if not url:
            raise Unusable("KUBECONFIG names the cluster: name with EVENTWAGON_TEST_REDIS a Redis that its Pods reach")
        with World(cluster, url) as first:
            first.try_out()
        yield url
        clean_up(cluster, url)
        return
    assert isinstance(cluster, Cluster)
    config = [f"bind 127.0.0.1 {cluster.host}", "protected-mode no"]
    with RedisServer(tmp_path_factory.getbasetemp(), config=config) as redis:
        yield f"redis://{cluster.host}:{redis.port}/0"


@pytest.fixture
def world(cluster: Reached, broker_url: str) -> Iterator[World]:
    """A namespace and a part of the Redis of the test's own."""
    with World(cluster, broker_url) as world:
        yield world
