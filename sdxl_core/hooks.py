"""What happens around the optimizer steps: history, trackers, progress, validation pictures, bundles."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from torch.utils.tensorboard import SummaryWriter

from sdxl_core.bundle import Bundle, BundleWriter
from sdxl_core.disk import write_durably
from sdxl_core.errors import UserError
from sdxl_core.loop import Metrics, TrainState
from sdxl_core.sampling import png_bytes
from sdxl_core.training_config import TrainingConfig, WandbConfig
from sdxl_core.validation import Validation


def emit(event: str, **fields: Any) -> None:
    """One line of JSON on standard output, for whoever started the trainer."""
    print(json.dumps({"event": event, **fields}), flush=True)


class Tracker(Protocol):
    """Where curves go while a run goes on."""

    def scalars(self, step: int, values: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    def __init__(self, folder: Path, first_step: int) -> None:
        self.writer = SummaryWriter(str(folder), purge_step=first_step)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(f"train/{name}", value, step)

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """Raises UserError when the package is missing."""

    def __init__(self, config: WandbConfig, folder: Path, settings: dict[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise UserError("training.wandb needs the package wandb: install with pip install -e '.[wandb]'") from None
        self.run = wandb.init(project=config.project, entity=config.entity, dir=str(folder), config=settings)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self.run.log({f"train/{name}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        self.run.finish()


class History:
    """Every step's figures, read from the device and written in groups, so that no step waits for it.

    `lines` so far are a run's state: bundles hold them, and a run that goes on begins with its bundle's.
    """

    def __init__(self, path: Path, config: TrainingConfig, lines: str, trackers: list[Tracker]) -> None:
        self.path = path
        self.config = config
        self.trackers = trackers
        self.lines = lines
        self.pending: list[tuple[int, Metrics]] = []
        self.started, self.first_step = time.monotonic(), lines.count("\n")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(lines, encoding="utf-8")

    def __call__(self, state: TrainState, metrics: Metrics) -> None:
        self.pending.append((state.step, metrics))
        if state.step % self.config.log_every_steps == 0 or state.step == self.config.max_steps:
            self.flush()

    def flush(self) -> None:
        """Write what is pending and tell the trackers its mean."""
        if not self.pending:
            return
        rows = [{k: float(v) for k, v in metrics.items()} for _, metrics in self.pending]
        steps = [step for step, _ in self.pending]
        self.pending = []
        new = "".join(_history_line(step, row) for step, row in zip(steps, rows, strict=True))
        self.lines += new
        with self.path.open("a", encoding="utf-8") as file:
            file.write(new)
        means = {name: _mean_of_finite([row[name] for row in rows]) for name in rows[0]}
        rate = (steps[-1] - self.first_step) / max(1e-9, time.monotonic() - self.started)
        for tracker in self.trackers:
            tracker.scalars(steps[-1], means | {"steps_per_s": rate})
        emit(
            "progress",
            step=steps[-1],
            max_steps=self.config.max_steps,
            loss=_number(means["loss"]),
            steps_per_s=rate,
            left_s=(self.config.max_steps - steps[-1]) / max(rate, 1e-9),
        )


def _history_line(step: int, row: dict[str, float]) -> str:
    """JSON has no NaN: what is not finite is null."""
    return json.dumps({"step": step} | {name: _number(value) for name, value in row.items()}) + "\n"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _mean_of_finite(values: list[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def validation_file(step: int, prompt: int) -> str:
    return f"{step:06d}-{prompt:02d}.png"


class ValidationPictures:
    """Writes `<step>-<prompt>.png`, made with the weights for use: an average, if one is kept."""

    def __init__(self, validation: Validation, folder: Path) -> None:
        self.validation = validation
        self.folder = folder

    def __call__(self, state: TrainState, metrics: Metrics) -> None:
        if state.step % self.validation.config.every_steps == 0:
            self.write(state)

    def write(self, state: TrainState) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with state.weights_for_use():
            pictures = self.validation.pictures()
        for i, picture in enumerate(pictures):
            prompt = self.validation.config.prompts[i]
            data = png_bytes(picture, {"prompt": prompt})
            write_durably(self.folder / validation_file(state.step, i), data)


class Saving:
    """Has a bundle written every so many steps or minutes, at the end, and when the run is asked to stop."""

    def __init__(self, bundle: Callable[[], Bundle], writer: BundleWriter, history: History, config: TrainingConfig):
        self.bundle = bundle
        self.writer = writer
        self.history = history
        self.config = config
        self.saved_step: int | None = None
        self.saved_s = time.monotonic()

    def __call__(self, state: TrainState, metrics: Metrics) -> None:
        self.writer.check()
        minutes = (time.monotonic() - self.saved_s) / 60
        due = self.config.save_every_minutes is not None and minutes >= self.config.save_every_minutes
        if due or state.step % self.config.save_every_steps == 0 or state.step == self.config.max_steps:
            self.save(state)

    def save(self, state: TrainState) -> None:
        if state.step == self.saved_step:
            return
        self.history.flush()
        self.writer.save(self.bundle())
        self.saved_step, self.saved_s = state.step, time.monotonic()
