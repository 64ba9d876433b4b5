"""What is trained. To add a kind: a file here, a line below, its class in `sdxl_core.training_config`."""

from __future__ import annotations

import json
from pathlib import Path

from diffusers import StableDiffusionXLPipeline

from sdxl_core.adapter_start import file_shapes
from sdxl_core.adapters.base import Adapter
from sdxl_core.adapters.full import FullWeights
from sdxl_core.adapters.loha import Loha
from sdxl_core.adapters.lokr import Lokr
from sdxl_core.adapters.lora import Lora, load_lora
from sdxl_core.adapters.none import NoAdapter
from sdxl_core.adapters.oft import Oft
from sdxl_core.learned_tokens import load_tokens
from sdxl_core.scheduler import SCHEDULER_FOLDER, load_trained_scheduler

ADAPTERS: dict[str, type[Adapter]] = {
    "lora": Lora,
    "loha": Loha,
    "lokr": Lokr,
    "oft": Oft,
    "full": FullWeights,
    "none": NoAdapter,
}

TRAINED_FILE = "training.json"
"""What an export says of itself; its `training.adapter.kind` tells how to load it."""


def load_trained(pipeline: StableDiffusionXLPipeline, trained: Path) -> None:
    """Put a LoRA file, or what is in a folder that the trainer exported to, into a pipeline of the base."""
    if trained.is_file():
        load_lora(pipeline, trained)
        return
    described = json.loads((trained / TRAINED_FILE).read_text(encoding="utf-8"))
    load_tokens(pipeline, trained)
    if (trained / SCHEDULER_FOLDER).is_dir():
        load_trained_scheduler(pipeline, trained)
    ADAPTERS[described["training"]["adapter"]["kind"]].load(pipeline, trained)


def encodes_otherwise(trained: Path) -> bool:
    """Whether prompts mean something else with it: text encoders were trained, or new words."""
    if trained.is_file():
        return any(name.startswith(("text_encoder", "lora_te")) for name in file_shapes(trained))
    described = json.loads((trained / TRAINED_FILE).read_text(encoding="utf-8"))["training"]
    return bool(described["text_encoders"] or described["new_tokens"])


__all__ = ["ADAPTERS", "TRAINED_FILE", "Adapter", "encodes_otherwise", "load_trained"]
