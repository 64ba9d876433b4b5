"""What one metric found, by itself: from its rows to an entry of the comparison."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from eval import stats
from eval.config import EvaluationConfig
from eval.inference import inference_of
from eval.pairing import Paired, group_means, storyboards_among, unit_of
from eval.result import DescribedMetric, JudgedMetric, MetricFacts, SetMetric, ShiftedMetric
from eval.scored import Scored, set_reasons


def seed_of(evaluation: EvaluationConfig, name: str) -> list[int]:
    """Each metric draws by itself, so that adding one changes no other's interval."""
    return [evaluation.seed, zlib.crc32(name.encode())]


def judge(found: Scored, name: str, primary: bool, evaluation: EvaluationConfig) -> JudgedMetric:
    """Base against candidate, the metric by itself; `with_outcomes` adds what depends on the others."""
    facts, paired = found.facts[name], found.paired(name)
    improvement = facts.direction * paired.delta
    delta_P = paired.per_prompt(paired.delta)
    share = stats.win_share(improvement, facts.tie)
    share_P = paired.per_prompt(share)
    inference, seed = inference_of(evaluation), seed_of(evaluation, name)
    interval = inference.mean(delta_P, evaluation.confidence, seed, binary=facts.binary)
    spread = stats.spread(delta_P)
    bounds = None
    if spread is not None and interval is not None:
        low, high = sorted(facts.direction * bound / spread for bound in (interval.low, interval.high))
        bounds = (low, high)
    return JudgedMetric(
        **_both_sides(facts, paired),
        primary=primary,
        delta_interval=interval,
        spread=spread,
        d_z=None if spread is None else float(paired.per_prompt(improvement).mean()) / spread,
        d_z_interval=bounds,
        p=inference.p(delta_P, seed, binary=facts.binary),
        p_holm=None,
        wins=int((share == 1).sum()),
        ties=int((share == 0.5).sum()),
        losses=int((share == 0).sum()),
        win_rate=float(share_P.mean()),
        win_rate_interval=inference.share(share_P, evaluation.confidence),
        detectable_d_z=None,
        detectable_delta=None,
        outcome="too_few_prompts",
    )


def shift(found: Scored, name: str, evaluation: EvaluationConfig) -> ShiftedMetric:
    facts, paired = found.facts[name], found.paired(name)
    inference, seed = inference_of(evaluation), seed_of(evaluation, name)
    delta_P = paired.per_prompt(paired.delta)
    interval = inference.mean(delta_P, evaluation.confidence, seed, binary=facts.binary)
    return ShiftedMetric(**_both_sides(facts, paired), delta_interval=interval)


def _both_sides(facts: MetricFacts, paired: Paired) -> dict[str, Any]:
    """What the findings of a metric that both models' pictures have by themselves have in common."""
    return {
        "facts": facts,
        "prompts": len(set(paired.units)),
        "storyboards": storyboards_among(paired.units),
        "pairs": len(paired.keys),
        "base_mean": float(paired.per_prompt(paired.base).mean()),
        "candidate_mean": float(paired.per_prompt(paired.candidate).mean()),
        "delta": float(paired.per_prompt(paired.delta).mean()),
    }


def describe(found: Scored, name: str, evaluation: EvaluationConfig) -> DescribedMetric:
    facts, boards = found.facts[name], found.units_of(name)
    mine = [row for row in found.rows_of(name) if row.is_scored]
    values = np.array([row.value for row in mine])
    units = [unit_of(row.prompt_id, boards) for row in mine]
    mean_P = group_means(units, values)
    inference, seed = inference_of(evaluation), seed_of(evaluation, name)
    return DescribedMetric(
        facts=facts,
        prompts=len(mean_P),
        storyboards=storyboards_among(units),
        pairs=len(mine),
        mean=float(mean_P.mean()),
        mean_interval=inference.level(mean_P, evaluation.confidence, seed, binary=facts.binary),
        lowest=float(values.min()),
        highest=float(values.max()),
    )


def of_sets(found: Scored, name: str) -> SetMetric:
    rows = found.rows_of(name)
    values = {row.model_id: row.value for row in rows if row.is_scored}
    reason = set_reasons(rows)
    return SetMetric(facts=found.facts[name], base=values.get("base"), candidate=values.get("candidate"), reason=reason)
