// One wagon: its figures, whether they add up, its life, who works at it, and what the journal says of it.

import { get, trainPath } from "./api.js";
import { actionBar } from "./actions.js";
import { stateWord } from "./cars.js";
import { attr, h, list, say, show, width } from "./dom.js";
import { count, percent, rate, setTime, span, time } from "./format.js";
import { journalRows, tableCard } from "./rows.js";
import { setSign, sign } from "./verdict.js";

const EVERY = 2000;
const LIFE = [["opened_at", "opened", "opened_because"], ["ready_at", "ready"], ["active_at", "active"], ["closed_at", "cut off", "closed_because"], ["sealed_at", "sealed"], ["drained_at", "drained"], ["removed_at", "removed"]];

export function wagonView(train, number, feed) {
  const title = h("h1", {}, `${train}_v${number}`);
  const chip = h("span", { class: "chip", hidden: true });
  const reason = h("p", { class: "wagon-reason" });
  const bar = actionBar(feed, train, number);
  const mark = sign();
  const balance = h("p", { class: "balance" }, mark, h("span"));
  const trouble = h("p", { class: "refused", role: "alert" });
  const channels = tableCard("Channels", [
    ["channel", (c) => c.title], ["published", (c) => count(c.published)], ["settled", (c) => count(c.settled)], ["in flight", (c) => count(c.in_flight)],
    ["waiting", (c) => count(c.waiting)], ["lost", (c) => count(c.lost)], ["difference", (c) => count(c.difference)], ["oldest waits", (c) => c.oldest], ["trouble", (c) => c.trouble || "–"]], 200);
  const life = h("ol", { class: "life" });
  const steps = list(life, (step) => step.key, (step) => {
    const at = time(null);
    const took = h("span", { class: "dim" });
    const why = h("span", { class: "dim why" });
    const node = h("li", {}, h("b", {}, step.name), h("span", {}, at, " ", took), why);
    return { node, update(now) { setTime(at, now.at); say(took, now.took); say(why, now.why); } };
  });
  const facts = h("dl", { class: "tiles" });
  const tiles = list(facts, ([name]) => name, ([name]) => {
    const [value, more] = [h("span"), h("span", { class: "dim" })];
    return { node: h("div", { class: "tile" }, h("dt", {}, name), h("dd", {}, value, more)), update: ([, text, below]) => { say(value, text); say(more, below ?? ""); } };
  });
  const fills = h("div", { class: "fills" });
  const bars = list(fills, (fill) => fill.limit, () => {
    const [name, value, why, inner] = [h("span", { class: "fill-name" }), h("b"), h("span", { class: "dim fill-why" }), h("span")];
    const meter = h("span", { class: "meter", "aria-hidden": "true" }, inner);
    return {
      node: h("div", { class: "fill" }, name, value, meter, why),
      update(fill) {
        say(name, fill.limit);
        say(value, fill.pressure === null ? "?" : percent(fill.pressure));
        say(why, fill.why);
        width(inner, fill.pressure ?? 0);
        attr(meter, "data-level", fill.pressure >= 1 ? "bad" : fill.pressure >= 0.8 ? "warn" : "ok");
      },
    };
  });
  const limits = h("section", { class: "card", hidden: true }, h("h2", {}, "Limits"), fills);
  const workers = tableCard("Workers by process", [["process", (w) => w.process], ["workers", (w) => count(w.workers)], ["in hand", (w) => count(w.in_hand)]]);
  const journal = journalRows("Journal of this wagon");
  const head = h("div", { class: "verdict" }, reason, balance, facts);
  const rest = h("div", { hidden: true },
    head, limits, channels.node,
    h("div", { class: "columns" }, h("section", { class: "card" }, h("h2", {}, "Life"), life), workers.node),
    h("section", { class: "card" }, h("h2", {}, "Journal"), journal.node));
  let timer;
  let known = null;
  let ended = false;

  async function read() {
    clearTimeout(timer);
    try {
      if (!document.hidden || known === null) {
        known = await get(`${trainPath(train)}/wagons/${number}`);
        if (ended) return;
        say(trouble, "");
        draw();
      }
    } catch (error) {
      if (ended) return;
      say(trouble, error.message);
      if (error.status === 404) return;
    }
    if (!ended && (known === null || known.live)) timer = setTimeout(read, EVERY);
  }

  function draw() {
    show(rest, true);
    show(chip, true);
    const { wagon, past, live } = known;
    const w = wagon ?? past;
    const now = feed.train?.at ?? Date.now() / 1000;
    say(title, w.name);
    say(chip, w.pause ? `${stateWord(w.state)}, paused` : stateWord(w.state));
    attr(chip, "data-state", w.state);
    say(reason, w.reason);
    show(balance, Boolean(known.balance.sentence));
    attr(head, "data-level", known.balance.ok === false || w.lost ? "bad" : w.pause ? "warn" : w.state === "failed" ? "bad" : "ok");
    setSign(mark, known.balance.ok === null ? "unknown" : known.balance.ok ? "ok" : "bad");
    attr(balance, "data-level", known.balance.ok === null ? "unknown" : known.balance.ok ? "ok" : "bad");
    say(balance.lastChild, `${known.balance.sentence}${known.balance.ok ? ": the figures add up" : known.balance.ok === false ? ": the figures do not add up" : ""}`);
    bar.update(feed.session, Boolean(wagon?.pause && !wagon.pause.whole), live && !(wagon?.pause?.whole));
    tiles([
      ["Taken", count(w.published), w.limit ? `of ${count(w.limit)}` : ""],
      ["Settled", count(w.settled)],
      ...(live ? [["In flight", count(w.in_flight)], ["Waiting", count(w.waiting)], ["Inside", count(w.inside)]] : []),
      ["Dead letters", count(w.dead)],
      ["Lost", count(w.lost)],
      ...(live ? [["Workers", count(w.workers), w.wanted !== null && w.wanted !== w.workers ? `of ${count(w.wanted)}` : ""], ["Settled per second", rate(w.rate)], ["Time left", w.state === "draining" ? span(w.drain_left) : "–"]] : []),
      ["Revision", w.revision || "–"],
    ]);
    show(limits, Boolean(wagon?.fills.length));
    bars(wagon?.fills ?? []);
    channels.update(known.channels.map((c) => ({ ...c, title: c.name === "" ? "ingress" : c.name, oldest: c.oldest_at === null || c.oldest_at === undefined ? "–" : span(now - c.oldest_at) })));
    let before = null;
    steps(LIFE.filter(([key]) => typeof w[key] === "number").map(([key, name, why]) => {
      const took = before === null ? "" : `after ${span(w[key] - before)}`;
      before = w[key];
      return { key, name, at: w[key], took, why: why ? w[why] : "" };
    }));
    workers.update(known.workers);
    journal.update([...known.journal].reverse());
  }

  bar.update(feed.session, false, false);
  read();
  return {
    title: `${train}_v${number}`,
    node: h("div", {},
      h("div", { class: "title-row" }, h("div", { class: "with-chip" }, title, chip), bar.node),
      trouble, rest),
    update() {},
    leave() {
      ended = true;
      clearTimeout(timer);
    },
  };
}

