"""The API server: plain requests, and a local copy of its objects that a watch keeps up to date."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp
from kubernetes_asyncio import config as files
from kubernetes_asyncio.client import ApiClient, Configuration

from ...backoff import Backoff
from ...errors import Unavailable, UsageError

Object = Mapping[str, Any]
"""A Kubernetes object, as the API writes it."""

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
_ANSWER = 10.0
"""Seconds within which the API server must answer."""
_SILENCE = 90.0
"""Seconds without a message after which a watch is opened again; a live one sends something every minute."""
_PAUSES = (0.1, 5.0)
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class APIRefused(Unavailable):
    """The API server refused the request. `status` is that of HTTP."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Cluster:
    """One namespace of a cluster. An asynchronous context manager.

    In a Pod it is the Pod's own cluster and namespace, with its ServiceAccount; elsewhere those of the current context
    of the kubeconfig file, or of `context`. Entering raises UsageError if there is neither.
    """

    def __init__(self, namespace: str = "", context: str = "") -> None:
        self.namespace = namespace
        self._context = context
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        configuration = Configuration()
        file = os.environ.get("KUBECONFIG")
        inside = not self._context and not file and "KUBERNETES_SERVICE_HOST" in os.environ
        try:
            if inside:
                files.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
                self.namespace = self.namespace or (_ACCOUNT / "namespace").read_text().strip()
            else:
                await files.load_kube_config(file, self._context or None, configuration)
                self.namespace = self.namespace or self._namespace_of_context(file)
        except (files.ConfigException, OSError) as e:
            raise UsageError(
                f"kubernetes: no cluster is known here ({e}): run it in a Pod with a ServiceAccount, or name a "
                "kubeconfig file with KUBECONFIG"
            ) from e
        self.host = configuration.host
        self._client = await self._stack.enter_async_context(ApiClient(configuration))
        return self

    async def __aexit__(self, *exc: object) -> None:
        connector = self._client.rest_client.pool_manager.connector
        if isinstance(connector, aiohttp.TCPConnector):
            await connector.close(abort_ssl=True)  # closing TLS properly would outlive the event loop
        await self._stack.aclose()

    def _namespace_of_context(self, file: str | None) -> str:
        contexts, current = files.list_kube_config_contexts(file)
        chosen: Any = next((c for c in contexts if c["name"] == self._context), current)
        return str(chosen["context"].get("namespace") or "default")

    def path(self, kind: str, name: str = "") -> str:
        """The path of all `deployments`, `replicasets` or `pods` in the namespace, or of one of them."""
        group = "/api/v1" if kind == "pods" else "/apis/apps/v1"
        return f"{group}/namespaces/{self.namespace}/{kind}" + (f"/{name}" if name else "")

    async def request(
        self, method: str, path: str, *, body: object = None, form: str = "application/json", **query: str
    ) -> Object:
        """Send a request; returns the JSON of the answer. Raises APIRefused, Unavailable."""
        try:
            async with asyncio.timeout(_ANSWER):
                response = await self._send(method, path, body, form, query)
                data = await response.read()
        except (TimeoutError, OSError, aiohttp.ClientError, ssl.SSLError) as e:
            raise self._away(e) from e
        return self._read(method, path, response.status, data)

    @asynccontextmanager
    async def watch(self, path: str, **query: str) -> AsyncIterator[AsyncIterator[Object]]:
        """The events of a watch, until it ends. Raises APIRefused, Unavailable."""
        try:
            async with asyncio.timeout(_ANSWER):
                response = await self._send("GET", path, None, "application/json", {**query, "watch": "true"})
            async with response:
                if response.status != 200:
                    self._read("GET", path, response.status, await response.read())
                try:
                    yield self._events(response)
                finally:
                    if response.connection is not None and response.connection.transport is not None:
                        response.connection.transport.abort()  # as when leaving
        except (TimeoutError, OSError, aiohttp.ClientError, ssl.SSLError) as e:
            raise self._away(e) from e

    @staticmethod
    async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[Object]:
        rest = b""
        async for chunk in response.content.iter_any():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield json.loads(line)

    async def _send(
        self, method: str, path: str, body: object, form: str, query: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        response: aiohttp.ClientResponse = await self._client.call_api(
            path,
            method,
            query_params=list(query.items()),
            header_params={"Accept": "application/json", "Content-Type": form},
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _request_timeout=aiohttp.ClientTimeout(sock_connect=_ANSWER, sock_read=_SILENCE),
        )
        return response

    def _read(self, method: str, path: str, status: int, data: bytes) -> Object:
        try:
            answer: Object = json.loads(data)
        except ValueError:
            answer = {"message": data[:200].decode(errors="replace").strip()}
        if 200 <= status < 300:
            return answer
        said = answer.get("message") or f"{method} {path}: status {status}"
        if status == 403 and "exceeded quota" not in said:
            said = f"{said}: the Role that an observer needs has this right (see deploy/kubernetes/rbac.yaml)"
        elif status == 401:
            said = f"the API server at {self.host} does not know this client ({said})"
        raise APIRefused(f"kubernetes: {said}", status)

    def _away(self, error: BaseException) -> Unavailable:
        said = str(error) or f"no answer in {_ANSWER:g} s"
        return Unavailable(f"kubernetes: the API server at {self.host} can't be reached: {said}")


class Watched:
    """All objects of one kind with a label, as the API server has them.

    `run` keeps them up to date; while it can't, they stay as last seen, and `trouble` says why. `see` is called with
    each reported state of each object, including the last one.
    """

    def __init__(
        self, cluster: Cluster, kind: str, selector: str, see: Callable[[Object], object] = lambda _: None
    ) -> None:
        self._cluster = cluster
        self.kind = kind
        self._selector = selector
        self._see = see
        self._version = 0
        self.objects: dict[str, Object] = {}
        """By name."""
        self.trouble = ""
        self.known = asyncio.Event()
        """Set once the objects have been listed."""
        self.tried = asyncio.Event()
        """Set once listing the objects has succeeded or failed."""

    def put(self, found: Object) -> None:
        """Store the API server's answer to a write, unless the watch has already reported that state or a later one."""
        if int(found["metadata"]["resourceVersion"]) > self._version:
            self.objects[found["metadata"]["name"]] = found

    def drop(self, name: str) -> None:
        """Remove an object that, by the API server's answer, no longer exists."""
        self.objects.pop(name, None)

    async def run(self) -> None:
        """List the objects, then follow their changes, until cancelled. After a failure it starts again, with pauses
        that double."""
        backoff = Backoff(*_PAUSES)
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._follow()
                backoff.reset()
                await asyncio.sleep(_PAUSES[0])
            except Unavailable as e:
                self.trouble = str(e)
                self.tried.set()
                if isinstance(e, APIRefused):  # it may no longer know the version, or us
                    self._version = 0
                await asyncio.sleep(backoff.next())

    async def _list(self) -> None:
        found = await self._cluster.request("GET", self._cluster.path(self.kind), labelSelector=self._selector)
        self.objects = {item["metadata"]["name"]: item for item in found["items"]}
        self._version = int(found["metadata"]["resourceVersion"])
        for item in found["items"]:
            self._see(item)
        self.known.set()

    async def _follow(self) -> None:
        path, revision = self._cluster.path(self.kind), str(self._version)
        async with self._cluster.watch(
            path, labelSelector=self._selector, resourceVersion=revision, allowWatchBookmarks="true"
        ) as events:
            self.trouble = ""
            self.tried.set()
            async for event in events:
                self._take(event["type"], event["object"])

    def _take(self, kind: str, item: Object) -> None:
        match kind:
            case "ADDED" | "MODIFIED":
                self.objects[item["metadata"]["name"]] = item
                self._see(item)
            case "DELETED":
                self.objects.pop(item["metadata"]["name"], None)
                self._see(item)
            case "ERROR":
                raise APIRefused(f"kubernetes: {item.get('message', 'the watch ended')}", int(item.get("code", 500)))
        self._version = int(item["metadata"]["resourceVersion"])
