// Steering: a preview that counts, a confirmation, and what became of it. Also the list of the latest actions.

import { get, post, trainPath } from "./api.js";
import { openDialog } from "./dialog.js";
import { attr, h, list, say, sayCoded, show } from "./dom.js";
import { count, setTime, span, time } from "./format.js";
import { setSign, sign } from "./verdict.js";

const VERBS = { switch: "Switch", drain: "Drain", pause: "Pause", resume: "Resume", retry: "Retry", drop: "Drop" };
const STATES = { running: "under way", done: "done", failed: "failed", waiting: "goes on by itself" };
const LEVELS = { running: "info", done: "ok", failed: "bad", waiting: "warn" };
const BY = "eventwagon-by";

/** The buttons of a train, or of one wagon. update(session, paused). */
export function actionBar(feed, train, wagon = null) {
  const verbs = wagon === null ? ["switch", "drain", "pause", "resume"] : ["pause", "resume"];
  const buttons = Object.fromEntries(verbs.map((verb) => [verb, h("button", { type: "button", "data-verb": verb, onclick: () => act(feed, ofTrain(train, verb, wagon)) }, `${VERBS[verb]} …`)]));
  const readOnly = h("p", { class: "dim read-only" }, "Read-only");
  const node = h("div", { class: "actions", role: "group", "aria-label": wagon === null ? "Actions on the train" : "Actions on the wagon" }, Object.values(buttons), readOnly);
  return {
    node,
    update(session, paused, usable = true) {
      const can = Boolean(session?.can_act) && usable;
      for (const [verb, button] of Object.entries(buttons)) show(button, can && (verb === "pause" ? !paused : verb === "resume" ? paused : true));
      show(readOnly, !session?.can_act);
      attr(readOnly, "title", session?.login === "off" ? "Started without a token: nobody can act here" : null);
    },
  };
}

/** The buttons of a group of dead letters, or of all of them (key "all"). update(session). `after` is called once a dialog that did something is closed. */
export function deadBar(feed, train, key, name, after) {
  const buttons = ["retry", "drop"].map((verb) => h("button", { type: "button", "data-verb": verb, onclick: () => act(feed, ofDead(train, verb, key, name), after) }, `${VERBS[verb]} …`));
  const node = h("div", { class: "actions", role: "group", "aria-label": `Actions on ${name}` }, buttons);
  return {
    node,
    update(session) {
      show(node, Boolean(session?.can_act));
    },
  };
}

/** What is asked for: its title, where it is previewed and posted, and what is posted besides the reason and the name. */
function ofTrain(train, verb, wagon) {
  return {
    verb,
    title: `${VERBS[verb]} ${wagon === null ? train : `wagon v${wagon} of ${train}`}`,
    path: `${trainPath(train)}/actions/${verb}`,
    query: (publishing) => new URLSearchParams(wagon === null ? { publishing } : { publishing, wagon }),
    body: (publishing) => ({ wagon, publishing }),
    publishing: verb === "pause" && wagon === null,
  };
}

function ofDead(train, verb, key, name) {
  return {
    verb,
    title: `${VERBS[verb]} ${name} of ${train}`,
    path: `${trainPath(train)}/dead/${encodeURIComponent(key)}/actions/${verb}`,
    query: () => new URLSearchParams(),
    body: (_, found) => ({ digest: found.digest }), // exactly what was counted
    publishing: false,
  };
}

function act(feed, of, after = () => {}) {
  const { verb } = of;
  let job = null;
  let stop = () => {};
  openDialog({
    title: of.title,
    closed: () => {
      stop();
      if (job !== null) after();
    },
    content(close) {
      const effects = h("ul", { class: "effects" });
      const warnings = h("ul", { class: "notes" });
      const counts = h("dl", { class: "counts" });
      const refused = h("p", { class: "refused", role: "alert" });
      const preview = h("div", { class: "preview", "aria-live": "polite" }, h("p", { class: "empty" }, "Counting …"));
      const publishing = h("input", { type: "checkbox", name: "publishing", onchange: () => count_() });
      const reason = h("input", { name: "reason", maxlength: "500", autocomplete: "off", placeholder: "by hand" });
      const by = h("input", { name: "by", maxlength: "200", autocomplete: "name", value: remembered() });
      const confirm = h("button", { type: "submit", class: "main", disabled: true }, VERBS[verb]);
      const cancel = h("button", { type: "button", onclick: close, autofocus: true }, "Cancel");
      const form = h("form", {},
        preview,
        of.publishing ? h("label", { class: "check" }, publishing, h("span", {}, "Refuse publishers too")) : null,
        h("label", {}, h("span", {}, "Reason, for the journal"), reason),
        h("label", {}, h("span", {}, "Your name, for the journal"), by),
        refused,
        h("div", { class: "dialog-buttons" }, cancel, confirm));
      const outcome = h("div", { class: "outcome", hidden: true });

      let asked = 0;
      let counted = null;
      async function count_() {
        const mine = ++asked;
        attr(confirm, "disabled", true);
        try {
          const found = await get(`${of.path}?${of.query(publishing.checked)}`);
          if (mine !== asked) return;
          counted = found;
          preview.replaceChildren(counts, effects, warnings);
          counts.replaceChildren(...figures(found.counts));
          effects.replaceChildren(...found.effects.map((text) => h("li", {}, text)));
          warnings.replaceChildren(...found.warnings.map(warning));
          show(warnings, found.warnings.length > 0);
          sayCoded(refused, found.allowed ? "" : found.refused);
          attr(confirm, "disabled", !found.allowed);
        } catch (error) {
          if (mine === asked) fail(error);
        }
      }

      function fail(error) {
        preview.querySelector(".empty")?.remove();
        say(refused, error.message);
      }

      form.addEventListener("submit", async (event) => {
        event.preventDefault();
        if (confirm.disabled) return;
        attr(confirm, "disabled", true);
        remember(by.value);
        say(refused, "");
        try {
          ({ job } = await post(of.path, { reason: reason.value.trim(), by: by.value.trim(), ...of.body(publishing.checked, counted) }));
          follow();
        } catch (error) {
          say(refused, error.message);
          attr(confirm, "disabled", false);
        }
      });

      function follow() {
        const { node, update } = jobLine();
        const done = h("button", { type: "button", class: "main", onclick: close }, "Close");
        const goesOn = h("p", { class: "dim" }, "You can close this: it goes on. The train's page lists it among the latest actions.");
        outcome.replaceChildren(h("div", { role: "status" }, node), goesOn, h("div", { class: "dialog-buttons" }, done));
        show(form, false);
        show(outcome, true);
        done.focus();
        const look = () => {
          const now = feed.jobs.find((each) => each.id === job.id) ?? job;
          update(now);
          show(goesOn, now.state === "running");
        };
        look();
        const timer = setInterval(look, 300);
        stop = () => clearInterval(timer);
      }

      count_();
      return h("div", {}, form, outcome);
    },
  });
}

const COUNTS = { letters: "dead letters", waiting: "waiting", in_flight: "in flight", inside: "inside", wagons: "wagons", workers: "workers", processes: "processes" };

function figures(counts) {
  return Object.entries(COUNTS).filter(([key]) => key in counts).map(([key, name]) => h("div", {}, h("dt", {}, name), h("dd", {}, count(counts[key]))));
}

function warning(text) {
  const mark = sign();
  setSign(mark, "warn");
  return h("li", { "data-level": "warn" }, mark, h("span", {}, text));
}

function remembered() {
  try {
    return localStorage.getItem(BY) ?? "";
  } catch {
    return "";
  }
}

function remember(name) {
  try {
    localStorage.setItem(BY, name);
  } catch {
    // then it is typed again
  }
}

function jobLine() {
  const mark = sign();
  const title = h("b");
  const text = h("span", { class: "job-text" });
  const at = time(null);
  const took = h("span");
  const node = h("div", { class: "job" }, mark, h("div", {}, title, h("br"), text, h("span", { class: "dim job-at" }, at, took)));
  return {
    node,
    update(job) {
      attr(node, "data-state", job.state);
      attr(node, "data-level", LEVELS[job.state] ?? "info");
      setSign(mark, LEVELS[job.state] ?? "info");
      say(title, `${VERBS[job.verb] ?? job.verb}${job.wagon === null ? "" : ` v${job.wagon}`}: ${STATES[job.state] ?? job.state}`);
      sayCoded(text, job.text);
      setTime(at, job.began_at);
      say(took, `${job.ended_at === null ? "" : `, took ${span(job.ended_at - job.began_at)}`}${job.by ? `, by ${job.by}` : ""}${job.reason ? `: ${job.reason}` : ""}`);
    },
  };
}

/** The latest actions on a train, with what became of each. */
export function jobsCard() {
  const node = h("ul", { class: "jobs" });
  const card = h("section", { class: "card", hidden: true }, h("h2", {}, "Latest actions"), node);
  const fill = list(node, (job) => job.id, () => {
    const line = jobLine();
    return { node: h("li", {}, line.node), update: line.update };
  });
  return {
    node: card,
    update(jobs) {
      show(card, jobs.length > 0);
      fill(jobs.slice(0, 5));
    },
  };
}
