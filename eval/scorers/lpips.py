"""LPIPS between the base's and the candidate's picture: how far did pictures move, to the eye?"""

from __future__ import annotations

from typing import ClassVar, Literal

from eval.perceptual import VERSION, Net, PerceptualDistance
from eval.questions import about_all
from eval.scorers.base import Direction, Judge, Kind, Metric, Resources, number_told


class Lpips(Metric):
    """Learned perceptual distance (Zhang et al. 2018, arXiv:1801.03924, version 0.1), 0 for equal pictures."""

    title: ClassVar[str] = "LPIPS"
    scored: ClassVar[Kind] = "pair"
    direction: ClassVar[Direction] = 0
    unit: ClassVar[str] = "distance"
    convention: ClassVar[str] = "base against candidate from the same noise, at full size; 0 means the same picture"
    licence: ClassVar[str] = "lpips BSD-2-Clause; the trunk's own"
    decimals: ClassVar[int] = 3
    version: ClassVar[int] = VERSION
    weight_fields: ClassVar[tuple[str, ...]] = ("trunk",)
    weights_from: ClassVar[str] = "torchvision's alexnet-owt-7be5be79.pth"

    metric: Literal["lpips"]
    net: Net = "alex"
    trunk: str
    """File with the network's convolutions in torchvision's layout, `features.N.weight` or `N.weight`: .safetensors, or
    torchvision's own .pth (alexnet-owt-7be5be79.pth, vgg16-397923af.pth, squeezenet1_1-b8a52dc0.pth)."""
    linear: bool = True
    """Weigh channels by the learned heads that come with lpips. They fit torchvision's ImageNet trunks only; with any
    other trunk say false, and all channels count alike."""

    def judge(self, resources: Resources) -> Judge:
        trunk, digest = resources.weights["trunk"], resources.digests["trunk"]
        distance = PerceptualDistance(self.net, trunk, digest, self.linear, resources.device)
        return Judge(number_told(distance), about_all(distance))
