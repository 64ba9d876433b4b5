"""Embeddings of pictures by transformers model folders: what questions to all such networks share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar

from eval.cells import cell_key
from eval.embeddings import unit_rows
from eval.errors import EvalError
from eval.images import Picture
from eval.questions import Question

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL import Image

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
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")

# B pictures, C channels, H x W pixels, D width of the embedding space


class Vision(Question["NDArray[np.float32]"]):
    """Unit-length embeddings of pictures, prepared by the folder's own image processor."""

    kind: ClassVar[str]
    """How its cells are called."""
    what: ClassVar[str]
    """How errors call the folder that it needs."""
    version: ClassVar[int]
    """Raise it whenever the same picture would get another embedding."""
    model_types: ClassVar[tuple[str, ...]]
    """What the folder's config.json may say that it is."""

    def __init__(self, folder: Path, digest: str, device: str) -> None:
        """Raises EvalError for a folder of another kind."""
        self.model_type = model_type(folder, self.what, self.model_types)
        if not any((folder / name).is_file() for name in PROCESSOR_FILES):
            raise EvalError(f"{folder.name}: no {PROCESSOR_FILES[0]} in it, which says how {self.what} sees pictures")
        self._folder, self._device, self._loading = folder, device, Lock()
        self.spec = cell_key(
            self.kind,
            rows=self.rows_at_once,
            weights=digest,
            preprocessing=preprocessing_digest(folder),
            version=self.version,
        )

    def prepare(self, pictures: Sequence[Picture], images: Sequence[Image.Image]) -> NDArray[np.float32]:
        (image,) = images
        with self._loading:  # threads must not all read it
            processor = self._image_processor
        pixels_CHW: NDArray[np.float32] = processor(images=image, return_tensors="np")["pixel_values"][0]
        return pixels_CHW

    def answer(self, rows: Sequence[NDArray[np.float32]]) -> list[bytes]:
        import numpy as np
        import torch

        tower = self._tower
        try:
            pixels_BCHW = torch.from_numpy(np.stack(rows)).to(self._device)
            with torch.inference_mode():
                return unit_rows(self.embed(tower, pixels_BCHW))
        except ValueError as problem:
            raise EvalError(
                f"{self._folder.name}: {self.what} cannot take what its image processor makes: {problem}"
            ) from problem

    def free(self) -> None:
        self.__dict__.pop("_tower", None)

    def load(self, folder: Path, device: str) -> Any:
        """The network. Raises EvalError when the folder's weights are not its."""
        raise NotImplementedError

    def embed(self, tower: Any, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """-> BD, of any length."""
        raise NotImplementedError

    @cached_property
    def _image_processor(self) -> Any:
        from transformers import AutoImageProcessor

        load: Any = AutoImageProcessor.from_pretrained  # untyped in transformers

        # PIL's resampling is what these were published with; the torchvision backend's differs by up to 0.015
        with quiet_transformers():
            return load(self._folder, backend="pil", local_files_only=True)

    @cached_property
    def _tower(self) -> Any:
        return self.load(self._folder, self._device)


def model_type(folder: Path, what: str, expected: Sequence[str]) -> str:
    """The kind of network that a transformers folder says it holds.

    Raises:
        EvalError: it does not say, or it is none of `expected`; `what` is how the error calls those.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except OSError:
        raise EvalError(f"{folder.name}: no config.json in it; expected {what} in a transformers folder") from None
    except ValueError as problem:
        raise EvalError(f"{folder.name}/config.json: not JSON ({problem})") from None
    found = config.get("model_type") if isinstance(config, dict) else None
    if found not in expected:
        raise EvalError(f"{folder.name}/config.json: expected model_type {' or '.join(expected)}, got {found!r}")
    return str(found)


def load_pretrained(kind: Any, folder: Path, what: str, device: str, **settings: Any) -> Any:
    """A transformers network in float32, from safetensors in a local folder.

    Raises:
        EvalError: the folder does not hold `what`, or not all of it.
    """
    import torch
    from safetensors import SafetensorError

    settings |= {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32}
    try:
        with quiet_transformers():
            model, found = kind.from_pretrained(folder, output_loading_info=True, **settings)
    except (OSError, RuntimeError, SafetensorError) as problem:
        raise EvalError(f"{folder.name}: not {what} in safetensors ({problem})") from problem
    if missing := sorted(found["missing_keys"]):  # transformers would go on with random ones
        raise EvalError(f"{folder.name}: not {what}: {len(missing)} of its tensors are missing, first {missing[0]!r}")
    return model.to(device).eval()


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
