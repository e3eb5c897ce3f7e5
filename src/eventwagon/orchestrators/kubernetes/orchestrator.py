"""The orchestrator: writes what should run to the API server, and reports what runs."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec
import yaml

from ...contracts.orchestrator import Deployment, WagonSpec, together
from ...contracts.process import Pod
from ...contracts.registry import Registry
from ...display.text import plain
from ...errors import EventwagonError, Unavailable, UsageError
from ...event import wagon_name
from ..removals import UnitRemovals
from .check import Loader
from .cluster import JSON_PATCH, MERGE_PATCH, APIRefused, Cluster, Object, Watched
from .ends import Ends
from .errors import crashes_of, is_ending, is_ready, why_not_ready
from .names import COST, MADE_FROM, MANAGER, MARGIN, REVISION, SELECTOR, TRAIN, UNIT, WAGON, labels_of, name_of
from .ours import is_ours, key_of, owner_of, todo_with
from .template import Template, own_image

_POLL = 0.05
_AGAIN = 1.0
"""Seconds before a refused change is tried again; an observer would try ten times a second."""
_STUCK = 30.0
"""A Pod that has not ended so many seconds after its grace is reported."""
_LOOKS = 20
"""How often a write is tried if the object has changed since it was read."""
_MOST = 1000
_logger = logging.getLogger("eventwagon.kubernetes")

_Key = tuple[str, int]


class _Change(NamedTuple):
    """A write: the request to the API server, and the Deployment that it changes (None: it creates one)."""

    method: str
    body: object
    form: str
    live: Object | None


class Kubernetes:
    """Gives each wagon a Deployment: Pods that run `eventwagon work` for `target` (`module:attribute`, in their image).

    The Pods get their environment, EVENTWAGON_URL in it, from Secret `secret`. `template` is a Pod template (a mapping,
    or the YAML file that holds it) that is merged in: its settings for the container `worker` go into ours. A unit
    keeps the template from which it was made while any of its Pods is ready. `image` is for a template that names none;
    without either it is the image of the Pod in which this process runs. A wagon's `revision` replaces the image's tag.
    `per_pod` workers run in each Pod, and Pods come and go as a wagon's number of workers changes.

    The workers check in to `registry`: a wagon is ready when one of its Pods is, the worker in it has checked in as
    ready, and no Pod of a moved unit is still at the previous wagon. `handler_timeout` is the train's: a Pod that must
    end has that long. `namespace` and `context` default to those of the Pod in which this process runs, or of the
    kubeconfig file. One namespace is for one deployment of a train: everything that an orchestrator made there under
    that name belongs to it. Objects of others are not touched, whatever their names and labels are. Raises UsageError.
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
        given: object = {} if template is None else template
        if isinstance(template, str | os.PathLike):
            given = _read(template)
        self._template = Template(
            target,
            given,
            secret=secret,
            image=image,
            per_pod=per_pod,
            handler_timeout=handler_timeout,
            named=plain(str(template)) if isinstance(template, str | os.PathLike) else "",
        )
        self._registry = registry
        self._cluster = Cluster(namespace, context)
        self._deployments = Watched(self._cluster, "deployments", SELECTOR, self._tell_of_look_alike)
        self._ends = Ends()
        self._pods = Watched(self._cluster, "pods", SELECTOR, self._ends.see)
        self._look_alikes: set[str] = set()
        self._marking_refused = False
        """True once it is logged that Pods can't be marked."""
        self._removals = UnitRemovals()
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
        """Its Deployments keep running."""
        await self._stack.aclose()

    # --- the contract ---------------------------------------------------------------------

    @property
    def trouble(self) -> str:
        """Why the API server can't be watched at present; empty if it can."""
        return self._deployments.trouble or self._pods.trouble

    @property
    def step(self) -> int:
        """See InSteps.step: the workers of a Pod."""
        return self._template.per_pod

    async def ensure(self, spec: WagonSpec) -> None:
        """See Orchestrator.ensure. Raises Unavailable, with the API server's message."""
        key = spec.train, spec.unit
        if self._removals.postpone(spec):
            return
        wanted = self._template.deployment(spec)
        await self._known()
        if self._change(spec, wanted) is None:
            return
        since, refusal = self._refused.get(key, (-math.inf, None))
        if refusal is not None and _now() < since + _AGAIN:
            raise refusal
        try:
            await self._write(spec, wanted)
        except Unavailable as e:
            self._refused[key] = _now(), e
            raise
        self._refused.pop(key, None)

    async def deployments(self, train: str) -> Mapping[int, Deployment]:
        """See Orchestrator.deployments. While the API server is away, it returns what was last seen there, with the
        workers' present check-ins. Raises Unavailable if nothing was seen yet."""
        await self._known()
        attached: dict[int, list[Deployment]] = {}
        places: dict[str, set[int]] = {}
        for member in await self._registry.members(train):
            for a in member.attachments if "serve" in member.roles else ():
                attached.setdefault(a.number, []).append(a)
                places.setdefault(member.name.rsplit("-", 2)[0], set()).add(a.number)
        pods: dict[int, list[Object]] = {}
        for unit, pod in self._own(self._pods, train):
            pods.setdefault(unit, []).append(pod)
        deployments = dict(self._own(self._deployments, train))
        found = {}
        for unit in sorted({*deployments, *pods}):
            live = deployments.get(unit)
            number = _number(live) if live is not None else unit
            own = pods.get(unit, [])
            found[unit] = self._deployment(number, live, own, attached.get(number, []))
            if left := {n for pod in own for n in places.get(_host(pod), ()) if n != number}:
                because = f"a worker has not left {wagon_name(train, min(left))} yet"
                found[unit] = msgspec.structs.replace(found[unit], ready=False, trouble=because)
        return found

    def why_ended(self, pod: Pod) -> str:
        """See Witness.why_ended. It knows the Pods that its watch has reported since this object was entered."""
        return self._ends.why_ended(pod)

    async def remove(self, train: str, unit: int, *, grace: float) -> None:
        """See Orchestrator.remove. Raises Unavailable, also if a Pod has not ended long after its time."""
        key = train, unit
        with self._removals.removing(key):
            await self._end(train, unit, grace)
        self._refused.pop(key, None)
        if (spec := self._removals.postponed(key)) is not None:
            await self.ensure(spec)

    # --- seeing ---------------------------------------------------------------------------

    @staticmethod
    def _own(watched: Watched, train: str) -> list[tuple[int, Object]]:
        """Our objects of one kind, with their units."""
        return [
            (key[1], found)
            for found in watched.objects.values()
            if (key := key_of(found)) and key[0] == train and is_ours(watched.kind, found)
        ]

    def _live(self, train: str, unit: int) -> Object | None:
        """The unit's Deployment."""
        found = self._deployments.objects.get(name_of(train, unit))
        return found if found is not None and is_ours("deployments", found) else None

    def _pods_of(self, train: str, unit: int) -> list[Object]:
        return [pod for of, pod in self._own(self._pods, train) if of == unit]

    def _tell_of_look_alike(self, found: Object) -> None:
        uid, key = str(found["metadata"]["uid"]), key_of(found)
        if key is None or is_ours("deployments", found) or uid in self._look_alikes or len(self._look_alikes) >= _MOST:
            return
        self._look_alikes.add(uid)
        _logger.warning(
            "Deployment %s has the labels of train %s, unit %d, and was made by %s: it is left alone; %s",
            found["metadata"]["name"],
            *key,
            owner_of(found),
            todo_with(found),
        )

    async def _known(self) -> None:
        for watched in (self._deployments, self._pods):
            await watched.tried.wait()
            if not watched.known.is_set():
                raise Unavailable(watched.trouble)

    def _deployment(
        self, number: int, live: Object | None, pods: Sequence[Object], attached: Sequence[Deployment]
    ) -> Deployment:
        ready = (
            live is not None
            and not is_ending(live)
            and any(is_ready(pod) for pod in pods)
            and any(a.ready for a in attached)
        )
        away = self.trouble
        trouble = ""
        if not ready:
            trouble = why_not_ready(live, pods, attached) + (f" (last seen before {away})" if away else "")
        wanted = live["spec"].get("replicas", 0) * self.step if live is not None else 0
        crashes, why = crashes_of(pods)
        checked_in = together(attached) if attached else Deployment(number=number, ready=False)
        return msgspec.structs.replace(
            checked_in,
            ready=ready,
            workers=max(wanted, checked_in.workers),
            attached=sum(a.workers for a in attached if a.ready),
            revision=live["metadata"]["labels"].get(REVISION, "") if live is not None else "",
            trouble=trouble,
            crashes=crashes,
            crashed_because=why,
        )

    async def _own_image(self) -> str:
        """The image of the container in which this process runs: observers and workers then run the same code."""
        if "KUBERNETES_SERVICE_HOST" not in os.environ:
            raise UsageError(
                "kubernetes: which image do the workers run? Give ?image=, or an image in the Pod template"
            )
        name = socket.gethostname()
        try:
            pod = await self._cluster.request("GET", self._cluster.path("pods", name))
        except APIRefused as e:
            if e.status != 404:
                raise
            raise UsageError(
                f"kubernetes: which image do the workers run? This host is named {name}, and namespace "
                f"{self._cluster.namespace} has no such Pod: give ?image="
            ) from e
        return own_image(pod)

    # --- making ---------------------------------------------------------------------------

    async def _write(self, spec: WagonSpec, wanted: Mapping[str, Any]) -> None:
        """Bring the Deployment to what it should be: create it if there is none, or change it if it is still ours and
        has not changed since it was read; otherwise read it again. Raises Unavailable."""
        name = wanted["metadata"]["name"]
        for _ in range(_LOOKS):
            change = self._change(spec, wanted)
            if change is None:
                return
            if change.live is not None and change.live["spec"].get("replicas", 0) > wanted["spec"]["replicas"] > 0:
                await self._mark(spec)
            path = self._cluster.path("deployments", name if change.live is not None else "")
            try:
                made = await self._cluster.request(
                    change.method,
                    path,
                    body=change.body,
                    form=change.form,
                    fieldManager=MANAGER,
                    fieldValidation="Strict",
                )
            except APIRefused as e:
                if e.status not in (404, 409, 422) or not await self._is_another(name, change.live):
                    raise
            else:
                self._deployments.put(made)
                return
        raise Unavailable(f"kubernetes: Deployment {name} was created again {_LOOKS} times while it was written")

    async def _mark(self, spec: WagonSpec) -> None:
        """Before scaling down, annotate each Pod with the number of events its workers had in flight at their last
        check-in, so that Kubernetes deletes idle Pods first. A deleted Pod finishes its events in flight in any case;
        so a refusal, as by a Role of an earlier release, is logged once and ignored."""
        in_hand: Counter[str] = Counter()
        for member in await self._registry.members(spec.train):
            in_hand[member.name.rsplit("-", 2)[0]] += sum(a.in_hand for a in member.attachments)
        for pod in self._pods_of(spec.train, spec.unit):
            metadata, cost = pod["metadata"], str(in_hand[_host(pod)])
            if is_ending(pod) or (metadata.get("annotations") or {}).get(COST, "0") == cost:
                continue
            body = {"metadata": {"uid": metadata["uid"], "annotations": {COST: cost}}}
            path = self._cluster.path("pods", metadata["name"])
            try:
                self._pods.put(
                    await self._cluster.request("PATCH", path, body=body, form=MERGE_PATCH, fieldManager=MANAGER)
                )
            except APIRefused as e:
                if e.status not in (404, 409) and not self._marking_refused:
                    self._marking_refused = True
                    _logger.warning("which Pods are idle can't be told to Kubernetes, which chooses some: %s", e)

    async def _is_another(self, name: str, seen: Object | None) -> bool:
        """Whether the object with that name is a different one than the one seen. Raises APIRefused if it is not
        ours."""
        path = self._cluster.path("deployments")
        items = (await self._cluster.request("GET", path, fieldSelector=f"metadata.name={name}"))["items"]
        if not items:
            self._deployments.drop(name)
            return seen is not None
        (found,) = items
        if not is_ours("deployments", found):
            raise APIRefused(
                f"kubernetes: Deployment {name} in namespace {self._cluster.namespace} is not eventwagon's but was "
                f"made by {owner_of(found)}, and is left alone; a wagon needs the name: delete or rename that one",
                409,
            )
        self._deployments.put(found)
        return seen is None or seen["metadata"]["uid"] != found["metadata"]["uid"]

    def _change(self, spec: WagonSpec, wanted: Mapping[str, Any]) -> _Change | None:
        """The change to write; None if the Deployment is as it should be."""
        live = self._live(spec.train, spec.unit)
        if live is None:
            return _Change("POST", wanted, "application/json", None)
        if is_ending(live) or spec.is_behind(_number(live)):
            return None  # it is created again when it is gone
        edits: list[tuple[str, object]] = []
        number, replicas = wanted["metadata"]["labels"][WAGON], wanted["spec"]["replicas"]
        if self._made_anew(spec, live, wanted):
            edits.append(("/spec/template", wanted["spec"]["template"]))
            edits += _entries("labels", live, {REVISION: "", **wanted["metadata"]["labels"]})
            edits += _entries("annotations", live, wanted["metadata"]["annotations"])
        elif live["metadata"]["labels"].get(WAGON) != number:
            edits += _entries("labels", live, {WAGON: number})
        if edits or live["spec"].get("replicas") != replicas:
            edits.append(("/spec/replicas", replicas))
            patch = [*_still(live), *({"op": "add", "path": path, "value": value} for path, value in edits)]
            return _Change("PATCH", patch, JSON_PATCH, live)
        return None

    def _made_anew(self, spec: WagonSpec, live: Object, wanted: Object) -> bool:
        """True if another revision or template is wanted, and no Pod is ready."""
        if live["metadata"]["labels"].get(REVISION, "") != spec.revision:
            return True
        made_from = live["metadata"].get("annotations", {}).get(MADE_FROM)
        if made_from == wanted["metadata"]["annotations"][MADE_FROM]:
            return False
        return not any(is_ready(pod) for pod in self._pods_of(spec.train, spec.unit))

    # --- ending ---------------------------------------------------------------------------

    async def _end(self, train: str, unit: int, grace: float) -> None:
        """Delete the Deployment and its ReplicaSet, which would replace the Pods, without deleting the Pods; then
        delete each Pod by its name, with the grace. Pods deleted together with their owners would get the longest time
        that a handler may take, and a kubelet that has begun to end a Pod ignores a shorter time sent later."""
        await self._known()
        name, seconds = name_of(train, unit), math.ceil(grace) + MARGIN
        until, asked = _now() + seconds + _STUCK, dict[str, str]()
        await self._orphan("deployments", train, unit)
        await self._orphan("replicasets", train, unit)
        may_come_again = True
        while True:
            live, pods = self._live(train, unit), self._pods_of(train, unit)
            if may_come_again and live is None:
                may_come_again = False  # but its controller may have made one anew before it was gone
                await self._orphan("replicasets", train, unit)
            if live is None and not pods:
                return
            for pod in pods:
                granted = pod["metadata"].get("deletionGracePeriodSeconds", math.inf)
                uid, version = pod["metadata"]["uid"], pod["metadata"]["resourceVersion"]
                if asked.get(uid) not in ("gone", version) and granted > seconds:
                    until = max(until, _now() + min(granted, self._template.longest) + _STUCK)
                    gone = await self._delete("pods", pod, gracePeriodSeconds=seconds)
                    asked[uid] = "gone" if gone else version  # then the watch reports a later one
            if _now() > until:
                raise Unavailable(self._stuck(pods, name))
            await asyncio.sleep(_POLL)

    async def _orphan(self, kind: str, train: str, unit: int) -> None:
        """Delete the unit's present Deployment or ReplicaSets, but not their Pods. Raises Unavailable."""
        selector = ",".join(f"{label}={value}" for label, value in labels_of(train, unit).items())
        for _ in range(_LOOKS):
            found = await self._cluster.request("GET", self._cluster.path(kind), labelSelector=selector)
            own = [item for item in found["items"] if is_ours(kind, item)]
            if all([await self._delete(kind, item, propagationPolicy="Orphan") for item in own]):
                return
            await asyncio.sleep(_POLL)  # others write to it, too: its controllers, and further observers
        raise Unavailable(
            f"kubernetes: {kind} of {name_of(train, unit)} changed {_LOOKS} times while they were deleted"
        )

    async def _delete(self, kind: str, seen: Object, **options: object) -> bool:
        """Delete the object if it is still as it was seen: same uid, same labels. Returns whether it is being deleted;
        if not, read it again."""
        metadata = seen["metadata"]
        conditions = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
        path = self._cluster.path(kind, metadata["name"])
        try:
            gone = await self._cluster.request("DELETE", path, body={**options, "preconditions": conditions})
        except APIRefused as e:
            if e.status not in (404, 409):
                raise
            return e.status == 404
        if gone.get("kind") == "Deployment":
            self._deployments.put(gone)
        return True

    def _stuck(self, pods: Sequence[Object], name: str) -> str:
        away = self.trouble
        if away:
            return f"whether Deployment {name} has ended is not known: {away}"
        if not pods:
            return f"kubernetes: Deployment {name} is not deleted though its Pods have ended; see its finalizers"
        pod = pods[0]["metadata"]["name"]
        node = pods[0]["spec"].get("nodeName", "none")
        return (
            f"kubernetes: Pod {pod} on node {node} has not ended {_STUCK:g} s after its time; if the node is lost for "
            f"good: kubectl delete pod {pod} --force, or delete the node"
        )


def _read(path: str | os.PathLike[str]) -> object:
    try:
        found = yaml.load(Path(path).read_text("utf-8"), Loader)  # noqa: S506 - a safe one
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as e:
        raise UsageError(f"Pod template {path}: {e}") from e
    return found if found is not None else {}


def _entries(of: str, live: Object, wanted: Mapping[str, str]) -> list[tuple[str, object]]:
    """The entries that a patch adds so that a Deployment has these labels or annotations among its own."""
    if not live["metadata"].get(of):
        return [(f"/metadata/{of}", wanted)]
    return [(f"/metadata/{of}/{name.replace('/', '~1')}", value) for name, value in wanted.items()]


def _still(live: Object) -> list[Mapping[str, object]]:
    """The condition of a patch: it is refused if the object was created again, or no longer has our labels."""
    labels = live["metadata"]["labels"]
    own = {name: labels[name] for name in (TRAIN, UNIT, SELECTOR.partition("=")[0])}
    paths = [("/metadata/uid", live["metadata"]["uid"]), *_entries("labels", live, own)]
    return [{"op": "test", "path": path, "value": value} for path, value in paths]


def _host(pod: Object) -> str:
    """The beginning of the names of its workers in the registry: its host name, which is cut to 63 characters."""
    return str(pod["metadata"]["name"])[:63]


def _number(live: Object) -> int:
    text = live["metadata"]["labels"].get(WAGON, "")
    return int(text) if text.isdigit() else 0


def _now() -> float:
    return asyncio.get_running_loop().time()
