"""Settings of what a candidate has to pass: `evaluation.gates`, and of when an evaluation stops by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from eval.settings import Config

PositiveInt = Annotated[int, Field(ge=1)]
Requirement = Literal["better", "not_worse", "at_most", "at_least"]
RELATIVE: tuple[Requirement, ...] = ("better", "not_worse")


class GateConfig(Config):
    """One thing that the candidate has to show. All gates passed: promote; one failed: reject; else inconclusive."""

    metric: str
    """Name of one of `evaluation.metrics`."""
    require: Requirement
    """`better` than the base by `margin` or more; `not_worse` by as much; or the candidate's own mean `at_most` or
    `at_least` `limit`, whatever the base's."""
    margin: Annotated[float, Field(ge=0)] = 0.0
    """In the metric's unit, whichever direction is better. Declare it before you look at results."""
    limit: float | None = None
    """Of `at_most` and `at_least`, in the metric's unit."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] | None = None
    """Of the interval that has to lie wholly on the right side. Default: evaluation.confidence."""

    @property
    def bound(self) -> float:
        """What the interval has to lie beyond: of the improvement, or of the candidate's own mean."""
        if self.limit is not None:
            return self.limit
        return self.margin if self.require == "better" else -self.margin

    @model_validator(mode="after")
    def _one_bound(self) -> GateConfig:
        relative = self.require in RELATIVE
        if relative and self.limit is not None:
            raise ValueError(f"require: {self.require} compares with the base: expected `margin`, got `limit`")
        if not relative and self.limit is None:
            raise ValueError(f"require: {self.require} needs `limit`, in the metric's unit")
        if not relative and self.margin:
            raise ValueError(f"require: {self.require} has no margin: move `limit`")
        if self.require == "not_worse" and not self.margin:
            raise ValueError("require: not_worse needs a `margin` above 0: no data can show that two models are equal")
        return self


class SequentialConfig(Config):
    """Of `stop: sequential`: pictures are drawn in batches of prompts until primaries and gates are decided."""

    every_prompts: PositiveInt = 25
    """After so many more, one looks again."""
    first_prompts: Annotated[int, Field(ge=10)] = 50
    """Before so many, nothing is decided: the sequence is exact only for many."""
    tuned_for_prompts: PositiveInt = 100
    """Where it is tightest; choose it before you look."""
    indifferent: Mapping[str, Annotated[float, Field(gt=0)]] = Field(default={})
    """Primary metric -> difference, in its unit, that does not matter: once the whole interval lies within, that metric
    is settled without a winner."""
