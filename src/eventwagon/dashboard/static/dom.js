// Elements from plain values. Text is only ever set as text: no markup of an event, a name or an error is parsed.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. `props`: attributes; `class`; `on…` listeners; null and false leave one out. */
export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** An SVG element. */
export function s(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const LONGEST = 4000;

/** A text that can be laid out: an error may be a megabyte. */
export const cut = (text) => (text.length > LONGEST ? `${text.slice(0, LONGEST)} … (${text.length} characters)` : text);

/** Sets a text only if it differs, so that nothing is laid out anew and no screen reader speaks. */
export function say(node, text) {
  const said = text === null || text === undefined ? "" : cut(String(text));
  if (node.textContent !== said) node.textContent = said;
}

/** The same; what stands between backticks is shown as code. */
export function sayCoded(node, text) {
  const parts = cut(String(text)).split("`");
  if (node.textContent === parts.join("")) return;
  node.replaceChildren(...parts.map((part, i) => (i % 2 ? h("code", {}, part) : part)));
}

export function attr(node, name, value) {
  if (value === null || value === undefined || value === false) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
  } else {
    const set = value === true ? "" : String(value);
    if (node.getAttribute(name) !== set) node.setAttribute(name, set);
  }
}

export function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

/** A share from 0 to 1 as a width, clipped. */
export function width(node, share) {
  const percent = `${Math.round(Math.max(0, Math.min(1, share)) * 1000) / 10}%`;
  if (node.style.width !== percent) node.style.width = percent;
}

/** Children of `parent` kept in step with `items`: those of keys that stay are updated in place, never made anew.
 * `make(item)` returns {node, update(item)}. */
export function list(parent, keyOf, make) {
  const known = new Map();
  return (items) => {
    const seen = new Set();
    let before = parent.firstChild;
    for (const item of items) {
      const key = keyOf(item);
      if (seen.has(key)) continue;
      seen.add(key);
      let each = known.get(key);
      if (each === undefined) known.set(key, (each = make(item)));
      each.update?.(item);
      if (each.node === before) before = before.nextSibling;
      else parent.insertBefore(each.node, before);
    }
    for (const [key, each] of known)
      if (!seen.has(key)) {
        each.node.remove();
        known.delete(key);
      }
  };
}
