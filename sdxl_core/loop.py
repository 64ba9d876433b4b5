"""The training loop: one for all methods. What a method is, its objective knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sdxl_core.config import TrainingConfig
from sdxl_core.denoiser import Denoiser
from sdxl_core.ema import NoEma
from sdxl_core.objectives import Objective
from sdxl_core.optim import learning_rate, set_learning_rate
from sdxl_core.randomness import derived_seed
from sdxl_core.training_set import TrainingSet


class NonFiniteStepError(RuntimeError):
    """The gradient of a step is not finite. The weights are those of the step before."""


@dataclass
class TrainState:
    denoiser: Denoiser
    trainable: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    ema: NoEma
    step: int = 0
    """Optimizer steps done."""
    skipped: int = 0
    """Steps in a row whose float16 gradients overflowed, so that the loss scaler left the weights alone."""
    stop_requested: bool = False
    """Set by a signal: finish the step, then leave."""


MAX_SKIPPED_STEPS = 20
Metrics = dict[str, Tensor]
Hook = Callable[[TrainState, Metrics], None]


def micro_batch_slots(config: TrainingConfig, accelerator: Accelerator) -> Iterator[tuple[int, range]]:
    """This process's micro-batches of one optimizer step: (number among all of the step, the slots of its rows)."""
    for i in range(config.accumulation_steps):
        number = i * accelerator.num_processes + accelerator.process_index
        yield number, range(number * config.micro_batch_size, (number + 1) * config.micro_batch_size)


def rows_per_step(config: TrainingConfig, processes: int) -> int:
    return config.micro_batch_size * config.accumulation_steps * processes


def train_step(
    state: TrainState, data: TrainingSet, objective: Objective, accelerator: Accelerator, config: TrainingConfig
) -> Metrics:
    """One optimizer step. Raises NonFiniteStepError before the weights change."""
    state.optimizer.zero_grad(set_to_none=True)
    outputs = []
    for number, slots in micro_batch_slots(config, accelerator):
        torch.manual_seed(derived_seed("module-dropout", config.seed, state.step, number))
        batch = data.batch(state.step, slots).to(accelerator.device)
        last = number >= (config.accumulation_steps - 1) * accelerator.num_processes
        with _gradient_exchange(accelerator, state.denoiser.unet, last):
            output = objective(state.denoiser, batch)
            accelerator.backward(output.loss / config.accumulation_steps)
        outputs.append({"loss": output.loss.detach(), **output.scalars})
    grad_norm = accelerator.clip_grad_norm_(state.trainable, config.max_grad_norm)
    if not bool(torch.isfinite(grad_norm)):
        _skip_or_stop(state, grad_norm, data, accelerator, config)
    else:
        state.skipped = 0
    state.optimizer.step()
    state.ema.update(state.step + 1)
    return _mean(outputs, accelerator) | {"grad_norm": grad_norm}


def fit(
    state: TrainState,
    data: TrainingSet,
    objective: Objective,
    accelerator: Accelerator,
    config: TrainingConfig,
    hooks: Sequence[Hook],
) -> TrainState:
    """Run to `config.max_steps`, or until a hook or a signal asks to stop."""
    state.denoiser.unet.train()
    while state.step < config.max_steps and not state.stop_requested:
        rate = learning_rate(config, state.step)
        set_learning_rate(state.optimizer, rate)
        metrics = train_step(state, data, objective, accelerator, config)
        metrics["learning_rate"] = torch.tensor(rate)
        state.step += 1
        for hook in hooks:
            hook(state, metrics)
    return state


def _gradient_exchange(accelerator: Accelerator, model: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """Processes exchange gradients once per optimizer step, in its last micro-batch."""
    context: AbstractContextManager[Any] = nullcontext() if last else accelerator.no_sync(model)
    return context


def _skip_or_stop(
    state: TrainState, grad_norm: Tensor, data: TrainingSet, accelerator: Accelerator, config: TrainingConfig
) -> None:
    """In float16 an overflow now and then is how the loss scaler finds its scale; otherwise it is the end."""
    state.skipped += 1
    if accelerator.scaler is not None and state.skipped <= MAX_SKIPPED_STEPS:
        return
    slots = [slot for _, rows in micro_batch_slots(config, accelerator) for slot in rows]
    pictures = ", ".join(sha[:12] for sha in data.pictures(state.step, slots)[:8])
    raise NonFiniteStepError(
        f"step {state.step}: gradient norm is {float(grad_norm)}; the weights were left as they were. "
        f"Pictures of this step (sha256): {pictures}. Lower training.learning_rate, or train in bf16 or fp32"
    )


def _mean(outputs: Sequence[Metrics], accelerator: Accelerator) -> Metrics:
    """Means over the step's micro-batches, in all processes."""
    names = list(outputs[0])
    values = torch.stack([torch.stack([o[name].float() for o in outputs]).mean() for name in names])
    if accelerator.num_processes > 1:
        values = accelerator.reduce(values, reduction="mean")
    return dict(zip(names, values.unbind(), strict=True))
