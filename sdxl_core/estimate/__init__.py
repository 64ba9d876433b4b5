"""What a training will need, before it starts: memory counted, time worked out from assumptions that are stated."""

from sdxl_core.estimate.cards import CARDS, Card
from sdxl_core.estimate.rehearsal import Given, StepCost, count_step, time_step

__all__ = ["CARDS", "Card", "Given", "StepCost", "count_step", "time_step"]
