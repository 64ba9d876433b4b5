"""CLIP embeddings (Radford et al. 2021, arXiv:2103.00020), shared by all scorers that use them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from eval.cells import cell_key, remembered
from eval.embeddings import unit_rows, vector_D
from eval.errors import EvalError
from eval.images import Picture
from eval.questions import Question

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

VERSION = 2
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
PICTURE_FILES = ("preprocessor_config.json", "processor_config.json")
PROMPT_FILES = ("tokenizer.json", "vocab.json")

# D: width of the embedding space


class ClipVision(Question["NDArray[np.float32]"]):
    """Unit-length embeddings of pictures by a transformers CLIPModel folder."""

    def __init__(self, folder: Path, digest: str, device: str) -> None:
        _require_clip(folder, PICTURE_FILES)
        self._folder, self._device = folder, device
        self.spec = cell_key("clip-image", rows=self.rows_at_once, **_spec(folder, digest))

    def prepare(self, pictures: Sequence[Picture], images: Sequence[Image.Image]) -> NDArray[np.float32]:
        (image,) = images
        with self._loading:  # threads must not all read it
            processor = self._image_processor
        pixels: NDArray[np.float32] = processor(images=image, return_tensors="np")["pixel_values"][0]
        return pixels

    def answer(self, rows: Sequence[NDArray[np.float32]]) -> list[bytes]:
        import numpy as np
        import torch

        pixels_BCHW = torch.from_numpy(np.stack(rows)).to(self._device)
        with torch.inference_mode():
            return unit_rows(self._tower(pixel_values=pixels_BCHW).image_embeds)

    def free(self) -> None:
        self.__dict__.pop("_tower", None)

    @cached_property
    def _loading(self) -> Lock:
        return Lock()

    @cached_property
    def _image_processor(self) -> Any:
        from transformers import AutoImageProcessor

        load: Any = AutoImageProcessor.from_pretrained  # untyped in transformers

        # PIL's resampling is what CLIP was published with; the torchvision backend's differs by up to 0.015
        with quiet_transformers():
            return load(self._folder, backend="pil", local_files_only=True)

    @cached_property
    def _tower(self) -> Any:
        from transformers import CLIPVisionModelWithProjection

        return _load_tower(CLIPVisionModelWithProjection, self._folder, self._device)


class ClipText:
    """Unit-length embeddings of prompts by the same folder, each prompt by itself and once."""

    def __init__(self, folder: Path, digest: str, cells: MutableMapping[str, bytes], device: str) -> None:
        _require_clip(folder, PROMPT_FILES)
        self._folder, self._cells, self._device = folder, cells, device
        self._spec = _spec(folder, digest)

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


def load_pretrained(kind: Any, folder: Path, what: str, device: str, **settings: Any) -> Any:
    """A transformers network in float32, from safetensors in a local folder.

    Raises:
        EvalError: the folder does not hold `what`.
    """
    import torch
    from safetensors import SafetensorError

    settings = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32, **settings}
    try:
        with quiet_transformers():
            model, report = kind.from_pretrained(folder, output_loading_info=True, **settings)
    except (OSError, RuntimeError, SafetensorError) as problem:
        raise EvalError(f"{folder.name}: not {what} in safetensors ({problem})") from problem
    if absent := sorted(report["missing_keys"]):  # transformers would draw them at random
        raise EvalError(f"{folder.name}: not {what}: {len(absent)} tensors are missing, first {absent[0]!r}")
    return model.to(device).eval()


def _require_clip(folder: Path, settings: Sequence[str]) -> None:
    """`settings`: of which one at least must be there."""
    if not (folder / "config.json").is_file():
        raise EvalError(f"{folder.name}: no config.json in it; expected a transformers CLIP model folder")
    if not any((folder / name).is_file() for name in settings):
        raise EvalError(
            f"{folder.name}: neither {' nor '.join(settings)} in it; put the files of the CLIP model that it was made "
            "from beside its weights"
        )


def _spec(folder: Path, digest: str) -> dict[str, object]:
    return {"weights": digest, "preprocessing": preprocessing_digest(folder), "version": VERSION}


def preprocessing_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in PREPROCESSING_FILES:
        if (path := folder / name).is_file():
            digest.update(name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@contextmanager
def quiet_transformers() -> Iterator[None]:
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
