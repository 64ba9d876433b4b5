"""Comparisons of known scores, and of whole image sets."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.compare import compare
from eval.config import EvaluationConfig
from eval.errors import EvalError
from eval.result import Comparison, read_comparison
from eval.score import describe
from eval.table import Row, write_scores


@pytest.fixture
def judged(tmp_path: Path) -> Callable[..., Comparison]:
    """Compare given scores of two primary metrics; one value per prompt, or rows of replicates."""

    def run(truncated: Sequence[str] = (), seeds: int = 0, out: str = "one", **scores: tuple[Any, Any]) -> Comparison:
        evaluation = two_primaries(*scores)
        folders = []
        for metric in evaluation.metrics:
            for side, model_id in enumerate(("base", "candidate")):
                folder = tmp_path / out / f"{metric.id}-{model_id}"
                folder.mkdir(parents=True)
                write_scores(list(rows(metric.id, model_id, scores[metric.id][side], seeds * side)), folder)
                facts = {**describe(metric), "weights": {"model": "digest"}, "truncated_prompts": list(truncated)}
                (folder / "metric.json").write_text(json.dumps(facts))
                folders.append(folder)
        compare(evaluation=evaluation, scores=folders, out=tmp_path / out / "comparison")
        return read_comparison(tmp_path / out / "comparison")

    return run


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


def test_nothing_scored_is_refused_with_the_reason(judged: Callable[..., Comparison]) -> None:
    with pytest.raises(EvalError, match=r"metric one: no prompt is scored on both sides \(picture file missing\)"):
        judged(one=([np.nan, np.nan], [1.0, 2.0]))


def test_missing_and_unknown_metrics_are_named(tmp_path: Path, evaluation: EvaluationConfig) -> None:
    with pytest.raises(EvalError, match="no scores of metric clip_i, clip_score, lpips, ssim"):
        compare(evaluation=evaluation, scores=[], out=tmp_path)
    folder = tmp_path / "scores"
    folder.mkdir()
    write_scores([], folder)
    facts = {**describe(evaluation.metrics[3]), "name": "psnr", "weights": {}, "truncated_prompts": []}
    (folder / "metric.json").write_text(json.dumps(facts))
    with pytest.raises(EvalError, match="metric 'psnr' were given; the evaluation has"):
        compare(evaluation=evaluation, scores=[folder], out=tmp_path)


def test_the_same_pictures_on_both_sides_differ_by_exactly_nothing(
    evaluation: EvaluationConfig, score_all: Any, toys: Any, tmp_path: Path
) -> None:
    base, candidate = (toys.image_set(tmp_path / name, toys.paint(1), replicates=2) for name in ("b", "c"))
    references = toys.dataset(tmp_path / "r", [toys.paint(3)(0, 0)])
    folders = score_all(evaluation, base, candidate, references, tmp_path)
    assert compare(evaluation=evaluation, scores=folders, out=tmp_path / "out")["outcome"] == "no_difference"
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
