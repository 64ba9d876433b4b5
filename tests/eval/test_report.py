"""The report: complete, self-contained, harmless, repeatable, and true to the table."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy import stats

from eval.compare import compare
from eval.config import EvaluationConfig, GalleryConfig
from eval.errors import EvalError
from eval.report import build_report
from eval.result import COMPARISON
from tests.eval.pages import HOSTILE, Page

FILES = {"report.html", "report.json", "summary.md", "scores.parquet"}


def stated(label: str) -> dict[str, Any]:
    """A lineage of one artifact."""
    source = {"what": "dataset files", "sha256": "d" * 64}
    recipe = {"code": "1", "params": {"prompt": label, "source": "d" * 64}, "inputs": {}, "sources": [source]}
    artifact = {"artifact": f"dataset/{'e' * 32}", "content": "f" * 64, "label": label, "libraries": 0, **recipe}
    return {"artifacts": [artifact], "items": [], "libraries": [{"torch": label}]}


@pytest.fixture(scope="module")
def inputs(
    tmp_path_factory: pytest.TempPathFactory, toys: Any, score_all: Any, evaluation: EvaluationConfig
) -> dict[str, Any]:
    """A comparison of twelve prompts with two seeds, three of the prompts hostile, one picture missing."""
    folder = tmp_path_factory.mktemp("report")
    prompts = [*HOSTILE, *(f"a photo of a person {number}" for number in range(8)), "a drawing " * 30]
    base = toys.image_set(folder / "base", toys.paint(1), prompts, replicates=2, digest="b" * 64)
    candidate = toys.image_set(folder / "candidate", toys.paint(2), prompts, replicates=2, digest="c" * 64)
    (candidate / "images/p5-1.png").unlink()
    references = toys.dataset(folder / "references", [toys.paint(2)(number, 0) for number in range(4)])
    scores = score_all(evaluation, base, candidate, references, folder / "scores")
    compare(evaluation=evaluation, scores=scores, out=folder / "comparison")
    return {
        "title": f"run {HOSTILE[0]}",
        "comparison": folder / "comparison",
        "base": base,
        "candidate": candidate,
        "references": references,
        "training": toys.training(folder / "training", HOSTILE[:2]),
        "provenance": stated(HOSTILE[1]),
        "command": "sdxl-flows run configs/x.yaml",
        "config_yaml": f"name: {HOSTILE[0]}\n",
        "gallery": GalleryConfig(wins=4, losses=4, sample=6, references=3),
    }


@pytest.fixture(scope="module")
def built(inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    build_report(**inputs, out=out)
    return out


def test_the_same_inputs_give_the_same_bytes(inputs: dict[str, Any], built: Path, tmp_path: Path) -> None:
    build_report(**inputs, out=tmp_path)
    assert {file.name for file in built.iterdir()} == FILES
    assert all((tmp_path / name).read_bytes() == (built / name).read_bytes() for name in FILES)


def test_the_comparison_repeats_itself(
    inputs: dict[str, Any], evaluation: EvaluationConfig, score_all: Any, tmp_path: Path
) -> None:
    sides = (inputs["base"], inputs["candidate"], inputs["references"])
    compare(evaluation=evaluation, scores=score_all(evaluation, *sides, tmp_path), out=tmp_path / "again")
    for name in (COMPARISON, "scores.parquet"):
        assert (tmp_path / "again" / name).read_bytes() == (inputs["comparison"] / name).read_bytes()


def test_nothing_is_loaded_from_elsewhere(page: Page) -> None:
    addresses = page.values("src", "href", "srcset", "action", "data", "xlink:href")
    assert addresses
    assert all(address.startswith(("data:image/", "#")) for address in addresses)
    assert not {"link", "iframe", "object", "base", "form"} & set(page.tags)


def test_hostile_words_stay_words(page: Page, built: Path) -> None:
    assert page.tags["script"] == 1
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    words = "".join(page.text)
    assert all(prompt in words for prompt in HOSTILE)
    assert "<script" not in (built / "summary.md").read_text()


def test_no_picture_is_left_out_or_repeated(page: Page, document: dict[str, Any], inputs: dict[str, Any]) -> None:
    pairs = {tuple(pair) for tab in document["gallery"].values() for pair in tab}
    missing = sum(pair == ("p5", 1) for pair in pairs)
    validation = 2 * 2
    assert page.tags["img"] == 2 * len(pairs) - missing + inputs["gallery"].references + validation


def test_small_pictures_are_enlarged_pixel_by_pixel(page: Page, built: Path) -> None:
    assert page.values("class").count("small-picture") == page.tags["img"]
    assert "img.small-picture { image-rendering: pixelated; }" in (built / "report.html").read_text()


def test_tabs_show_true_wins_true_losses_and_a_seeded_sample(document: dict[str, Any], built: Path) -> None:
    deltas = pair_deltas(built, "clip_i")
    wins, losses, sample = (document["gallery"][tab] for tab in ("wins", "losses", "sample"))
    ranked = sorted(deltas, key=lambda key: deltas[key])
    assert [tuple(pair) for pair in losses] == [key for key in ranked[:4] if deltas[key] < 0]
    assert [tuple(pair) for pair in wins] == [key for key in ranked[:-5:-1] if deltas[key] > 0]
    assert len(sample) == 6


def test_every_pair_is_there_to_be_searched(document: dict[str, Any], page: Page) -> None:
    assert len(document["gallery"]["all"]) == 24
    cards = [value.split() for tag, name, value in page.attributes if (tag, name) == ("figure", "class")]
    chosen = {tuple(pair) for tab, pairs in document["gallery"].items() if tab != "all" for pair in pairs}
    assert [card for card in cards if card[0] == "card"].count(["card", "rest"]) == 24 - len(chosen)
    assert page.values("data-filter") == ["category", "order"]


def test_pairs_that_need_a_look_have_a_tab(document: dict[str, Any]) -> None:
    """One whose picture is missing, and those of a prompt of which a scorer saw only the beginning."""
    assert {tuple(pair) for pair in document["gallery"]["problems"]} == {("p5", 1), ("p11", 0), ("p11", 1)}


def test_scorers_disagree_where_one_finds_better_what_another_finds_worse(
    document: dict[str, Any], built: Path
) -> None:
    one, other = (pair_deltas(built, name) for name in ("clip_i", "clip_score"))
    opposed = {key for key in one if one[key] * other[key] < 0}
    found = {tuple(pair) for pair in document["gallery"]["disagreements"]}
    assert found and found <= opposed and len(found) == min(12, len(opposed))


def test_a_page_holds_no_more_than_it_should(inputs: dict[str, Any], tmp_path: Path) -> None:
    few = GalleryConfig(wins=2, losses=0, sample=0, disagreements=0, problems=0, rest=3)
    build_report(**{**inputs, "gallery": few}, out=tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "19 of 24 pairs are not in this page (evaluation.gallery.rest)" in text


def test_a_card_s_gains_are_its_own_pair_s(document: dict[str, Any], built: Path, page: Page) -> None:
    """Not those of the prompt's first seed."""
    places = [int(value) for tag, name, value in page.attributes if (tag, name) == ("figure", "data-all")]
    gains = [json.loads(value) for tag, name, value in page.attributes if (tag, name) == ("figure", "data-gains")]
    keys = [tuple(document["gallery"]["all"][place]) for place in places]
    assert sorted(places) == list(range(24)) and {replicate for _, replicate in keys} == {0, 1}
    for metric in ("clip_i", "clip_score"):
        deltas = pair_deltas(built, metric)
        assert {key: mine[metric] for key, mine in zip(keys, gains, strict=True) if metric in mine} == pytest.approx(
            deltas
        )


@pytest.mark.ci
def test_another_seed_draws_another_sample(inputs: dict[str, Any], document: dict[str, Any], tmp_path: Path) -> None:
    sizes = inputs["gallery"].model_copy(update={"seed": 1})
    build_report(**{**inputs, "gallery": sizes}, out=tmp_path)
    other = json.loads((tmp_path / "report.json").read_text())["gallery"]
    assert other["sample"] != document["gallery"]["sample"]
    assert other["wins"] == document["gallery"]["wins"]


def table(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder / "scores.parquet").to_pylist()
    return found


def pair_deltas(folder: Path, metric: str) -> dict[tuple[str, int], float]:
    """From nothing but the table: candidate minus base, where both were scored."""
    sides: dict[str, dict[tuple[str, int], float]] = {"base": {}, "candidate": {}}
    for row in table(folder):
        if row["metric_id"] == metric and row["reason"] == "":
            sides[row["model_id"]][row["prompt_id"], row["replicate"]] = row["value"]
    return {key: sides["candidate"][key] - value for key, value in sides["base"].items() if key in sides["candidate"]}


def by_prompt(values: dict[tuple[str, int], float]) -> list[float]:
    groups = defaultdict(list)
    for (prompt, _), value in values.items():
        groups[prompt].append(value)
    return [mean(group) for group in groups.values()]


@pytest.mark.parametrize("place", [0, 1])
def test_the_verdict_can_be_recomputed_from_the_table(
    place: int, document: dict[str, Any], built: Path, evaluation: EvaluationConfig, page: Page
) -> None:
    metric = document["comparison"]["judged"][place]
    facts = metric["facts"]
    deltas = pair_deltas(built, facts["name"])
    assert len(deltas) == metric["pairs"] == 23
    delta_P = by_prompt(deltas)
    assert metric["delta"] == pytest.approx(mean(delta_P))
    assert metric["d_z"] == pytest.approx(mean(delta_P) / np.std(delta_P, ddof=1))
    assert metric["wins"] == sum(delta > facts["tie"] for delta in deltas.values())
    assert metric["win_rate"] == pytest.approx(mean(by_prompt({key: delta > 0 for key, delta in deltas.items()})))
    assert metric["p"] == pytest.approx(
        stats.permutation_test((delta_P,), np.mean, permutation_type="samples", n_resamples=99999).pvalue, abs=0.06
    )
    plain = stats.bootstrap((delta_P,), np.mean, n_resamples=9999, rng=0).confidence_interval
    spread = np.std(delta_P, ddof=1)
    t = stats.ttest_1samp(delta_P, 0).confidence_interval(0.95)
    assert metric["delta_interval"]["low"] == pytest.approx(min(plain.low, t.low), abs=0.05 * spread)
    assert metric["delta_interval"]["high"] == pytest.approx(max(plain.high, t.high), abs=0.05 * spread)
    shown = f"{metric['delta']:+.{facts['decimals']}f}".replace("-", "\N{MINUS SIGN}")
    assert shown in page.text


def test_drift_can_be_recomputed_from_the_table(document: dict[str, Any], built: Path, page: Page) -> None:
    for metric in document["comparison"]["described"]:
        rows = [row for row in table(built) if row["metric_id"] == metric["facts"]["name"] and row["reason"] == ""]
        values = {(row["prompt_id"], row["replicate"]): row["value"] for row in rows}
        assert metric["mean"] == pytest.approx(mean(by_prompt(values)))
        assert (metric["lowest"], metric["highest"]) == (min(values.values()), max(values.values()))
        assert f"{metric['mean']:.3f}".replace("-", "\N{MINUS SIGN}") in page.text


def test_categories_can_be_recomputed_from_the_table(document: dict[str, Any], built: Path) -> None:
    deltas = pair_deltas(built, "clip_i")
    for category, parity in (("even", 0), ("odd", 1)):
        inside = {key: delta for key, delta in deltas.items() if int(key[0][1:]) % 2 == parity}
        (row,) = (row for row in document["categories"] if row["category"] == category)
        assert row["delta"] == pytest.approx(mean(by_prompt(inside)))
        assert row["prompts"] == 6


def test_health_and_digests_are_shown(page: Page, document: dict[str, Any]) -> None:
    words = " ".join(page.text)
    assert "picture file missing" in words
    assert "clip_score: 1 of 12 judged on their beginning only" in words
    assert all(digest * 64 in words for digest in "bcd")
    assert document["schema_version"] == 3


def test_training_is_shown_in_order_of_steps(page: Page) -> None:
    steps = [alt for alt in page.values("alt") if alt.startswith("step")]
    assert steps == ["step 9", "step 10"] * 2
    assert "grad norm" in page.text


def test_pictures_that_were_left_out_are_counted_and_named(inputs: dict[str, Any], tmp_path: Path) -> None:
    left_out = [{"where": f"{HOSTILE[0]}.png", "reason": "damaged"}, {"where": "b.png", "reason": "empty"}]
    (inputs["references"] / "summary.json").write_text(json.dumps({"left_out": left_out}))
    build_report(**inputs, out=tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "2 of the dataset&#39;s pictures" in text or "2 of the dataset's pictures" in text
    assert "b.png: empty" in text and HOSTILE[0] not in text


def test_without_training_and_references_there_are_no_such_parts(inputs: dict[str, Any], tmp_path: Path) -> None:
    build_report(**{**inputs, "training": None, "references": None}, out=tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert 'id="training"' not in text
    assert "What the candidate was taught" not in text


def test_large_pictures_are_scaled_down(inputs: dict[str, Any], tmp_path: Path, toys: Any) -> None:
    big = toys.dataset(tmp_path / "big", [np.asarray(Image.new("RGB", (1200, 600), "red"))])
    build_report(**{**inputs, "references": big}, out=tmp_path / "out")
    page = Page((tmp_path / "out/report.html").read_text())
    assert [value for tag, name, value in page.attributes if (tag, name) == ("img", "width")].count("512") == 1


def test_folders_that_are_not_what_they_should_be_are_refused(inputs: dict[str, Any], tmp_path: Path) -> None:
    for name, message in (("comparison", "not a comparison"), ("training", "expected history.jsonl")):
        with pytest.raises(EvalError, match=message):
            build_report(**{**inputs, name: tmp_path}, out=tmp_path / "out")


@pytest.mark.parametrize(
    ("kept", "headline"),
    [
        (("ssim",), "There is no verdict."),
        (("clip_i", "ssim"), "No difference between candidate and base was shown."),
    ],
)
def test_identical_sets_and_drift_alone_make_a_report(
    kept: tuple[str, ...],
    headline: str,
    inputs: dict[str, Any],
    evaluation: EvaluationConfig,
    score_all: Any,
    tmp_path: Path,
) -> None:
    metrics = tuple(metric for metric in evaluation.metrics if metric.id in kept)
    fewer = evaluation.model_copy(update={"metrics": metrics})
    base = inputs["base"]
    scores = score_all(fewer, base, base, inputs["references"], tmp_path)
    compare(evaluation=fewer, scores=scores, out=tmp_path / "comparison")
    same = {**inputs, "comparison": tmp_path / "comparison", "candidate": base}
    assert build_report(**same, out=tmp_path / "out")["headline"] == headline
    page = Page((tmp_path / "out/report.html").read_text())
    assert "Every picture of the candidate equals the base's, pixel for pixel" in "".join(page.text)
    assert set(page.values("data-tab")) == {"sample", "all"}  # nothing won, nothing lost
