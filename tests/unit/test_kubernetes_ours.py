"""What of a namespace's objects is ours: by more than labels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from eventwagon.orchestrators.kubernetes.names import MADE_FOR, UNIT, labels_of, name_of
from eventwagon.orchestrators.kubernetes.ours import is_ours, key_of, owner_of, todo_with

NAME = name_of("orders", 1)


def deployment() -> Any:
    labels = labels_of("orders", 1)
    return {
        "metadata": {"name": NAME, "labels": labels},
        "spec": {
            "selector": {"matchLabels": {k: v for k, v in labels.items() if k.startswith("eventwagon/")}},
            "template": {"metadata": {"labels": labels, "annotations": {MADE_FOR: NAME}}},
        },
    }


def replica_set() -> Any:
    made = deployment()
    made["metadata"]["name"] += "-5d4f"
    for labels in (made["metadata"]["labels"], made["spec"]["selector"]["matchLabels"]):
        labels["pod-template-hash"] = "5d4f"
    made["metadata"]["ownerReferences"] = [{"kind": "Deployment", "name": NAME}]
    return made


def pod() -> Any:
    metadata = {
        "name": f"{NAME}-5d4f-x2x4z",
        "generateName": f"{NAME}-5d4f-",
        "labels": {**labels_of("orders", 1), "pod-template-hash": "5d4f"},
        "annotations": {MADE_FOR: NAME},
        "ownerReferences": [{"kind": "ReplicaSet", "name": f"{NAME}-5d4f"}],
    }
    return {"metadata": metadata, "spec": {}}


MAKE: dict[str, Callable[[], Any]] = {"deployments": deployment, "replicasets": replica_set, "pods": pod}


@pytest.mark.parametrize("kind", MAKE)
def test_ours(kind: str) -> None:
    made = MAKE[kind]()
    assert is_ours(kind, made)
    assert key_of(made) == ("orders", 1)
    made["metadata"].pop("ownerReferences", None)
    assert is_ours(kind, made), "its owner was deleted without it"


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize(
    "change",
    [
        {"labels": None},
        {"labels": {UNIT: None}},
        {"labels": {UNIT: "one"}},
        {"labels": {UNIT: "0"}},
        {"labels": {UNIT: "01"}},
        {"labels": {UNIT: "²"}},
        {"labels": {UNIT: "2"}},
        {"labels": {"eventwagon/train": "order"}},
        {"labels": {"eventwagon/train": ""}},
        {"labels": {"app.kubernetes.io/managed-by": "Helm"}},
        {"name": "orders-1", "generateName": "orders-1-5d4f-"},
        {"ownerReferences": [{"kind": "StatefulSet", "name": NAME}]},
        {"ownerReferences": [{"kind": "Job", "name": f"{NAME}-5d4f"}]},
    ],
    ids=str,
)
def test_one_mark_less(kind: str, change: dict[str, Any]) -> None:
    made = copy.deepcopy(MAKE[kind]())
    for name, value in change.items():
        if isinstance(value, dict):
            made["metadata"][name] |= value
            made["metadata"][name] = {k: v for k, v in made["metadata"][name].items() if v is not None}
        else:
            made["metadata"][name] = value
    assert not is_ours(kind, made)


@pytest.mark.parametrize("kind", MAKE)
def test_pods_of_others(kind: str) -> None:
    """As a Deployment of the same name and labels has them."""
    made = MAKE[kind]()
    where = made["metadata"] if kind == "pods" else made["spec"]["template"]["metadata"]
    del where["annotations"]
    assert not is_ours(kind, made)
    if kind != "pods":
        made = MAKE[kind]()
        made["spec"]["selector"] = {"matchLabels": {"app": "orders"}}
        assert not is_ours(kind, made)


def test_who_made_it() -> None:
    fields = [{"manager": "kubectl-create"}, {"manager": "kube-controller-manager"}, {"manager": "kubectl-create"}]
    assert owner_of({"metadata": {"managedFields": fields}}) == "kubectl-create"
    assert owner_of({"metadata": {"labels": {"app.kubernetes.io/managed-by": "Helm"}}}) == "Helm"
    assert owner_of({"metadata": {"ownerReferences": [{"kind": "Rollout", "name": "x"}]}}) == "Rollout x"
    assert owner_of({"metadata": {}}) == "somebody else"
    earlier = {"metadata": {"managedFields": [{"manager": "eventwagon"}, {"manager": "kube-controller-manager"}]}}
    assert owner_of(earlier) == "eventwagon in an earlier release"
    assert todo_with(earlier) == "delete it once new observers have given its wagon Pods"
    assert todo_with({"metadata": {"managedFields": fields}}) == "take the labels away from it, and from its Pods"
