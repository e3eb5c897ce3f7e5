"""Writes docs/comparison.md from runs of the lab: every strategy on every named burst, the losing rows left in.

python scripts/comparison.py [--processes 2] [--scenario steady]
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from eventwagon.lab.experiment import STRATEGIES, run
from eventwagon.lab.job import Figures, Job, Outcome, figures
from eventwagon.lab.planning import fewest
from eventwagon.lab.queueing import percentile
from eventwagon.lab.scenarios import SCENARIOS, services

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "comparison.md"
_HEAD = """# Wagons, and what you might pick instead

Written by `scripts/comparison.py` from runs of [the lab](lab.md), seed 1. The wagons are the real code in virtual time, the others
are simulated event by event. Times are in seconds; newcomers are the arrivals that one FIFO queue with the fixed crew would serve late.
The elastic wagons' crews are what a clairvoyant would need for 99 % on time, the default of the lab; a further crew, and a further consumer of
the autoscaled queues, works 10 s after it was asked for.

"""
_ISOLATION = """## Isolation

{count:,} events at 50 a second, 0.1 s of work each, a crew of 8, in a calm run and in one in which the first {slow} take ten times as long:
a slow dependency, or poison that is tried again. How long do those wait that come after, p99 in seconds? A wagon takes {slow} events, so
the first holds just the slow ones.
"""
_FOOT = """## What can be learned from it

- **With the same crew the mean wait is the same** in every order (`fifo`, `newest_first`, `sideline`, `wagons`): wagons shorten nobody's wait
  without lengthening another's. (`optimum` has a longer one, since it leaves all that is late to the end, and idles until then.)
- **With the same crew wagons are on time as often as a clairvoyant**, within a hundredth or two, and many times as often as one queue.
- **So is a sideline** whose age is exactly the promise less the work, in a burst like these where every event takes as long. It must be
  known and never change, and what it puts aside has no isolation, no end, no record of its own.
- **A volume limit alone protects nobody**: ten thousand events are a long wait for a small crew. Limit by the wait that you promise, and
  let a volume be the bound: `Wait(2.0) | Volume(10_000)`.
- **An ideal elastic queue beats wagons on every wait**, and nobody has one. Functions come near it where they may be added as fast as the
  burst grows: prefer them where their price, cold starts and the database behind them allow it.
- **Autoscaling a queue comes late**: it looks every half minute, and what it adds first works off what is old. It is paid for long after
  the burst.
- **Trouble stays behind in its wagon**: who comes later notices little of it, where one queue holds everybody up. Without a spare a wagon
  with a crew of its own is filled on past its limit while the next one starts, and then the trouble is everybody's.
- **Elastic wagons, sized for the traffic and with a spare**, keep newcomers' p99 at or below a tenth of the autoscaled queue's (a fifth in
  `iot`) for fewer worker-seconds, as that pays for its consumers long after. The spare is what it costs: a crew that idles all the time. With crews that
  are too small they queue like anything else.

"""


def job_of(name: str) -> Job:
    """The scenario with its usual figures."""
    usual = SCENARIOS[name]
    arrivals = usual.arrivals(usual.events, usual.seconds, 1)
    job = Job(
        title=name, arrivals=arrivals, services=services(usual.service, len(arrivals), seed=1), workers=usual.workers,
        each=usual.workers, slo=usual.slo, limit=f"Wait({usual.slo!r})", wagons=500,
    )  # fmt: skip
    return Job(**{**{f: getattr(job, f) for f in Job.__struct_fields__}, "each": fewest(job, 0.99)})


def section(job: Job, rows: dict[str, Figures]) -> str:
    """A scenario's table."""
    best = rows["optimum"].on_time
    lines = [
        f"## {job.title}\n",
        f"{SCENARIOS[job.title].about}; {job.services[0]:g} s of work each, a fixed crew of {job.workers}, "
        f"{job.each} workers in each elastic wagon, on time within {job.slo:g} s.\n",
        "| strategy | on time | ÷ optimum | newcomers p50 | newcomers p99 | others p99 | mean | worst | worker-seconds | switches | lost |",
        "| --- " * 11 + "|",
    ]
    for name in STRATEGIES:
        row = rows[name]
        cells = [
            f"`{name}`", f"{row.on_time:.1%}", f"{row.on_time / best:.3f}", f"{row.newcomers_p50_s:,.2f}", f"{row.newcomers_p99_s:,.2f}",
            f"{row.old_p99_s:,.2f}", f"{row.mean_s:,.2f}", f"{row.worst_s:,.1f}", f"{row.worker_seconds:,.0f}", f"{row.switches:,}", f"{row.lost}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n"


def isolation(processes: int) -> str:
    """What the first wagon's worth of events, ten times as slow, does to those that come after."""
    count, slow = 12_000, 600
    arrivals = [i / 50 for i in range(count)]
    calm = Job(
        title="isolation", arrivals=arrivals, services=[0.1] * count, workers=8, each=8, slo=2.0,
        limit=f"Volume({slow})", wagons=500,
    )  # fmt: skip
    troubled = Job(
        **{**{f: getattr(calm, f) for f in Job.__struct_fields__}, "services": [1.0] * slow + [0.1] * (count - slow)}
    )
    lines = [
        _ISOLATION.format(count=count, slow=slow),
        "| strategy | p99 of the later, calm | with slow ones before | ratio |",
        "| --- | --- | --- | --- |",
    ]
    names = [name for name in STRATEGIES if name != "optimum"]
    found = [
        {o.strategy: _later(job, o, slow) for o in run(job, names, processes=processes)} for job in (calm, troubled)
    ]
    for name in names:
        before, after = found[0][name], found[1][name]
        lines.append(f"| `{name}` | {before:.2f} | {after:.2f} | {after / before:.1f} |")
    return "\n".join(lines) + "\n\n"


def _later(job: Job, outcome: Outcome, first: int) -> float:
    """The p99 of the waits of all that arrive after the first ones."""
    waits = [done - at for at, done in zip(job.arrivals, outcome.finished, strict=True)]
    return percentile(waits[first:], 0.99)


def main() -> int:
    """Run them, and write."""
    parser = argparse.ArgumentParser(prog="scripts/comparison.py", description="Write docs/comparison.md from the lab.")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--scenario", action="append", choices=[*SCENARIOS, "isolation"], help="only this one, to stdout"
    )
    given = parser.parse_args()
    parts = []
    for name in given.scenario or [*SCENARIOS, "isolation"]:
        print(f"{name} …", file=sys.stderr, flush=True)
        if name == "isolation":
            parts.append(isolation(given.processes))
            continue
        job = job_of(name)
        outcomes = {outcome.strategy: outcome for outcome in run(job, STRATEGIES, processes=given.processes)}
        parts.append(section(job, {name: figures(job, outcome) for name, outcome in outcomes.items()}))
    if given.scenario:
        print("".join(parts))
    else:
        DOCUMENT.write_text(_HEAD + "".join(parts) + _FOOT.rstrip() + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
