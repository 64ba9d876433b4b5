"""How a report speaks of the two models that it compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.images import GeneratedImage

BASE = "base"


@dataclass(frozen=True)
class Sides:
    baseline: str = BASE
    """What the candidate is compared with."""
    candidate: str = "candidate"
    """Which model that is, for the table of what was compared; sentences say `the candidate`."""
    elsewhere: tuple[str, ...] = ()
    """Which of `baseline` and `candidate` brought pictures that were not drawn here."""

    @property
    def the_baseline(self) -> str:
        """In a sentence."""
        return "the base" if self.baseline == BASE else self.baseline

    @property
    def noise(self) -> str:
        """Where their pictures begin; it decides what comparing them pair by pair means."""
        if not self.elsewhere:
            return "Both models drew every prompt from the same noise."
        whose = " and ".join(self.elsewhere)
        return (
            f"The pictures of {whose} were made elsewhere and not from the other side's noise: they are paired by "
            "prompt and replicate alone, and LPIPS, SSIM and whatever else compares a pair's two pictures mean less."
        )

    @property
    def same_noise(self) -> bool:
        return not self.elsewhere


DEFAULT = Sides()


def sides_of(names: Mapping[str, str], images: Mapping[str, Sequence[GeneratedImage]]) -> Sides:
    """`names`: role -> which model; `images`: role -> its pictures."""
    baseline = names.get("base", BASE)
    spoken = {"base": "the base" if baseline == BASE else baseline, "candidate": "the candidate"}
    elsewhere = tuple(spoken[role] for role, mine in images.items() if any(image.seed is None for image in mine))
    return Sides(baseline, names.get("candidate", "candidate"), elsewhere)
