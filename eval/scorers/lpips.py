"""LPIPS between the base's and the candidate's picture: how far did pictures move, to the eye?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from eval.cells import cell_key, number_bytes
from eval.errors import EvalError
from eval.images import Picture
from eval.pixels import pixels_1CHW, same_size
from eval.questions import Question, about_all
from eval.scorers.base import Direction, Judge, Kind, Metric, Resources, number_told
from eval.tensors import read_tensors

if TYPE_CHECKING:
    import torch
    from PIL import Image

Net = Literal["alex", "vgg", "squeeze"]


class Lpips(Metric):
    """Learned perceptual distance (Zhang et al. 2018, arXiv:1801.03924, version 0.1), 0 for equal pictures."""

    title: ClassVar[str] = "LPIPS"
    scored: ClassVar[Kind] = "pair"
    direction: ClassVar[Direction] = 0
    unit: ClassVar[str] = "distance"
    convention: ClassVar[str] = "base against candidate from the same noise, at full size; 0 means the same picture"
    licence: ClassVar[str] = "lpips BSD-2-Clause; the trunk's own"
    decimals: ClassVar[int] = 3
    version: ClassVar[int] = 1
    weight_fields: ClassVar[tuple[str, ...]] = ("trunk",)

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
        distance = LpipsDistance(self.net, trunk, digest, self.linear, resources.device)
        return Judge(number_told(distance), about_all(distance))


class LpipsDistance(Question["tuple[torch.Tensor, torch.Tensor]"]):
    """Between two pictures of one size."""

    rows_at_once = 1
    keeps_pixels = True

    def __init__(self, net: Net, trunk: Path, digest: str, linear: bool, device: str) -> None:
        self._net, self._trunk, self._linear, self._device = net, trunk, linear, device
        self.spec = cell_key("lpips", trunk=digest, net=net, linear=linear, version=Lpips.version)

    def prepare(self, pictures: Sequence[Picture], images: Sequence[Image.Image]) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = same_size(images)
        return pixels_1CHW(first), pixels_1CHW(second)

    def answer(self, rows: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[bytes]:
        import torch

        ((first, second),) = rows
        with torch.inference_mode():
            # normalize: [0, 1] => [-1, 1]
            value = self._network(first.to(self._device), second.to(self._device), normalize=True)
        return [number_bytes(float(value))]

    def free(self) -> None:
        self.__dict__.pop("_network", None)

    @cached_property
    def _network(self) -> Any:
        return load_lpips(self._net, self._trunk, self._linear).to(self._device)


def load_lpips(net: Net, trunk: Path, linear: bool) -> Any:
    """An `lpips.LPIPS` whose trunk comes from a local file; nothing is ever downloaded.

    Raises EvalError when the file is not the convolutions of `net`.
    """
    import lpips

    with warnings.catch_warnings():  # lpips calls torchvision in a way that torchvision has deprecated
        warnings.simplefilter("ignore")
        model = lpips.LPIPS(net=net, pnet_rand=True, lpips=linear, verbose=False)
    stored = {key.removeprefix("features."): tensor for key, tensor in read_tensors(trunk).items()}
    wanted = model.net.state_dict()  # sliceK.N.weight: slices keep torchvision's numbers N
    expected = {key: key.partition(".")[2] for key in wanted}
    wrong = sorted(
        name for key, name in expected.items() if name not in stored or stored[name].shape != wanted[key].shape
    )
    if wrong:
        raise EvalError(
            f"{trunk.name}: not the convolutions of {net!r}: {len(wrong)} of {len(expected)} tensors are missing or of "
            f"another shape, first {wrong[0]!r}. Set lpips.net to the network the file belongs to."
        )
    model.net.load_state_dict({key: stored[name] for key, name in expected.items()})
    return model.eval()
