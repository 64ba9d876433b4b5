"""CLIP embeddings (Radford et al. 2021, arXiv:2103.00020), shared by all scorers that use them."""

from __future__ import annotations

import json
import math
from collections.abc import MutableMapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from eval.cells import cell_key, remembered
from eval.embeddings import unit_rows, vector_D
from eval.errors import EvalError
from eval.vision import Vision, load_pretrained, model_type, preprocessing_digest, quiet_transformers

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

VERSION = 2
PROMPT_FILES = ("tokenizer.json", "vocab.json")

# D: width of the embedding space


class ClipVision(Vision):
    """The projected embedding by a transformers CLIPModel folder."""

    kind: ClassVar[str] = "clip-image"
    what: ClassVar[str] = "a CLIP model"
    version: ClassVar[int] = VERSION
    model_types: ClassVar[tuple[str, ...]] = ("clip", "clip_vision_model")

    def load(self, folder: Path, device: str) -> Any:
        from transformers import CLIPVisionModelWithProjection

        return _load_tower(CLIPVisionModelWithProjection, folder, device)

    def embed(self, tower: Any, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        embeds_BD: torch.Tensor = tower(pixel_values=pixels_BCHW).image_embeds
        return embeds_BD


class ClipText:
    """Unit-length embeddings of prompts by the same folder, each prompt by itself and once."""

    def __init__(self, folder: Path, digest: str, cells: MutableMapping[str, bytes], device: str) -> None:
        model_type(folder, "a CLIP model", ("clip",))
        if not any((folder / name).is_file() for name in PROMPT_FILES):
            raise EvalError(
                f"{folder.name}: neither {' nor '.join(PROMPT_FILES)} in it; put the tokenizer of the CLIP model that "
                "it was made from beside its weights"
            )
        self._folder, self._cells, self._device = folder, cells, device
        self._spec = {"weights": digest, "preprocessing": preprocessing_digest(folder), "version": VERSION}

    def embedding_D(self, prompt: str) -> NDArray[np.float64]:
        """Longer prompts are cut to the model's length (77 tokens), keeping the end token."""
        key = cell_key("clip-text", text=prompt, **self._spec)
        return vector_D(remembered(self._cells, key, lambda: self._embed(prompt)))

    def is_truncated(self, prompt: str) -> bool:
        return len(self._tokenizer(prompt, verbose=False)["input_ids"]) > self._max_tokens

    def free(self) -> None:
        self.__dict__.pop("_tower", None)

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

        return _load_tower(CLIPTextModelWithProjection, self._folder, self._device)


def embedding_width(folder: Path) -> int:
    """D of a CLIPModel folder."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return int(config.get("projection_dim", 512))  # transformers' default


def learned_scale(folder: Path) -> float:
    """exp(logit_scale): what CLIP's training multiplied cosines by.

    Raises:
        EvalError: the weights have no such number.
    """
    from safetensors import SafetensorError, safe_open

    for file in (folder / "model.safetensors", *sorted(folder.glob("model-*.safetensors"))):
        try:
            with safe_open(file, "pt") as stored:
                if "logit_scale" in stored.keys():  # noqa: SIM118 - not a mapping
                    return math.exp(float(stored.get_tensor("logit_scale")))
        except FileNotFoundError:
            continue
        except SafetensorError as problem:
            raise EvalError(f"{folder.name}/{file.name}: cannot be read ({problem})") from problem
    raise EvalError(f"{folder.name}: no logit_scale in its safetensors; expected a whole CLIPModel")


def _load_tower(kind: Any, folder: Path, device: str) -> Any:
    # both towers of a CLIPModel project to its own projection_dim, which LAION's folders do not repeat for each tower
    return load_pretrained(kind, folder, "a CLIP model", device, projection_dim=embedding_width(folder))
