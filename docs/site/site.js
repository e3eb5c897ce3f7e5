// Code that is wider than its place can be scrolled with the keyboard.
document.addEventListener("DOMContentLoaded", () => {
  for (const code of document.querySelectorAll("pre > code, .md-typeset__scrollwrap")) code.tabIndex = 0;
});
