"""What the orchestrator's objects in a cluster are called. Pure."""

from __future__ import annotations

from hashlib import blake2b

TRAIN, UNIT, WAGON, REVISION = "eventwagon/train", "eventwagon/unit", "eventwagon/wagon", "eventwagon/revision"
"""The labels. A Deployment's selector, and its Pods, have the first two; the wagon is a label of the Deployment alone,
so that warm Pods can be given to another wagon without being made anew."""
MADE_FROM = "eventwagon/template"
"""The annotation that tells Pods of one template from those of another."""
MADE_FOR = "eventwagon/deployment"
"""The annotation of Pods with the name of the Deployment that they were made for."""
COST = "controller.kubernetes.io/pod-deletion-cost"
"""Kubernetes's own annotation: where fewer Pods are wanted, those with the lowest figure go first."""
MANAGER = "eventwagon"
SELECTOR = f"app.kubernetes.io/managed-by={MANAGER}"
WORKER = "worker"
"""Our container's name: what the user's template says of it is merged into it."""
OBSERVER = "observer"
"""The container's name in which observers run."""
HEALTH_PORT = 8686
MARGIN = 5
"""Seconds beyond the grace for giving back what is in hand, and for the interpreter's own end."""


def name_of(train: str, unit: int) -> str:
    """Of the Deployment: no other program names one like this. A name here knows no underscore: where one was replaced,
    a digest keeps two trains apart."""
    plain = train.replace("_", "-")
    digest = "" if plain == train else f"-{blake2b(train.encode(), digest_size=3).hexdigest()}"
    return f"eventwagon-{plain}{digest}-{unit}"


def labels_of(train: str, unit: int) -> dict[str, str]:
    """What never changes of a unit."""
    return {TRAIN: train, UNIT: str(unit), "app.kubernetes.io/managed-by": MANAGER}
