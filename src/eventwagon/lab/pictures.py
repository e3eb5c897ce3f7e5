"""Writes the pictures of an experiment: an HTML page, or a PNG (which needs matplotlib, the extra `lab`)."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .job import Figures, Job, Outcome
from .page import page
from .series import AROUND, COLOURS, DASHED, SHOWN, Bins, Waits, bins_of, end_of, end_of_wagons, on_time, waits, workers

_INK, _DIM = "#1f2933", "#66727f"
_PAGE = (".html", ".htm")


def draw(job: Job, outcomes: Mapping[str, Outcome]) -> bytes:
    """A PNG of the strategies that the page shows at first: the share on time and the workers over time, the waits, the
    wagons. Raises UsageError."""
    plt = _pyplot()
    shown = {name: outcome for name, outcome in outcomes.items() if name in SHOWN} or dict(list(outcomes.items())[:5])
    wagons = [outcome for outcome in shown.values() if outcome.bars]
    bins, end = bins_of(job), end_of(job, shown)
    rows = ["arrivals", "on time", "workers", *shown, *(f"lives of {o.strategy}" for o in wagons)]
    heights = [0.8, 1.8, 1.5, *([1.0] * len(shown)), *([1.0] * len(wagons))]
    figure, axes = plt.subplots(
        len(rows), 1, figsize=(10, 1.55 * sum(heights)), constrained_layout=True, height_ratios=heights
    )
    of = dict(zip(rows, axes, strict=True))
    _arrivals(of["arrivals"], job, bins)
    _on_time(of["on time"], job, shown, bins)
    _workers(of["workers"], shown, end)
    bands = {name: waits(job, outcome, bins) for name, outcome in shown.items()}
    longest = max((wait.p99 for some in bands.values() for wait in some if wait and math.isfinite(wait.p99)), default=0)
    for name, some in bands.items():
        _waits(of[name], job, name, some, bins)
        of[name].set_ylim(0, 1.1 * max(longest, job.slo))
    for outcome in wagons:
        _lives(of[f"lives of {outcome.strategy}"], outcome, end_of_wagons(job, shown))
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.title.set_fontsize(10)
        axis.title.set_color(_INK)
        axis.tick_params(labelsize=8, colors=_DIM)
    out = io.BytesIO()
    figure.savefig(out, dpi=110)
    plt.close(figure)
    return out.getvalue()


def check(to: Path) -> None:
    """Whether a picture can be written there, before the work is done. Raises UsageError."""
    if to.suffix not in (".png", *_PAGE):
        raise UsageError(f"{to}: a picture is .png or .html")
    if not to.parent.is_dir():
        raise UsageError(f"{to} can't be written: there is no directory {to.parent}")
    if to.suffix not in _PAGE:
        _pyplot()


def write(job: Job, outcomes: Mapping[str, Outcome], rows: Mapping[str, Figures], to: Path) -> None:
    """Write the page or the picture, according to the suffix of the path. Raises UsageError."""
    check(to)
    try:
        if to.suffix == ".png":
            to.write_bytes(draw(job, outcomes))
        else:
            to.write_text(page(job, outcomes, rows), encoding="utf-8")
    except OSError as e:
        raise UsageError(f"{to} can't be written: {e.strerror or e}") from None


def _pyplot() -> Any:
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        raise UsageError(
            "a PNG needs matplotlib, which is not installed: pip install 'eventwagon[lab]', or write FILE.html"
        ) from None
    mpl.use("agg")
    import matplotlib.pyplot as plt

    return plt


def _arrivals(axis: Any, job: Job, bins: Bins) -> None:
    rates = [len(some) / bins.width for some in bins.arrivals]
    axis.stairs(rates, [i * bins.width for i in range(len(rates) + 1)], fill=True, color="#cfd6de")
    capacity = job.workers / (sum(job.services) / len(job.services)) if sum(job.services) else math.inf
    title = f"{job.title}: arrivals per second"
    if math.isfinite(capacity):
        axis.axhline(capacity, color=_DIM, linewidth=1, linestyle=":")
        title += f"; dotted: what the {job.workers} fixed workers can do, {capacity:,.0f} a second"
    axis.set(title=title, xlim=(0, max(job.arrivals[-1], 1e-3)))


def _on_time(axis: Any, job: Job, outcomes: Mapping[str, Outcome], bins: Bins) -> None:
    span = "second" if bins.width == 1 else f"{bins.width:g} s"
    for name, outcome in outcomes.items():
        shares = [math.nan if share is None else share * 100 for share in on_time(job, outcome, bins)]
        axis.plot([bins.middle(i) for i in range(len(shares))], shares, label=name, **_style(name))
    axis.set(
        title=f"Percent on time (within {job.slo:g} s), by {span} of arrival, of the events of "
        f"{(1 + 2 * AROUND) * bins.width:g} s around it",
        xlim=(0, max(job.arrivals[-1], 1e-3)),
        ylim=(-2, 102),
    )
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=5, frameon=False, fontsize=8)


def _workers(axis: Any, outcomes: Mapping[str, Outcome], end: float) -> None:
    for name, outcome in outcomes.items():
        steps = workers(outcome, end)
        moments = [at for at, _ in steps] + [end]
        counts = [count for _, count in steps]
        axis.step(moments, [*counts, counts[-1]], where="post", **_style(name))
    axis.set(title="Workers that are paid for", xlim=(0, end))
    axis.set_ylim(bottom=0)


def _waits(axis: Any, job: Job, name: str, found: Sequence[Waits | None], bins: Bins) -> None:
    bands = [wait or Waits(*[math.nan] * 4) for wait in found]
    moments = [bins.middle(i) for i in range(len(bands))]
    p10, p50, p90, p99 = zip(*bands, strict=True)
    colour = COLOURS[name]
    axis.fill_between(moments, p10, p99, color=colour, alpha=0.18, linewidth=0)
    axis.fill_between(moments, p10, p90, color=colour, alpha=0.28, linewidth=0)
    axis.plot(moments, p50, color=colour, linewidth=1.6)
    axis.axhline(job.slo, color=_DIM, linewidth=1, linestyle=":")
    axis.set(
        title=f"{name}: seconds waited, by time of arrival; median, 10th to 90th and 99th percentile",
        xlim=(0, max(job.arrivals[-1], 1e-3)),
    )
    axis.set_yscale("symlog", linthresh=max(0.1, job.slo))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")


def _lives(axis: Any, outcome: Outcome, end: float) -> None:
    colour = COLOURS[outcome.strategy]
    for bar in outcome.bars:
        axis.barh(bar.number, max(0.0, bar.active - bar.opened), left=bar.opened, color=colour, height=0.2, alpha=0.35)
        axis.barh(bar.number, max(0.0, bar.closed - bar.active), left=bar.active, color=colour, height=0.8)
        axis.barh(bar.number, max(0.0, bar.drained - bar.closed), left=bar.closed, color=colour, height=0.8, alpha=0.35)
    axis.invert_yaxis()
    axis.yaxis.get_major_locator().set_params(integer=True)
    axis.set(
        title=f"{outcome.strategy}: wagons; thin: ready, dark: taking new events, light: draining",
        ylabel="wagon",
        xlim=(0, end),
    )


def _style(name: str) -> dict[str, Any]:
    return {
        "color": COLOURS[name],
        "linewidth": 2.2 if name.startswith("wagons") else 1.3,
        "linestyle": "--" if name in DASHED else "-",
    }


def sequence(outcomes: Sequence[Outcome], order: Sequence[str]) -> dict[str, Outcome]:
    """The outcomes by name, in the table's order."""
    found = {outcome.strategy: outcome for outcome in outcomes}
    return {name: found[name] for name in order if name in found}
