"use strict";
// Enlarges one part of an item in the page's dialog; left and right go through what is shown.
function zoomable(items, part, shown) {
  const dialog = document.querySelector("dialog");
  if (!dialog) return;
  let current = null;

  function zoom(item) {
    current = item;
    const copy = item.querySelector(part).cloneNode(true);
    for (const side of copy.querySelectorAll("button")) side.disabled = true;
    for (const picture of copy.querySelectorAll("img")) picture.loading = "eager";
    dialog.querySelector(part).replaceWith(copy);
    dialog.querySelector(".prompt").textContent = item.querySelector(".prompt").textContent;
    if (!dialog.open) dialog.showModal();
  }
  function move(by) {
    const among = shown();
    zoom(among[(among.indexOf(current) + by + among.length) % among.length]);
  }
  for (const item of items) {
    for (const side of item.querySelectorAll("button.side")) side.addEventListener("click", () => zoom(item));
  }
  dialog.querySelector("[data-move='-1']").addEventListener("click", () => move(-1));
  dialog.querySelector("[data-move='1']").addEventListener("click", () => move(1));
  dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") move(-1);
    if (event.key === "ArrowRight") move(1);
  });
}
