"""What a training would have left had it ended at one of its bundles."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from sdxl_core.additions import TRAINED_FILE
from sdxl_core.bundles import bundle_identity, bundle_step, require_whole
from sdxl_core.errors import UserError
from sdxl_core.optimizers import build_optimizer, optimizer_kind, with_progress
from sdxl_core.trained import Trained, begin_training
from sdxl_core.training_config import TrainingConfig


def export_bundle(bundle: Path, model: Path, out: Path) -> dict[str, Any]:
    """Write a bundle's weights for use, the average where one is kept, into `out`, as a finished run writes them.

    `model` is the base that it was trained from. Returns {"step"}.

    Raises:
        UserError: the bundle is not whole, or not of this base.
    """
    require_whole(bundle)
    identity, step = bundle_identity(bundle), bundle_step(bundle)
    config = _configuration(identity["training"])
    trained = begin_training(model, config)
    with torch.no_grad(), _weights_for_use(trained, bundle):
        trained.export(model, out, identity["inputs"])
    describe(identity, step, out)
    return {"step": step}


def describe(identity: Mapping[str, Any], step: int, out: Path) -> None:
    """Say beside a bundle's weights what they are."""
    described = {"training": identity["training"], "inputs": identity["inputs"], "steps": step}
    described |= {"validation_prompts": [], "exported": {"step": step, "why": "of this bundle"}}
    (out / TRAINED_FILE).write_text(json.dumps(described, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _configuration(lasting: Mapping[str, Any]) -> TrainingConfig:
    """From what a bundle says of it: without places, and perhaps without a length."""
    alone = ("processes", "shard_weights")  # bundles hold whole tensors, whoever had shares of them
    settings = {name: value for name, value in lasting.items() if name not in alone}
    settings["consistency"] = {}  # no part of what was trained, and it would need a face model's place
    return TrainingConfig.model_validate({"max_steps": 10**9} | settings)


@contextmanager
def _weights_for_use(trained: Trained, bundle: Path) -> Iterator[None]:
    held, average = load_file(bundle / "weights.safetensors"), load_file(bundle / "average.safetensors")
    wanted = {**trained.trainable, **trained.kept}
    shapes = {name: tensor.shape for name, tensor in wanted.items()}
    if {name: tensor.shape for name, tensor in held.items()} != shapes:
        raise UserError.about(
            str(bundle), expected="the tensors that its configuration trains of this base", got="others"
        )
    for name, tensor in wanted.items():
        tensor.copy_(average.get(name, held[name]))
    kind = optimizer_kind(trained.config)
    if average or not kind.averages:
        yield
        return
    optimizer = build_optimizer(trained.config, trained.trainable)
    state = torch.load(bundle / "optimizer.pt", weights_only=True, map_location="cpu")["optimizer"]
    groups = with_progress(kind, optimizer.state_dict()["param_groups"], state["param_groups"])
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
    with kind.averaged(optimizer):
        yield
