"""What is left to make a training need less memory, by the settings it has. Importing this imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sdxl_core.training_config import TrainingConfig


@dataclass(frozen=True)
class MemorySaving:
    """A change of settings that saves memory."""

    changes: dict[str, Any]
    """Dotted key below `training` -> value."""
    price: str
    """What it costs instead."""

    def __str__(self) -> str:
        """As `--set` takes it."""
        return " ".join(f"training.{key}={_written(value)}" for key, value in self.changes.items())

    def applied(self, config: TrainingConfig) -> TrainingConfig:
        document = config.model_dump(mode="json")
        for key, value in self.changes.items():
            section, _, leaf = key.rpartition(".")
            if section:
                document[section] = (document[section] or {}) | {leaf: value}
            else:
                document[leaf] = value
        return TrainingConfig.model_validate(document)


def savings_left(config: TrainingConfig) -> Iterator[MemorySaving]:
    """What `config` does not do yet, the cheapest first."""
    if config.attention == "math":
        yield MemorySaving({"attention": "auto"}, "nothing")
    if config.micro_batch_size > 1:
        rows = config.micro_batch_size * config.accumulation_steps
        yield MemorySaving(
            {"micro_batch_size": 1, "accumulation_steps": rows},
            "time; the step keeps its rows, and where memory ends training does this itself",
        )
    if config.precision == "fp32":
        yield MemorySaving({"precision": "bf16"}, "rounding; a GPU becomes faster by it")
    if not config.gradient_checkpointing:
        yield MemorySaving({"gradient_checkpointing": True}, "a third more arithmetic")
    elif config.checkpoint_every_blocks > 1:
        yield MemorySaving({"checkpoint_every_blocks": 1}, "up to a third more arithmetic")
    yield from (_of_full(config) if config.adapter.kind == "full" else _of_the_base(config))


def advice(config: TrainingConfig) -> str:
    """What to set when a single row is too much."""
    one_row = config.model_copy(update={"micro_batch_size": 1})
    left = [f"{saving} ({saving.price})" for saving in savings_left(one_row)]
    return f"set {'; or '.join([*left, 'a smaller transform.resolution_px'])}"


def _of_full(config: TrainingConfig) -> Iterator[MemorySaving]:
    if config.asks_base and not config.offload_base:
        yield MemorySaving({"offload_base": True}, "moving the base in and out for every pass")
    without = {"offload_base": False} if config.offload_base else {}
    yield MemorySaving({"adapter.kind": "lora"} | without, "another method: a LoRA instead of all weights")


def _of_the_base(config: TrainingConfig) -> Iterator[MemorySaving]:
    kind = config.base_quantization and config.base_quantization.kind
    if kind is None:
        yield MemorySaving({"base_quantization.kind": "int8"}, "time, and a little accuracy of the base")
    if kind != "nf4":
        yield MemorySaving({"base_quantization.kind": "nf4"}, "time, and more accuracy of the base")


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
