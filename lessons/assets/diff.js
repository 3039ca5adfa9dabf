// The page of a difference: how it is shown, and from hunk to hunk by keyboard. Without this script all of it is there.
"use strict";

const root = document.documentElement;
const tools = document.querySelector(".tools");
const spoken = tools.querySelector("output");
const hasScope = Boolean(tools.querySelector("[data-set=scope]"));
let keys = true;

// What the reader chose is kept for the next page, where the browser lets a page keep anything.
function kept(name) {
  try {
    return localStorage.getItem(`lessons-${name}`);
  } catch {
    return null;
  }
}

function keep(name, value) {
  try {
    localStorage.setItem(`lessons-${name}`, value);
  } catch {
    // then it is forgotten
  }
}

function set(name, value) {
  root.dataset[name] = value;
  for (const button of document.querySelectorAll(`.tools [data-set=${name}]`)) {
    button.setAttribute("aria-pressed", button.dataset.to === value);
  }
  if (name === "scope") {
    document.querySelector(".rest").hidden = value === "all";
  }
  count();
}

function choose(name, value) {
  set(name, value);
  keep(name, value);
}

function hide(side) {
  if (!side || root.dataset.hide === side) {
    delete root.dataset.hide;
  } else {
    root.dataset.hide = side;
  }
  for (const button of tools.querySelectorAll("[data-hide]")) {
    button.setAttribute("aria-pressed", button.dataset.hide === root.dataset.hide);
  }
}

function hunks() {
  return [...document.querySelectorAll("section.hunk")].filter((hunk) => hunk.offsetParent !== null);
}

function count() {
  const number = hunks().length;
  spoken.textContent = `${number} ${number === 1 ? "hunk" : "hunks"}`;
}

// The hunk after the one that has the focus, or else after what is at the top of the window.
function go(by) {
  const all = hunks();
  const here = all.indexOf(document.activeElement.closest(".hunk"));
  let next = here + by;
  if (here < 0) {
    const above = all.filter((hunk) => hunk.getBoundingClientRect().top < 10).length;
    next = by > 0 ? above : above - 1;
  }
  if (next < 0 || next >= all.length) {
    spoken.textContent = next < 0 ? "This is the first hunk" : "This is the last hunk";
    return;
  }
  const hunk = all[next];
  hunk.focus({ preventScroll: true });
  hunk.scrollIntoView({ block: "start" });
  history.replaceState(null, "", `#${hunk.id}`);
  spoken.textContent = `Hunk ${next + 1} of ${all.length}: ${hunk.getAttribute("aria-label")}`;
}

// A link to a hunk shows it, whatever is hidden.
function arrive() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target || !target.matches(".hunk")) {
    return;
  }
  if (target.hasAttribute("data-below")) {
    set("scope", "all");
  }
  if (target.matches("details")) {
    target.open = true;
  } else {
    target.focus({ preventScroll: true });
  }
  target.scrollIntoView({ block: "start" });
}

tools.hidden = false;
set("view", kept("view") || (matchMedia("(min-width: 75rem)").matches ? "side" : "unified"));
if (hasScope) {
  set("scope", kept("scope") || "model");
}
hide("");
arrive();
addEventListener("hashchange", arrive);

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) {
    return;
  }
  const { set: name, to, hide: side, go: by } = button.dataset;
  if (name) {
    choose(name, to);
  } else if (side) {
    hide(side);
  } else if (by) {
    go(Number(by));
  }
});

tools.querySelector("[data-keys]").addEventListener("change", (event) => {
  keys = event.target.checked;
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    tools.querySelector(".keys").open = false;
  }
  if (!keys || event.ctrlKey || event.altKey || event.metaKey || event.target.closest("input, select, textarea")) {
    return;
  }
  const does = {
    j: () => go(1),
    k: () => go(-1),
    1: () => hide("old"),
    2: () => hide("new"),
    v: () => choose("view", root.dataset.view === "side" ? "unified" : "side"),
    m: () => hasScope && choose("scope", root.dataset.scope === "model" ? "all" : "model"),
  }[event.key];
  if (does) {
    does();
    event.preventDefault();
  }
});
