"""LoRAs at a scale and several of them: what plain diffusers draws with `set_adapters`, and what cannot be together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from sdxl_core.adapters import Addition, load_trained
from sdxl_core.adapters.lora import Lora
from sdxl_core.additions import require_sum
from sdxl_core.errors import UserError
from sdxl_core.export import DIFFUSERS_FILE, KOHYA_FILE, export_lora
from sdxl_core.model import load_unet
from sdxl_core.training_config import LoraConfig
from sdxl_core.weight_files.architecture import Architecture
from sdxl_core.weight_files.lora_files import read_lora
from tests.tiers import first_of

Folders = dict[str, Path]
CONFIGS = {
    "attention": LoraConfig(rank=3, alpha=12),
    "wider": LoraConfig(rank=2, alpha=1, targets="attention+feed-forward"),
    "dora": LoraConfig(rank=2, use_dora=True),
}


@pytest.fixture(scope="module")
def folders(random_sdxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Exported LoRAs, all weights non-zero."""
    found = {}
    for seed, (name, config) in enumerate(CONFIGS.items()):
        unet = load_unet(random_sdxl)
        torch.manual_seed(seed)
        for key, parameter in Lora(config).attach("unet", unet, seed=seed).items():
            if "magnitude" not in key:
                parameter.data.normal_(0, 0.1)
        found[name] = tmp_path_factory.mktemp(name)
        export_lora({"unet": unet}, config, found[name], {"base": "digest"})
    return found


def pipeline(model: Path) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline.from_pretrained(model, add_watermarker=False, local_files_only=True)


@torch.no_grad()
def says(drawing: StableDiffusionXLPipeline) -> torch.Tensor:
    """What the UNet predicts for one latent and text."""
    unet: Any = drawing.unet.eval()
    generator = torch.Generator().manual_seed(0)
    x_1CHW = torch.randn((1, 4, 8, 8), generator=generator)
    width = unet.config.cross_attention_dim
    pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
    more = {"text_embeds": torch.randn((1, pooled), generator=generator), "time_ids": torch.ones(1, 6)}
    text = torch.randn((1, 7, width), generator=generator)
    found: torch.Tensor = unet(x_1CHW, torch.tensor([500]), text, added_cond_kwargs=more).sample
    return found


SUMS: list[dict[str, float]] = [
    {"attention": 0.5},
    {"attention": 0.8, "wider": -0.5},
    {"wider": 1.0, "attention": 1.0},
    {"dora": 0.7},
]


@pytest.mark.parametrize("scales", first_of(SUMS), ids=str)
@pytest.mark.parametrize("file", [DIFFUSERS_FILE, KOHYA_FILE])
def test_scales_are_those_of_diffusers_set_adapters(
    random_sdxl: Path, folders: Folders, scales: dict[str, float], file: str
) -> None:
    """diffusers reads its own layout; of kohya's it would leave out a DoRA's magnitudes."""
    theirs, ours = pipeline(random_sdxl), pipeline(random_sdxl)
    for name in scales:
        theirs.load_lora_weights(folders[name], weight_name=DIFFUSERS_FILE, adapter_name=name)
    theirs.set_adapters(list(scales), list(scales.values()))
    load_trained(ours, *(Addition(folders[name] / file, scale) for name, scale in scales.items()))
    expected, plain = says(theirs), says(pipeline(random_sdxl))
    torch.testing.assert_close(says(ours), expected, rtol=0, atol=1e-4)
    assert (expected - plain).abs().max() > 1e-2, "it does something"


def test_a_scale_of_nothing_is_the_base_and_one_is_no_scale(random_sdxl: Path, folders: Folders) -> None:
    file = folders["attention"] / DIFFUSERS_FILE
    none, one, said = pipeline(random_sdxl), pipeline(random_sdxl), pipeline(random_sdxl)
    load_trained(none, Addition(file, 0.0))
    load_trained(one, Addition(file))
    said.load_lora_weights(file.parent, weight_name=file.name)
    torch.testing.assert_close(says(none), says(pipeline(random_sdxl)), rtol=0, atol=1e-6)
    assert torch.equal(says(one), says(said)), "to the last bit what a single LoRA was before there were scales"


def test_alphas_that_differ_count_each_for_its_module(random_sdxl: Path, folders: Folders, tmp_path: Path) -> None:
    """diffusers takes the commonest of a kohya file; the file is rewritten for it."""
    tensors = load_file(folders["attention"] / KOHYA_FILE)
    names = sorted(name for name in tensors if name.endswith(".alpha"))
    for number, name in enumerate(names):
        tensors[name] = torch.tensor(float(1 + number % 3))
    save_file(tensors, tmp_path / "mixed.safetensors")
    drawing = pipeline(random_sdxl)
    load_trained(drawing, Addition(tmp_path / "mixed.safetensors", 0.5))
    merged = load_unet(random_sdxl)
    for _, name, module in read_lora(tmp_path / "mixed.safetensors", Architecture.of(random_sdxl)):
        merged.get_submodule(name).weight.data += 0.5 * module.delta()
    expected = pipeline(random_sdxl)
    expected.unet = merged
    torch.testing.assert_close(says(drawing), says(expected), rtol=0, atol=1e-4)


def test_peft_s_own_folder_draws_the_same(random_sdxl: Path, folders: Folders, tmp_path: Path) -> None:
    """As `PeftModel.save_pretrained` names its tensors."""
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model

    unet = get_peft_model(load_unet(random_sdxl), PeftLoraConfig(r=3, lora_alpha=12, target_modules=["to_q", "to_v"]))
    torch.manual_seed(5)
    for name, parameter in unet.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.1)
    unet.save_pretrained(tmp_path)
    drawing, expected = pipeline(random_sdxl), pipeline(random_sdxl)
    load_trained(drawing, Addition(tmp_path / "adapter_model.safetensors"))
    expected.unet = unet.merge_and_unload()
    torch.testing.assert_close(says(drawing), says(expected), rtol=0, atol=1e-4)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "LOHA"}))
    with pytest.raises(UserError, match="expected peft_type LORA, got LOHA"):
        load_trained(pipeline(random_sdxl), Addition(tmp_path / "adapter_model.safetensors"))


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([("dog", "full", 0.5)], r"a scale of 1 but for lora, loha, lokr, got dog at 0.5, which is a full fine-tune"),
        ([("dog", "oft", 0.5)], "dog at 0.5, which is oft"),
        (
            [("dog", "full", 1.0), ("cat", "full", 1.0)],
            r"one full fine-tune at most, got dog \(a full fine-tune\), cat",
        ),
        ([("dog", "loha", 1.0), ("cat", "lora", 1.0)], r"LoRAs, with one full fine-tune at most, got dog \(loha\)"),
    ],
)
def test_what_cannot_be_together_is_refused(terms: list[tuple[str, str, float]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        require_sum(terms, "evaluation.candidate")


def test_what_can_be_together_is_not() -> None:
    require_sum([("dog", "full", 1.0), ("cat", "lora", 0.5), ("word", "none", 1.0)], "evaluation.candidate")
    require_sum([("dog", "lokr", 0.5)], "evaluation.candidate")
