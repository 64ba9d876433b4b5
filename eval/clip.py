"""CLIP embeddings (Radford et al. 2021, arXiv:2103.00020), shared by all scorers that use them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.cells import cell_key, remembered
from eval.errors import EvalError
from eval.images import Picture

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

VERSION = 1
PREPROCESSING_FILES = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)

# D: width of the embedding space


class ClipEncoder:
    """Unit-length embeddings of pictures and prompts from a transformers CLIPModel folder.

    Items go through one at a time: a vector then depends on nothing beside it, so what is already in `cells` can
    never show in the result. The towers are loaded when the first vector is missing.
    """

    def __init__(self, folder: Path, digest: str, cells: MutableMapping[str, bytes], device: str) -> None:
        if not (folder / "config.json").is_file():
            raise EvalError(f"{folder.name}: no config.json in it; expected a transformers CLIP model folder")
        self._folder, self._cells, self._device = folder, cells, device
        self._spec = {"weights": digest, "preprocessing": _preprocessing_digest(folder), "version": VERSION}

    def image_D(self, picture: Picture) -> NDArray[np.float64]:
        """Raises NotScored when the picture cannot be read."""
        key = cell_key("clip-image", image=picture.identity, **self._spec)
        return _vector(remembered(self._cells, key, lambda: self._embed_image(picture)))

    def text_D(self, prompt: str) -> NDArray[np.float64]:
        """Longer prompts are cut to the model's length (77 tokens), keeping the end token."""
        key = cell_key("clip-text", text=prompt, **self._spec)
        return _vector(remembered(self._cells, key, lambda: self._embed_text(prompt)))

    def is_truncated(self, prompt: str) -> bool:
        return len(self._tokenizer(prompt, verbose=False)["input_ids"]) > self._max_tokens

    def _embed_image(self, picture: Picture) -> bytes:
        import torch

        pixels = self._image_processor(images=picture.load(), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            return _unit_bytes(self._vision(pixel_values=pixels.to(self._device)).image_embeds)

    def _embed_text(self, prompt: str) -> bytes:
        import torch

        ids = self._tokenizer(prompt, truncation=True, max_length=self._max_tokens, return_tensors="pt")
        with torch.inference_mode():
            return _unit_bytes(self._text(**ids.to(self._device)).text_embeds)

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        with _quiet_transformers():
            return AutoTokenizer.from_pretrained(self._folder, local_files_only=True)

    @cached_property
    def _max_tokens(self) -> int:
        from transformers import CLIPTextConfig

        return int(CLIPTextConfig.from_pretrained(self._folder, local_files_only=True).max_position_embeddings)

    @cached_property
    def _image_processor(self) -> Any:
        from transformers import AutoImageProcessor

        load: Any = AutoImageProcessor.from_pretrained  # untyped in transformers

        # PIL's resampling is what CLIP was published with; the torchvision backend's differs by up to 0.015
        with _quiet_transformers():
            return load(self._folder, backend="pil", local_files_only=True)

    @cached_property
    def _vision(self) -> Any:
        from transformers import CLIPVisionModelWithProjection

        return self._load(CLIPVisionModelWithProjection)

    @cached_property
    def _text(self) -> Any:
        from transformers import CLIPTextModelWithProjection

        return self._load(CLIPTextModelWithProjection)

    def _load(self, tower: Any) -> Any:
        import torch

        try:
            with _quiet_transformers():
                model = tower.from_pretrained(
                    self._folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
                )
        except OSError as problem:
            raise EvalError(f"{self._folder.name}: not a CLIP model in safetensors ({problem})") from problem
        return model.to(self._device).eval()


def _preprocessing_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in PREPROCESSING_FILES:
        if (path := folder / name).is_file():
            digest.update(name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _unit_bytes(embedding_1D: torch.Tensor) -> bytes:
    import torch

    vector_D: NDArray[np.float32] = torch.nn.functional.normalize(embedding_1D[0].float(), dim=0).cpu().numpy()
    return vector_D.astype("<f4").tobytes()


def _vector(cell: bytes) -> NDArray[np.float64]:
    import numpy as np

    return np.frombuffer(cell, dtype="<f4").astype(np.float64)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Loading one tower reports the other tower's weights as unused, which is how it is meant."""
    from transformers.utils import logging

    log: Any = logging  # untyped in transformers
    verbosity, bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bar:
            log.enable_progress_bar()
