"""What is made of a wagon's spec and a user's Pod template, and what such a template may not say."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from eventwagon.contracts.orchestrator import WagonSpec
from eventwagon.drivers.opening import Program, open_orchestrator
from eventwagon.errors import UsageError
from eventwagon.event import DEAD, Channel
from eventwagon.orchestrators.kubernetes.errors import why_not_ready
from eventwagon.orchestrators.kubernetes.names import name_of
from eventwagon.orchestrators.kubernetes.template import Template, own_image, with_tag
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
        "app:orders",
        {} if given is None else given,
        secret=secret,
        image="hub:5000/shop:v1",
        per_pod=per_pod,
        handler_timeout=60.0,
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
    proxy, worker = pod["spec"]["containers"]
    assert proxy == {"name": "proxy", "image": "proxy:1"}
    assert (worker["image"], worker["command"]) == ("other:v2", ["/venv/bin/eventwagon"])
    assert worker["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert worker["readinessProbe"]["periodSeconds"] == 3
    assert worker["securityContext"]["allowPrivilegeEscalation"] is False
    assert worker["securityContext"]["readOnlyRootFilesystem"] is False
    assert pod["metadata"]["labels"]["team"] == "shop"
    assert pod["spec"]["nodeSelector"] == {"disk": "ssd"}
    assert pod["spec"]["terminationGracePeriodSeconds"] == 300


@pytest.mark.parametrize("handler_timeout", [0.5, 60.0, 600.0])
def test_a_blocked_worker_has_as_long_as_its_handler_may_take(handler_timeout: float) -> None:
    made = Template("a:b", {}, secret="s", image="i", per_pod=1, handler_timeout=handler_timeout).deployment(SPEC)  # noqa: S106
    probe = made["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]
    assert probe["httpGet"]["path"] == "/live"
    assert probe["periodSeconds"] * (probe["failureThreshold"] - 1) >= max(50, handler_timeout)


def test_another_template_is_told_from_this() -> None:
    def made_from(given: Mapping[str, Any]) -> object:
        return template(given).deployment(SPEC)["metadata"]["annotations"]

    assert made_from({}) == made_from({})
    assert made_from({}) != made_from(of_worker(image="other:v1"))


@pytest.mark.parametrize(
    "names",
    [["worker"], ["proxy", "worker"], ["worker", "proxy"], ["a", "worker", "b"], ["proxy"], []],
    ids=",".join,
)
def test_the_workers_container_is_found_by_its_name(names: list[str]) -> None:
    """Containers start in the order in which they are listed, so that stays; where none is named so ours comes
    first."""
    containers = [{"name": name, "image": f"{name}:v1"} for name in names]
    spec = {"containers": containers, "initContainers": [{"name": "first", "image": "first:v1"}]}
    pod = template({"spec": spec}).deployment(SPEC)["spec"]["template"]["spec"]
    assert [c["name"] for c in pod["containers"]] == (names if "worker" in names else ["worker", *names])
    images = {c["name"]: c["image"] for c in (*pod["containers"], *pod["initContainers"])}
    ours = "worker:v2" if "worker" in names else "hub:5000/shop:v2"
    assert images == {name: f"{name}:v1" for name in (*names, "first")} | {"worker": ours}
    worker = next(c for c in pod["containers"] if c["name"] == "worker")
    assert worker["args"][0] == "work"
    assert all("args" not in c for c in pod["containers"] if c is not worker)


@pytest.mark.parametrize(
    ("containers", "image"),
    [
        ({"observer": "a"}, "a"),
        ({"istio-proxy": "b", "observer": "a"}, "a"),
        ({"observer": "a", "istio-proxy": "b"}, "a"),
        ({"istio-proxy": "b", "worker": "a"}, "a"),
        ({"shop": "a"}, "a"),
    ],
)
def test_the_observers_own_image(containers: Mapping[str, str], image: str) -> None:
    assert own_image(_pod(containers)) == image


def test_an_observer_that_can_not_tell_its_own_image() -> None:
    with pytest.raises(UsageError, match=r"containers istio-proxy, shop in Pod eventwagon-x none is named observer"):
        own_image(_pod({"istio-proxy": "b", "shop": "a"}))


def _pod(containers: Mapping[str, str]) -> Mapping[str, Any]:
    named = [{"name": name, "image": image} for name, image in containers.items()]
    return {"metadata": {"name": "eventwagon-x"}, "spec": {"containers": named}}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "it: has to be a mapping, not a list"),
        ({"kind": "Pod"}, "kind: Kubernetes knows no such field in a Pod template"),
        ({"metadata": {"name": "x"}}, "metadata.name: is the orchestrator's"),
        ({"metadata": {"labels": {"eventwagon/unit": "1"}}}, "metadata.labels.eventwagon/unit: is the orchestrator's"),
        (
            {"metadata": {"annotations": {"eventwagon/deployment": "x"}}},
            "metadata.annotations.eventwagon/deployment: is",
        ),
        ({"metadata": {"labels": {"tier": 1}}}, "metadata.labels.tier: has to be text (in quotes), not a number"),
        ({"metadata": {"labels": {"on": True}}}, "metadata.labels.on: has to be text (in quotes), not true"),
        ({"metadata": {"labels": {True: "x"}}}, "metadata.labels.True: its name has to be text"),
        (
            {"metadata": {"annotations": {"since": datetime.date(2026, 1, 1)}}},
            "annotations.since: has to be text (in quotes), not a date",
        ),
        ({"spec": []}, "spec: has to be a mapping, not a list"),
        (
            {"spec": {"container": []}},
            "spec.container: Kubernetes knows no such field in a Pod template; is containers meant?",
        ),
        ({"spec": {"containers": {"name": "worker"}}}, "spec.containers: has to be a list, not a mapping"),
        ({"spec": {"containers": [None]}}, "spec.containers[0]: is empty"),
        ({"spec": {"containers": ["worker"]}}, "spec.containers[0]: has to be a mapping, not text"),
        ({"spec": {"containers": [{"image": "x"}]}}, "spec.containers[0].name: is needed"),
        ({"spec": {"containers": [{"name": "proxy"}]}}, "spec.containers[0].image: is needed"),
        ({"spec": {"containers": [{"name": "worker"}] * 2}}, "spec.containers[1].name: 'worker' is the name of 2"),
        ({"spec": {"initContainers": [{"name": "worker", "image": "x"}]}}, "spec.initContainers[0].name: 'worker' is"),
        (
            {"spec": {"containers": [{"name": "p", "image": "p", "ports": [{"containerPort": 8686}]}]}},
            "spec.containers[0].ports[0].containerPort: at 8686 the worker answers",
        ),
        ({"spec": {"restartPolicy": "Never"}}, "spec.restartPolicy: has to be Always"),
        ({"spec": {"terminationGracePeriodSeconds": 5}}, "wants 65 at least"),
        ({"spec": {"terminationGracePeriodSeconds": True}}, "has to be a whole number, not true"),
        ({"spec": {"hostNetwork": "yes"}}, "spec.hostNetwork: has to be true or false, not text"),
        (of_worker(args=["x"]), "spec.containers[0].args: are the orchestrator's"),
        (of_worker(command="eventwagon"), "spec.containers[0].command: has to be a list, not text"),
        (of_worker(readinessProbe={"exec": {}}), "readinessProbe.exec: what it asks is the orchestrator's"),
        (of_worker(livenessProbe={"tcpSocket": {"port": 1}}), "livenessProbe.tcpSocket: what it asks"),
        (of_worker(readinessProbe=None), "readinessProbe: is needed"),
        (of_worker(resources={"requests": {"cpu": []}}), "requests.cpu: has to be a quantity"),
        (of_worker(env=[{"name": "EVENTWAGON_URL", "value": "redis://user:secret@host"}]), "in plain sight"),
        (of_worker(env=[{"name": "EVENTWAGON_POD", "value": "x"}]), "EVENTWAGON_POD is the orchestrator's"),
        (
            of_worker(env=[{"name": "A", "value": 5}]),
            "spec.containers[0].env[0].value: has to be text (in quotes), not a number",
        ),
        ({"spec": {"\x1b[1m": 1}}, "spec.\\x1b[1m: Kubernetes knows no such field"),
    ],
)
def test_what_a_template_may_not_say(given: Any, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        template(given)
    assert said in str(refused.value)
    assert "secret@" not in str(refused.value)


def test_all_that_is_wrong_is_said_at_once() -> None:
    given = {
        "metadata": {"labels": {"tier": 1}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "worker", "args": [], "imagee": "x"}]},
    }
    with pytest.raises(UsageError) as refused:
        template(given)
    assert str(refused.value) == (
        "kubernetes: Pod template: 4 faults: "
        "metadata.labels.tier: has to be text (in quotes), not a number; "
        "spec.containers[0].imagee: Kubernetes knows no such field in a Pod template; is image meant?; "
        "spec.restartPolicy: has to be Always: a crashed worker is started again; "
        "spec.containers[0].args: are the orchestrator's; give the program in command"
    )


def test_very_much_that_is_wrong_is_cut_off() -> None:
    with pytest.raises(UsageError, match=r"1000 faults: .*; and 950 more$") as refused:
        template({"metadata": {"labels": {f"{i}-{'x' * 1000}": i for i in range(1000)}}})
    assert len(str(refused.value)) < 10_000


def test_what_is_left_empty_is_as_if_it_were_not_there() -> None:
    empty = {"metadata": {"labels": None, "annotations": None}, "spec": {"containers": None, "volumes": None}}
    made = [template(given).deployment(SPEC)["spec"] for given in ({}, empty, {"metadata": None, "spec": None})]
    assert made[0] == made[1] == made[2]
    (worker,) = template(of_worker(livenessProbe=None)).deployment(SPEC)["spec"]["template"]["spec"]["containers"]
    assert worker["livenessProbe"] is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"spec: {\n", "pod.yaml"),
        (b"spec: {}\nspec: {}\n", "'spec' stands there twice"),
        (b"\xff\xfe\x00", "pod.yaml"),
        (b"metadata: {annotations: {on: 2026-13-45}}", "pod.yaml"),
        (b"[" * 5000, "pod.yaml"),
        (b"!!python/object:os.system {}", "pod.yaml"),
        (b"- &a [*a]", "it: has to be a mapping"),
        (b"? [a]\n: b", "pod.yaml"),
        (b"a: 1\n---\nb: 2\n", "pod.yaml"),
        (b"just words", "it: has to be a mapping, not text"),
    ],
)
def test_a_file_that_holds_no_template(text: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    file.write_bytes(text)
    program = Program("app:orders", "redis://localhost:1/0", Settings())
    with pytest.raises(UsageError, match="Pod template") as refused:
        open_orchestrator(f"kubernetes://shop?secret=a&image=b&template={file}", program)
    assert said in str(refused.value)


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
    assert name_of("signups", 3) == "eventwagon-signups-3"
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
