// Figures with their units, and times: local, with UTC in the title. A figure that nobody knows is `?`.

import { attr, h, say } from "./dom.js";

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const clockOnly = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const minutes = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hour12: false });
const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });
const withDay = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

const known = (n) => typeof n === "number" && Number.isFinite(n);

export const count = (n) => (known(n) ? whole.format(n) : "?");

export const counted = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** A duration in seconds, in at most two units. */
export function span(seconds) {
  if (!known(seconds)) return "?";
  const t = Math.max(0, seconds);
  if (t < 0.01) return "0 s";
  if (t < 10) return `${trimmed(t, t < 1 ? 2 : 1)} s`;
  if (t < 120) return `${Math.round(t)} s`;
  const all = Math.round(t);
  if (all < 7200) return both(Math.floor(all / 60), "min", all % 60, "s");
  if (all < 172800) return both(Math.floor(all / 3600), "h", Math.floor((all % 3600) / 60), "min");
  return both(Math.floor(all / 86400), "d", Math.floor((all % 86400) / 3600), "h");
}

const trimmed = (n, digits) => String(Number(n.toFixed(digits)));
const both = (a, unit, b, less) => (b ? `${a} ${unit} ${b} ${less}` : `${a} ${unit}`);

export function rate(n) {
  if (!known(n)) return "?";
  return `${n >= 100 ? whole.format(n) : trimmed(n, n < 10 ? 1 : 0)}/s`;
}

export const percent = (share) => (known(share) ? `${whole.format(share * 100)} %` : "?");

export function moment(at, now = Date.now() / 1000) {
  if (!known(at)) return "?";
  const date = new Date(at * 1000);
  return (Math.abs(now - at) < 43200 && date.getDate() === new Date(now * 1000).getDate() ? clockOnly : withDay).format(date);
}

/** A moment on an axis whose ticks are so many seconds apart. */
export const tick = (at, step) => (step >= 86400 ? day : step >= 60 ? minutes : clockOnly).format(new Date(at * 1000));

export function utc(at) {
  if (!known(at) || Math.abs(at) > 8.64e12) return "";
  return `${new Date(at * 1000).toISOString().replace("T", " ").slice(0, 19)} UTC`;
}

/** A <time> that can be set again. */
export function time(at) {
  const node = h("time");
  setTime(node, at);
  return node;
}

export function setTime(node, at, text = moment(at)) {
  say(node, text);
  attr(node, "title", utc(at) || null);
  attr(node, "datetime", known(at) && Math.abs(at) <= 8.64e12 ? new Date(at * 1000).toISOString() : null);
}
