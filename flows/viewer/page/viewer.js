"use strict";
// Everything that comes from the server is text: it goes into the page by textContent, never as markup.

const one = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const AT_ONCE = 60;
const SMALL_PX = 256;
const state = { tab: "reports", reports: [], shown: AT_ONCE, gallery: null, pair: null, last: null, typed: null };

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function tell(text) {
  one("#message").textContent = text;
  one("#message").hidden = !text;
}

async function ask(path, body) {
  const how = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(path, how || {});
  const found = await answer.json().catch(() => ({ error: `the server answered ${answer.status}` }));
  if (!answer.ok) throw new Error(found.error || `the server answered ${answer.status}`);
  return found;
}

// one thing after the other; tells what goes wrong
let waiting = 0;
let last = Promise.resolve();
function doing(work) {
  waiting += 1;
  able(false);
  last = last.then(async () => {
    try {
      tell("");
      await work();
    } catch (error) {
      tell(error.message);
    } finally {
      waiting -= 1;
      able(waiting === 0);
    }
  });
}

function able(is) {
  all(".buttons button, form button").forEach((button) => (button.disabled = !is));
  document.body.classList.toggle("waiting", !is);
}

function show(image, digest) {
  image.onload = () => image.classList.toggle("small-picture", image.naturalWidth <= SMALL_PX);
  image.src = `/pictures/${digest}.png`;
}

const voter = () => one("#voter").value.trim();
const report = () => one("#report").value;

// --- tabs

function choose(tab) {
  state.tab = tab;
  all("nav button").forEach((button) => button.setAttribute("aria-selected", String(button.dataset.tab === tab)));
  all("main > section").forEach((section) => (section.hidden = section.id !== tab));
  one(".chosen").hidden = tab !== "gallery" && tab !== "vote";
  one(".voter").hidden = tab !== "vote" && tab !== "try";
  if (location.hash !== `#${tab}`) history.replaceState(null, "", `#${tab}`);
  enter();
}

function enter() {
  if (state.tab === "gallery") doing(openGallery);
  if (state.tab === "vote") doing(nextPair);
}

// --- reports

function listReports() {
  one("#reports .empty").hidden = state.reports.length > 0;
  for (const found of state.reports) {
    const row = make("button", "row");
    row.type = "button";
    row.append(make("strong", "", found.name));
    row.append(make("span", `tag ${found.verdict || ""}`, found.verdict || "no gates"));
    const judged = found.candidate === null ? "Several candidates" : `Candidate: ${found.candidate}`;
    row.append(make("span", "", `${found.headline} ${judged}. ${found.finished.slice(0, 16).replace("T", " ")} UTC`));
    row.addEventListener("click", () => openReport(found.id));
    one("#reports .rows").append(row);
    if (found.candidate === null) continue;
    const option = make("option", "", found.name);
    option.value = found.id;
    one("#report").append(option);
  }
}

function openReport(id) {
  one("#reports iframe").src = `/reports/${id}/report.html`;
  one("#reports .rows").hidden = true;
  one("#reports .opened").hidden = false;
  if (state.reports.find((found) => found.id === id).candidate !== null) one("#report").value = id;
}

// --- gallery

async function openGallery() {
  state.gallery = null;
  one("#gallery .cards").replaceChildren();
  one("#gallery .filters").hidden = true;
  if (!report()) throw new Error("no finished run to show");
  state.gallery = await ask(`/api/gallery/${report()}`);
  const categories = [...new Set(state.gallery.pairs.map((pair) => pair.category).filter(Boolean))].sort();
  options("#category", [["", "every category"], ...categories.map((name) => [name, name])]);
  one("#category").hidden = categories.length < 2;
  const orders = Object.entries(state.gallery.metrics).flatMap(([name, title]) => [
    [`+${name}`, `${title}: gains first`],
    [`-${name}`, `${title}: losses first`],
  ]);
  options("#order", [["", "in the prompts' order"], ...orders]);
  state.shown = AT_ONCE;
  one("#gallery .filters").hidden = false;
  drawGallery();
}

function options(selector, entries) {
  const made = entries.map(([value, text]) => {
    const option = make("option", "", text);
    option.value = value;
    return option;
  });
  one(selector).replaceChildren(...made);
}

function chosenPairs() {
  const words = one("#words").value.toLowerCase().split(/\s+/).filter(Boolean);
  const category = one("#category").value;
  const found = state.gallery.pairs.filter(
    (pair) => (!category || pair.category === category) && words.every((word) => pair.prompt.toLowerCase().includes(word)),
  );
  const order = one("#order").value;
  if (!order) return found;
  const sign = order[0] === "+" ? -1 : 1;
  const name = order.slice(1);
  const known = found.filter((pair) => name in pair.gains).sort((a, b) => sign * (a.gains[name] - b.gains[name]));
  return [...known, ...found.filter((pair) => !(name in pair.gains))];
}

function drawGallery() {
  if (!state.gallery) return;
  const found = chosenPairs();
  one("#gallery .cards").replaceChildren(...found.slice(0, state.shown).map(card));
  one("#count").textContent = `${found.length} of ${state.gallery.pairs.length} pairs`;
  one("#more").hidden = found.length <= state.shown;
}

function card(pair) {
  const made = make("figure", "card");
  const both = make("div", "pair");
  for (const side of ["base", "candidate"]) {
    const figure = make("figure");
    const image = make("img");
    image.loading = "lazy";
    image.alt = `${side}: ${pair.prompt}`;
    show(image, pair[side]);
    figure.append(image, make("figcaption", "", side));
    both.append(figure);
  }
  const badges = make("div", "badges");
  badges.append(...pair.badges.map((badge) => make("span", `tag ${badge.tone}`, badge.text)));
  const where = [pair.category, pair.prompt_id, pair.seed === null ? `replicate ${pair.replicate}` : `seed ${pair.seed}`];
  made.append(both, make("p", "prompt", pair.prompt), badges, make("div", "small", where.filter(Boolean).join(" · ")));
  return made;
}

// --- vote

async function nextPair() {
  one("#vote .ballot").hidden = one("#vote .done").hidden = true;
  state.pair = null;
  if (!report()) throw new Error("no finished run to vote on");
  if (!voter()) {
    one("#vote .done").hidden = false;
    one("#vote .done").textContent = "Type your name above to begin: votes are kept by name, and everybody sees the pairs in an order of their own.";
    return;
  }
  ballot(await ask("/api/ask", { report: report(), voter: voter() }));
}

function ballot(found) {
  state.pair = found.pair;
  one("#vote .ballot").hidden = !found.pair;
  one("#vote .done").hidden = Boolean(found.pair);
  one("#undo").hidden = !state.last;
  one("#vote .progress").textContent = `${found.done} of ${found.total}`;
  if (!found.pair) {
    one("#vote .done").textContent = found.total
      ? `All ${found.total} pairs of this report have your vote. Thank you. Whoever evaluates with metric votes on this file sees what they say.`
      : "There is no pair in this report whose two pictures differ.";
    return;
  }
  one("#vote .prompt").textContent = found.pair.prompt;
  const [left, right] = all("#vote img");
  show(left, found.pair.left);
  show(right, found.pair.right);
}

const cast = (place) =>
  doing(async () => {
    if (!state.pair) return;
    const given = state.pair;
    const found = await ask("/api/cast", { report: report(), voter: voter(), pair: given.id, place });
    state.last = given;
    ballot(found);
  });

function undo() {
  const done = one("#vote .progress").textContent;
  state.pair = state.last;
  state.last = null;
  one("#undo").hidden = true;
  one("#vote .prompt").textContent = state.pair.prompt;
  const [left, right] = all("#vote img");
  show(left, state.pair.left);
  show(right, state.pair.right);
  one("#vote .progress").textContent = `${done}, again`;
}

// --- try

function offer(studio) {
  one("#try .empty").hidden = Boolean(studio);
  one("#try form").hidden = !studio;
  if (!studio) return;
  one("#steps").value = studio.steps;
  one("#guidance").value = studio.guidance_scale;
}

const drawTyped = () =>
  doing(async () => {
    const typed = { prompt: one("#prompt").value, seed: Number(one("#seed").value) };
    const how = { steps: Number(one("#steps").value), guidance_scale: Number(one("#guidance").value) };
    one("#try .ballot").hidden = true;
    one("#try .results").textContent = "Drawing. The first prompt loads both models.";
    state.typed = null;
    try {
      state.typed = await ask("/api/draw", { voter: voter(), ...typed, ...how });
    } finally {
      one("#try .results").textContent = "";
    }
    one("#try .ballot").hidden = false;
    one("#try .prompt").textContent = typed.prompt;
    const [left, right] = all("#try img");
    show(left, state.typed.left);
    show(right, state.typed.right);
    all("#try figcaption").forEach((caption) => (caption.textContent = ""));
    one("#try .buttons").hidden = state.typed.same;
    if (state.typed.same) one("#try .results").textContent = "Both models drew the very same picture.";
  });

const castTyped = (place) =>
  doing(async () => {
    if (!state.typed) return;
    const found = await ask("/api/cast-typed", { voter: voter(), id: state.typed.id, place });
    const [left, right] = all("#try figcaption");
    left.textContent = found.left;
    right.textContent = found.right;
    one("#try .buttons").hidden = true;
    state.typed = null;
    one("#try .results").textContent = said(found.results);
  });

const percent = (share) => `${Math.round(100 * share)}%`;

function said(results) {
  const counted = `Votes on typed prompts so far: candidate ${results.wins}, base ${results.losses}, ties ${results.ties}.`;
  if (results.low === null) return counted;
  const interval = `${percent(results.low)} to ${percent(results.high)}`;
  return `${counted} The candidate's share over ${results.prompts} prompts is ${percent(results.share)}, ${percent(results.confidence)} interval ${interval} (Wilson); it does not know why you stop when you stop.`;
}

// --- start

all("nav button").forEach((button) => button.addEventListener("click", () => choose(button.dataset.tab)));
one("#back").addEventListener("click", () => {
  one("#reports .opened").hidden = true;
  one("#reports .rows").hidden = false;
  one("#reports iframe").removeAttribute("src");
});
one("#report").addEventListener("change", () => { state.last = null; enter(); });
one("#voter").addEventListener("change", () => { localStorage.setItem("voter", voter()); state.last = null; enter(); });
["#words", "#category", "#order"].forEach((field) =>
  one(field).addEventListener("input", () => { state.shown = AT_ONCE; drawGallery(); }),
);
one("#more").addEventListener("click", () => { state.shown += AT_ONCE; drawGallery(); });
one("#undo").addEventListener("click", undo);
all("#vote .buttons button").forEach((button) => button.addEventListener("click", () => cast(button.dataset.place)));
all("#try .buttons button").forEach((button) => button.addEventListener("click", () => castTyped(button.dataset.place)));
one("#try form").addEventListener("submit", (event) => { event.preventDefault(); drawTyped(); });
document.addEventListener("keydown", (event) => {
  const place = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie" }[event.key];
  if (!place || waiting || event.target.closest("input, select")) return;
  if (state.tab === "vote" && state.pair) { event.preventDefault(); cast(place); }
  if (state.tab === "try" && state.typed && !state.typed.same) { event.preventDefault(); castTyped(place); }
});

one("#voter").value = localStorage.getItem("voter") || "";
ask("/api/start").then((found) => {
  state.reports = found.reports;
  listReports();
  offer(found.studio);
  const torn = found.votes.torn ? " Its last line is torn and left out; the next vote takes its place." : "";
  one("footer").textContent = `Reports of ${found.runs}. Votes go to ${found.votes.file}.${torn}`;
  const tab = location.hash.slice(1);
  choose(all("nav button").some((button) => button.dataset.tab === tab) ? tab : "reports");
}, (error) => tell(error.message));
