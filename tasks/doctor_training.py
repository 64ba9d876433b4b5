"""What a configuration's training will need, told before it starts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdxl_core.memory_savings import MemorySaving, savings_left
from sdxl_core.training_config import TrainingConfig
from sdxl_core.training_config.exported_steps import exported_steps
from sdxl_core.training_config.saving_memory import require_attention
from tasks.config import PipelineConfig
from tasks.manifest import Frozen
from tasks.sections import check_sections
from tasks.weights import locate_description

if TYPE_CHECKING:
    import torch

    from sdxl_core.estimate import Card, Given, StepCost

_LOG = logging.getLogger("sdxl_flows")
SMALL_FLOPS = 3e11
"""Steps below this are not estimated but done, on a CPU: a second or two."""
CPU_UTILISATION = 0.5


class Here(Frozen):
    """The training as configured, on this machine."""

    device: str
    memory_bytes: int
    needed_bytes: int
    """On a CPU in bf16 at most: autocast there converts fewer numbers than on a GPU."""
    step_s: float
    how: str
    """Where the seconds come from."""


class Change(Frozen):
    """What makes a training fit."""

    settings: str
    """As `--set` takes them."""
    costs: str


class OnCard(Frozen):
    """The training on a GPU of some size."""

    memory_gb: int
    card: str
    fits: bool
    """As configured, or with `changes`."""
    changes: tuple[Change, ...]
    """All of them together make it fit; none where it fits as configured."""
    needed_bytes: int
    """With `changes`; where it does not fit, the least that was found."""
    step_s: float


class Forecast(Frozen):
    """Of one process; bytes of tensors were counted, not measured on a GPU."""

    parts: dict[str, int]
    """Bytes of the training as configured, on a GPU, by what they are for."""
    peak_bytes: int
    """Their sum: tensors alone."""
    rows_per_step: int
    max_steps: int
    step_flops: int
    here: Here | None
    """None where this machine's device cannot compute in the precision asked for."""
    cards: tuple[OnCard, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Variant:
    savings: tuple[MemorySaving, ...]
    training: TrainingConfig
    cost: StepCost


def forecast(config: PipelineConfig) -> Forecast:
    """Count what a step needs, on no device at all; time it where it is small, else work it out.

    Raises:
        UserError: the configuration cannot be trained, or the checkpoint's description is not there.
    """
    check_sections(config)
    require_attention(config.training.attention)
    folder, vae = locate_description(config.model)
    from sdxl_core.estimate import CARDS, Given  # torch loads when nothing is left to refuse without it
    from sdxl_core.runtime import choose_device

    device = choose_device(config.runtime.device)
    largest_px = max(config.transform.base_resolutions_px)  # no bucket has more area than its resolution's square
    given = Given(folder, vae, largest_px, config.captions.max_chunks)
    variants: list[_Variant] = []
    more = _variants(given, config.training)
    cards = []
    for card in sorted(CARDS, key=lambda card: -card.memory_gb):  # the smaller, the more savings are tried
        cards.append(_on_card(card, variants, more))
    cost, half = variants[0].cost, config.training.precision == "fp16"
    return Forecast(
        parts=_parts(cost),
        peak_bytes=cost.peak_bytes,
        rows_per_step=config.training.micro_batch_size * config.training.accumulation_steps,
        max_steps=config.training.max_steps,
        step_flops=cost.flops,
        here=_here(given, config.training, cost, device) if device.type == "cuda" or not half else None,
        cards=tuple(reversed(cards)),
        notes=(*_notes(config), *_on_disk(config.training, cost)),
    )


def _variants(given: Given, training: TrainingConfig) -> Iterator[_Variant]:
    """The training as configured, then with one saving more each, the cheapest first; counted when asked for."""
    from sdxl_core.estimate import count_step

    savings: tuple[MemorySaving, ...] = ()
    while True:
        _LOG.info("counting a step %s", f"with {savings[-1]}" if savings else "as configured")
        yield _Variant(savings, training, count_step(given, training))
        saving = next(savings_left(training), None)
        if saving is None:
            return
        savings, training = (*savings, saving), saving.applied(training)


def _on_card(card: Card, variants: list[_Variant], more: Iterator[_Variant]) -> OnCard:
    from sdxl_core.estimate.cards import on_a_gpu

    if not variants:
        variants.append(next(more))
    fitting = next((v for v in variants if card.holds(on_a_gpu(v.cost.peak_bytes))), None)
    while fitting is None and (another := next(more, None)) is not None:
        variants.append(another)
        fitting = another if card.holds(on_a_gpu(another.cost.peak_bytes)) else None
    shown = fitting or min(variants, key=lambda v: v.cost.peak_bytes)
    return OnCard(
        memory_gb=card.memory_gb,
        card=card.name,
        fits=fitting is not None,
        changes=tuple(_changes(shown.savings, variants[0].training)),
        needed_bytes=on_a_gpu(shown.cost.peak_bytes),
        step_s=card.seconds(shown.cost.flops, shown.cost.operations, shown.training.precision),
    )


def _changes(savings: Sequence[MemorySaving], configured: TrainingConfig) -> Iterator[Change]:
    """Without what a later one takes back, and what was so anyway."""
    before = configured.model_dump(mode="json")
    for i, saving in enumerate(savings):
        later = {key for another in savings[i + 1 :] for key in another.changes}
        left = {k: v for k, v in saving.changes.items() if k not in later and (k not in before or before[k] != v)}
        if left:
            yield Change(settings=str(MemorySaving(left, saving.price)), costs=saving.price)


def _parts(cost: StepCost) -> dict[str, int]:
    parts = {
        "frozen weights": cost.frozen_bytes,
        "trained weights": cost.trained_bytes,
        "gradients": cost.gradient_bytes,
        "optimizer": cost.optimizer_bytes,
        "average (EMA)": cost.average_bytes,
        "copy of the base": cost.base_copy_bytes,
        "activations, and what comes and goes": cost.activation_bytes,
    }
    return {name: size for name, size in parts.items() if size}


def _here(given: Given, training: TrainingConfig, cost: StepCost, device: torch.device) -> Here:
    from sdxl_core.estimate import time_step
    from sdxl_core.estimate.cards import UTILISATION, on_a_gpu
    from sdxl_core.estimate.machine import matmul_flops_per_s, this_machine

    machine = this_machine(device)
    on_cpu = machine.device_type == "cpu"
    needed = cost.peak_bytes if on_cpu else on_a_gpu(cost.peak_bytes)
    if on_cpu and cost.flops <= SMALL_FLOPS:
        seconds, how = time_step(given, training), "measured: one step, on noise"
    else:
        share = CPU_UTILISATION if on_cpu else UTILISATION
        rate = matmul_flops_per_s(device, training.precision)
        seconds = cost.flops / (share * rate)
        how = f"{rate / 1e12:.3g} TFLOP/s in a matrix product, measured; {share:.0%} of it assumed"
    return Here(device=machine.name, memory_bytes=machine.memory_bytes, needed_bytes=needed, step_s=seconds, how=how)


def _on_disk(training: TrainingConfig, cost: StepCost) -> tuple[str, ...]:
    """What the states of exported steps need, where there are such."""
    steps = len(exported_steps(training))
    if not steps:
        return ()
    shares = training.processes if training.shard_weights else 1
    averages = 0 if training.ema is None else cost.trained_bytes * (2 if training.trained_weights == "bf16" else 1)
    bundle_gb = shares * (cost.trained_bytes + averages + cost.optimizer_bytes) / 1e9
    return (
        f"Disk, for training.export_every_steps: {steps} states of {bundle_gb:.3g} GB, {steps * bundle_gb:.3g} GB in "
        "all, stay in the store for runs made longer; the weights of each are in the result and in runs/ once more.",
    )


def _notes(config: PipelineConfig) -> tuple[str, ...]:
    from sdxl_core.estimate.cards import HOST_S_PER_OPERATION, LIBRARIES_BYTES, SLACK, UTILISATION

    notes = [
        "Memory: the tensors of one real step, counted without a device. On a GPU, "
        f"{LIBRARIES_BYTES / 2**30:g} GiB for its libraries and {SLACK - 1:.0%} for the allocator are assumed on top. "
        "Not measured on a GPU.",
        f"Time on the GPUs named: arithmetic at {UTILISATION:.0%} of the vendor's peak, and at least "
        f"{HOST_S_PER_OPERATION * 1e6:.0f} microseconds for each operation to be started, both assumed; published "
        "trainings reach 3% (one row at a time on a fast GPU) to 23%. Not measured on a GPU.",
    ]
    if config.training.validation is not None:
        notes.append("Not counted: validation pictures, which need the VAE and its activations while they are drawn.")
    if config.training.consistency.identity_loss is not None:
        notes.append(
            "Not counted: the identity loss, whose VAE decoder, face recogniser and their activations come on top, and "
            "their time."
        )
    if config.transform.buckets is not None:
        notes.append(f"Every step is counted as one of {max(config.transform.base_resolutions_px)} px squares.")
    if config.training.processes > 1:
        notes.append(f"Figures are of each of the {config.training.processes} processes.")
    return tuple(notes)
