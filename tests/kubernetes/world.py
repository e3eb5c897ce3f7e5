"""What each test on the cluster has for itself: a namespace, a part of the Redis, and the means to look at both."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, Self
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pytest
from redis import Redis

from eventwagon.drivers.opening import open_drivers
from eventwagon.orchestrators.kubernetes import Kubernetes
from eventwagon.orchestrators.kubernetes.cluster import Cluster as Api
from eventwagon.orchestrators.kubernetes.cluster import Object
from eventwagon.orchestrators.kubernetes.template import with_tag
from tests.programs.pods import Notes
from tests.servers.install import Missing
from tests.servers.kubernetes.cluster import Cluster
from tests.servers.kubernetes.image import WORKER

SECRET = "train"  # noqa: S105 - its name
RUN = f"eventwagon-test-{secrets.token_hex(3)}"
"""What all namespaces and Redis keys of this run begin with: a given cluster, and a given Redis, may have others in
them."""
_numbers = itertools.count(1)


class Reached(Protocol):
    """A cluster, ours or a given one."""

    kubeconfig: Path

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str: ...


class Unusable(Missing):
    """The given cluster can't run the tests. The text says what is lacking."""

    help = "what CONTRIBUTING.md says of a cluster of yours"


class GivenCluster:
    """The one that KUBECONFIG names."""

    def __init__(self, kubeconfig: str) -> None:
        if shutil.which("kubectl") is None:
            raise Unusable("KUBECONFIG is set, and there is no kubectl on PATH")
        self.kubeconfig = Path(kubeconfig)

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """What kubectl printed, as the user that KUBECONFIG named at first: a test may set another."""
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
        ran = subprocess.run(
            ["kubectl", *arguments], input=stdin, capture_output=True, text=True, check=False, env=environment
        )
        if check and ran.returncode != 0:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {ran.stderr.strip()}")
        return ran.stdout


class World:
    """A namespace with the Secret that holds the URL of a Redis, with a prefix of its own there."""

    def __init__(self, cluster: Reached, redis_url: str) -> None:
        self.cluster = cluster
        self.image = os.environ.get("EVENTWAGON_TEST_KUBERNETES_IMAGE", f"{WORKER}:v1")
        self.namespace = f"{RUN}-{next(_numbers)}"
        parts = urlsplit(redis_url)
        options = {**dict(parse_qsl(parts.query)), "prefix": self.namespace}
        self.url = urlunsplit(parts._replace(query=urlencode(options)))
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

    def try_out(self) -> None:
        """Have a Pod run the image, in both revisions, and reach the Redis. Raises Unusable, with what came of it."""
        revised = with_tag(self.image, "v2")
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "doctor"},
            "spec": {
                "restartPolicy": "Never",
                "initContainers": [{"name": "v2", "image": revised, "command": ["eventwagon", "--help"]}],
                "containers": [
                    {
                        "name": "v1",
                        "image": self.image,
                        "command": ["eventwagon", "doctor", "$(EVENTWAGON_URL)"],
                        "envFrom": [{"secretRef": {"name": SECRET}}],
                    }
                ],
            },
        }
        self.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
        try:
            self.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/doctor", "--timeout=60s")
        except RuntimeError as e:
            status = json.loads(self.kubectl("get", "pod", "doctor", "-o", "json"))["status"]
            containers = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
            said = [f"{c['name']}: {json.dumps(c['state'])}" for c in containers]
            said.append(self.kubectl("logs", "doctor", "-c", "v1", check=False))
            raise Unusable(
                f"a Pod with {self.image} and {revised} did not run, or did not reach the Redis: {e}\n"
                + "\n".join(said)
            ) from None
        self.kubectl("delete", "pod", "doctor")

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
        notes = Notes(self.url)
        async with Api(self.namespace) as api, notes.redis:
            yield Looking(api, notes)


def clean_up(cluster: Reached, redis_url: str) -> None:
    """Wait until what ran in the namespaces of this run has ended, and remove what it left in the Redis."""
    names = cluster.kubectl("get", "namespaces", "-o", "name").split()
    if left := [name for name in names if name.startswith(f"namespace/{RUN}-")]:
        cluster.kubectl("wait", "--for=delete", *left, "--timeout=120s")
    parts = urlsplit(redis_url)
    with Redis.from_url(urlunsplit(parts._replace(query=""))) as redis:
        for key in redis.scan_iter(match=f"*{RUN}-*", count=1000):
            redis.delete(key)


class Looking:
    """Looks at Pods, Deployments, and what handlers noted."""

    def __init__(self, api: Api, notes: Notes) -> None:
        self._api = api
        self._notes = notes

    async def all(self, kind: str) -> Mapping[str, Object]:
        """By name."""
        found = await self._api.request("GET", self._api.path(kind))
        return {item["metadata"]["name"]: item for item in found["items"]}

    async def notes(self, name: str) -> list[list[str]]:
        """What handlers noted, in order: each the Pod's name and its words."""
        return await self._notes.read(name)

    async def let_go(self) -> None:
        """All handlers of `held` may end."""
        await self._notes.let_go()


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
