"""CLIP embeddings (Radford et al. 2021, arXiv:2103.00020), shared by all scorers that use them."""

from __future__ import annotations

from collections.abc import MutableMapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from eval.cells import cell_key, remembered
from eval.embeddings import unit_rows, vector_D
from eval.vision import Vision, load_pretrained, model_type, preprocessing_digest, quiet_transformers

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

VERSION = 2

# D: width of the embedding space


class ClipVision(Vision):
    """The projected embedding by a transformers CLIPModel folder."""

    kind: ClassVar[str] = "clip-image"
    what: ClassVar[str] = "a CLIP model"
    version: ClassVar[int] = VERSION
    model_types: ClassVar[tuple[str, ...]] = ("clip", "clip_vision_model")

    def load(self, folder: Path, device: str) -> Any:
        from transformers import CLIPVisionModelWithProjection

        return load_pretrained(CLIPVisionModelWithProjection, folder, self.what, device)

    def embed(self, tower: Any, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        embeds_BD: torch.Tensor = tower(pixel_values=pixels_BCHW).image_embeds
        return embeds_BD


class ClipText:
    """Unit-length embeddings of prompts by the same folder, each prompt by itself and once."""

    def __init__(self, folder: Path, digest: str, cells: MutableMapping[str, bytes], device: str) -> None:
        model_type(folder, "a CLIP model", ("clip",))
        self._folder, self._cells, self._device = folder, cells, device
        self._spec = {"weights": digest, "preprocessing": preprocessing_digest(folder), "version": VERSION}

    def embedding_D(self, prompt: str) -> NDArray[np.float64]:
        """Longer prompts are cut to the model's length (77 tokens), keeping the end token."""
        key = cell_key("clip-text", text=prompt, **self._spec)
        return vector_D(remembered(self._cells, key, lambda: self._embed(prompt)))

    def is_truncated(self, prompt: str) -> bool:
        return len(self._tokenizer(prompt, verbose=False)["input_ids"]) > self._max_tokens

    def _embed(self, prompt: str) -> bytes:
        import torch

        ids = self._tokenizer(prompt, truncation=True, max_length=self._max_tokens, return_tensors="pt")
        with torch.inference_mode():
            (row,) = unit_rows(self._tower(**ids.to(self._device)).text_embeds)
        return row

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        with quiet_transformers():
            return AutoTokenizer.from_pretrained(self._folder, local_files_only=True)

    @cached_property
    def _max_tokens(self) -> int:
        from transformers import CLIPTextConfig

        return int(CLIPTextConfig.from_pretrained(self._folder, local_files_only=True).max_position_embeddings)

    @cached_property
    def _tower(self) -> Any:
        from transformers import CLIPTextModelWithProjection

        return load_pretrained(CLIPTextModelWithProjection, self._folder, "a CLIP model", self._device)
