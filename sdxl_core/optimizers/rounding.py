"""Weights stored in bfloat16 and updated in float32, by rounding stochastically.

bfloat16 keeps 8 bits of a number, so an update below 1/512 of its weight is lost by rounding to the nearest, step after
step. Rounded up with the probability that the rest asks for, it arrives on average (Zamirai et al. 2020,
arXiv:2010.06192).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sdxl_core.optimizers.base import Group
from sdxl_core.randomness import derived_seed

STEP = "optimizer_step"
"""The key of a parameter group that says which step is being taken."""


def round_stochastically(x: Tensor, generator: torch.Generator) -> Tensor:
    """float32 -> bfloat16, either neighbour, with probabilities by which the mean is `x`. What is bfloat16 stays.

    The lower 16 bits of a float32 are the share of the way to the next bfloat16 away from zero: a uniform number of 16
    bits added to them carries over with just that probability, and they are cut off.
    """
    noise = torch.randint(2**16, x.shape, dtype=torch.int32, device=x.device, generator=generator)
    bits = noise.add_(x.view(torch.int32)).bitwise_and_(-(2**16))
    return bits.view(torch.float32).to(torch.bfloat16)


def step_alone(optimizer: torch.optim.Optimizer, group: Group, parameter: nn.Parameter) -> None:
    """Update one parameter with its group's settings. For optimizers whose updates need that parameter alone."""
    groups = optimizer.param_groups
    optimizer.param_groups = [{**group, "params": [parameter]}]
    try:
        optimizer.step()
    finally:
        optimizer.param_groups = groups


class RoundingOptimizer(torch.optim.Optimizer):
    """Any optimizer of float32 weights, on bfloat16 ones.

    Each parameter in its turn is copied to float32 together with its gradient, updated, and rounded back; so there is
    one tensor's copy at a time. The optimizer's state is float32 throughout. The bits of a rounding are a function of
    (seed, step, number of the parameter), on the parameter's device.
    """

    def __init__(
        self, build: Callable[[Sequence[Group]], torch.optim.Optimizer], groups: Sequence[Group], seed: int
    ) -> None:
        self.seed = seed
        proxies = [{**group, "params": [_empty_like(p) for p in group["params"]]} for group in groups]
        self.inner = build(proxies)
        both = zip(self.inner.param_groups, groups, strict=True)
        settings = [{**inner, "params": group["params"]} for inner, group in both]
        super().__init__(settings, {STEP: 0})
        pairs = zip(self._each(self.param_groups), self._each(self.inner.param_groups), strict=True)
        self._proxies = {parameter: (number, proxy) for number, (parameter, proxy) in enumerate(pairs)}

    @staticmethod
    def _each(groups: Sequence[Group]) -> list[nn.Parameter]:
        return [parameter for group in groups for parameter in group["params"]]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is None, "no optimizer here evaluates anything again"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(group, parameter)

    def _step(self, group: Group, parameter: nn.Parameter) -> None:
        number, proxy = self._proxies[parameter]
        proxy.data = parameter.detach().float()
        proxy.grad = parameter.grad.float() if parameter.grad is not None else None
        step_alone(self.inner, group, proxy)
        generator = torch.Generator(parameter.device).manual_seed(
            derived_seed("rounding", self.seed, group[STEP], number)
        )
        parameter.copy_(round_stochastically(proxy.data, generator))
        proxy.grad = None
        proxy.data = torch.empty(0, device=parameter.device)

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's state with the settings of this one."""
        return {**super().state_dict(), "state": self.inner.state_dict()["state"]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The state goes to the inner optimizer, which would make it bfloat16 if the weights' format were asked."""
        self.inner.load_state_dict(state_dict)
        super().load_state_dict({**state_dict, "state": {}})


def _empty_like(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(torch.empty(0, device=parameter.device))
