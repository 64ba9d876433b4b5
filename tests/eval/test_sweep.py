"""The report of a sweep: what was varied, and what holds over seeds; complete, harmless and repeatable."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.compare import compare_several
from eval.config import EvaluationConfig, GalleryConfig
from eval.matrix import build_matrix
from eval.matrix_words import Contender
from eval.result import read_comparison
from eval.sweep import Failed, Group, Member, Sweep
from tests.eval.pages import HOSTILE, Page

SEEDS = ("1", "2", "3")
SLUGS = tuple(f"{group}-{seed}" for group in "ab" for seed in SEEDS)
SWEEP = Sweep(
    settings=("rank", f"where {HOSTILE[1]}"),
    groups=tuple(
        Group(
            f"{group} {HOSTILE[0]}", (group, "x"), tuple(Member(f"{group}-{seed}", seed, "train/12") for seed in SEEDS)
        )
        for group in "ab"
    ),
    failed=(Failed(f"c {HOSTILE[1]}", "the loss is not finite <b>"),),
    notes=("A note & more.",),
)


@pytest.fixture(scope="module")
def inputs(
    tmp_path_factory: pytest.TempPathFactory, toys: Any, score_all: Any, evaluation: EvaluationConfig
) -> dict[str, Any]:
    """Two settings of three seeds each; one picture of one training is missing."""
    folder = tmp_path_factory.mktemp("sweep")
    prompts = [f"a photo of a person {number}" for number in range(9)]
    references = toys.dataset(folder / "references", [toys.paint(2)(number, 0) for number in range(4)])
    sets = {"base": toys.image_set(folder / "base", toys.paint(1), prompts, digest="b" * 64)}
    scores = {}
    for place, slug in enumerate(SLUGS):
        sets[slug] = toys.image_set(folder / slug, toys.paint(2 + place), prompts, digest=f"{place}" * 64)
        if slug == "b-2":
            (sets[slug] / "images/p5-0.png").unlink()
        scores[slug] = score_all(evaluation, sets["base"], sets[slug], references, folder / f"scores-{slug}")
    compare_several(evaluation=evaluation, scores=scores, out=folder / "comparisons")
    return {
        "title": "sweep",
        "contenders": [Contender(slug, f"{slug[0]}, seed={slug[2]}", None) for slug in SLUGS],
        "comparisons": folder / "comparisons",
        "sets": sets,
        "baseline": "base",
        "axes": None,
        "choosing": None,
        "provenance": {},
        "command": "sdxl-flows sweep configs/x.yaml",
        "config_yaml": "name: x\n",
        "gallery": GalleryConfig(sample=2, rest=2),
        "sweep": SWEEP,
    }


@pytest.fixture(scope="module")
def built(inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    build_matrix(**inputs, out=out)
    return out


def of(built: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((built / "report.json").read_text())
    return found


def page(built: Path) -> Page:
    return Page((built / "report.html").read_text())


def test_the_same_inputs_give_the_same_bytes(inputs: dict[str, Any], built: Path, tmp_path: Path) -> None:
    build_matrix(**inputs, out=tmp_path)
    assert all((tmp_path / file.name).read_bytes() == file.read_bytes() for file in built.iterdir())


def test_hostile_words_stay_words(built: Path) -> None:
    shown = page(built)
    assert shown.tags["script"] == 1 and shown.tags["b"] == 0
    assert not [name for _, name, _ in shown.attributes if name.startswith("on")]
    words = "".join(shown.text)
    assert all(group.name in words for group in SWEEP.groups) and SWEEP.settings[1] in words
    assert SWEEP.failed[0].name in words and SWEEP.failed[0].reason in words and SWEEP.notes[0] in words
    assert "<script" not in (built / "summary.md").read_text()


def test_every_training_is_led_to_and_a_failed_one_is_told(built: Path) -> None:
    links = [address for address in page(built).values("href") if address.endswith("report.html")]
    assert links.count("a-1/report.html") == 2, "from the candidates' table, and from the settings'"
    assert any("Not trained" in sentence for sentence in of(built)["summary"])
    assert of(built)["sweep"]["failed"] == [asdict(SWEEP.failed[0])]


def test_numbers_are_those_of_the_candidates(built: Path, inputs: dict[str, Any]) -> None:
    """Where all trainings have all scores, a group's mean is the mean of its candidates' differences."""
    group = of(built)["sweep"]["groups"][0]
    assert [metric["metric"] for metric in group["metrics"]]
    for metric in group["metrics"]:
        deltas = {}
        for seed in SEEDS:
            judged = read_comparison(inputs["comparisons"] / f"a-{seed}").judged
            deltas[seed] = next(one.delta for one in judged if one.facts.name == metric["metric"])
        assert metric["by_seed"] == pytest.approx(deltas)
        assert metric["mean"] == pytest.approx(np.mean(list(deltas.values())))
        assert metric["sd"] == pytest.approx(np.std(list(deltas.values()), ddof=1))


def test_a_prompt_that_one_seed_lacks_is_left_out_of_all(built: Path) -> None:
    first, second = of(built)["sweep"]["groups"]
    prompts = {metric["metric"]: metric["prompts"] for metric in first["metrics"]}
    fewer = {metric["metric"]: metric["prompts"] for metric in second["metrics"]}
    assert set(prompts.values()) == {9} and set(fewer.values()) == {8}


def test_primary_tests_are_corrected_over_all_settings(built: Path) -> None:
    groups = of(built)["sweep"]["groups"]
    tested = [metric["p"] for group in groups for metric in group["metrics"] if metric["primary"] and metric["p"]]
    assert len(tested) > 1
    smallest = min(
        (metric for group in groups for metric in group["metrics"] if metric["primary"]), key=lambda one: one["p"]
    )
    assert smallest["p_holm"] == pytest.approx(min(1.0, smallest["p"] * len(tested)))
    assert all(metric["p_holm"] is None for group in groups for metric in group["metrics"] if not metric["primary"])


@pytest.mark.parametrize(("seeds", "said"), [(1, "with one seed"), (2, "Nothing is inferred of other seeds")])
def test_with_few_seeds_the_page_says_that_nothing_is_known(
    inputs: dict[str, Any], tmp_path: Path, seeds: int, said: str
) -> None:
    groups = tuple(replace(group, members=group.members[:seeds]) for group in SWEEP.groups)
    build_matrix(**{**inputs, "sweep": replace(SWEEP, groups=groups)}, out=tmp_path)
    assert said in " ".join("".join(page(tmp_path).text).split())
    metrics = [metric for group in of(tmp_path)["sweep"]["groups"] for metric in group["metrics"]]
    assert metrics and all(metric["interval"] is None and metric["outcome"] is None for metric in metrics)


def test_what_is_no_sweep_has_no_word_of_it(inputs: dict[str, Any], tmp_path: Path) -> None:
    build_matrix(**{**inputs, "sweep": None}, out=tmp_path)
    assert "sweep" not in of(tmp_path) and "#sweep" not in page(tmp_path).values("href")


def test_it_survives_the_way_to_a_stage() -> None:
    assert Sweep.of(json.loads(json.dumps(asdict(SWEEP)))) == SWEEP
