"""What trainings that differ only in their seed say of the settings they have in common.

One training answers for itself alone: its interval over prompts says what *these weights* do on other prompts. Of the
settings, another seed would have given other weights, so the seed is a second source of chance beside the prompt.

A difference of seed s and prompt p is taken as mu + a_s + b_p + e_sp, both effects drawn at random (two crossed ways,
Cornfield and Tukey 1956, Annals of Mathematical Statistics 27). Its mean over S seeds and P prompts varies by
var(a) / S + var(b) / P + var(e) / SP. The first is estimated by (MS_seeds - MS_rest) / SP, or 0 where that is
negative; the others together by MS_prompts / SP, which is what an interval over prompts of the seeds' mean has. The two
are put together as Howe 1974 (JASA 69) does for the mean of a sum, each with its own t:

    reach^2 = t(S - 1)^2 max(0, MS_seeds - MS_rest) / SP + (reach over prompts)^2
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.optimize import brentq

from eval.inference import Inference
from eval.stats import FloatArray, Interval

FEWEST_SEEDS = 3
"""For saying anything of seeds that were not trained: of two, t alone would widen an interval by 12.7."""
_SMALLEST_P = 1e-12

# S: seeds, P: prompts


@dataclass(frozen=True)
class OverSeeds:
    """Of one metric's differences."""

    mean: float
    """Over seeds and prompts."""
    sd: float | None
    """Standard deviation of the seeds' means, the prompts being the same; of one seed there is none."""
    training_sd: float | None
    """The part of it that is left when the chance of these prompts is taken out: the standard deviation of a seed's
    mean over all prompts there could be. 0 where the seeds differ by no more than that chance."""
    interval: Interval | None
    """Of the settings' mean, over all seeds and prompts there could be."""
    p: float | None
    """Two-sided, of no difference."""


def over_seeds(
    d_SP: FloatArray, confidence: float, inference: Inference | None, seed: Sequence[int], *, binary: bool
) -> OverSeeds:
    """One row a training. Without `inference`, or with fewer than `FEWEST_SEEDS`, nothing is inferred.

    Args:
        inference: how intervals and tests over prompts are made.
        seed: of their resampling.
        binary: of scores that are 0 or 1.
    """
    seeds, prompts = d_SP.shape
    mean, by_seed_S, by_prompt_P = float(d_SP.mean()), d_SP.mean(axis=1), d_SP.mean(axis=0)
    if seeds < 2:
        return OverSeeds(mean, None, None, None, None)
    of_seeds = _of_seeds(d_SP)
    sd, training_sd = float(by_seed_S.std(ddof=1)), math.sqrt(seeds * of_seeds)
    if seeds < FEWEST_SEEDS or inference is None:
        return OverSeeds(mean, sd, training_sd, None, None)
    within = inference.mean(by_prompt_P, confidence, seed, binary=binary)
    at_random = inference.p(by_prompt_P, seed, binary=binary)
    if within is None or at_random is None:
        return OverSeeds(mean, sd, training_sd, None, None)
    reach = float(stats.t.ppf(0.5 + confidence / 2, seeds - 1)) * math.sqrt(of_seeds)
    low, high = math.hypot(mean - within.low, reach), math.hypot(within.high - mean, reach)
    of_prompts = float(by_prompt_P.var(ddof=1)) / prompts
    p = max(at_random, howe_p(mean, (of_seeds, seeds - 1), (of_prompts, prompts - 1)))
    return OverSeeds(mean, sd, training_sd, Interval(mean - low, mean + high, within.method), p)


def _of_seeds(d_SP: FloatArray) -> float:
    """Variance of the mean that the seeds bring: var(a) / S, estimated."""
    seeds, prompts = d_SP.shape
    by_seed_S1, by_prompt_1P = d_SP.mean(axis=1, keepdims=True), d_SP.mean(axis=0, keepdims=True)
    rest_SP = d_SP - by_seed_S1 - by_prompt_1P + d_SP.mean()
    ms_seeds = prompts * float(by_seed_S1.var(ddof=1))
    ms_rest = float((rest_SP**2).sum()) / ((seeds - 1) * (prompts - 1)) if prompts > 1 else 0.0
    return float(max(0.0, ms_seeds - ms_rest) / (seeds * prompts))


def howe_p(mean: float, *parts: tuple[float, int]) -> float:
    """Two-sided p of a mean of zero whose interval has the reach sqrt(sum of t(freedom)^2 variance) over `parts`.

    It is 1 minus the confidence at which the interval would just touch zero.
    """

    def beyond(log_p: float) -> float:
        tail = math.exp(log_p) / 2
        squares = (float(stats.t.isf(tail, freedom)) ** 2 * variance for variance, freedom in parts)
        return math.sqrt(sum(squares)) - abs(mean)

    if mean == 0:
        return 1.0
    smallest = math.log(_SMALLEST_P)
    if beyond(smallest) <= 0:
        return _SMALLEST_P
    found: float = brentq(beyond, smallest, 0.0)
    return math.exp(found)


def table_of(rows: Sequence[dict[str, float]]) -> FloatArray:
    """Rows by prompt -> S x P, of the prompts that all rows have, in the first one's order."""
    common = [prompt for prompt in rows[0] if all(prompt in row for row in rows)]
    return np.array([[row[prompt] for prompt in common] for row in rows], dtype=np.float64).reshape(len(rows), -1)
