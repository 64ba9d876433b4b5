"""Pictures that are kept: drawn once, from prompts encoded once, by models that may stay loaded."""

from __future__ import annotations

import io
import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file

from sdxl_core import model
from sdxl_core.adapters import Addition
from sdxl_core.cached_pictures import CachedPictures, Caches
from sdxl_core.drawing_model import DrawingModel
from sdxl_core.errors import UserError
from sdxl_core.kept_model import KeptModel
from sdxl_core.picture_settings import PictureSettings
from sdxl_core.sampling import Request
from sdxl_core.text_encoders import TextEncoders
from tests.sdxl_core.drawing import CPU, REQUESTS, SAMPLING, other, rows_of

# --- prompts ---


def caches() -> Caches:
    return Caches({}, {})


def drawn(folder: Path, requests: list[Request], kept: Caches, digest: str = "m", **settings: Any) -> CachedPictures:
    return CachedPictures(
        requests,
        model=DrawingModel(folder, None, (), digest, "text"),
        sampling=other(**settings),
        device=CPU,
        caches=kept,
        progress=lambda done, total: None,
    )


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of texts in every call of the text encoders."""
    calls: list[int] = []
    encode = TextEncoders.__call__

    def counted(self: TextEncoders, ids_BNKT: torch.Tensor) -> Any:
        calls.append(len(ids_BNKT))
        return encode(self, ids_BNKT)

    monkeypatch.setattr(TextEncoders, "__call__", counted)
    return calls


@pytest.mark.ci
def test_a_prompt_is_encoded_once_for_all_its_pictures_and_models(
    random_sdxl: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, requests = caches(), [Request("a person", seed) for seed in range(3)]
    base = list(drawn(random_sdxl, requests, kept))
    assert encoded == [1]
    drawn(random_sdxl, [*requests, Request("a person", 7)], kept)
    monkeypatch.setattr(model, "load_text_encoders", lambda *_: pytest.fail("nothing is left to encode"))
    candidate = list(drawn(random_sdxl, requests, kept, digest="candidate, whose text encoders are the base's"))
    assert encoded == [1]
    assert len(kept.pictures) == 7
    for ours, theirs in zip(base, candidate, strict=True):
        assert ours != theirs, "each names its model"


def test_texts_are_encoded_alone_with_what_they_are_held_against(random_sdxl: Path, encoded: list[int]) -> None:
    requests, kept = [Request("a person", 0), Request("a cat", 0)], caches()
    drawn(random_sdxl, requests, kept, negative_prompt="snow")
    assert encoded == [1, 1, 1]
    drawn(random_sdxl, requests, kept, guidance_scale=1.0)
    assert encoded == [1, 1, 1], "without guidance, against nothing"


def test_text_encoders_are_gone_before_the_unet_works(random_sdxl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoders: list[weakref.ref[Any]] = []
    load, forward = model.load_text_encoders, UNet2DConditionModel.forward

    def noted(*args: Any) -> dict[str, Any]:
        found = load(*args)
        encoders.extend(weakref.ref(encoder) for encoder in found.values())
        return found

    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        assert len(encoders) == 2 and all(encoder() is None for encoder in encoders)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(model, "load_text_encoders", noted)
    monkeypatch.setattr(UNet2DConditionModel, "forward", checked)
    assert drawn(random_sdxl, REQUESTS[:1], caches()).generated == 1


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ({"text_encoders": None, "new_tokens": []}, False),
        ({"text_encoders": {"first": True}, "new_tokens": []}, True),
        ({"text_encoders": None, "new_tokens": [{"token": "<cat>"}]}, True),
        ("unet.conv_in.lora_A.weight", False),
        ("lora_unet_conv_in.lora_down.weight", False),
        ("text_encoder.layers.0.lora_A.weight", True),
        ("lora_te2_layers_0.lora_down.weight", True),
    ],
)
def test_only_what_trains_text_costs_prompts_encoded_anew(tmp_path: Path, described: Any, expected: bool) -> None:
    trained = tmp_path
    if isinstance(described, str):
        trained = tmp_path / "lora.safetensors"
        save_file({described: torch.zeros(1)}, trained)
    else:
        (tmp_path / "training.json").write_text(json.dumps({"training": described}))
    assert Addition(trained).encodes_otherwise is expected


# --- what is kept ---


@pytest.mark.ci
def test_a_grown_set_draws_only_what_is_new_and_has_the_bytes_of_a_fresh_one(
    random_sdxl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, some = caches(), [REQUESTS[1], REQUESTS[4], REQUESTS[2]]
    assert drawn(random_sdxl, some, kept).generated == 3
    with rows_of(UNet2DConditionModel, monkeypatch) as seen:
        grown = drawn(random_sdxl, REQUESTS, kept)
    assert grown.generated == 2 and len(seen) == SAMPLING.steps
    assert list(grown) == list(drawn(random_sdxl, REQUESTS, caches()))
    assert drawn(random_sdxl, REQUESTS[:1], kept, batch_size=1).generated == 1, "its last bits are others"


class Full(dict[str, bytes]):
    """The disk is full after the first picture."""

    def __setitem__(self, key: str, value: bytes) -> None:
        if self:
            raise OSError(28, "No space left on device")
        super().__setitem__(key, value)


def test_what_goes_wrong_with_writing_ends_the_drawing(random_sdxl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Caches(Full(), {})
    with pytest.raises(OSError, match="No space left"), rows_of(UNet2DConditionModel, monkeypatch) as seen:
        drawn(random_sdxl, [Request("a cat", seed) for seed in range(40)], kept)
    assert len(seen) < 20 * SAMPLING.steps, "nobody draws what cannot be kept"
    assert len(kept.pictures) == 1


def test_progress_begins_before_the_first_picture_and_ends_with_the_last(random_sdxl: Path) -> None:
    told: list[tuple[int, int]] = []
    CachedPictures(
        REQUESTS,
        model=DrawingModel(random_sdxl, None, (), "m", "text"),
        sampling=SAMPLING,
        device=CPU,
        caches=caches(),
        progress=lambda done, total: told.append((done, total)),
    )
    assert told[0] == (0, 5) and told[-1] == (5, 5)
    assert told == sorted(told) and len(told) >= 4


# --- compilation ---


@pytest.mark.slow
def test_a_compiled_unet_draws_the_same_pictures_but_for_rounding(random_sdxl: Path) -> None:
    plain, compiled = (drawn(random_sdxl, REQUESTS[:3], caches(), compile=compile) for compile in ("none", "default"))
    for ours, theirs in zip(plain, compiled, strict=True):
        a, b = (np.asarray(Image.open(io.BytesIO(png)), dtype=int) for png in (ours, theirs))
        assert np.abs(a - b).max() <= 2


def test_cuda_graphs_need_a_gpu(random_sdxl: Path) -> None:
    with pytest.raises(UserError, match="cuda_graphs needs a GPU"):
        drawn(random_sdxl, REQUESTS[:1], caches(), compile="cuda_graphs")


# --- a model that stays loaded ---


@pytest.mark.ci
def test_a_kept_model_draws_the_same_bits_and_is_loaded_once(
    random_sdxl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One picture after the other, in any order and with settings of their own, as all at once."""
    requests = [*REQUESTS, Request("a cat", 7, PictureSettings(steps=3, guidance_scale=2.0))]
    plain = DrawingModel(random_sdxl, None, (), "m" * 8, "t" * 8)

    def drawn(model: DrawingModel, some: list[Request]) -> list[bytes]:
        how = {"sampling": SAMPLING, "device": CPU, "progress": lambda done, total: None}
        return list(CachedPictures(some, model=model, caches=Caches({}, {}), **how))

    expected = drawn(plain, requests)
    loads: list[None] = []
    load = DrawingModel._load
    monkeypatch.setattr(DrawingModel, "_load", lambda *args, **how: loads.append(None) or load(*args, **how))
    kept = KeptModel.of(plain)
    alone = [drawn(kept, [request])[0] for request in reversed(requests)]
    assert alone[::-1] == expected and len(set(expected)) == len(expected)
    assert len(loads) == 1
