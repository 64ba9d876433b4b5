"""open_clip's CLIP networks from a local checkpoint. Nothing is downloaded and nothing in the file is run."""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from eval.cells import cell_key, remembered
from eval.embeddings import unit_rows, vector_D
from eval.errors import EvalError
from eval.tensors import stored_tensors

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

VERSION = 1
PLAIN = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}
FROM_THE_HUB = {"hf_model_name", "hf_tokenizer_name", "timm_model_name"}

# D: width of the embedding space


class OpenClip:
    """An architecture by its name in open_clip or from a configuration file of open_clip's, with the weights of one
    file.

    Raises:
        EvalError: there is no such architecture, or it is more than CLIP's own two towers.
    """

    def __init__(self, architecture: str | Path, checkpoint: Path, digest: str, device: str) -> None:
        self._config = _plain_config(architecture)
        self._architecture = architecture if isinstance(architecture, str) else architecture.name
        self._checkpoint, self._device = checkpoint, device
        self.spec = {"weights": digest, "config": self._config, "version": VERSION}

    @property
    def side_px(self) -> int:
        return int(self._config["vision_cfg"]["image_size"])

    @property
    def max_tokens(self) -> int:
        return int(self._config["text_cfg"].get("context_length", 77))

    def load(self, tower: Literal["visual", "text"]) -> Any:
        """One tower, in float32. Nothing else of the file is read, and memory holds nothing else.

        Raises:
            EvalError: the file does not hold this architecture's weights.
        """
        import torch

        model, stored = self._without_weights(), stored_tensors(self._checkpoint)
        self._check(stored, model.state_dict())
        mine = {name: tensor for name, tensor in stored.items() if name.startswith("visual.") == (tower == "visual")}
        copies = {name: tensor.to(torch.float32, copy=True) for name, tensor in mine.items()}
        model.load_state_dict(copies, strict=False, assign=True)
        if tower == "visual":
            return model.visual.to(self._device).eval()
        del model.visual
        if model.attn_mask is not None:  # each token sees those before it; no weight, so the file has none
            tokens = self.max_tokens
            model.attn_mask = torch.full((tokens, tokens), float("-inf")).triu(1)
        return model.to(self._device).eval()

    def _without_weights(self) -> Any:
        import torch
        from open_clip.model import CLIP

        try:
            with torch.device("meta"):  # shapes, and neither memory nor time
                return CLIP(**self._config)
        except Exception as problem:  # whatever a configuration of somebody's own leads to
            raise EvalError(
                f"{self._architecture}: open_clip makes no network of it ({type(problem).__name__}: {problem})"
            ) from problem

    def _check(self, stored: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
        wrong = sorted(name for name in wanted if name not in stored or stored[name].shape != wanted[name].shape)
        wrong += sorted(stored.keys() - wanted.keys())
        if wrong:
            raise EvalError(
                f"{self._checkpoint.name}: not the weights of {self._architecture}: {len(wrong)} of {len(wanted)} "
                f"tensors are missing, too many or of another shape, first {wrong[0]!r}"
            )


class OpenClipText:
    """Unit-length embeddings of prompts, each prompt by itself and once."""

    def __init__(self, network: OpenClip, cells: MutableMapping[str, bytes], device: str) -> None:
        self._network, self._cells, self._device = network, cells, device

    def embedding_D(self, prompt: str) -> NDArray[np.float64]:
        """Longer prompts are cut to the network's length (77 tokens), keeping the end token."""
        key = cell_key("open-clip-text", text=prompt, **self._network.spec)
        return vector_D(remembered(self._cells, key, lambda: self._embed(prompt)))

    def is_truncated(self, prompt: str) -> bool:
        return len(self._tokenizer.encode(prompt)) + 2 > self._network.max_tokens  # start and end

    def free(self) -> None:
        self.__dict__.pop("_tower", None)

    def _embed(self, prompt: str) -> bytes:
        import torch

        with torch.inference_mode():
            (row,) = unit_rows(self._tower.encode_text(self._tokenizer([prompt]).to(self._device)))
        return row

    @cached_property
    def _tokenizer(self) -> Any:
        from open_clip.tokenizer import SimpleTokenizer

        return SimpleTokenizer(context_length=self._network.max_tokens)

    @cached_property
    def _tower(self) -> Any:
        return self._network.load("text")


def _plain_config(architecture: str | Path) -> dict[str, Any]:
    if isinstance(architecture, Path):
        config, name = _own(architecture), architecture.name
    else:
        config, name = _known(architecture), f"open_clip's {architecture}"
    if config.keys() - PLAIN or FROM_THE_HUB & {*config["vision_cfg"], *config["text_cfg"]}:
        raise EvalError(f"{name} has other towers than CLIP's own; expected one like ViT-H-14")
    return config


def _known(architecture: str) -> dict[str, Any]:
    import open_clip

    known = open_clip.list_models()
    if architecture not in known:
        raise EvalError(
            f"open_clip has no architecture {architecture!r}; it has {', '.join(known)}. For one of your own name its "
            "JSON file by a path that begins with /, ./, ../ or ~/"
        )
    config: dict[str, Any] = open_clip.get_model_config(architecture)
    return config


def _own(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise EvalError(f"{file.name}: cannot be read as JSON ({problem})") from None
    towers = [config.get(tower) for tower in ("vision_cfg", "text_cfg")] if isinstance(config, dict) else []
    if not all(isinstance(tower, dict) for tower in towers or [None]):
        raise EvalError(f"{file.name}: expected open_clip's configuration of a model: embed_dim, vision_cfg, text_cfg")
    if not isinstance(side := config["vision_cfg"].get("image_size"), int):
        raise EvalError(f"{file.name}: vision_cfg.image_size: expected the side of a square in px, got {side!r}")
    return dict(config)
