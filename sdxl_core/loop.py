"""The training loop: one for all methods. What a method is, its objective knows."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sdxl_core.denoiser import Denoiser
from sdxl_core.ema import NoEma
from sdxl_core.errors import UserError
from sdxl_core.objectives import Objective
from sdxl_core.optim import learning_rate, set_learning_rate
from sdxl_core.randomness import derived_seed
from sdxl_core.saving import advice
from sdxl_core.training_config import TrainingConfig
from sdxl_core.training_set import TrainingSet
from sdxl_core.workers import Workers


class NonFiniteRunError(RuntimeError):
    """Too many steps in a row whose loss or gradient is not finite. The weights are those of the last good step."""


@dataclass
class TrainState:
    denoiser: Denoiser
    trainable: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    ema: NoEma
    micro_batch_size: int
    """Rows per forward pass; as configured, until memory does not suffice."""
    step: int = 0
    """Optimizer steps done, those left out included."""
    skipped: int = 0
    """Steps left out in a row, because their loss or gradient was not finite."""
    skipped_in_all: int = 0
    stop_requested: bool = False
    """Set by a signal: finish the step, then leave."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.trainable.values())


LOSS_SCALER_SKIPS = 20
"""In float16 the loss scaler finds its scale by overflowing; so many steps in a row are no sign of anything wrong."""
Metrics = dict[str, Tensor]
Hook = Callable[[TrainState, Metrics], None]
Log = Callable[[str], None]


class Trainer:
    """Takes optimizer steps on a state."""

    def __init__(
        self,
        state: TrainState,
        data: TrainingSet,
        objective: Objective,
        accelerator: Accelerator,
        workers: Workers,
        config: TrainingConfig,
        log: Log,
    ) -> None:
        self.state = state
        self.data = data
        self.objective = objective
        self.accelerator = accelerator
        self.workers = workers
        self.config = config
        self.log = log

    def fit(self, hooks: Sequence[Hook]) -> None:
        """Run to `config.max_steps`, or until a signal in any process asks to stop.

        Raises:
            NonFiniteRunError: see there.
            UserError: a single row does not fit into memory.
        """
        state = self.state
        for network in state.denoiser.networks.parts.values():
            network.train()
        while state.step < self.config.max_steps and not self.workers.any(state.stop_requested):
            rate = learning_rate(self.config, state.step)
            set_learning_rate(state.optimizer, rate)
            metrics = self.train_step()
            metrics["learning_rate"] = torch.tensor(rate)
            for hook in hooks:
                hook(state, metrics)

    def train_step(self) -> Metrics:
        """One optimizer step, with as many rows at once as memory allows.

        A step whose loss or gradient is not finite leaves the weights alone. Raises as `fit` does.
        """
        while True:
            outputs = self._gradients()
            if not self.workers.any(outputs is None):
                break
            self._use_less_memory()
        assert outputs is not None
        state = self.state
        self.workers.average_gradients(state.parameters)
        grad_norm = self.accelerator.clip_grad_norm_(state.parameters, self.config.max_grad_norm)
        metrics = _mean(outputs, self.workers) | {"grad_norm": grad_norm}
        if bool(torch.isfinite(metrics["loss"] + grad_norm)):
            state.skipped = 0
            state.optimizer.step()
            state.ema.update(state.step + 1)
        else:
            self._leave_out(metrics)
        state.step += 1
        return metrics

    def _gradients(self) -> list[Metrics] | None:
        """Forward and backward passes of this process's rows; None where memory did not suffice."""
        state = self.state
        outputs = []
        state.optimizer.zero_grad(set_to_none=True)
        passes = list(self._micro_batches())
        try:
            for number, slots in passes:
                torch.manual_seed(derived_seed("module-dropout", self.config.seed, state.step, number))
                batch = self.data.batch(state.step, slots).to(self.accelerator.device)
                output = self.objective(state.denoiser, batch)
                self.accelerator.backward(output.loss / len(passes))
                outputs.append({"loss": output.loss.detach(), **output.scalars})
        except torch.OutOfMemoryError:
            return None
        return outputs

    def _micro_batches(self) -> Iterator[tuple[int, range]]:
        """This process's forward passes of a step: (number among all of the step, the slots of its rows)."""
        size = self.state.micro_batch_size
        for i in range(self.config.micro_batch_size * self.config.accumulation_steps // size):
            number = i * self.workers.count + self.workers.rank
            yield number, range(number * size, (number + 1) * size)

    def _use_less_memory(self) -> None:
        """The same rows in more and smaller passes."""
        size = self.state.micro_batch_size
        if size == 1:
            raise UserError(f"training: a single row does not fit into the device's memory; {advice(self.config)}")
        self.state.micro_batch_size = next(n for n in range(size // 2, 0, -1) if size % n == 0)
        self.state.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        torch.cuda.empty_cache()
        self.log(
            f"step {self.state.step}: out of memory with {size} rows at once; repeating the step, and going on, "
            f"with {self.state.micro_batch_size} at once and as much more accumulation"
        )

    def _leave_out(self, metrics: Metrics) -> None:
        state = self.state
        if self.accelerator.scaler is not None:
            state.optimizer.step()  # the scaler leaves the weights alone and lowers its scale
        state.skipped += 1
        state.skipped_in_all += 1
        finite_loss = bool(torch.isfinite(metrics["loss"]))
        searching = self.accelerator.scaler is not None and finite_loss
        limit = max(LOSS_SCALER_SKIPS, self.config.max_skipped_steps) if searching else self.config.max_skipped_steps
        found = f"step {state.step}: loss {float(metrics['loss']):.4g}, gradient norm {float(metrics['grad_norm']):.4g}"
        if not searching:
            found += f"; {self._suspects()}"
        if state.skipped > limit:
            raise NonFiniteRunError(
                f"{found}. That is not finite {state.skipped} times in a row; the weights are those of the last good "
                "step. Look at these pictures, lower training.learning_rate, or train in bf16 or fp32"
            )
        self.log(f"{found}; the step is left out ({state.skipped} in a row)")

    @torch.no_grad()
    def _suspects(self) -> str:
        """The pictures whose own loss is not finite; if each alone is fine, all of the step."""
        step = self.state.step
        slots = [slot for _, rows in self._micro_batches() for slot in rows]

        def is_bad(slot: int) -> bool:
            batch = self.data.batch(step, [slot]).to(self.accelerator.device)
            return not bool(torch.isfinite(self.objective(self.state.denoiser, batch).loss))

        bad = [slot for slot in slots if is_bad(slot)]
        names = self.workers.gather(self.data.pictures(step, bad))
        if names:
            return f"not finite with picture (sha256) {_listed(names)}"
        return f"every picture's own loss is finite: {_listed(self.workers.gather(self.data.pictures(step, slots)))}"


def rows_per_step(config: TrainingConfig, processes: int) -> int:
    return config.micro_batch_size * config.accumulation_steps * processes


def _listed(sha256s: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(sha256[:12] for sha256 in dict.fromkeys(sha256s[:most]))
    return shown + (f" and {len(sha256s) - most} more" if len(sha256s) > most else "")


def _mean(outputs: Sequence[Metrics], workers: Workers) -> Metrics:
    """Means over the step's passes, in all processes."""
    names = list(outputs[0])
    values = torch.stack([torch.stack([o[name].float() for o in outputs]).mean() for name in names])
    return dict(zip(names, workers.mean(values).unbind(), strict=True))
