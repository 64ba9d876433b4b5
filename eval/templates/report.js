(() => {
  document.documentElement.classList.add("js");
  const cards = [...document.querySelectorAll(".card")];
  const tabs = [...document.querySelectorAll(".tabs button")];
  const words = document.querySelector(".filters input");
  const category = document.querySelector("[data-filter='category']");
  const order = document.querySelector("[data-filter='order']");
  const count = document.querySelector(".filters output");
  const prompts = new Map(cards.map((card) => [card, card.querySelector(".prompt").textContent.toLowerCase()]));
  const gains = new Map(cards.map((card) => [card, JSON.parse(card.dataset.gains)]));
  let tab = tabs[0];
  let shown = [];

  function place(card) {
    if (!order || !order.value) return Number(card.dataset[tab.dataset.tab]);
    const gain = gains.get(card)[order.value.slice(1)];
    if (gain === undefined) return Infinity;
    return order.value[0] === "+" ? -gain : gain;
  }
  function refresh() {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const inTab = cards.filter((card) => card.dataset[tab.dataset.tab] !== undefined);
    shown = inTab
      .filter((card) => wanted.every((word) => prompts.get(card).includes(word)))
      .filter((card) => !category || !category.value || card.dataset.category === category.value)
      .sort((first, second) => place(first) - place(second));
    for (const card of cards) card.hidden = true;
    shown.forEach((card, position) => {
      card.hidden = false;
      card.style.order = position;
    });
    for (const button of tabs) button.setAttribute("aria-selected", String(button === tab));
    count.textContent = `${shown.length} of ${inTab.length} pairs`;
  }
  if (tabs.length) {
    for (const button of tabs) button.addEventListener("click", () => { tab = button; refresh(); });
    for (const control of [words, category, order]) control?.addEventListener("input", refresh);
    refresh();
  }

  zoomable(cards, ".pair", () => shown);
})();
