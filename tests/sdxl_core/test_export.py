"""What is exported loads elsewhere, and is what was trained."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sdxl_core.adapters import Addition, load_trained
from sdxl_core.adapters.lora import Lora
from sdxl_core.cached_pictures import Caches
from sdxl_core.config import SamplingConfig
from sdxl_core.drawing_model import DrawingModel
from sdxl_core.export import DIFFUSERS_FILE, KOHYA_FILE, export_lora
from sdxl_core.generate import generate_images
from sdxl_core.model import load_unet
from sdxl_core.picture_files import pixel_digest
from sdxl_core.prompts import Prompt, prompt_seed
from sdxl_core.training_config import LoraConfig
from sdxl_core.weight_files.lora_diffusers import ADAPTER_METADATA

SAMPLING = SamplingConfig(steps=3, width_px=64, height_px=64, batch_size=1)  # as the stranger draws it
LORA = LoraConfig(rank=3, alpha=12, dropout=0.1, targets="attention+feed-forward")  # alpha is not rank: a scale of 4
PROMPT = Prompt("one", "a photo of a person in the snow")

STRANGER = """
import hashlib, sys, torch
from diffusers import StableDiffusionXLPipeline
assert not any(name.split(".")[0] in ("sdxl_core", "tasks", "flows") for name in sys.modules)
model, exported, prompt, seed, *files = sys.argv[1:]
for file in files:
    pipe = StableDiffusionXLPipeline.from_pretrained(model, add_watermarker=False)
    pipe.load_lora_weights(exported, weight_name=file)
    picture = pipe(prompt, num_inference_steps=3, guidance_scale=5.0, width=64, height=64,
                   generator=torch.Generator("cpu").manual_seed(int(seed))).images[0]
    print("picture", hashlib.sha256(b"RGB,64,64," + picture.tobytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def exported(random_sdxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA with all weights non-zero, exported."""
    unet = load_unet(random_sdxl)
    torch.manual_seed(1)
    for parameter in Lora(LORA).attach("unet", unet, seed=0).values():
        parameter.data.normal_(0, 0.1)
    out = tmp_path_factory.mktemp("export")
    export_lora({"unet": unet}, LORA, out, {"base": "digest"})
    return out


@pytest.fixture(scope="module")
def own_picture(random_sdxl: Path, exported: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Pixel digest of the project's own picture with the exported LoRA."""
    out = tmp_path_factory.mktemp("own")
    generate_images(
        sampling=SAMPLING,
        prompts=(PROMPT,),
        replicates=1,
        seed=7,
        model=DrawingModel(random_sdxl, None, (Addition(exported / DIFFUSERS_FILE),), "candidate", "text"),
        out=out,
        caches=Caches({}, {}),
    )
    return pixel_digest((out / "images" / "one-0.png").read_bytes())


def test_plain_diffusers_makes_the_same_picture(
    random_sdxl: Path, exported: Path, own_picture: str, tmp_path: Path
) -> None:
    """In a process and a folder without the project's code, both files give the project's own picture."""
    arguments = [str(random_sdxl), str(exported), PROMPT.prompt, str(prompt_seed(7, PROMPT.id, 0))]
    line = [sys.executable, "-I", "-c", STRANGER, *arguments, DIFFUSERS_FILE, KOHYA_FILE]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    pictures = [words[8:] for words in done.stdout.splitlines() if words.startswith("picture ")]
    assert pictures == [own_picture, own_picture]


def test_the_adapter_changes_the_picture(random_sdxl: Path, own_picture: str) -> None:
    pipeline = StableDiffusionXLPipeline.from_pretrained(random_sdxl, add_watermarker=False)
    generator = torch.Generator("cpu").manual_seed(prompt_seed(7, PROMPT.id, 0))
    picture = pipeline(PROMPT.prompt, num_inference_steps=3, width=64, height=64, generator=generator).images[0]
    assert hashlib.sha256(b"RGB,64,64," + picture.tobytes()).hexdigest() != own_picture


def test_alpha_stands_in_both_files(exported: Path) -> None:
    with safe_open(exported / DIFFUSERS_FILE, "pt") as file:
        metadata = json.loads(file.metadata()["lora_adapter_metadata"])
    assert (metadata["unet.r"], metadata["unet.lora_alpha"]) == (3, 12.0)
    alphas = [v.item() for k, v in load_file(exported / KOHYA_FILE).items() if k.endswith(".alpha")]
    assert alphas and set(alphas) == {12.0}


def test_bytes_are_a_function_of_the_weights(random_sdxl: Path, exported: Path, tmp_path: Path) -> None:
    unet = load_unet(random_sdxl)
    torch.manual_seed(1)
    for parameter in Lora(LORA).attach("unet", unet, seed=0).values():
        parameter.data.normal_(0, 0.1)
    export_lora({"unet": unet}, LORA, tmp_path, {"base": "digest"})
    for file in (DIFFUSERS_FILE, KOHYA_FILE):
        assert (tmp_path / file).read_bytes() == (exported / file).read_bytes()


def test_a_foreign_file_s_dropout_is_switched_off(exported: Path, random_sdxl: Path, tmp_path: Path) -> None:
    """diffusers builds the dropout that a header tells of, in training mode."""
    with safe_open(exported / DIFFUSERS_FILE, "pt") as file:
        header = file.metadata()
    settings = json.loads(header[ADAPTER_METADATA])
    assert settings["unet.lora_dropout"] == 0
    header[ADAPTER_METADATA] = json.dumps(settings | {"unet.lora_dropout": 0.5})
    save_file(load_file(exported / DIFFUSERS_FILE), tmp_path / "foreign.safetensors", header)
    pipeline = StableDiffusionXLPipeline.from_pretrained(random_sdxl)
    load_trained(pipeline, Addition(tmp_path / "foreign.safetensors"))
    dropouts = [m for m in pipeline.unet.modules() if isinstance(m, torch.nn.Dropout) and m.p == 0.5]
    assert dropouts and not any(module.training for module in dropouts)
