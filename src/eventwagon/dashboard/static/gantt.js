// The wagons over time: thin while ready, dark while active, light while draining. All bars of one kind are one path,
// so 1,000 wagons are as many elements as two.

import { attr, h, list, s, say, show } from "./dom.js";
import { counted, moment, span, tick, utc } from "./format.js";
import { moments } from "./scales.js";

const W = 1000;
const SPANS = { hour: 3600, day: 86400 };
const ROWS = 50;
const ONE_EACH = 60; // more wagons share lanes: those that do not overlap follow one another

/** `open(number)` shows a wagon's page; `href(number)` is its link.
 * update({now, period: "hour" or "day", wagons: [{number, state, openedAt, activeAt, closedAt, drainedAt, removedAt, published, failed}]}) */
export function gantt({ open, href, name }) {
  const paths = Object.fromEntries(["ready", "active", "drain", "failed", "switches"].map((kind) => [kind, s("path", { class: `bars ${kind}` })]));
  const over = s("path", { class: "over" });
  const svg = s("svg", { preserveAspectRatio: "none", "aria-hidden": "true" }, over, Object.values(paths));
  const times = h("div", { class: "grid-times" });
  const labels = h("div", { class: "gantt-labels" });
  const tip = h("div", { class: "tip", hidden: true, "aria-hidden": "true" });
  const plot = h("div", { class: "plot gantt" }, times, labels, svg, tip);
  const none = h("p", { class: "empty" });
  const said = h("span", { class: "dim" });
  const body = h("tbody");
  const more = h("p", { class: "dim" });
  const table = h("table", {},
    h("caption", { class: "unseen" }, "Wagons over time"),
    h("thead", {}, h("tr", {}, ["wagon", "state", "opened", "active", "cut off", "drained", "took"].map((t) => h("th", { scope: "col" }, t)))), body);
  const details = h("details", { class: "figures", ontoggle: () => rows() }, h("summary", {}, "As a table"), h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Wagons over time, as a table" }, table), more);
  const legend = h("ul", { class: "legend" }, [["ready", "ready"], ["active", "takes new events"], ["drain", "drains"], ["switches", "switch"]].map(([kind, text]) => h("li", { class: `bar-${kind}` }, h("i", { "aria-hidden": "true" }), text)));
  const node = h("section", { class: "card chart" },
    h("div", { class: "chart-head" }, h("h2", {}, "Wagons over time ", said), legend),
    none, plot, details);

  let seen = { now: 0, period: "hour", wagons: [] };
  let drawn = [];
  let begin = 0;
  let lanes = { rows: 0, of: new Map() };
  let drawnAs = "";
  let signed = "";
  const marks = list(times, (mark) => mark.key, () => {
    const line = h("span");
    return { node: line, update: (mark) => { line.style.left = `${mark.at * 100}%`; say(line, mark.text); } };
  });
  const names = list(labels, (row) => row.key, () => {
    const line = h("span");
    return { node: line, update: (row) => { line.style.top = `${row.at * 100}%`; say(line, row.text); } };
  });

  function draw() {
    const to = seen.now;
    const from = to - SPANS[seen.period];
    const first = Math.min(...seen.wagons.map((w) => w.openedAt));
    begin = Math.max(from, Math.min(to - 60, first - (to - first) * 0.03)); // a young train fills its picture
    drawn = seen.wagons.filter((w) => end(w, to) >= begin && w.openedAt <= to).sort((a, b) => a.number - b.number);
    show(none, !drawn.length);
    show(plot, drawn.length > 0);
    show(details, drawn.length > 0);
    say(none, `No wagon in the last ${seen.period}.`);
    const switches = drawn.filter((w) => switchedTo(w)).length;
    say(said, drawn.length ? `${counted(drawn.length, "wagon")}, ${counted(switches, "switch", "switches")}` : "");
    if (!drawn.length) return;
    const x = (at) => Math.round(Math.max(0, Math.min(1, (at - begin) / (to - begin))) * W * 10) / 10;
    const d = { ready: "", active: "", drain: "", failed: "", switches: "" };
    lanes = laned(drawn, to);
    drawn.forEach((w) => {
      const row = lanes.of.get(w);
      const bar = (kind, a, b, top, high) => {
        if (a === null || b === null || b < begin) return;
        const left = x(a);
        d[kind] += `M${left} ${row + top}H${Math.max(left + 0.8, x(b))}v${high}H${left}z`;
      };
      const last = end(w, to);
      const cut = w.closedAt ?? last;
      if (w.failed) bar("failed", w.openedAt, last, 0.15, 0.7);
      else {
        bar("ready", w.openedAt, w.activeAt ?? cut, 0.42, 0.16);
        if (w.activeAt !== null) bar("active", w.activeAt, cut, 0.1, 0.8);
        if (w.closedAt !== null) bar("drain", w.closedAt, last, 0.1, 0.8);
        if (switchedTo(w) && drawn.length <= ONE_EACH) d.switches += `M${x(w.activeAt)} ${Math.max(0, row - 1)}V${row + 1}`;
      }
    });
    const all = JSON.stringify([drawn.length, d]);
    if (all !== drawnAs) {
      drawnAs = all;
      attr(svg, "viewBox", `0 0 ${W} ${lanes.rows}`);
      plot.style.height = `${Math.min(340, Math.max(36, 16 * lanes.rows))}px`;
      for (const [kind, path] of Object.entries(paths)) attr(path, "d", d[kind] || "M0 0");
      const step = Math.ceil(drawn.length / 10);
      const named = drawn.length > ONE_EACH ? [] : drawn.filter((_, i) => i % step === 0);
      names(named.map((w, i) => ({ key: i, at: (i * step + 0.5) / drawn.length, text: `v${w.number}` })));
    }
    marks(moments(begin, to).map(({ time, at: share, step }, i) => ({ key: i, at: share, text: tick(time, step) })));
    rows();
  }

  /** The first wagon was active from the start: nothing was switched. */
  const switchedTo = (w) => w.number > 1 && w.activeAt !== null && w.activeAt >= begin;

  function rows() {
    if (!details.open) return;
    const newest = drawn.slice(-ROWS).reverse();
    while (body.rows.length > newest.length) body.deleteRow(-1);
    newest.forEach((w, i) => {
      const tr = body.rows[i] ?? body.appendChild(h("tr", {}, h("th", { scope: "row" }, h("a")), Array.from({ length: 6 }, () => h("td"))));
      const link = tr.cells[0].firstChild;
      say(link, name(w.number));
      attr(link, "href", href(w.number));
      say(tr.cells[1], w.state);
      [w.openedAt, w.activeAt, w.closedAt, w.drainedAt].forEach((at, n) => {
        say(tr.cells[n + 2], at === null ? "–" : moment(at));
        attr(tr.cells[n + 2], "title", at === null ? null : utc(at));
      });
      say(tr.cells[6], w.published === null ? "?" : counted(w.published, "event"));
    });
    say(more, drawn.length > ROWS ? `The newest ${ROWS} of ${drawn.length}.` : "");
  }

  const at = (event) => {
    const box = svg.getBoundingClientRect();
    const row = Math.floor(((event.clientY - box.top) / box.height) * lanes.rows);
    const when = begin + ((event.clientX - box.left) / box.width) * (seen.now - begin);
    const there = drawn.filter((w) => lanes.of.get(w) === row);
    return there.length < 2 ? there[0] : there.reduce((best, w) => (away(w, when, seen.now) < away(best, when, seen.now) ? w : best));
  };
  plot.addEventListener("pointermove", (event) => {
    const w = at(event);
    if (!w) return;
    const row = lanes.of.get(w);
    attr(over, "d", `M0 ${row}H${W}v1H0z`);
    say(tip, [
      `${name(w.number)}, ${w.state}`,
      w.published === null ? "" : counted(w.published, "event"),
      w.activeAt === null ? `opened ${moment(w.openedAt)}` : `active ${moment(w.activeAt)} for ${span((w.closedAt ?? seen.now) - w.activeAt)}`,
      w.closedAt === null ? "" : `drained for ${span((w.drainedAt ?? end(w, seen.now)) - w.closedAt)}`,
    ].filter(Boolean).join("\n"));
    show(tip, true);
    const box = plot.getBoundingClientRect();
    tip.style.left = `${((event.clientX - box.left) / box.width) * 100}%`;
    tip.classList.toggle("left", event.clientX - box.left > box.width * 0.6);
  });
  plot.addEventListener("pointerleave", () => {
    show(tip, false);
    attr(over, "d", "M0 0");
  });
  plot.addEventListener("click", (event) => {
    const w = at(event);
    if (w) open(w.number);
  });

  return {
    node,
    update(data) {
      const of = data.period + signature(data.wagons);
      const moved = ((data.now - seen.now) / (seen.now - begin)) * W;
      if (of === signed && moved < 1) return; // less than a unit of the picture: nothing to see
      signed = of;
      seen = data;
      draw();
    },
  };
}

const end = (w, now) => w.removedAt ?? (w.state === "removed" || w.failed ? w.drainedAt ?? w.closedAt ?? w.openedAt : now);

/** Changes with what is drawn, but for the time. */
const signature = (wagons) => `${wagons.length} ${wagons.slice(-40).map((w) => `${w.number}${w.state}${w.closedAt}`).join()}`;

/** Seconds between a moment and a wagon's life. */
const away = (w, when, now) => Math.max(0, w.openedAt - when, when - end(w, now));

/** A row for each wagon; of many, as few rows as lives overlap. */
function laned(wagons, now) {
  const of = new Map();
  if (wagons.length <= ONE_EACH) {
    wagons.forEach((w, row) => of.set(w, row));
    return { rows: wagons.length, of };
  }
  const free = [];
  for (const w of [...wagons].sort((a, b) => a.openedAt - b.openedAt)) {
    let row = free.findIndex((until) => until <= w.openedAt);
    if (row < 0) row = free.length;
    free[row] = end(w, now);
    of.set(w, row);
  }
  return { rows: free.length, of };
}
