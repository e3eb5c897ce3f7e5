// The train: one car a live wagon, the newest in front. Past ten, the older ones are summed up in the last car.

import { attr, h, list, say, show, width } from "./dom.js";
import { count, counted, percent, span } from "./format.js";

const MOST = 10;
const STATES = { provisioning: "being prepared", ready: "ready", active: "takes new events", draining: "draining", drained: "drained", removing: "being removed", failed: "failed", removed: "removed" };
export const stateWord = (state) => STATES[state] ?? state;

export function cars(href) {
  const node = h("ol", { class: "cars", "aria-label": "Wagons, newest first" });
  const rows = list(node, (item) => item.key, (item) => (item.sum ? sumCar() : car(href)));
  const head = ["wagon", "state", "taken", "waiting", "in flight", "settled", "inside", "dead", "workers", "revision", "age", "time left", "why"];
  const body = h("tbody");
  const all = h("details", { class: "figures", ontoggle: () => table() }, h("summary", {}, "All wagons as a table"),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "All wagons as a table" }, h("table", {}, h("caption", { class: "unseen" }, "Live wagons"), h("thead", {}, h("tr", {}, head.map((text) => h("th", { scope: "col" }, text)))), body)));
  const fill = list(body, (w) => w.number, () => {
    const link = h("a");
    const cells = head.slice(1).map(() => h("td"));
    return {
      node: h("tr", {}, h("th", { scope: "row" }, link), cells),
      update(w) {
        say(link, w.name);
        attr(link, "href", href(w.number));
        [stateOf(w), taken(w), count(w.waiting), count(w.in_flight), count(w.settled), count(w.inside), count(w.dead), workers(w), w.revision || "–", span(w.age), left(w), w.reason].forEach((text, i) => say(cells[i], text));
      },
    };
  });
  let wagons = [];
  const table = () => all.open && fill([...wagons].reverse());
  const empty = h("p", { class: "empty" }, "No wagon yet: an observer opens the first one.");
  return {
    node: h("div", {}, empty, node, all),
    update(of) {
      wagons = of;
      show(empty, !of.length);
      show(all, of.length > 0);
      const newest = [...of].reverse();
      const shown = newest.length > MOST ? newest.slice(0, MOST - 1) : newest;
      const rest = newest.slice(shown.length);
      const items = shown.map((w) => ({ ...w, key: w.number }));
      if (rest.length) items.push({ key: "older", sum: rest, open: () => { all.open = true; all.querySelector("summary").focus(); } });
      rows(items);
      table();
    },
  };
}

function car(href) {
  const name = h("a", { class: "car-name" });
  const chip = h("span", { class: "chip" });
  const pause = h("span", { class: "chip paused", hidden: true }, "paused");
  const asleep = h("span", { class: "chip", hidden: true }, "asleep");
  const fills = h("div", { class: "fills" });
  const bars = list(fills, (fill) => fill.limit, () => {
    const text = h("span", { class: "fill-name" });
    const value = h("b");
    const bar = h("span");
    const meter = h("span", { class: "meter", "aria-hidden": "true" }, bar);
    const node = h("div", { class: "fill" }, text, value, meter);
    return {
      node,
      update(fill) {
        say(text, fill.limit);
        say(value, fill.pressure === null ? "?" : percent(fill.pressure));
        attr(node, "title", fill.why || null);
        width(bar, fill.pressure ?? 0);
        attr(meter, "data-level", fill.kind ?? (fill.pressure >= 1 ? "bad" : fill.pressure >= 0.8 ? "warn" : "ok"));
      },
    };
  });
  const figures = {};
  const row = (key, label, wide) => h("div", { class: wide }, h("dt", {}, label), (figures[key] = h("dd")));
  const dl = h("dl", { class: "car-figures" },
    row("waiting", "waiting"), row("flight", "in flight"), row("settled", "settled"), row("inside", "inside"), row("workers", "workers"), row("dead", "dead"), row("taken", "taken", "wide"), row("revision", "revision", "wide"));
  const left_ = h("p", { class: "car-left" });
  const why = h("p", { class: "car-why dim" });
  const node = h("li", { class: "car" }, h("div", { class: "car-head" }, name, chip, pause, asleep), left_, fills, dl, why);
  return {
    node,
    update(w) {
      attr(node, "data-state", w.state);
      attr(node, "data-paused", Boolean(w.pause));
      say(name, `v${w.number}`);
      attr(name, "href", href(w.number));
      attr(name, "aria-label", w.name);
      attr(name, "title", w.name);
      say(chip, stateWord(w.state));
      show(pause, Boolean(w.pause));
      show(asleep, Boolean(w.asleep));
      say(left_, headline(w));
      bars(w.fills.length ? w.fills : progress(w));
      say(figures.waiting, count(w.waiting));
      say(figures.flight, count(w.in_flight));
      say(figures.settled, count(w.settled));
      say(figures.taken, taken(w));
      say(figures.inside, count(w.inside));
      say(figures.workers, workers(w));
      say(figures.revision, w.revision || "–");
      attr(figures.revision, "title", w.revision || null);
      say(figures.dead, w.lost ? `${count(w.dead)}, ${count(w.lost)} lost` : count(w.dead));
      attr(figures.dead, "data-level", w.lost ? "bad" : w.dead ? "warn" : null);
      say(why, w.reason);
      attr(why, "title", w.reason);
    },
  };
}

function sumCar() {
  const title = h("span", { class: "car-name" });
  const states = h("span", { class: "dim" });
  const figures = {};
  const row = (key, label, wide) => h("div", { class: wide }, h("dt", {}, label), (figures[key] = h("dd")));
  const button = h("button", { type: "button" }, "Show them");
  let open = () => {};
  button.addEventListener("click", () => open());
  const node = h("li", { class: "car sum", "data-state": "sum" }, h("div", { class: "car-head" }, title), states,
    h("dl", { class: "car-figures" }, row("waiting", "waiting"), row("flight", "in flight"), row("settled", "settled"), row("inside", "inside"), row("workers", "workers"), row("left", "last one done in", "wide")), button);
  return {
    node,
    update({ sum: of, open: now }) {
      open = now;
      say(title, counted(of.length, "older wagon"));
      const by = {};
      for (const w of of) by[stateOf(w)] = (by[stateOf(w)] ?? 0) + 1;
      say(states, Object.entries(by).map(([state, n]) => `${n} ${state}`).join(", "));
      say(figures.waiting, count(total(of, "waiting")));
      say(figures.flight, count(total(of, "in_flight")));
      say(figures.settled, count(total(of, "settled")));
      say(figures.inside, count(total(of, "inside")));
      say(figures.workers, count(total(of, "workers")));
      const known = of.map((w) => w.drain_left);
      say(figures.left, known.includes(null) ? "?" : span(Math.max(...known)));
    },
  };
}

/** The sum; null if one of them is not known. */
const total = (wagons, key) => wagons.reduce((sum, w) => (sum === null || typeof w[key] !== "number" ? null : sum + w[key]), 0);

const stateOf = (w) => (w.pause ? `${w.state}, paused` : w.asleep ? `${w.state}, asleep` : w.state);
const taken = (w) => count(w.published) + (w.limit ? ` of ${count(w.limit)}` : "");
const workers = (w) => count(w.workers) + (w.wanted !== null && w.wanted !== w.workers ? ` of ${count(w.wanted)}` : "");
const left = (w) => (w.state !== "draining" ? "–" : w.pause ? "paused" : span(w.drain_left));

function headline(w) {
  if (w.pause) return `paused ${w.pause.by ? `by ${w.pause.by}` : ""}`.trim();
  if (w.state === "draining") return w.drain_left !== null ? `${span(w.drain_left)} left` : w.inside ? `${counted(w.inside, "event")} inside` : "time left not known";
  if (w.state === "active") return w.oldest_age ? `oldest event ${span(w.oldest_age)}` : `active for ${span(w.age)}`;
  if (w.state === "ready" || w.state === "provisioning") return `opened ${span(w.age)} ago`;
  return "";
}

/** Of a draining wagon: how much of it is done, what is in its inner channels included. */
function progress(w) {
  if (!["draining", "drained", "removing"].includes(w.state) || !w.published || w.settled === null) return [];
  const inside = w.inside ?? 0;
  return [{ limit: "done", pressure: w.settled / (w.published + inside), why: `${count(w.settled)} of ${count(w.published)} settled, ${count(w.inside)} inside`, kind: "drain" }];
}
