// One modal dialog at a time: <dialog> keeps the focus inside, Esc closes it, and the focus goes back to where it was.

import { h } from "./dom.js";

/** Opens it. `content(close)` builds what is inside; `closed()` is called once it is gone. */
export function openDialog({ title, content, closed }) {
  const before = document.activeElement;
  const heading = h("h2", { id: "dialog-title", tabindex: "-1" }, title);
  const node = h("dialog", { "aria-labelledby": "dialog-title" });
  const close = () => node.close();
  window.addEventListener("hashchange", close); // another screen: what it asks is not about that
  node.append(h("div", { class: "dialog-body" }, heading, content(close)));
  node.addEventListener("close", () => {
    node.remove();
    window.removeEventListener("hashchange", close);
    if (before?.isConnected) before.focus();
    closed?.();
  });
  node.addEventListener("click", (event) => {
    if (event.target === node) close(); // the backdrop
  });
  document.body.append(node);
  node.showModal();
  (node.querySelector("[autofocus]") ?? heading).focus();
  return { node, close };
}
