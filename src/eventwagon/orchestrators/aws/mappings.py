"""The Lambda orchestrator: a wagon's workers are calls of one function, made by an event-source mapping for each
channel."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

import msgspec

from ...contracts.address import Address
from ...contracts.orchestrator import Deployment, WagonSpec
from ...drivers.aws.clients import TROUBLE, Clients
from ...drivers.aws.errors import AWSRefused, explain
from ...drivers.aws.place import Place, place_of
from ...drivers.aws.table import Table
from ...errors import Unavailable, UsageError
from ...event import Channel, wagon_name
from .counters import Counters, HandlingCounts
from .handler import PROBE
from .units import Unit, Units

_PAUSE = 0.5
_LEAST, _MOST = 2, 1000  # MaximumConcurrency of a mapping
_VISIBILITY = 6  # times the function's timeout: what AWS recommends for the queue
_FUNCTION = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class LambdaMappings:
    """Gives a wagon its workers: on each of its channels an event-source mapping to `function`, which
    `eventwagon.orchestrators.aws.handler` makes. `place` must be that of the train's `sqs://` URL.

    A spec's `workers` become the mapping's maximum concurrency, at least 2 (AWS's minimum), each with up to `batch`
    events at a time; with 0 the mapping is disabled, and the wagon is not ready. While the wagon is paused it is
    disabled, too. AWS takes up to a minute for that: calls under way go on, and AWS may make more until then. A spec's
    `revision` is a version or alias of the function. Ready: all mappings are as they should be, and the function,
    called with a probe, said that it can serve these channels. AWS allows few such requests a second, so what it says
    of a ready wagon is used again for `look_every` seconds, of others for a tenth of that.
    """

    def __init__(self, function: str, place: Place | None = None, *, batch: int = 10, look_every: float = 10.0) -> None:
        if not _FUNCTION.fullmatch(function):
            raise UsageError(f"function {function!r}: give the name of a Lambda function, without version or ARN")
        self.function = function
        self.place = place or Place()
        self._batch = batch
        self._look_every = look_every
        self._clients = Clients(self.place)
        self._table = Table(self._clients)
        self._units = Units(self._table, self.place.prefix, "lambda")
        self._counters = Counters(self._table, self.place.prefix)
        self._seen: dict[tuple[str, int], tuple[Unit, float, Deployment]] = {}
        self._ensured: dict[tuple[str, int], tuple[WagonSpec, float]] = {}
        self._probed: set[tuple[str, frozenset[str]]] = set()
        self._turns: dict[tuple[str, int], asyncio.Lock] = {}

    @classmethod
    def from_url(cls, url: str) -> LambdaMappings:
        """`lambda://eu-west-1/prefix/function?table=…&batch=10`: place as in `sqs://`, then the function. Raises
        UsageError."""
        address = Address.of(url)
        prefix, _, function = address.path.strip("/").rpartition("/")
        if not function:
            raise address.wrong("write lambda://eu-west-1/prefix/function")
        return cls(function, place_of(address, "batch", path=prefix), batch=address.whole("batch", 10, most=10))

    async def __aenter__(self) -> Self:
        """Connect. Raises Unavailable, StorageBroken."""
        await self._table.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._table.__aexit__(*exc)

    @property
    def step(self) -> int:
        """See InSteps.step: calls come one by one."""
        return 1

    @property
    def platform(self) -> str:
        """See Delivering.platform."""
        return "Lambda"

    async def ensure(self, spec: WagonSpec) -> None:
        """See Orchestrator.ensure."""
        key = spec.train, spec.unit
        seen = self._seen.get(key)
        if seen is not None and seen[0].spec == spec and seen[2].ready:
            return
        now = asyncio.get_running_loop().time()
        last = self._ensured.get(key)
        if last is not None and last[0] == spec and now - last[1] < self._look_every / 10:
            return
        try:
            async with self._turn(key):
                await self._ensure(spec)
            self._ensured[key] = (spec, now)
        except TROUBLE as e:
            raise explain(e, f"mapping {wagon_name(spec.train, spec.number)} to {self.function}", self.place) from e

    async def _ensure(self, spec: WagonSpec) -> None:
        before = await self._units.get(spec.train, spec.unit)
        if before is not None and spec.is_behind(before.spec.number):
            return
        if before is None or before.spec != spec:
            self._seen.pop((spec.train, spec.unit), None)
            await self._units.put(Unit(spec, before.resources if before else ()))
            await self._counters.open(spec.train, spec.number)
            if before is not None and before.spec.number != spec.number:
                await self._counters.remove(spec.train, before.spec.number)
        made: list[str] = []
        for channel in spec.channels:
            made += await self._map(channel, spec)
        stale = [each for each in (before.resources if before else ()) if each not in made]
        for each in stale:  # of the wagon that it served before, or of another revision
            await self._unmap(each)
        if before is None or before.spec != spec or set(before.resources) != set(made):
            await self._units.put(Unit(spec, tuple(made)))

    async def _map(self, channel: Channel, spec: WagonSpec) -> list[str]:
        """Bring one channel's mapping to the spec. Returns its UUID in a list; an empty one while there is no queue."""
        workers = _LEAST if spec.workers is None else spec.workers
        name = self._named(spec)
        source = await self._queue(channel, name)
        if source is None:
            return []
        wanted: dict[str, Any] = {
            "FunctionName": name,
            "BatchSize": self._batch,
            "Enabled": workers > 0 and not spec.paused,
            "FunctionResponseTypes": ["ReportBatchItemFailures"],
            "ScalingConfig": {"MaximumConcurrency": max(_LEAST, min(_MOST, workers))},
        }
        found = await self._mappings(source)
        if not found:
            tags = {**self.place.tags(spec.train), "eventwagon-wagon": str(spec.number)}
            made = await self._clients.call(
                "lambda", "create_event_source_mapping", EventSourceArn=source, Tags=tags, **wanted
            )
            return [str(made["UUID"])]
        standing = found[0]
        if not _is(standing, wanted):
            await self._clients.call("lambda", "update_event_source_mapping", UUID=standing["UUID"], **wanted)
        for more in found[1:]:  # two observers did it at the same time
            await self._unmap(str(more["UUID"]))
        return [str(standing["UUID"])]

    async def _queue(self, channel: Channel, function: str) -> str | None:
        """The ARN of the channel's queue, whose messages stay invisible for long enough for the function; None without
        a queue."""
        found = await self._attributes(channel, "QueueArn", "VisibilityTimeout")
        if found is None:
            return None
        url, attributes = found
        configured = await self._clients.call("lambda", "get_function_configuration", FunctionName=function)
        seconds = _VISIBILITY * _timeout(configured)
        if int(attributes["VisibilityTimeout"]) < seconds:
            wanted = {"VisibilityTimeout": str(seconds)}
            await self._clients.call("sqs", "set_queue_attributes", QueueUrl=url, Attributes=wanted)
        return attributes["QueueArn"]

    async def _attributes(self, channel: Channel, *names: str) -> tuple[str, dict[str, str]] | None:
        """The URL and these attributes of the channel's queue; None if there is no queue."""
        try:
            answer = await self._clients.call("sqs", "get_queue_url", QueueName=self.place.queue(channel))
            url = str(answer["QueueUrl"])
            found = await self._clients.call("sqs", "get_queue_attributes", QueueUrl=url, AttributeNames=list(names))
        except AWSRefused as e:
            if e.gone:
                return None
            raise
        return url, found.get("Attributes", {})

    async def _mappings(self, source: str) -> Sequence[Mapping[str, Any]]:
        answer = await self._clients.call("lambda", "list_event_source_mappings", EventSourceArn=source)
        marked = f":function:{self.function}"
        found = [each for each in answer["EventSourceMappings"] if f"{each['FunctionArn']}:".find(f"{marked}:") > 0]
        return sorted((each for each in found if each.get("State") != "Deleting"), key=lambda each: str(each["UUID"]))

    async def deployments(self, train: str) -> Mapping[int, Deployment]:
        """See Orchestrator.deployments."""
        try:
            units, counters = await asyncio.gather(self._units.of(train), self._counters.of(train))
            found = await asyncio.gather(*(self._deployment(unit) for unit in units))
        except TROUBLE as e:
            raise explain(e, f"looking at the workers of {train}", self.place) from e
        for key in [key for key in self._seen if key[0] == train and key[1] not in {u.spec.unit for u in units}]:
            del self._seen[key]
        return {
            unit.spec.unit: _counted(deployment, counters.get(deployment.number, HandlingCounts()))
            for unit, deployment in zip(units, found, strict=True)
        }

    async def _deployment(self, unit: Unit) -> Deployment:
        spec, now = unit.spec, asyncio.get_running_loop().time()
        key = spec.train, spec.unit
        seen = self._seen.get(key)
        if seen is not None and seen[0] == unit:
            every = self._look_every if seen[2].ready else self._look_every / 10
            if now - seen[1] < every:
                return seen[2]
        trouble = await self._trouble(unit)
        found = Deployment(
            number=spec.number,
            ready=not trouble and spec.workers != 0,
            workers=spec.workers or 0,
            revision=spec.revision,
            trouble=trouble,
            paused=spec.paused and not trouble,
        )
        self._seen[key] = (unit, now, found)
        return found

    async def _trouble(self, unit: Unit) -> str:
        """Why the wagon is not ready; empty if it is."""
        spec = unit.spec
        wanted = "Enabled" if spec.workers != 0 and not spec.paused else "Disabled"
        for channel in spec.channels:
            queue = await self._attributes(channel, "QueueArn")
            if queue is None:
                return f"channel {channel} has no queue"
            found = await self._mappings(queue[1]["QueueArn"])
            state = str(found[0].get("State")) if found else "none"
            if state != wanted:
                return f"the mapping of {channel} to {self.function} is {state.lower()}, not {wanted.lower()}"
        return await self._probe(spec)

    async def _probe(self, spec: WagonSpec) -> str:
        """Call the function and ask whether it can serve these channels. Asks once for each revision and set of
        channels."""
        name = self._named(spec)
        channels = [channel.name for channel in spec.channels]
        asked = (name, frozenset([spec.train, *channels]))
        if asked in self._probed:
            return ""
        payload = json.dumps({PROBE: channels}).encode()
        try:
            answer = await self._clients.call("lambda", "invoke", FunctionName=name, Payload=payload)
        except AWSRefused as e:
            return f"calling {name} failed: {e}"
        body = (await answer["Payload"].read()).decode(errors="replace")
        try:
            said = json.loads(body)
            if said["ready"] is True:
                self._probed.add(asked)
                return ""
            return str(said["trouble"])
        except (ValueError, KeyError, TypeError):
            return f"{name} does not answer a probe, but: {body[:300]}"

    async def remove(self, train: str, unit: int, *, grace: float) -> None:
        """See Orchestrator.remove. Calls can't be ended: whatever `grace` is, their events have until the function's
        own timeout."""
        key = train, unit
        try:
            async with self._turn(key):
                standing = await self._units.get(train, unit)
                if standing is not None:
                    await self._remove(standing)
                    await self._units.remove(train, unit)
        except TROUBLE as e:
            raise explain(e, f"removing the workers of unit {unit} of {train}", self.place) from e
        self._seen.pop(key, None)
        self._ensured.pop(key, None)
        self._turns.pop(key, None)

    async def _remove(self, unit: Unit) -> None:
        mappings = set(unit.resources)
        for channel in unit.spec.channels:  # one may have been created and not recorded yet
            if queue := await self._attributes(channel, "QueueArn"):
                mappings |= {str(each["UUID"]) for each in await self._mappings(queue[1]["QueueArn"])}
        for each in mappings:
            await self._disable(each)
        if mappings:
            await self._calls_end(unit.spec)
        for each in mappings:
            await self._unmap(each)
        await self._counters.remove(unit.spec.train, unit.spec.number)

    async def _calls_end(self, spec: WagonSpec) -> None:
        """Wait for calls under way. They are visible only through their events: wait until two looks show none in
        flight, or until all calls have reached their timeout. Events that were given back and pause look the same."""
        loop = asyncio.get_running_loop()
        until = loop.time() + await self._seconds(spec)
        quiet = 0
        while quiet < 2 and loop.time() < until:
            quiet = 0 if await self._in_flight(spec.channels) else quiet + 1
            await asyncio.sleep(_PAUSE)

    async def _seconds(self, spec: WagonSpec) -> int:
        """The function's timeout in seconds; 0 if the function is gone."""
        try:
            name = self._named(spec)
            return _timeout(await self._clients.call("lambda", "get_function_configuration", FunctionName=name))
        except AWSRefused as e:
            if e.code == "ResourceNotFoundException":
                return 0
            raise

    def _named(self, spec: WagonSpec) -> str:
        return f"{self.function}:{spec.revision}" if spec.revision else self.function

    async def _in_flight(self, channels: Sequence[Channel]) -> int:
        """Roughly how many messages calls are working on, or were given back and pause."""
        count = 0
        for channel in channels:
            if queue := await self._attributes(channel, "ApproximateNumberOfMessagesNotVisible"):
                count += int(queue[1].get("ApproximateNumberOfMessagesNotVisible", 0))
        return count

    async def _disable(self, uuid: str) -> None:
        try:
            await self._clients.call("lambda", "update_event_source_mapping", UUID=uuid, Enabled=False)
        except AWSRefused as e:
            if e.code not in ("ResourceNotFoundException", "ResourceInUseException"):
                raise

    async def _unmap(self, uuid: str) -> None:
        """Delete a mapping; retry while it is being created or changed. An absent one is no error."""
        for _ in range(60):
            try:
                await self._clients.call("lambda", "delete_event_source_mapping", UUID=uuid)
                return
            except AWSRefused as e:
                if e.code == "ResourceNotFoundException":
                    return
                if e.code != "ResourceInUseException":
                    raise
            await asyncio.sleep(_PAUSE)
        raise Unavailable(f"mapping {uuid} is in use and can't be deleted yet")

    def _turn(self, key: tuple[str, int]) -> asyncio.Lock:
        return self._turns.setdefault(key, asyncio.Lock())


def _timeout(function: Mapping[str, Any]) -> int:
    return int(function.get("Timeout", 3))


def _counted(deployment: Deployment, of: HandlingCounts) -> Deployment:
    work = of.work if of.work.count else None
    return msgspec.structs.replace(deployment, handled=of.handled, failed=of.failed, work=work)


def _is(standing: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a mapping is as wanted. An update under way counts as done."""
    function = str(wanted["FunctionName"])
    arn = str(standing["FunctionArn"]).partition(":function:")[2]
    enabled = standing.get("State") in ("Enabled", "Enabling", "Creating", "Updating")
    scaling = (standing.get("ScalingConfig") or {}).get("MaximumConcurrency")
    return (
        arn == function
        and enabled == wanted["Enabled"]
        and scaling == wanted["ScalingConfig"]["MaximumConcurrency"]
        and standing.get("BatchSize") == wanted["BatchSize"]
    )
