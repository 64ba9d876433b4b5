"""How differences between models are inferred: once, from a number of prompts fixed before, or while they come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from eval import sequential, stats
from eval.config import EvaluationConfig
from eval.stats import FloatArray, Interval

# P: prompts


class Inference(Protocol):
    def mean(self, d_P: FloatArray, confidence: float, seed: Sequence[int], *, binary: bool) -> Interval | None:
        """Of the mean difference; `binary`: of scores that are 0 or 1."""

    def level(self, value_P: FloatArray, confidence: float, seed: Sequence[int], *, binary: bool) -> Interval | None:
        """Of the mean of one model's own scores."""

    def share(self, share_P: FloatArray, confidence: float) -> Interval | None:
        """Of the mean of shares between 0 and 1."""

    def p(self, d_P: FloatArray, seed: Sequence[int], *, binary: bool) -> float | None:
        """Two-sided, of no difference in the mean."""

    def detectable_d_z(self, prompts: int, level: float) -> float | None:
        """The effect size that is found four times in five at this level."""


@dataclass(frozen=True)
class FixedNumber(Inference):
    """All prompts are drawn before anybody looks."""

    resamples: int

    def mean(self, d_P: FloatArray, confidence: float, seed: Sequence[int], *, binary: bool) -> Interval | None:
        if binary:
            return stats.rate_difference_interval(d_P, confidence)
        return stats.mean_interval(d_P, confidence, self.resamples, seed)

    def level(self, value_P: FloatArray, confidence: float, seed: Sequence[int], *, binary: bool) -> Interval | None:
        if binary:
            return stats.share_interval(value_P, confidence)
        return stats.mean_interval(value_P, confidence, self.resamples, seed)

    def share(self, share_P: FloatArray, confidence: float) -> Interval | None:
        return stats.share_interval(share_P, confidence)

    def p(self, d_P: FloatArray, seed: Sequence[int], *, binary: bool) -> float | None:
        if binary:  # sign flips are McNemar's exact test then
            return stats.sign_flip_p(d_P, self.resamples, seed)
        return stats.difference_p(d_P, self.resamples, seed)

    def detectable_d_z(self, prompts: int, level: float) -> float | None:
        return stats.minimum_detectable_effect(prompts, level)


@dataclass(frozen=True)
class WhileTheyCome(Inference):
    """One looks after every batch of prompts and stops when it suffices."""

    rho2: float

    def mean(self, d_P: FloatArray, confidence: float, seed: Sequence[int], *, binary: bool) -> Interval | None:
        return sequential.running_interval(d_P, confidence, self.rho2, _least(len(d_P), binary))

    def level(self, value_P: FloatArray, confidence: float, seed: Sequence[int], *, binary: bool) -> Interval | None:
        return self.share(value_P, confidence) if binary else self.mean(value_P, confidence, seed, binary=False)

    def share(self, share_P: FloatArray, confidence: float) -> Interval | None:
        found = sequential.running_interval(share_P, confidence, self.rho2, _least(len(share_P), True))
        return found and Interval(max(0.0, found.low), min(1.0, found.high), found.method)

    def p(self, d_P: FloatArray, seed: Sequence[int], *, binary: bool) -> float | None:
        return sequential.running_p(d_P, self.rho2, _least(len(d_P), binary))

    def detectable_d_z(self, prompts: int, level: float) -> float | None:
        return sequential.detectable(prompts, level, self.rho2)


def _least(prompts: int, binary: bool) -> float:
    """Variance that so many prompts without any difference leave possible for rates: as if one pair had differed."""
    return 1 / (prompts + 2) if binary else 0.0


def inference_of(evaluation: EvaluationConfig) -> Inference:
    if evaluation.stop == "fixed":
        return FixedNumber(evaluation.resamples)
    return WhileTheyCome(sequential.tuned_rho2(evaluation.confidence, evaluation.sequential.tuned_for_prompts))
