// The form for the server's token. The token goes to the server only; the page keeps nothing of it.

import { post } from "./api.js";
import { attr, h, say } from "./dom.js";

export function loginView(done) {
  const token = h("input", { type: "password", name: "token", autocomplete: "current-password", required: true, "aria-describedby": "login-said" });
  const said = h("p", { class: "refused", id: "login-said", role: "alert" });
  const button = h("button", { type: "submit", class: "main" }, "Sign in");
  const form = h("form", {
    class: "card login",
    async onsubmit(event) {
      event.preventDefault();
      attr(button, "disabled", true);
      say(said, "");
      try {
        done(await post("api/login", { token: token.value }));
      } catch (error) {
        say(said, error.after ? `${error.message} Try again in ${error.after} s.` : error.message);
        token.select();
        token.focus();
      } finally {
        attr(button, "disabled", false);
      }
    },
  }, h("h1", {}, "Sign in"), h("p", { class: "dim" }, "The token that the dashboard was started with."), h("label", {}, h("span", {}, "Token"), token), said, h("div", { class: "dialog-buttons" }, button));
  return { title: "Sign in", node: form, update() {}, shown: () => token.focus() };
}
