"use strict";
(() => {
  document.documentElement.classList.add("js");
  const cards = [...document.querySelectorAll(".card")];
  const tabs = [...document.querySelectorAll(".tabs button")];

  function show(tab) {
    for (const button of tabs) button.setAttribute("aria-selected", String(button === tab));
    for (const card of cards) {
      const place = card.dataset[tab.dataset.tab];
      card.hidden = place === undefined;
      card.style.order = place ?? "";
    }
  }
  for (const tab of tabs) tab.addEventListener("click", () => show(tab));
  if (tabs.length) show(tabs[0]);

  const dialog = document.querySelector("dialog");
  if (!dialog) return;
  let current = null;
  const visible = () =>
    cards.filter((card) => !card.hidden).sort((first, second) => first.style.order - second.style.order);

  function zoom(card) {
    current = card;
    const pair = card.querySelector(".pair").cloneNode(true);
    for (const side of pair.querySelectorAll("button")) side.disabled = true;
    dialog.querySelector(".pair").replaceWith(pair);
    dialog.querySelector(".prompt").textContent = card.querySelector(".prompt").textContent;
    if (!dialog.open) dialog.showModal();
  }
  function move(by) {
    const shown = visible();
    zoom(shown[(shown.indexOf(current) + by + shown.length) % shown.length]);
  }
  for (const card of cards) {
    for (const side of card.querySelectorAll("button.side")) side.addEventListener("click", () => zoom(card));
  }
  dialog.querySelector("[data-move='-1']").addEventListener("click", () => move(-1));
  dialog.querySelector("[data-move='1']").addEventListener("click", () => move(1));
  dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") move(-1);
    if (event.key === "ArrowRight") move(1);
  });
})();
