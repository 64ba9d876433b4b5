"""A resumable training loop for the miniature's own networks.

Every draw of step `s` comes from a generator seeded by (seed, stage, s), and the learning rate is a function of `s`; so
an interrupted stage goes on as if nothing had happened.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Loss = Callable[[torch.Generator], Tensor]


@dataclass(frozen=True)
class Schedule:
    steps: int
    learning_rate: float
    warmup_steps: int = 200
    decay_share: float = 0.25
    """The last part of the run, in which the rate falls linearly to zero; it is constant before."""
    ema_decay: float = 0.999
    save_every_steps: int = 200
    seed: int = 0

    def rate(self, step: int) -> float:
        decay_steps = max(1, round(self.decay_share * self.steps))
        rise = min(1.0, (step + 1) / max(1, self.warmup_steps))
        fall = min(1.0, (self.steps - step) / decay_steps)
        return self.learning_rate * rise * fall


def step_generator(seed: int, stage: str, step: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{stage}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


class MovingAverage:
    """An exponential moving average of a module's parameters, short while the run is young."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        live = dict(module.named_parameters())
        torch._foreach_lerp_([self.values[n] for n in self.values], [live[n] for n in self.values], 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        for name, parameter in module.named_parameters():
            parameter.copy_(self.values[name])


def fit(stage: str, module: nn.Module, loss: Loss, schedule: Schedule, work: Path) -> dict[str, float]:
    """Train `module` by `loss` and leave its moving average in it; go on from `work` where a run was interrupted.

    Returns {"steps", "seconds", "loss"}: what was run in all, and the loss averaged over the last hundred steps.
    """
    work.mkdir(parents=True, exist_ok=True)
    state_path = work / f"{stage}.pt"
    optimizer = torch.optim.AdamW(module.parameters(), lr=schedule.learning_rate, weight_decay=0.01, fused=True)
    average = MovingAverage(module, schedule.ema_decay)
    step, seconds, recent = 0, 0.0, [0.0]
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        average.values = state["average"]
        step, seconds, recent = state["step"], state["seconds"], state["recent"]
        print(f"{stage}: continuing at step {step}", flush=True)
    module.train()
    started = time.monotonic() - seconds
    while step < schedule.steps:
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        value = loss(step_generator(schedule.seed, stage, step))
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"{stage}: gradient norm {norm.item()} at step {step}")
        optimizer.step()
        average.update(module, step)
        recent = [*recent[-99:], value.item()]
        step += 1
        seconds = time.monotonic() - started
        if step % 50 == 0 or step == schedule.steps:
            _report(stage, step, schedule, recent, seconds)
        if step % schedule.save_every_steps == 0 or step == schedule.steps:
            _save(
                state_path,
                {
                    "module": module.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "average": average.values,
                    "step": step,
                    "seconds": seconds,
                    "recent": recent,
                },
            )
    average.copy_to(module)
    module.eval()
    return {"steps": step, "seconds": round(seconds, 1), "loss": sum(recent) / len(recent)}


def _report(stage: str, step: int, schedule: Schedule, recent: list[float], seconds: float) -> None:
    rate = step / max(seconds, 1e-9)
    left_min = (schedule.steps - step) / rate / 60
    mean = sum(recent) / len(recent)
    print(
        f"{stage} {step}/{schedule.steps}  loss {mean:.4f}  {rate:.2f} step/s  {left_min:.0f} min left",
        flush=True,
    )


def _save(path: Path, state: dict[str, object]) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


@torch.no_grad()
def load_average(work: Path, stage: str, module: nn.Module) -> None:
    """Put a stage's moving average, as far as it has come, into `module`."""
    average = torch.load(work / f"{stage}.pt", weights_only=True)["average"]
    for name, parameter in module.named_parameters():
        parameter.copy_(average[name])


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value
