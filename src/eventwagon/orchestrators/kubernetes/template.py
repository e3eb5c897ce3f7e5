"""The Deployment of a unit of workers: ours, with the user's Pod template merged in. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from ...errors import UsageError
from ...orchestrator import WagonSpec
from ...process import POD

TRAIN, UNIT, WAGON, REVISION = "eventwagon/train", "eventwagon/unit", "eventwagon/wagon", "eventwagon/revision"
"""The labels. A Deployment's selector, and its Pods, have the first two; the wagon is a label of the Deployment alone,
so that warm Pods can be given to another wagon without being made anew."""
MADE_FROM = "eventwagon/template"
"""The annotation that tells Pods of one template from those of another."""
MANAGER = "eventwagon"
SELECTOR = f"app.kubernetes.io/managed-by={MANAGER}"
WORKER = "worker"
"""Our container's name: what the user's template says of it is merged into it."""
HEALTH_PORT = 8686
MARGIN = 5
"""Seconds beyond the grace for giving back what is in hand, and for the interpreter's own end."""
_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_SECURITY = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}


def name_of(train: str, unit: int) -> str:
    """Of the Deployment. A name here knows no underscore: where one was replaced, a digest keeps two trains apart."""
    plain = train.replace("_", "-")
    digest = "" if plain == train else f"-{blake2b(train.encode(), digest_size=3).hexdigest()}"
    return f"{plain}{digest}-{unit}"


def labels_of(train: str, unit: int) -> dict[str, str]:
    """What never changes of a unit."""
    return {TRAIN: train, UNIT: str(unit), "app.kubernetes.io/managed-by": MANAGER}


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
    """`theirs` over `ours`: mappings key by key, lists one after the other, containers by their names."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        both = {**ours, **theirs}
        return {
            k: merged(ours[k], theirs[k], f"{where}.{k}") if k in ours and k in theirs else v for k, v in both.items()
        }
    if isinstance(ours, list) and isinstance(theirs, list):
        if where.endswith(".containers"):
            named = {c["name"]: c for c in theirs}
            known = [merged(c, named.pop(c["name"], {}), where) for c in ours]
            return [*known, *named.values()]
        if not where.endswith(".command"):
            return [*ours, *theirs]
    return theirs


class Template:
    """Makes Deployments for the workers of `target`. Raises UsageError where `given`, a Pod template, contradicts it.

    `per_pod` workers run in each Pod, with the environment that Secret `secret` holds; a handler may take
    `handler_timeout` seconds. `image` is for a template that names none.
    """

    def __init__(
        self, target: str, given: Mapping[str, Any], *, secret: str, image: str, per_pod: int, handler_timeout: float
    ) -> None:
        self.per_pod = per_pod
        self._target = target
        self._given = given
        self._secret = secret
        self._leave = math.ceil(handler_timeout)
        self._check(given)
        self.longest: int = self._mapping(given, "spec").get("terminationGracePeriodSeconds", self._leave + MARGIN)
        """Seconds that a Pod may take to end."""
        self.image: str = self._worker(given).get("image") or image

    def deployment(self, spec: WagonSpec) -> dict[str, Any]:
        """All of the unit's Deployment. Raises UsageError."""
        labels = labels_of(spec.train, spec.unit)
        if not _VALUE.fullmatch(spec.train):
            raise UsageError(
                f"train {spec.train!r}: here its name is a label too: it has to end with a letter or digit"
            )
        if spec.revision:
            labels[REVISION] = spec.revision
        pod: Any = merged(self._ours(spec, labels), self._given)
        worker = pod["spec"]["containers"][0]
        pod["spec"]["containers"][0] = {**worker, "image": with_tag(self.image, spec.revision)}
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
        """How many Pods. Raises UsageError."""
        if spec.workers is None:
            raise UsageError(f"{spec.train} wagon {spec.number}: Pods of its own need a number of workers")
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
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "securityContext": _SECURITY,
        }
        if self._secret:
            worker["envFrom"] = [{"secretRef": {"name": self._secret}}]
        return {
            "metadata": {"labels": dict(labels)},
            "spec": {
                "containers": [worker],
                "terminationGracePeriodSeconds": self._leave + MARGIN,
                "automountServiceAccountToken": False,
                "shareProcessNamespace": True,  # the first process of one would be deaf to SIGTERM while it loads
                "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            },
        }

    # --- what a user's template may not say -----------------------------------------------

    @staticmethod
    def _worker(given: Mapping[str, Any]) -> Mapping[str, Any]:
        containers = given.get("spec", {}).get("containers", ())
        return next((c for c in containers if c.get("name") == WORKER), {})

    def _check(self, given: Mapping[str, Any]) -> None:
        self._keys(given, "the Pod template", "metadata", "spec")
        metadata = self._mapping(given, "metadata")
        self._keys(metadata, "its metadata", "labels", "annotations")
        for label in metadata.get("labels") or {}:
            if label.startswith("eventwagon/") or label == SELECTOR.partition("=")[0]:
                raise UsageError(f"Pod template: label {label} is set by the orchestrator; leave it out")
        spec = self._mapping(given, "spec")
        for container in spec.get("containers") or ():
            if not isinstance(container, Mapping) or "name" not in container:
                raise UsageError(f"Pod template: a container has no name; what is for the workers' is named {WORKER!r}")
        if spec.get("restartPolicy", "Always") != "Always":
            raise UsageError("Pod template: restartPolicy has to be Always: a worker that has crashed comes back")
        if spec.get("terminationGracePeriodSeconds", self._leave + MARGIN) < self._leave + MARGIN:
            raise UsageError(
                f"Pod template: terminationGracePeriodSeconds={spec['terminationGracePeriodSeconds']} would cut handlers "
                f"off: handler_timeout wants {self._leave + MARGIN} at least (or leave it out)"
            )
        worker = self._worker(given)
        if "args" in worker:
            raise UsageError("Pod template: args are the orchestrator's; give the program in command")
        if {"exec", "grpc", "tcpSocket", "httpGet"} & set(worker.get("readinessProbe") or ()):
            raise UsageError("Pod template: what the readinessProbe asks is the orchestrator's; its times are yours")
        if any(e.get("name") == POD for e in worker.get("env") or ()):
            raise UsageError(f"Pod template: {POD} is set by the orchestrator; leave it out")
        plain = {e.get("name"): e for e in worker.get("env") or ()}.get("EVENTWAGON_URL", {})
        if "value" in plain:
            raise UsageError("Pod template: EVENTWAGON_URL stands in plain sight; keep it in a Secret (option secret)")
        if not self._secret and not plain and not worker.get("envFrom"):
            raise UsageError(
                "kubernetes: where do the workers get EVENTWAGON_URL from? Name a Secret that holds it: ?secret=NAME"
            )

    @staticmethod
    def _mapping(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        found = given.get(name)
        if found is None:
            return {}
        if not isinstance(found, Mapping):
            raise UsageError(f"Pod template: {name} has to be a mapping, not {found!r}")
        return found

    @staticmethod
    def _keys(given: object, what: str, *known: str) -> None:
        if not isinstance(given, Mapping) or (unknown := set(given) - set(known)):
            named = ", ".join(sorted(unknown)) if isinstance(given, Mapping) else repr(given)
            raise UsageError(f"{what} has {named}; there may be {' and '.join(known)}, as in a Deployment's template")
