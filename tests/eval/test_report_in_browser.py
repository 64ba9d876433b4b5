"""The report where it is read: what it shows, what clicks and keys do, and that nobody's words become anything else."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eval.compare import compare
from eval.config import EvaluationConfig, GalleryConfig
from eval.report import build_report
from tests.eval.browser import Browser, browser, find_chromium
from tests.eval.test_report import pair_deltas, stated

RUNS = "window.owned = (window.owned || 0) + 1"
HOSTILE = (
    f"<script>{RUNS}; alert(1)</script>",
    f'"><img src="http://example.invalid/x.png" onerror="{RUNS}">',
    f"</script><script>{RUNS}</script></title></style><svg onload='{RUNS}'>",
    f"' onmouseover='{RUNS}' x='{{{{ 7 * 7 }}}} &lt;b&gt; <!-- \N{SNOWMAN}",
)
CATEGORIES = (f'"><svg/onload="{RUNS}">', "plain")
VISIBLE = """[...document.querySelectorAll(".card")].filter((card) => card.offsetParent).map((card) => {
  const box = card.getBoundingClientRect();
  return [Math.round(box.top), box.left, Number(card.dataset.all)];
}).sort((one, other) => one[0] - other[0] || one[1] - other[1]).map((place) => place[2])"""
CONTRAST = """((selector, behind) => {
  const light = (element, property) => {
    const [r, g, b] = getComputedStyle(document.querySelector(element))[property].match(/[\\d.]+/g)
      .map((part) => part / 255).map((part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const pair = [light(selector[0], selector[1]), light(behind[0], behind[1])];
  return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
})"""
ON_ITS_GROUND = (
    (("h1", "color"), ("body", "backgroundColor")),
    ((".lead", "color"), ("body", "backgroundColor")),
    ((".card .prompt", "color"), (".card", "backgroundColor")),
    ((".card .seed", "color"), (".card", "backgroundColor")),
    ((".tile .note", "color"), (".tile", "backgroundColor")),
    ((".lineage .artifact text", "fill"), (".lineage .artifact rect", "fill")),
    ((".lineage .source .below", "fill"), (".lineage .source rect", "fill")),
    ((".lineage .report text", "fill"), (".lineage .report rect", "fill")),
)
"""What is written, and what it is written on."""
Key = tuple[str, int]


class Shown:
    """An opened report, and what its report.json says."""

    def __init__(self, folder: Path, page: Browser) -> None:
        self.folder, self.page = folder, page
        self.document: dict[str, Any] = json.loads((folder / "report.json").read_text())
        self.pairs: list[Key] = [tuple(pair) for pair in self.document["gallery"]["all"]]

    def visible(self) -> list[Key]:
        """The pairs that are seen, from left to right and from top to bottom."""
        return [self.pairs[place] for place in self.page.run(VISIBLE)]

    def tab(self, name: str) -> list[Key]:
        self.page.click(f"document.querySelector('[data-tab={name}]')")
        return self.visible()

    def choose(self, control: str, value: str) -> list[Key]:
        """In a drop-down list."""
        self.page.run(f"""(() => {{ const list = document.querySelector("[data-filter='{control}']");
            list.value = {json.dumps(value)}; list.dispatchEvent(new Event("input")); }})()""")
        return self.visible()

    def search(self, words: str) -> list[Key]:
        box = "document.querySelector('.filters input')"
        self.page.click(box)
        self.page.run(f"{box}.select()")
        self.page.call("Input.insertText", text=words)
        if not words:  # which is no input to the browser
            self.page.run(f"{box}.value = ''; {box}.dispatchEvent(new Event('input'))")
        return self.visible()

    def text(self, selector: str) -> str:
        found: str = self.page.run(f"document.querySelector({json.dumps(selector)}).textContent")
        return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, toys: Any, score_all: Any, evaluation: EvaluationConfig) -> Path:
    """A report of twelve prompts, four of them hostile, with two seeds; hostile wherever words of others stand."""
    place = tmp_path_factory.mktemp("in-browser")
    prompts = [*HOSTILE, *(f"a photo of a person {number}" for number in range(7)), "a drawing " * 30]
    sets = {}
    for number, side in enumerate(("base", "candidate"), start=1):
        sets[side] = toys.image_set(place / side, toys.paint(number), prompts, replicates=2)
        records = sets[side] / "records.jsonl"
        lines = [json.loads(line) for line in records.read_text().splitlines()]
        toys.lines(records, [line | {"category": CATEGORIES[line["category"] == "odd"]} for line in lines])
    references = toys.dataset(place / "references", [toys.paint(2)(number, 0) for number in range(3)])
    left_out = [{"where": f"{HOSTILE[1]}.png", "reason": HOSTILE[0]}]
    (references / "summary.json").write_text(json.dumps({"left_out": left_out}))
    scores = score_all(evaluation, sets["base"], sets["candidate"], references, place / "scores")
    compare(evaluation=evaluation, scores=scores, out=place / "comparison")
    build_report(
        title=f"run {HOSTILE[2]}",
        comparison=place / "comparison",
        **sets,
        references=references,
        training=toys.training(place / "training", HOSTILE[:2]),
        learned_from=[HOSTILE[0]],
        provenance=stated(HOSTILE[1]),
        command=f"sdxl-flows run {HOSTILE[0]}",
        config_yaml=f"name: {HOSTILE[2]}\n",
        gallery=GalleryConfig(wins=4, losses=4, sample=6, references=3),
        names={"base": HOSTILE[0], "candidate": HOSTILE[1]},
        out=place / "report",
    )
    return place / "report"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip("needs Chromium or Chrome on PATH (Debian: apt install chromium)")
    with browser(program, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def shown(folder: Path, opened: Browser) -> Shown:
    opened.open(folder / "report.html")
    return Shown(folder, opened)


def signs_of_life(page: Browser) -> dict[str, Any]:
    """Whatever a page does that only a program in it would do."""
    return {
        "owned": page.run("window.owned || 0"),
        "scripts": page.run("document.scripts.length"),
        "handlers": page.run(
            "[...document.querySelectorAll('*')].flatMap((one) => one.getAttributeNames())"
            ".filter((name) => name.startsWith('on'))"
        ),
        "dialogs": page.happened("Page.javascriptDialogOpening"),
        "errors": page.happened("Runtime.exceptionThrown"),
    }


def addresses(page: Browser) -> set[str]:
    """All that was asked for, but what lies in the page itself."""
    asked = {event["request"]["url"] for event in page.happened("Network.requestWillBeSent")}
    return {address for address in asked if not address.startswith("data:image/")}


def everything(shown: Shown) -> None:
    """Use all that can be used."""
    for name in sorted(shown.page.run("[...document.querySelectorAll('.tabs button')].map((one) => one.dataset.tab)")):
        shown.tab(name)
    shown.tab("all")
    for name in CATEGORIES:
        shown.choose("category", name)
    shown.choose("category", "")
    shown.search(HOSTILE[1])
    shown.page.click("document.querySelector('.card:not([hidden]) .side')")
    shown.page.press("ArrowRight")
    shown.page.press("Escape")
    shown.page.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")


def test_words_of_others_stay_words(shown: Shown) -> None:
    everything(shown)
    assert signs_of_life(shown.page) == {"owned": 0, "scripts": 1, "handlers": [], "dialogs": [], "errors": []}
    text = shown.text("body")
    assert all(prompt in text for prompt in HOSTILE)
    assert shown.page.run("document.title") == f"run {HOSTILE[2]}"
    options = shown.page.run("[...document.querySelector(\"[data-filter='category']\").options].map((one) => one.text)")
    assert options == ["every category", *sorted(CATEGORIES)]


def test_a_page_that_is_not_careful_would_be_found_out(folder: Path, opened: Browser) -> None:
    """The checks themselves: the same page with a caption put into it as it is."""
    (folder / "careless.html").write_text((folder / "report.html").read_text().replace("<main>", f"<main>{HOSTILE[1]}"))
    opened.open(folder / "careless.html")
    opened.run("new Promise((done) => setTimeout(done, 300))")
    found = signs_of_life(opened)
    assert found["owned"] == 1 and found["handlers"] == ["onerror"]
    assert "http://example.invalid/x.png" in addresses(opened)


def test_no_address_outside_the_file(shown: Shown) -> None:
    everything(shown)
    assert addresses(shown.page) == {(shown.folder / "report.html").as_uri()}
    found = shown.page.run(
        "['src', 'href', 'srcset', 'action', 'poster', 'data'].flatMap((name) =>"
        " [...document.querySelectorAll(`[${name}]`)].map((one) => one.getAttribute(name)))"
    )
    assert found and all(address.startswith(("data:image/", "#")) for address in found)


def test_links_within_the_page_lead_somewhere(shown: Shown) -> None:
    lost = shown.page.run(
        "[...document.querySelectorAll('a')].map((one) => one.getAttribute('href').slice(1))"
        ".filter((name) => !document.getElementById(name))"
    )
    assert lost == []
    assert len(set(found := shown.page.run("[...document.querySelectorAll('[id]')].map((one) => one.id)"))) == len(
        found
    )


def test_every_tab_shows_its_pairs_in_its_order(shown: Shown) -> None:
    filled = {name: [tuple(pair) for pair in pairs] for name, pairs in shown.document["gallery"].items() if pairs}
    first = shown.page.run("document.querySelector('.tabs button').dataset.tab")
    assert len(filled) >= 5 and shown.visible() == filled[first]
    for name, pairs in filled.items():
        assert shown.tab(name) == pairs
        assert shown.text(".filters output") == f"{len(pairs)} of {len(pairs)} pairs"
        assert shown.text(".tabs [aria-selected='true']") == shown.text(f"[data-tab={name}]")


def test_search_and_category_find_just_what_they_say(shown: Shown) -> None:
    every = shown.tab("all")
    assert shown.search("PERSON 3 photo") == [key for key in every if key[0] == "p7"]
    assert shown.text(".filters output") == "2 of 24 pairs"
    assert shown.search("nobody ever") == []
    assert shown.search(HOSTILE[2]) == [key for key in every if key[0] == "p2"]
    even = [key for key in every if int(key[0][1:]) % 2 == 0]
    shown.search("")
    assert shown.choose("category", CATEGORIES[0]) == even
    assert shown.search("person") == [key for key in even if 4 <= int(key[0][1:]) <= 10]
    shown.choose("category", "")
    assert shown.search("") == every


@pytest.mark.parametrize("metric", ["clip_i", "clip_score"])
def test_pairs_are_sorted_by_what_they_gained(shown: Shown, metric: str) -> None:
    deltas = pair_deltas(shown.folder, metric)
    shown.tab("all")
    gained = [deltas[key] for key in shown.choose("order", f"+{metric}")]
    assert len(gained) == 24 and gained == sorted(gained, reverse=True)
    lost = [deltas[key] for key in shown.choose("order", f"-{metric}")]
    assert lost == sorted(lost)


def zoomed(shown: Shown) -> tuple[str, list[str]]:
    """Caption and pictures of the enlarged pair."""
    images = shown.page.run("[...document.querySelectorAll('dialog img')].map((one) => one.src)")
    return shown.text("dialog .prompt"), images


def card(shown: Shown, key: Key) -> tuple[str, list[str]]:
    place = shown.pairs.index(key)
    images = shown.page.run(f"[...document.querySelectorAll('[data-all=\"{place}\"] img')].map((one) => one.src)")
    return shown.text(f'[data-all="{place}"] .prompt'), images


def test_zoom_shows_the_pair_and_moves_among_those_that_are_seen(shown: Shown) -> None:
    shown.tab("wins")
    seen = shown.choose("order", "-clip_i")
    assert len(seen) == 4
    is_open = "document.querySelector('dialog').open"
    assert not shown.page.run(is_open)
    shown.page.click(f"document.querySelector('[data-all=\"{shown.pairs.index(seen[1])}\"] .side')")
    assert shown.page.run(is_open) and zoomed(shown) == card(shown, seen[1]) and len(zoomed(shown)[1]) == 2
    shown.page.press("ArrowRight")
    assert zoomed(shown) == card(shown, seen[2])
    for _ in range(3):
        shown.page.press("ArrowLeft")
    assert zoomed(shown) == card(shown, seen[3])
    shown.page.click("document.querySelector('[data-move=\"1\"]')")
    assert zoomed(shown) == card(shown, seen[0])
    shown.page.press("Escape")
    assert not shown.page.run(is_open)


@pytest.mark.parametrize("close", ["button", "outside"])
def test_zoom_is_closed_by_its_button_and_by_a_click_outside(shown: Shown, close: str) -> None:
    shown.page.click("document.querySelector('.card:not([hidden]) .side')")
    assert shown.page.run("document.querySelector('dialog').open")
    if close == "button":
        shown.page.click("document.querySelector('[data-close]')")
    else:
        for kind in ("mousePressed", "mouseReleased"):
            shown.page.call("Input.dispatchMouseEvent", type=kind, x=5, y=5, button="left", clickCount=1)
    assert not shown.page.run("document.querySelector('dialog').open")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_light_and_in_dark(shown: Shown, scheme: str) -> None:
    """Contrast of 4.5 and more, as WCAG 2 asks of text."""
    shown.page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    found = {what[0]: shown.page.run(f"{CONTRAST}({json.dumps(what)}, {json.dumps(on)})") for what, on in ON_ITS_GROUND}
    assert {what: contrast for what, contrast in found.items() if contrast < 4.5} == {}
    ground = shown.page.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(ground) < 200) == (scheme == "dark")


def test_paper_shows_all_chosen_pairs_and_no_controls(shown: Shown) -> None:
    chosen = {tuple(pair) for tab, pairs in shown.document["gallery"].items() if tab != "all" for pair in pairs}
    shown.tab("wins")
    shown.page.call("Emulation.setEmulatedMedia", media="print")
    assert set(shown.visible()) == chosen
    controls = shown.page.run(
        "['nav', '.tabs', '.filters', 'dialog'].filter("
        "(one) => getComputedStyle(document.querySelector(one)).display != 'none')"
    )
    assert controls == []
    printed = base64.b64decode(shown.page.call("Page.printToPDF", printBackground=True)["data"])
    assert printed.startswith(b"%PDF") and len(printed) > 50_000


def test_without_script_every_chosen_pair_is_there(shown: Shown) -> None:
    shown.page.open(shown.folder / "report.html", with_scripts=False)
    chosen = {tuple(pair) for tab, pairs in shown.document["gallery"].items() if tab != "all" for pair in pairs}
    assert set(shown.visible()) == chosen
