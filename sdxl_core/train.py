"""The trainer: `python -m sdxl_core.train JOB.json`, or `accelerate launch -m sdxl_core.train JOB.json`.

Goes on from the newest whole bundle in the job's work folder. Prints one JSON object a line. Exit codes: 0 done, 75
stopped by SIGTERM (or Ctrl-C) after saving, 143 by a second one at once, 2 a mistake of the user's, 1 anything else.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from sdxl_core.bundle import BundleWriter, read_bundle
from sdxl_core.bundles import newest_bundle, require_whole
from sdxl_core.disk import require_writable
from sdxl_core.errors import UserError
from sdxl_core.hooks import History, Saving, TensorBoard, Tracker, ValidationPictures, Wandb, emit
from sdxl_core.loop import Hook, Log, NonFiniteRunError, Trainer, TrainState
from sdxl_core.overrides import check_override, refuse_changes
from sdxl_core.run import Run, set_up
from sdxl_core.train_job import EXIT_DONE, EXIT_FAILED, EXIT_KILLED, EXIT_PREEMPTED, EXIT_USER_ERROR, TrainJob
from sdxl_core.validation import Validation


def train(job: TrainJob) -> bool:
    """Run `job` to its end, or until SIGTERM; returns whether it reached the end.

    Raises:
        UserError: a bundle is there, but of a run with other settings or not whole; or the disk is too small.
        NonFiniteRunError: the loss left the finite numbers; see there.
    """
    check_override(job.override)
    for folder in (job.work, job.out):
        require_writable(folder)
    if job.ancestor is not None:
        require_whole(job.ancestor.path)
    run = set_up(job)
    for note in run.trained.notes:
        _main_process_log(run)(note)
    source = _go_on(run)
    with stopped_by_signals(run.state):
        if run.workers.is_main:
            run.require_room()
            _fit_and_save(run, source)
        else:
            _trainer(run).fit([])
    run.workers.close()
    finished = run.state.step >= job.training.max_steps
    if finished and run.workers.is_main:
        run.export()
        logs = job.work / "logs"
        if logs.is_dir():
            shutil.copytree(logs, job.out / "logs", dirs_exist_ok=True)
    return finished


def _go_on(run: Run) -> Path | None:
    """Bring the run to its newest bundle; returns the bundle's place."""
    job, steps = run.job, run.job.training.max_steps
    log = _main_process_log(run)
    source = newest_bundle(job.work / "bundles", steps, log, allow_fresh=job.allow_fresh)
    if source is None and job.ancestor is not None:
        source = job.ancestor.path
    if source is not None:
        bundle = read_bundle(source)
        refuse_changes(bundle.identity, run.identity, job.override, f"the run that saved {source.name}")
        run.restore(bundle)
        log(f"going on from step {run.state.step} of {steps}")
    return source


def _trainer(run: Run) -> Trainer:
    log = _main_process_log(run)
    return Trainer(run.state, run.data, run.objective, run.accelerator, run.workers, run.job.training, log)


def _main_process_log(run: Run) -> Log:
    """What all processes know, one says."""
    return _log if run.workers.is_main else lambda message: None


def _fit_and_save(run: Run, source: Path | None) -> None:
    """What the main process does around the loop: history, trackers, pictures, bundles."""
    job, config = run.job, run.job.training
    trackers: list[Tracker] = [TensorBoard(job.work / "logs" / "tensorboard", run.state.step)]
    if config.wandb is not None:
        trackers.append(Wandb(config.wandb, job.work / "logs", config.model_dump(mode="json")))
    history = History(job.work / "history.jsonl", config, run.history, trackers)
    writer = BundleWriter(job.work / "bundles", config.keep_bundles, source)
    saving = Saving(lambda: run.bundle(history.lines), writer, history, config)
    hooks: list[Hook] = [history]
    if config.validation is not None:
        validation = Validation(config.validation, job, run.trained, run.accelerator.device)
        hooks.append(ValidationPictures(validation, job.work / "validation"))
    began = run.state.step
    try:
        _trainer(run).fit([*hooks, saving])
        if run.state.step > began:
            saving.save(run.state)
        history.flush()
        run.history = history.lines
    finally:
        writer.finish()
        for tracker in trackers:
            tracker.close()


@contextmanager
def stopped_by_signals(state: TrainState) -> Iterator[None]:
    """The first SIGTERM or SIGINT asks for the end of the step and a bundle; the second ends the process at once."""

    def stop(number: int, frame: object) -> None:
        if state.stop_requested:
            os._exit(EXIT_KILLED)
        state.stop_requested = True
        _log("asked to stop: finishing the step, then saving")

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _log(message: str) -> None:
    emit("log", message=message)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m sdxl_core.train JOB.json", file=sys.stderr)
        return EXIT_USER_ERROR
    try:
        job = TrainJob.model_validate_json(Path(arguments[0]).read_text(encoding="utf-8"))
        if train(job):
            return EXIT_DONE
        emit("stopped", rank=_rank())
        return EXIT_PREEMPTED
    except (UserError, ValidationError, FileNotFoundError) as error:
        emit("failed", message=str(error), refused=True, rank=_rank())
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except Exception as error:
        # the first process to fail says so before its connections close and the others fail for want of it
        final = isinstance(error, NonFiniteRunError)
        emit("failed", message=f"{type(error).__name__}: {error}", final=final, rank=_rank())
        traceback.print_exc()
        return EXIT_FAILED


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)
