// The journal's rows, as lists.

import { attr, h, list, say, show } from "./dom.js";
import { setTime, time } from "./format.js";
import { setSign, sign } from "./verdict.js";

/** Rows of the journal, as they are given. */
export function journalRows(label) {
  const node = h("ol", { class: "journal", "aria-label": label });
  const fill = list(node, (row) => row.key, () => {
    const at = time(null);
    const mark = sign();
    const text = h("span", { class: "journal-text" });
    const who = h("span", { class: "journal-who dim" });
    const each = h("li", {}, at, mark, h("span", {}, text, " ", who));
    return {
      node: each,
      update(row) {
        setTime(at, row.at);
        attr(each, "data-level", row.level);
        setSign(mark, row.level === "warn" ? "warn" : "info");
        say(text, row.text);
        attr(text, "title", row.kind);
        say(who, row.who ? `${row.who}, in ${row.process}` : row.process);
        attr(who, "data-person", Boolean(row.who));
      },
    };
  });
  return {
    node,
    update(rows) {
      const often = new Map();
      fill(rows.map((row) => {
        const key = `${row.at} ${row.process} ${row.text}`;
        const n = (often.get(key) ?? 0) + 1;
        often.set(key, n);
        return { ...row, key: `${key} ${n}` };
      }));
    },
  };
}

/** A card with a table that is hidden while there are no rows. `columns`: [title, row => text]. */
export function tableCard(title, columns, most = 100) {
  const body = h("tbody");
  const said = h("span", { class: "dim" });
  const more = h("p", { class: "dim", hidden: true });
  const node = h("section", { class: "card" }, h("h2", {}, `${title} `, said),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}, as a table` }, h("table", {}, h("caption", { class: "unseen" }, title), h("thead", {}, h("tr", {}, columns.map(([name]) => h("th", { scope: "col" }, name)))), body)), more);
  const fill = list(body, (row) => row.key, () => {
    const cells = columns.map((_, i) => (i ? h("td") : h("th", { scope: "row" })));
    return { node: h("tr", {}, cells), update: (row) => columns.forEach(([, text], i) => say(cells[i], text(row))) };
  });
  return {
    node,
    update(rows, note = "") {
      show(node, rows.length > 0);
      say(said, note);
      fill(rows.slice(0, most).map((row, i) => ({ ...row, key: row.name ?? i })));
      show(more, rows.length > most);
      say(more, `and ${rows.length - most} more`);
    },
  };
}
