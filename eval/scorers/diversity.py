"""Diversity: how much do a prompt's pictures from different noise differ?"""

from __future__ import annotations

from itertools import combinations
from typing import ClassVar, Literal

from eval.cells import number
from eval.errors import NotScored
from eval.perceptual import VERSION, Net, PerceptualDistance
from eval.questions import Answers, Ask
from eval.scorers.base import Direction, Judge, Kind, Metric, Resources, Sample, Score


class Diversity(Metric):
    """Mean LPIPS over all pairs of a prompt's replicates: DIV of DreamBooth (Ruiz et al. 2022, arXiv:2208.12242).

    It falls where a model learnt its pictures by heart. It rises with noise and artefacts, too.
    """

    title: ClassVar[str] = "Diversity"
    scored: ClassVar[Kind] = "prompt"
    direction: ClassVar[Direction] = 1
    unit: ClassVar[str] = "mean LPIPS"
    convention: ClassVar[str] = (
        "mean LPIPS over all pairs of a prompt's replicates, at full size; needs two replicates, four to say much"
    )
    licence: ClassVar[str] = "lpips BSD-2-Clause; the trunk's own"
    decimals: ClassVar[int] = 3
    tie: ClassVar[float] = 1e-5
    version: ClassVar[int] = VERSION
    weight_fields: ClassVar[tuple[str, ...]] = ("trunk",)
    weights_from: ClassVar[str] = "torchvision's alexnet-owt-7be5be79.pth"

    metric: Literal["diversity"]
    net: Net = "alex"
    trunk: str
    """File with the network's convolutions, as for `lpips`."""
    linear: bool = True
    """Weigh channels by the learned heads that come with lpips, as for `lpips`."""

    def judge(self, resources: Resources) -> Judge:
        trunk, digest = resources.weights["trunk"], resources.digests["trunk"]
        distance = PerceptualDistance(self.net, trunk, digest, self.linear, resources.device)

        def asks(sample: Sample) -> list[Ask]:
            return [Ask(distance, pair) for pair in combinations(sample.pictures, 2)]

        def score(sample: Sample, answers: Answers) -> Score:
            distances = [number(answers(distance, *pair)) for pair in combinations(sample.pictures, 2)]
            if not distances:
                raise NotScored("only one picture of the prompt; set evaluation.replicates to 2 at least")
            return Score(sum(distances) / len(distances))

        return Judge(score, asks)
