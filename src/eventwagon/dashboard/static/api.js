// Calls to the server. Every address is relative to the page's own, which may be mounted anywhere.

/** What the server refused, in its own words. */
class Refused extends Error {
  constructor(status, text, after) {
    super(text);
    this.status = status;
    this.after = after;
  }
}

export const get = (path, signal) => call(path, { signal });

export const post = (path, body) =>
  call(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Eventwagon": "dashboard" },
    body: JSON.stringify(body),
  });

async function call(path, options) {
  let answer;
  try {
    answer = await fetch(path, { credentials: "same-origin", cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The dashboard's server does not answer. Try again once it is back.");
  }
  let said = null;
  try {
    said = await answer.json();
  } catch {
    // a proxy's page: the status says enough
  }
  if (answer.status === 401 && path !== "api/login") window.dispatchEvent(new Event("signed-out"));
  if (!answer.ok) throw new Refused(answer.status, said?.error ?? `The server answered ${answer.status}.`, answer.headers.get("Retry-After"));
  return said;
}

export const trainPath = (train) => `api/trains/${encodeURIComponent(train)}`;
