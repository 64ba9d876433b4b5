"""open_clip's CLIP networks from a local checkpoint. Nothing is downloaded and nothing in the file is run."""

from __future__ import annotations

from collections.abc import MutableMapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.cells import cell_key, remembered
from eval.embeddings import unit_rows, vector_D
from eval.errors import EvalError
from eval.tensors import read_tensors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VERSION = 1
PLAIN = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}
FROM_THE_HUB = {"hf_model_name", "hf_tokenizer_name", "timm_model_name"}

# D: width of the embedding space


class OpenClip:
    """An architecture by its name in open_clip, with the weights of one file.

    Raises:
        EvalError: open_clip has no such architecture, or it is more than CLIP's own two towers.
    """

    def __init__(self, architecture: str, checkpoint: Path, digest: str, device: str) -> None:
        self._config = _plain_config(architecture)
        self._architecture, self._checkpoint, self._device = architecture, checkpoint, device
        self.spec = {"weights": digest, "config": self._config, "version": VERSION}

    @property
    def side_px(self) -> int:
        return int(self._config["vision_cfg"]["image_size"])

    @property
    def max_tokens(self) -> int:
        return int(self._config["text_cfg"].get("context_length", 77))

    def load(self) -> Any:
        """The whole network, in float32.

        Raises:
            EvalError: the file does not hold this architecture's weights.
        """
        from open_clip.model import CLIP

        stored = read_tensors(self._checkpoint)
        model = CLIP(**self._config)
        wanted = model.state_dict()
        wrong = sorted(name for name in wanted if name not in stored or stored[name].shape != wanted[name].shape)
        wrong += sorted(stored.keys() - wanted.keys())
        if wrong:
            raise EvalError(
                f"{self._checkpoint.name}: not the weights of {self._architecture}: {len(wrong)} of {len(wanted)} "
                f"tensors are missing, too many or of another shape, first {wrong[0]!r}"
            )
        model.load_state_dict(stored)
        return model.to(self._device).eval()


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
        model = self._network.load()
        del model.visual
        return model


def _plain_config(architecture: str) -> dict[str, Any]:
    import open_clip

    known = open_clip.list_models()
    if architecture not in known:
        raise EvalError(f"open_clip has no architecture {architecture!r}; it has {', '.join(known)}")
    config: dict[str, Any] = open_clip.get_model_config(architecture)
    if config.keys() - PLAIN or FROM_THE_HUB & {*config["vision_cfg"], *config["text_cfg"]}:
        raise EvalError(f"open_clip's {architecture} has other towers than CLIP's own; expected one like ViT-H-14")
    return config
