"""A report that has every kind of metric: judged by picture and by prompt, drift, shifted, of sets, and not run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval import wording
from eval.compare import compare
from eval.config import EvaluationConfig
from eval.report import build_report
from eval.result import Comparison, SetMetric, read_comparison
from eval.score import METRICS_FILE
from eval.table import Row, read_scores, write_scores
from tests.eval.pages import Page
from tests.eval.test_gates import NOISE, judge_many

METRICS = ("diversity", "blank", "lpips", "saturation", "contrast", "kid", "cmmd", "clip_score")


@pytest.fixture(scope="module")
def asked(clip_folder: Path, squeeze_trunk: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluationConfig:
    trunk = {"trunk": str(squeeze_trunk), "net": "squeeze", "linear": False}
    nowhere = tmp_path_factory.mktemp("models") / "clip-vit-large-patch14"
    settings = {
        "diversity": {**trunk, "primary": True},
        "lpips": trunk,
        "kid": {"model": str(clip_folder)},
        "cmmd": {"model": str(clip_folder)},
        "clip_score": {"model": str(nowhere)},
    }
    metrics = [{"metric": name, **settings.get(name, {})} for name in METRICS]
    return EvaluationConfig.model_validate({"prompts": "p", "replicates": 3, "resamples": 999, "metrics": metrics})


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, toys: Any, score_all: Any, asked: EvaluationConfig
) -> dict[str, Path]:
    """Two sets of three replicates. The candidate's pictures are more colourful and one of them is blank; of its first
    prompt only the last replicate was drawn, of its second all but the first."""
    folder = tmp_path_factory.mktemp("kinds")

    def vivid(prompt: int, replicate: int) -> np.ndarray:
        if (prompt, replicate) == (4, 1):
            return np.zeros((32, 32, 3), np.uint8)
        return np.clip(toys.paint(2)(prompt, replicate) * 1.6 - 60, 0, 255).astype(np.uint8)

    base = toys.image_set(folder / "base", toys.paint(1), replicates=3, digest="b" * 64)
    candidate = toys.image_set(folder / "candidate", vivid, replicates=3, digest="c" * 64)
    records = (candidate / "records.jsonl").read_text().splitlines(keepends=True)
    (candidate / "records.jsonl").write_text("".join([records[2], *records[4:]]))
    references = toys.dataset(folder / "references", [toys.paint(3)(number, 0) for number in range(5)])
    scores = score_all(asked, base, candidate, references, folder)
    compare(evaluation=asked, scores=scores, out=folder / "comparison")
    facts = {"provenance": {}, "command": "sdxl-flows run x.yaml", "config_yaml": "name: kinds\n", "training": None}
    sides = {"base": base, "candidate": candidate, "references": references, "comparison": folder / "comparison"}
    build_report(title="kinds", **sides, **facts, out=folder / "out")
    return {**sides, "scores": scores, "out": folder / "out"}


@pytest.fixture(scope="module")
def found(made: dict[str, Path]) -> Comparison:
    return read_comparison(made["comparison"])


@pytest.fixture(scope="module")
def words(made: dict[str, Path]) -> str:
    return " ".join(" ".join(Page((made["out"] / "report.html").read_text()).text).split())


def test_every_metric_is_of_one_kind(found: Comparison) -> None:
    kinds = {"judged": found.judged, "described": found.described, "shifted": found.shifted, "sets": found.sets}
    names = {kind: [metric.facts.name for metric in metrics] for kind, metrics in kinds.items()}
    assert names == {
        "judged": ["diversity", "blank"],
        "described": ["lpips"],
        "shifted": ["saturation", "contrast"],
        "sets": ["kid", "cmmd"],
    }
    assert [metric.name for metric in found.not_run] == ["clip_score"]


def test_prompts_pair_as_wholes_whichever_of_their_replicates_there_are(
    made: dict[str, Path], found: Comparison
) -> None:
    rows = {(row.model_id, row.prompt_id): row for row in read_scores(made["scores"]) if row.metric_id == "diversity"}
    assert len(rows) == 2 * 12
    assert rows["candidate", "p0"].reason == "only one picture of the prompt; set evaluation.replicates to 2 at least"
    diversity = found.judged[0]
    assert (diversity.prompts, diversity.pairs) == (11, 11)
    deltas = [rows["candidate", f"p{p}"].value - rows["base", f"p{p}"].value for p in range(1, 12)]
    assert diversity.delta == pytest.approx(np.mean(deltas))


def test_a_prompts_card_shows_the_first_pair_that_there_is(made: dict[str, Path]) -> None:
    gallery = json.loads((made["out"] / "report.json").read_text())["gallery"]
    shown = {prompt: replicate for prompt, replicate in (*gallery["wins"], *gallery["losses"])}
    assert shown == {f"p{number}": int(number == 1) for number in range(1, 12)}


def test_every_kind_is_shown(found: Comparison, words: str) -> None:
    kid, cmmd = found.sets
    assert kid.delta is not None and cmmd.delta is not None
    row = f"KID on CLIP features of the whole set, lower is better {kid.base:.4f} {kid.candidate:.4f} {kid.delta:+.4f}"
    assert row + " one number for all pictures, so no interval" in words
    saturation, _ = found.shifted
    means = f"{saturation.base_mean:.1f} {saturation.candidate_mean:.1f} {saturation.delta:+.1f}"
    assert f"Saturation describes, neither good nor bad {means} [" in words
    assert "CLIP score exploratory not run: model: no such file or folder: clip-vit-large-patch14 Licence:" in words
    assert "Wins and losses are by Diversity, a score of all seeds of a prompt" in words
    assert "p0 all candidate diversity only one picture of the prompt" in words


def test_what_cannot_be_judged_is_summed_up(made: dict[str, Path], found: Comparison) -> None:
    summary = (made["out"] / "summary.md").read_text()
    shifts = ", ".join(f"{m.facts.title} {m.delta:+.{m.facts.decimals}f}" for m in found.shifted)
    assert f"- Shifted, neither for good nor for bad: {shifts}." in summary
    _, cmmd = found.sets
    assert f", CMMD {cmmd.base:.3f} to {cmmd.candidate:.3f}. Such numbers have no interval." in summary
    assert f"| CMMD (of the set) | {cmmd.base:.3f} | {cmmd.candidate:.3f} | {cmmd.delta:+.3f} |" in summary


def test_a_set_without_a_number_says_why_and_one_without_any_is_not_run(
    made: dict[str, Path], asked: EvaluationConfig, tmp_path: Path
) -> None:
    lost = {("kid", "candidate"): "p6-2.png: gone", ("cmmd", "base"): "too few", ("cmmd", "candidate"): "too few"}

    def without(row: Row) -> Row:
        reason = lost.get((row.metric_id, row.model_id))
        return row if reason is None else Row("", "", 0, 0, row.model_id, row.metric_id, float("nan"), reason)

    scores = tmp_path / "scores"
    scores.mkdir()
    write_scores(map(without, read_scores(made["scores"])), scores)
    for name in (METRICS_FILE, "pictures.parquet"):
        (scores / name).write_bytes((made["scores"] / name).read_bytes())
    compare(evaluation=asked, scores=scores, out=tmp_path)
    found = read_comparison(tmp_path)
    (kid,) = found.sets
    assert isinstance(kid, SetMetric) and (kid.candidate, kid.delta) == (None, None) and kid.base is not None
    assert kid.reason == "candidate: p6-2.png: gone"
    assert {metric.name: metric.reason for metric in found.not_run}["cmmd"] == "base and candidate: too few"
    facts = {"provenance": {}, "command": "", "config_yaml": "", "training": None, "references": None}
    sides = {"base": made["base"], "candidate": made["candidate"], "comparison": tmp_path}
    build_report(title="holes", **sides, **facts, out=tmp_path / "out")
    assert "KID on CLIP features" not in (tmp_path / "out/summary.md").read_text().split("| metric |")[0]
    assert "candidate: p6-2.png: gone" in (tmp_path / "out/report.html").read_text()


def test_many_exploratory_metrics_share_a_sentence() -> None:
    """And none that is primary."""
    base = 20 + NOISE
    flat = base + 0.1 * np.roll(NOISE, 5)
    found = judge_many({"up": base + 1, "down": base - 1 + 0.1 * NOISE, "flat": flat, "first": base + 2}, base)
    assert wording.summary(found)[2] == (
        "Exploratory, not corrected for their number: better on CLIP score (up) (+1.00); worse on CLIP score (down) "
        "(\N{MINUS SIGN}1.00); no difference shown on CLIP score (flat)."
    )
    assert wording.summary(found)[1].startswith("CLIP score (first) rose by 2.00")
