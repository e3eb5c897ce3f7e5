"""The page of an experiment: one HTML file that needs nothing else, for wide and narrow screens, light and dark.

Its charts are drawn in units of their own and stretched to the screen's width; words and figures beside them are HTML,
so that they keep their size. A strategy is hidden or shown in all charts at once by its box above them.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence

from .job import Figures, Job, Outcome
from .series import (
    AROUND,
    COLOURS,
    DASHED,
    SHOWN,
    Bins,
    bins_of,
    end_of,
    end_of_wagons,
    on_time,
    runs,
    ticks,
    waits,
    workers,
)

_W, _H = 1000, 300
"""The units of a chart."""
_MAIN = (
    ("on_time", "on time", 0),
    ("newcomers_p99_s", "newcomers p99", 0),
    ("p50_s", "p50", 1),
    ("p99_s", "p99", 1),
    ("mean_s", "mean", 1),
    ("worst_s", "worst", 1),
    ("standing", "standing workers", 1),
    ("peak", "peak workers", 1),
    ("worker_seconds_done", "worker-seconds", 0),
    ("worker_seconds_extra", "beyond standing", 1),
    ("switches", "switches", 1),
    ("lost", "lost", 1),
)
"""The table's columns; 1: left out on a narrow screen."""


def page(job: Job, outcomes: Mapping[str, Outcome], rows: Mapping[str, Figures]) -> str:
    """The page with the strategies of `outcomes`."""
    bins, end = bins_of(job), end_of(job, outcomes)
    first = [name for name in SHOWN if name in outcomes] or list(outcomes)[:5]
    span = f"{bins.width:g} s" if bins.width != 1 else "second"
    wagons = {name: outcome for name, outcome in outcomes.items() if outcome.bars}
    parts = [
        f"<h1>{html.escape(job.title)}</h1>",
        f"<p>{_about(job)}</p>",
        _boxes(outcomes, first),
        f"<h2>Arrivals per second</h2>{_arrivals(job, bins)}",
        f"<h2>Share on time, by {span} of arrival</h2><p>Of the events of "
        f"{(1 + 2 * AROUND) * bins.width:g} s around it.</p>{_on_time(job, outcomes, bins)}",
        f"<h2>Workers that are paid for</h2>{_workers(outcomes, first, end)}",
        f"<h2>Waits, by {span} of arrival</h2><p>The line is the median; the bands reach from the 10th to the 90th "
        f"percentile and up to the 99th. Dotted: the promise of {job.slo:g} s.</p>{_waits(job, outcomes, bins)}",
    ]
    if wagons:
        parts.append(
            "<h2>Wagons</h2><p>One bar a wagon: thin while it is kept ready, dark while it takes new events, light "
            f"while it drains.</p>{_lives(wagons, end_of_wagons(job, wagons))}"
        )
    parts += [f"<h2>Figures</h2>{_table(rows)}", _notes(job, outcomes), _all_figures(rows)]
    hidden = " ".join(f"no-{name}" for name in outcomes if name not in first)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{html.escape(job.title)}: eventwagon lab</title><style>{_STYLE}{_colours(outcomes)}</style></head>"
        f'<body class="{hidden}">{"".join(parts)}<script>{_SCRIPT}</script></body></html>\n'
    )


def _about(job: Job) -> str:
    mean = sum(job.services) / len(job.services)
    work = f"{mean:.3g} s of work each" + ("" if job.same_work else " on average")
    return (
        f"{len(job.arrivals):,} events arrive in {job.arrivals[-1]:,.0f} s, with {work}; {job.workers} fixed workers. "
        f"An event is on time when it is done within {job.slo:g} s of its arrival. Times in seconds."
    )


def _colours(outcomes: Mapping[str, Outcome]) -> str:
    return "".join(
        f".{name}{{--c:{COLOURS[name]}{';--dash:6 4' if name in DASHED else ''}}}" for name in outcomes
    ) + "".join(f"body.no-{name} .s.{name}{{display:none}}" for name in outcomes)


def _boxes(outcomes: Mapping[str, Outcome], first: Sequence[str]) -> str:
    boxes = "".join(
        f'<label class="{name}"><input type="checkbox" value="{name}"{" checked" if name in first else ""}>'
        f"<i></i>{name}</label>"
        for name in outcomes
    )
    return f'<div class="boxes">{boxes}</div>'


def _chart(
    inner: str, *, x: float, y: Sequence[tuple[float, str]], size: str = "", view: float = _H, extra: str = ""
) -> str:
    """A chart of seconds 0 to `x`; `y`: where (0 below, 1 above) which words stand."""
    grid = "".join(f'<b style="bottom:{at * 100:.4g}%"><span>{words}</span></b>' for at, words in y)
    seconds = "".join(
        f'<u style="left:{at / x * 100:.4g}%">{at:g}{" s" if at else ""}</u>' for at in ticks(x, 5) if at < 0.97 * x
    )
    return (
        f'<div class="chart {size}"{extra}>{grid}{seconds}'
        f'<svg viewBox="0 0 {_W} {view:g}" preserveAspectRatio="none" aria-hidden="true">{inner}</svg></div>'
    )


def _arrivals(job: Job, bins: Bins) -> str:
    rates = [len(some) / bins.width for some in bins.arrivals]
    work = sum(job.services) / len(job.services)
    capacity = job.workers / work if work else math.inf
    most = max(*rates, capacity if math.isfinite(capacity) else 0.0) * 1.05
    step = _W * bins.width / max(job.arrivals[-1], bins.width)
    path = f"M0 {_H}" + "".join(
        f"L{i * step:.0f} {_y(rate / most)}L{min(_W, (i + 1) * step):.0f} {_y(rate / most)}"
        for i, rate in enumerate(rates)
    )
    line = ""
    if math.isfinite(capacity):
        line = f'<path class="promise" d="M0 {_y(capacity / most)}H{_W}"/>'
    chart = _chart(
        f'<path class="arrivals" d="{path}L{_W} {_H}Z"/>{line}',
        x=max(job.arrivals[-1], 1e-3),
        y=[(at / most, f"{at:,g}") for at in ticks(most, 3)],
        size="low",
    )
    said = f"<p>Dotted: what the fixed workers can do, {capacity:,.0f} a second.</p>" if line else ""
    return said + chart


def _on_time(job: Job, outcomes: Mapping[str, Outcome], bins: Bins) -> str:
    span = max(job.arrivals[-1], 1e-3)
    lines = []
    for name, outcome in outcomes.items():
        shares = on_time(job, outcome, bins)
        lines.append(_line(name, [[(_x(bins, i, span), _y(shares[i] or 0.0)) for i in run] for run in runs(shares)]))
    y = [(share, f"{share:.0%}") for share in (0, 0.25, 0.5, 0.75, 1)]
    return _chart("".join(lines), x=span, y=y)


def _line(name: str, parts: Sequence[Sequence[tuple[int, int]]]) -> str:
    path = "".join("M" + "L".join(f"{x} {y}" for x, y in (part if len(part) > 1 else [*part, *part])) for part in parts)
    ours = " ours" if name.startswith("wagons") else ""
    return f'<path class="s line {name}{ours}" d="{path}"/>'


def _workers(outcomes: Mapping[str, Outcome], first: Sequence[str], end: float) -> str:
    """The heights are numbers of workers: the script fits the view to the strategies that are shown."""
    lines, peaks = [], {}
    for name, outcome in outcomes.items():
        steps = workers(outcome, end)
        peaks[name] = max((count for _, count in steps), default=0)
        path = "".join(
            f"{'H' if i else 'M0 '}{f'{at / end * _W:.0f}' if i else ''}{'V' if i else ''}{-count}"
            for i, (at, count) in enumerate(steps)
        )
        ours = " ours" if name.startswith("wagons") else ""
        lines.append(f'<path class="s line {name}{ours}" data-most="{peaks[name]}" d="{path}H{_W}"/>')
    most = max(1.0, max(peaks[name] for name in first) * 1.05)
    chart = _chart("".join(lines), x=end, y=[(at / most, f"{at:,g}") for at in ticks(most)], extra=' id="workers"')
    return chart.replace(f'viewBox="0 0 {_W} {_H}"', f'viewBox="0 {-most:g} {_W} {most:g}"')


def _waits(job: Job, outcomes: Mapping[str, Outcome], bins: Bins) -> str:
    """A chart for each strategy, on one scale: even up to the promise, which takes a third, logarithmic beyond."""
    found = {name: waits(job, outcome, bins) for name, outcome in outcomes.items()}
    most = max(
        (wait.p99 for bands in found.values() for wait in bands if wait and math.isfinite(wait.p99)), default=job.slo
    )
    most = max(most, 2 * job.slo)
    scale = _Scale(job.slo, most)
    span = max(job.arrivals[-1], 1e-3)
    y = [(scale(at), f"{at:g} s") for at in scale.ticks()]
    charts = []
    for name, bands in found.items():
        inner = ""
        for run in runs(bands):
            some = [(_x(bins, i, span), wait) for i in run if (wait := bands[i]) is not None]
            outer = [(x, _y(scale(wait.p99))) for x, wait in some]
            upper = [(x, _y(scale(wait.p90))) for x, wait in some]
            lower = [(x, _y(scale(wait.p10))) for x, wait in some]
            inner += f'<path class="far" d="{_area(outer, lower)}"/><path class="near" d="{_area(upper, lower)}"/>'
        medians = [
            [(_x(bins, i, span), _y(scale(wait.p50))) for i in run if (wait := bands[i]) is not None]
            for run in runs(bands)
        ]
        inner += _line(name, medians) + f'<path class="promise" d="M0 {_y(scale(job.slo))}H{_W}"/>'
        charts.append(f'<div class="s {name}"><h3>{name}</h3>{_chart(inner, x=span, y=y, size="low")}</div>')
    return f'<div class="grid">{"".join(charts)}</div>'


class _Scale:
    """Waits to heights from 0 to 1."""

    def __init__(self, promise: float, most: float) -> None:
        self._promise = promise
        self._most = most

    def __call__(self, wait: float) -> float:
        if wait <= self._promise:
            return wait / self._promise / 3
        wait = min(wait, self._most)
        return 1 / 3 + 2 / 3 * math.log(wait / self._promise) / math.log(self._most / self._promise)

    def ticks(self) -> Iterator[float]:
        """The promise, and its multiples that are far enough from one another."""
        yield self._promise
        last = 1 / 3
        for times in (2, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000):
            at = times * self._promise
            if at <= self._most and self(at) > last + 0.16:
                last = self(at)
                yield at


def _area(above: Sequence[tuple[int, int]], below: Sequence[tuple[int, int]]) -> str:
    return "M" + "L".join(f"{x} {y}" for x, y in [*above, *reversed(below)]) + "Z"


def _lives(outcomes: Mapping[str, Outcome], end: float) -> str:
    charts = []
    for name, outcome in outcomes.items():
        bars = outcome.bars
        inner = ""
        for row, bar in enumerate(bars):
            moments = (bar.opened, bar.active, bar.closed, bar.drained)
            ready, begun, closed, drained = (min(_W, max(0, round(at / end * _W))) for at in moments)
            title = f"wagon {bar.number}, opened at {bar.opened:.1f} s, took no events"
            if bar.active < bar.closed:
                title = (
                    f"wagon {bar.number}: {bar.events:,} events; took new ones from {bar.active:.1f} s to "
                    f"{bar.closed:.1f} s, drained at {bar.drained:.1f} s"
                )
            inner += f"<g><title>{title}</title>" + _bar("far", ready, begun, row + 0.4, 0.2)
            inner += _bar("full", begun, closed, row + 0.1, 0.8) + _bar("far", closed, drained, row + 0.1, 0.8) + "</g>"
        rows = len(bars)
        step = next(n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000) if rows / n <= 8)
        y = [(1 - (row + 0.5) / rows, f"{bar.number}") for row, bar in enumerate(bars) if not row % step]
        height = f' style="height:{min(22 + 14 * rows, 320)}px"'
        chart = _chart(inner, x=end, y=y, size="lives", view=rows, extra=height)
        said = f"{rows} wagon{'s' if rows != 1 else ''}"
        charts.append(f'<div class="s {name}"><h3>{name} <small>{said}</small></h3>{chart}</div>')
    return f'<div class="grid">{"".join(charts)}</div>'


def _bar(kind: str, begin: int, end: int, top: float, height: float) -> str:
    if end <= begin:
        return ""
    return f'<path class="{kind}" d="M{begin} {top:g}H{end}v{height:g}H{begin}z"/>'


def _table(rows: Mapping[str, Figures]) -> str:
    columns = _MAIN if any(row.lost for row in rows.values()) else _MAIN[:-1]
    head = "".join(f'<th{_wide(wide)} scope="col">{title}</th>' for _, title, wide in columns)
    body = "".join(
        f'<tr class="{name}"><th scope="row"><i></i>{name.replace("_", "_<wbr>")}</th>'
        + "".join(f"<td{_wide(wide)}>{cell(field, getattr(row, field))}</td>" for field, _, wide in columns)
        + "</tr>"
        for name, row in rows.items()
    )
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"


def _wide(wide: int) -> str:
    return ' class="wide"' if wide else ""


def _notes(job: Job, outcomes: Mapping[str, Outcome]) -> str:
    items = "".join(
        f'<dt class="{name}"><i></i>{name}</dt><dd>{html.escape(outcome.note)}</dd>'
        for name, outcome in outcomes.items()
    )
    newcomers = (
        f"<p>Newcomers: the arrivals that one FIFO queue with the first wagon's {job.workers} workers would serve "
        "late. Worker-seconds: paid for until the last event is done, idle workers and spares too; "
        "<em>beyond standing</em> those of the workers that were added. Dashed lines: nobody can have these.</p>"
    )
    return f"<details><summary>What the strategies are</summary>{newcomers}<dl>{items}</dl></details>"


def _all_figures(rows: Mapping[str, Figures]) -> str:
    names = list(rows)
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    body = "".join(
        f'<tr><th scope="row">{field.removesuffix("_s").replace("_", " ")}</th>'
        + "".join(f"<td>{cell(field, getattr(rows[name], field))}</td>" for name in names)
        + "</tr>"
        for field in Figures.__struct_fields__
    )
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<details><summary>All figures</summary><div class="scroll">{table}</div></details>'


def cell(name: str, value: float) -> str:
    """A figure for a table."""
    if name.startswith("on_time"):
        return f"{value:.1%}"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"


def _x(bins: Bins, i: int, span: float) -> int:
    return min(_W, round(bins.middle(i) / span * _W))


def _y(share: float) -> int:
    return round((1 - min(1.0, share)) * _H)


_STYLE = """
:root{--bg:#fff;--ink:#1f2933;--dim:#66727f;--rule:#e3e7eb;--area:#cfd6de}
.s,label,tr,dt{--tint:var(--c)}
@media (prefers-color-scheme:dark){:root{--bg:#14181d;--ink:#e6eaee;--dim:#97a3af;--rule:#2b333b;--area:#3a444e}
.s,label,tr,dt{--tint:color-mix(in srgb,var(--c) 72%,#fff)}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:1180px;padding:1rem 1.25rem 3rem;background:var(--bg);
color:var(--ink)}
h1{font-size:1.7rem;margin:.5rem 0}h2{font-size:1.1rem;margin:2rem 0 .4rem}h3{font-size:.9rem;margin:.9rem 0 .4rem}
p{margin:.2rem 0 .7rem;max-width:75ch}small,h2+p,.chart u,.chart span,dd{color:var(--dim)}small{font-weight:400}
.boxes{display:flex;flex-wrap:wrap;gap:.3rem .4rem;position:sticky;top:0;z-index:2;background:var(--bg);padding:.6rem 0;
border-bottom:1px solid var(--rule)}
.boxes label{display:flex;align-items:center;gap:.4rem;padding:.15rem .6rem;border:1px solid var(--rule);
border-radius:1rem;font-size:.82rem;cursor:pointer;opacity:.65}
.boxes label:has(:checked){opacity:1;border-color:var(--tint)}
.boxes label:focus-within{outline:2px solid var(--tint)}
.boxes input{position:absolute;opacity:0}
i{display:inline-block;width:.7rem;height:.7rem;border-radius:50%;background:var(--tint);flex:none}
dt i{margin-right:.45rem}th[scope=row]:has(i){position:relative;padding-left:1.4rem}
th i{position:absolute;left:.3rem;top:.55rem}
.chart{position:relative;height:230px;margin:0 0 1.6rem 2.9rem;border-bottom:1px solid var(--dim)}
.chart.low{height:130px}
.chart svg{position:absolute;inset:0;width:100%;height:100%;overflow:visible}
.chart b{position:absolute;left:0;right:0;border-top:1px solid var(--rule);font-weight:400}
.chart span{position:absolute;right:calc(100% + .4rem);top:-.65em;font-size:11px;line-height:1.3;white-space:nowrap}
.chart u{position:absolute;top:calc(100% + .15rem);font-size:11px;text-decoration:none;white-space:nowrap}
.lives b{border:0}
path{vector-effect:non-scaling-stroke}
.line{fill:none;stroke:var(--tint);stroke-width:1.6;stroke-dasharray:var(--dash,none);stroke-linejoin:round}
.line.ours{stroke-width:2.4}
.promise{fill:none;stroke:var(--dim);stroke-width:1;stroke-dasharray:2 3}
.arrivals{fill:var(--area)}
.far{fill:var(--tint);opacity:.18}.near{fill:var(--tint);opacity:.28}.full{fill:var(--tint)}.lives .far{opacity:.35}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,480px),1fr));gap:0 1.5rem}
table{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .45rem;text-align:right;border-bottom:1px solid var(--rule);font-weight:400}
thead th{vertical-align:bottom;font-weight:600;line-height:1.25}
tbody th{text-align:left;font-weight:600}
details{margin-top:1.2rem}summary{cursor:pointer;font-weight:600}
dt{font-weight:600;margin-top:.5rem}dd{margin:0 0 0 1.2rem}
.scroll{overflow-x:auto}.scroll td,.scroll th{white-space:nowrap}
@media (max-width:720px){.wide{display:none}body{padding:.5rem .8rem 2rem}.chart{height:180px}.chart.low{height:110px}
.boxes label{padding:.1rem .45rem;font-size:.75rem}}
@media print{.boxes{position:static}}
"""

_SCRIPT = """
const chart = document.getElementById('workers'), svg = chart.querySelector('svg');
const easy = least => {
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map(n => n * power).find(step => step >= least);
};
const show = () => {
  const boxes = [...document.querySelectorAll('.boxes input')];
  for (const box of boxes) document.body.classList.toggle('no-' + box.value, !box.checked);
  const on = new Set(boxes.filter(box => box.checked).map(box => box.value));
  const most = Math.max(1, ...[...svg.querySelectorAll('path')]
    .filter(path => [...path.classList].some(name => on.has(name))).map(path => +path.dataset.most)) * 1.05;
  svg.setAttribute('viewBox', `0 ${-most} 1000 ${most}`);
  chart.querySelectorAll('b').forEach(line => line.remove());
  const step = easy(most / 4);
  for (let at = 0; at <= most; at += step)
    chart.insertAdjacentHTML('afterbegin', `<b style="bottom:${at / most * 100}%"><span>${at}</span></b>`);
};
document.querySelector('.boxes').addEventListener('change', show);
show();
"""
