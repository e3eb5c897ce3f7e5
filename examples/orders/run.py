"""A payment provider that fails, and a release with wrong prices:
python examples/orders/run.py --url redis://127.0.0.1:6379/0"""

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.orders.app import PRICES, Order
from examples.processes import ROOT, Broken, Processes, arguments, free_port, nobody_else, run, table

from eventwagon import Connection, DeliveryPaused, Switched, Train

TARGET = "examples.orders.app:orders"
ITEMS = tuple(PRICES)
orders = Train("orders")  # as in a web shop: it only publishes, and follows what the workers have declared

Release = Callable[[str], Awaitable[None]]


@dataclass
class Shop:
    """The shop's database, the payment provider, and what was ordered."""

    url: str
    database: Path
    provider: httpx.AsyncClient
    placed: list[Order] = field(default_factory=list)
    stock: int = 0
    """All items, when the shop opened."""

    def ask(self, query: str) -> list[tuple[int, ...]]:
        with closing(sqlite3.connect(self.database)) as db:
            return db.execute(query).fetchall()

    def shipped(self) -> int:
        return self.ask("SELECT count(*) FROM shipments")[0][0]

    async def place(self, train: Connection, count: int, seconds: float = 0.0) -> None:
        """Customers place orders, one or two of each item in turn; evenly, if `seconds` are given."""
        first = len(self.placed)
        new = [Order(f"A{n}", ITEMS[n % len(ITEMS)], 1 + n % 2) for n in range(first, first + count)]
        for order in new:
            await asyncio.sleep(seconds / count)
            await train.publish(order, event_type="order.placed", subject=order.number, id=order.number)
        self.placed += new

    async def totals(self) -> dict[str, int]:
        found: dict[str, int] = (await self.provider.get("/totals")).json()
        return found

    async def operator(self, *words: str) -> None:
        """What a person does, in a terminal. Raises Broken if it fails."""
        print("$ eventwagon", " ".join(f"'{word}'" if " " in word else word for word in words), flush=True)
        command = [sys.executable, "-m", "eventwagon", *words, "--url", self.url]
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        print("\n".join(f"  {line}" for line in output.decode().splitlines()), flush=True)
        if process.returncode != 0:
            raise Broken(f"`eventwagon {words[0]}` ended with exit code {process.returncode}")


async def main(url: str, events: int) -> None:
    part = max(30, events // 5)
    async with Processes() as processes:
        port = free_port()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as provider:
            shop = Shop(url, processes.folder / "orders.db", provider)
            await processes.start("provider", "-m", "examples.orders.provider", "--port", str(port))
            await processes.until("the provider answers", lambda: answers(provider))
            environment = {
                "EVENTWAGON_URL": url,
                "ORDERS_DATABASE": str(shop.database),
                "ORDERS_ARCHIVE": (processes.folder / "archive").as_uri(),
                "PAYMENT_PROVIDER": str(provider.base_url),
            }

            async def release(revision: str) -> None:
                """Start a process with this release; returns when it works. One that runs is killed before."""
                if revision in started:
                    await processes.kill(revision)
                started.add(revision)
                more = {**environment, "EVENTWAGON_REVISION": revision}
                known = {member.name for member in await train.members()}
                await processes.start(revision, "-m", "eventwagon", "run", TARGET, environment=more)

                async def works() -> bool:
                    return any(m.revision == revision and m.name not in known for m in await train.members())

                await processes.until(f"a process runs {revision}", works)

            started: set[str] = set()
            async with fresh(url) as train:
                await release("v1")
                await outage(shop, train, processes, part, release)
                bad = await bad_release(shop, train, processes, part, release)
                await reckon(shop, bad)


async def outage(shop: Shop, train: Connection, processes: Processes, part: int, release: Release) -> None:
    """The provider fails: the wagon that meets it is paused by rule. New orders go on in the next one."""
    ((shop.stock,),) = shop.ask("SELECT sum(left) FROM stock")
    say("the shop is open", f"{part} orders are placed")
    await shop.place(train, part, seconds=max(3.0, part / 20))
    await processes.until("they are shipped", lambda: shipped_all(shop))

    await shop.provider.put("/down")
    say("the payment provider is down", f"{part} orders are placed")
    await shop.place(train, part)
    pauses: list[DeliveryPaused] = []

    async def is_paused() -> bool:
        pauses[:] = [entry.fact async for entry in train.journal() if isinstance(entry.fact, DeliveryPaused)]
        return bool(pauses)

    await processes.until("the rule pauses the wagon", is_paused)
    number, refused = pauses[0].number, (await shop.totals())["refused"]
    if number is None or not pauses[0].by_rule:
        raise Broken("the train was paused, and not its failing wagon by the rule")
    wagon = f"orders_v{number}"
    say(f"{wagon} is paused by rule", pauses[0].because)
    print(f"  the provider refused {refused} payments; {len(shop.placed) - shop.shipped()} orders wait, none is lost")

    await shop.operator("switch", "orders", "--reason", "the provider is down")
    await shop.provider.put("/up")
    before, waiting = shop.shipped(), len(shop.placed) - shop.shipped()
    say("the provider is back", f"{part} orders are placed, which go to the next wagon")
    await shop.place(train, part)

    async def new_are_shipped() -> bool:
        return shop.shipped() >= before + part

    await processes.until("the new orders are shipped", new_are_shipped)
    if (left := len(shop.placed) - shop.shipped()) != waiting:
        raise Broken(f"{wagon} is paused, and {waiting - left} of its orders were handled")
    print(f"  {part} shipped, while {waiting} wait in {wagon}")
    await shop.operator("resume", "orders", "--wagon", wagon, "--reason", "the provider is back")
    await release("v1")
    print("  the process that handles them is killed with SIGKILL, and another one started")
    await processes.until("all orders are shipped", lambda: shipped_all(shop))
    print(f"  {shop.shipped()} of {len(shop.placed)} orders are paid and shipped")


async def bad_release(shop: Shop, train: Connection, processes: Processes, part: int, release: Release) -> set[int]:
    """Release v2 charges a hundred times the price. All that it handled is taken back and handled again, by v3. Returns
    the wagons of v2."""
    await release("v2")
    await shop.operator("switch", "orders", "--revision", "v2", "--reason", "release v2")
    say("release v2 takes cents for euros", f"{part} orders are placed")
    await shop.place(train, part)
    await processes.until("they are shipped", lambda: shipped_all(shop))
    print(f"  {euros((await shop.totals())['charged'])} charged, {euros(sum(map(due, shop.placed)))} were due")

    await release("v3")
    await shop.operator("switch", "orders", "--revision", "v3", "--reason", "right prices again")
    bad = {
        entry.fact.new
        async for entry in train.journal()
        if isinstance(entry.fact, Switched) and entry.fact.revision == "v2"
    }
    for number in sorted(bad):
        await train.wait_drained(number)
        wagon = f"orders_v{number}"
        await shop.operator("undo", "orders", wagon, "--reason", "v2 took cents for euros", "--yes")
        for undo in train.undo.standing:
            if why := await train.undo.wait(undo.number):
                raise Broken(f"the undo of {wagon} has stopped: {why}")
        totals = await shop.totals()
        print(f"  {totals['refunds']} payments refunded, {euros(totals['refunded'])}; {shop.shipped()} orders shipped")
        await shop.operator("replay", "orders", wagon, "--outcome", "handled", "--revision", "v3")
    say("v3 handles the orders of v2 once more", f"{part} new orders are placed")
    await shop.place(train, part)
    await processes.until("all orders are shipped", lambda: shipped_all(shop))
    return bad


async def reckon(shop: Shop, bad: set[int]) -> None:
    """Print what came of it. Raises Broken if money or stock do not add up."""
    totals, orders_due = await shop.totals(), sum(map(due, shop.placed))
    ((sold, shipped),) = shop.ask("SELECT sum(cents), sum(quantity) FROM shipments")
    ((in_stock,),) = shop.ask("SELECT sum(left) FROM stock")
    rows: list[tuple[str, object]] = [
        ("orders placed, shipped", f"{len(shop.placed)}, {shop.shipped()}"),
        ("payments", f"{euros(totals['charged'])} in {totals['charges']}"),
        ("refunds", f"{euros(totals['refunded'])} in {totals['refunds']}, all of v2"),
        ("payments - refunds", euros(totals["charged"] - totals["refunded"])),
        ("shipped orders, as charged", euros(sold)),
        ("all orders, by their prices", euros(orders_due)),
        ("stock", f"{shop.stock:,} items at the start - {shipped} shipped = {in_stock:,} left"),
        ("undone and replayed", ", ".join(f"orders_v{number}" for number in sorted(bad))),
    ]
    print(table("The books", rows), flush=True)
    if not totals["charged"] - totals["refunded"] == sold == orders_due:
        raise Broken("the payments without the refunds are not what the shipped orders cost")
    if shop.stock - shipped != in_stock or shop.shipped() != len(shop.placed):
        raise Broken("stock is not what was there without what was shipped, or an order was not shipped")


def due(order: Order) -> int:
    return PRICES[order.item] * order.quantity


async def shipped_all(shop: Shop) -> bool:
    return shop.shipped() == len(shop.placed)


def say(what: str, more: str) -> None:
    print(f"\n{what}: {more}", flush=True)


def euros(cents: int) -> str:
    return f"EUR {cents / 100:,.2f}"


@asynccontextmanager
async def fresh(url: str) -> AsyncIterator[Connection]:
    """The train, without what an earlier run has left of it. Raises Broken while processes run it."""
    async with orders.connect(url, listeners=()) as train:
        await nobody_else(train)
        await train.remove("a new run of the example", force=True)
    async with orders.connect(url, listeners=()) as train:
        yield train


async def answers(provider: httpx.AsyncClient) -> bool:
    try:
        return (await provider.get("/totals")).status_code == 200
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    given = arguments(__doc__, events=500, what="how many orders are placed").parse_args()
    sys.exit(run(main(given.url, given.events)))
