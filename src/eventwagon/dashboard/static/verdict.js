// The line that an operator reads first: is it well, since when, and the six figures behind it.

import { attr, h, list, say, sayCoded, show, width } from "./dom.js";
import { count, moment, rate, setTime, span, time } from "./format.js";

export const SIGNS = { ok: "✓", warn: "!", bad: "✕", unknown: "?", info: "i" };
const WORDS = { ok: "well", warn: "needs attention", bad: "in trouble", unknown: "not known" };

export function level(of) {
  return of in WORDS ? of : "unknown";
}

export function sign() {
  return h("i", { class: "sign", "aria-hidden": "true" });
}

export function setSign(node, of) {
  say(node, SIGNS[of] ?? "?");
  attr(node, "data-level", of);
}

export function verdict() {
  const mark = sign();
  const word = h("strong");
  const unseen = h("span", { class: "unseen" });
  const sentence = h("span", { class: "sentence" });
  const since = time(null);
  const sinceLine = h("span", { class: "since dim", title: "The dashboard reads only while somebody looks" }, "seen since ", since, h("span"));
  const trouble = h("p", { class: "stale-line", hidden: true });
  const line = h("p", { class: "verdict-line" }, mark, h("span", { class: "verdict-text" }, word, unseen, " ", sentence, " ", sinceLine));
  const tiles = {
    new: tile("New events wait", true),
    backlog: tile("Backlog done in"),
    oldest: tile("Oldest event"),
    waiting: tile("Waiting"),
    rates: tile("Arriving"),
    settled: tile("Settled"),
    dead: tile("Dead letters"),
  };
  const figures = h("dl", { class: "tiles" }, Object.values(tiles).map((each) => each.node));
  const node = h("div", { class: "verdict" }, line, trouble, figures);
  return {
    node,
    /** `known`: it was read, now or before. */
    update(of, now, known = true) {
      show(figures, known);
      const now_is = level(of.trouble ? "unknown" : of.verdict.level);
      attr(node, "data-level", now_is);
      setSign(mark, now_is);
      say(word, capital(of.verdict.word));
      say(unseen, ` (${WORDS[now_is]})`);
      say(sentence, of.verdict.sentence);
      const at = of.verdict.since ?? null;
      show(sinceLine, at !== null);
      if (at !== null) {
        setTime(since, at);
        say(sinceLine.lastChild, ` (${span(now - at)})`);
      }
      show(trouble, Boolean(of.trouble) && known);
      if (of.trouble) say(trouble, `The figures below are old: the train can't be read since ${moment(of.trouble.since)}.`);
      const { new: fresh, backlog } = of.waits;
      const wait = waitOf(of);
      const share = of.promise && wait !== null ? wait / of.promise : null;
      tiles.new.set(span(wait), `${soFar(of) ? "so far; " : ""}${of.promise === null ? "no promise" : `${span(of.promise)} promised`}`, share > 1 ? "bad" : null, share);
      const stuck = of.wagons.some((w) => w.state === "draining" && w.drain_left === null); // it has a backlog of unknown length
      tiles.backlog.set(backlog.expected !== 0 ? span(backlog.expected) : stuck ? "?" : "no backlog", backlog.oldest ? `oldest ${span(backlog.oldest)}` : "");
      tiles.oldest.set(of.oldest_age === 0 ? "none waits" : span(of.oldest_age), "");
      tiles.waiting.set(count(of.waiting), `${count(of.in_flight)} in flight${of.inside ? `, ${count(of.inside)} inside` : ""}`);
      tiles.rates.set(rate(of.arrivals), "");
      tiles.settled.set(rate(of.settled), "");
      tiles.dead.set(count(of.dead), "", of.dead ? "warn" : null);
      tiles.dead.link(of.dead ? `#/train/${encodeURIComponent(of.train)}/dead` : null);
    },
  };
}

/** What a new event waits: what the observer expects or, as long as that is not known, what the oldest one has waited. */
export const waitOf = ({ waits }) => waits.new.expected ?? waits.new.oldest;

/** Nothing is settled: how long they will wait is not known, only how long the oldest has waited. */
const soFar = ({ waits }) => waits.new.expected === null && waits.new.oldest > 0;

function tile(name, metered = false) {
  const value = h("a");
  const more = h("span", { class: "dim" });
  const bar = h("span", { class: "meter", "aria-hidden": "true", hidden: !metered }, h("span"));
  const node = h("div", { class: "tile" }, h("dt", {}, name), h("dd", {}, value, bar, more));
  return {
    node,
    set(text, below, of = null, share = null) {
      say(value, text);
      say(more, below);
      attr(node, "data-level", of);
      if (metered) {
        show(bar, share !== null);
        width(bar.firstChild, share ?? 0);
        attr(bar, "data-level", share > 1 ? "bad" : share > 0.7 ? "warn" : "ok");
      }
    },
    link(to) {
      attr(value, "href", to);
    },
  };
}

/** What is wrong and what to do, worst first. */
export function notes() {
  const node = h("ul", { class: "notes", "aria-label": "What needs attention" });
  const rows = list(node, (note) => note.key, () => {
    const mark = sign();
    const text = h("span");
    const todo = h("span", { class: "todo" });
    return {
      node: h("li", {}, mark, h("span", {}, text, " ", todo)),
      update(note) {
        attr(mark.parentNode, "data-level", note.level);
        setSign(mark, note.level);
        say(text, note.text);
        sayCoded(todo, note.todo ?? "");
      },
    };
  });
  return {
    node,
    update({ notes: all, verdict: { sentence } }) {
      const of = all.filter((note) => note.todo || !sentence.toLowerCase().includes(note.text.toLowerCase())); // once is enough
      const shown = of.slice(0, 30).map((note, i) => ({ ...note, key: i }));
      show(node, shown.length > 0);
      rows(shown);
    },
  };
}

export const capital = (text) => (text ? text[0].toUpperCase() + text.slice(1) : "");
