"""The ECS orchestrator: each wagon's workers are the tasks of a service of its own, on Fargate or EC2."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from hashlib import blake2b
from string import Formatter
from typing import Any, Self

import msgspec

from ...contracts.address import Address
from ...contracts.orchestrator import Deployment, WagonSpec, together
from ...contracts.registry import Registry
from ...drivers.aws.clients import TROUBLE, Clients
from ...drivers.aws.errors import AWSRefused, explain
from ...drivers.aws.place import Place, place_of
from ...drivers.aws.table import Table
from ...errors import Unavailable, UsageError
from ...event import wagon_name
from .units import Unit, Units

_LOOK = 5.0  # seconds for which ECS' answers are used again; the workers' check-ins are read each time
_OPTIONS = ("task", "container", "each", "launch", "subnets", "groups")  # of the URL, beyond the place's
_PAUSE = 0.5
_MARGIN = 30.0  # seconds beyond the grace that tasks may take to end
COMMAND = ("eventwagon", "work", "{target}", "--wagon", "{unit}", "--workers", "{each}")
_PLACEHOLDERS = ("target", "unit", "each")
_OURS = frozenset({"cluster", "serviceName", "taskDefinition", "desiredCount", "tags"})
_COPIED = (
    "taskRoleArn",
    "executionRoleArn",
    "networkMode",
    "volumes",
    "placementConstraints",
    "requiresCompatibilities",
    "cpu",
    "memory",
    "pidMode",
    "ipcMode",
    "proxyConfiguration",
    "inferenceAccelerators",
    "ephemeralStorage",
    "runtimePlatform",
)


class ECSServices:
    """Gives a wagon its workers: a service of its own in `cluster`, whose tasks run `command` for `target`
    (`app:signups`) in the container named `container` of your task definition `task` (a family).

    The family's newest revision is used, or the one that a spec's `revision` names. A copy with the command is
    registered for each unit; put the URL of the train (EVENTWAGON_URL) and everything else into yours. In `command`,
    {target}, {unit} and {each} are filled in, and {{ and }} are braces. It begins with the program: if the image has an
    entry point that does so too, as eventwagon's has, set the container's entryPoint to ["env"]. A task has `each`
    workers; as many tasks run as a spec's `workers` need. `options` go to CreateService unchanged: launchType,
    networkConfiguration, capacityProviderStrategy … Raises UsageError for values that could only fail later.

    Ready: as many workers as requested have checked in to `registry` as attached to the wagon. The registry is entered
    and left with this object, so give it one of its own. A container's `stopTimeout` must be longer than the train's
    `grace`, or ECS ends handlers in flight; it allows 120 s.
    """

    def __init__(
        self,
        target: str,
        *,
        cluster: str,
        task: str,
        container: str,
        registry: Registry,
        place: Place | None = None,
        each: int = 1,
        command: Sequence[str] = COMMAND,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if each < 1:
            raise UsageError(f"each={each}: a task has at least one worker")
        for what, name in (("cluster", cluster), ("task", task), ("container", container)):
            if not isinstance(name, str) or not name:
                raise UsageError(f"{what}={name!r}: give a name")
        if taken := sorted(_OURS & set(options or {})):
            raise UsageError(f"options: {', '.join(taken)} can't be set: each wagon has its own")
        self.place = place or Place()
        self._target = target
        self._cluster = cluster
        self._task = task
        self._container = container
        self._registry = registry
        self._each = each
        self._command = _checked(command)
        self.options = dict(options or {})
        """What goes to CreateService unchanged."""
        self._clients = Clients(self.place)
        self._table = Table(self._clients)
        self._stack = AsyncExitStack()
        self._units = Units(self._table, self.place.prefix, "ecs")
        self._reports: dict[str, tuple[float, str]] = {}
        self._missing: set[str] = set()
        """Services that should exist and were not found."""
        self._turns: dict[tuple[str, int], asyncio.Lock] = {}

    @classmethod
    def from_url(cls, url: str, target: str, *, registry: Registry) -> ECSServices:
        """`ecs://eu-west-1/prefix/cluster?task=signups&container=worker&each=4&launch=FARGATE&subnets=a,b&groups=c`:
        place as in `sqs://` (with its options), then the cluster. Raises UsageError."""
        address = Address.of(url)
        prefix, _, cluster = address.path.strip("/").rpartition("/")
        own = {name: address.options.get(name, "") for name in _OPTIONS}
        place = place_of(address, *_OPTIONS, path=prefix)
        if not (cluster and own["task"] and own["container"]):
            raise address.wrong("write ecs://eu-west-1/prefix/cluster?task=FAMILY&container=NAME")
        options: dict[str, Any] = {"launchType": own["launch"]} if own["launch"] else {}
        if own["subnets"]:
            network = {"subnets": own["subnets"].split(",")}
            if own["groups"]:
                network["securityGroups"] = own["groups"].split(",")
            options["networkConfiguration"] = {"awsvpcConfiguration": network}
        return cls(
            target,
            cluster=cluster,
            task=own["task"],
            container=own["container"],
            registry=registry,
            place=place,
            each=address.whole("each", 1, least=0),
            options=options,
        )

    async def __aenter__(self) -> Self:
        """Connect. Raises Unavailable, StorageBroken."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._registry)
            await stack.enter_async_context(self._table)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    def name(self, train: str, unit: int) -> str:
        """The name of a unit's service and task definitions."""
        return f"{self.place.prefix}-{train}-{unit}"

    @property
    def step(self) -> int:
        """See InSteps.step: the workers of a task."""
        return self._each

    async def ensure(self, spec: WagonSpec) -> None:
        """See Orchestrator.ensure."""
        try:
            async with self._turn(spec.train, spec.unit):
                before = await self._units.get(spec.train, spec.unit)
                if before is not None and spec.is_behind(before.spec.number):
                    return
                missing = self.name(spec.train, spec.unit) in self._missing
                if before is None or before.spec != spec or not before.resources or missing:
                    await self._units.put(Unit(spec, before.resources if before else ()))
                    await self._bring(spec, before)
        except TROUBLE as e:
            raise explain(e, f"starting the workers of {wagon_name(spec.train, spec.number)}", self.place) from e

    async def _bring(self, spec: WagonSpec, before: Unit | None) -> None:
        """Bring the service to what the spec wants. A unit's `resources` are the digest of its task's content and the
        task definition."""
        name = self.name(spec.train, spec.unit)
        definition = await self._definition(spec, before)
        tasks = self._tasks(spec)
        service = await self._service(name)
        if service is not None and (taken := self._taken(service, spec.train)):
            raise UsageError(taken)
        if service is None:
            await self._clients.call(
                "ecs",
                "create_service",
                cluster=self._cluster,
                serviceName=name,
                taskDefinition=definition[1],
                desiredCount=tasks,
                tags=self._tags(spec),
                **self.options,
            )
        elif service["desiredCount"] != tasks or service["taskDefinition"] != definition[1]:
            await self._clients.call(
                "ecs",
                "update_service",
                cluster=self._cluster,
                service=name,
                taskDefinition=definition[1],
                desiredCount=tasks,
            )
        self._reports.pop(name, None)
        self._missing.discard(name)
        await self._units.put(Unit(spec, definition))
        if before is not None and before.resources and before.resources != definition:
            await self._forget(before.resources[1])

    async def _definition(self, spec: WagonSpec, before: Unit | None) -> tuple[str, str]:
        """The unit's own task definition: the user's, with the command. The same one as long as nothing changes."""
        theirs = f"{self._task}:{spec.revision}" if spec.revision else self._task
        answer = await self._clients.call("ecs", "describe_task_definition", taskDefinition=theirs)
        found = answer["taskDefinition"]
        words = {"target": self._target, "unit": spec.unit, "each": self._each}
        containers = [dict(each) for each in found["containerDefinitions"]]
        mine = [each for each in containers if each["name"] == self._container]
        if not mine:
            there = ", ".join(str(each["name"]) for each in containers)
            raise UsageError(f"task definition {theirs} has no container {self._container!r}; there are: {there}")
        mine[0]["command"] = [word.format(**words) for word in self._command]
        content = {name: found[name] for name in _COPIED if found.get(name)}
        content["containerDefinitions"] = containers
        digest = blake2b(msgspec.json.encode(content, order="deterministic"), digest_size=8).hexdigest()
        if before is not None and before.resources and before.resources[0] == digest:
            return digest, before.resources[1]
        name = self.name(spec.train, spec.unit)
        for arn in (await self._definitions(name))[-1:]:
            if whose := await self._stranger(arn, spec.train):
                raise UsageError(f"the task definitions {name} {whose}; choose another prefix or train name")
        made = await self._clients.call(
            "ecs",
            "register_task_definition",
            family=name,
            tags=self._tags(spec),
            **content,
        )
        return digest, str(made["taskDefinition"]["taskDefinitionArn"])

    def _tasks(self, spec: WagonSpec) -> int:
        return math.ceil((self._each if spec.workers is None else spec.workers) / self._each)

    async def _service(self, name: str) -> dict[str, Any] | None:
        answer = await self._clients.call(
            "ecs", "describe_services", cluster=self._cluster, services=[name], include=["TAGS"]
        )
        standing = [each for each in answer["services"] if each["status"] != "INACTIVE"]
        return dict(standing[0]) if standing else None

    def _taken(self, service: Mapping[str, Any], train: str) -> str:
        """Who else owns the service, as a sentence; empty if it is this train's."""
        whose = self.place.stranger(_tags_in(service), train)
        name = f"the service {service['serviceName']} in cluster {self._cluster}"
        return f"{name} {whose}; choose another prefix or train name" if whose else ""

    async def _definitions(self, name: str) -> list[str]:
        """The active task definitions of exactly this family."""
        answer = await self._clients.call("ecs", "list_task_definitions", familyPrefix=name, status="ACTIVE")
        found = [str(arn) for arn in answer.get("taskDefinitionArns", [])]
        return [arn for arn in found if arn.rpartition("/")[2].rpartition(":")[0] == name]

    async def _stranger(self, definition: str, train: str) -> str:
        """The owner of a task definition, if that is not this train; otherwise empty."""
        answer = await self._clients.call(
            "ecs", "describe_task_definition", taskDefinition=definition, include=["TAGS"]
        )
        return self.place.stranger(_tags_in(answer), train)

    async def deployments(self, train: str) -> Mapping[int, Deployment]:
        """See Orchestrator.deployments."""
        try:
            units = await self._units.of(train)
            if not units:
                return {}
            members = await self._registry.members(train)
            attached = [each for member in members if "serve" in member.roles for each in member.attachments]
            return {unit.spec.unit: await self._deployment(unit.spec, attached) for unit in units}
        except TROUBLE as e:
            raise explain(e, f"looking at the workers of {train}", self.place) from e

    async def _deployment(self, spec: WagonSpec, attached: Sequence[Deployment]) -> Deployment:
        mine = [each for each in attached if each.number == spec.number]
        ready = [each for each in mine if each.ready]
        workers = sum(each.workers for each in ready)
        wanted = self._tasks(spec) * self._each
        trouble = next((each.trouble for each in mine if each.trouble), "")
        is_enough = spec.enough is not None and min(spec.enough, wanted) <= workers
        if not trouble and workers != wanted and not is_enough:
            text = await self._report(self.name(spec.train, spec.unit), spec.train)
            trouble = f"{workers} of {wanted} workers have checked in as attached" + (f"; {text}" if text else "")
        return msgspec.structs.replace(
            together(mine) if mine else Deployment(number=spec.number, ready=False),
            ready=not trouble and wanted > 0,
            workers=workers,
            revision=spec.revision,
            trouble=trouble,
        )

    async def _report(self, name: str, train: str) -> str:
        """What ECS reports of a service: how many tasks run, and its last event."""
        now = asyncio.get_running_loop().time()
        if name in self._reports and now - self._reports[name][0] < _LOOK:
            return self._reports[name][1]
        service = await self._service(name)
        if service is None:
            text = f"there is no service {name}"
            self._missing.add(name)
        elif taken := self._taken(service, train):
            text = taken
        else:
            text = f"ECS runs {service.get('runningCount', 0)} of {service['desiredCount']} tasks"
            if events := service.get("events"):
                text += f" ({events[0]['message']})"
        self._reports[name] = (now, text)
        return text

    async def remove(self, train: str, unit: int, *, grace: float) -> None:
        """See Orchestrator.remove. ECS asks the tasks to end at once; they finish their events in flight within the
        train's own `grace` and the container's `stopTimeout`, whatever `grace` is here."""
        try:
            async with self._turn(train, unit):
                standing = await self._units.get(train, unit)
                if standing is not None:
                    await self._remove(standing, grace)
                    await self._units.remove(train, unit)
        except TROUBLE as e:
            raise explain(e, f"removing the workers of unit {unit} of {train}", self.place) from e
        self._turns.pop((train, unit), None)

    async def _remove(self, unit: Unit, grace: float) -> None:
        spec, name = unit.spec, self.name(unit.spec.train, unit.spec.unit)
        service = await self._service(name)
        if service is not None and not self._taken(service, spec.train):
            given = {"cluster": self._cluster, "service": name}
            await self._clients.call("ecs", "update_service", desiredCount=0, **given)
            until = asyncio.get_running_loop().time() + grace + _MARGIN
            while await self._running(spec, name):
                if asyncio.get_running_loop().time() > until:
                    raise Unavailable(
                        f"tasks of service {name} still run {grace + _MARGIN:g} s after they were asked to end"
                    )
                await asyncio.sleep(_PAUSE)
            await self._clients.call("ecs", "delete_service", force=True, **given)
        self._reports.pop(name, None)
        self._missing.discard(name)
        for arn in await self._definitions(name):
            if not await self._stranger(arn, spec.train):
                await self._forget(arn)

    async def _running(self, spec: WagonSpec, name: str) -> bool:
        """Whether ECS runs a task of the unit, or a worker of it is checked in."""
        service = await self._service(name)
        if service is not None and (service.get("runningCount", 0) or service.get("pendingCount", 0)):
            return True
        members = await self._registry.members(spec.train)
        return any(each.number == spec.number for m in members if "serve" in m.roles for each in m.attachments)

    async def _forget(self, definition: str) -> None:
        try:
            await self._clients.call("ecs", "deregister_task_definition", taskDefinition=definition)
        except AWSRefused as e:
            if e.code not in ("ClientException", "InvalidParameterException"):  # it is gone
                raise

    def _tags(self, spec: WagonSpec) -> list[dict[str, str]]:
        tags = {
            **self.place.tags(spec.train),
            "eventwagon-unit": str(spec.unit),
            "eventwagon-wagon": str(spec.number),
        }
        return [{"key": key, "value": value} for key, value in tags.items()]

    def _turn(self, train: str, unit: int) -> asyncio.Lock:
        return self._turns.setdefault((train, unit), asyncio.Lock())


def _checked(command: Sequence[str]) -> tuple[str, ...]:
    """The command as a tuple. Raises UsageError for braces that can't be filled in, so that a mistake shows before a
    wagon is half created."""
    if isinstance(command, str) or not command or not all(isinstance(word, str) for word in command):
        raise UsageError(f"command={command!r}: give a list of words, the program first: {list(COMMAND)}")
    known = ", ".join(f"{{{name}}}" for name in _PLACEHOLDERS)
    for word in command:
        try:
            parts = list(Formatter().parse(word))
        except ValueError as e:
            raise UsageError(f"command: {word!r}: {e}; write {{{{ and }}}} for braces, or one of {known}") from e
        for _, name, kind, conversion in parts:
            if name is not None and (name not in _PLACEHOLDERS or kind or conversion):
                raise UsageError(
                    f"command: {word!r}: there are only {known}, as they are; write {{{{ and }}}} for braces"
                )
    return tuple(command)


def _tags_in(answer: Mapping[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in answer.get("tags", [])}
