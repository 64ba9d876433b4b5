"""Inference that stays valid however often one looks: asymptotic confidence sequences.

Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, Time-uniform central limit theory and asymptotic confidence sequences
(arXiv:2103.06476), theorem 2.2: with a chance of `confidence`, the mean lies within all of the intervals, one after
every prompt, at once. Looking after each batch and stopping when zero is out costs nothing of that.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from eval.stats import FloatArray, Interval

FOUR_IN_FIVE = NormalDist().inv_cdf(0.8)
"""Standard errors between a true mean and what four of five samples exceed."""

# P: prompts


def tuned_rho2(confidence: float, prompts: int) -> float:
    """The mixture's variance, by which the sequence is about as tight as it can be after so many prompts."""
    doubled = -2 * math.log(1 - confidence)
    return (doubled + math.log(doubled + 1)) / prompts


def running_interval(d_P: FloatArray, confidence: float, rho2: float, least_variance: float = 0.0) -> Interval | None:
    """The sequence's interval for the mean after these prompts; none for fewer than two.

    `least_variance` stands in where fewer values than needed have shown how much they vary.
    """
    count = len(d_P)
    if count < 2:
        return None
    scale = count * rho2 + 1
    squared = 2 * scale / (count**2 * rho2) * math.log(math.sqrt(scale) / (1 - confidence))
    radius = math.sqrt(squared * max(float(d_P.var()), least_variance))
    return Interval(float(d_P.mean()) - radius, float(d_P.mean()) + radius, "confidence sequence")


def running_p(d_P: FloatArray, rho2: float, least_variance: float = 0.0) -> float | None:
    """The smallest 1 - confidence at which the sequence's interval leaves zero out: valid at any stopping time.

    It is 1 / E, E being the mixture's likelihood ratio, but no less than what a sign test could give: of values that
    hardly vary, n prompts cannot vouch for more than 2 ** (1 - n).
    """
    count = len(d_P)
    if count < 2:
        return None
    variance, mean = max(float(d_P.var()), least_variance), float(d_P.mean())
    if mean == 0:
        return 1.0
    scale = count * rho2 + 1
    exponent = math.inf if variance == 0 else (count * mean) ** 2 * rho2 / (2 * variance * scale)
    log_e = exponent - math.log(scale) / 2
    return min(1.0, max(math.exp(-min(log_e, 700.0)), 2.0 ** (1 - count)))


def detectable(prompts: int, level: float, rho2: float) -> float | None:
    """The d_z that the sequence's interval at 1 - level would leave zero out for, four times in five, after so many."""
    if prompts < 2:
        return None
    scale = prompts * rho2 + 1
    radius = math.sqrt(2 * scale / (prompts**2 * rho2) * math.log(math.sqrt(scale) / level))
    return radius + FOUR_IN_FIVE / math.sqrt(prompts)
