"""What `doctor` says of SQS and DynamoDB (moto), and that it leaves nothing there."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

import eventwagon
from eventwagon.cli.doctor import examine
from eventwagon.contracts.facts import Entry, StopRequested
from eventwagon.contracts.manifest import Manifest
from eventwagon.contracts.registry import Member
from eventwagon.drivers.aws import SQSBroker
from eventwagon.drivers.aws.clients import Clients
from eventwagon.drivers.aws.inspection import OURS, findings_of_expiry, findings_of_queue, findings_of_table
from eventwagon.drivers.aws.place import parse
from eventwagon.drivers.aws.table import Table
from eventwagon.drivers.opening import open_drivers
from eventwagon.event import Channel
from eventwagon.orchestrators.aws.counters import Counters
from tests import doctors
from tests.aws.support import Between, clients_of, events, refused, rows_of
from tests.servers.moto import MotoServer


def standing(url: str) -> object:
    """All queues and all items."""

    async def look() -> object:
        async with Clients(parse(url)) as clients:
            queues = await clients.call("sqs", "list_queues")
            tables = await clients.call("dynamodb", "list_tables")
            items = [await clients.call("dynamodb", "scan", TableName=name) for name in tables["TableNames"]]
            return queues.get("QueueUrls", []), [item for found in items for item in found["Items"]]

    return asyncio.run(look())


@pytest.fixture
def url(moto_server: MotoServer) -> str:
    return f"sqs://eu-west-1/doc{token_hex(3)}?endpoint={moto_server.endpoint}&table=t{token_hex(4)}"


@pytest.mark.slow
def test_it_leaves_no_queue_and_no_item(url: str) -> None:
    """The table that it finds missing stays, and it says so."""
    found = doctors.look(url)
    assert any("was created just now" in finding.what for finding in found["broker"].findings)
    doctors.leaves_nothing(url, lambda: standing(url), doctors.FEW[::4])


def test_a_table_and_queues_as_they_should_be(url: str) -> None:
    found = doctors.findings(url)
    assert (found["BillingMode"].severity, found["MessageRetentionPeriod"].severity) == ("fine", "fine")
    assert found["no deletion protection"].severity == "costs"


def test_settings_that_others_made() -> None:
    def severities(found: Any) -> dict[str, str]:
        return {finding.what: finding.severity for finding in found}

    assert severities(findings_of_table({"Table": {"Replicas": [{}], "DeletionProtectionEnabled": True}})) == {
        "BillingMode=PROVISIONED": "costs",
        "deletion protection": "fine",
        "a global table": "loses",
    }
    on = {"TimeToLiveStatus": "ENABLED", "AttributeName": "published"}
    assert [f.severity for f in findings_of_expiry({"TimeToLiveDescription": on})] == ["loses"]
    assert [f.severity for f in findings_of_expiry({"TimeToLiveDescription": {**on, "AttributeName": "theirs"}})] == [
        "fine"
    ]
    has = {"MessageRetentionPeriod": "60", "RedrivePolicy": "{}", "DelaySeconds": "5", "MaximumMessageSize": "1024"}
    assert set(severities(findings_of_queue({"Attributes": has})).values()) == {"costs"}
    assert [
        f.severity for asked in (findings_of_table, findings_of_expiry, findings_of_queue) for f in asked(None)
    ] == ["unknown"] * 3


def test_an_expiry_by_any_number_that_we_write_is_told(url: str) -> None:
    """DynamoDB takes any number for the time at which an item goes. Those of items that were made by all that writes
    numbers, and those that the code reads."""
    channel, entry = Channel("timed", 1), Entry(0.0, "x", StopRequested(train="timed", because=""))

    async def main() -> set[str]:
        drivers = open_drivers(url)
        broker, registry = drivers
        assert isinstance(broker, SQSBroker)
        async with broker, registry, Clients(parse(url)) as clients:
            rows = rows_of(broker)
            await broker.create(channel)
            await broker.publish(channel, events(2))
            (first, *_) = [key async for key, _ in rows.browse(channel)]
            assert await rows.note(channel, first, 1)
            assert await rows.may_resend(channel, 2e9, 60.0)
            await registry.check_in("timed", Member(name="me"), ttl=60.0)
            await registry.replace("timed", Manifest(train="timed"), expect=0, entries=[entry])
            await registry.append("timed", [entry])
            await Counters(Table(clients), clients.place.prefix).open("timed", 1)
            items = (await clients.call("dynamodb", "scan", TableName=clients.place.table))["Items"]
            return {name for item in items for name, value in item.items() if "N" in value}

    source = "".join(path.read_text() for path in Path(eventwagon.__file__).parent.rglob("*.py"))
    read = set(re.findall(r'\["(\w+)"\]\["N"\]', source))
    written = asyncio.run(main())
    assert {"published", "settled"} <= written & read
    assert written | read == OURS
    for name in written | read:
        on = {"TimeToLiveStatus": "ENABLED", "AttributeName": name}
        assert [f.severity for f in findings_of_expiry({"TimeToLiveDescription": on})] == ["loses"], name


def test_a_missing_right_is_a_line_and_no_failure(url: str) -> None:
    """moto enforces none: the refusal is made up."""

    async def main() -> None:
        drivers = open_drivers(url)

        async def meddle(operation: str, given: dict[str, Any], ask: Any) -> Any:
            if operation == "describe_time_to_live" or given.get("AttributeNames") == ["All"]:
                raise refused("AccessDeniedException")
            return await ask()

        assert isinstance(drivers.broker, SQSBroker)
        Between(clients_of(drivers.broker), meddle)
        found = (await examine(drivers))["broker"]
        assert not [step for step in found.steps if step.problem]
        unknown = {finding.what: finding.todo for finding in found.findings if finding.severity == "unknown"}
        assert unknown == {
            "time to live of the table's items": "allow dynamodb:DescribeTimeToLive",
            "the queues": "allow sqs:GetQueueAttributes",
        }

    asyncio.run(main())
