"""Recognises eventwagon's own objects in a namespace that others use, too. Pure.

Labels alone prove nothing: people put them on their own objects, to find everything of a train. An object is ours if it
has our labels, the name that we or its controller gave it, no owner but ours, and Pods with our annotation that our
selector finds.
"""

from __future__ import annotations

import re

from .cluster import Object
from .names import MADE_FOR, MANAGER, SELECTOR, TRAIN, UNIT, name_of

_HASH = "pod-template-hash"
_EARLIER = "eventwagon in an earlier release"
_UNIT = re.compile(r"[1-9][0-9]{0,17}")


def key_of(found: Object) -> tuple[str, int] | None:
    """The train and the unit that its labels name; None if they name none."""
    labels = found["metadata"].get("labels") or {}
    label, _, manager = SELECTOR.partition("=")
    if labels.get(label) != manager or not labels.get(TRAIN) or not _UNIT.fullmatch(labels.get(UNIT, "")):
        return None
    return str(labels[TRAIN]), int(labels[UNIT])


def is_ours(kind: str, found: Object) -> bool:
    """Whether an orchestrator of eventwagon's made this object, one of `deployments`, `replicasets` or `pods`, or it
    belongs to a Deployment of eventwagon's."""
    key = key_of(found)
    if key is None:
        return False
    metadata, deployment = found["metadata"], name_of(*key)
    hashed = metadata["labels"].get(_HASH, "")
    replica_set, selected = f"{deployment}-{hashed}", {TRAIN: key[0], UNIT: str(key[1])}
    match kind:
        case "deployments":
            named, owned_by = metadata["name"] == deployment, set[tuple[str, str]]()
            selects, pod = found["spec"]["selector"] == {"matchLabels": selected}, found["spec"]["template"]
        case "replicasets":
            named, owned_by = metadata["name"] == replica_set, {("Deployment", deployment)}
            selector = {"matchLabels": {**selected, _HASH: hashed}}
            selects, pod = found["spec"]["selector"] == selector, found["spec"]["template"]
        case _:
            named, owned_by = metadata.get("generateName") == f"{replica_set}-", {("ReplicaSet", replica_set)}
            selects, pod = True, found
    is_marked = (pod["metadata"].get("annotations") or {}).get(MADE_FOR) == deployment
    return named and selects and is_marked and _owners(found) <= owned_by


def owner_of(found: Object) -> str:
    """Who created a Deployment, or has written to it, in words."""
    metadata = found["metadata"]
    owners = [f"{kind} {name}" for kind, name in sorted(_owners(found))]
    managed_by = (metadata.get("labels") or {}).get(SELECTOR.partition("=")[0], "")
    managers = {str(f.get("manager", "")) for f in metadata.get("managedFields") or ()}
    named = owners or sorted({managed_by, *managers} - {"", MANAGER, "kube-controller-manager"})
    return ", ".join(named) or (_EARLIER if MANAGER in managers else "somebody else")


def todo_with(found: Object) -> str:
    """What to do with a Deployment that has our labels and is not ours."""
    if owner_of(found) == _EARLIER:  # without the labels no `kubectl delete -l` would find it any more
        return "delete it once new observers have given its wagon Pods"
    return "take the labels away from it, and from its Pods"


def _owners(found: Object) -> set[tuple[str, str]]:
    return {(str(o["kind"]), str(o["name"])) for o in found["metadata"].get("ownerReferences") or ()}
