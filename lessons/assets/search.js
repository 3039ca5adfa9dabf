// The search: all words must be there, each as the start of a word. What has them in its title comes first.
"use strict";

const field = document.getElementById("ui-words");
const found = document.getElementById("ui-found");
const list = document.getElementById("ui-results");
const MOST = 50;

function patterns(text) {
  return text.split(/\s+/).filter(Boolean).map((word) => {
    const escaped = word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    return new RegExp(/^\w/.test(word) ? `(?<!\\w)${escaped}` : escaped, "i");
  });
}

function search(text) {
  const wanted = patterns(text);
  list.replaceChildren();
  if (!wanted.length) {
    found.textContent = "";
    return;
  }
  const hits = [];
  for (const [url, title, where, words] of window.searchIndex) {
    const all = `${title} ${where} ${words}`;
    if (wanted.every((pattern) => pattern.test(all))) {
      hits.push([wanted.filter((pattern) => pattern.test(title)).length, url, title, where, words]);
    }
  }
  hits.sort((a, b) => b[0] - a[0]);  // a stable sort: otherwise in the order of the site
  found.textContent = hits.length > MOST ? `${hits.length} found, the first ${MOST}` : `${hits.length} found`;
  for (const [, url, title, where, words] of hits.slice(0, MOST)) {
    const item = document.createElement("li");
    const link = document.createElement("a");
    const place = document.createElement("small");
    const excerpt = document.createElement("p");
    link.href = url;
    link.textContent = title;
    place.textContent = where;
    const places = wanted.map((pattern) => words.search(pattern)).filter((place) => place >= 0);
    const at = words.lastIndexOf(" ", Math.max(0, Math.min(...places, words.length) - 60)) + 1;
    const end = words.indexOf(" ", at + 200);
    mark(excerpt, (at ? "… " : "") + words.slice(at, end < 0 ? undefined : end) + (end < 0 ? "" : " …"), wanted);
    item.append(link, " ", place, excerpt);
    list.append(item);
  }
}

function mark(into, text, wanted) {
  const all = new RegExp(wanted.map((pattern) => pattern.source).join("|"), "gi");
  let at = 0;
  for (const hit of text.matchAll(all)) {
    const marked = document.createElement("mark");
    marked.textContent = hit[0];
    into.append(text.slice(at, hit.index), marked);
    at = hit.index + hit[0].length;
  }
  into.append(text.slice(at));
}

function ask() {
  const text = field.value;
  history.replaceState(null, "", text ? `?q=${encodeURIComponent(text)}` : location.pathname);
  search(text);
}

field.form.addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
field.addEventListener("input", ask);
field.value = new URLSearchParams(location.search).get("q") || "";
search(field.value);
field.focus();
