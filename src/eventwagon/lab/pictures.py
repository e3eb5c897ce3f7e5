"""The pictures of an experiment: a PNG, or an HTML page that contains it and needs no other file. Needs matplotlib
(extra `lab`)."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .job import Figures, Job, Outcome
from .queueing import percentile

_COLOURS = {
    "fifo": "#8d99ae",
    "fifo_standing": "#b9c0cb",
    "keda": "#c8553d",
    "keda_kafka": "#e39774",
    "feed_forward": "#7a4fa3",
    "clairvoyant_scaler": "#2a9d5c",
    "ideal_elastic_fifo": "#5c6b73",
    "serverless": "#9c6644",
    "newest_first": "#b5838d",
    "sideline": "#6d6875",
    "wagons": "#2a9d8f",
    "wagons_no_spare": "#70c1b3",
    "wagons_each": "#457b9d",
    "wagons_each_no_spare": "#a8c5da",
    "wagons_elastic": "#1d4ed8",
    "wagons_elastic_no_spare": "#7c9cf0",
    "optimum": "#e9c46a",
}
_BINS = 120


def draw(job: Job, outcomes: Mapping[str, Outcome]) -> bytes:
    """Draw arrivals and waits over time, each wagon's life, and waits by percentile. Returns a PNG. Raises UsageError
    without matplotlib."""
    plt = _pyplot()
    wagons = [o for o in outcomes.values() if o.bars]
    figure, axes = plt.subplots(
        3 + len(wagons),
        1,
        figsize=(11, 10 + 3 * len(wagons)),
        constrained_layout=True,
        height_ratios=[1, 2, *([1.6] * len(wagons)), 2],
    )
    arrivals, waits, *lives, percentiles = axes
    _arrivals(arrivals, job)
    _waits(waits, job, outcomes)
    for axis, outcome in zip(lives, wagons, strict=True):
        _lives(axis, job, outcome)
    _percentiles(percentiles, job, outcomes)
    out = io.BytesIO()
    figure.savefig(out, dpi=110)
    plt.close(figure)
    return out.getvalue()


def page(job: Job, outcomes: Mapping[str, Outcome], rows: Mapping[str, Figures]) -> str:
    """One HTML page with the table and the picture. Raises UsageError without matplotlib."""
    picture = base64.b64encode(draw(job, outcomes)).decode()
    names = list(Figures.__struct_fields__)
    head = "".join(f"<th>{html.escape(name.removesuffix('_s').replace('_', ' '))}</th>" for name in names)
    body = "".join(
        f"<tr><th>{html.escape(name)}</th>"
        + "".join(f"<td>{_cell(field, getattr(row, field))}</td>" for field in names)
        + f"</tr><tr class='note'><td></td><td colspan={len(names)}>{html.escape(outcomes[name].note)}</td></tr>"
        for name, row in rows.items()
    )
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{html.escape(job.title)}: eventwagon lab</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #22303c }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px }}
th, td {{ padding: .25rem .5rem; text-align: right; white-space: nowrap }}
tr th:first-child {{ text-align: left }}
thead th {{ border-bottom: 2px solid #22303c; font-weight: 600 }}
tr.note td {{ color: #6b7785; text-align: left; white-space: normal; padding-top: 0; border-bottom: 1px solid #e3e7eb }}
img {{ max-width: 100%; margin-top: 1.5rem }}
.scroll {{ overflow-x: auto }}
</style>
<h1>{html.escape(job.title)}</h1>
<p>{len(job.arrivals):,} arrivals in {job.arrivals[-1]:,.0f} s; work {_work(job)}; {job.workers} fixed workers;
on time within {job.slo:g} s. Times in seconds. Newcomers: the arrivals that one FIFO queue
with the fixed workers would serve late.</p>
<div class="scroll"><table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>
<img alt="Arrivals, waits over time, the wagons' lives, waits by percentile" src="data:image/png;base64,{picture}">
</html>
"""


def check(to: Path) -> None:
    """Check that a picture can be written to this path, before any work is done. Raises UsageError."""
    if to.suffix not in (".png", ".html", ".htm"):
        raise UsageError(f"{to}: a picture is .png or .html")
    if not to.parent.is_dir():
        raise UsageError(f"{to} can't be written: there is no directory {to.parent}")
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
        raise UsageError("pictures need matplotlib, which is not installed: pip install 'eventwagon[lab]'") from None
    mpl.use("agg")
    import matplotlib.pyplot as plt

    return plt


def _arrivals(axis: Any, job: Job) -> None:
    axis.hist(
        job.arrivals, bins=_BINS, color="#22303c", weights=[_BINS / max(1e-9, job.arrivals[-1])] * len(job.arrivals)
    )
    capacity = job.workers / (sum(job.services) / len(job.services)) if sum(job.services) else math.inf
    if math.isfinite(capacity):
        axis.axhline(capacity, color="#c8553d", linewidth=1)
    axis.set(
        title=f"{job.title}: arrivals per second; the line is what the fixed workers can do, {capacity:,.0f}/s",
        xlim=(0, job.arrivals[-1]),
    )
    _plain(axis)


def _waits(axis: Any, job: Job, outcomes: Mapping[str, Outcome]) -> None:
    width = job.arrivals[-1] / _BINS or 1.0
    for name, outcome in outcomes.items():
        bins: dict[int, list[float]] = {}
        for at, done in zip(job.arrivals, outcome.finished, strict=True):
            bins.setdefault(int(at / width), []).append(done - at)
        points = sorted(bins)
        axis.plot(
            [(b + 0.5) * width for b in points], [percentile(bins[b], 0.5) for b in points], label=name, **_style(name)
        )
    axis.axhline(job.slo, color="#22303c", linewidth=1, linestyle=":")
    axis.set(
        title="Wait by time of arrival (median of those that arrived together), seconds", xlim=(0, job.arrivals[-1])
    )
    axis.set_yscale("symlog", linthresh=max(0.1, job.slo))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axis.set_ylim(bottom=0)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=6, frameon=False, fontsize=8)
    _plain(axis)


def _lives(axis: Any, job: Job, outcome: Outcome) -> None:
    colour = _COLOURS.get(outcome.strategy, "#2a9d8f")
    for bar in outcome.bars:
        axis.barh(bar.number, max(0.01, bar.closed - bar.opened), left=bar.opened, color=colour, height=0.8)
        axis.barh(bar.number, max(0.0, bar.drained - bar.closed), left=bar.closed, color=colour, height=0.8, alpha=0.35)
    axis.invert_yaxis()
    axis.yaxis.get_major_locator().set_params(integer=True)
    axis.set(title=f"{outcome.strategy}: each wagon taking events, and draining", ylabel="wagon")
    _plain(axis)


def _percentiles(axis: Any, job: Job, outcomes: Mapping[str, Outcome]) -> None:
    shares = [i / 200 for i in range(200)] + [0.999]
    for name, outcome in outcomes.items():
        waits = sorted(done - at for at, done in zip(job.arrivals, outcome.finished, strict=True))
        axis.plot(
            [s * 100 for s in shares],
            [waits[min(len(waits) - 1, int(s * len(waits)))] for s in shares],
            label=name,
            **_style(name),
        )
    axis.axhline(job.slo, color="#22303c", linewidth=1, linestyle=":")
    axis.set(title="So many percent of the events waited no longer than … seconds", xlim=(0, 100))
    axis.set_yscale("symlog", linthresh=max(0.1, job.slo))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axis.set_ylim(bottom=0)
    _plain(axis)


def _style(name: str) -> dict[str, Any]:
    ours = name.startswith("wagons")
    return {
        "color": _COLOURS.get(name),
        "linewidth": 2.2 if ours else 1.3,
        "linestyle": "--" if name in ("optimum", "clairvoyant_scaler") else "-",
    }


def _plain(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.title.set_fontsize(10)
    axis.tick_params(labelsize=8)


def _work(job: Job) -> str:
    if job.same_work:
        return f"{job.services[0]:g} s an event"
    return f"{sum(job.services) / len(job.services):.3g} s an event on average"


def _cell(name: str, value: float) -> str:
    if name == "on_time":
        return f"{value:.1%}"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def sequence(outcomes: Sequence[Outcome], order: Sequence[str]) -> dict[str, Outcome]:
    """The outcomes by name, in the table's order."""
    found = {outcome.strategy: outcome for outcome in outcomes}
    return {name: found[name] for name in order if name in found}
