"""LoRA files: what is written is read back, and is to plain diffusers what it is here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdxl_core.errors import UserError
from sdxl_core.export_config import ExportConfig
from sdxl_core.weight_files import lora_kohya
from sdxl_core.weight_files.architecture import Architecture, sdxl
from sdxl_core.weight_files.components import Checkpoint
from sdxl_core.weight_files.lora import LoraFile
from sdxl_core.weight_files.lora_files import LoraFormat, read_lora, write_lora
from sdxl_core.weight_files.merge import merged
from sdxl_core.weight_files.metadata import Described
from sdxl_core.weight_files.streamed import read_metadata
from tests.sdxl_core.weight_files.conftest import MakeLora

FORMATS: tuple[LoraFormat, ...] = ("diffusers", "kohya")
SAID = ExportConfig(title="Ünïque", author="me", license="mit", trigger_phrase="sks dog", tags=("dog", "photo"))


def write(file: Path, lora: LoraFile, form: LoraFormat, architecture: Architecture, **more: Any) -> Path:
    write_lora(file, lora, form, architecture, Described("toy", is_lora=True), SAID, **more)
    return file


def assert_same(a: LoraFile, b: LoraFile) -> None:
    assert {(part, name) for part, name, _ in a} == {(part, name) for part, name, _ in b}
    for part, name, module in a:
        other = b.modules[part][name]
        assert torch.equal(module.down, other.down) and torch.equal(module.up, other.up) and module.alpha == other.alpha
        assert (module.magnitude is None) == (other.magnitude is None)
        assert module.magnitude is None or torch.equal(module.magnitude, other.magnitude)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dora", [False, True])
def test_what_is_written_is_read_back(
    make_lora: MakeLora, architecture: Architecture, tmp_path: Path, form: LoraFormat, dora: bool
) -> None:
    lora = make_lora(dora=dora, alphas=(1.5,) if form == "kohya" else (4.0, 1.0, 1.5))
    assert_same(read_lora(write(tmp_path / "x.safetensors", lora, form, architecture), architecture), lora)


def outputs(pipeline: StableDiffusionXLPipeline) -> list[Tensor]:
    """What UNet and both text encoders answer to the same random questions."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(3, 50, (1, 7), generator=generator)
    with torch.no_grad():
        said = [
            pipeline.text_encoder(words).last_hidden_state,
            pipeline.text_encoder_2(words).text_embeds,
            pipeline.text_encoder_2(words, output_hidden_states=True).hidden_states[-1],
        ]
        unet = pipeline.unet
        seen = unet(
            torch.randn(1, 4, 8, 8, generator=generator),
            torch.tensor([500]),
            torch.randn(1, 7, unet.config.cross_attention_dim, generator=generator),
            added_cond_kwargs={
                "text_embeds": torch.randn(1, 32, generator=generator),
                "time_ids": torch.tensor([[8.0, 8, 0, 0, 8, 8]]),
            },
        ).sample
    return [*said, seen]


def load(base: Path) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline.from_pretrained(base, add_watermarker=False, local_files_only=True)


@pytest.mark.ci
@pytest.mark.parametrize("form", FORMATS)
def test_plain_diffusers_does_what_merging_does(
    make_lora: MakeLora, architecture: Architecture, lopsided_sdxl: Path, tmp_path: Path, form: LoraFormat
) -> None:
    """Every module of UNet and text encoders at once, ranks and alphas mixed: file loaded = weights merged."""
    lora = make_lora(size=0.02)
    write(tmp_path / "x.safetensors", lora, form, architecture)
    merged(Checkpoint.open(lopsided_sdxl), [(lora, 0.6)]).write_folder(tmp_path / "merged", None, {"format": "pt"})
    with_file = load(lopsided_sdxl)
    before = outputs(with_file)
    with_file.load_lora_weights(tmp_path, weight_name="x.safetensors", adapter_name="one")
    with_file.set_adapters(["one"], [0.6])
    for theirs, ours, base in zip(outputs(with_file), outputs(load(tmp_path / "merged")), before, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)
        assert float((ours - base).abs().max()) > 0.02


def test_plain_diffusers_does_what_merging_a_dora_does(
    make_lora: MakeLora, architecture: Architecture, lopsided_sdxl: Path, tmp_path: Path
) -> None:
    """diffusers' own layout only: of kohya's, diffusers leaves the magnitudes out."""
    lora = make_lora(dora=True, size=0.02)
    write(tmp_path / "x.safetensors", lora, "diffusers", architecture)
    merged(Checkpoint.open(lopsided_sdxl), [(lora, 1)]).write_folder(tmp_path / "merged", None, {"format": "pt"})
    with_file = load(lopsided_sdxl)
    before = outputs(with_file)
    with_file.load_lora_weights(tmp_path, weight_name="x.safetensors")
    for theirs, ours, base in zip(outputs(with_file), outputs(load(tmp_path / "merged")), before, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-3)
        assert float((ours - base).abs().max()) > 0.02


@pytest.mark.parametrize("name", ["to_q", "conv1", "upsamplers", "text_projection", "time_embedding"])
def test_alphas_that_differ_become_one_of_the_same_strength(
    make_lora: MakeLora, architecture: Architecture, tmp_path: Path, name: str
) -> None:
    """In kohya's layout, of which diffusers reads only one alpha rightly."""
    lora = make_lora(within=name)
    read = read_lora(write(tmp_path / "x.safetensors", lora, "kohya", architecture), architecture)
    assert len({module.alpha for _, _, module in read}) == 1
    for part, module_name, module in lora:
        torch.testing.assert_close(read.modules[part][module_name].delta(), module.delta())


def test_no_kohya_name_of_sdxl_means_two_modules() -> None:
    """Nor do diffusers' own names with underscores, which some trainers write, clash with the original ones."""
    names = lora_kohya.kohya_names(sdxl())
    modules = {module for module in names.values()}
    assert len(modules) == sum(len(named) for named in sdxl().modules.values())
    assert names["lora_unet_input_blocks_4_1_proj_in"] == ("unet", "down_blocks.1.attentions.0.proj_in")
    assert names["lora_unet_down_blocks_1_attentions_0_proj_in"] == ("unet", "down_blocks.1.attentions.0.proj_in")
    q = "text_model.encoder.layers.0.self_attn.q_proj"
    assert names["lora_te1_text_model_encoder_layers_0_self_attn_q_proj"] == ("text_encoder", q)
    assert names["lora_te2_text_projection"] == ("text_encoder_2", "text_projection")


def test_older_diffusers_names_are_read_too(make_lora: MakeLora, architecture: Architecture, tmp_path: Path) -> None:
    lora = make_lora(parts=("unet", "text_encoder"), within="out", alphas=(2.0,))
    for part, name, module in lora:
        assert module.rank in (2, 3), (part, name)
    write(tmp_path / "new.safetensors", lora, "diffusers", architecture)
    old = {
        key.replace("text_model.", "")
        .replace("lora_A", "lora.down" if key.startswith("unet") else "lora_linear_layer.down")
        .replace("lora_B", "lora.up" if key.startswith("unet") else "lora_linear_layer.up"): tensor
        for key, tensor in load_file(tmp_path / "new.safetensors").items()
    }
    save_file(old, tmp_path / "old.safetensors")
    read = read_lora(tmp_path / "old.safetensors", architecture)
    for part, name, module in lora:
        other = read.modules[part][name]
        assert torch.equal(other.up, module.up) and other.alpha == other.rank  # no alpha in it means the rank


def test_files_that_are_no_lora_for_the_model_are_refused_by_name(
    make_lora: MakeLora, architecture: Architecture, tmp_path: Path
) -> None:
    file = write(tmp_path / "x.safetensors", make_lora(within="to_k"), "kohya", architecture)
    with pytest.raises(UserError, match=r"for Stable Diffusion XL: expected .*--base"):
        read_lora(file, sdxl())
    with pytest.raises(UserError, match="expected a place where nothing is yet"):
        write(file, make_lora(within="to_k"), "kohya", architecture)
    bad: dict[str, tuple[dict[str, Tensor], str]] = {
        "loha": ({"lora_unet_input_blocks_4_1_proj_in.hada_w1_a": torch.ones(2, 2)}, "are no LoRA"),
        "half": ({"lora_unet_input_blocks_4_1_proj_in.lora_up.weight": torch.ones(16, 2)}, "no down"),
        "name": ({"lora_unet_nowhere.lora_up.weight": torch.ones(2, 2)}, "names of its modules"),
        "odd": ({"weight": torch.ones(2, 2)}, "tensors such as weight"),
        "bias": ({"unet.conv_in.lora_B.bias": torch.ones(2)}, "got unet.conv_in.lora_B.bias"),
        "form": ({"unet.conv_in.lora_A.weight": torch.ones(2, 2), "unet.conv_in.lora_B.weight": torch.ones(4)}, "down"),
        "by input": (
            {
                "lora_unet_input_blocks_4_1_proj_in.lora_down.weight": torch.ones(2, 16),
                "lora_unet_input_blocks_4_1_proj_in.lora_up.weight": torch.ones(16, 2),
                "lora_unet_input_blocks_4_1_proj_in.dora_scale": torch.ones(1, 16),
            },
            "scales outputs",
        ),
    }
    for name, (tensors, message) in bad.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
        with pytest.raises(UserError, match=message):
            read_lora(tmp_path / f"{name}.safetensors", architecture)
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x04" * 50)
    with pytest.raises(UserError, match="expected a whole safetensors file"):
        read_lora(tmp_path / "pickle.safetensors", architecture)


def test_rank_stabilised_scales_are_understood(make_lora: MakeLora, architecture: Architecture, tmp_path: Path) -> None:
    """peft's use_rslora: alpha / sqrt(rank) instead of alpha / rank."""
    lora = make_lora(within="attn1.to_q", parts=("unet",), alphas=(3.0,))
    file = write(tmp_path / "x.safetensors", lora, "diffusers", architecture, use_rslora=True)
    for part, name, module in read_lora(file, architecture):
        assert module.scale == pytest.approx(3.0 / lora.modules[part][name].rank ** 0.5)


def test_headers_say_what_others_read(make_lora: MakeLora, architecture: Architecture, tmp_path: Path) -> None:
    lora = make_lora(within="to_k", alphas=(2.0,))
    metadata = read_metadata(write(tmp_path / "x.safetensors", lora, "kohya", architecture))
    expected = {
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.title": "Ünïque",
        "modelspec.license": "mit",
        "modelspec.tags": "dog,photo",
        "modelspec.trigger_phrase": "sks dog",
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "Dynamic",
        "ss_network_alpha": "2.0",
        "ss_output_name": "toy",
    }
    assert expected.items() <= metadata.items() and "modelspec.date" not in metadata
