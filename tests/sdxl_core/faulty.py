"""The trainer with a fault put into it: `python -m tests.sdxl_core.faulty JOB.json FAULT`.

Faults are put in from outside, before the trainer's own `main` runs; the trainer knows nothing of them.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import sdxl_core.bundle
import sdxl_core.loop
import sdxl_core.stepping
from sdxl_core.train import main

RANK = int(os.environ.get("RANK", "0"))


def before_step(step: int | None, act: Callable[[], None]) -> None:
    """Do something in the middle of a step, or of every step, between its gradients and the optimizer."""
    take_step = sdxl_core.loop.Trainer._gradients

    def gradients(self: sdxl_core.loop.Trainer) -> Any:
        found = take_step(self)
        if step is None or self.state.step == step:
            act()
        return found

    sdxl_core.loop.Trainer._gradients = gradients  # type: ignore[method-assign]


def before_save(act: Callable[[], None]) -> None:
    """Do something in the middle of a save, with some files written and others not."""
    digest = sdxl_core.bundle.file_sha256

    def acting(path: Any) -> str:
        act()
        return digest(path)

    sdxl_core.bundle.file_sha256 = acting


def before_backward(act: Callable[[], None]) -> None:
    """Do something in the middle of a pass, with its forward half done."""
    backward = sdxl_core.stepping.Stepping.backward

    def acting(self: sdxl_core.stepping.Stepping, loss: Any) -> None:
        act()
        backward(self, loss)

    sdxl_core.stepping.Stepping.backward = acting  # type: ignore[method-assign]


def run_out_of_memory() -> None:
    raise torch.OutOfMemoryError("injected")


def fail() -> None:
    raise KeyError(f"injected into process {RANK}")


def say_and_sleep(seconds: float) -> None:
    print('{"event": "log", "message": "asleep"}', flush=True)
    time.sleep(seconds)


def little_room() -> None:
    """No file larger than a few kilobytes: what the operating system says then is what a full disk makes it say."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))


FAULTS: dict[str, Callable[[], None]] = {
    "rank 1 fails": lambda: before_step(1, fail) if RANK == 1 else None,
    "rank 1 is killed": lambda: before_step(1, lambda: os.kill(os.getpid(), 9)) if RANK == 1 else None,
    "rank 1 fails in a pass": lambda: before_backward(fail) if RANK == 1 else None,
    "rank 1 runs out of memory": lambda: before_backward(run_out_of_memory) if RANK == 1 else None,
    "save fails": lambda: before_save(fail),
    "long step": lambda: before_step(2, lambda: say_and_sleep(60)),
    "slow steps": lambda: before_step(None, lambda: time.sleep(0.5)),
    "long save": lambda: before_save(lambda: say_and_sleep(0.2)),
    "little room": little_room,
}

if __name__ == "__main__":
    FAULTS[sys.argv[2]]()
    sys.exit(main(sys.argv[1:2]))
