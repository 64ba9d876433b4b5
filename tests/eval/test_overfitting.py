"""Over-fitting and reward hacking: found where they are, not where they are not, and every number from the table."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
from scipy import stats

from eval.compare import compare
from eval.config import EvaluationConfig, GalleryConfig
from eval.embeddings import nearest_others, nearest_row
from eval.gallery import thumbnail
from eval.images import read_references
from eval.nearest import nearness
from eval.report import build_report
from eval.result import read_comparison
from eval.table import Row
from tests.eval.pages import HOSTILE, Page
from tests.eval.test_report import by_prompt, pair_deltas, table

COPIES = 5
"""Prompts whose pictures the candidate of `made` copies from the dataset, all replicates alike."""
INSTANCES = 6
SHOWN = 4
LEARNED = ("somebody/pickapic_v2",)
BASELINE = "<script>1</script> costs $a_b$"


@pytest.fixture(scope="module")
def asked(clip_folder: Path, squeeze_trunk: Path) -> EvaluationConfig:
    clip, trunk = {"model": str(clip_folder)}, {"trunk": str(squeeze_trunk), "net": "squeeze", "linear": False}
    metrics: list[dict[str, Any]] = [
        {"metric": "clip_i", **clip},
        {"metric": "clip_score", **clip},
        {"metric": "blank"},
        {"metric": "diversity", "name": "spread", **trunk},
        {"metric": "nearest_instance", "name": "near", **clip},
        {"metric": "saturation"},
        {"metric": "lpips", **trunk},
    ]
    return EvaluationConfig.model_validate({"prompts": "p", "replicates": 3, "resamples": 999, "metrics": metrics})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, toys: Any) -> dict[str, Path]:
    """A candidate that has learned pictures of the dataset by heart, for some prompts, hostile ones among them."""
    folder = tmp_path_factory.mktemp("overfitting")
    prompts = [*HOSTILE, *(f"a photo of a person {number}" for number in range(5))]

    def by_heart(prompt: int, replicate: int) -> np.ndarray:
        place = (prompt % 2, 0) if prompt < COPIES else (prompt, replicate)
        picture: np.ndarray = toys.paint(3 if prompt < COPIES else 2)(*place)
        return picture

    return {
        "base": toys.image_set(folder / "base", toys.paint(1), prompts, replicates=3, digest="b" * 64),
        "candidate": toys.image_set(folder / "candidate", by_heart, prompts, replicates=3, digest="c" * 64),
        "references": toys.dataset(folder / "references", [toys.paint(3)(place, 0) for place in range(INSTANCES)]),
    }


@pytest.fixture(scope="module")
def made(
    asked: EvaluationConfig, world: dict[str, Path], score_all: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("made")
    report(asked, world, score_all, folder)
    return folder


def report(asked: EvaluationConfig, world: dict[str, Path], score_all: Any, folder: Path) -> None:
    scores = score_all(asked, *(world[name] for name in ("base", "candidate", "references")), folder)
    compare(evaluation=asked, scores=scores, out=folder / "comparison")
    facts = {"title": "t", "training": None, "provenance": {}, "command": "c", "config_yaml": "y"}
    build_report(
        **facts, **world, comparison=folder / "comparison", gallery=GalleryConfig(nearest=SHOWN), out=folder / "out"
    )


@pytest.fixture(scope="module")
def document(made: Path) -> dict[str, Any]:
    return read_document(made)


def read_document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out/report.json").read_text())
    return found


@pytest.fixture(scope="module")
def page(made: Path) -> Page:
    return Page((made / "out/report.html").read_text())


def words_of(page: Page) -> str:
    return " ".join(" ".join(page.text).split())


def values(folder: Path, metric: str, side: str) -> dict[tuple[str, int], tuple[float, str]]:
    """From nothing but the table: prompt and replicate -> value and evidence."""
    return {
        (row["prompt_id"], row["replicate"]): (row["value"], row["evidence"])
        for row in table(folder / "out")
        if (row["metric_id"], row["model_id"], row["reason"]) == (metric, side, "")
    }


def test_pictures_nearer_than_instances_are_to_each_other_are_counted(
    made: Path, document: dict[str, Any], page: Page
) -> None:
    found = document["overfitting"]["nearest"]
    among = [value for value, _ in values(made, "near", "instances").values()]
    assert len(among) == INSTANCES and found["instances"] == [min(among), max(among)]
    assert found["usual_share"] == pytest.approx(2 / (INSTANCES + 1))
    for side in ("base", "candidate"):
        cosines = [value for value, _ in values(made, "near", side).values()]
        beyond = sum(cosine > max(among) + 1e-5 for cosine in cosines)
        assert (found[side]["scored"], found[side]["beyond"]) == (24, beyond)
    most = max(max(among), *(value for value, _ in values(made, "near", "base").values()))
    copies = sum(value > most for value, _ in values(made, "near", "candidate").values())
    assert found["candidate"]["copies"] == copies == 3 * COPIES > 24 * found["usual_share"] and found["is_too_near"]
    text = words_of(page)
    assert (
        f"{found['candidate']['beyond']} of the candidate's 24 pictures are nearer to one than {max(among):.3f}, and"
        in text
    )
    assert f"{copies} of the candidate's are nearer than any of the base's, too." in text


def test_the_nearest_are_shown_with_the_instance_and_the_base_s(
    made: Path, document: dict[str, Any], page: Page
) -> None:
    mine, base = (values(made, "near", side) for side in ("candidate", "base"))
    ranked = sorted(mine, key=lambda key: (-mine[key][0], key))
    pairs = document["overfitting"]["nearest"]["pairs"]
    assert [(pair["prompt_id"], pair["replicate"]) for pair in pairs] == ranked
    for key, pair in zip(ranked, pairs, strict=True):
        assert (pair["cosine"], pair["instance"], pair["base_cosine"]) == (*mine[key], base[key][0])
    places = [int(pair["prompt_id"][1:]) for pair in pairs if pair["cosine"] > 1 - 1e-5]
    assert sorted(places) == sorted(3 * list(range(COPIES))), "the copies"
    shown = [alt for alt in page.values("alt") if alt == "instance picture"]
    assert len(shown) == INSTANCES + SHOWN, "those of the dataset, and one beside each of the nearest"
    text = words_of(page)
    for key in ranked[:SHOWN]:
        assert f"candidate {mine[key][0]:.3f} base {base[key][0]:.3f}" in text
    assert text.count("a copy?") == SHOWN


def test_the_instance_that_is_shown_is_the_one_that_was_copied(
    document: dict[str, Any], world: dict[str, Path], page: Page
) -> None:
    pairs = document["overfitting"]["nearest"]["pairs"][: 3 * COPIES]
    copied = [read_references(world["references"])[int(pair["prompt_id"][1:]) % 2] for pair in pairs]
    assert [pair["instance"] for pair in pairs] == [picture.identity for picture in copied]
    sources = (value for tag, name, value in page.attributes if (tag, name) == ("img", "src"))
    shown = [source for source, alt in zip(sources, page.values("alt"), strict=True) if alt == "instance picture"]
    expected = [thumbnail(picture, 256) for picture in copied[:SHOWN]]
    assert shown[-SHOWN:] == [picture.uri for picture in expected if picture]


@pytest.mark.parametrize(("untaught", "copies"), [(True, 1), (False, 2)])
def test_the_base_too_shows_how_near_one_comes_without_copying(made: Path, untaught: bool, copies: int) -> None:
    """Unless it is another model, which may have copied itself."""
    cosines = {"instances": (0.5, 0.6), "base": (0.7, 0.2), "candidate": (0.8, 0.65)}
    rows = [
        Row("", f"p{place}", 0, 0, side, "near", cosine)
        for side, mine in cosines.items()
        for place, cosine in enumerate(mine)
    ]
    near = nearness(read_comparison(made / "comparison"), rows, untaught)
    assert near is not None and (near.candidate.beyond, near.base.beyond, near.copies) == (2, 1, copies)


def test_one_more_of_the_same_kind_is_that_near_as_often_as_is_said() -> None:
    """Whatever the pictures are like: 2 / (n + 1)."""
    for seed, others in ((0, 4), (1, 9)):
        random, beyond, draws = np.random.default_rng(seed), 0, 4000
        for _ in range(draws):
            vectors_ND = random.standard_t(3, size=(others + 1, 3))
            vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
            among = max(cosine for _, cosine in nearest_others(vectors_ND[1:]))
            beyond += nearest_row(vectors_ND[1:], vectors_ND[0])[1] > among
        share = 2 / (others + 1)
        assert beyond / draws == pytest.approx(share, abs=3.5 * np.sqrt(share * (1 - share) / draws))


def test_changes_can_be_recomputed_from_the_table(made: Path, document: dict[str, Any], page: Page) -> None:
    lines = {line["metric"]: line for line in document["overfitting"]["changes"]}
    assert list(lines) == ["spread", "near", "saturation", "lpips"]
    text = words_of(page)
    for name, line in lines.items():
        places = 1 if name == "saturation" else 3
        if name == "lpips":
            change_P = by_prompt({key: value for key, (value, _) in values(made, name, "pair").items()})
            expected = [f"{mean(change_P):.{places}f}"]
        else:
            sides = [values(made, name, side) for side in ("base", "candidate")]
            means = [mean(by_prompt({key: value for key, (value, _) in side.items()})) for side in sides]
            assert [line["base"], line["candidate"]] == pytest.approx(means)
            change_P = by_prompt({key: sides[1][key][0] - value for key, (value, _) in sides[0].items()})
            expected = [*(f"{value:.{places}f}" for value in means), f"{mean(change_P):+.{places}f}"]
        assert line["change"] == pytest.approx(mean(change_P))
        assert " ".join(expected).replace("-", "\N{MINUS SIGN}") in text
        bootstrapped = stats.bootstrap((change_P,), np.mean, n_resamples=9999, rng=0).confidence_interval
        t, spread = stats.ttest_1samp(change_P, 0).confidence_interval(0.95), np.std(change_P, ddof=1)
        assert line["interval"]["low"] == pytest.approx(min(bootstrapped.low, t.low), abs=0.06 * spread)
        assert line["interval"]["high"] == pytest.approx(max(bootstrapped.high, t.high), abs=0.06 * spread)


def test_correlations_can_be_recomputed_from_the_table(made: Path, document: dict[str, Any], page: Page) -> None:
    found = {(line["one"], line["other"]): line for line in document["overfitting"]["correlations"]}
    judges = ("clip_i", "clip_score", "blank", "spread")
    assert list(found) == list(combinations(judges, 2))
    gains = {name: by_prompt(pair_deltas(made / "out", name)) for name in judges}
    for (one, other), line in found.items():
        if "blank" in (one, other):
            assert line["rho"] is None and len(set(gains["blank"])) == 1
            continue
        assert line["rho"] == pytest.approx(stats.spearmanr(gains[one], gains[other]).statistic)
        colour = "muted" if abs(line["rho"]) <= 1.959964 / np.sqrt(7) else "ink"
        number = f"{line['rho']:+.2f}".replace("-", "\N{MINUS SIGN}")
        shown = re.escape(number) if abs(line["rho"]) >= 0.005 else "0.00"
        assert re.search(rf"fill: var\(--{colour}\)[^<>]*>{shown}<", (made / "out/report.html").read_text())
    assert "No correlation of Blank pictures: equal for all prompts, or too few." in words_of(page)


def test_what_was_found_is_said_first(made: Path, document: dict[str, Any], page: Page) -> None:
    copies, collapse = document["overfitting"]["findings"]
    spread = document["overfitting"]["changes"][0]
    assert copies == (
        f"Copies? {3 * COPIES} of the candidate's 24 pictures are nearer to an instance picture than any two of those "
        "are to each other, and than any of the base's (Nearest instance (near)); of more pictures like those at most "
        "29% would be."
    )
    assert spread["is_finding"] and spread["interval"]["high"] < 0
    means = f"Diversity (spread) fell from {spread['base']:.3f} to {spread['candidate']:.3f} (95% CI of the change ["
    assert collapse.startswith(f"A prompt's pictures became more alike: {means}")
    assert [sentence for sentence in document["summary"] if sentence in (copies, collapse)] == [copies, collapse]
    assert "became more alike: Diversity (spread) fell" in (made / "out/summary.md").read_text()
    assert "No sign of it" not in words_of(page)


def test_hostile_words_stay_words_here_too(made: Path, world: dict[str, Path], tmp_path: Path) -> None:
    facts = {"title": "t", "training": None, "provenance": {}, "command": "c", "config_yaml": "y"}
    names = {"base": BASELINE, "candidate": "x"}
    build_report(**facts, **world, comparison=made / "comparison", names=names, out=tmp_path / "out")
    page = Page((tmp_path / "out/report.html").read_text())
    assert page.tags["script"] == 1
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    text = words_of(page)
    assert all(" ".join(prompt.split()) in text for prompt in HOSTILE)
    assert f"{BASELINE} (24)" in text, "in the figure, as it is"
    copies = read_document(tmp_path)["overfitting"]["findings"][0]
    assert "and than any" not in copies, "another model than the base may have seen the instance pictures"


def test_the_same_model_has_no_sign_of_it(
    asked: EvaluationConfig, world: dict[str, Path], score_all: Any, tmp_path: Path
) -> None:
    report(asked, {**world, "candidate": world["base"]}, score_all, tmp_path)
    found = read_document(tmp_path)["overfitting"]
    assert (found["findings"], found["disagreements"], found["missing"]) == ([], [], [])
    assert {line["rho"] for line in found["correlations"]} == {None}
    text = words_of(Page((tmp_path / "out/report.html").read_text()))
    assert "No sign of it." in text and "no shift shown" in text
    assert "No correlation of CLIP-I, CLIP score, Blank pictures and Diversity (spread): equal for all prompts" in text


@pytest.mark.parametrize(
    ("instances", "words"),
    [([0], "There is one instance picture alone"), ([0, 1, 1], "two of them are the same, and nothing is nearer")],
)
def test_without_a_yardstick_nothing_is_called_a_copy(
    instances: list[int], words: str, asked: EvaluationConfig, world: dict[str, Path], score_all: Any, toys: Any,
    tmp_path: Path,
) -> None:  # fmt: skip
    """One instance picture; or one of them twice, in files that differ."""
    pictures = [toys.paint(3)(number, 0) for number in instances]
    pictures[-1] = pictures[-1].copy()
    pictures[-1][0, 0] ^= 1
    few = toys.dataset(tmp_path / "few", pictures)
    near = asked.model_copy(update={"metrics": tuple(metric for metric in asked.metrics if metric.id == "near")})
    report(near, {**world, "references": few}, score_all, tmp_path)
    found = read_document(tmp_path)["overfitting"]
    assert found["nearest"]["candidate"]["beyond"] == 0 and not found["findings"]
    assert words in words_of(Page((tmp_path / "out/report.html").read_text()))


def test_what_is_not_measured_says_what_to_add(
    asked: EvaluationConfig, world: dict[str, Path], score_all: Any, tmp_path: Path
) -> None:
    one = asked.model_copy(update={"metrics": tuple(metric for metric in asked.metrics if metric.id == "spread")})
    base = tmp_path / "base"
    base.mkdir()
    for name in ("records.jsonl", "set.json"):
        (base / name).write_bytes((world["base"] / name).read_bytes())
    report(one, {**world, "base": base}, score_all, tmp_path)
    missing = read_document(tmp_path)["overfitting"]["missing"]
    assert [line.split(":")[0] for line in missing] == [
        "Nearest training pictures",
        "Diversity",
        "Drift",
        "Saturation and contrast",
        "Agreement of judges",
    ]
    assert missing[1].startswith("Diversity: Diversity (spread) was not run: no prompt is scored on both sides")
    assert "add {metric: saturation} and {metric: contrast}." in missing[3]
    text = words_of(Page((tmp_path / "out/report.html").read_text()))
    assert all(line in text for line in missing) and "No sign of it in what was measured." in text


def test_warnings_stand_in_the_section_and_in_the_summary(
    made: Path, world: dict[str, Path], tmp_path: Path, asked: EvaluationConfig
) -> None:
    path = tmp_path / "comparison"
    path.mkdir()
    text = (made / "comparison/comparison.json").read_text()
    stored = json.loads(text)
    stored["judged"][1]["facts"]["trained_on"] = ["Pick-a-Pic v1"]
    (path / "comparison.json").write_text(json.dumps(stored))
    (path / "scores.parquet").write_bytes((made / "comparison/scores.parquet").read_bytes())
    assert read_comparison(path).judged[1].facts.trained_on == ("Pick-a-Pic v1",)
    facts = {"title": "t", "training": None, "provenance": {}, "command": "c", "config_yaml": "y"}
    build_report(**facts, **world, comparison=path, learned_from=LEARNED, out=tmp_path / "out")
    [warning] = read_document(tmp_path)["overfitting"]["warnings"]
    assert words_of(Page((tmp_path / "out/report.html").read_text())).count(warning) == 2
