"""What keeps a wagon's Pods from being ready is told in the cluster's words; nothing else is harmed by it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Mapping
from typing import Any

import pytest

from eventwagon.contracts.facts import ProvisioningFailed
from eventwagon.contracts.manifest import Manifest, changed, opened
from eventwagon.contracts.orchestrator import WagonSpec
from eventwagon.drivers.opening import open_drivers
from eventwagon.errors import Unavailable
from eventwagon.event import DEAD, Channel, Event, new_ids
from eventwagon.orchestrators.kubernetes import Kubernetes
from eventwagon.orchestrators.kubernetes.cluster import Cluster, Object
from eventwagon.orchestrators.kubernetes.names import MADE_FOR, SELECTOR, labels_of, name_of
from eventwagon.orchestrators.kubernetes.template import with_tag
from tests.kubernetes.test_burst import processes
from tests.kubernetes.world import World, until
from tests.programs.pods import burst, held


def spec(number: int = 1, workers: int = 1, revision: str = "") -> WagonSpec:
    channel = Channel(held.name, number)
    return WagonSpec(
        train=held.name,
        number=number,
        unit=number,
        revision=revision,
        channels=(channel,),
        dead_letters=Channel(held.name, number, DEAD),
        workers=workers,
    )


def worker(**container: Any) -> Mapping[str, Any]:
    return {"spec": {"containers": [{"name": "worker", **container}]}}


async def told(orchestrator: Kubernetes, *words: str) -> str:
    """The trouble of wagon 1, once it has all of these words; it can be removed all the same."""

    async def said() -> str:
        found = (await orchestrator.deployments(held.name)).get(1)
        assert found is not None
        assert not found.ready
        return found.trouble if all(word in found.trouble for word in words) else ""

    try:
        trouble: str = await until(f"trouble with {words}", said, 90.0)
    except AssertionError as e:
        raise AssertionError(f"{e}: {await orchestrator.deployments(held.name)}") from None
    async with asyncio.timeout(30):
        await orchestrator.remove(held.name, 1, grace=0.0)
    assert await orchestrator.deployments(held.name) == {}
    return trouble


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"image": "localhost/nowhere:v1"}, ("container worker", "ImagePull", "localhost/nowhere:v1")),
        ({"secret": "absent"}, ("CreateContainerConfigError", 'secret "absent" not found')),
        (
            {"template": worker(resources={"requests": {"cpu": "999"}})},
            ("no node takes it", "Insufficient cpu"),
        ),
        ({"target": "pods:absent"}, ("ended with exit code 2", "has no 'absent'")),
        (
            {"template": worker(resources={"limits": {"memory": "30Mi"}})},
            ("ended with exit code", "OOMKilled"),
        ),
    ],
    ids=["image", "secret", "unschedulable", "crash", "memory"],
)
def test_pods_that_do_not_get_ready(given: dict[str, Any], words: tuple[str, ...], world: World) -> None:
    async def main() -> None:
        target = given.pop("target", "pods:held")
        async with world.orchestrator(target, **given) as orchestrator:
            await orchestrator.ensure(spec())
            await told(orchestrator, *words)

    asyncio.run(main())


def test_quota(world: World) -> None:
    world.kubectl("create", "quota", "small", "--hard=pods=0")
    world.until(lambda: '"hard"' in world.kubectl("get", "quota", "small", "-o", "jsonpath={.status}"))

    async def main() -> None:
        async with world.orchestrator("pods:held") as orchestrator:
            await orchestrator.ensure(spec())
            await told(orchestrator, "its Pods are refused", "exceeded quota: small")

    asyncio.run(main())


def test_a_worker_that_stands_still_is_started_anew(world: World) -> None:
    """As where a handler blocks its event loop for good: the kubelet asks `/live`, in vain."""
    own = world.own
    template = worker(livenessProbe={"periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 15})

    async def main() -> None:
        await found(world)
        async with world.orchestrator("pods:held", template=template) as orchestrator, world.looking() as looking:
            await orchestrator.ensure(spec())

            async def ready() -> bool:
                return (await orchestrator.deployments(held.name))[1].ready

            async def restarts() -> int:
                (pod,) = (await looking.all("pods")).values()
                return int(pod["status"]["containerStatuses"][0]["restartCount"])

            await until("ready", ready)
            (pod,) = (await looking.all("pods")).values()
            (pid,) = processes("pods:held\0--wagon\0", own.directory.name, f"pod{pod['metadata']['uid']}")
            before = await restarts()
            os.kill(pid, signal.SIGSTOP)

            async def started_anew() -> bool:
                return await restarts() > before

            await until("started anew", started_anew, 90)
            await until("ready again", ready)
            await orchestrator.remove(held.name, 1, grace=0.0)

    asyncio.run(main())


def test_a_template_that_is_mended_reaches_a_wagon_that_is_not_ready(world: World) -> None:
    """It need not be removed and opened again."""

    async def main() -> None:
        await found(world)
        async with world.orchestrator("pods:held", image="localhost/nowhere:v1") as broken:
            await broken.ensure(spec())
        async with world.orchestrator("pods:held") as mended:
            await mended.ensure(spec())

            async def ready() -> bool:
                await mended.ensure(spec())
                return (await mended.deployments(held.name))[1].ready

            await until("ready", ready)
            await mended.remove(held.name, 1, grace=0.0)

    asyncio.run(main())


def test_the_revision_is_the_images_tag_of_the_worker_alone(world: World) -> None:
    """Wherever it is listed among other containers."""
    sleeps = {"image": world.image, "command": ["sleep", "1000"]}
    template = {
        "spec": {
            "initContainers": [
                {"name": "once", "image": world.image, "command": ["eventwagon", "--help"]},
                {"name": "proxy", **sleeps, "restartPolicy": "Always"},
            ],
            "containers": [{"name": "before", **sleeps}, {"name": "worker"}, {"name": "after", **sleeps}],
        }
    }

    async def main() -> None:
        await found(world)
        async with world.orchestrator("pods:held", template=template) as orchestrator, world.looking() as looking:
            await orchestrator.ensure(spec(revision="v2"))

            async def ready() -> bool:
                return (await orchestrator.deployments(held.name))[1].ready

            await until("ready", ready)
            assert (await orchestrator.deployments(held.name))[1].revision == "v2"
            (pod,) = (await looking.all("pods")).values()
            images = [(c["name"], c["image"]) for c in (*pod["spec"]["initContainers"], *pod["spec"]["containers"])]
            of = dict.fromkeys(("once", "proxy", "before", "worker", "after"), world.image)
            assert images == [*(of | {"worker": with_tag(world.image, "v2")}).items()]
            await orchestrator.remove(held.name, 1, grace=0.0)

    asyncio.run(main())


def test_a_pod_without_its_deployment_is_found_and_removed(world: World) -> None:
    async def main() -> None:
        async with world.orchestrator("pods:held") as orchestrator, world.looking() as looking:
            await orchestrator.ensure(spec(7))
            await until("its Pod is made", lambda: looking.all("pods"))
            for kind in ("deployment", "replicaset"):
                await asyncio.to_thread(world.kubectl, "delete", kind, "--all", "--cascade=orphan")

            async def stray() -> bool:
                deployments = await orchestrator.deployments(held.name)
                return "Deployment is gone" in deployments[7].trouble and bool(await looking.all("pods"))

            await until("found", stray)
            await orchestrator.remove(held.name, 7, grace=0.0)
            assert await looking.all("pods") == {}

    asyncio.run(main())


def test_a_slow_observer_grants_a_handler_no_more_than_the_grace(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its requests the cluster's own controllers have all the time that they need to end Pods in their way,
    which grants as long as a handler may ever take: a minute here."""

    async def main() -> None:
        await found(world)
        async with world.orchestrator("pods:held") as orchestrator, world.looking() as looking:
            await orchestrator.ensure(spec())
            async with open_drivers(world.url).broker as broker:
                now = time.time()
                await broker.publish(Channel(held.name, 1), [Event(new_ids(1, now)[0], "t", "s", now, b"{}")])
            await until("a handler in flight", lambda: looking.notes("began-1"))
            request = Cluster.request

            async def slowly(self: Cluster, method: str, path: str, **given: Any) -> Object:
                answer = await request(self, method, path, **given)
                await asyncio.sleep(3.0)
                return answer

            monkeypatch.setattr(Cluster, "request", slowly)
            async with asyncio.timeout(30):
                await orchestrator.remove(held.name, 1, grace=0.0)
            assert await looking.all("pods") == {}
            assert await orchestrator.deployments(held.name) == {}

    asyncio.run(main())


def test_a_replica_set_that_is_made_anew_meanwhile_goes_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its controller does so until it knows that the Deployment goes. Left over, it would replace each Pod that is
    ended."""
    labels = {**labels_of(held.name, 1), "pod-template-hash": "again"}
    pod = {"containers": [{"name": "worker", "image": world.image, "command": ["sleep", "1000"]}]}
    again = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": f"{name_of(held.name, 1)}-again", "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {k: v for k, v in labels.items() if k != SELECTOR.partition("=")[0]}},
            "template": {
                "metadata": {"labels": labels, "annotations": {MADE_FOR: name_of(held.name, 1)}},
                "spec": pod,
            },
        },
    }

    async def main() -> None:
        async with world.orchestrator("pods:held") as orchestrator, world.looking() as looking:
            await orchestrator.ensure(spec())
            await until("its Pods are made", lambda: looking.all("pods"))
            request = Cluster.request
            made: list[str] = []

            async def made_anew(self: Cluster, method: str, path: str, **given: Any) -> Object:
                answer = await request(self, method, path, **given)
                if method == "DELETE" and "/replicasets/" in path and not made:
                    made.append(await asyncio.to_thread(world.kubectl, "apply", "-f", "-", stdin=json.dumps(again)))
                return answer

            monkeypatch.setattr(Cluster, "request", made_anew)
            async with asyncio.timeout(60):
                await orchestrator.remove(held.name, 1, grace=0.0)
            assert made
            assert await looking.all("replicasets") == {}

            async def gone() -> bool:
                return not await orchestrator.deployments(held.name) and not await looking.all("pods")

            await until("nothing is left", gone, 30.0)

    asyncio.run(main())


def test_the_api_server_is_away(world: World) -> None:
    """A wagon that is ready stays so, a change is refused with the reason, and all goes on when it is back."""
    own = world.own

    async def main() -> None:
        await found(world)
        async with world.orchestrator("pods:held") as orchestrator:
            await orchestrator.ensure(spec())

            async def ready(number: int = 1) -> bool:
                return (await orchestrator.deployments(held.name))[number].ready

            await until("ready", ready)
            await asyncio.to_thread(own.stop, "kube-apiserver")
            try:
                with pytest.raises(Unavailable, match="can't be reached"):
                    await orchestrator.ensure(spec(workers=2))
                await orchestrator.ensure(spec())  # nothing is to be changed
                assert await ready()
                async with world.orchestrator("pods:held") as blind:
                    with pytest.raises(Unavailable, match="can't be reached"):
                        await blind.deployments(held.name)
            finally:
                await asyncio.to_thread(own.resume, "kube-apiserver")

            async def rescaled() -> bool:
                try:
                    await orchestrator.ensure(spec(workers=2))
                except Unavailable:
                    return False
                return (await orchestrator.deployments(held.name))[1].workers == 2

            await until("rescaled", rescaled)
            await orchestrator.remove(held.name, 1, grace=0.0)

    asyncio.run(main())


def test_ingestion_is_unharmed_by_pods_that_never_come(world: World) -> None:
    """The train fills its first wagon, says why there is no next, and loses nothing."""

    async def main() -> None:
        facts: list[Any] = []
        orchestrator = world.orchestrator("pods:burst", image="localhost/nowhere:v1")
        listening = burst.connect(world.url, listeners=[facts.append], orchestrator=orchestrator)
        async with listening as train, train.running(work=False):
            assert await train.publish_many(range(1, 96)) == 95

            async def explained() -> bool:
                wagons = await orchestrator.deployments(burst.name)
                return any("ImagePull" in d.trouble for d in wagons.values())

            await until("explained", explained)
            depths = await train.depths()
            assert depths[1][""].published == 95
        assert [f for f in facts if isinstance(f, ProvisioningFailed) and "Traceback" in f.because] == []
        async with world.orchestrator("pods:burst") as after:
            for unit in await after.deployments(burst.name):
                await after.remove(burst.name, unit, grace=0.0)

    asyncio.run(main())


ROLE = "deploy/kubernetes/rbac.yaml"


def _as_observer(world: World) -> str:
    """A kubeconfig file of the shipped ServiceAccount, with the shipped Role."""
    world.kubectl("apply", "-f", ROLE)
    token = world.kubectl("create", "token", "eventwagon-observer").strip()
    raw = json.loads(world.kubectl("config", "view", "--raw", "--flatten", "--minify", "-o", "json"))
    raw["users"] = [{"name": "observer", "user": {"token": token}}]
    raw["contexts"] = [{"name": "observer", "context": {"cluster": raw["clusters"][0]["name"], "user": "observer"}}]
    raw["current-context"] = "observer"
    return json.dumps(raw)


RIGHTS = [
    ("deployments", "list"),
    ("deployments", "watch"),
    ("deployments", "create"),
    ("deployments", "patch"),
    ("deployments", "delete"),
    ("replicasets", "list"),
    ("replicasets", "delete"),
    ("pods", "list"),
    ("pods", "watch"),
    ("pods", "delete"),
]


def test_the_shipped_role_is_enough_and_each_right_is_named_when_it_is_missing(
    world: World, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "observer.kubeconfig"
    path.write_text(_as_observer(world))
    role = json.loads(world.kubectl("get", "role", "eventwagon-observer", "-o", "json"))
    del role["metadata"]["resourceVersion"]
    shipped = {(r, verb) for rule in role["rules"] for r in rule["resources"] for verb in rule["verbs"]}
    assert shipped == {*RIGHTS, ("pods", "get"), ("pods", "patch")}  # without the last, some Pod goes

    async def life(seconds: float) -> None:
        async with asyncio.timeout(seconds), world.orchestrator("pods:held") as orchestrator:
            await orchestrator.ensure(spec())

            async def ready() -> bool:
                if trouble := orchestrator.trouble:
                    raise Unavailable(trouble)
                return (await orchestrator.deployments(held.name))[1].ready

            await until("ready", ready)
            await orchestrator.ensure(spec(workers=2))
            await orchestrator.remove(held.name, 1, grace=0.0)

    async def main() -> None:
        await found(world)
        admin = world.cluster.kubeconfig
        for resource, verb in [("", ""), *RIGHTS]:
            less = json.loads(json.dumps(role))
            for rule in less["rules"]:
                if resource in rule["resources"]:
                    rule["verbs"].remove(verb)
            less["rules"] = [rule for rule in less["rules"] if rule["verbs"]]
            monkeypatch.setenv("KUBECONFIG", str(admin))
            await asyncio.to_thread(world.kubectl, "replace", "-f", "-", stdin=json.dumps(less))
            await asyncio.sleep(0.5)  # an authorizer's own cache
            monkeypatch.setenv("KUBECONFIG", str(path))
            if not verb:
                await life(60)
                continue
            with pytest.raises(Unavailable) as refused:
                await life(60)
            said = str(refused.value)
            assert f'cannot {verb} resource "{resource}"' in said, (resource, verb, said)
            assert "eventwagon-observer" in said
            monkeypatch.setenv("KUBECONFIG", str(admin))
            async with world.orchestrator("pods:held") as mighty:
                await mighty.remove(held.name, 1, grace=0.0)
        monkeypatch.setenv("KUBECONFIG", str(admin))

    asyncio.run(main())


async def found(world: World) -> None:
    """The manifest with wagon 1 of `held`, and its channels."""
    drivers = open_drivers(world.url)
    async with drivers.broker as broker, drivers.registry as registry:
        for name in ("", DEAD):
            await broker.create(Channel(held.name, 1, name))
        empty = Manifest(train=held.name, declared=held.settings.declared(), channels=held.channels)
        manifest = opened(empty, now=time.time(), because="a test", capacity=None)
        await registry.replace(held.name, changed(manifest, 1, created_at=time.time()), expect=0)
