// Dead letters, grouped by error, with what may be done with each group and with all.

import { deadBar } from "./actions.js";
import { get, trainPath } from "./api.js";
import { cut, h, say, show } from "./dom.js";
import { count, counted, time } from "./format.js";

const PAGE = 50;
const MOST = 500;
const SHORT = 60;

export function deadView(train, feed) {
  const path = `${trainPath(train)}/dead`;
  const said = h("p", { class: "dim", role: "status" }, "Reading …");
  const groups = h("div", { class: "groups" });
  const again = h("button", { type: "button", onclick: () => read() }, "Read again");
  const all = deadBar(feed, train, "all", "all dead letters", () => read());
  let bars = [];
  let ended = false;

  function update() {
    for (const bar of [all, ...bars]) bar.update(feed.session);
  }

  async function read() {
    try {
      const found = await get(path);
      if (ended) return;
      say(said, found.groups.length ? `${counted(found.total, "dead letter")}${found.complete ? "" : " read, there are more"}, by ${counted(found.groups.length, "error")}` : "No dead letters: every event that is done was handled.");
      bars = found.groups.map((each) => deadBar(feed, train, each.key, named(each), () => read()));
      groups.replaceChildren(...found.groups.map((each, i) => group(path, train, each, bars[i].node)));
      show(all.node.parentNode, found.groups.length > 1);
      update();
    } catch (error) {
      if (!ended) say(said, error.message);
    }
  }

  read();
  return {
    title: `Dead letters of ${train}`,
    node: h("div", {}, h("div", { class: "title-row" }, h("h1", {}, "Dead letters"), h("div", { class: "actions" }, h("div", { hidden: true }, all.node), again)), said, groups),
    update,
    leave() {
      ended = true;
    },
  };
}

function named(of) {
  const why = of.because.length > SHORT ? `${of.because.slice(0, SHORT)} …` : of.because;
  return `${counted(of.count, "dead letter")} (${why || "no reason given"})`;
}

function group(path, train, of, actions) {
  const letters = h("ol", { class: "letters" });
  const more = h("button", { type: "button", hidden: true, onclick: () => read() }, "More");
  const trouble = h("p", { class: "refused", role: "alert" });
  let shown = 0;
  let begun = false;
  async function read() {
    begun = true;
    try {
      const found = await get(`${path}/${encodeURIComponent(of.key)}?after=${shown}&limit=${PAGE}`);
      letters.append(...found.letters.map((each) => letter(train, each)));
      shown += found.letters.length;
      show(more, found.more && shown < MOST);
      say(trouble, found.more && shown >= MOST ? `The first ${MOST} are shown. eventwagon dead ${train} lists all.` : "");
    } catch (error) {
      begun = false;
      say(trouble, error.message);
    }
  }
  const wagons = of.wagons[0] === of.wagons[1] ? `in v${of.wagons[0]}` : `in v${of.wagons[0]} to v${of.wagons[1]}`;
  return h("details", { class: "card group", ontoggle: (event) => event.target.open && !begun && read() },
    h("summary", {},
      h("span", { class: "group-count" }, count(of.count)),
      h("span", { class: "group-text" }, h("b", {}, cut(of.because) || "no reason given"), h("span", { class: "dim" }, `${of.channel || "ingress"}, ${wagons}, ${of.types.join(", ")}, the last `, time(of.last_at)))),
    actions, letters, trouble, more);
}

function letter(train, of) {
  const data = of.hidden ? h("p", { class: "dim" }, `Payload of ${counted(of.bytes, "byte")} hidden: the server shows payloads with --payloads`) : h("pre", { tabindex: "0", role: "region", "aria-label": "Payload" }, typeof of.data === "string" ? of.data : JSON.stringify(of.data, null, 2));
  const row = (name, value) => (value === null || value === "" || value === undefined ? null : h("div", {}, h("dt", {}, name), h("dd", {}, value)));
  return h("li", {},
    h("p", { class: "letter-head" }, time(of.at), " ", h("code", {}, of.id)),
    h("p", {}, cut(of.because)),
    h("dl", { class: "counts" }, row("wagon", h("a", { href: `#/train/${encodeURIComponent(train)}/wagon/${of.wagon}` }, `v${of.wagon}`)), row("channel", of.channel || "ingress"), row("attempts", count(of.attempts)), row("type", of.type), row("source", of.source), row("subject", of.subject), row("published", time(of.time)), row("content", of.content_type)),
    data);
}
