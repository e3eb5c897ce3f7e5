// The whole journal, searchable: each decision and refusal with its figures, and who asked for it.

import { get, trainPath } from "./api.js";
import { h, say, show } from "./dom.js";
import { journalRows } from "./rows.js";

const PAGE = 200;
const MOST = 1000;

export function journalView(train, feed, query, replace) {
  const search = h("input", { type: "search", name: "q", value: query.get("q") ?? "", placeholder: "Words, a name, a kind: Switched, anna, breaker", "aria-label": "Search the journal", oninput: () => soon() });
  const wagon = h("input", { type: "number", name: "wagon", min: "1", value: query.get("wagon") ?? "", placeholder: "wagon", "aria-label": "Only this wagon, by number", oninput: () => soon() });
  const rows = journalRows("Journal, newest first");
  const none = h("p", { class: "empty" }, "Reading …");
  const older = h("button", { type: "button", onclick: () => read(true) }, "Older");
  const said = h("p", { class: "dim", role: "status" });
  let found = [];
  let more = false;
  let asked = 0;
  let timer;
  let seen = -1;

  function soon() {
    clearTimeout(timer);
    timer = setTimeout(() => {
      const next = new URLSearchParams();
      if (search.value.trim()) next.set("q", search.value.trim());
      if (wagon.value) next.set("wagon", wagon.value);
      replace(next);
      read(false);
    }, 250);
  }

  async function read(further) {
    const mine = ++asked;
    const ask = new URLSearchParams({ limit: PAGE });
    if (search.value.trim()) ask.set("q", search.value.trim());
    if (wagon.value) ask.set("wagon", wagon.value);
    if (further && found.length) ask.set("before", found[0].at);
    try {
      const answer = await get(`${trainPath(train)}/journal?${ask}`);
      if (mine !== asked) return;
      found = further ? [...answer.rows, ...found].slice(0, MOST) : answer.rows;
      more = answer.more && found.length < MOST;
      rows.update([...found].reverse());
      show(none, !found.length);
      say(none, "Nothing in the journal fits.");
      show(older, more);
      say(said, search.value.trim() || wagon.value ? `${found.length}${more ? " or more" : ""} found` : "");
    } catch (error) {
      if (mine !== asked) return;
      show(none, true);
      say(none, error.message);
    }
  }

  show(older, false);
  return {
    title: `Journal of ${train}`,
    node: h("div", {}, h("div", { class: "title-row" }, h("h1", {}, "Journal")), h("form", { class: "search", role: "search", onsubmit: (event) => event.preventDefault() }, search, wagon), said, h("section", { class: "card" }, none, rows.node, older)),
    update({ journalVersion }) {
      if (journalVersion === seen) return; // read anew when it has grown, unless somebody reads further down
      seen = journalVersion;
      if (found.length <= PAGE) read(false);
    },
    leave() {
      asked += 1;
      clearTimeout(timer);
    },
  };
}
