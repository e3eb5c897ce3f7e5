"""In the place of Lambda: moto keeps functions and mappings, and calls none. This polls the mapped queues and calls
instances of the function that are local processes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import zipfile
from collections import defaultdict
from collections.abc import Callable
from io import BytesIO
from secrets import token_hex
from typing import Any, Self

from eventwagon.drivers.aws.clients import Clients
from eventwagon.drivers.aws.errors import AWSRefused
from tests.aws.support import Between


class Instance:
    """A process that answers one request at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.ended = False
        """Its output has ended. That its process has is known a little later."""

    async def ask(self, event: dict[str, Any], seconds: float) -> dict[str, Any]:
        """What the function returned. Raises RuntimeError where it raised, or its process ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"event": event, "seconds": seconds}).encode() + b"\n")
        line = await self.process.stdout.readline()
        if not line:
            self.ended = True
            raise RuntimeError("the instance has ended")
        said = json.loads(line)
        if "error" in said:
            raise RuntimeError(said["error"])
        answer: dict[str, Any] = said["answer"]
        return answer


class Poller:
    """Works for the mappings to one function, each with as many calls at once as it allows. A call's messages are
    deleted where it does not report them as failed; where it fails as a whole they come again when the queue shows them
    again. `environment` is of the instances, by the function's version ("" without)."""

    def __init__(
        self,
        clients: Clients,
        function: str,
        target: str,
        environment: Callable[[str], dict[str, str]],
        *,
        timeout: float,
    ) -> None:
        self._clients = clients
        self._function = function
        self._target = target
        self._environment = environment
        self._timeout = timeout
        self._free: defaultdict[str, list[Instance]] = defaultdict(list)
        self._calls: defaultdict[str, set[asyncio.Task[None]]] = defaultdict(set)
        self._polls: dict[str, asyncio.Task[None]] = {}
        self._urls: dict[str, str] = {}
        self.instances: list[Instance] = []
        self.failed = 0
        """Messages that calls reported as failed."""
        self.broken = 0
        """Calls that failed as a whole."""

    async def __aenter__(self) -> Self:
        self._loop = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *exc: object) -> None:
        tasks = [self._loop, *self._polls.values()]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for instance in self.instances:
            if instance.process.returncode is None:
                assert instance.process.stdin is not None
                instance.process.stdin.close()
        for instance in self.instances:
            try:
                async with asyncio.timeout(10):
                    await instance.process.wait()
            except TimeoutError:
                instance.process.kill()
                await instance.process.wait()
        calls = [call for some in self._calls.values() for call in some]
        if calls:
            await asyncio.wait(calls)
        for task in tasks:
            if not task.cancelled() and task.exception():
                task.result()

    def answering(self, clients: Clients) -> None:
        """Calls of the function by this client's owner are answered by an instance: moto would make something up."""

        async def meddle(operation: str, given: dict[str, Any], ask: Callable[[], Any]) -> Any:
            if operation != "invoke":
                return await ask()
            body = await self.invoke(given["FunctionName"].partition(":")[2], json.loads(given["Payload"]))
            return {"Payload": _Body(json.dumps(body).encode())}

        Between(clients, meddle)

    async def invoke(self, version: str, event: dict[str, Any]) -> dict[str, Any]:
        """One call, on an instance of its own for as long as it lasts; a function's error as Lambda tells it."""
        instance = self._free[version].pop() if self._free[version] else await self._start(version)
        try:
            answer = await instance.ask(event, self._timeout)
        except RuntimeError as e:
            answer = {"errorMessage": str(e)}
        if not instance.ended:
            self._free[version].append(instance)
        return answer

    async def _start(self, version: str) -> Instance:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.aws.instance", self._target),
            env={**os.environ, **self._environment(version)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**24,
        )
        self.instances.append(instance := Instance(process))
        return instance

    async def _run(self) -> None:
        while True:
            found = await self._clients.call("lambda", "list_event_source_mappings")
            ours = [each for each in found["EventSourceMappings"] if _of(each, self._function) is not None]
            mapped = {each["UUID"] for each in ours if each["State"] == "Enabled"}
            for uuid in mapped - self._polls.keys():
                self._polls[uuid] = asyncio.create_task(self._poll(uuid))
            for uuid, poll in list(self._polls.items()):
                if poll.done():
                    poll.result()
                    del self._polls[uuid]
            await asyncio.sleep(0.2)

    async def _poll(self, uuid: str) -> None:
        calls = self._calls[uuid]
        while (mapping := await self._mapping(uuid)) is not None:
            if len(calls) >= mapping["ScalingConfig"]["MaximumConcurrency"]:
                await asyncio.wait(calls, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
                continue
            try:
                answer = await self._clients.call(
                    "sqs",
                    "receive_message",
                    QueueUrl=await self._url(mapping),
                    MaxNumberOfMessages=mapping["BatchSize"],
                    MessageAttributeNames=["All"],
                    AttributeNames=["All"],
                )
            except AWSRefused as e:
                if not e.gone:
                    raise
                return  # the queue is deleted: so is the mapping, or will be
            if messages := answer.get("Messages"):
                calls.add(call := asyncio.create_task(self._call(mapping, messages)))
                call.add_done_callback(calls.discard)
            else:
                await asyncio.sleep(0.25)

    async def _mapping(self, uuid: str) -> dict[str, Any] | None:
        """As it is now: what comes into the queue of one that was deleted is not for it."""
        try:
            found: dict[str, Any] = await self._clients.call("lambda", "get_event_source_mapping", UUID=uuid)
        except AWSRefused as e:
            if e.code != "ResourceNotFoundException":
                raise
            return None
        return found if found["State"] == "Enabled" else None

    async def _url(self, mapping: dict[str, Any]) -> str:
        queue = mapping["EventSourceArn"].rpartition(":")[2]
        if queue not in self._urls:
            self._urls[queue] = str((await self._clients.call("sqs", "get_queue_url", QueueName=queue))["QueueUrl"])
        return self._urls[queue]

    async def _call(self, mapping: dict[str, Any], messages: list[dict[str, Any]]) -> None:
        event = {"Records": [record_of(message, mapping["EventSourceArn"]) for message in messages]}
        answer = await self.invoke(_of(mapping, self._function) or "", event)
        if "errorMessage" in answer:
            self.broken += 1
            return
        failed = {each["itemIdentifier"] for each in answer["batchItemFailures"]}
        self.failed += len(failed)
        done = [
            {"Id": str(n), "ReceiptHandle": message["ReceiptHandle"]}
            for n, message in enumerate(messages)
            if message["MessageId"] not in failed
        ]
        if done:
            await self._clients.call("sqs", "delete_message_batch", QueueUrl=await self._url(mapping), Entries=done)


async def a_function(clients: Clients, name: str, *, timeout: int) -> None:
    """A function of that name, with its role. `timeout` in seconds."""
    role = await clients.call("iam", "create_role", RoleName=name, AssumeRolePolicyDocument="{}", Path="/")
    await clients.call(
        "lambda",
        "create_function",
        FunctionName=name,
        Runtime="python3.13",
        Role=role["Role"]["Arn"],
        Handler="app.handler",
        Timeout=timeout,
        Code={"ZipFile": _archive("at first")},
    )


async def a_version(clients: Clients, function: str) -> str:
    """Other code of the function, published."""
    await clients.call("lambda", "update_function_code", FunctionName=function, ZipFile=_archive(token_hex(4)))
    return str((await clients.call("lambda", "publish_version", FunctionName=function))["Version"])


def _archive(text: str) -> bytes:
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("app.py", f"def handler(event, context): ...  # {text}")
    return archive.getvalue()


class _Body(BytesIO):
    async def read(self) -> bytes:  # type: ignore[override]
        return self.getvalue()


def _of(mapping: dict[str, Any], function: str) -> str | None:
    """The function's version in it; None where it is another's."""
    name, _, version = mapping["FunctionArn"].partition(":function:")[2].partition(":")
    return version if name == function else None


def record_of(message: dict[str, Any], queue: str) -> dict[str, Any]:
    """A message of a queue (its ARN) as Lambda hands it to a function."""
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message["Attributes"],
        "messageAttributes": {
            name: {"stringValue": value.get("StringValue"), "dataType": "String"}
            for name, value in message.get("MessageAttributes", {}).items()
        },
        "eventSource": "aws:sqs",
        "eventSourceARN": queue,
    }
