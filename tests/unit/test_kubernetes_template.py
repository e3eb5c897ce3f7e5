"""What is made of a wagon's spec and a user's Pod template, and what such a template may not say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from eventwagon.drivers import Program, open_orchestrator
from eventwagon.errors import UsageError
from eventwagon.event import DEAD, Channel
from eventwagon.orchestrator import WagonSpec
from eventwagon.orchestrators.kubernetes.template import Template, name_of, with_tag
from eventwagon.orchestrators.kubernetes.trouble import why_not_ready
from eventwagon.settings import Settings

SPEC = WagonSpec(
    train="shop_orders",
    number=5,
    unit=3,
    revision="v2",
    channels=(Channel("shop_orders", 5),),
    dead_letters=Channel("shop_orders", 5, DEAD),
    workers=5,
)


def template(given: Mapping[str, Any] | None = None, *, secret: str = "settings", per_pod: int = 2) -> Template:  # noqa: S107
    return Template(
        "app:orders", given or {}, secret=secret, image="hub:5000/shop:v1", per_pod=per_pod, handler_timeout=60.0
    )


def of_worker(**says: Any) -> Mapping[str, Any]:
    return {"spec": {"containers": [{"name": "worker", **says}]}}


def test_a_deployment() -> None:
    made = template().deployment(SPEC)
    labels = made["metadata"]["labels"]
    assert (labels["eventwagon/unit"], labels["eventwagon/wagon"], labels["eventwagon/revision"]) == ("3", "5", "v2")
    assert made["spec"]["selector"] == {"matchLabels": {"eventwagon/train": "shop_orders", "eventwagon/unit": "3"}}
    assert made["spec"]["replicas"] == 3
    pod = made["spec"]["template"]
    assert "eventwagon/wagon" not in pod["metadata"]["labels"]
    (worker,) = pod["spec"]["containers"]
    assert worker["image"] == "hub:5000/shop:v2"
    assert worker["args"][:6] == ["work", "app:orders", "--wagon", "3", "--workers", "2"]
    assert worker["envFrom"] == [{"secretRef": {"name": "settings"}}]
    assert worker["env"] == [{"name": "EVENTWAGON_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}]
    assert pod["spec"]["terminationGracePeriodSeconds"] == 65


def test_a_template_is_merged_in() -> None:
    given = {
        "metadata": {"labels": {"team": "shop"}},
        "spec": {
            "nodeSelector": {"disk": "ssd"},
            "terminationGracePeriodSeconds": 300,
            "containers": [
                {"name": "proxy", "image": "proxy:1"},
                {
                    "name": "worker",
                    "command": ["/venv/bin/eventwagon"],
                    "image": "other:v7",
                    "env": [{"name": "A", "value": "b"}],
                    "readinessProbe": {"periodSeconds": 3},
                    "securityContext": {"readOnlyRootFilesystem": False},
                },
            ],
        },
    }
    pod = template(given).deployment(SPEC)["spec"]["template"]
    worker, proxy = pod["spec"]["containers"]
    assert proxy == {"name": "proxy", "image": "proxy:1"}
    assert (worker["image"], worker["command"]) == ("other:v2", ["/venv/bin/eventwagon"])
    assert worker["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert worker["readinessProbe"]["periodSeconds"] == 3
    assert worker["securityContext"]["allowPrivilegeEscalation"] is False
    assert worker["securityContext"]["readOnlyRootFilesystem"] is False
    assert pod["metadata"]["labels"]["team"] == "shop"
    assert pod["spec"]["nodeSelector"] == {"disk": "ssd"}
    assert pod["spec"]["terminationGracePeriodSeconds"] == 300


def test_another_template_is_told_from_this() -> None:
    def made_from(given: Mapping[str, Any]) -> object:
        return template(given).deployment(SPEC)["metadata"]["annotations"]

    assert made_from({}) == made_from({})
    assert made_from({}) != made_from(of_worker(image="other:v1"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "Pod"}, "the Pod template has kind"),
        ({"metadata": {"name": "x"}}, "its metadata has name"),
        ({"metadata": {"labels": {"eventwagon/unit": "1"}}}, "label eventwagon/unit"),
        ({"spec": []}, "spec has to be a mapping"),
        ({"spec": {"containers": [{"image": "x"}]}}, "a container has no name"),
        ({"spec": {"restartPolicy": "Never"}}, "restartPolicy"),
        ({"spec": {"terminationGracePeriodSeconds": 5}}, "wants 65 at least"),
        (of_worker(args=["x"]), "args are the orchestrator's"),
        (of_worker(readinessProbe={"exec": {}}), "readinessProbe"),
        (of_worker(env=[{"name": "EVENTWAGON_URL", "value": "redis://user:secret@host"}]), "in plain sight"),
        (of_worker(env=[{"name": "EVENTWAGON_POD", "value": "x"}]), "EVENTWAGON_POD is set by the orchestrator"),
    ],
)
def test_what_a_template_may_not_say(given: Mapping[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        template(given)


def test_workers_need_their_url() -> None:
    with pytest.raises(UsageError, match="secret=NAME"):
        template(secret="")
    url = {"name": "EVENTWAGON_URL", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}
    template(of_worker(env=[url]), secret="")


@pytest.mark.parametrize(
    ("image", "revision", "found"),
    [
        ("shop", "v2", "shop:v2"),
        ("shop:v1", "", "shop:v1"),
        ("hub:5000/shop", "v2", "hub:5000/shop:v2"),
        ("hub:5000/a/shop:v1", "v2", "hub:5000/a/shop:v2"),
    ],
)
def test_the_revision_is_the_tag(image: str, revision: str, found: str) -> None:
    assert with_tag(image, revision) == found


@pytest.mark.parametrize(("image", "revision"), [("shop@sha256:00", "v2"), ("shop:v1", "a/b"), ("shop:v1", "v" * 64)])
def test_what_is_no_revision(image: str, revision: str) -> None:
    with pytest.raises(UsageError, match="revision"):
        with_tag(image, revision)


def test_names_are_apart() -> None:
    assert name_of("signups", 3) == "signups-3"
    assert name_of("user_registrations", 3) != name_of("user-registrations", 3)


def test_it_is_named_by_a_url(tmp_path: Path) -> None:
    program = Program("app:orders", "redis://localhost:1/0", Settings())
    file = tmp_path / "pod.yaml"
    file.write_text("spec: {nodeSelector: {disk: ssd}}\n")
    open_orchestrator(f"kubernetes://shop?secret=a&image=b&per_pod=4&template={file}", program)
    for url, said in [
        ("kubernetes:", "secret=NAME"),
        ("kubernetes:?secret=a&colour=red", "unknown option colour"),
        ("kubernetes:?secret=a&per_pod=many", "per_pod='many'"),
        ("kubernetes:?secret=a&per_pod=0", "at least one worker"),
        (f"kubernetes:?secret=a&template={tmp_path}/absent", "Pod template .*absent"),
        ("nomad:", "there are .*kubernetes:, .*subprocess:"),
    ]:
        with pytest.raises(UsageError, match=said):
            open_orchestrator(url, program)


def test_without_any_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import asyncio

    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    program = Program("app:orders", f"sqlite:///{tmp_path}/trains", Settings())

    async def main() -> None:
        async with open_orchestrator("kubernetes:?secret=a&image=b", program):
            pass

    with pytest.raises(UsageError, match="no cluster is known here"):
        asyncio.run(main())


def test_reasons_in_order() -> None:
    def deployment(**status: Any) -> Mapping[str, Any]:
        return {"metadata": {"name": "a-1"}, "spec": {"replicas": 1}, "status": status}

    pod = {"metadata": {"name": "a-1-x", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {}, "status": {}}
    assert why_not_ready(deployment(), [], []) == "its Pods are being made"
    assert why_not_ready(deployment(), [pod], []) == "Pod a-1-x is starting"
    refused = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}
    assert why_not_ready(deployment(conditions=[refused]), [], []) == "its Pods are refused: exceeded quota"
    assert why_not_ready({**deployment(), "spec": {"replicas": 0}}, [], []) == "it is scaled to zero"
    assert "Deployment is gone" in why_not_ready(None, [pod], [])
