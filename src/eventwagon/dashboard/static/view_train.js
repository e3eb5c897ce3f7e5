// One train: the verdict, the cars, why not, the curves, the wagons over time, and everything else that `status` shows.

import { actionBar, jobsCard } from "./actions.js";
import { cars, stateWord } from "./cars.js";
import { chart, seconds } from "./chart.js";
import { attr, h, list, say, show } from "./dom.js";
import { count, counted, moment, percent, rate, setTime, span, time } from "./format.js";
import { gantt } from "./gantt.js";
import { journalRows, tableCard } from "./rows.js";
import { notes, verdict } from "./verdict.js";

export function trainView(train, feed, go) {
  const base = `#/train/${encodeURIComponent(train)}`;
  const href = (number) => `${base}/wagon/${number}`;
  const top = verdict();
  const bar = actionBar(feed, train);
  const attention = notes();
  const row = cars(href);
  const rates = chart({ title: "Arriving and settled", series: [{ key: "arrivals", name: "arriving", kind: "k-arrivals" }, { key: "settled", name: "settled", kind: "k-settled" }], format: rate });
  const waits = chart({ title: "Waits", series: [{ key: "wait_new", name: "new events", kind: "k-new" }, { key: "wait_backlog", name: "backlog", kind: "k-backlog" }], format: seconds });
  const lives = gantt({ open: (number) => go(href(number)), href, name: (number) => `${train}_v${number}` });
  let period = "hour";
  const periods = h("fieldset", { class: "choice" }, h("legend", {}, "Over time"), ["hour", "day"].map((each) =>
    h("label", {}, h("input", { type: "radio", name: "period", value: each, checked: each === period, onchange: () => { period = each; feed.changed(); } }), h("span", {}, `last ${each}`))));
  const why = whyNot();
  const jobs = jobsCard();
  const latest = journalRows("Latest entries of the journal");
  const facts = aboutCard();
  const processes = tableCard("Processes", [
    ["process", (m) => m.name], ["does", (m) => m.roles.join(", ") || "–"], ["revision", (m) => m.revision || "–"],
    ["workers", (m) => count(m.workers)], ["in hand", (m) => count(m.in_hand)],
    ["trouble", (m) => [m.trouble, m.held ? `${counted(m.held, "worker")} held by handlers that overran` : "", m.caught ? `caught ${counted(m.caught, "failure")}` : ""].filter(Boolean).join("; ") || "–"]], 50);
  const schedules = tableCard("Schedules", [["schedule", (s) => s.name], ["when", (s) => s.when ?? "not declared here"], ["channel", (s) => s.channel || "ingress"], ["last", (s) => at(s.last)], ["next", (s) => at(s.next)], ["missed", (s) => at(s.missed)]], 50);
  const replays = tableCard("Replays and undos", [["job", (r) => r.name]], 50);
  const budgets = tableCard("Budgets", [["budget", (b) => b.name], ["of", (b) => count(b.of)], ["given out", (b) => count(b.held)], ["wanted", (b) => count(b.wants)], ["processes", (b) => count(b.processes)]], 50);
  const more = h("a", { href: `${base}/journal` }, "The whole journal");
  const silent = h("p", { class: "empty" }, "Nothing yet.");
  const at_ = time(null);
  const readAt = h("p", { class: "dim read-at" }, "Read at ", at_);
  let journalSeen = -1;

  const rest = h("div", { hidden: true },
      h("section", { class: "section", "aria-label": "The train" }, h("h2", { class: "unseen" }, "The train"), row.node),
      h("div", { class: "columns" }, why.node, jobs.node),
      periods,
      h("div", { class: "columns" }, rates.node, waits.node),
      replays.node,
      lives.node,
      h("section", { class: "card" }, h("div", { class: "chart-head" }, h("h2", {}, "Journal"), more), silent, latest.node),
      facts.node,
      h("div", { class: "columns" }, processes.node, schedules.node, budgets.node));
  return {
    title: train,
    node: h("div", { class: "train-page" },
      h("div", { class: "top" }, h("div", { class: "title-row" }, h("h1", {}, train), bar.node), top.node, attention.node),
      rest,
      readAt),
    update({ train: of, session, past, journal, journalVersion, jobs: all, history }) {
      if (of === null) return;
      const known = !of.trouble || of.wagons.length > 0 || of.waiting !== null; // it was read, now or before
      show(rest, known);
      top.update(of, of.at, known);
      bar.update(session, of.paused, known && !of.removing);
      attention.update(of);
      row.update(of.wagons);
      why.update(of, href);
      jobs.update(all.filter((job) => job.train === train));
      if (history) {
        const { step, rows } = history[period];
        const column = (name) => rows.map((each) => each[history.columns.indexOf(name)]);
        const when = column("at");
        rates.update({ at: when, step, values: { arrivals: column("arrivals"), settled: column("settled") } });
        waits.update({ at: when, step, values: { wait_new: column("wait_new"), wait_backlog: column("wait_backlog") }, promise: of.promise });
      }
      lives.update({ now: of.at, period, wagons: lifetimes(past, of.wagons) });
      if (journalSeen !== journalVersion) {
        journalSeen = journalVersion;
        show(silent, !journal.length);
        latest.update(journal.slice(-8).reverse());
      }
      facts.update(of);
      processes.update(of.members, of.head);
      schedules.update(of.schedules);
      budgets.update(of.budgets);
      replays.update(of.replays.map((name) => ({ name })));
      show(readAt, of.at > 0); // a train that is not there was never read
      setTime(at_, of.at);
    },
  };
}

const at = (when) => (when === null ? "–" : moment(when));

function lifetimes(past, live) {
  const known = new Set(live.map((w) => w.number));
  return [...past.filter((w) => !known.has(w.number)), ...live].map((w) => ({
    number: w.number,
    state: stateWord(w.state),
    openedAt: w.opened_at,
    activeAt: w.active_at,
    closedAt: w.closed_at,
    drainedAt: w.drained_at,
    removedAt: w.removed_at ?? (w.state === "removed" ? w.drained_at ?? w.closed_at ?? w.opened_at : null),
    published: w.published,
    failed: w.state === "failed",
  }));
}

/** The last refused decision, with its figures. */
function whyNot() {
  const sentence = h("p", { class: "why-sentence" });
  const figures = h("dl", { class: "counts" });
  const cell = (name) => {
    const dd = h("dd");
    figures.append(h("div", {}, h("dt", {}, name), dd));
    return dd;
  };
  const [pressure, measured, lasted, when] = [cell("pressure"), cell("figures"), cell("lasted"), cell("refused at")];
  const at_ = time(null);
  when.append(at_);
  const over = h("p", { class: "dim" });
  const node = h("section", { class: "card" }, h("h2", {}, "Why not?"), sentence, figures, over);
  const rest = h("ul", { class: "asked" });
  node.append(rest);
  const asked = list(rest, (each) => each.key, () => {
    const line = h("li");
    return { node: line, update: (each) => say(line, each.text) };
  });
  return {
    node,
    update(of) {
      const r = of.refusal;
      attr(node, "data-level", r?.current ? "warn" : null);
      show(figures, r !== null);
      say(sentence, r === null ? "No decision was refused, as far as the journal goes back." : r.kind === "switch" ? `No switch${r.number === null ? "" : ` from v${r.number}`}: ${r.because}` : `No wagon opened: ${r.because}`);
      if (r !== null) {
        say(pressure, r.pressure === null ? "–" : percent(r.pressure));
        say(measured, r.figures || "–");
        say(lasted, span(r.lasted + (r.current ? Math.max(0, of.at - r.at) : 0)));
        setTime(at_, r.at);
      }
      say(over, r === null ? "" : r.current ? "It still holds." : "It is over: a wagon was switched to or opened since.");
      asked([of.asked && `A switch is requested: ${of.asked}`, of.watched && `Watched: ${of.watched}`].filter(Boolean).map((text) => ({ key: text, text })));
    },
  };
}

const SECONDS = new Set(["keep_warm", "idle_after", "cooldown", "hold"]);

/** A setting in words. */
function worded(name, value) {
  if (value === null) return "none";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (SECONDS.has(name)) return span(Number(value));
  if (name === "max_event_bytes") return counted(Number(value), "byte");
  return String(value);
}

/** How the train is declared. */
function aboutCard() {
  const rows = h("dl", { class: "about" });
  const fill = list(rows, ([name]) => name, ([name]) => {
    const value = h("dd");
    return { node: h("div", {}, h("dt", {}, name), value), update: ([, text]) => say(value, text) };
  });
  return {
    node: h("section", { class: "card" }, h("h2", {}, "Declaration"), rows),
    update(of) {
      const { limit, workers, ...others } = of.declared;
      fill([
        ["limit", of.limit ?? limit ?? "not declared"],
        ["workers", of.workers_text || workers || "?"],
        ["most wagons", of.cap === null ? "?" : count(of.cap)],
        ...Object.entries(others).filter(([name]) => name !== "wagons").map(([name, value]) => [name.replaceAll("_", " "), worded(name, value)]),
        ["revision", of.revision || "any"],
        ["channels", of.channels.join(", ") || "none but the ingress"],
        ["for later", of.later?.count === null || of.later === null ? "this broker keeps none" : `${counted(of.later.count, "event")}${of.later.next_at === null ? "" : `, the next at ${moment(of.later.next_at)}`}`],
        ["manifest", `version ${count(of.version)}`],
        ["at", of.url],
      ]);
    },
  };
}
