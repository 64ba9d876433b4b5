"""What happens around the optimizer steps: history, progress, bundles."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sdxl_core.best import Criterion
from sdxl_core.bundle import Bundle, BundleWriter
from sdxl_core.loop import Metrics, TrainState
from sdxl_core.loss_by_timestep import PREFIX
from sdxl_core.scores import score_figure
from sdxl_core.together import Action
from sdxl_core.trackers import VALIDATION, Tracker
from sdxl_core.training_config import TrainingConfig
from sdxl_core.training_config.exported_steps import exported_steps


def emit(event: str, **fields: Any) -> None:
    """One line of JSON on standard output, for whoever started the trainer; if that is gone, for nobody."""
    try:
        print(json.dumps({"event": event, **fields}), flush=True)
    except BrokenPipeError:  # no reason to lose what was learned; what is told from now on, and what is buffered, goes
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def log_line(message: str) -> None:
    emit("log", message=message)


class History:
    """Every step's figures, read from the device and written in groups, so that no step waits for it.

    `lines` so far are a run's state: bundles hold them, and a run that goes on begins with its bundle's. So they hold
    nothing that depends on the time it takes, or on when they are written; trackers are told of that too.
    """

    def __init__(
        self, path: Path, config: TrainingConfig, lines: str, trackers: list[Tracker], *, begin: int, rows_per_step: int
    ) -> None:
        """`begin`: the step that the run goes on from."""
        self.path = path
        self.config = config
        self.trackers = trackers
        self.lines = lines
        self.pending: list[tuple[int, Metrics]] = []
        self.begin, self.rows_per_step = begin, rows_per_step
        self.started = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(lines, encoding="utf-8")

    def __call__(self, state: TrainState, metrics: Metrics) -> None:
        self.pending.append((state.step, metrics))
        validated = any(name.startswith(VALIDATION) for name in metrics)
        if validated or state.step % self.config.log_every_steps == 0 or state.step == self.config.max_steps:
            self.flush()

    def flush(self) -> None:
        """Write what is pending and tell the trackers its mean."""
        if not self.pending:
            return
        rows = _read([metrics for _, metrics in self.pending])
        steps = [step for step, _ in self.pending]
        self.pending = []
        new = "".join(_history_line(step, row) for step, row in zip(steps, rows, strict=True))
        self.lines += new
        with self.path.open("a", encoding="utf-8") as file:
            file.write(new)
        names = dict.fromkeys(name for row in rows for name in row)
        means = {name: _mean_of_finite([row[name] for row in rows if name in row]) for name in names}
        rate = (steps[-1] - self.begin) / max(1e-9, time.monotonic() - self.started)
        for tracker in self.trackers:
            tracker.scalars(steps[-1], means | self._machine(rate))
        if "loss" in means:
            emit(
                "progress",
                step=steps[-1],
                max_steps=self.config.max_steps,
                loss=_number(means["loss"]),
                steps_per_s=rate,
                left_s=(self.config.max_steps - steps[-1]) / max(rate, 1e-9),
                **self._scores(means),
            )

    def _scores(self, means: Mapping[str, float]) -> dict[str, dict[str, float | None]]:
        """Of the validation pictures, where there are any."""
        names = () if self.config.validation is None else self.config.validation.scores
        found = {name: _number(means[figure]) for name in names if (figure := score_figure(name)) in means}
        return {"scores": found} if found else {}

    def _machine(self, steps_per_s: float) -> dict[str, float]:
        """How fast, and with how much memory at most so far."""
        figures = {"steps_per_s": steps_per_s, "images_per_s": steps_per_s * self.rows_per_step}
        if torch.cuda.is_available():
            figures["gpu_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        return figures


def _read(steps: Sequence[Metrics]) -> list[dict[str, float]]:
    """Off the device, all at once; bins of timesteps in which a step had no row are left out."""
    places = [(step, name, value) for step, metrics in enumerate(steps) for name, value in metrics.items()]
    rows: list[dict[str, float]] = [dict.fromkeys(metrics, math.nan) for metrics in steps]
    for kind in {(value.device, value.dtype) for _, _, value in places}:
        alike = [(step, name, value) for step, name, value in places if (value.device, value.dtype) == kind]
        read = torch.stack([value.detach() for _, _, value in alike]).tolist()
        for (step, name, _), value in zip(alike, read, strict=True):
            rows[step][name] = value
    return [
        {name: value for name, value in row.items() if not (name.startswith(PREFIX) and math.isnan(value))}
        for row in rows
    ]


def _history_line(step: int, row: dict[str, float]) -> str:
    """JSON has no NaN: what is not finite is null."""
    return json.dumps({"step": step} | {name: _number(value) for name, value in row.items()}) + "\n"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _mean_of_finite(values: list[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


class Saving:
    """Has a bundle written every so many steps or minutes, of steps to be exported, at the end, when the run is asked
    to stop, and of every step that is the best so far by one of the `criteria`; of each, the last such bundle stays.

    `after` is the step of the bundle of another run that this one began with; what was best there does not count.
    """

    def __init__(
        self,
        bundle: Callable[[], Bundle],
        writer: BundleWriter,
        history: History,
        config: TrainingConfig,
        criteria: Collection[Criterion],
        after: int,
    ) -> None:
        self.bundle = bundle
        self.writer = writer
        self.history = history
        self.config = config
        self.criteria = criteria
        self.after = after
        self.exported_steps = frozenset(exported_steps(config, after))
        self.saved_step: int | None = None
        self.saved_s = time.monotonic()

    def __call__(self, state: TrainState, metrics: Metrics) -> None:
        self.writer.check()
        minutes = (time.monotonic() - self.saved_s) / 60
        due = self.config.save_every_minutes is not None and minutes >= self.config.save_every_minutes
        due |= state.step % self.config.save_every_steps == 0 or state.step == self.config.max_steps
        due |= state.step in self.exported_steps
        measured = any(criterion.figure in metrics for criterion in self.criteria)
        if due or (measured and state.step in self._best_steps()):
            self.save(state)

    def save(self, state: TrainState) -> None:
        if state.step == self.saved_step:
            return
        self.history.flush()
        state.together.lead(Action.BUNDLE)
        self.writer.save(self.bundle(), self._best_steps())
        self.saved_step, self.saved_s = state.step, time.monotonic()

    def _best_steps(self) -> set[int]:
        found = (criterion.best_of(self.history.lines, self.after) for criterion in self.criteria)
        return {best.step for best in found if best is not None}
