(() => {
  document.documentElement.classList.add("js");
  const rows = [...document.querySelectorAll(".models")];
  const words = document.querySelector(".filters input");
  const category = document.querySelector(".filters select");
  const count = document.querySelector(".filters output");
  const prompts = new Map(rows.map((row) => [row, row.querySelector(".prompt").textContent.toLowerCase()]));
  let shown = rows;

  function refresh() {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    shown = rows
      .filter((row) => wanted.every((word) => prompts.get(row).includes(word)))
      .filter((row) => !category || !category.value || row.dataset.category === category.value);
    for (const row of rows) row.hidden = !shown.includes(row);
    count.textContent = `${shown.length} of ${rows.length} rows`;
  }
  for (const control of [words, category]) control?.addEventListener("input", refresh);
  refresh();

  zoomable(rows, ".row", () => shown);
})();
