"""The report of several candidates: complete, self-contained, harmless, repeatable, and true to the comparisons."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from eval.compare import compare_several
from eval.config import EvaluationConfig, GalleryConfig
from eval.matrix import build_matrix
from eval.matrix_plots import unbeaten
from eval.matrix_words import Choosing, Contender
from eval.result import COMPARISON, JudgedMetric, read_comparison
from tests.eval.pages import HOSTILE, Page

CONTENDERS = (
    Contender("1-a", f"early {HOSTILE[0]}", 10),
    Contender("2-b", f"middle {HOSTILE[1]}", 20),
    Contender("3-c", "late $x_1$", 30),
)


@pytest.fixture(scope="module")
def inputs(
    tmp_path_factory: pytest.TempPathFactory, toys: Any, score_all: Any, evaluation: EvaluationConfig
) -> dict[str, Any]:
    """Three candidates on twelve prompts, three of them hostile; one picture of one candidate is missing."""
    folder = tmp_path_factory.mktemp("matrix")
    prompts = [*HOSTILE, *(f"a photo of a person {number}" for number in range(9))]
    references = toys.dataset(folder / "references", [toys.paint(2)(number, 0) for number in range(4)])
    sets = {"base": toys.image_set(folder / "base", toys.paint(1), prompts, digest="b" * 64)}
    scores = {}
    for place, one in enumerate(CONTENDERS):
        sets[one.slug] = toys.image_set(folder / one.slug, toys.paint(2 + place), prompts, digest=f"{place}" * 64)
        if one.slug == "2-b":
            (sets[one.slug] / "images/p5-0.png").unlink()
        scores[one.slug] = score_all(
            evaluation, sets["base"], sets[one.slug], references, folder / f"scores-{one.slug}"
        )
    compare_several(evaluation=evaluation, scores=scores, out=folder / "comparisons")
    return {
        "title": f"run {HOSTILE[0]}",
        "contenders": CONTENDERS,
        "comparisons": folder / "comparisons",
        "sets": sets,
        "baseline": "base",
        "axes": ("clip_i", "clip_score"),
        "choosing": None,
        "provenance": {},
        "command": "sdxl-flows evaluate configs/x.yaml",
        "config_yaml": f"name: {HOSTILE[0]}\n",
        "gallery": GalleryConfig(sample=4, rest=5),
    }


@pytest.fixture(scope="module")
def built(inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    build_matrix(**inputs, out=out)
    return out


def test_the_same_inputs_give_the_same_bytes(inputs: dict[str, Any], built: Path, tmp_path: Path) -> None:
    build_matrix(**inputs, out=tmp_path)
    names = {file.name for file in built.iterdir()}
    assert names == {"report.html", "report.json", "summary.md"}
    assert all((tmp_path / name).read_bytes() == (built / name).read_bytes() for name in names)


def test_addresses_are_in_the_page_or_of_the_candidates_own_reports(page: Page) -> None:
    addresses = page.values("src", "href", "srcset", "action", "data", "xlink:href")
    elsewhere = [address for address in addresses if not address.startswith(("data:image/", "#"))]
    assert elsewhere == [f"{one.slug}/report.html" for one in CONTENDERS]


def test_hostile_words_stay_words(page: Page, built: Path) -> None:
    assert page.tags["script"] == 1
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    words = "".join(page.text)
    assert all(prompt in words for prompt in HOSTILE) and all(one.name in words for one in CONTENDERS)
    assert "<script" not in (built / "summary.md").read_text()


def test_every_model_has_a_picture_in_every_row(page: Page, document: dict[str, Any]) -> None:
    rows = [tuple(key) for key in document["gallery"]]
    assert len(rows) == len(set(rows)) == 9
    missing = ("p5", 0) in rows
    assert page.tags["img"] == 9 * 4 - missing
    assert [value for tag, name, value in page.attributes if (tag, name) == ("figure", "class")].count(
        "models card"
    ) == 4


def test_every_cell_is_what_the_candidate_s_own_comparison_says(
    page: Page, document: dict[str, Any], inputs: dict[str, Any], built: Path
) -> None:
    table = (built / "summary.md").read_text()
    for one in CONTENDERS:
        mine = json.loads((inputs["comparisons"] / one.slug / COMPARISON).read_text())
        assert document["comparisons"][one.slug] == mine
        for metric in mine["judged"]:
            cell = f"{metric['delta']:+.{metric['facts']['decimals']}f}".replace("-", "\N{MINUS SIGN}")
            assert cell in "".join(page.text) and cell in table


def test_steps_and_trade_off_are_drawn_where_there_are_any(inputs: dict[str, Any], page: Page, tmp_path: Path) -> None:
    assert {"#steps", "#trade-off"} <= set(page.values("href"))
    timeless = [Contender(one.slug, one.name, None) for one in CONTENDERS]
    build_matrix(**{**inputs, "contenders": timeless, "axes": None}, out=tmp_path)
    assert not {"#steps", "#trade-off"} & set(Page((tmp_path / "report.html").read_text()).values("href"))


def test_a_choice_is_named_and_warned_of(inputs: dict[str, Any], tmp_path: Path) -> None:
    build_matrix(**{**inputs, "choosing": Choosing("clip_score", 7)}, out=tmp_path)
    document = json.loads((tmp_path / "report.json").read_text())
    means = {one.slug: read_comparison(inputs["comparisons"] / one.slug).judged for one in CONTENDERS}
    best = max(means, key=lambda slug: next(m.delta for m in means[slug] if m.facts.name == "clip_score"))
    assert document["chosen"] == best
    assert document["headline"] == f"{next(one.name for one in CONTENDERS if one.slug == best)} is chosen."
    assert "on 7 other prompts that had no part in the choice" in " ".join(document["summary"])
    page = Page((tmp_path / "report.html").read_text())
    assert not [address for address in page.values("href") if address.endswith("report.html")], "they have no report"


def test_who_is_beaten_in_both_is_not_on_the_front(inputs: dict[str, Any]) -> None:
    like = read_comparison(inputs["comparisons"] / "1-a").judged[0]

    def gaining(value: float) -> JudgedMetric:
        return like.model_copy(update={"delta": like.facts.direction * value})

    gains = {"a": (0.0, 3.0), "b": (1.0, 1.0), "c": (1.0, 2.0), "d": (2.0, 2.0), "e": (3.0, -1.0), "f": (2.0, 2.0)}
    points = [(name, gaining(x), gaining(y)) for name, (x, y) in gains.items()]
    assert unbeaten(points) == ["a", "d", "e", "f"]


@pytest.mark.parametrize("prompts", [1, 8])
def test_models_that_are_the_base_have_words_and_no_nan(
    prompts: int, toys: Any, score_all: Any, evaluation: EvaluationConfig, tmp_path: Path
) -> None:
    texts = [f"a photo of a person {number}" for number in range(prompts)]
    references = toys.dataset(tmp_path / "references", [toys.paint(2)(number, 0) for number in range(4)])
    roles = ("base", "1-a", "2-b")
    sets = {role: toys.image_set(tmp_path / role, toys.paint(1), texts) for role in roles}
    scores = {
        slug: score_all(evaluation, sets["base"], sets[slug], references, tmp_path / f"scores-{slug}")
        for slug in roles[1:]
    }
    compare_several(evaluation=evaluation, scores=scores, out=tmp_path / "comparisons")
    build_matrix(
        title="same",
        contenders=[Contender("1-a", "a", 1), Contender("2-b", "b", 2)],
        comparisons=tmp_path / "comparisons",
        sets=sets,
        baseline="base",
        axes=("clip_i", "clip_score"),
        choosing=None,
        provenance={},
        command="",
        config_yaml="",
        gallery=GalleryConfig(),
        out=tmp_path / "out",
    )
    shown = " ".join(Page((tmp_path / "out/report.html").read_text()).text) + (tmp_path / "out/summary.md").read_text()
    assert not re.search(r"\b(nan|inf|None(?! of))\b", shown)
    said = json.loads((tmp_path / "out/report.json").read_text())
    assert said["headline"] == (
        "There is no verdict." if prompts == 1 else "None of 2 candidates was shown to be better than the base."
    )
    assert said["trade_off"]["unbeaten"] == ["a", "b"]
