"""Pictures as PNG files with their generation parameters, written by a thread while the next ones are drawn."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from queue import Queue
from threading import Thread
from types import TracebackType
from typing import Any, Generic, TypeVar

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdxl_core.config import SamplingConfig

T = TypeVar("T")


def png_bytes(picture: Image.Image, text: dict[str, str]) -> bytes:
    """PNG with `text` embedded; compressed lightly, which is five times faster and an eighth larger."""
    info = PngInfo()
    for name, value in text.items():
        info.add_itxt(name, value)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=info, compress_level=1)
    return buffer.getvalue()


def pixel_digest(png: bytes) -> str:
    """sha256 of mode, size and decoded pixels: the same for the same picture, however it was compressed."""
    with Image.open(io.BytesIO(png)) as opened:
        picture = opened.convert("RGB")
    header = f"RGB,{picture.width},{picture.height},".encode()
    return hashlib.sha256(header + picture.tobytes()).hexdigest()


def parameters_text(prompt: str, seed: int, sampling: SamplingConfig, model_digest: str) -> str:
    """Generation parameters as A1111 and its relatives write and read them."""
    negative = [f"Negative prompt: {sampling.negative_prompt}"] if sampling.negative_prompt is not None else []
    settings: dict[str, Any] = {
        "Steps": sampling.steps,
        "Sampler": sampling.scheduler,
        "CFG scale": sampling.guidance_scale,
        "Seed": seed,
        "Size": f"{sampling.width_px}x{sampling.height_px}",
        "Model hash": model_digest[:10],
    }
    return "\n".join([prompt, *negative, ", ".join(f"{k}: {v}" for k, v in settings.items())])


class Writer(Generic[T]):
    """Calls `write` on one item after another, in a thread of its own, as a context manager.

    At most `room` items wait; `put` then waits for room. What `write` raises is raised by the next `put`, or on
    leaving; nothing further is written then. On leaving for another error, what is waiting is still written.
    """

    def __init__(self, write: Callable[[T], None], room: int) -> None:
        self.written = 0
        self._write = write
        self._waiting: Queue[T | None] = Queue(room)
        self._failure: BaseException | None = None
        self._thread = Thread(target=self._run, name="pictures", daemon=True)

    def __enter__(self) -> Writer[T]:
        self._thread.start()
        return self

    def put(self, item: T) -> None:
        """Raises what went wrong with an earlier item."""
        if self._failure is not None:
            raise self._failure
        self._waiting.put(item)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._waiting.put(None)
        self._thread.join()
        if self._failure is not None and error is None:
            raise self._failure

    def _run(self) -> None:
        """Takes items until the last even where one has failed: nobody may wait for room for ever."""
        while (item := self._waiting.get()) is not None:
            if self._failure is not None:
                continue
            try:
                self._write(item)
            except BaseException as failure:
                self._failure = failure
            else:
                self.written += 1
