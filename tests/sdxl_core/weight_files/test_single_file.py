"""A checkpoint as one file: plain diffusers reads back what went in, and every name of real SDXL has its place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.loaders import single_file_utils as theirs
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sdxl_core.errors import UserError
from sdxl_core.weight_files.architecture import SDXL
from sdxl_core.weight_files.components import STEMS, Checkpoint
from sdxl_core.weight_files.original_names import UnetLayout, original_unet_module, original_vae_module
from sdxl_core.weight_files.single_file import PREFIXES, to_single_file
from sdxl_core.weight_files.streamed import LazyTensor

SDXL_VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 1024,
}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def state(pipeline: StableDiffusionXLPipeline) -> dict[str, torch.Tensor]:
    return {f"{part}.{k}": v for part in STEMS for k, v in getattr(pipeline, part).state_dict().items()}


@pytest.mark.ci
@pytest.mark.parametrize("dtype", DTYPES)
def test_plain_diffusers_reads_back_what_went_in(lopsided_sdxl: Path, tmp_path: Path, dtype: str) -> None:
    Checkpoint.open(lopsided_sdxl).write_single_file(tmp_path / "x.safetensors", DTYPES[dtype], {})
    single = StableDiffusionXLPipeline.from_single_file(
        str(tmp_path / "x.safetensors"), config=str(lopsided_sdxl), local_files_only=True, add_watermarker=False
    )
    whole = StableDiffusionXLPipeline.from_pretrained(lopsided_sdxl, add_watermarker=False, local_files_only=True)
    read, expected = state(single), state(whole)
    assert read.keys() == expected.keys()
    assert all(torch.equal(read[k].float(), expected[k].to(DTYPES[dtype]).float()) for k in expected)
    stored = load_file(tmp_path / "x.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {DTYPES[dtype]}


def test_pictures_are_the_same(lopsided_sdxl: Path, tmp_path: Path) -> None:
    Checkpoint.open(lopsided_sdxl).write_single_file(tmp_path / "x.safetensors", None, {})
    pictures = []
    for pipeline in (
        StableDiffusionXLPipeline.from_single_file(
            str(tmp_path / "x.safetensors"), config=str(lopsided_sdxl), local_files_only=True, add_watermarker=False
        ),
        StableDiffusionXLPipeline.from_pretrained(lopsided_sdxl, add_watermarker=False, local_files_only=True),
    ):
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator("cpu").manual_seed(0)
        drawn = pipeline("a person", num_inference_steps=2, width=16, height=16, generator=generator, output_type="pt")
        pictures.append(drawn.images)
    assert torch.equal(*pictures) and float(pictures[0].std()) > 0


def lazy(model: nn.Module) -> dict[str, LazyTensor]:
    return {name: LazyTensor.of(tensor) for name, tensor in model.state_dict().items()}


def test_every_tensor_of_real_sdxl_has_its_place_and_comes_back() -> None:
    """diffusers' own conversion is the inverse. Stability's file has 2515 tensors: these, and two that nobody needs."""
    with torch.device("meta"):
        models: dict[str, Any] = {
            "unet": UNet2DConditionModel.from_config(SDXL["unet"]),
            "vae": AutoencoderKL.from_config(SDXL_VAE),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**SDXL["text_encoder"])),
            "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**SDXL["text_encoder_2"])),
        }
    configs = {"unet": SDXL["unet"], "vae": SDXL_VAE}
    written = to_single_file({name: lazy(model) for name, model in models.items()}, configs, {})
    counts = {part: sum(name.startswith(prefix) for name in written) for part, prefix in PREFIXES.items()}
    assert counts == {"unet": 1680, "vae": 248, "text_encoder": 197 - 1, "text_encoder_2": 390 - 1}
    loaded = {name: tensor.load() for name, tensor in written.items()}
    assert {name: tuple(tensor.shape) for name, tensor in loaded.items()} == {n: t.shape for n, t in written.items()}
    back = {
        "unet": theirs.convert_ldm_unet_checkpoint(dict(loaded), models["unet"].config),
        "vae": theirs.convert_ldm_vae_checkpoint(dict(loaded), models["vae"].config),
        "text_encoder": theirs.convert_ldm_clip_checkpoint(dict(loaded)),
        "text_encoder_2": theirs.convert_open_clip_checkpoint(
            models["text_encoder_2"], dict(loaded), prefix=PREFIXES["text_encoder_2"]
        ),
    }
    for part, model in models.items():
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        found = {name: tuple(tensor.shape) for name, tensor in back[part].items()}
        if not hasattr(model, "text_model"):
            found = {name.removeprefix("text_model."): shape for name, shape in found.items()}
        assert found == expected, part


@pytest.mark.parametrize(
    ("diffusers", "original"),
    [  # as in Stability's checkpoint
        ("conv_in", "input_blocks.0.0"),
        ("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op"),
        ("down_blocks.1.resnets.0.conv_shortcut", "input_blocks.4.0.skip_connection"),
        ("down_blocks.1.attentions.0.proj_in", "input_blocks.4.1.proj_in"),
        (
            "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_k",
            "input_blocks.8.1.transformer_blocks.9.attn2.to_k",
        ),
        ("mid_block.attentions.0.transformer_blocks.0.attn1.to_q", "middle_block.1.transformer_blocks.0.attn1.to_q"),
        ("mid_block.resnets.1.time_emb_proj", "middle_block.2.emb_layers.1"),
        ("up_blocks.0.attentions.2.proj_out", "output_blocks.2.1.proj_out"),
        ("up_blocks.0.upsamplers.0.conv", "output_blocks.2.2.conv"),
        ("up_blocks.1.attentions.0.proj_in", "output_blocks.3.1.proj_in"),
        ("add_embedding.linear_2", "label_emb.0.2"),
        ("conv_out", "out.2"),
    ],
)
def test_names_of_the_original_unet(diffusers: str, original: str) -> None:
    assert original_unet_module(diffusers, UnetLayout.of(SDXL["unet"])) == original


def test_unknown_modules_are_not_guessed() -> None:
    layout = UnetLayout.of(SDXL["unet"])
    for name in ("nowhere", "down_blocks.0.resnets.0.extra", "down_blocks.0.motion_modules.0.proj", "mid_block.x"):
        with pytest.raises(ValueError, match="no place in the original UNet"):
            original_unet_module(name, layout)
    for name in ("encoder.mid_block.attentions.0.extra", "encoder.down_blocks.0.extra.0.x", "middle"):
        with pytest.raises(ValueError, match="no place in the original VAE"):
            original_vae_module(name, 4)
    with pytest.raises(UserError, match="expected one number"):
        UnetLayout.of({"layers_per_block": [1, 2], "up_block_types": []})


@pytest.fixture
def copied(lopsided_sdxl: Path, tmp_path: Path) -> Path:
    shutil.copytree(lopsided_sdxl, tmp_path / "sdxl")
    return tmp_path / "sdxl"


def written(base: Path, name: str) -> dict[str, torch.Tensor]:
    Checkpoint.open(base).write_single_file(base.parent / name, None, {})
    return load_file(base.parent / name)


def test_files_of_older_libraries_give_the_same(copied: Path) -> None:
    """The first text encoder with `text_model.` and position ids, the VAE's attention by its former names, shards."""
    new = written(copied, "new.safetensors")
    text = copied / "text_encoder" / "model.safetensors"
    older = {f"text_model.{key}": tensor for key, tensor in load_file(text).items()}
    save_file({**older, "text_model.embeddings.position_ids": torch.arange(77)[None]}, text)
    vae = copied / "vae" / "diffusion_pytorch_model.safetensors"
    former = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    renamed = {}
    for key, tensor in load_file(vae).items():
        for now, then in former.items():
            key = key.replace(now, then)
        renamed[key] = tensor
    save_file(renamed, vae)
    unet = copied / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = list(load_file(unet).items())
    unet.unlink()
    parts = {
        "diffusion_pytorch_model-00001-of-00002": tensors[::2],
        "diffusion_pytorch_model-00002-of-00002": tensors[1::2],
    }
    for name, some in parts.items():
        save_file(dict(some), unet.with_name(f"{name}.safetensors"))
    listed = {key: f"{name}.safetensors" for name, some in parts.items() for key, _ in some}
    unet.with_name(f"{unet.name}.index.json").write_text(json.dumps({"weight_map": listed}))
    old = written(copied, "old.safetensors")
    assert old.keys() == new.keys() and all(torch.equal(old[key], new[key]) for key in new)


def test_comfyui_is_told_of_v_prediction(copied: Path) -> None:
    scheduler = copied / "scheduler" / "scheduler_config.json"
    settings = json.loads(scheduler.read_text())
    assert not {"v_pred", "ztsnr"} & written(copied, "eps.safetensors").keys()
    settings["prediction_type"] = "v_prediction"
    scheduler.write_text(json.dumps(settings))
    assert {"v_pred", "ztsnr"} & written(copied, "v.safetensors").keys() == {"v_pred"}
    scheduler.write_text(json.dumps(settings | {"rescale_betas_zero_snr": True}))
    assert {"v_pred", "ztsnr"} <= written(copied, "zero.safetensors").keys()


def test_a_tensor_without_a_place_is_refused(copied: Path) -> None:
    unet = copied / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({**load_file(unet), "extra.weight": torch.ones(1)}, unet)
    with pytest.raises(UserError, match=r"unet: extra.weight cannot go into a single file"):
        written(copied, "x.safetensors")


def test_a_folder_is_a_copy_in_another_format(lopsided_sdxl: Path, tmp_path: Path) -> None:
    Checkpoint.open(lopsided_sdxl).write_folder(tmp_path / "half", torch.float16, {"format": "pt"})
    half = StableDiffusionXLPipeline.from_pretrained(tmp_path / "half", add_watermarker=False, local_files_only=True)
    whole = StableDiffusionXLPipeline.from_pretrained(lopsided_sdxl, add_watermarker=False, local_files_only=True)
    read, expected = state(half), state(whole)
    assert read.keys() == expected.keys()
    assert all(torch.equal(read[k].float(), expected[k].half().float()) for k in expected)
    with pytest.raises(UserError, match="expected a place where nothing is yet"):
        Checkpoint.open(lopsided_sdxl).write_folder(tmp_path / "half", None, {})


def test_numbers_too_large_for_a_format_are_refused(copied: Path) -> None:
    unet = copied / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(unet)
    tensors["conv_in.bias"][0] = 1e6
    save_file(tensors, unet)
    with pytest.raises(UserError, match=r"a weight of 1e\+06 is beyond torch.float16"):
        Checkpoint.open(copied).write_single_file(copied.parent / "x.safetensors", torch.float16, {})
    assert [path.name for path in copied.parent.iterdir()] == ["sdxl"]  # nothing half done is left
