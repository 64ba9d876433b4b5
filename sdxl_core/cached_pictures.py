"""Pictures drawn once for ever: each is kept by itself, so that a grown prompt set draws only its new ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from PIL import Image

from sdxl_core.ahead import Behind
from sdxl_core.config import SamplingConfig
from sdxl_core.decoding import Pixels
from sdxl_core.drawing_model import DrawingModel
from sdxl_core.picture_files import parameters_text, png_bytes
from sdxl_core.sampling import Request, draw
from sdxl_core.tensor_files import cell_key

VERSION = 2
BATCHES_WAITING = 2
"""Drawn, and not yet written."""


@dataclass(frozen=True)
class Caches:
    """What drawing keeps: PNG bytes, and encoded prompts."""

    pictures: MutableMapping[str, bytes]
    prompts: MutableMapping[str, bytes]


class CachedPictures:
    """PNG bytes of every request, in their order. The ones that were not there are drawn on creation.

    A picture is known by the model's digest, its prompt and seed, and the settings that it is drawn with, whether they
    are `sampling`'s or its own. It is there once it is wholly written: a process that is killed loses those that it was
    about to write, and the next one draws them.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        *,
        model: DrawingModel,
        sampling: SamplingConfig,
        device: torch.device,
        caches: Caches,
        progress: Callable[[int, int], None],
    ) -> None:
        """Raises UserError where the device cannot draw so, and whatever goes wrong with writing."""
        self._cells = caches.pictures
        self._keys = [_key(request, sampling, model.digest) for request in requests]
        key_of = dict(zip(requests, self._keys, strict=True))
        missing = [request for request, key in key_of.items() if key not in self._cells]
        self.generated = len(missing)
        if not missing:
            return

        written = 0

        def write(request: Request, pixels: Pixels) -> None:
            nonlocal written
            text = {
                "parameters": parameters_text(request.prompt, request.seed, request.settings.of(sampling), model.digest)
            }
            self._cells[key_of[request]] = png_bytes(Image.fromarray(pixels), text)
            written += 1

        pipeline, prompts = model.prepared(missing, sampling, device, caches.prompts)
        progress(0, len(missing))
        with Behind(BATCHES_WAITING * sampling.batch_size) as behind:
            for batch in draw(pipeline, missing, prompts, sampling):
                for request, pixels in batch:
                    behind.add(partial(write, request, pixels))
                progress(written, len(missing))
        progress(len(missing), len(missing))

    def __iter__(self) -> Iterator[bytes]:
        """Read one by one: a set need not fit into memory."""
        return (self._cells[key] for key in self._keys)


def _key(request: Request, sampling: SamplingConfig, model: str) -> str:
    drawn = request.settings.of(sampling).model_dump(mode="json")
    return cell_key(
        what="picture", version=VERSION, model=model, prompt=request.prompt, seed=request.seed, sampling=drawn
    )
