"""Pictures in batches: diffusers' own, whatever the company, from prompts encoded once, with no call too many."""

from __future__ import annotations

import io
import json
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file

from sdxl_core import model
from sdxl_core.adapters import Addition
from sdxl_core.cached_pictures import CachedPictures, Caches
from sdxl_core.config import SamplingConfig
from sdxl_core.drawing_model import DrawingModel
from sdxl_core.errors import UserError
from sdxl_core.kept_model import KeptModel
from sdxl_core.model import load_pipeline
from sdxl_core.picture_settings import PictureSettings
from sdxl_core.sampling import Request, sample
from sdxl_core.scheduler import SCHEDULERS
from sdxl_core.text_encoders import TextEncoders

CPU = torch.device("cpu")
SAMPLING = SamplingConfig(steps=2, width_px=64, height_px=64, batch_size=2)
REQUESTS = [Request(prompt, seed) for seed, prompt in enumerate(["a person", "a cat", "a person", "snow", "a dog"])]


def other(**settings: Any) -> SamplingConfig:
    return SamplingConfig.model_validate(SAMPLING.model_dump() | settings)


@pytest.fixture(scope="module")
def pipeline(random_sdxl: Path) -> StableDiffusionXLPipeline:
    return load_pipeline(random_sdxl, None, SAMPLING, CPU)


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


# --- what is drawn ---


@pytest.mark.parametrize("settings", [{"scheduler": s} for s in SCHEDULERS] + [
    {"guidance_scale": 1.0}, {"guidance_rescale": 0.7}, {"negative_prompt": "snow"}, {"decode_batch_size": 2}
], ids=str)  # fmt: skip
def test_pictures_are_those_of_diffusers_own_call(
    pipeline: StableDiffusionXLPipeline, settings: dict[str, Any]
) -> None:
    sampling = other(**settings)
    scheduler = SCHEDULERS[sampling.scheduler].from_config(pipeline.scheduler.config)
    theirs = StableDiffusionXLPipeline(**pipeline.components | {"scheduler": scheduler}, add_watermarker=False)
    theirs.set_progress_bar_config(disable=True)
    some = REQUESTS[:2]
    expected = theirs(
        [request.prompt for request in some],
        negative_prompt=None if sampling.negative_prompt is None else [sampling.negative_prompt] * len(some),
        num_inference_steps=sampling.steps,
        guidance_scale=sampling.guidance_scale,
        guidance_rescale=sampling.guidance_rescale,
        width=64,
        height=64,
        generator=[torch.Generator("cpu").manual_seed(request.seed) for request in some],
    ).images
    for ours, picture in zip(sample(theirs, some, sampling), expected, strict=True):
        assert np.abs(np.asarray(ours, dtype=int) - np.asarray(picture, dtype=int)).max() <= 1


def test_no_bit_of_a_picture_depends_on_its_company(
    pipeline: StableDiffusionXLPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even of its latents, which are finer than pixels: together, alone, and in another order."""
    latents: list[bytes] = []
    decode = AutoencoderKL.decode

    def keep(self: AutoencoderKL, z_1CHW: torch.Tensor, **kwargs: Any) -> Any:
        latents.append(z_1CHW.numpy().tobytes())
        return decode(self, z_1CHW, **kwargs)

    monkeypatch.setattr(AutoencoderKL, "decode", keep)
    sample(pipeline, REQUESTS, SAMPLING)
    together, latents[:] = list(latents), []
    for request in REQUESTS:
        sample(pipeline, [request], SAMPLING)
    alone, latents[:] = list(latents), []
    sample(pipeline, REQUESTS[::-1], SAMPLING)
    assert together == alone == latents[::-1]
    assert len(set(together)) == len(REQUESTS)


def test_guidance_is_one_call_a_step_and_none_is_no_row(
    pipeline: StableDiffusionXLPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    for guidance, rows in ((5.0, 4), (1.0, 2)):
        with rows_of(UNet2DConditionModel, monkeypatch) as seen:
            sample(pipeline, REQUESTS[:3], other(guidance_scale=guidance, steps=3))
        assert seen == [rows] * 3 * 2, "three steps of two batches, the second filled up"


# --- memory ---


def test_passes_halve_where_memory_does_not_suffice(
    pipeline: StableDiffusionXLPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = pixels(sample(pipeline, REQUESTS, other(batch_size=2)))
    with rows_of(UNet2DConditionModel, monkeypatch, most=4) as seen:
        found = pixels(sample(pipeline, REQUESTS, other(batch_size=4)))
    assert found == expected
    assert set(seen) == {4}
    with (
        rows_of(UNet2DConditionModel, monkeypatch, most=1),
        pytest.raises(UserError, match="precision=bf16"),
    ):
        sample(pipeline, REQUESTS, SAMPLING)


def test_decoding_halves_apart_from_drawing(
    pipeline: StableDiffusionXLPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    some, sampling = REQUESTS[:4], other(batch_size=4)
    expected = pixels(sample(pipeline, some, sampling))
    with rows_of(AutoencoderKL, monkeypatch, most=1) as decoded, rows_of(UNet2DConditionModel, monkeypatch) as drawn:
        found = pixels(sample(pipeline, some, other(batch_size=4, decode_batch_size=4)))
    assert found == expected
    assert decoded == [1] * 4 and drawn == [8] * 2
    with rows_of(AutoencoderKL, monkeypatch, most=0), pytest.raises(UserError, match=r"decode_tile_px=512"):
        sample(pipeline, some, sampling)


def test_tiles_bound_what_is_decoded_at_once(random_sdxl: Path) -> None:
    sides: list[int] = []
    pictures = []
    for tile_px in (None, 64):
        sampling = other(width_px=128, height_px=128, decode_tile_px=tile_px)
        tiled = load_pipeline(random_sdxl, None, sampling, CPU)
        tiled.vae.decoder.register_forward_pre_hook(lambda module, args: sides.append(args[0].shape[-1]))
        pictures.append(np.asarray(sample(tiled, REQUESTS[:1], sampling)[0], dtype=int))
    whole, *tiles = sides
    assert len(tiles) > 1 and max(tiles) == whole // 2
    assert np.abs(pictures[0] - pictures[1]).mean() < 20, "the same picture, but for what a tile sees of it"


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
