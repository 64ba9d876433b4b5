"""What happens around the optimizer steps: history, trackers, progress, validation pictures, bundles."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from torch.utils.tensorboard import SummaryWriter

from sdxl_core.config import TrainingConfig, WandbConfig
from sdxl_core.errors import UserError
from sdxl_core.loop import Metrics, TrainState
from sdxl_core.sampling import png_bytes
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
    """Every step's figures, written without waiting for the device at every step: they are read in groups."""

    def __init__(self, path: Path, config: TrainingConfig, resumed_at: int, trackers: list[Tracker]) -> None:
        self.path = path
        self.config = config
        self.trackers = trackers
        self.pending: list[tuple[int, Metrics]] = []
        self.started, self.first_step = time.monotonic(), resumed_at
        kept = self._lines_up_to(resumed_at)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(kept), encoding="utf-8")

    def __call__(self, state: TrainState, metrics: Metrics) -> None:
        self.pending.append((state.step, metrics))
        if state.step % self.config.log_every_steps == 0 or state.step == self.config.max_steps:
            self.flush()

    def flush(self) -> None:
        """Write what is pending and tell the trackers its mean."""
        if not self.pending:
            return
        rows = [{"step": step} | {k: float(v) for k, v in metrics.items()} for step, metrics in self.pending]
        self.pending = []
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())
        step = int(rows[-1]["step"])
        means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0] if name != "step"}
        rate = (step - self.first_step) / max(1e-9, time.monotonic() - self.started)
        for tracker in self.trackers:
            tracker.scalars(step, means | {"steps_per_s": rate})
        emit(
            "progress",
            step=step,
            max_steps=self.config.max_steps,
            loss=means["loss"],
            steps_per_s=rate,
            left_s=(self.config.max_steps - step) / max(rate, 1e-9),
        )

    def _lines_up_to(self, step: int) -> list[str]:
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]


class ValidationPictures:
    """Writes `<step>-<prompt>.png`; the average's pictures when there is one."""

    def __init__(self, validation: Validation, folder: Path) -> None:
        self.validation = validation
        self.folder = folder

    def __call__(self, state: TrainState, metrics: Metrics) -> None:
        if state.step % self.validation.config.every_steps == 0:
            self.write(state)

    def write(self, state: TrainState) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with state.ema.applied():
            pictures = self.validation.pictures()
        for i, picture in enumerate(pictures):
            prompt = self.validation.config.prompts[i]
            (self.folder / f"{state.step:06d}-{i:02d}.png").write_bytes(png_bytes(picture, {"prompt": prompt}))


class Bundles:
    """Saves every `save_every_steps` and once more when the run ends or is asked to stop."""

    def __init__(self, save: Callable[[TrainState], None], history: History, config: TrainingConfig) -> None:
        self.save = save
        self.history = history
        self.config = config

    def __call__(self, state: TrainState, metrics: Metrics) -> None:
        due = state.step % self.config.save_every_steps == 0
        if due or state.stop_requested or state.step == self.config.max_steps:
            self.history.flush()
            self.save(state)
