"""The Deployment of a unit: ours, with the user's Pod template merged in. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, cast

from ...contracts.orchestrator import WagonSpec
from ...contracts.process import POD
from ...errors import UsageError
from ...event import wagon_name
from .check import faults_of
from .names import (
    HEALTH_PORT,
    MADE_FOR,
    MADE_FROM,
    MARGIN,
    OBSERVER,
    REVISION,
    TRAIN,
    UNIT,
    WAGON,
    WORKER,
    labels_of,
    name_of,
)

_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_MAY_BE_TAKEN_AWAY = ("livenessProbe",)
"""Fields that a template may set to null in order to remove them; elsewhere null means the same as leaving the field
out."""
_FAULTS_MOST = 50
_LIVE_EVERY = 10
_SECURITY = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}


def with_tag(image: str, revision: str) -> str:
    """The image with its tag replaced by the revision. Raises UsageError."""
    if not revision:
        return image
    if not _VALUE.fullmatch(revision):
        raise UsageError(f"revision {revision!r}: here it is an image's tag and a label: 1 to 63 of A-Z a-z 0-9 . _ -")
    if "@" in image:
        raise UsageError(f"revision {revision!r}: image {image} is named by its digest; name one by a tag")
    path, slash, last = image.rpartition("/")
    return f"{path}{slash}{last.partition(':')[0]}:{revision}"


def merged(ours: object, theirs: object, where: str = "") -> object:
    """`theirs` over `ours`: mappings are merged by key, containers by name in the order of `theirs`, other lists are
    concatenated."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        theirs = {k: v for k, v in theirs.items() if v is not None or k in _MAY_BE_TAKEN_AWAY}
        both = {**ours, **theirs}
        return {
            k: merged(ours[k], theirs[k], f"{where}.{k}") if k in ours and k in theirs else v for k, v in both.items()
        }
    if isinstance(ours, list) and isinstance(theirs, list):
        if where.endswith(".containers"):
            known = {c["name"]: c for c in ours}
            own = [c for c in ours if c["name"] not in {c["name"] for c in theirs}]
            return [*own, *(merged(known.get(c["name"], {}), c, where) for c in theirs)]  # they start in this order
        if not where.endswith(".command"):
            return [*ours, *theirs]
    return theirs


def container_of(containers: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The workers' container, wherever it is listed; an empty one if there is none."""
    return next((c for c in containers if c["name"] == WORKER), {})


def own_image(pod: Mapping[str, Any]) -> str:
    """The image of the container in which this process runs, in a Pod that may have others: the one named `observer` or
    `worker`, or the only one. Raises UsageError."""
    images = {c["name"]: str(c["image"]) for c in pod["spec"]["containers"]}
    named = [images[name] for name in (OBSERVER, WORKER) if name in images]
    if not named and len(images) > 1:
        raise UsageError(
            f"kubernetes: which image do the workers run? Of the containers {', '.join(sorted(images))} in Pod "
            f"{pod['metadata']['name']} none is named {OBSERVER}: name it so, or give ?image="
        )
    return (named or list(images.values()))[0]


class Template:
    """Makes Deployments for the workers of `target`. Raises UsageError if `given`, a Pod template, is invalid or
    contradicts the Deployment; `named` says where it comes from. `per_pod` workers run in each Pod, with the
    environment from Secret `secret`; a handler may take `handler_timeout` seconds. `image` is for a template that names
    none."""

    def __init__(
        self,
        target: str,
        given: object,
        *,
        secret: str,
        image: str,
        per_pod: int,
        handler_timeout: float,
        named: str = "",
    ) -> None:
        self.per_pod = per_pod
        self._target = target
        self._secret = secret
        self._leave = math.ceil(handler_timeout)
        if faults := faults_of(given, secret=bool(secret), leave=self._leave):
            what = "kubernetes: Pod template" + (f" {named}" if named else "")
            count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
            more = f"; and {len(faults) - _FAULTS_MOST} more" if len(faults) > _FAULTS_MOST else ""
            raise UsageError(f"{what}: {count}: {'; '.join(faults[:_FAULTS_MOST])}{more}")
        self._given = cast("Mapping[str, Any]", given)
        spec = self._given.get("spec") or {}
        self.longest: int = spec.get("terminationGracePeriodSeconds", self._leave + MARGIN)
        """Seconds that a Pod may take to end."""
        self.image: str = container_of(spec.get("containers") or ()).get("image") or image

    def deployment(self, spec: WagonSpec) -> dict[str, Any]:
        """The complete Deployment of the unit. Raises UsageError."""
        labels = labels_of(spec.train, spec.unit)
        if not _VALUE.fullmatch(spec.train):
            raise UsageError(
                f"train {spec.train!r}: here its name is a label too: it has to end with a letter or digit"
            )
        if spec.revision:
            labels[REVISION] = spec.revision
        pod: Any = merged(self._ours(spec, labels), self._given)
        container_of(pod["spec"]["containers"])["image"] = with_tag(self.image, spec.revision)
        made_from = blake2b(json.dumps(pod, sort_keys=True).encode(), digest_size=8).hexdigest()
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {
                "name": name_of(spec.train, spec.unit),
                "labels": {**labels, WAGON: str(spec.number)},
                "annotations": {MADE_FROM: made_from},
            },
            "spec": {
                "replicas": self.replicas(spec),
                "revisionHistoryLimit": 0,
                "selector": {"matchLabels": {TRAIN: spec.train, UNIT: str(spec.unit)}},
                "template": pod,
            },
        }

    def replicas(self, spec: WagonSpec) -> int:
        """How many Pods the unit should have. Raises UsageError."""
        if spec.workers is None:
            raise UsageError(f"{wagon_name(spec.train, spec.number)}: Pods of its own need a number of workers")
        return -(-spec.workers // self.per_pod)

    def _ours(self, spec: WagonSpec, labels: Mapping[str, str]) -> dict[str, Any]:
        arguments = ["work", self._target, "--wagon", str(spec.unit), "--workers", str(self.per_pod)]
        arguments += ["--grace", str(self._leave), "--health-port", str(HEALTH_PORT)]
        worker: dict[str, Any] = {
            "name": WORKER,
            "command": ["eventwagon"],
            "args": arguments,
            "env": [{"name": POD, "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}],
            "readinessProbe": {"httpGet": {"path": "/ready", "port": HEALTH_PORT}, "periodSeconds": 1},
            "livenessProbe": {
                "httpGet": {"path": "/live", "port": HEALTH_PORT},
                "periodSeconds": _LIVE_EVERY,
                "timeoutSeconds": _LIVE_EVERY // 2,
                # a handler that blocks the event loop gets its time, too
                "failureThreshold": max(6, math.ceil(self._leave / _LIVE_EVERY) + 1),
                "terminationGracePeriodSeconds": MARGIN,  # it would not notice that it should end
            },
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "securityContext": _SECURITY,
        }
        if self._secret:
            worker["envFrom"] = [{"secretRef": {"name": self._secret}}]
        return {
            "metadata": {"labels": dict(labels), "annotations": {MADE_FOR: name_of(spec.train, spec.unit)}},
            "spec": {
                "containers": [worker],
                "terminationGracePeriodSeconds": self._leave + MARGIN,
                "automountServiceAccountToken": False,
                "shareProcessNamespace": True,  # the first process of a container would ignore SIGTERM while it loads
                "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            },
        }
