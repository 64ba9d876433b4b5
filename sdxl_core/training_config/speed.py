"""What makes a step faster, and what that does not go with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from sdxl_core.training_config.adapters import LoraConfig

if TYPE_CHECKING:
    from sdxl_core.training_config.training import TrainingConfig

Compile = Literal["none", "blocks", "unet"]


def check_speed(training: TrainingConfig) -> None:
    """Raises ValueError where a faster way does not go with the rest."""
    if training.channels_last and training.adapter.kind == "full":
        raise ValueError(
            "channels_last lays out frozen convolutions, and adapter: {kind: full} trains them; set "
            "training.channels_last=false"
        )
    if training.compile == "none":
        return
    obstacles = {
        "gradient_checkpointing chooses blocks as they come, which the whole UNet as one graph does not allow: take "
        "blocks": training.compile == "unet" and training.gradient_checkpointing,
        "graphs cannot hold what peft does for DoRA, LoHa and LoKr: take a plain LoRA, OFT or full weights": (
            training.adapter.kind in ("loha", "lokr")
            or (isinstance(training.adapter, LoraConfig) and training.adapter.use_dora)
        ),
        "attention = xformers has kernels that no graph can hold: take training.attention=auto": (
            training.attention == "xformers"
        ),
    }
    for reason, stands in obstacles.items():
        if stands:
            raise ValueError(f"compile = {training.compile}: {reason}, or set training.compile=none")
