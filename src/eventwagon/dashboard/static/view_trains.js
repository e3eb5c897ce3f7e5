// All trains, the worst first.

import { attr, h, list, say, show } from "./dom.js";
import { count, counted, rate, span } from "./format.js";
import { capital, level, setSign, sign, waitOf } from "./verdict.js";

const ORDER = { bad: 0, unknown: 1, warn: 2, ok: 3 };

export function trainsView() {
  const summary = h("p", { class: "verdict-line" });
  const mark = sign();
  const line = h("span", { class: "verdict-text" });
  summary.append(mark, line);
  const head = h("div", { class: "verdict" }, summary);
  const filter = h("input", { type: "search", placeholder: "Find a train", "aria-label": "Find a train", oninput: () => draw() });
  const search = h("div", { class: "search", hidden: true }, filter);
  const node_list = h("ol", { class: "trains", "aria-label": "Trains, the worst first" });
  const none = h("p", { class: "empty", hidden: true });
  const fill = list(node_list, (card) => card.train, row);
  let seen = null;

  function draw() {
    if (seen === null) return;
    const { trains, trouble } = seen;
    const cards = [...trains].sort((a, b) => ORDER[levelOf(a)] - ORDER[levelOf(b)] || late(b) - late(a) || (a.train < b.train ? -1 : 1));
    const bad = cards.filter((card) => levelOf(card) !== "ok").length;
    const worst = trouble || !cards.length ? "unknown" : levelOf(cards[0]);
    attr(head, "data-level", worst);
    setSign(mark, worst);
    say(line, trouble ? `The trains can't be read: ${trouble.why}` : bad ? `${bad} of ${counted(cards.length, "train")} ${bad === 1 ? "needs" : "need"} attention` : cards.length ? `${cards.length === 1 ? "The train is" : `All ${cards.length} trains are`} well` : "No train has run here yet");
    show(search, cards.length > 10);
    const wanted = filter.value.trim().toLowerCase();
    const found = cards.filter((card) => card.train.toLowerCase().includes(wanted));
    fill(found.slice(0, 200));
    show(none, !found.length || found.length > 200);
    say(none, cards.length ? (found.length ? `200 of ${found.length} are shown: search for the others.` : `No train's name has "${filter.value}" in it.`) : "Run one: eventwagon run app:train. If trains run already, compare the dashboard's --url with theirs.");
  }

  return {
    title: "Trains",
    node: h("div", {}, h("h1", { class: "unseen" }, "Trains"), head, search, node_list, none),
    update({ trains }) {
      seen = trains;
      draw();
    },
  };
}

const levelOf = (card) => level(card.trouble ? "unknown" : card.verdict.level);
const late = (card) => (card.promise ? (waitOf(card) ?? 0) / card.promise : (card.oldest_age ?? 0) / 1e6);

function row() {
  const mark = sign();
  const name = h("a", { class: "train-name" });
  const word = h("strong");
  const sentence = h("span");
  const cells = {};
  const cell = (key, label) => h("div", {}, h("dt", {}, label), (cells[key] = h("dd")));
  const node = h("li", { class: "train" }, h("div", { class: "train-head" }, mark, h("h2", {}, name), h("p", {}, word, " ", sentence)),
    h("dl", {}, cell("wait", "new events"), cell("oldest", "oldest"), cell("waiting", "waiting"), cell("arrivals", "arriving"), cell("settled", "settled"), cell("wagons", "wagons"), cell("dead", "dead")));
  return {
    node,
    update(card) {
      const of = levelOf(card);
      attr(node, "data-level", of);
      setSign(mark, of);
      say(name, card.train);
      attr(name, "href", `#/train/${encodeURIComponent(card.train)}`);
      say(word, capital(card.verdict.word));
      say(sentence, card.trouble ? card.trouble.why : card.verdict.sentence);
      say(cells.wait, `${span(waitOf(card))}${card.promise === null ? "" : ` of ${span(card.promise)}`}`);
      say(cells.oldest, card.oldest_age === 0 ? "–" : span(card.oldest_age));
      say(cells.waiting, count(card.waiting));
      say(cells.arrivals, rate(card.arrivals));
      say(cells.settled, rate(card.settled));
      say(cells.wagons, count(Object.values(card.states).reduce((sum, n) => sum + n, 0)));
      say(cells.dead, count(card.dead));
      attr(cells.dead, "data-level", card.dead ? "warn" : null);
    },
  };
}
