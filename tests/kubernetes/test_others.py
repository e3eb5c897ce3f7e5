"""What others have in the namespace is left alone, whatever its names and labels are."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Mapping
from typing import Any

import pytest

from eventwagon.errors import Unavailable
from eventwagon.orchestrators.kubernetes import Kubernetes
from eventwagon.orchestrators.kubernetes.cluster import Cluster, Object
from eventwagon.orchestrators.kubernetes.names import TRAIN, UNIT, WAGON, labels_of, name_of
from tests.kubernetes.test_trouble import found, spec
from tests.kubernetes.world import Looking, World, until
from tests.programs.pods import held

NAME = name_of(held.name, 1)


def theirs(world: World, name: str, labels: Mapping[str, str], *, kind: str = "Deployment") -> str:
    """Somebody else's Deployment, StatefulSet or Pod, made with kubectl."""
    pod = {
        "metadata": {"labels": {"app": name, **labels}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "worker", "image": world.image, "command": ["sleep", "1000"]}],
        },
    }
    made: dict[str, Any] = {"kind": kind, "metadata": {"name": name, "labels": {"app": name, **labels}}}
    if kind == "Pod":
        made |= {"apiVersion": "v1", "spec": pod["spec"]}
    else:
        made |= {"apiVersion": "apps/v1", "spec": {"selector": {"matchLabels": {"app": name}}, "template": pod}}
    return json.dumps(made)


def uids(objects: Mapping[str, Object]) -> dict[str, str]:
    return {name: found["metadata"]["uid"] for name, found in objects.items()}


def versions(objects: Mapping[str, Object]) -> dict[str, int]:
    """How often the spec of each was changed."""
    return {name: found["metadata"]["generation"] for name, found in objects.items()}


async def ready(orchestrator: Kubernetes) -> None:
    async def is_ready() -> bool:
        return (await orchestrator.deployments(held.name))[1].ready

    await until("ready", is_ready)


def test_a_deployment_of_the_same_name(world: World) -> None:
    """The wagon can't have it and says whose it is, whether or not it has our labels. Once it is gone, it can."""

    async def main(labels: Mapping[str, str]) -> None:
        await asyncio.to_thread(world.kubectl, "delete", "deployments", "--all", "--wait")
        for name in ("held-1", NAME):
            await asyncio.to_thread(world.kubectl, "create", "-f", "-", stdin=theirs(world, name, labels))
        async with world.looking() as looking, world.orchestrator("pods:held") as orchestrator:
            deployments = await looking.all("deployments")
            with pytest.raises(Unavailable) as refused:
                await orchestrator.ensure(spec())
            assert f"Deployment {NAME} in namespace {world.namespace} is not eventwagon's" in str(refused.value)
            assert "was made by " in str(refused.value)
            assert "kubectl" in str(refused.value)
            with pytest.raises(Unavailable, match="left alone"):
                await orchestrator.ensure(spec(workers=3))
            assert await orchestrator.deployments(held.name) == {}
            await orchestrator.remove(held.name, 1, grace=0.0)
            after = await looking.all("deployments")
            assert (uids(after), versions(after)) == (uids(deployments), versions(deployments))
            assert all(not set(d["metadata"]["labels"]) - {"app", *labels} for d in after.values())

    asyncio.run(main({}))
    asyncio.run(main(labels_of(held.name, 1)))

    async def after() -> None:
        await found(world)
        await asyncio.to_thread(world.kubectl, "delete", "deployment", NAME, "--wait")
        async with world.orchestrator("pods:held") as orchestrator:
            await orchestrator.ensure(spec())
            await ready(orchestrator)
            await orchestrator.remove(held.name, 1, grace=0.0)

    asyncio.run(after())
    assert "held-1" in world.kubectl("get", "deployments", "-o", "name")


def test_labels_that_look_like_ours(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """As somebody puts them on a publisher to find it with its train. They are said once to be no part of it; beside
    them a wagon lives and ends as ever."""
    lookalikes = {
        "publisher": labels_of(held.name, 1),
        "of-no-unit": {**labels_of(held.name, 1), UNIT: "none", WAGON: "first"},
        "without-unit": {TRAIN: held.name, "app.kubernetes.io/managed-by": "eventwagon"},
    }

    async def main() -> None:
        await found(world)
        for name, labels in lookalikes.items():
            await asyncio.to_thread(world.kubectl, "create", "-f", "-", stdin=theirs(world, name, labels))
        of_pod = theirs(world, "alone", labels_of(held.name, 9), kind="Pod")
        await asyncio.to_thread(world.kubectl, "create", "-f", "-", stdin=of_pod)
        async with world.looking() as looking, world.orchestrator("pods:held") as orchestrator:
            pods = await until("their Pods", lambda: _so_many(looking, "pods", 4))
            deployments, sets = await looking.all("deployments"), await looking.all("replicasets")
            assert await orchestrator.deployments(held.name) == {}
            for unit in (1, 9):
                await orchestrator.remove(held.name, unit, grace=0.0)
            await orchestrator.ensure(spec())
            await ready(orchestrator)
            assert len(await looking.all("pods")) == 5
            await orchestrator.remove(held.name, 1, grace=0.0)
            assert uids(await looking.all("pods")) == uids(pods)
            assert uids(await looking.all("replicasets")) == uids(sets)
            assert uids(await looking.all("deployments")) == uids(deployments)
            assert versions(await looking.all("deployments")) == versions(deployments)

    with caplog.at_level(logging.WARNING, "eventwagon.kubernetes"):
        asyncio.run(main())
    (told,) = (r.getMessage() for r in caplog.records if r.name == "eventwagon.kubernetes")
    assert told.startswith(f"Deployment publisher has the labels of train {held.name}, unit 1, and was made by ")


async def _so_many(looking: Looking, kind: str, count: int) -> Mapping[str, Object]:
    found = await looking.all(kind)
    return found if len(found) == count else {}


@pytest.mark.parametrize("labels", [{}, labels_of(held.name, 1)], ids=["plain", "labels"])
@pytest.mark.parametrize("change", ["rescale", "revise", "remove"])
def test_it_is_made_anew_by_another_between_look_and_write(
    change: str, labels: Mapping[str, str], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write is refused by the API server itself, since the uid is another: theirs stands as they made it."""

    def anew() -> None:
        world.kubectl("delete", "deployment", NAME, "--wait")
        world.kubectl("create", "-f", "-", stdin=theirs(world, NAME, labels))

    async def main() -> None:
        async with world.looking() as looking, world.orchestrator("pods:held") as orchestrator:
            await orchestrator.ensure(spec())
            await until("a Pod", lambda: looking.all("pods"))
            request = Cluster.request
            replaced: list[str] = []

            async def late(self: Cluster, method: str, path: str, **given: Any) -> Object:
                if method in ("PATCH", "DELETE") and path.endswith(f"/deployments/{NAME}") and not replaced:
                    replaced.append(method)
                    await asyncio.to_thread(anew)
                return await request(self, method, path, **given)

            monkeypatch.setattr(Cluster, "request", late)
            async with asyncio.timeout(60):
                match change:
                    case "rescale":
                        with pytest.raises(Unavailable, match="is not eventwagon's"):
                            await orchestrator.ensure(spec(workers=2))
                    case "revise":
                        with pytest.raises(Unavailable, match="is not eventwagon's"):
                            await orchestrator.ensure(spec(revision="v2"))
                    case _:
                        await orchestrator.remove(held.name, 1, grace=0.0)
            assert replaced
            (theirs_now,) = (await looking.all("deployments")).values()
            assert theirs_now["metadata"]["generation"] == 1
            assert theirs_now["metadata"]["labels"] == {"app": NAME, **labels}
            assert "deletionTimestamp" not in theirs_now["metadata"]
            await orchestrator.remove(held.name, 1, grace=0.0)
            assert set(await looking.all("deployments")) == {NAME}

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["deployments", "pods"])
def test_a_label_is_taken_away_between_look_and_write(kind: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As somebody does who wants to look into it, undisturbed."""

    async def main() -> None:
        async with world.looking() as looking, world.orchestrator("pods:held") as orchestrator:
            await orchestrator.ensure(spec())
            (pod,) = await until("a Pod", lambda: looking.all("pods"))
            request = Cluster.request
            taken: list[str] = []

            async def late(self: Cluster, method: str, path: str, **given: Any) -> Object:
                if method in ("PATCH", "DELETE") and f"/{kind}/" in path and not taken:
                    taken.append(path.rpartition("/")[2])
                    await asyncio.to_thread(world.kubectl, "label", kind, taken[0], f"{UNIT}-")
                return await request(self, method, path, **given)

            monkeypatch.setattr(Cluster, "request", late)
            if kind == "deployments":
                with pytest.raises(Unavailable, match="is not eventwagon's"):
                    await orchestrator.ensure(spec(workers=2))
                assert (await looking.all("deployments"))[NAME]["spec"]["replicas"] == 1
            else:
                async with asyncio.timeout(60):
                    await orchestrator.remove(held.name, 1, grace=0.0)
                left = await looking.all("pods")
                assert list(left) == taken == [pod]
                assert "deletionTimestamp" not in left[pod]["metadata"]

    asyncio.run(main())


def test_a_number_of_pods_that_somebody_set_is_set_back(world: World) -> None:
    """By whatever field manager: what is ours is as the train wants it."""

    async def main() -> None:
        async with world.orchestrator("pods:held") as orchestrator, world.looking() as looking:
            await orchestrator.ensure(spec())

            async def replicas() -> int:
                await orchestrator.ensure(spec())
                return int((await looking.all("deployments"))[NAME]["spec"]["replicas"])

            await asyncio.to_thread(world.kubectl, "scale", "deployment", NAME, "--replicas=5")
            await until("set back", lambda: _is_one(replicas()))
            await orchestrator.remove(held.name, 1, grace=0.0)
            assert await looking.all("deployments") == {}

    asyncio.run(main())


async def _is_one(count: Awaitable[int]) -> bool:
    return await count == 1


def test_two_observers_make_the_same_unit_at_once(world: World) -> None:
    """Each means the same by it: neither takes the other's for somebody else's."""

    async def main() -> None:
        async with world.orchestrator("pods:held") as one, world.orchestrator("pods:held") as other:
            await asyncio.gather(*(o.ensure(spec()) for o in (one, other)))
            await asyncio.gather(*(o.ensure(spec(workers=2)) for o in (one, other)))
            async with world.looking() as looking:
                deployments = await looking.all("deployments")
                assert {n: d["spec"]["replicas"] for n, d in deployments.items()} == {NAME: 2}
                await asyncio.gather(*(o.remove(held.name, 1, grace=0.0) for o in (one, other)))
                assert await looking.all("deployments") == {}

    asyncio.run(main())
