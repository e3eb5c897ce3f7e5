"""The names of the orchestrator's objects in a cluster. Pure."""

from __future__ import annotations

from hashlib import blake2b

TRAIN, UNIT, WAGON, REVISION = "eventwagon/train", "eventwagon/unit", "eventwagon/wagon", "eventwagon/revision"
"""The labels. A Deployment's selector and its Pods have the first two. Only the Deployment has the wagon as a label, so
that warm Pods can get another wagon without being created again."""
MADE_FROM = "eventwagon/template"
"""The annotation that distinguishes Pods of different templates."""
MADE_FOR = "eventwagon/deployment"
"""The annotation of Pods that holds the name of the Deployment that they were made for."""
COST = "controller.kubernetes.io/pod-deletion-cost"
"""Kubernetes's own annotation: when a Deployment is scaled down, the Pods with the lowest value are deleted first."""
MANAGER = "eventwagon"
SELECTOR = f"app.kubernetes.io/managed-by={MANAGER}"
WORKER = "worker"
"""The name of our container; the user's template may hold settings under this name, which are merged into it."""
OBSERVER = "observer"
"""The name of the container in which observers run."""
HEALTH_PORT = 8686
MARGIN = 5
"""Seconds beyond the grace, for giving back events and for the interpreter to exit."""


def name_of(train: str, unit: int) -> str:
    """The name of the unit's Deployment, which no other program uses. Names in Kubernetes have no underscores: if one
    was replaced, a digest keeps two trains apart."""
    plain = train.replace("_", "-")
    digest = "" if plain == train else f"-{blake2b(train.encode(), digest_size=3).hexdigest()}"
    return f"eventwagon-{plain}{digest}-{unit}"


def labels_of(train: str, unit: int) -> dict[str, str]:
    """The labels of a unit that never change."""
    return {TRAIN: train, UNIT: str(unit), "app.kubernetes.io/managed-by": MANAGER}
