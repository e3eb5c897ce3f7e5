// Curves over time. Each series is one path, so that a chart is as many elements after an hour as at the start.

import { attr, h, list, s, say, show } from "./dom.js";
import { moment, span, tick, utc } from "./format.js";
import { linear, moments, sampled, waits } from "./scales.js";

const W = 1000;
const H = 200;
const POINTS = 400;
const ROWS = 20;
const GAP = 5; // steps without a figure: nobody looked

/** `series`: [{key, name, kind}], `kind` a class of its line; `format(value)` writes a figure with its unit.
 * update({at, step, values: {key: [...]}, promise}) with times in seconds since the epoch, `step` seconds apart; a
 * figure may be null. */
export function chart({ title, about, series, format }) {
  const grid = h("div", { class: "grid-lines" });
  const times = h("div", { class: "grid-times" });
  const paths = series.map(({ kind }) => s("path", { class: `line ${kind}` }));
  const promise = s("path", { class: "promise" });
  const cross = s("path", { class: "cross" });
  const svg = s("svg", { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", "aria-hidden": "true" }, promise, paths, cross);
  const tip = h("div", { class: "tip", hidden: true, "aria-hidden": "true" });
  const plot = h("div", { class: "plot", hidden: true }, grid, times, svg, tip);
  const now = series.map(() => h("b"));
  const legend = h("ul", { class: "legend" }, series.map(({ name, kind }, i) => h("li", { class: kind }, h("i", { "aria-hidden": "true" }), `${name} `, now[i])));
  const body = h("tbody");
  const table = h("table", {},
    h("caption", { class: "unseen" }, title),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "time"), series.map(({ name }) => h("th", { scope: "col" }, name)))), body);
  const details = h("details", { class: "figures", hidden: true, ontoggle: () => fillTable() }, h("summary", {}, "As a table"), h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}, as a table` }, table));
  const none = h("p", { class: "empty" }, "No figures yet.");
  const node = h("section", { class: "card chart" }, h("div", { class: "chart-head" }, h("h2", {}, title), legend), about ? h("p", { class: "dim" }, about) : null, none, plot, details);

  let seen = { at: [], values: {} };
  const lines = list(grid, (line) => line.key, () => {
    const label = h("span");
    const line = h("div", {}, label);
    return { node: line, update: (to) => { line.style.bottom = `${to.at * 100}%`; say(label, to.text); line.className = to.promise ? "promised" : ""; } };
  });
  const marks = list(times, (mark) => mark.key, () => {
    const line = h("span");
    return { node: line, update: (mark) => { line.style.left = `${mark.at * 100}%`; say(line, mark.text); } };
  });

  function update(data) {
    seen = data;
    const { at, values } = data;
    const some = at.length > 1;
    show(none, !some);
    show(plot, some);
    show(details, some);
    series.forEach(({ key }, i) => say(now[i], at.length ? format(values[key]?.at(-1)) : ""));
    if (!some) return;
    const from = at[0];
    const to = at.at(-1);
    const top = Math.max(0, ...series.map(({ key }) => (values[key] ?? []).reduce((most, v) => (v > most ? v : most), 0)));
    const scale = data.promise > 0 ? waits(data.promise, top) : linear(top);
    lines(scale.ticks.map((value, i) => ({ key: i, at: scale.at(value), text: value === data.promise ? `${format(value)} promised` : format(value), promise: value === data.promise })));
    marks(moments(from, to).map(({ time, at: share, step }, i) => ({ key: i, at: share, text: tick(time, step) })));
    const drawn = withGaps(sampled(at.length, POINTS), at, GAP * data.step);
    series.forEach(({ key }, i) => attr(paths[i], "d", path(drawn, at, values[key] ?? [], from, to, scale)));
    attr(promise, "d", data.promise > 0 ? `M0 ${y(scale.at(data.promise))}H${W}` : "M0 0");
    if (details.open) fillTable();
  }

  function fillTable() {
    if (!details.open) return;
    const { at, values } = seen;
    const rows = sampled(at.length, ROWS).reverse();
    while (body.rows.length > rows.length) body.deleteRow(-1);
    rows.forEach((i, row) => {
      const tr = body.rows[row] ?? body.appendChild(h("tr", {}, h("th", { scope: "row" }), series.map(() => h("td"))));
      say(tr.cells[0], moment(at[i]));
      attr(tr.cells[0], "title", utc(at[i]));
      series.forEach(({ key }, n) => say(tr.cells[n + 1], format(values[key]?.[i])));
    });
  }

  plot.addEventListener("pointermove", (event) => {
    const { at, values } = seen;
    if (at.length < 2) return;
    const box = svg.getBoundingClientRect();
    const share = Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
    const when = at[0] + share * (at.at(-1) - at[0]);
    const i = nearest(at, when);
    const x = ((at[i] - at[0]) / (at.at(-1) - at[0])) * W;
    attr(cross, "d", `M${Math.round(x)} 0V${H}`);
    say(tip, [moment(at[i]), ...series.map(({ key, name }) => `${name} ${format(values[key]?.[i])}`)].join("\n"));
    show(tip, true);
    tip.style.left = `${(x / W) * 100}%`;
    tip.classList.toggle("left", x > W * 0.6);
  });
  plot.addEventListener("pointerleave", () => {
    show(tip, false);
    attr(cross, "d", "M0 0");
  });
  return { node, update };
}

/** The same indices, each with whether a gap is before it. */
function withGaps(indices, at, longest) {
  let last = 0;
  return indices.map((i) => {
    let gap = false;
    for (; last < i; last++) gap ||= at[last + 1] - at[last] > longest;
    return { i, gap };
  });
}

function path(indices, at, values, from, to, scale) {
  let d = "";
  let pen = false;
  for (const { i, gap } of indices) {
    const value = values[i];
    if (gap) pen = false;
    if (typeof value !== "number" || !Number.isFinite(value)) {
      pen = false;
      continue;
    }
    d += `${pen ? "L" : "M"}${Math.round(((at[i] - from) / (to - from)) * W)} ${y(scale.at(value))}`;
    pen = true;
  }
  return d || "M0 0";
}

const y = (share) => Math.round((1 - share) * H);

function nearest(at, when) {
  let low = 0;
  let high = at.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (at[middle] < when) low = middle;
    else high = middle;
  }
  return when - at[low] < at[high] - when ? low : high;
}

export const seconds = (value) => (value === null || value === undefined ? "?" : span(value));
