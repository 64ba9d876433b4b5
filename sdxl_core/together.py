"""What all processes of a run do together beside its steps: the main one leads, the others follow.

Saving, measuring and drawing are the main process's. Where each process holds a share of the weights, it cannot do them
alone: then it says what it is about to do, and the others do the same and throw the result away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum

from sdxl_core.workers import Workers


class Action(IntEnum):
    GO_ON = 0
    """Nothing more for now."""
    BUNDLE = 1
    MEASURE = 2
    """The validation loss."""
    DRAW = 3
    """Validation pictures."""
    EXPORT = 4
    """Of a step's weights."""


class Alone:
    """The main process can do everything by itself: nobody has to be led, and nobody follows."""

    def lead(self, action: Action, step: int = 0) -> None:
        """By the main process, before it begins with `action`. Does nothing in the others: they follow."""

    def follow(self, actions: Mapping[Action, Callable[[int], object]]) -> None:
        """In the others: do what the main process leads (with its `step`), until it leads to go on."""


class Together(Alone):
    """Processes that hold a share of the weights each."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers

    def lead(self, action: Action, step: int = 0) -> None:
        if self.workers.is_main:
            self.workers.told([int(action), step])

    def follow(self, actions: Mapping[Action, Callable[[int], object]]) -> None:
        while True:
            number, step = self.workers.told([0, 0])
            if number == Action.GO_ON:
                return
            actions[Action(number)](step)
