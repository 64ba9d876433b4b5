"""Comparisons of known scores, and of whole image sets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval import wording
from eval.compare import compare
from eval.config import EvaluationConfig
from eval.errors import EvalError
from eval.images import GeneratedImage
from eval.result import Comparison, read_comparison
from eval.score import METRICS_FILE, describe
from eval.scorers.base import Metric
from eval.summary import summary_markdown
from eval.table import Row, write_pictures, write_scores


@pytest.fixture
def judged(tmp_path: Path) -> Callable[..., Comparison]:
    """Compare given scores of two primary metrics; one value per prompt, or rows of replicates."""

    def run(truncated: Sequence[str] = (), seeds: int = 0, out: str = "one", **scores: tuple[Any, Any]) -> Comparison:
        evaluation = two_primaries(*scores)
        found = {
            side: [row for name, sides in scores.items() for row in rows(name, side, sides[place], seeds * place)]
            for place, side in enumerate(("base", "candidate"))
        }
        facts = [facts_of(metric, truncated) for metric in evaluation.metrics]
        folder = score_artifact(tmp_path / out / "scores", found, facts)
        compare(evaluation=evaluation, scores=folder, out=tmp_path / out / "comparison")
        return read_comparison(tmp_path / out / "comparison")

    return run


def facts_of(metric: Metric, truncated: Sequence[str] = (), not_run: str = "") -> dict[str, Any]:
    return {**describe(metric), "weights": {}, "truncated_prompts": list(truncated), "left_out": {}, "not_run": not_run}


def score_artifact(folder: Path, found: Mapping[str, Sequence[Row]], facts: Sequence[dict[str, Any]]) -> Path:
    """`found`: model -> its rows, one a picture."""
    folder.mkdir(parents=True, exist_ok=True)
    write_scores([row for mine in found.values() for row in mine], folder)
    pictures = {
        model_id: [
            GeneratedImage(Path(), row.image_digest, row.prompt_id, "", "", row.replicate, row.seed) for row in mine
        ]
        for model_id, mine in found.items()
    }
    write_pictures(pictures, folder)
    (folder / METRICS_FILE).write_text(json.dumps(facts))
    return folder


def two_primaries(*names: str) -> EvaluationConfig:
    metrics = [{"metric": "clip_score", "name": name, "model": "m", "primary": True} for name in names]
    return EvaluationConfig.model_validate({"prompts": "p", "resamples": 999, "metrics": metrics})


def rows(metric_id: str, model_id: str, values: Any, seed_offset: int) -> Any:
    for prompt, replicates in enumerate(np.atleast_2d(np.asarray(values, dtype=float).T).T):
        for replicate, value in enumerate(replicates):
            reason = "" if np.isfinite(value) else "picture file missing"
            digest = f"{model_id}{prompt}.{replicate}"
            seed = 100 * prompt + replicate + seed_offset
            yield Row(digest, f"p{prompt}", seed, replicate, model_id, metric_id, float(value), reason)


def test_a_clear_gain_a_clear_loss_and_noise(judged: Callable[..., Comparison]) -> None:
    base = np.random.default_rng(0).normal(20, 3, 30)
    wobble = np.random.default_rng(1).normal(0, 1, 30)
    found = judged(up=(base, base + 2 + wobble), flat=(base, base + wobble - wobble.mean()))
    assert [metric.outcome for metric in found.judged] == ["better", "no_difference"]
    assert found.outcome == "better"
    up = found.judged[0]
    assert up.delta == pytest.approx(2 + wobble.mean())
    assert up.d_z == pytest.approx((2 + wobble.mean()) / wobble.std(ddof=1))
    assert up.delta_interval is not None and up.delta_interval.low > 0
    assert up.wins + up.ties + up.losses == up.pairs == 30


def test_better_here_and_worse_there_is_mixed(judged: Callable[..., Comparison]) -> None:
    base = np.linspace(10, 20, 20)
    assert judged(up=(base, base + 1), down=(base, base - 1)).outcome == "mixed"


def test_primaries_pay_for_their_number(judged: Callable[..., Comparison]) -> None:
    base, step = np.zeros(6), np.array([1.0] * 6)  # all six signs equal: p = 2 / 2**6 = 0.031
    assert judged(one=(base, step)).outcome == "better"


def test_two_primaries_double_the_smallest_p(judged: Callable[..., Comparison]) -> None:
    base, step = np.zeros(6), np.array([1.0] * 6)
    found = judged(one=(base, step), two=(base, np.array([1.0, -1, 1, -1, 1, -1])))
    assert [metric.p for metric in found.judged] == [2 / 64, 1.0]
    assert [metric.p_holm for metric in found.judged] == [4 / 64, 1.0]
    assert found.outcome == "no_difference"


def test_replicates_are_averaged_within_their_prompt(judged: Callable[..., Comparison]) -> None:
    base = np.zeros((5, 3))
    candidate = np.array([[1, 2, 3]] * 4 + [[0, 0, np.nan]], dtype=float)
    metric = judged(one=(base, candidate)).judged[0]
    assert (metric.prompts, metric.pairs) == (5, 14)
    assert metric.delta == pytest.approx((2 * 4 + 0) / 5)
    assert metric.win_rate == pytest.approx((4 + 0.5) / 5)


def test_identical_scores_are_exactly_no_difference(judged: Callable[..., Comparison]) -> None:
    base = np.random.default_rng(0).normal(20, 3, 10)
    metric = judged(one=(base, base)).judged[0]
    assert (metric.delta, metric.p, metric.outcome) == (0.0, 1.0, "no_difference")
    assert metric.delta_interval is not None and (metric.delta_interval.low, metric.delta_interval.high) == (0, 0)
    assert (metric.wins, metric.ties, metric.losses, metric.win_rate) == (0, 10, 0, 0.5)
    assert metric.d_z is None and metric.detectable_delta is None


def test_one_prompt_is_not_judged(judged: Callable[..., Comparison]) -> None:
    found = judged(one=([1.0], [5.0]))
    assert (found.outcome, found.judged[0].outcome, found.judged[0].p) == ("not_judged", "too_few_prompts", None)


def test_missing_pictures_and_truncated_prompts_are_reported(judged: Callable[..., Comparison]) -> None:
    found = judged(truncated=["p1"], one=([1.0, 2, 3, 4], [2.0, np.nan, 4, 5]))
    (missing,) = found.health.unscored
    assert (missing.prompt_id, missing.model_id, missing.reason) == ("p1", "candidate", "picture file missing")
    assert found.health.truncated_prompts == {"one": ("p1",)}
    assert found.judged[0].prompts == 3


def test_a_picture_without_counterpart_is_reported(judged: Callable[..., Comparison]) -> None:
    health = judged(one=([1.0, 2, 3], [2.0, 3])).health
    (absent,) = health.unscored
    assert (absent.prompt_id, absent.model_id, absent.reason) == ("p2", "candidate", "not in the image set")
    assert health.pictures == {"base": 3, "candidate": 2}


def test_different_seeds_are_refused(judged: Callable[..., Comparison]) -> None:
    with pytest.raises(EvalError, match=r"different seeds.*same noise"):
        judged(seeds=1, one=([1.0, 2], [2.0, 3]))


def test_a_primary_metric_with_no_scores_leaves_no_verdict(judged: Callable[..., Comparison]) -> None:
    base = np.linspace(10, 20, 20)
    found = judged(one=(np.full(20, np.nan), base), two=(base, base + 1))
    (missing,) = found.not_run
    assert missing.reason == "no prompt is scored on both sides (picture file missing)"
    assert (found.outcome, found.judged[0].outcome) == ("not_judged", "better")
    assert "Declared primary and not run: CLIP score (one)." in wording.summary(found)[0]


def test_a_metric_that_was_not_run_keeps_its_reason_and_strict_refuses(tmp_path: Path) -> None:
    evaluation = two_primaries("one", "two")
    evaluation = evaluation.model_copy(
        update={"metrics": (evaluation.metrics[0], evaluation.metrics[1].model_copy(update={"primary": False}))}
    )
    found = {side: list(rows("one", side, np.arange(6) + place, 0)) for place, side in enumerate(("base", "candidate"))}
    facts = [facts_of(evaluation.metrics[0]), facts_of(evaluation.metrics[1], not_run="no weights: get them")]
    folder = score_artifact(tmp_path / "scores", found, facts)
    assert compare(evaluation=evaluation, scores=folder, out=tmp_path)["not_run"] == {"two": "no weights: get them"}
    found_here = read_comparison(tmp_path)
    assert found_here.outcome == "better"
    assert "Not run: CLIP score (two)." in wording.summary(found_here)
    assert "not run: no weights: get them" in summary_markdown("t", found_here)
    with pytest.raises(EvalError, match=r"evaluation\.strict: not all metrics were run: two: no weights: get them"):
        compare(evaluation=evaluation.model_copy(update={"strict": True}), scores=folder, out=tmp_path)


def test_missing_and_unknown_metrics_are_named(tmp_path: Path, evaluation: EvaluationConfig) -> None:
    folder = score_artifact(tmp_path / "scores", {}, [])
    with pytest.raises(EvalError, match="no scores of metric clip_i, clip_score, lpips, ssim"):
        compare(evaluation=evaluation, scores=folder, out=tmp_path)
    score_artifact(folder, {}, [{**facts_of(evaluation.metrics[3]), "name": "psnr"}])
    with pytest.raises(EvalError, match="metric 'psnr' were given; the evaluation has"):
        compare(evaluation=evaluation, scores=folder, out=tmp_path)


def test_the_same_pictures_on_both_sides_differ_by_exactly_nothing(
    evaluation: EvaluationConfig, score_all: Any, toys: Any, tmp_path: Path
) -> None:
    base, candidate = (toys.image_set(tmp_path / name, toys.paint(1), replicates=2) for name in ("b", "c"))
    references = toys.dataset(tmp_path / "r", [toys.paint(3)(0, 0)])
    scores = score_all(evaluation, base, candidate, references, tmp_path)
    assert compare(evaluation=evaluation, scores=scores, out=tmp_path / "out")["outcome"] == "no_difference"
    found = read_comparison(tmp_path / "out")
    assert [metric.delta for metric in found.judged] == [0.0, 0.0]
    assert [(metric.lowest, metric.mean, metric.highest) for metric in found.described] == [(0, 0, 0), (1, 1, 1)]
    assert found.health.identical_pairs == found.health.pictures["candidate"] == 24


def test_two_runs_of_one_model_seldom_differ(judged: Callable[..., Comparison]) -> None:
    """At 95 % confidence at most one comparison in twenty finds something, however many primaries there are."""
    findings = 0
    for trial in range(40):
        draws = np.random.default_rng(trial).normal(20, 3, (2, 2, 12))
        findings += judged(out=str(trial), one=tuple(draws[0]), two=tuple(draws[1])).outcome != "no_difference"
    assert findings <= 6  # more has a chance of about 0.005
