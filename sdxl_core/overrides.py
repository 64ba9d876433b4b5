"""Which settings may change within a run, and what is said of those that may not."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sdxl_core.errors import UserError

OVERRIDABLE = {
    "training.max_steps": "the run becomes longer or shorter",
    "training.learning_rate": "moments and averages stay valid at any rate",
    "training.learning_rates": "as above",
    "training.scale_lr": "as above",
    "training.text_encoders.until_step": "as above",
    "training.lr_schedule": "the rate at a step is a function of the step alone",
    "training.warmup_steps": "as above",
    "training.optimizer.weight_decay": "acts on the weights as they are",
    "training.max_grad_norm": "acts on one step's gradient",
    "training.fused_backward": "the same updates but for clipping, which acts on one step's gradient",
    "training.micro_batch_size": "with accumulation_steps so that a step has as many rows; without buckets, the same",
    "training.accumulation_steps": "with micro_batch_size so that the rows of a step stay the same",
    "training.processes": "with micro_batch_size so that the rows of a step stay the same",
    "training.shard_weights": "another order of the same sums",
    "training.gradient_checkpointing": "memory for time; the same numbers but for rounding",
    "training.checkpoint_every_blocks": "as above",
    "training.attention": "another order of the same sums",
    "training.fused_lora": "as above",
    "training.compile": "as above",
    "training.channels_last": "as above",
    "training.precision": "rounding",
    "training.validation": "pictures for people",
    "sampling": "as above",
    "device": "rounding",
    "versions": "rounding, unless a library's release notes say otherwise",
}
"""Settings that a run may be carried on with after they changed, and why no state becomes invalid by it."""

FIXED = {
    "training.validation.scores": "decides what the best step is chosen by, and from the first step on",
    "training.validation.loss": "decides which pictures are trained on, and what losses the best one is compared with",
}
"""Settings below overridable ones that are not, and why."""


def refuse_changes(old: Mapping[str, Any], new: Mapping[str, Any], override: Collection[str], whose: str) -> None:
    """Raises UserError listing each setting that differs and is not to be overridden."""
    changes = [(key, was, now) for key, was, now in differences(old, new) if not _passes(key, override)]
    if not changes:
        return
    listed = "\n".join(f"  {key}: {was!r} -> {now!r}" for key, was, now in changes)
    if fixed := [key for key, _, _ in changes if not _passes(key, OVERRIDABLE)]:
        ways = f"{', '.join(fixed)} cannot change within a run, so else"
    else:
        ways = f"go on from there with the new values by {' '.join(f'--override {key}' for key, _, _ in changes)}, or"
    raise UserError(
        f"{whose} had other settings:\n{listed}\nGo back to them to go on with it; {ways} start anew with --fresh"
    )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(dotted key, old, new) of every setting that is not the same."""
    flat_old, flat_new = _flat(old), _flat(new)
    keys = sorted(flat_old.keys() | flat_new.keys())
    pairs = [(key, flat_old.get(key), flat_new.get(key)) for key in keys]
    return [(key, was, now) for key, was, now in pairs if was != now]


def check_override(override: Collection[str]) -> None:
    """Raises UserError for a setting that cannot change within a run."""
    for key in override:
        if not _passes(key, OVERRIDABLE):
            raise UserError(f"--override: {key} cannot change within a run; what can is {', '.join(OVERRIDABLE)}")


def _passes(key: str, override: Collection[str]) -> bool:
    """Whether a setting may differ where the settings `override` may."""
    return covered(key, override) and not covered(key, FIXED)


def covered(key: str, by: Collection[str]) -> bool:
    """Whether a dotted key is one of `by` or below one of them."""
    return any(key == name or key.startswith(f"{name}.") for name in by)


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, item in value.items():
        out |= _flat(item, f"{prefix}{key}.") if isinstance(item, Mapping) else {prefix + key: item}
    return out
