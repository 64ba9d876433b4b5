"""Embeddings by vision transformers that were trained without words: DINO (Caron et al. 2021, arXiv:2104.14294) and
DINOv2 (Oquab et al. 2023, arXiv:2304.07193)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from eval.vision import Vision, load_pretrained

if TYPE_CHECKING:
    import torch

# the pooling layer of a ViTModel was never trained in DINO
CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViTModel", {"add_pooling_layer": False}),
    "dinov2": ("Dinov2Model", {}),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", {}),
}
"""model_type -> class in transformers and how to make one."""


class VitVision(Vision):
    """The class token after the last norm."""

    kind: ClassVar[str] = "vit-image"
    what: ClassVar[str] = "a vision transformer"
    version: ClassVar[int] = 1
    model_types: ClassVar[tuple[str, ...]] = tuple(CLASSES)

    def load(self, folder: Path, device: str) -> Any:
        import transformers

        name, settings = CLASSES[self.model_type]
        return load_pretrained(getattr(transformers, name), folder, self.what, device, **settings)

    def embed(self, tower: Any, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        cls_BD: torch.Tensor = tower(pixel_values=pixels_BCHW).last_hidden_state[:, 0]
        return cls_BD
