// Two versions are chosen; the page of each two was made with the site, with the older one first.
"use strict";

for (const form of document.querySelectorAll("form.compare")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const { one, other } = form.elements;
    const chosen = [one, other].sort((a, b) => a.selectedIndex - b.selectedIndex);
    const said = form.querySelector("[role=alert]");
    if (one.value === other.value) {
      said.textContent = "These are the same version. Choose another one.";
      return;
    }
    said.textContent = "";
    location.href = `${form.dataset.file}/${chosen.map((select) => select.value).join("--")}.html`;
  });
}
