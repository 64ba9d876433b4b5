"""Kinds of numbers that settings have."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
"""Of a running mean: how much of it a step keeps."""
Rate = Annotated[float, Field(gt=0, le=1)]
"""A learning rate."""
