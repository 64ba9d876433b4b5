"""What saves memory by training otherwise, and what that does not go with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdxl_core.training_config.training import TrainingConfig


def check_trained_weights(training: TrainingConfig) -> None:
    """Raises ValueError where weights cannot be stored in bfloat16."""
    if training.trained_weights == "fp32":
        return
    if training.precision != "bf16":
        raise ValueError(
            "trained_weights = bf16 computes in bfloat16 too: expected precision = bf16, "
            f"got {training.precision}. Set training.precision=bf16"
        )
    if not training.optimizer.separable:
        raise ValueError(
            f"trained_weights = bf16 updates tensors one by one, in float32, and optimizer.kind = "
            f"{training.optimizer.kind} needs all at once: take adamw, adamw_8bit, adafactor or lion, or "
            "trained_weights=fp32"
        )


def check_fused_backward(training: TrainingConfig) -> None:
    """Raises ValueError where a weight cannot be updated as soon as its gradient is there."""
    if not training.fused_backward:
        return
    obstacles = {
        "it saves gradients of whole models, of which an adapter has none: expected adapter.kind = full": (
            training.adapter.kind != "full"
        ),
        "gradients are gone after one pass: expected accumulation_steps = 1, and micro_batch_size with all rows": (
            training.accumulation_steps > 1
        ),
        "gradients are gone before processes could average them: expected processes = 1": training.processes > 1,
        "float16's loss scale is known after all gradients only: expected precision = bf16 or fp32": (
            training.precision == "fp16"
        ),
        f"optimizer.kind = {training.optimizer.kind} needs all gradients at once: take adamw, adamw_8bit, adafactor or "
        "lion": not training.optimizer.separable,
    }
    for reason, stands in obstacles.items():
        if stands:
            raise ValueError(f"fused_backward: {reason}, or set training.fused_backward=false")


def check_shard_weights(training: TrainingConfig) -> None:
    """Raises ValueError where processes cannot share what is trained."""
    if not training.shard_weights:
        return
    kind = training.optimizer.kind
    obstacles = {
        "one process has nobody to share with: expected processes > 1": training.processes == 1,
        "it divides whole models, and an adapter is small: expected adapter.kind = full": (
            training.adapter.kind != "full"
        ),
        "text_encoders are not divided, as transformers finds their outputs by a class that dividing replaces: leave "
        "text_encoders out": training.text_encoders is not None,
        "new_tokens are not divided: train them in a run of their own": bool(training.new_tokens),
        "float16's loss scale is each process's own: expected precision = bf16 or fp32": training.precision == "fp16",
        "bf16 weights are rounded tensor by tensor, and no process has a whole one: expected trained_weights = fp32": (
            training.trained_weights == "bf16"
        ),
        f"optimizer.kind = {kind} needs whole tensors: take adamw or lion": not training.optimizer.elementwise,
        "no graph can wait for other processes' weights: expected compile = none": training.compile != "none",
    }
    for reason, stands in obstacles.items():
        if stands:
            raise ValueError(f"shard_weights: {reason}, or set training.shard_weights=false")
