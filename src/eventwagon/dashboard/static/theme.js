// Light, dark, or as the system has it. The choice is kept in the browser.

import { attr, say } from "./dom.js";

const KEY = "eventwagon-theme";
const NEXT = { system: "light", light: "dark", dark: "system" };
const SIGNS = { system: "◐", light: "☀", dark: "☾" };

export function themeSwitch(button) {
  let theme = kept();
  const put = () => {
    attr(document.documentElement, "data-theme", theme === "system" ? null : theme);
    say(button, SIGNS[theme]);
    attr(button, "aria-label", `Colours: ${theme === "system" ? "as the system" : theme}. Change to ${NEXT[theme]}`);
    attr(button, "title", `Colours: ${theme === "system" ? "as the system" : theme}`);
  };
  button.addEventListener("click", () => {
    theme = NEXT[theme];
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // private windows may refuse: the choice then lasts until the page is closed
    }
    put();
  });
  put();
}

function kept() {
  try {
    const found = localStorage.getItem(KEY);
    return found in NEXT ? found : "system";
  } catch {
    return "system";
  }
}
