"""How often verdicts are wrong where the truth is known: `python -m benchmarks.verdicts [--runs 2000]`.

Scores are drawn, not pictures; everything behind them is what an evaluation runs: pairing, statistics, gates, looks.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.compare import choose, compared, compared_together
from eval.config import EvaluationConfig
from eval.result import Comparison, Look, MetricFacts
from eval.score import describe
from eval.scored import Scored
from eval.table import Row

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Array]

# P: prompts, M: metrics, R: replicates

DIFFERENCES: dict[str, Draw] = {
    "normal": lambda rng, count: rng.normal(0, 1, count),
    "heavy tails": lambda rng, count: rng.standard_t(5, count) / np.sqrt(5 / 3),
    "skewed": lambda rng, count: rng.exponential(1, count) - 1,
    "half of them ties": lambda rng, count: rng.normal(0, np.sqrt(2), count) * (rng.random(count) < 0.5),
}
"""Of mean 0 and variance 1."""


@dataclass(frozen=True)
class Truth:
    """What is so, in standard deviations of a prompt's difference, and how it is looked at."""

    prompts: int
    effects: tuple[float, ...]
    """Of each primary metric."""
    shape: str = "normal"
    replicates: int = 1
    stop: str = "fixed"
    sequential: dict[str, Any] = field(default_factory=dict)
    gates: tuple[dict[str, Any], ...] = ()
    share: float = 0.5
    """Of the variance that all metrics have in common."""
    candidates: int = 1
    """All of the same effects."""
    chosen_on: float = 0.0
    """Share of the prompts by which the best candidate is chosen, to be judged alone on the others; 1: on the same."""


def simulate(truth: Truth, seed: int, resamples: int = 999) -> list[Comparison]:
    """One evaluation: of one candidate, of several at once, or of the best of them."""
    evaluation = evaluation_of(truth, seed, resamples)
    rng = np.random.default_rng([seed, truth.prompts])
    if truth.candidates == 1:
        return [_simulate_one(truth, evaluation, scores_of(truth, evaluation, rng))]
    found = {f"c{place}": scores_of(truth, evaluation, rng) for place in range(truth.candidates)}
    looks: dict[str, tuple[Look, ...]] = dict.fromkeys(found, ())
    if not truth.chosen_on:
        return list(compared_together(evaluation, found, looks).values())
    choosing = range(round(truth.chosen_on * truth.prompts))
    judging = [prompt for prompt in range(truth.prompts) if prompt not in choosing] or list(choosing)
    seen = compared_together(evaluation, {name: _of_prompts(one, choosing) for name, one in found.items()}, looks)
    return [compared(evaluation, _of_prompts(found[choose("m0", seen)], judging))]


def _simulate_one(truth: Truth, evaluation: EvaluationConfig, found: Scored) -> Comparison:
    """A fixed evaluation, or a sequential one up to where it stops."""
    if truth.stop == "fixed":
        return compared(evaluation, found)
    looks: tuple[Look, ...] = ()
    step = evaluation.sequential.every_prompts
    for prompts in range(evaluation.sequential.first_prompts, truth.prompts + 1, step):
        comparison = compared(evaluation, _of_prompts(found, range(prompts)), looks)
        looks = comparison.looks
        if comparison.decided:
            break
    return comparison


def evaluation_of(truth: Truth, seed: int, resamples: int) -> EvaluationConfig:
    metrics = [
        {"metric": "clip_score", "name": f"m{place}", "model": "./m", "primary": True}
        for place in range(len(truth.effects))
    ]
    settings = {"prompts": "./p.txt", "seed": seed, "resamples": resamples, "metrics": metrics}
    when = {"stop": truth.stop, "sequential": truth.sequential, "gates": truth.gates}
    return EvaluationConfig.model_validate(settings | when)


def scores_of(truth: Truth, evaluation: EvaluationConfig, rng: np.random.Generator) -> Scored:
    """Prompts differ three times as much as models do; replicates of a prompt share half of their difference."""
    draw, rows = DIFFERENCES[truth.shape], []
    shape_PR = (truth.prompts, truth.replicates)
    common_P = draw(rng, truth.prompts)
    for metric, effect in zip(evaluation.metrics, truth.effects, strict=True):
        own_P = draw(rng, truth.prompts)
        mixed_P = own_P if truth.shape != "normal" else truth.share**0.5 * common_P + (1 - truth.share) ** 0.5 * own_P
        delta_PR = effect + mixed_P[:, None] + (rng.normal(0, 1, shape_PR) if truth.replicates > 1 else 0)
        base_PR = 20 + 3 * rng.normal(0, 1, truth.prompts)[:, None] + np.zeros(shape_PR)
        for side, values_PR in (("base", base_PR), ("candidate", base_PR + delta_PR)):
            rows += _rows(metric.id, side, values_PR)
    facts = {
        metric.id: MetricFacts.model_validate({**describe(metric), "weights": {}}) for metric in evaluation.metrics
    }
    return Scored(rows, facts, {}, {}, {}, _pictures(rows), {})


def _rows(name: str, side: str, values_PR: Array) -> Iterable[Row]:
    for prompt, row in enumerate(values_PR.tolist()):
        for replicate, value in enumerate(row):
            yield Row(f"{side}{prompt}.{replicate}", f"p{prompt}", replicate, replicate, side, name, value)


def _pictures(rows: Sequence[Row]) -> dict[str, dict[tuple[str, int], str]]:
    found: dict[str, dict[tuple[str, int], str]] = {"base": {}, "candidate": {}}
    for row in rows:
        found[row.model_id][row.key] = row.image_digest
    return found


def _of_prompts(found: Scored, prompts: Iterable[int]) -> Scored:
    wanted = {f"p{prompt}" for prompt in prompts}
    rows = [row for row in found.rows if row.prompt_id in wanted]
    return Scored(rows, found.facts, {}, {}, {}, _pictures(rows), {})


@dataclass(frozen=True)
class Tally:
    """What came out of many simulated evaluations of one truth."""

    runs: int
    found: float
    """Share with a headline of better, worse or mixed, of any candidate."""
    covered: float
    """Share of intervals, of all metrics, that hold the true difference."""
    promoted: float
    """Share in which any candidate is."""
    rejected: float
    prompts: float
    """Drawn on average."""


def tally(truth: Truth, runs: int, map_: Callable[..., Iterable[list[Comparison]]] = map) -> Tally:
    evaluations = list(map_(partial(simulate, truth), range(runs)))
    comparisons = [comparison for together in evaluations for comparison in together]
    intervals = [
        (metric.delta_interval, effect)
        for comparison in comparisons
        for metric, effect in zip(comparison.judged, truth.effects, strict=True)
    ]
    covered = [found is not None and found.low <= effect <= found.high for found, effect in intervals]
    return Tally(
        runs=runs,
        found=float(np.mean([any(one.outcome in DIFFERENT for one in together) for together in evaluations])),
        covered=float(np.mean(covered)),
        promoted=float(np.mean([any(one.verdict == "promote" for one in together) for together in evaluations])),
        rejected=float(np.mean([any(one.verdict == "reject" for one in together) for together in evaluations])),
        prompts=float(np.mean([comparison.prompts for comparison in comparisons])),
    )


DIFFERENT = ("better", "worse", "mixed")
BETTER = ({"metric": "m0", "require": "better"},)
NOT_WORSE = (*BETTER, {"metric": "m1", "require": "not_worse", "margin": 0.5})
SCENARIOS: dict[str, Truth] = {
    **{
        f"nothing differs, {shape}, {prompts} prompts": Truth(prompts, (0.0, 0.0, 0.0), shape, gates=BETTER)
        for prompts in (50, 200)
        for shape in DIFFERENCES
    },
    "nothing differs, 50 prompts of 4 seeds": Truth(50, (0.0, 0.0, 0.0), replicates=4, gates=BETTER),
    "nothing differs, 24 prompts": Truth(24, (0.0, 0.0, 0.0), gates=BETTER),
    "better by 0.3, the guard worse by its whole margin, 200 prompts": Truth(200, (0.3, -0.5), gates=NOT_WORSE),
    "better by 0.3, the guard unmoved, 200 prompts": Truth(200, (0.3, 0.0), gates=NOT_WORSE),
    "five candidates, nothing differs, 50 prompts": Truth(50, (0.0, 0.0, 0.0), gates=BETTER, candidates=5),
    "five candidates, nothing differs, 200 prompts": Truth(200, (0.0, 0.0, 0.0), gates=BETTER, candidates=5),
    "the best of five by 100 prompts, nothing differs, judged on 100 others": Truth(
        200, (0.0,), gates=BETTER, candidates=5, chosen_on=0.5
    ),
    "the best of five by 100 prompts, all better by 0.2, judged on 100 others": Truth(
        200, (0.2,), gates=BETTER, candidates=5, chosen_on=0.5
    ),
    "the best of five, nothing differs, judged on the prompts that chose it (not done here)": Truth(
        100, (0.0,), gates=BETTER, candidates=5, chosen_on=1.0
    ),
    "sequential, nothing differs, up to 500": Truth(500, (0.0,), stop="sequential", gates=BETTER),
    "sequential, nothing differs in three metrics, up to 500": Truth(500, (0.0,) * 3, stop="sequential", gates=BETTER),
    "sequential, nothing differs, skewed, up to 500": Truth(500, (0.0,), "skewed", stop="sequential", gates=BETTER),
    "sequential, nothing differs, heavy tails, up to 500": Truth(
        500, (0.0,), "heavy tails", stop="sequential", gates=BETTER
    ),
    "sequential, better by 0.15, up to 500": Truth(500, (0.15,), stop="sequential", gates=BETTER),
    "sequential, better by 0.3, up to 500": Truth(500, (0.3,), stop="sequential", gates=BETTER),
    "sequential, better by 0.6, up to 500": Truth(500, (0.6,), stop="sequential", gates=BETTER),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000, help="simulated evaluations of each truth")
    parser.add_argument("--only", default="", help="truths whose name holds this")
    args = parser.parse_args()
    print("| truth | a difference is found | intervals that hold the truth | promoted | rejected | prompts |")
    print("|---|---:|---:|---:|---:|---:|")
    with ProcessPoolExecutor(os.cpu_count()) as processes:
        for name, truth in SCENARIOS.items():
            if args.only not in name:
                continue
            found = tally(truth, args.runs, partial(processes.map, chunksize=20))
            shares = (found.found, found.covered, found.promoted, found.rejected)
            cells = [name, *(f"{100 * share:.1f} %" for share in shares), f"{found.prompts:.0f}"]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
