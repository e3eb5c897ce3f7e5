"""The orchestrator: says to the API server what should be, and tells what is."""

from __future__ import annotations

import asyncio
import math
import os
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import msgspec
import yaml

from ...errors import EventwagonError, Unavailable, UsageError
from ...orchestrator import Deployment, WagonSpec
from ...process import Pod
from ...registry import Attachment, Registry
from .cluster import APPLY, MERGE, Cluster, Object, Refused, Watched
from .ends import Ends
from .template import MADE_FROM, MANAGER, MARGIN, REVISION, SELECTOR, TRAIN, UNIT, WAGON, Template, name_of
from .trouble import is_ending, is_ready, why_not_ready

_POLL = 0.05
_AGAIN = 1.0
"""Seconds before a refused change is tried again: an observer asks ten times a second."""
_STUCK = 30.0
"""Seconds beyond the grace after which a Pod that has not ended is told of."""

_Key = tuple[str, int]


class Kubernetes:
    """Gives each wagon a Deployment: Pods that run `eventwagon work` for `target` (`module:attribute`, in their image).

    The Pods get their environment, EVENTWAGON_URL in it, from Secret `secret`. `template` is a Pod template (a mapping,
    or the YAML file that holds it) that is merged in: what it says of the container named `worker` goes into ours. A
    unit keeps the template that it was made from while any of its Pods is ready. `image` is for a template that names
    none; without either it is the image of the Pod that this runs in. A wagon's `revision` takes the place of the
    image's tag. `per_pod` workers run in each Pod, and Pods come and go as a wagon's number of workers changes.

    `registry` is where the workers check in: a wagon is ready when a Pod of its is and the worker in it has said so
    itself, and no Pod of a unit that has moved on is at the wagon before. `handler_timeout` is the train's: a Pod that
    is to go has as long. `namespace` and `context` default to those of the Pod that this runs in, or of the kubeconfig
    file. One namespace is for one deployment of a train: what is labelled with its name there belongs to it. Raises
    UsageError.
    """

    def __init__(
        self,
        target: str,
        *,
        registry: Registry,
        secret: str = "",
        template: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        image: str = "",
        per_pod: int = 1,
        handler_timeout: float = 60.0,
        namespace: str = "",
        context: str = "",
    ) -> None:
        if ":" not in target:
            raise UsageError(f"target {target!r}: write module:attribute, say app:signups, or path/to/file.py:signups")
        if per_pod < 1:
            raise UsageError(f"per_pod={per_pod}: a Pod has at least one worker")
        given = _template(template)
        self._template = Template(
            target, given, secret=secret, image=image, per_pod=per_pod, handler_timeout=handler_timeout
        )
        self._registry = registry
        self._cluster = Cluster(namespace, context)
        self._deployments = Watched(self._cluster, "deployments", SELECTOR)
        self._ends = Ends()
        self._pods = Watched(self._cluster, "pods", SELECTOR, self._ends.see)
        self._removing: Counter[_Key] = Counter()
        self._again: dict[_Key, WagonSpec] = {}
        self._refused: dict[_Key, tuple[float, EventwagonError]] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._registry)
            await stack.enter_async_context(self._cluster)
            if not self._template.image:
                self._template.image = await self._own_image()
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            for watched in (self._deployments, self._pods):
                stack.callback(tasks.create_task(watched.run()).cancel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """What it deployed goes on."""
        await self._stack.aclose()

    # --- the contract ---------------------------------------------------------------------

    async def ensure(self, spec: WagonSpec) -> None:
        """See Orchestrator.ensure. Raises Unavailable, with what the API server said."""
        key = spec.train, spec.unit
        if self._removing[key]:
            self._again[key] = spec
            return
        wanted = self._template.deployment(spec)
        await self._known()
        change = self._change(spec, wanted)
        if change is None:
            return
        since, refusal = self._refused.get(key, (-math.inf, None))
        if refusal is not None and _now() < since + _AGAIN:
            raise refusal
        body, form, options = change
        path = self._cluster.path("deployments", wanted["metadata"]["name"])
        try:
            made = await self._cluster.request("PATCH", path, body=body, form=form, fieldManager=MANAGER, **options)
        except Unavailable as e:
            self._refused[key] = _now(), e
            raise
        self._refused.pop(key, None)
        self._deployments.put(made)

    async def deployments(self, train: str) -> Mapping[int, Deployment]:
        """See Orchestrator.deployments. While the API server is away it is what was last seen there, with what the
        workers themselves say now. Raises Unavailable where nothing was seen yet."""
        await self._known()
        attached: dict[int, list[Attachment]] = {}
        places: dict[str, set[int]] = {}
        for member in await self._registry.members(train):
            for a in member.attachments if "serve" in member.roles else ():
                attached.setdefault(a.number, []).append(a)
                places.setdefault(member.name.rsplit("-", 2)[0], set()).add(a.number)
        pods: dict[int, list[Object]] = {}
        for pod in _of(train, self._pods):
            pods.setdefault(_unit(pod), []).append(pod)
        deployments = {_unit(d): d for d in _of(train, self._deployments)}
        found = {}
        for unit in sorted({*deployments, *pods}):
            live = deployments.get(unit)
            number = _number(live) if live is not None else unit
            own = pods.get(unit, [])
            found[unit] = self._deployment(number, live, own, attached.get(number, []))
            if left := {n for pod in own for n in places.get(_host(pod), ()) if n != number}:
                because = f"a worker has not left wagon_{min(left)} yet"
                found[unit] = msgspec.structs.replace(found[unit], ready=False, trouble=because)
        return found

    def why_ended(self, pod: Pod) -> str:
        """See Witness.why_ended. It is what the watch told of the Pods that has begun with entering."""
        return self._ends.why_ended(pod)

    async def remove(self, train: str, unit: int, *, grace: float) -> None:
        """See Orchestrator.remove. Raises Unavailable, also where a Pod does not end though its time is long over."""
        key = train, unit
        self._removing[key] += 1
        try:
            await self._end(train, unit, grace)
        finally:
            self._removing[key] -= 1
            if not self._removing[key]:
                del self._removing[key]
        self._refused.pop(key, None)
        if not self._removing[key] and (spec := self._again.pop(key, None)) is not None:
            await self.ensure(spec)

    # --- seeing ---------------------------------------------------------------------------

    async def _known(self) -> None:
        for watched in (self._deployments, self._pods):
            await watched.tried.wait()
            if not watched.known.is_set():
                raise Unavailable(watched.trouble)

    def _deployment(
        self, number: int, live: Object | None, pods: Sequence[Object], attached: Sequence[Attachment]
    ) -> Deployment:
        ready = (
            live is not None
            and not is_ending(live)
            and any(is_ready(pod) for pod in pods)
            and any(a.ready for a in attached)
        )
        away = self._deployments.trouble or self._pods.trouble
        trouble = ""
        if not ready:
            trouble = why_not_ready(live, pods, attached) + (f" (last seen before {away})" if away else "")
        wanted = live["spec"].get("replicas", 0) * self._template.per_pod if live is not None else 0
        return Deployment(
            number=number,
            ready=ready,
            workers=max(wanted, sum(a.workers for a in attached)),
            revision=live["metadata"]["labels"].get(REVISION, "") if live is not None else "",
            trouble=trouble,
            open={name: why for a in attached for name, why in a.open.items()},
            paused=all(a.paused for a in attached) if attached else None,
        )

    async def _own_image(self) -> str:
        """Of the Pod that this runs in: the same code then observes and works."""
        pod: Object = {}
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            pod = await self._cluster.request("GET", self._cluster.path("pods", socket.gethostname()))
        if not pod:
            raise UsageError(
                "kubernetes: which image do the workers run? Give ?image=, or an image in the Pod template"
            )
        return str(pod["spec"]["containers"][0]["image"])

    # --- making ---------------------------------------------------------------------------

    def _change(self, spec: WagonSpec, wanted: Mapping[str, Any]) -> tuple[object, str, dict[str, str]] | None:
        """What is to be written, how, and with which options; None where all is as it should be."""
        live = self._deployments.objects.get(wanted["metadata"]["name"])
        if live is not None and (is_ending(live) or _number(live) > spec.number):
            return None  # it is made again when it is gone; what has moved on is not brought back
        if live is None or self._made_anew(spec, live, wanted):
            return wanted, APPLY, {"force": "true"}
        number, replicas = wanted["metadata"]["labels"][WAGON], wanted["spec"]["replicas"]
        if live["metadata"]["labels"].get(WAGON) == number and live["spec"].get("replicas") == replicas:
            return None
        return {"metadata": {"labels": {WAGON: number}}, "spec": {"replicas": replicas}}, MERGE, {}

    def _made_anew(self, spec: WagonSpec, live: Object, wanted: Object) -> bool:
        """Another revision is asked for, or another template, and no Pod stands that serves."""
        if live["metadata"]["labels"].get(REVISION, "") != spec.revision:
            return True
        made_from = live["metadata"].get("annotations", {}).get(MADE_FROM)
        if made_from == wanted["metadata"]["annotations"][MADE_FROM]:
            return False
        return not any(is_ready(pod) for pod in _of(spec.train, self._pods) if _unit(pod) == spec.unit)

    # --- ending ---------------------------------------------------------------------------

    async def _end(self, train: str, unit: int, grace: float) -> None:
        """The Deployment and its ReplicaSet, which would replace the Pods, are deleted without them, then each Pod by
        its name, with the grace. Deleted along with their owners they would have the longest that a handler may take,
        and a kubelet that has begun to end a Pod doesn't hear of a shorter time any more."""
        await self._known()
        name, seconds = name_of(train, unit), math.ceil(grace) + MARGIN
        until, asked = _now() + seconds + _STUCK, set[str]()
        gone = await self._delete("deployments", name, propagationPolicy="Orphan")
        if gone is not None and gone.get("kind") == "Deployment":
            self._deployments.put(gone)
        await self._delete_replica_sets(train, unit)
        may_come_again = True
        while True:
            if may_come_again and name not in self._deployments.objects:
                may_come_again = False
                await self._delete_replica_sets(train, unit)  # its controller may have made one anew before it was gone
            pods = [pod for pod in _of(train, self._pods) if _unit(pod) == unit]
            if name not in self._deployments.objects and not pods:
                return
            for pod in pods:
                granted = pod["metadata"].get("deletionGracePeriodSeconds", math.inf)
                if pod["metadata"]["uid"] not in asked and granted > seconds:
                    asked.add(pod["metadata"]["uid"])
                    until = max(until, _now() + min(granted, self._template.longest) + _STUCK)
                    await self._delete("pods", pod["metadata"]["name"], gracePeriodSeconds=seconds)
            if _now() > until:
                raise Unavailable(self._stuck(pods, name))
            await asyncio.sleep(_POLL)

    async def _delete_replica_sets(self, train: str, unit: int) -> None:
        await self._cluster.request(
            "DELETE",
            self._cluster.path("replicasets"),
            body={"propagationPolicy": "Orphan"},
            labelSelector=f"{TRAIN}={train},{UNIT}={unit}",
        )

    async def _delete(self, kind: str, name: str, **options: object) -> Object | None:
        try:
            return await self._cluster.request("DELETE", self._cluster.path(kind, name), body=options)
        except Refused as e:
            if e.status != 404:
                raise
            return None

    def _stuck(self, pods: Sequence[Object], name: str) -> str:
        away = self._deployments.trouble or self._pods.trouble
        if away:
            return f"whether Deployment {name} has ended is not known: {away}"
        if not pods:
            return f"kubernetes: Deployment {name} does not go though its Pods have ended; see its finalizers"
        pod = pods[0]["metadata"]["name"]
        node = pods[0]["spec"].get("nodeName", "none")
        return (
            f"kubernetes: Pod {pod} on node {node} has not ended {_STUCK:g} s after its time; if the node is lost for good: "
            f"kubectl delete pod {pod} --force, or delete the node"
        )


def _template(given: Mapping[str, Any] | str | os.PathLike[str] | None) -> Mapping[str, Any]:
    if given is None or isinstance(given, Mapping):
        return given or {}
    try:
        found = yaml.safe_load(Path(given).read_text())
    except (OSError, yaml.YAMLError) as e:
        raise UsageError(f"Pod template {given}: {e}") from e
    return found if found is not None else {}


def _of(train: str, watched: Watched) -> list[Object]:
    return [o for o in watched.objects.values() if o["metadata"]["labels"].get(TRAIN) == train]


def _unit(found: Object) -> int:
    return int(found["metadata"]["labels"].get(UNIT, 0))


def _host(pod: Object) -> str:
    """What its workers' names in the registry begin with: its host name, which is cut to 63 characters."""
    return str(pod["metadata"]["name"])[:63]


def _number(live: Object) -> int:
    return int(live["metadata"]["labels"].get(WAGON, 0))


def _now() -> float:
    return asyncio.get_running_loop().time()
