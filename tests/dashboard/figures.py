"""Made-up figures as the dashboard's server sends them, for states that a real train reaches only in hours."""

from __future__ import annotations

import time
from typing import Any

Figures = dict[str, Any]

NASTY = '<img src=x onerror="document.title=1"><script>document.title=2</script>"\'&amp; \u202egnirts'
"""Markup, quotes and a right-to-left mark, for every place where a text from outside is shown."""


def wagon(number: int, state: str, now: float, **changes: Any) -> Figures:
    opened = now - 60 - 40 * (number % 7)
    cut = None if state in ("provisioning", "ready", "active") else now - 30
    known: Figures = {
        "number": number,
        "name": f"orders_v{number}",
        "state": state,
        "published": 10_000 if cut else 4_200,
        "limit": 10_000,
        "fills": [{"limit": "Volume(10000)", "pressure": 0.42, "why": "4,200 of 10,000 events"}]
        if state == "active"
        else [],
        "waiting": 5_200 if state in ("active", "draining") else 0,
        "in_flight": 16,
        "settled": 4_784,
        "inside": 8,
        "dead": 0,
        "lost": 0,
        "workers": 8,
        "wanted": None,
        "in_hand": 8,
        "revision": "a1b2c3",
        "asleep": False,
        "pause": None,
        "age": now - opened,
        "reason": "takes the new events" if state == "active" else "cut off: 10,000 of 10,000 events",
        "rate": 120.0,
        "oldest_age": 52.0,
        "drain_left": 41.0 if state == "draining" else None,
        "opened_at": opened,
        "ready_at": opened + 1,
        "active_at": None if state in ("provisioning", "ready") else opened + 10,
        "closed_at": cut,
        "sealed_at": cut,
        "drained_at": None,
        "opened_because": "the next wagon is needed at 50% of the limit",
        "closed_because": "10,000 of 10,000 events" if cut else "",
    }
    return known | changes


def card(name: str, level: str = "ok", **changes: Any) -> Figures:
    words = {"ok": "on time", "warn": "paused", "bad": "late", "unknown": "can't read"}
    known: Figures = {
        "train": name,
        "verdict": {
            "level": level,
            "word": words[level],
            "sentence": "New events wait 0.4 s; 2 s are promised. The oldest event waits 52 s.",
            "since": time.time() - 754,
        },
        "trouble": None,
        "waits": {"new": {"expected": 0.4, "oldest": 0.3}, "backlog": {"expected": 41.0, "oldest": 52.0}},
        "promise": 2.0,
        "oldest_age": 52.0,
        "waiting": 8_200,
        "in_flight": 96,
        "inside": 12,
        "dead": 4,
        "arrivals": 812.0,
        "settled": 640.5,
        "active": 15,
        "states": {"active": 1, "draining": 2},
        "processes": 3,
        "paused": False,
        "removing": False,
    }
    return known | changes


def train(now: float, **changes: Any) -> Figures:
    wagons = [
        wagon(12, "draining", now),
        wagon(13, "draining", now, drain_left=85.0),
        wagon(15, "active", now),
        wagon(16, "ready", now),
    ]
    known = card("orders") | {
        "at": now,
        "version": 481,
        "url": "redis://redis:6379/0",
        "revision": "a1b2c3",
        "channels": ["price", "ship"],
        "declared": {"limit": "Volume(10000) | Wait(2.0)", "workers": "Workers(each=8)", "wagons": 32},
        "limit": "Volume(10000) | Wait(2.0)",
        "workers_text": "Workers(each=8)",
        "cap": 32,
        "head": "3 processes (1 observing, 2 working), 4 dead letters",
        "notes": [],
        "wagons": wagons,
        "refusal": {
            "at": now - 9,
            "kind": "switch",
            "number": 15,
            "pressure": 1.02,
            "figures": "10,200 of 10,000 events",
            "because": "the next wagon orders_v16 is not ready: it waits for 2 of 8 workers",
            "lasted": 9.0,
            "sentence": "no switch from orders_v15 at pressure 1.02",
            "current": True,
        },
        "asked": "",
        "watched": "",
        "refusing": "",
        "at_risk": "",
        "removal": "",
        "stepped_back": "",
        "pause": None,
        "open": {},
        "at_budget": {},
        "crashed": [],
        "threatened": [],
        "budgets": [{"name": "licence", "of": 10.0, "held": 10.0, "wants": 31.0, "processes": 3}],
        "schedules": [
            {"name": "nightly", "when": "0 2 * * *", "channel": "", "last": None, "next": now + 4000, "missed": None}
        ],
        "replays": ["replay 19 of orders_v9: 3,200 of 10,000 published to orders_v20 (by anna: prices were wrong)"],
        "later": {"count": 42, "next_at": now + 12},
        "dead_lost": 0,
        "members": [
            {
                "name": f"host-{n}-a{n}",
                "roles": ["work"] if n else ["observe"],
                "version": 481,
                "revision": "a1b2c3",
                "workers": 8,
                "in_hand": 6,
                "held": 0,
                "caught": 0,
                "trouble": "",
            }
            for n in range(3)
        ],
        "point": None,
    }
    return known | changes


def point(at: float, i: int) -> list[float]:
    """One row of the history."""
    return [at, 500 + i % 300, 480 + i % 200, 0.2 + i % 10 / 10, 20 + i % 50, 52.0, 5_000 + i % 1000, 96]


def history(now: float, rows: int = 1_800) -> Figures:
    return {
        "columns": ["at", "arrivals", "settled", "wait_new", "wait_backlog", "oldest", "waiting", "in_flight"],
        "hour": {"step": 2, "rows": [point(now - 2 * (rows - i), i) for i in range(rows)]},
        "day": {"step": 60, "rows": [point(now - 60 * (1_440 - i), i) for i in range(1_440)]},
    }


def past(number: int, now: float, each: float = 80.0) -> Figures:
    """A removed wagon: number 1 is the oldest of 1,000."""
    opened = now - (1_002 - number) * each
    return {
        "number": number,
        "name": f"orders_v{number}",
        "state": "removed",
        "revision": "a1b2c2",
        "opened_at": opened,
        "active_at": opened + 10,
        "closed_at": opened + each,
        "sealed_at": opened + each,
        "drained_at": opened + 2 * each,
        "removed_at": opened + 2 * each + 1,
        "published": 10_000,
        "settled": 10_000,
        "dead": 0,
        "lost": 0,
        "opened_because": "needed",
        "closed_because": "10,000 of 10,000 events",
        "reason": "cut off: 10,000 of 10,000 events",
    }


def row(at: float, text: str, **changes: Any) -> Figures:
    """One entry of the journal."""
    known: Figures = {"at": at, "process": "host-0-a0", "who": "", "kind": "Switched", "level": "info", "wagons": [12]}
    return known | {"text": text} | changes


def session(**changes: Any) -> Figures:
    known = {"version": "0.1.0", "login": "done", "can_act": True, "payloads": False, "every": 60.0, "at": time.time()}
    return known | changes  # `every`: made-up figures come when a test tells them, and none is late
