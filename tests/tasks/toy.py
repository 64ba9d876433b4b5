"""An experiment's files without any network in them: what is checked and digested before anything runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from flows.wiring import finetune
from sdxl_core.unet_shapes import unet_shapes
from tasks.checkpoint import CLASSES
from tasks.experiment import prepare_experiment
from tasks.manifest import Json, Ref
from tasks.provenance import provenance
from tasks.stage import Call, Handle, Job, materialise
from tasks.store import ArtifactStore
from tasks.yaml_config import read_config, to_yaml

CONFIG = """\
name: toy
model: {base: ./sdxl}
dataset: {path: ./pictures}
transform: {resolution_px: 64}
prior: {prompt: a photo of a person, count: 2, sampling: {steps: 1, width_px: 64, height_px: 64}}
training: {objective: {kind: prior_preservation}, learning_rate: 1e-3, max_steps: 2}
sampling: {steps: 2, width_px: 64, height_px: 64}
evaluation:
  prompts: ./prompts.jsonl
  metrics:
    - {metric: clip_i, model: ./clip, primary: true}
    - {metric: ssim}
"""
UNET = {
    "_class_name": "UNet2DConditionModel",
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [4, 4],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 8,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 2,
    "projection_class_embeddings_input_dim": 16,
    "use_linear_projection": True,
}
Plan = Callable[..., dict[str, Call]]
ONE = {"weight": (2, 3)}
PRODUCTS = {
    "report": ("report.html", "report.json", "summary.md", "scores.parquet"),
    "train": ("pytorch_lora_weights.safetensors", "kohya_lora.safetensors"),
}


def write_experiment(folder: Path, config: str = CONFIG) -> Path:
    """A folder with a configuration and all it points at; returns the configuration's path."""
    write_checkpoint(folder / "sdxl")
    write_component(folder / "clip")
    write_pictures(folder / "pictures", 3)
    prompts = [{"id": f"p{number}", "prompt": f"a photo of a person {number}"} for number in range(3)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    path = folder / "toy.yaml"
    path.write_text(config)
    return path


def write_checkpoint(folder: Path) -> None:
    """What an SDXL checkpoint consists of, in kilobytes: true names and shapes, and zeros for weights."""
    shapes = unet_shapes(UNET)
    assert shapes is not None
    write_component(folder / "unet", UNET, shapes)
    write_component(folder / "vae", {"_class_name": "AutoencoderKL", "latent_channels": 4, "scaling_factor": 0.13025})
    for name, kind in (("text_encoder", "CLIPTextModel"), ("text_encoder_2", "CLIPTextModelWithProjection")):
        write_component(folder / name, {"architectures": [kind], "hidden_size": 4, "projection_dim": 4})
    files = {"tokenizer": "config.json", "tokenizer_2": "config.json", "scheduler": "scheduler_config.json"}
    for name, file in files.items():
        (folder / name).mkdir()
        (folder / name / file).write_text(json.dumps({"is": name}))
    classes = {name: ["diffusers", kinds[0]] for name, kinds in CLASSES.items()}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionXLPipeline", **classes}))


def write_component(folder: Path, config: Mapping[str, Any] | None = None, shapes: Mapping[str, Any] = ONE) -> None:
    """A configuration, and weights under the name that the libraries look for."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config or {}))
    stem = "diffusion_pytorch_model" if folder.name in ("unet", "vae") else "model"
    write_weights(folder / f"{stem}.safetensors", shapes)


def write_weights(path: Path, shapes: Mapping[str, Any], value: float = 0) -> None:
    save_file({name: np.full(shape, value, np.float16) for name, shape in shapes.items()}, path)


def write_pictures(folder: Path, count: int) -> None:
    folder.mkdir()
    lines = []
    for number in range(count):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "text": f"a photo {number}"}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines))


def leave_products(job: Job) -> dict[str, Json]:
    """Stands in for a stage's computation: as many bytes as it takes for what comes after to be reusable."""
    names = [name for products in PRODUCTS.values() for name in products]
    for name in names:
        (job.out / name).write_text(json.dumps({"comparison": {"judged": []}, "params": dict(job.params)}))
    if "sources" in job.local:
        stated = provenance(job.store, [Ref.model_validate(ref) for ref in job.local["sources"]])
        shown = {"title": job.params["title"], "config": to_yaml(job.params["config"])}
        document = {**shown, "comparison": {"judged": []}, "provenance": stated}
        (job.out / "report.json").write_text(json.dumps(document))
    return {"decided": True, "verdict": None}


def fill_store(
    config: Path, store: ArtifactStore, command: str, overrides: Mapping[str, Any] | None = None
) -> list[Ref]:
    """Artifacts of every stage, under the very keys that a run would give them."""
    refs = []

    def run(call: Call) -> Handle:
        refs.append(materialise(replace(call, stage=replace(call.stage, build=leave_products)), store, "cpu"))
        return refs[-1]

    settings = [f"{name}={value}" for name, value in (overrides or {}).items()]
    finetune(prepare_experiment(read_config(config, settings), store, command), run)
    return refs
