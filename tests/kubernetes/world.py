"""What each test on the cluster has for itself: a namespace, a Redis database, and the means to look at both."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import pytest
from redis.asyncio import Redis

from eventwagon.drivers import open_drivers
from eventwagon.orchestrators.kubernetes import Kubernetes
from eventwagon.orchestrators.kubernetes.cluster import Cluster as Api
from eventwagon.orchestrators.kubernetes.cluster import Object
from tests.servers.install import Missing
from tests.servers.kubernetes.cluster import Cluster
from tests.servers.kubernetes.image import WORKER

SECRET = "train"  # noqa: S105 - its name
_numbers = itertools.count(1)


class Reached(Protocol):
    """A cluster, ours or a given one."""

    kubeconfig: Path

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str: ...


class GivenCluster:
    """The one that KUBECONFIG names."""

    def __init__(self, kubeconfig: str) -> None:
        if shutil.which("kubectl") is None:
            raise Missing("KUBECONFIG is set, and there is no kubectl on PATH")
        self.kubeconfig = Path(kubeconfig)

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """What kubectl printed."""
        ran = subprocess.run(["kubectl", *arguments], input=stdin, capture_output=True, text=True, check=False)
        if check and ran.returncode != 0:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {ran.stderr.strip()}")
        return ran.stdout


class World:
    """A namespace with the Secret that holds the URL of a Redis database, empty at first."""

    def __init__(self, cluster: Reached, redis_url: str) -> None:
        self.cluster = cluster
        self.image = os.environ.get("EVENTWAGON_TEST_KUBERNETES_IMAGE", f"{WORKER}:v1")
        number = next(_numbers)
        self.namespace = f"t{os.getpid()}-{number}"
        self.url = redis_url.rstrip("0123456789") + str(number)
        self.kubectl("create", "namespace", self.namespace)
        self.kubectl("create", "secret", "generic", SECRET, f"--from-literal=EVENTWAGON_URL={self.url}")
        self.until(lambda: "default" in self.kubectl("get", "serviceaccount", "-o", "name"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """The namespace goes by and by."""
        self.kubectl("delete", "namespace", self.namespace, "--wait=false", check=False)

    @property
    def own(self) -> Cluster:
        """The cluster, to be hurt; a given one is not."""
        if not isinstance(self.cluster, Cluster):
            pytest.skip("KUBECONFIG names the cluster: a test that hurts its own is not run")
        return self.cluster

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """In the test's namespace."""
        return self.cluster.kubectl("-n", self.namespace, *arguments, stdin=stdin, check=check)

    def until(self, true: Callable[[], object], seconds: float = 30.0) -> None:
        """Wait until it is so; for what blocks."""

        async def wait() -> None:
            await until("it is so", lambda: asyncio.to_thread(true), seconds)

        asyncio.run(wait())

    def orchestrator(self, target: str, **given: Any) -> Kubernetes:
        """One on the namespace, not entered."""
        settings: dict[str, Any] = {
            "secret": SECRET,
            "image": self.image,
            "registry": open_drivers(self.url).registry,
            "namespace": self.namespace,
        }
        return Kubernetes(target, **{**settings, **given})

    @contextlib.asynccontextmanager
    async def looking(self) -> AsyncIterator[Looking]:
        """Means to look."""
        async with Api(self.namespace) as api, Redis.from_url(self.url, decode_responses=True) as redis:
            yield Looking(api, redis)


class Looking:
    """Looks at Pods, Deployments, and what handlers noted."""

    def __init__(self, api: Api, redis: Any) -> None:
        self._api = api
        self.redis = redis

    async def all(self, kind: str) -> Mapping[str, Object]:
        """By name."""
        found = await self._api.request("GET", self._api.path(kind))
        return {item["metadata"]["name"]: item for item in found["items"]}

    async def notes(self, name: str) -> list[list[str]]:
        """What handlers noted, in order: each the Pod's name and its words."""
        return [line.split() for line in await self.redis.lrange(f"notes:{name}", 0, -1)]


async def until(what: str, true: Callable[[], Any], seconds: float = 60.0, every: float = 0.1) -> Any:
    """Wait for an answer that is true, and return it."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while True:
        if found := await true():
            return found
        if loop.time() > end:
            raise AssertionError(f"{what}: not within {seconds:g} s")
        await asyncio.sleep(every)
