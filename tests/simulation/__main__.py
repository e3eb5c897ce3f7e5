"""Many seeds, or one with its story: `python -m tests.simulation --seeds 2000`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import islice
from typing import NamedTuple

from eventwagon.contracts.facts import Switched

from .checker import check
from .history import Accepted, Revised
from .mutants import ALL, UNFENCED
from .run import simulate
from .scenario import draw
from .shrink import shrink
from .story import story

_OF_COMMIT = "commit"
_TOLD = 3
"""Failing seeds that are shrunk and told; the others are only named."""


class Outcome(NamedTuple):
    """What came of one seed."""

    seed: int
    faults: Counter[str]
    switches: int
    events: int
    seconds: float
    violations: list[str]


def fences(seed: int) -> bool:
    """Whether the seed's broker refuses writes to sealed channels. Each third one does not: there it is the lease
    fence."""
    return seed % 3 != 2


def first_of(commit: str) -> int:
    """The first of the ten thousand seeds that are this commit's own; `commit` is its hash, or empty: 0 then."""
    return int(commit[:7], 16) * 10_000 if commit else 0


def _commit() -> str:
    """The hash of the commit that is checked out here, whatever has been changed since; empty outside a repository."""
    try:
        said = subprocess.run(["git", "rev-parse", "--verify", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return said.stdout.strip()


def _first(given: str) -> int:
    """See `--first-seed`."""
    return int(given) if given != _OF_COMMIT else first_of(_commit())


def try_seed(seed: int, *, mutant: str = "") -> Outcome:
    """Run one seed and judge it."""
    with _mutated(mutant):
        run = simulate(draw(seed, fences=_fences(seed, mutant)))
    switches = sum(isinstance(f, Switched) for r in run.history.of(Revised) for f in r.facts)
    events = len(run.history.of(Accepted))
    return Outcome(seed, run.faults, switches, events, run.seconds, [str(v) for v in check(run)])


def tell(seed: int, *, mutant: str = "", tries: int = 300) -> str:
    """One seed as a story; where it fails, that of the smallest scenario that `tries` runs find to fail alike."""
    with _mutated(mutant):
        scenario = draw(seed, fences=_fences(seed, mutant))
        run = simulate(scenario)
        broken = {v.invariant for v in check(run)}
        if broken and tries:
            scenario = shrink(scenario, lambda s: bool(broken & {v.invariant for v in check(simulate(s))}), tries=tries)
            run = simulate(scenario)
        return story(scenario, run.history, check(run))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 1 when an invariant was violated."""
    given = _parser().parse_args(arguments)
    if given.seed is not None:
        print(tell(given.seed, mutant=given.mutant, tries=given.tries))
        return 1 if try_seed(given.seed, mutant=given.mutant).violations else 0
    print(
        f"seeds {given.first_seed} to {given.first_seed + given.seeds - 1}: --first-seed {given.first_seed}", flush=True
    )
    start = time.monotonic()
    faults: Counter[str] = Counter()
    switches = events = done = 0
    virtual = 0.0
    failing: list[int] = []
    for result in _run_all(given):
        done += 1
        faults += result.faults
        switches += result.switches
        events += result.events
        virtual += result.seconds
        if result.violations:
            failing.append(result.seed)
            print(f"seed {result.seed}: {result.violations[0]}", flush=True)
        if done % 200 == 0:
            print(f"{done} of {given.seeds} seeds, {time.monotonic() - start:.0f} s, {len(failing)} failed", flush=True)
    print(f"{done:,} seeds in {time.monotonic() - start:.0f} s, {virtual / 3600:.1f} hours of virtual time")
    print(f"{events:,} events accepted, {switches:,} switches")
    print(f"{faults.total():,} faults injected: {', '.join(f'{n:,} {kind}' for kind, n in faults.most_common())}")
    for seed in failing[:_TOLD]:
        print(f"\n{tell(seed, mutant=given.mutant, tries=given.tries)}\nrepeat: --seed {seed}")
    print(f"{done - len(failing)} passed, {len(failing)} failed")
    return 1 if failing else 0


def _run_all(given: argparse.Namespace) -> Iterator[Outcome]:
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    one = partial(try_seed, mutant=given.mutant)
    if given.jobs == 1:
        yield from map(one, seeds)
        return
    with ProcessPoolExecutor(given.jobs) as pool:
        for part in _parts(seeds, 50 * given.jobs):  # in parts, so that what is printed is not far from what is done
            yield from pool.map(one, part, chunksize=5)


def _fences(seed: int, mutant: str) -> bool:
    return fences(seed) if not mutant else mutant not in UNFENCED


def _parts(seeds: Iterable[int], size: int) -> Iterator[list[int]]:
    rest = iter(seeds)
    while part := list(islice(rest, size)):
        yield part


def _mutated(name: str) -> AbstractContextManager[None]:
    return ALL[name]() if name else nullcontext()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000, help="how many (default: 2000)")
    parser.add_argument(
        "--first-seed",
        type=_first,
        default=0,
        help=f"a number, or {_OF_COMMIT}: seeds of the commit's own that is checked out here, 0 where none is "
        "(default: 0)",
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--seed", type=int, help="only this one, with its story; shrunk when it fails")
    parser.add_argument("--tries", type=int, default=300, help="runs that shrinking may take; 0: none (default: 300)")
    parser.add_argument("--mutant", default="", choices=["", *ALL], help="with this deliberate break")
    return parser


if __name__ == "__main__":
    sys.exit(main())
