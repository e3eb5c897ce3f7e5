"""The Helm chart: what it makes of values, and which it refuses; then on the cluster: installed, upgraded, rolled back,
and uninstalled without leaving anything."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from eventwagon.contracts.lifecycle import State
from eventwagon.orchestrators.kubernetes.template import Template
from tests.kubernetes.test_burst import DEPLOY, Story
from tests.kubernetes.test_trouble import spec
from tests.kubernetes.world import SECRET, World, until
from tests.programs.pods import burst
from tests.prometheus.shipped import BOARD, RULES
from tests.servers.install import helm

CHART = DEPLOY.parent / "helm" / "eventwagon"
LEAST = {"target": "app:train", "existingSecret": "train", "image.repository": "shop", "image.tag": "v1"}
MUCH: Mapping[str, object] = {
    "workers.container.volumeMounts[0].name": "tmp",
    "workers.container.volumeMounts[0].mountPath": "/tmp",  # noqa: S108
    "workers.spec.volumes[0].name": "tmp",
    "workers.spec.containers[0].name": "proxy",
    "workers.spec.containers[0].image": "proxy:v1",
    "workers.labels.team": "shop",
    "env[0].name": "LANG",
    "env[0].value": "C",
    "imagePullSecrets[0].name": "pull",
}
ALL = (
    "deployments,replicasets,pods,jobs,configmaps,secrets,serviceaccounts,roles,rolebindings,poddisruptionbudgets,"
    "networkpolicies"
)
"""The kinds of all that the chart, observers and Helm make."""


class Helm:
    """The program, with a home of its own."""

    def __init__(self, home: Path, kubeconfig: Path | None = None) -> None:
        self._program = helm() / "helm"
        places = {f"HELM_{name}_HOME": str(home / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
        self._environment = {**os.environ, **places, "KUBECONFIG": str(kubeconfig or home / "none")}

    def __call__(self, *arguments: str, **values: object) -> str:
        """What it wrote. Raises RuntimeError, with what it said."""
        given = [word for name, value in values.items() for word in ("--set", f"{name}={value}")]
        command = [str(self._program), *arguments, *given]
        ran = subprocess.run(command, capture_output=True, text=True, check=False, env=self._environment)
        if ran.returncode != 0:
            raise RuntimeError(f"helm {' '.join(arguments)}: {ran.stderr.strip()}\n{ran.stdout}")
        return ran.stdout

    def rendered(self, **values: object) -> dict[str, Any]:
        """What the chart makes of these values beside the least, by kind and the end of the name."""
        found = yaml.safe_load_all(self("template", "r", str(CHART), **{**LEAST, **values}))
        return {f"{o['kind']} {o['metadata']['name'].rpartition('-')[2]}": o for o in found if o}


@pytest.fixture
def chart(tmp_path: Path) -> Helm:
    """Without a cluster."""
    return Helm(tmp_path)


def test_the_rights_are_those_of_the_base(chart: Helm) -> None:
    base = yaml.safe_load_all((DEPLOY / "rbac.yaml").read_text())
    (role,) = (o for o in base if o["kind"] == "Role")
    made = chart.rendered()
    assert made["Role observer"]["rules"] == role["rules"]

    def rights(rules: Any) -> set[tuple[str, str]]:
        return {(kind, verb) for rule in rules for kind in rule["resources"] for verb in rule["verbs"]}

    assert rights(made["Role cleanup"]["rules"]) < rights(role["rules"])


@pytest.mark.parametrize(
    "values",
    [
        {},
        MUCH,
    ],
    ids=["least", "much"],
)
def test_the_orchestrator_takes_the_workers_template(chart: Helm, values: Mapping[str, object]) -> None:
    given = yaml.safe_load(chart.rendered(**values)["ConfigMap pod"]["data"]["pod.yaml"])
    Template("app:train", given, secret="train", image="shop:v1", per_pod=1, handler_timeout=60.0)  # noqa: S106
    names = [c["name"] for c in given["spec"]["containers"]]
    assert names == (["worker", "proxy"] if values else ["worker"])
    assert given["metadata"]["labels"]["app.kubernetes.io/component"] == "worker"


def test_what_users_add_is_merged(chart: Helm) -> None:
    made = chart.rendered(
        **{
            "observer.spec.nodeSelector.pool": "small",
            "observer.spec.volumes[0].name": "ca",
            "observer.container.volumeMounts[0].name": "ca",
            "workers.perPod": 4,
            "image.tag": "",
            "image.digest": f"sha256:{'0' * 64}",
        }
    )
    pod = made["Deployment observer"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"pool": "small"}
    assert [v["name"] for v in pod["volumes"]] == ["template", "ca"]
    assert [m["name"] for m in pod["containers"][0]["volumeMounts"]] == ["template", "ca"]
    (orchestrator,) = (e["value"] for e in pod["containers"][0]["env"] if e["name"] == "EVENTWAGON_ORCHESTRATOR")
    assert f"image=shop%40sha256%3A{'0' * 64}" in orchestrator
    assert orchestrator.endswith("&per_pod=4")


METRICS: Mapping[str, object] = {
    "metrics.enabled": True,
    "metrics.podMonitor.enabled": True,
    "metrics.podMonitor.labels.release": "monitoring",
    "metrics.rules.enabled": True,
    "metrics.dashboard.enabled": True,
}


def test_without_metrics_nothing_is_there_for_them(chart: Helm) -> None:
    made = chart.rendered(**{"networkPolicy.enabled": True})
    assert not {"PodMonitor pods", "PrometheusRule alerts", "ConfigMap dashboard"} & set(made)
    assert "metrics" not in str(made).lower()
    assert made["NetworkPolicy observer"]["spec"]["ingress"] == made["NetworkPolicy worker"]["spec"]["ingress"] == []


def test_observers_and_workers_answer_prometheus(chart: Helm) -> None:
    made = chart.rendered(**{"metrics.port": 9999, "networkPolicy.enabled": True, **MUCH, **METRICS})
    (observer,) = made["Deployment observer"]["spec"]["template"]["spec"]["containers"]
    assert observer["args"][-4:] == ["--metrics-port", "9999", "--metrics-host", "0.0.0.0"]  # noqa: S104
    given = yaml.safe_load(made["ConfigMap pod"]["data"]["pod.yaml"])
    template = Template("app:train", given, secret="train", image="shop:v1", per_pod=1, handler_timeout=60.0)  # noqa: S106
    pod = template.deployment(spec())["spec"]["template"]
    (worker,) = (c for c in pod["spec"]["containers"] if c["name"] == "worker")
    env = {e["name"]: e.get("value") for e in worker["env"]}
    assert env["LANG"] == "C"
    assert (env["EVENTWAGON_METRICS_PORT"], env["EVENTWAGON_METRICS_HOST"]) == ("9999", "0.0.0.0")  # noqa: S104
    assert observer["ports"] == worker["ports"] == [{"name": "metrics", "containerPort": 9999}]
    monitor = made["PodMonitor pods"]
    assert monitor["metadata"]["labels"]["release"] == "monitoring"
    assert [endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]] == ["metrics"]
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    for labels in (made["Deployment observer"]["spec"]["template"]["metadata"]["labels"], pod["metadata"]["labels"]):
        assert wanted <= labels.items()
        assert labels["app.kubernetes.io/component"] in monitor["spec"]["selector"]["matchExpressions"][0]["values"]
    for each in ("observer", "worker"):
        assert made[f"NetworkPolicy {each}"]["spec"]["ingress"] == [{"ports": [{"protocol": "TCP", "port": 9999}]}]


def test_alerts_and_board_are_those_that_are_shipped(chart: Helm) -> None:
    made = chart.rendered(**METRICS)
    assert made["PrometheusRule alerts"]["spec"] == yaml.safe_load(RULES.read_text())
    assert json.loads(made["ConfigMap dashboard"]["data"]["eventwagon.json"]) == json.loads(BOARD.read_text())
    assert made["ConfigMap dashboard"]["metadata"]["labels"]["grafana_dashboard"] == "1"
    made = chart.rendered(**{**METRICS, "metrics.rules.runbooks": "https://docs.example.com/runbooks/"})
    (group,) = made["PrometheusRule alerts"]["spec"]["groups"]
    assert {rule["annotations"]["runbook_url"] for rule in group["rules"]} == {
        f"https://docs.example.com/runbooks/{rule['alert']}.md" for rule in group["rules"]
    }


def test_a_packaged_chart_holds_them(chart: Helm, tmp_path: Path) -> None:
    chart("package", str(CHART), "--destination", str(tmp_path))
    (package,) = tmp_path.glob("*.tgz")
    with tarfile.open(package) as archive:
        for file in (RULES, BOARD):
            held = archive.extractfile(f"eventwagon/files/{file.name}")
            assert held is not None
            assert held.read() == file.read_bytes()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"target": ""}, "target"),
        ({"target": "app"}, "target"),
        ({"existingSecret": ""}, "existingSecret"),
        ({"image.tag": ""}, "give a tag or a digest"),
        ({"image.digest": f"sha256:{'0' * 64}"}, "not both"),
        ({"observer.replicas": -1}, "replicas"),
        ({"observers.replicas": 1}, "observers"),
        ({"workers.perPod": 0}, "perPod"),
        ({"workers.container.args[0]": "x"}, "args"),
        ({"env[0].name": "EVENTWAGON_URL", "env[0].value": "redis://:secret@h"}, "env"),
        ({"networkPolicy.brokerPorts[0]": 70000}, "brokerPorts"),
        ({"serviceAccount.create": False}, "serviceAccount.name"),
        ({"podDisruptionBudget.maxUnavailable": "many"}, "maxUnavailable"),
        ({"metrics.enabled": True, "metrics.port": 80}, "port"),
        ({"metrics.enabled": True, "metrics.port": 8686}, "port"),
        ({"metrics.podMonitor.enabled": True}, "set metrics.enabled too"),
        ({"metrics.podMonitor.interval": "often"}, "interval"),
        ({"metrics.rules.runbooks": "docs"}, "runbooks"),
    ],
    ids=lambda value: "" if isinstance(value, str) else ",".join(value),
)
def test_wrong_values_are_refused(chart: Helm, values: Mapping[str, object], words: str) -> None:
    with pytest.raises(RuntimeError, match=words.replace(".", r"\.")):
        chart.rendered(**values)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"metrics.enabled": True},
        MUCH,
        {**MUCH, "observer.replicas": 0, "podDisruptionBudget.maxUnavailable": "50%"},
    ],
)
def test_the_cluster_takes_what_it_makes(world: World, chart: Helm, values: Mapping[str, object]) -> None:
    given = {"networkPolicy.enabled": True, **LEAST, **values}
    made = chart("template", "r", str(CHART), "--namespace", world.namespace, **given)
    told = world.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=made).splitlines()
    assert len(told) == len([o for o in yaml.safe_load_all(made) if o]) == 14
    assert all(line.endswith("created (server dry run)") for line in told)


class Installed:
    """A release in the world's namespace, which takes Pods of the restricted profile only."""

    def __init__(self, world: World, home: Path) -> None:
        self._world = world
        self._helm = Helm(home, world.cluster.kubeconfig)
        world.kubectl("label", "namespace", world.namespace, "pod-security.kubernetes.io/enforce=restricted")
        self.bare = self.there()

    def __call__(self, *arguments: str, **values: object) -> str:
        own = ("--namespace", self._world.namespace, "--timeout", "150s", "--wait")
        return self._helm(*arguments, *own, **values)

    def deploy(self, tag: str, **values: object) -> None:
        """Install, or upgrade to, this tag of the image."""
        name = self._world.image.rpartition(":")[0]
        given = {
            "target": "pods:burst",
            "existingSecret": SECRET,
            "image.repository": name,
            "image.tag": tag,
            "networkPolicy.enabled": True,
            "networkPolicy.brokerPorts[0]": 6379,
        }
        self("upgrade", "--install", "trains", str(CHART), **{**given, **values})

    def there(self) -> set[str]:
        """The names of all objects in the namespace but what each has."""
        given = {"configmap/kube-root-ca.crt", "serviceaccount/default"}
        return set(self._world.kubectl("get", ALL, "-o", "name").split()) - given

    def images(self, labels: str) -> set[str]:
        """The tags of the images that Pods with these labels are to run."""
        path = "jsonpath={.items[*].spec.containers[0].image}"
        return {
            image.rpartition(":")[2] for image in self._world.kubectl("get", "pods", "-l", labels, "-o", path).split()
        }


@pytest.fixture
def installed(world: World, tmp_path: Path) -> Iterator[Installed]:
    """Not yet installed."""
    release = Installed(world, tmp_path)
    try:
        yield release
    except BaseException:
        print(world.kubectl("get", "pods,jobs,events", check=False))
        raise


def test_installed_upgraded_rolled_back_uninstalled(world: World, installed: Installed) -> None:
    """All that was accepted meanwhile is handled, also what comes while nothing is installed."""
    first = world.image.rpartition(":")[2]

    async def observed(by: str) -> None:
        async def only() -> bool:
            return await asyncio.to_thread(installed.images, "app.kubernetes.io/component=observer") == {by}

        await until(f"all observers are of {by}", only)

    async def nothing_but(names: set[str]) -> None:
        """At once, but for what the cluster's collector of garbage has not yet come to."""

        async def left() -> bool:
            return await asyncio.to_thread(installed.there) == names

        await until(f"nothing is left but {names}", left, 20)

    async def serves(story: Story, tag: str) -> None:
        """The active wagon comes to run this tag, by ordinary switches."""

        async def runs() -> bool:
            await story.publish(50)
            (active,) = await story.wagons(State.ACTIVE)
            found = await asyncio.to_thread(installed.images, f"eventwagon/unit={active}")
            return found == {tag}

        await until(f"the active wagon runs {tag}", runs, 120, every=0.5)

    async def main() -> None:
        async with burst.connect(world.url, listeners=()) as train, world.looking() as looking:
            story = Story(world, train, looking)
            await asyncio.to_thread(installed.deploy, first)
            await train.found()
            await until("a spare", lambda: story.wagons(State.READY), 90)
            await story.publish(20)

            await asyncio.to_thread(installed.deploy, "v2", **{"observer.replicas": 1})
            await observed(by="v2")
            await serves(story, "v2")

            await asyncio.to_thread(installed, "rollback", "trains", "1")
            await observed(by=first)
            await serves(story, first)

            await asyncio.to_thread(installed, "uninstall", "trains")
            await nothing_but(installed.bare)
            await story.publish(30)

            await asyncio.to_thread(installed.deploy, first)
            await until("all is handled", story.all_done, 60)
            await asyncio.to_thread(
                world.kubectl, "delete", "secret", SECRET
            )  # nobody can say any more where the broker is
            await asyncio.to_thread(installed, "uninstall", "trains")
            await nothing_but(installed.bare - {f"secret/{SECRET}"})

    asyncio.run(main())
