"""LPIPS between two pictures (Zhang et al. 2018, arXiv:1801.03924, version 0.1), shared by all scorers that use it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from eval.cells import cell_key, number_bytes
from eval.errors import EvalError
from eval.images import Picture
from eval.pixels import pixels_1CHW, same_size
from eval.questions import Question
from eval.tensors import read_tensors

if TYPE_CHECKING:
    from PIL import Image

Net = Literal["alex", "vgg", "squeeze"]
VERSION = 1


class PerceptualDistance(Question["tuple[Image.Image, Image.Image]"]):
    """Between two pictures of one size."""

    rows_at_once = 1
    keeps_pixels = True

    def __init__(self, net: Net, trunk: Path, digest: str, linear: bool, device: str) -> None:
        self._net, self._trunk, self._linear, self._device = net, trunk, linear, device
        self.spec = cell_key("lpips", trunk=digest, net=net, linear=linear, version=VERSION)

    def prepare(self, pictures: Sequence[Picture], images: Sequence[Image.Image]) -> tuple[Image.Image, Image.Image]:
        # as decoded, not as floats: each picture of a prompt can be in several pairs, which then share its memory
        return same_size(images)

    def answer(self, rows: Sequence[tuple[Image.Image, Image.Image]]) -> list[bytes]:
        import torch

        first, second = (pixels_1CHW(image, self._device) for image in rows[0])
        with torch.inference_mode():
            # normalize: [0, 1] => [-1, 1]
            value = self._network(first, second, normalize=True)
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
            f"another shape, first {wrong[0]!r}. Set `net` to the network that the file belongs to."
        )
    model.net.load_state_dict({key: stored[name] for key, name in expected.items()})
    return model.eval()
