"""HPS: which picture would people prefer for this prompt?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from eval.cells import cell_key
from eval.embeddings import unit_rows
from eval.errors import NotScored
from eval.images import Picture
from eval.openclip import OpenClip, OpenClipText
from eval.pixels import pixels_1CHW
from eval.questions import Question
from eval.scorers.base import Direction, Judge, Metric, Resources, cosine_with_prompt

if TYPE_CHECKING:
    import torch
    from PIL import Image


class Hps(Metric):
    """100 times the cosine between picture and prompt, by an open_clip model trained on people's preferences.

    Human Preference Score v2, Wu et al. 2023 (arXiv:2306.09341), section 4.
    """

    title: ClassVar[str] = "HPS"
    direction: ClassVar[Direction] = 1
    unit: ClassVar[str] = "100 x cosine"
    convention: ClassVar[str] = (
        "100 x cos(picture, prompt), not clamped, in float32; divide by 100 for what hpsv2's score() gives. Releases "
        "are different scorers: compare v2.0 with v2.0 and v2.1 with v2.1 only, with the same resampling"
    )
    licence: ClassVar[str] = "Apache-2.0"
    trained_on: ClassVar[tuple[str, ...]] = (
        "HPD v2 (v2.1: data that its authors only call of higher quality)",
        "LAION-2B",
    )
    decimals: ClassVar[int] = 2
    tie: ClassVar[float] = 1e-3
    version: ClassVar[int] = 1
    weight_fields: ClassVar[tuple[str, ...]] = ("checkpoint",)
    weights_from: ClassVar[str] = (
        "from the hub, xswu/HPSv2: HPS_v2_compressed.pt or HPS_v2.1_compressed.pt, as a local file"
    )

    metric: Literal["hps"]
    release: Literal["v2.0", "v2.1", "own"]
    """Of the checkpoint; `own` for one that is neither of its authors'. Their numbers must not be compared; nothing in
    the file says which it is."""
    checkpoint: str
    """File: `HPS_v2_compressed.pt` (v2.0) or `HPS_v2.1_compressed.pt` of `xswu/HPSv2`, or one made .safetensors."""
    architecture: str = "ViT-H-14"
    """By its name in open_clip; or the path of a JSON file such as open_clip has for each, which begins with ./"""
    antialias: bool = True
    """Resample as torchvision does since 0.17. Without is how it did by default before, so probably how the numbers
    of 2023 were made."""

    @property
    def variant(self) -> str:
        return self.release if self.antialias else f"{self.release} without antialiasing"

    def locations(self) -> dict[str, str]:
        own = {"architecture": self.architecture} if self._has_own_architecture else {}
        return {**super().locations(), **own}

    def identity(self) -> dict[str, object]:
        """An architecture's name is in it; a file's is not, as its content enters by digest."""
        own = {"architecture": None} if self._has_own_architecture else {}
        return {**super().identity(), **own}

    @property
    def _has_own_architecture(self) -> bool:
        return self.architecture.startswith("/")  # relative paths are absolute once the configuration is read

    def judge(self, resources: Resources) -> Judge:
        place, digest = resources.weights["checkpoint"], resources.digests["checkpoint"]
        architecture = resources.weights.get("architecture", self.architecture)
        network = OpenClip(architecture, place, digest, resources.device)
        vision = HpsVision(network, self.antialias, resources.device)
        text = OpenClipText(network, resources.cells, resources.device)
        return cosine_with_prompt(vision, text, scale=100)


class HpsVision(Question["torch.Tensor"]):
    """Unit-length embeddings of whole pictures: their longest side is resampled to the network's, the rest is black."""

    def __init__(self, network: OpenClip, antialias: bool, device: str) -> None:
        self._network, self._antialias, self._device = network, antialias, device
        self.spec = cell_key("hps-image", rows=self.rows_at_once, antialias=antialias, hps=Hps.version, **network.spec)

    def prepare(self, pictures: Sequence[Picture], images: Sequence[Image.Image]) -> torch.Tensor:
        (image,) = images
        return hps_pixels_CHW(image, self._network.side_px, self._antialias)

    def answer(self, rows: Sequence[torch.Tensor]) -> list[bytes]:
        import torch

        with torch.inference_mode():
            return unit_rows(self._tower(torch.stack(list(rows)).to(self._device)))

    def free(self) -> None:
        self.__dict__.pop("_tower", None)

    @cached_property
    def _tower(self) -> Any:
        return self._network.load("visual")


def hps_pixels_CHW(image: Image.Image, side_px: int, antialias: bool) -> torch.Tensor:
    """uint8 RGB => float32 square, normalised as OpenAI's CLIP.

    As hpsv2's transform for evaluation: bicubic on the tensor, not clamped; padding is zero before the normalisation.
    """
    import torch
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    scale = side_px / max(image.size)
    width, height = (round(side * scale) for side in image.size)
    if not min(width, height):
        raise NotScored(f"too narrow: {image.width}x{image.height} has no pixels left at {side_px} px")
    picture_1CHW = pixels_1CHW(image)
    if (height, width) != (image.height, image.width):
        picture_1CHW = torch.nn.functional.interpolate(
            picture_1CHW, size=(height, width), mode="bicubic", align_corners=False, antialias=antialias
        )
    left, top = (side_px - width) // 2, (side_px - height) // 2
    square_CHW = torch.zeros(3, side_px, side_px)
    square_CHW[:, top : top + height, left : left + width] = picture_1CHW[0]
    mean, std = (torch.tensor(values)[:, None, None] for values in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    return (square_CHW - mean) / std
