"""What tests of drawing share: small settings, requests, and a look at what networks are called with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from sdxl_core.config import SamplingConfig
from sdxl_core.sampling import Request

CPU = torch.device("cpu")
SAMPLING = SamplingConfig(steps=2, width_px=64, height_px=64, batch_size=2)
REQUESTS = [Request(prompt, seed) for seed, prompt in enumerate(["a person", "a cat", "a person", "snow", "a dog"])]


def other(**settings: Any) -> SamplingConfig:
    return SamplingConfig.model_validate(SAMPLING.model_dump() | settings)


def pixels(pictures: list[Image.Image]) -> list[bytes]:
    return [picture.tobytes() for picture in pictures]


@contextmanager
def rows_of(kind: type[torch.nn.Module], monkeypatch: pytest.MonkeyPatch, most: int = 10**9) -> Iterator[list[int]]:
    """Rows of every call of the UNet, or of the VAE's decoder; more than `most` are out of memory."""
    rows: list[int] = []
    name = "decode" if kind is AutoencoderKL else "forward"
    call = getattr(kind, name)

    def counted(self: Any, sample_BCHW: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if len(sample_BCHW) > most:
            raise torch.OutOfMemoryError("simulated")
        rows.append(len(sample_BCHW))
        return call(self, sample_BCHW, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(kind, name, counted)
        yield rows
