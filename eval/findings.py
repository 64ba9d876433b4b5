"""What one metric found, by itself: from its rows to an entry of the comparison."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

import numpy as np

from eval import stats
from eval.config import EvaluationConfig
from eval.inference import inference_of
from eval.pairing import Storyboards, group_means, paired_scores, storyboards_among, unit_of
from eval.result import DescribedMetric, JudgedMetric, MetricFacts, SetMetric, ShiftedMetric
from eval.scored import set_reasons
from eval.table import Row


def seed_of(evaluation: EvaluationConfig, name: str) -> list[int]:
    """Each metric draws by itself, so that adding one changes no other's interval."""
    return [evaluation.seed, zlib.crc32(name.encode())]


def judge(
    rows: Iterable[Row], facts: MetricFacts, storyboards: Storyboards, primary: bool, evaluation: EvaluationConfig
) -> JudgedMetric:
    """Base against candidate, the metric by itself; `with_outcomes` adds what depends on the others."""
    paired = paired_scores(rows, facts.name, storyboards)
    improvement = facts.direction * paired.delta
    delta_P, improvement_P = paired.per_prompt(paired.delta), paired.per_prompt(improvement)
    share = stats.win_share(improvement, facts.tie)
    share_P = paired.per_prompt(share)
    inference, seed = inference_of(evaluation), seed_of(evaluation, facts.name)
    interval = inference.mean(delta_P, evaluation.confidence, seed, binary=facts.binary)
    spread = stats.spread(delta_P)
    bounds = None
    if spread is not None and interval is not None:
        low, high = sorted(facts.direction * bound / spread for bound in (interval.low, interval.high))
        bounds = (low, high)
    return JudgedMetric(
        facts=facts,
        primary=primary,
        prompts=len(delta_P),
        storyboards=storyboards_among(paired.units),
        pairs=len(paired.keys),
        base_mean=float(paired.per_prompt(paired.base).mean()),
        candidate_mean=float(paired.per_prompt(paired.candidate).mean()),
        delta=float(delta_P.mean()),
        delta_interval=interval,
        spread=spread,
        d_z=None if spread is None else float(improvement_P.mean()) / spread,
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


def describe(
    rows: Sequence[Row], facts: MetricFacts, storyboards: Storyboards, evaluation: EvaluationConfig
) -> DescribedMetric:
    mine = [row for row in rows if row.is_scored]
    values = np.array([row.value for row in mine])
    units = [unit_of(row.prompt_id, storyboards) for row in mine]
    mean_P = group_means(units, values)
    inference, seed = inference_of(evaluation), seed_of(evaluation, facts.name)
    return DescribedMetric(
        facts=facts,
        prompts=len(mean_P),
        storyboards=storyboards_among(units),
        pairs=len(mine),
        mean=float(mean_P.mean()),
        mean_interval=inference.mean(mean_P, evaluation.confidence, seed, binary=facts.binary),
        lowest=float(values.min()),
        highest=float(values.max()),
    )


def shift(
    rows: Sequence[Row], facts: MetricFacts, storyboards: Storyboards, evaluation: EvaluationConfig
) -> ShiftedMetric:
    paired = paired_scores(rows, facts.name, storyboards)
    delta_P = paired.per_prompt(paired.delta)
    inference, seed = inference_of(evaluation), seed_of(evaluation, facts.name)
    return ShiftedMetric(
        facts=facts,
        prompts=len(delta_P),
        storyboards=storyboards_among(paired.units),
        pairs=len(paired.keys),
        base_mean=float(paired.per_prompt(paired.base).mean()),
        candidate_mean=float(paired.per_prompt(paired.candidate).mean()),
        delta=float(delta_P.mean()),
        delta_interval=inference.mean(delta_P, evaluation.confidence, seed, binary=facts.binary),
    )


def of_sets(rows: Sequence[Row], facts: MetricFacts) -> SetMetric:
    values = {row.model_id: row.value for row in rows if row.is_scored}
    return SetMetric(facts=facts, base=values.get("base"), candidate=values.get("candidate"), reason=set_reasons(rows))
