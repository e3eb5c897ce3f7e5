"""The whole of it, installed as a user would: observers in Pods, wagons that come as Pods, drain and go, and what may
befall them meanwhile. What was accepted was handled or stands in the dead letters, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from eventwagon import Connection
from eventwagon.contracts.lifecycle import State
from eventwagon.orchestrators.kubernetes.cluster import Object
from eventwagon.orchestrators.kubernetes.names import UNIT, name_of
from tests.docs.documents import blocks
from tests.kubernetes.world import Looking, World, until
from tests.programs.pods import burst

DEPLOY = Path(__file__).parents[2] / "deploy" / "kubernetes"
DOCUMENT = Path(__file__).parents[2] / "docs" / "orchestrators" / "kubernetes.md"


def overlay(world: World, directory: Path) -> None:
    """The base that is shipped, with the overlay that the docs show, for the test's namespace, image and train."""
    shutil.copytree(DEPLOY, directory / "base")
    (directory / "train.env").write_text(f"EVENTWAGON_URL={world.url}\n")
    shown = next(block.text for block in blocks(DOCUMENT, "yaml"))
    name, _, tag = world.image.rpartition(":")
    for theirs, ours in {
        "namespace: shop": f"namespace: {world.namespace}",
        "github.com/your/fork//deploy/kubernetes": "base",
        "registry.example.com/shop": name,
        "newTag: v1": f"newTag: {tag}",
        "app:signups": "pods:burst",
    }.items():
        assert theirs in shown
        shown = shown.replace(theirs, ours)
    (directory / "kustomization.yaml").write_text(shown)


def install(world: World, directory: Path) -> None:
    """All of it, until the observers say that they are ready."""
    overlay(world, directory)
    world.kubectl("apply", "-k", str(directory))
    world.kubectl("rollout", "status", "deployment/eventwagon-observer", "--timeout=90s")
    restricted = "{.metadata.labels.pod-security\\.kubernetes\\.io/enforce}"
    assert world.kubectl("get", "namespace", world.namespace, "-o", f"jsonpath={restricted}") == "restricted"


class Story:
    """A train whose observers run in the cluster, and a publisher outside."""

    def __init__(self, world: World, train: Connection, looking: Looking) -> None:
        self.world = world
        self.train = train
        self.looking = looking
        self.accepted: set[int] = set()

    async def publish(self, count: int) -> None:
        """So many more, in batches of ten; each was accepted when this returns."""
        for _ in range(count // 10):
            numbers = range(len(self.accepted) + 1, len(self.accepted) + 11)
            await self.train.publish_many(numbers, timeout=120)
            self.accepted |= set(numbers)

    async def kubectl(self, *arguments: str) -> str:
        return await asyncio.to_thread(self.world.kubectl, *arguments)

    async def pods_of(self, unit: int) -> dict[str, Object]:
        """The living ones."""
        pods = await self.looking.all("pods")
        return {
            n: p
            for n, p in pods.items()
            if units_of({n: p}) == {str(unit)} and "deletionTimestamp" not in p["metadata"]
        }

    async def wagons(self, *states: State) -> Sequence[int]:
        """The numbers of those in these states."""
        await self.train.refresh()
        return [w.number for w in self.train.manifest.in_state(*states)]

    async def at_rest(self) -> None:
        """Until the active wagon and its spare are all that is left; then all that was accepted is accounted for."""

        async def rests() -> bool:
            wagons = await self.wagons(*State)
            units = units_of(await self.looking.all("deployments"))
            of_pods = units_of(await self.looking.all("pods"))
            return len(wagons) == 2 and {str(n) for n in wagons} == units == of_pods and await self.all_done()

        try:
            await until("only the active wagon and its spare are left", rests, 150, every=0.5)
        except AssertionError as e:
            handled = {int(words[2]) for words in await self.looking.notes("handled")}
            missing = sorted(self.accepted - handled)[:20]
            raise AssertionError(
                f"{e}\n{self.train.manifest.wagons}\nmissing {missing}\n{await self.kubectl('get', 'pods')}"
            ) from None

    async def all_done(self) -> bool:
        handled = {int(words[2]) for words in await self.looking.notes("handled")}
        dead = {int(event.data) async for event in self.train.dead_letters()}
        assert handled | dead <= self.accepted
        assert dead <= {n for n in self.accepted if n % 97 == 0}
        return handled | dead == self.accepted


def units_of(found: Mapping[str, Object]) -> set[str]:
    """The units that these are labelled with."""
    labels = (item["metadata"].get("labels", {}) for item in found.values())
    return {has[UNIT] for has in labels if UNIT in has}


def play(world: World, directory: Path, scene: Callable[[Story], Awaitable[None]]) -> None:
    """Install, wait for a spare, play the scene, and wait until all is at rest."""
    install(world, directory)

    async def main() -> None:
        async with burst.connect(world.url, listeners=()) as train, world.looking() as looking:
            story = Story(world, train, looking)
            await train.found()
            await until("a spare", lambda: story.wagons(State.READY), 90)
            await scene(story)
            await story.at_rest()

    try:
        asyncio.run(main())
    except BaseException:
        print(world.kubectl("logs", "-l", "app.kubernetes.io/name=eventwagon-observer", "--tail=40", check=False))
        raise


def test_a_burst(world: World, tmp_path: Path) -> None:
    """Wagons come as Pods, drain, and go; an observer's Pod is killed meanwhile."""

    async def scene(story: Story) -> None:
        await story.publish(400)
        observers = [n for n in await story.looking.all("pods") if n.startswith("eventwagon-observer")]
        await story.kubectl("delete", "pod", observers[0], "--force", "--grace-period=0")
        await story.publish(300)
        assert len({words[0] for words in await story.looking.notes("handled")}) > 1, "one Pod handled all"

    play(world, tmp_path, scene)


def test_workers_are_killed_and_deleted(world: World, tmp_path: Path) -> None:
    """A worker's container by SIGKILL, a Pod, and the whole Deployment of a wagon that drains."""
    own = world.own

    async def scene(story: Story) -> None:
        await story.publish(200)
        (active,) = await story.wagons(State.ACTIVE)
        killed = kill(f"pods:burst\0--wagon\0{active}\0", own.directory.name)
        assert killed, "no worker of the active wagon was found"
        await story.publish(150)
        (active,) = await story.wagons(State.ACTIVE)
        for pod in await story.pods_of(active):
            await story.kubectl("delete", "pod", pod, "--wait=false")
        await story.publish(150)
        draining = await until("a wagon that drains", lambda: story.wagons(State.DRAINING))
        await story.kubectl("delete", "deployment", name_of(burst.name, draining[-1]), "--wait=false")

    play(world, tmp_path, scene)


def test_the_api_server_restarts_mid_switch(world: World, tmp_path: Path) -> None:
    """Ingestion goes on without it: the spare is ready, and stays so."""
    own = world.own

    async def scene(story: Story) -> None:
        await story.publish(140)
        (before,) = await story.wagons(State.ACTIVE)
        await asyncio.to_thread(own.stop, "kube-apiserver")
        try:
            await story.publish(20)
            assert await story.wagons(State.ACTIVE) != [before], "no switch without the API server"
            await story.publish(60)
        finally:
            await asyncio.to_thread(own.resume, "kube-apiserver")
        await story.publish(100)

    play(world, tmp_path, scene)


def kill(words: str, directory: str) -> list[int]:
    """SIGKILL to the processes in containers of this cluster whose command lines have these words."""
    found = processes(words, directory)
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return found


def processes(words: str, *places: str) -> list[int]:
    """The processes in containers whose command lines have these words, in control groups whose names have all of
    `places`."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):
                groups = (process / "cgroup").read_text()
                if words.encode() in (process / "cmdline").read_bytes() and all(place in groups for place in places):
                    found.append(int(process.name))
    return found
