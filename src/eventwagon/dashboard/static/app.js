// The page: which screen is shown, the state of the connection, and what is spoken.

import { get, post } from "./api.js";
import { attr, h, list, say, show } from "./dom.js";
import { Feed } from "./feed.js";
import { moment } from "./format.js";
import { themeSwitch } from "./theme.js";
import { deadView } from "./view_dead.js";
import { journalView } from "./view_journal.js";
import { loginView } from "./view_login.js";
import { trainView } from "./view_train.js";
import { trainsView } from "./view_trains.js";
import { wagonView } from "./view_wagon.js";
import { capital } from "./verdict.js";

const by = (id) => document.getElementById(id);
const screen = by("screen");
const loading = screen.firstElementChild;
const missing = h("p", { class: "empty" });
let view = null;
let shownRoute = null;
let spoken = {};
let loggedOut = false;
let waiting = false;

const feed = new Feed(() => later(), () => login());

/** Draws once a frame, however many messages came; not at all while nobody looks. */
function later() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    draw();
  });
}

function route() {
  const [path, query = ""] = (location.hash.slice(1) || "/").split("?");
  const parts = path.split("/").filter(Boolean).map(decoded);
  const given = new URLSearchParams(query);
  if (parts[0] !== "train" || !parts[1]) return { name: "trains", train: null, key: "trains", given };
  const train = parts[1];
  if (parts[2] === "wagon" && /^\d{1,12}$/.test(parts[3] ?? "")) return { name: "wagon", train, number: Number(parts[3]), key: `wagon ${parts[3]} ${train}`, given };
  const name = { journal: "journal", dead: "dead" }[parts[2]] ?? "train";
  return { name, train, key: `${name} ${train}`, given };
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function make(to) {
  const base = `#/train/${encodeURIComponent(to.train ?? "")}`;
  switch (to.name) {
    case "train":
      return trainView(to.train, feed, (hash) => (location.hash = hash));
    case "wagon":
      return wagonView(to.train, to.number, feed);
    case "journal":
      return journalView(to.train, feed, to.given, (query) => history.replaceState(null, "", `${base}/journal${query.size ? `?${query}` : ""}`));
    case "dead":
      return deadView(to.train, feed);
    default:
      return trainsView();
  }
}

function put(next, key) {
  view?.leave?.();
  view = next;
  shownRoute = key;
  screen.replaceChildren(ready() ? view.node : loading);
  view.shown?.();
}

function go() {
  if (loggedOut) return;
  const to = route();
  feed.follow(to.train);
  if (to.key === shownRoute) return;
  const moved = shownRoute !== null;
  put(make(to), to.key);
  document.title = `${view.title} · eventwagon`;
  window.scrollTo(0, 0);
  if (moved) screen.focus({ preventScroll: true });
  draw();
}

/** Whether there are figures to show. */
function ready() {
  const to = route();
  return loggedOut || to.name === "wagon" || to.name === "dead" || to.name === "journal" || (to.train === null ? feed.trains !== null : feed.train !== null);
}

function draw() {
  drawLink();
  drawPath();
  if (loggedOut || view === null) return;
  const to = route();
  if (to.train === null && feed.trains?.trains.length === 1 && !feed.trains.trouble && location.hash === "") {
    location.replace(`#/train/${encodeURIComponent(feed.trains.trains[0].train)}`);
    return;
  }
  if (!ready()) return;
  if (to.train !== null && feed.train?.trouble && !Array.isArray(feed.train.wagons)) {
    say(missing, feed.train.trouble.why);
    screen.replaceChildren(missing);
    return;
  }
  if (view.node.parentNode !== screen) screen.replaceChildren(view.node);
  view.update(feed);
  speak();
}

/** Only a change of the verdict is spoken: figures that change each second are not. */
function speak() {
  const of = feed.train ?? null;
  if (of === null) return;
  const word = of.trouble ? "can't be read" : of.verdict.word;
  const before = spoken[of.train];
  if (before !== undefined && before !== word) say(by("spoken"), `${of.train}: ${capital(word)}. ${of.trouble ? of.trouble.why : of.verdict.sentence}`);
  spoken = { [of.train]: word };
}

let lostAt = 0;

function drawLink() {
  const link = by("link");
  attr(link, "data-link", feed.link);
  show(link, !loggedOut); // there is none before the login
  const newest = feed.train?.at ?? feed.trains?.at ?? null;
  say(link.lastElementChild, feed.link === "live" ? "live" : feed.link === "lost" ? "connection lost" : "connecting");
  const lost = feed.link === "lost" && !loggedOut;
  if (lost && lostAt === 0) lostAt = Date.now() / 1000;
  if (!lost) lostAt = 0;
  attr(document.body, "data-stale", lost);
  show(by("lost"), lost);
  say(by("lost"), lost ? `Connection lost at ${moment(lostAt)}.${newest === null ? "" : ` The figures below are of ${moment(newest)}.`} Trying again …` : "");
}

const path = by("path");
const steps = list(path.appendChild(h("ol")), (step) => step.href, () => {
  const link = h("a");
  return {
    node: h("li", {}, link),
    update(step) {
      say(link, step.text);
      attr(link, "href", step.href);
      attr(link, "aria-current", step.here ? "page" : null);
    },
  };
});

function drawPath() {
  const to = route();
  const base = to.train === null ? "" : `#/train/${encodeURIComponent(to.train)}`;
  const dead = feed.train?.dead;
  steps(loggedOut ? [] : [
    { href: "#/", text: "Trains", here: to.name === "trains" },
    ...(to.train === null ? [] : [
      { href: base, text: to.train, here: to.name === "train" },
      ...(to.name === "wagon" ? [{ href: `${base}/wagon/${to.number}`, text: `v${to.number}`, here: true }] : []),
      { href: `${base}/journal`, text: "Journal", here: to.name === "journal" },
      { href: `${base}/dead`, text: dead ? `Dead letters (${dead})` : "Dead letters", here: to.name === "dead" },
    ]),
  ]);
  const session = by("session");
  show(session, feed.session?.login === "done");
  say(session, "Sign out");
}

function login() {
  if (loggedOut) return;
  loggedOut = true;
  document.querySelector("dialog")?.close();
  feed.stop();
  feed.forget();
  feed.link = "connecting";
  put(loginView(signedIn), "login");
  document.title = "Sign in · eventwagon";
  draw();
}

function signedIn(session) {
  feed.session = session;
  loggedOut = false;
  shownRoute = null;
  feed.source = null;
  go();
}

async function begin() {
  themeSwitch(by("theme"));
  by("session").addEventListener("click", async () => {
    try {
      feed.session = await post("api/logout", {});
    } catch (error) {
      say(by("spoken"), error.message);
      return;
    }
    if (feed.session.login === "needed") login();
  });
  window.addEventListener("hashchange", go);
  window.addEventListener("signed-out", login);
  document.addEventListener("visibilitychange", () => document.hidden || later());
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    screen.focus();
  });
  try {
    feed.session = await get("api/session");
    if (feed.session.login === "needed") {
      login();
      return;
    }
  } catch {
    // the stream tries again by itself
  }
  go();
}

begin();
