"""Slow, obvious ways to get each metric's number, one module a metric, and toy weights to get it with.

A module has `weights(folder)`, which writes toy weights into an empty folder and says weight field -> place;
`reference(case)`, the number; and, where the metric needs more to be built, `SETTINGS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Case:
    """What one score is of. Pictures are uint8 HWC."""

    weights: Mapping[str, Path]
    pictures: Sequence[np.ndarray]
    """One; base's and candidate's; all replicates of a prompt; all frames of a storyboard; or all of a set, prompt by
    prompt."""
    prompt: str
    """The first picture's."""
    instances: Sequence[np.ndarray]
