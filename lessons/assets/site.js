// On every page: the menu of a narrow window, and the glossary's pop-ups. Nothing is asked of any server.
"use strict";

document.documentElement.classList.remove("no-js");

addEventListener("DOMContentLoaded", () => {
  const menu = document.getElementById("ui-menu");
  if (menu) {
    const wide = matchMedia("(min-width: 56.01rem)");
    const fit = () => { menu.open = wide.matches; };
    wide.addEventListener("change", fit);
    fit();
  }
  showGlossary();
});

// A link to a word of the glossary shows what it means, as long as the pointer or the focus is on it. The pop-up itself
// may be pointed at, so that it can be read with a magnifier, and Escape dismisses it (WCAG 2.2, 1.4.13).
function showGlossary() {
  let popup = null;
  let link = null;
  let leaving = 0;

  function hide() {
    clearTimeout(leaving);
    if (popup) {
      popup.remove();
      link.removeAttribute("aria-describedby");
      popup = link = null;
    }
  }

  function show(term) {
    clearTimeout(leaving);
    const said = (window.glossary || {})[term.hash.slice(1)];
    if (term === link || !said) {
      return;
    }
    hide();
    link = term;
    popup = document.createElement("div");
    popup.className = "popup";
    popup.id = "ui-popup";
    popup.setAttribute("role", "tooltip");
    const name = document.createElement("b");
    name.textContent = said[0];
    popup.append(name, said[1]);
    document.body.append(popup);
    const at = link.getClientRects()[0];
    const left = Math.min(at.left, document.documentElement.clientWidth - popup.offsetWidth - 8);
    const below = at.bottom + 6 + popup.offsetHeight < innerHeight || at.top < popup.offsetHeight + 6;
    popup.style.left = `${Math.max(8, left) + scrollX}px`;
    popup.style.top = `${(below ? at.bottom + 2 : at.top - popup.offsetHeight - 2) + scrollY}px`;
    link.setAttribute("aria-describedby", "ui-popup");
    popup.addEventListener("pointerenter", () => clearTimeout(leaving));
    popup.addEventListener("pointerleave", leave);
  }

  function leave() {
    clearTimeout(leaving);
    leaving = setTimeout(hide, 300);
  }

  for (const term of document.querySelectorAll("a.term")) {
    term.addEventListener("pointerenter", (event) => event.pointerType === "touch" || show(term));
    term.addEventListener("pointerleave", leave);
    term.addEventListener("focus", () => show(term));
    term.addEventListener("blur", leave);
  }
  addEventListener("keydown", (event) => event.key === "Escape" && hide());
}
