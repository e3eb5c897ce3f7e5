// The stream of figures, and what is kept of it: bounded, whatever the page's age.

import { get, trainPath } from "./api.js";

const PAST = 1000;
const JOURNAL = 400;
const POINTS = { hour: 1800, day: 1440 };
const SILENT = 6;
const AGAIN = [500, 1000, 2000, 4000, 8000];

export class Feed {
  /** `changed()` is called after each change; `login()` when the server wants a token. */
  constructor(changed, login) {
    this.changed = changed;
    this.login = login;
    this.session = null;
    this.link = "connecting"; // live, lost
    this.heard = 0; // by this browser's clock, in ms
    this.tries = 0;
    this.wanted = undefined;
    this.forget();
    this.watch = setInterval(() => this.check(), 1000);
  }

  forget() {
    this.trains = null;
    this.train = null;
    this.past = [];
    this.journal = [];
    this.jobs = [];
    this.history = null;
    this.journalVersion = 0;
  }

  /** Follow that train; null: only the overview. */
  follow(train) {
    if (this.wanted === train && this.source) return;
    if (this.wanted !== train) {
      this.train = null;
      this.past = [];
      this.journal = [];
      this.history = null;
    }
    this.wanted = train;
    this.open();
  }

  stop() {
    this.source?.close();
    this.source = null;
    clearTimeout(this.timer);
  }

  open() {
    this.stop();
    const train = this.wanted;
    const source = new EventSource(train && train !== this.unknown ? `api/events?train=${encodeURIComponent(train)}` : "api/events");
    this.source = source;
    this.began = Date.now();
    this.told = false;
    const on = (name, take) =>
      source.addEventListener(name, (event) => {
        if (source !== this.source) return;
        take(JSON.parse(event.data));
        this.heard = Date.now();
        this.told = true;
        this.tries = 0;
        this.link = "live";
        this.changed();
      });
    let asked = false;
    on("session", (session) => (this.session = session));
    on("trains", (trains) => (this.trains = trains));
    on("train", (of) => {
      this.train = of;
      if (!asked && !of.trouble) {
        asked = true;
        this.readHistory(train);
      }
      if (of.point) this.append(of.point);
    });
    on("past", ({ reset, wagons }) => (this.past = (reset ? wagons : [...this.past, ...wagons]).slice(-PAST)));
    on("journal", ({ reset, rows }) => {
      this.journal = (reset ? rows : [...this.journal, ...rows]).slice(-JOURNAL);
      this.journalVersion += 1;
    });
    on("jobs", ({ jobs }) => (this.jobs = jobs));
    source.addEventListener("error", () => {
      if (source !== this.source) return;
      this.lost();
      if (source.readyState === EventSource.CLOSED) this.again();
    });
  }

  lost() {
    if (this.link === "lost") return;
    this.link = "lost";
    this.changed();
  }

  /** The browser has given the stream up: ask why, and open it anew. */
  again() {
    this.stop();
    const refused = Boolean(this.wanted) && !this.told;
    const pause = AGAIN[Math.min(this.tries, AGAIN.length - 1)];
    this.tries += 1;
    this.timer = setTimeout(async () => {
      try {
        const session = await get("api/session");
        this.session = session;
        if (session.login === "needed") {
          this.login();
          return;
        }
        if (!refused || !(await this.isUnknown())) this.open();
      } catch {
        this.again();
      }
    }, pause);
  }

  /** The server has no stream for a name that no train can have: say so, and follow the others. */
  async isUnknown() {
    const train = this.wanted;
    try {
      await get(trainPath(train));
    } catch (error) {
      if (error.status !== 404 || train !== this.wanted) return false;
      this.unknown = train;
      this.train = { train, trouble: { why: error.message } };
      this.open();
      return true;
    }
    return false;
  }

  check() {
    if (!this.source) return;
    const silent = (Date.now() - Math.max(this.heard, this.began)) / 1000;
    const patience = SILENT + 3 * (this.session?.every ?? 1);
    if (silent > patience) this.lost();
    if (silent > 2 * patience + 5) this.again(); // half-open: nobody will tell
  }

  async readHistory(train) {
    try {
      const history = await get(`${trainPath(train)}/history`);
      if (this.wanted !== train) return;
      const late = (this.history?.columns ?? null) && this.history.hour.rows;
      this.history = { columns: history.columns, hour: { ...history.hour, rows: history.hour.rows.slice(-POINTS.hour) }, day: { ...history.day, rows: history.day.rows.slice(-POINTS.day) } };
      const last = this.history.hour.rows.at(-1)?.[0] ?? 0;
      for (const row of late ?? []) if (row[0] > last) this.append(row); // told while it was read
      this.changed();
    } catch {
      // without the past the curves begin now
    }
  }

  append(point) {
    if (this.history === null) this.history = { columns: COLUMNS, hour: { step: 2, rows: [] }, day: { step: 60, rows: [] } };
    const { hour, day } = this.history;
    push(hour, point, POINTS.hour);
    push(day, point, POINTS.day);
  }
}

const COLUMNS = ["at", "arrivals", "settled", "wait_new", "wait_backlog", "oldest", "waiting", "in_flight"];

function push({ step, rows }, point, most) {
  const last = rows.at(-1)?.[0] ?? -Infinity;
  if (point[0] - last < step * 0.9) return;
  rows.push(point);
  if (rows.length > most) rows.splice(0, rows.length - most);
}
