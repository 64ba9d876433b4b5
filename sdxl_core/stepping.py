"""When a step's gradients become an update: after all of them are there, or each as it comes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sdxl_core.errors import UserError
from sdxl_core.optimizers import build_optimizer, optimizer_kind, with_progress
from sdxl_core.optimizers.rounding import STEP, step_alone
from sdxl_core.parts import Part
from sdxl_core.sharding import divided_like, whole
from sdxl_core.training_config import TrainingConfig
from sdxl_core.workers import Workers


class Stepping:
    """The optimizer of a run and all that the run asks of it. Updates after a step's last backward pass."""

    indivisible: ClassVar[str | None] = None
    """Why a step's rows cannot be split over several passes, and passes be done again; None where they can."""

    def __init__(
        self,
        config: TrainingConfig,
        trainable: Mapping[str, nn.Parameter],
        accelerator: Accelerator,
        workers: Workers,
        rows_per_step: int = 1,
    ) -> None:
        self.max_grad_norm = config.max_grad_norm
        self.accelerator = accelerator
        self.workers = workers
        self.parameters = list(trainable.values())
        self.kind = optimizer_kind(config)
        self.optimizer = build_optimizer(config, trainable, rows_per_step)
        self._prepared = accelerator.prepare(self.optimizer)  # steps as float16's loss scaler allows
        self.parts: list[Part] = [group["part"] for group in self.optimizer.param_groups]

    def set_rates(self, rates: Mapping[Part, float]) -> None:
        """The rate of each part, for the next step."""
        for group in self.optimizer.param_groups:
            group["lr"] = rates[group["part"]]

    def begin(self, step: int) -> None:
        """Forget all gradients; those of `step` come."""
        self.optimizer.zero_grad(set_to_none=True)
        for group in self.optimizer.param_groups:
            group[STEP] = step

    def backward(self, loss: Tensor) -> None:
        """Add one pass's gradients."""
        self.accelerator.backward(loss)

    def grad_norm(self) -> Tensor:
        """Norm of the step's gradient, all parameters and processes together, before it is clipped to the limit."""
        self.workers.average_gradients(self.parameters)
        norm: Tensor = self.accelerator.clip_grad_norm_(self.parameters, self.max_grad_norm)
        return norm

    def update(self) -> None:
        """Make the step."""
        self._prepared.step()

    def leave_out(self) -> bool:
        """Do not make the step; returns whether the weights are still those before it."""
        if self.accelerator.scaler is not None:
            self._prepared.step()  # the scaler leaves the weights alone and lowers its scale
        return True

    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the parameters are those that the optimizer means to be used."""
        return self.kind.averaged(self.optimizer)

    def figures(self) -> dict[str, float]:
        """What of the optimizer is worth a curve, by name."""
        return self.kind.figures(self.optimizer)

    def state_bytes(self) -> int:
        """What the optimizer keeps beside the weights."""
        return sum(self.kind.state_bytes(p) for p in self.parameters)

    def state(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`. Settings stay those of the configuration.

        Raises:
            ValueError: it is of other parameters; nothing is changed then.
        """
        settings = with_progress(self.kind, self.optimizer.state_dict()["param_groups"], state["param_groups"])
        self.optimizer.load_state_dict({"state": state["state"], "param_groups": settings})


class FusedStepping(Stepping):
    """Updates each parameter as soon as its gradient is complete, and frees the gradient (`training.fused_backward`).

    A loss that is not finite is not taken backward, so its step can be left out. A gradient that is not finite is
    found when other parameters have their updates: that step can be neither left out nor repeated.
    """

    indivisible: ClassVar[str | None] = (
        "training.fused_backward cannot take them in smaller passes; set training.gradient_checkpointing=true, a "
        "smaller training.micro_batch_size (the run starts anew), or training.fused_backward=false"
    )

    def __init__(
        self,
        config: TrainingConfig,
        trainable: Mapping[str, nn.Parameter],
        accelerator: Accelerator,
        workers: Workers,
        rows_per_step: int = 1,
    ) -> None:
        super().__init__(config, trainable, accelerator, workers, rows_per_step)
        if workers.count > 1:
            raise UserError("training.fused_backward works in one process: set it to false to train in several")
        self._norms: dict[int, Tensor] = {}
        group_of = {p: i for i, group in enumerate(self.optimizer.param_groups) for p in group["params"]}
        for number, parameter in enumerate(self.parameters):
            hook = partial(self._update_one, number, group_of[parameter])
            parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]

    def begin(self, step: int) -> None:
        super().begin(step)
        self._norms = {}

    def backward(self, loss: Tensor) -> None:
        if bool(torch.isfinite(loss)):
            super().backward(loss)

    def grad_norm(self) -> Tensor:
        """Norm of all gradients; each was clipped by its own."""
        norms = [self._norms[number] for number in sorted(self._norms)]
        return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.tensor(torch.nan)

    def update(self) -> None:
        """It is made."""

    def leave_out(self) -> bool:
        return not self._norms

    @torch.no_grad()
    def _update_one(self, number: int, group: int, parameter: nn.Parameter) -> None:
        """In the backward pass: clip, step, free. As torch.nn.utils.clip_grad_norm_ clips."""
        assert parameter.grad is not None
        norm = torch.linalg.vector_norm(parameter.grad)
        parameter.grad.mul_((self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        step_alone(self.optimizer, self.optimizer.param_groups[group], parameter)
        self._norms[number] = norm
        parameter.grad = None


class ShardedStepping(Stepping):
    """Of parameters of which each process holds a share (`training.shard_weights`).

    Their gradients are averaged in the backward passes, in which processes wait for each other: none can leave one and
    begin it anew.
    """

    indivisible: ClassVar[str | None] = (
        "training.shard_weights cannot take them in smaller passes, as processes wait for each other within one; set "
        "training.gradient_checkpointing=true, or a smaller training.micro_batch_size with more accumulation_steps"
    )

    @property
    def _numbered(self) -> list[nn.Parameter]:
        """As the optimizer's state numbers them."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def grad_norm(self) -> Tensor:
        norm: Any = self.accelerator.clip_grad_norm_(self.parameters, self.max_grad_norm)
        whole_norm: Tensor = norm.full_tensor()
        return whole_norm

    def state(self) -> dict[str, Any]:
        """Whole; all processes have to ask for it."""
        return dict(whole(super().state()))

    def load(self, state: Mapping[str, Any]) -> None:
        divided = {number: self._divided(number, entry) for number, entry in state["state"].items()}
        super().load({**state, "state": divided})

    def _divided(self, number: int, entry: Mapping[str, Any]) -> dict[str, Any]:
        """What is kept of a parameter: of its shape, or a counter."""
        parameter = self._numbered[number]
        return {
            name: divided_like(value, parameter) if value.shape == parameter.shape else value
            for name, value in entry.items()
        }


def build_stepping(
    config: TrainingConfig,
    trainable: Mapping[str, nn.Parameter],
    accelerator: Accelerator,
    workers: Workers,
    rows_per_step: int = 1,
) -> Stepping:
    """Raises UserError where the configuration does not go with what is trained, or with several processes."""
    stepping = FusedStepping if config.fused_backward else ShardedStepping if config.shard_weights else Stepping
    return stepping(config, trainable, accelerator, workers, rows_per_step)
