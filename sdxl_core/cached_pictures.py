"""Pictures drawn once for ever: each is kept by itself, so that a grown prompt set draws only its new ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from PIL import Image

from sdxl_core.ahead import Behind
from sdxl_core.config import SamplingConfig
from sdxl_core.decoding import Pixels
from sdxl_core.drawing_model import DrawingModel
from sdxl_core.encoding import in_batches
from sdxl_core.picture_files import parameters_text, png_bytes
from sdxl_core.runtime import choose_device
from sdxl_core.sampling import Request, draw
from sdxl_core.tensor_files import cell_key
from sdxl_core.turns import TURNS

VERSION = 2
BATCHES_WAITING = 2
"""Drawn, and not yet written."""


@dataclass(frozen=True)
class Caches:
    """What drawing keeps: PNG bytes, and encoded prompts."""

    pictures: MutableMapping[str, bytes]
    prompts: MutableMapping[str, bytes]


class PictureCells:
    """The pictures of some requests, each kept by itself and once, by the number it has among them.

    A picture is known by the model's digest, its prompt and seed, and the settings that it is drawn with, whether they
    are `sampling`'s or its own. It is there once it is wholly written: a process that is killed loses those that it was
    about to write, and the next one draws them.
    """

    def __init__(
        self, requests: Sequence[Request], *, model: DrawingModel, sampling: SamplingConfig, caches: Caches
    ) -> None:
        self._model, self._sampling, self._caches = model, sampling, caches
        self.keys = [_key(request, sampling, model.digest) for request in requests]
        """Of every request."""
        known = dict(zip(self.keys, requests, strict=True))
        self._keys, self._requests = list(known), list(known.values())

    def has(self, number: int) -> bool:
        return self._keys[number] in self._caches.pictures

    def missing(self, device: str) -> list[list[int]]:
        """Numbers of those that are not there, as they fill batches. On every `device` the same."""
        by_settings: dict[SamplingConfig, list[int]] = {}
        for number, request in enumerate(self._requests):
            if not self.has(number):
                by_settings.setdefault(request.settings.of(self._sampling), []).append(number)
        return [batch for some in by_settings.values() for batch in in_batches(some, self._sampling.batch_size)]

    def fill(self, numbers: Collection[int], device: str, progress: Callable[[int, int], None]) -> int:
        """Draw those of them that are not there; returns how many these were.

        Raises UserError where the device cannot draw so, and whatever goes wrong with writing.
        """
        where = choose_device(device)
        missing = [number for number in numbers if not self.has(number)]
        if missing:
            self.draw(missing, where, progress)
        return len(missing)

    def draw(self, numbers: Sequence[int], device: torch.device, progress: Callable[[int, int], None]) -> None:
        """Draw them, whether they are there or not. Raises as `fill`."""
        sampling, digest = self._sampling, self._model.digest
        key_of = {self._requests[number]: self._keys[number] for number in numbers}
        written = 0

        def write(request: Request, pixels: Pixels) -> None:
            nonlocal written
            text = {"parameters": parameters_text(request.prompt, request.seed, request.settings.of(sampling), digest)}
            self._caches.pictures[key_of[request]] = png_bytes(Image.fromarray(pixels), text)
            written += 1

        wanted = list(key_of)
        with TURNS.loading():
            pipeline, prompts = self._model.prepared(wanted, sampling, device, self._caches.prompts)
        progress(0, len(wanted))
        with Behind(BATCHES_WAITING * sampling.batch_size) as behind:
            for batch in draw(pipeline, wanted, prompts, sampling):
                for request, pixels in batch:
                    behind.add(partial(write, request, pixels))
                progress(written, len(wanted))
        progress(len(wanted), len(wanted))


class CachedPictures:
    """PNG bytes of every request, in their order. The ones that were not there are drawn on creation."""

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
        """Raises as `PictureCells.fill`."""
        self._cells = caches.pictures
        pictures = PictureCells(requests, model=model, sampling=sampling, caches=caches)
        self._keys = pictures.keys
        missing = sorted(number for batch in pictures.missing(device.type) for number in batch)
        self.generated = len(missing)
        if missing:
            pictures.draw(missing, device, progress)

    def __iter__(self) -> Iterator[bytes]:
        """Read one by one: a set need not fit into memory."""
        return (self._cells[key] for key in self._keys)


def _key(request: Request, sampling: SamplingConfig, model: str) -> str:
    drawn = request.settings.of(sampling).model_dump(mode="json")
    return cell_key(
        what="picture", version=VERSION, model=model, prompt=request.prompt, seed=request.seed, sampling=drawn
    )
