"""What a server's settings mean for the events in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...contracts.broker import Finding, told_together
from .client import Client
from .server import Server

_ASKED = ("appendfsync", "save", "min-replicas-to-write")
_NEAR = 0.8
"""The share of the memory from which on the findings say that little is left."""
_WHEN_FULL = "a full server refuses events published to a train, and still stores emitted events, past maxmemory"


async def inspect(client: Client) -> list[Finding]:
    """The findings of each of the client's servers. Those that most servers share are stated once, the others with the
    server's address."""
    infos = await client.each("reading the server's settings", "INFO")
    configs = await client.each("reading the server's settings", "CONFIG", "GET", *_ASKED)
    return told_together(
        {place: list(judge(_facts(info), _pairs(configs.get(place)), client.server)) for place, info in infos.items()}
    )


def judge(info: Mapping[str, str], config: Mapping[str, str] | None, server: Server) -> Iterator[Finding]:
    """The findings of one server. Pure. `info` is the result of INFO, empty if it may not be called; `config` that of
    CONFIG GET, None if it may not be called."""
    if not info:
        yield Finding(
            severity="unknown",
            what="INFO",
            means="this user may not ask for it: version, memory, persistence and replicas can't be seen",
            todo="ACL SETUSER … +info",
        )
        return
    kind = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version") or info.get("redis_version", "?")
    yield Finding(severity="fine", what=f"{kind} {version}", means="Redis 7.0 or later, and Valkey, are supported")
    yield from _memory(info)
    yield from _persistence(info, config)
    yield from _replicas(info, config, server)


def _memory(info: Mapping[str, str]) -> Iterator[Finding]:
    policy, most, used = info.get("maxmemory_policy", ""), _number(info, "maxmemory"), _number(info, "used_memory")
    what = f"maxmemory-policy={policy}"
    to_noeviction = "redis-cli CONFIG SET maxmemory-policy noeviction, and the same in the server's file"
    if policy.startswith("allkeys-"):
        evicted = _number(info, "evicted_keys")
        yield Finding(
            severity="loses" if most or evicted else "costs",
            what=what,
            means=("a full server deletes keys of its choice: events, totals, manifests" if most else "")
            + ("" if most else "without maxmemory nothing is evicted; with it, events will be")
            + (f"; it has evicted {evicted} since it started" if evicted else ""),
            todo=to_noeviction,
        )
    elif policy.startswith("volatile-"):
        means = f"evicts only keys with a time to live; eventwagon's have none; {_WHEN_FULL}"
        yield Finding(severity="fine", what=what, means=means)
    elif policy:
        means = f"keeps what it has; {_WHEN_FULL}"
        yield Finding(severity="fine", what=what, means=means)
    if not most:
        yield Finding(
            severity="costs",
            what="maxmemory=0",
            means="it grows until the system kills it, instead of refusing new events",
            todo="redis-cli CONFIG SET maxmemory 4gb, or half of the machine's memory (snapshots need room)",
        )
    else:
        share = used / most
        yield Finding(
            severity="costs" if share >= _NEAR else "fine",
            what=f"maxmemory={most}",
            means=f"{share:.0%} of it is in use" + (f"; {_WHEN_FULL}" if share >= _NEAR else ""),
            todo="raise maxmemory, or have more workers" if share >= _NEAR else "",
        )


def _persistence(info: Mapping[str, str], config: Mapping[str, str] | None) -> Iterator[Finding]:
    to_append = "redis-cli CONFIG SET appendonly yes, and the same in the server's file"
    if "aof_enabled" not in info:
        yield Finding(severity="unknown", what="persistence", means="can't see whether the server writes to disk")
    elif info["aof_enabled"] == "1":
        yield from _append_only(config)
    elif config is None:
        means = "a crash loses the latest events, or all events unless it saves snapshots (this user may not ask)"
        yield Finding(severity="loses", what="appendonly=no", means=means, todo=to_append)
    elif save := config.get("save", ""):
        means = "a crash loses all events since the last snapshot, and brings back those handled since"
        yield Finding(severity="loses", what=f'appendonly=no, save="{save}"', means=means, todo=to_append)
    else:
        means = "nothing is on disk: a restart loses all events"
        yield Finding(severity="loses", what='appendonly=no, save=""', means=means, todo=to_append)
    failing = [name for name in ("aof_last_write_status", "rdb_last_bgsave_status") if info.get(name) == "err"]
    for name in failing:
        yield Finding(
            severity="costs",
            what=f"{name}=err",
            means="it can't write to its disk, and may refuse all events until it can",
            todo="look at its log, and at the space on its disk",
        )


def _append_only(config: Mapping[str, str] | None) -> Iterator[Finding]:
    how = None if config is None else config.get("appendfsync")
    if how is None:
        means = "can't see how often it writes to disk; a power cut loses the writes since"
        yield Finding(severity="unknown", what="appendfsync", means=means, todo="ACL SETUSER … +config|get")
    elif how == "always":
        yield Finding(severity="fine", what="appendonly=yes, appendfsync=always", means="accepted events are on disk")
    elif how == "everysec":
        yield Finding(
            severity="costs",
            what="appendonly=yes, appendfsync=everysec",
            means="a server that is killed loses nothing; a power cut costs the events of the last second or two",
            todo="appendfsync always, if that is too much: publishing is slower then",
        )
    else:
        yield Finding(
            severity="loses",
            what=f"appendonly=yes, appendfsync={how}",
            means="the system writes about 30 s later: a power cut loses the events accepted until then",
            todo="redis-cli CONFIG SET appendfsync everysec (or always), and the same in the server's file",
        )


def _replicas(info: Mapping[str, str], config: Mapping[str, str] | None, server: Server) -> Iterator[Finding]:
    if info.get("role") == "slave":
        yield Finding(
            severity="costs",
            what="role=replica",
            means="it accepts no writes",
            todo=f"name the primary, {info.get('master_host')}:{info.get('master_port')}, or its Sentinels",
        )
        return
    count, wait = _number(info, "connected_slaves"), server.wait
    if wait > count:
        yield Finding(
            severity="costs",
            what=f"replicas={count}, wait={wait}",
            means="publishing waits for replicas that are not there: no event is confirmed",
            todo=f"attach {wait - count} more, or set wait={count} in the URL",
        )
    elif not count:
        yield Finding(
            severity="costs",
            what="replicas=0",
            means="no other server takes over if this one fails, and the events are lost with its disk",
            todo="attach a replica, with Sentinel or as a cluster, and set wait=1 in the URL",
        )
    elif not wait:
        least = "" if config is None else config.get("min-replicas-to-write", "")
        yield Finding(
            severity="loses",
            what=f"replicas={count}, wait=0" + (f", min-replicas-to-write={least}" if least else ""),
            means="an event counts before a replica has it: a failover loses the last ones",
            todo="set wait=1 in the URL" + ("" if least not in ("", "0") else ", and min-replicas-to-write 1"),
        )
    else:
        means = "an event counts once that many replicas have it (a replica without it may still be elected)"
        yield Finding(severity="fine", what=f"replicas={count}, wait={wait}", means=means)


def _number(info: Mapping[str, str], name: str) -> int:
    text = info.get(name, "")
    return int(text) if text.isdecimal() else 0


def _facts(answer: Any) -> dict[str, str]:
    if not isinstance(answer, bytes):
        return {}
    lines = answer.decode("utf-8", "replace").splitlines()
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}


def _pairs(answer: Any) -> dict[str, str] | None:
    """The result of CONFIG GET; None if it was refused, or the server has no such command."""
    if not isinstance(answer, Sequence) or isinstance(answer, bytes):
        return None
    texts = [part.decode("utf-8", "replace") for part in answer]
    return dict(zip(texts[::2], texts[1::2], strict=False))
