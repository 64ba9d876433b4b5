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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path

from pydantic import ValidationError

from sdxl_core.bundle import read_bundle
from sdxl_core.bundles import newest_bundle, require_whole
from sdxl_core.disk import require_writable
from sdxl_core.errors import UserError
from sdxl_core.exit_codes import EXIT_DONE, EXIT_FAILED, EXIT_KILLED, EXIT_PREEMPTED, EXIT_USER_ERROR
from sdxl_core.finished import export, share_weights_of
from sdxl_core.hooks import emit, log_line
from sdxl_core.loop import NonFiniteRunError, TrainState
from sdxl_core.main_process import fit_and_save, main_process_log, trainer_of
from sdxl_core.needed_bundles import damage_or_lost, steps_left_out
from sdxl_core.objectives import Objective
from sdxl_core.overrides import check_override, refuse_changes
from sdxl_core.run import Run, set_up
from sdxl_core.scores import PictureScorer
from sdxl_core.together import Action
from sdxl_core.train_job import TrainJob
from sdxl_core.training_config.best_step import best_is_measured_every, interval_of_best, measures_best_after
from sdxl_core.training_set import StepRows
from sdxl_core.validation import Validation
from sdxl_core.validation_pictures import bring_base_pictures, drawn, refuse_without_scorer


def train(
    job: TrainJob,
    objective: Objective | None = None,
    data: StepRows | None = None,
    scorer: PictureScorer | None = None,
) -> bool:
    """Run `job` to its end, or until SIGTERM; returns whether it reached the end.

    `objective` and `data` take the place of those that the job describes; `scorer` gives the scores that it asks for.

    Raises:
        UserError: a bundle is there, but of a run with other settings or not whole; or the disk is too small.
        NonFiniteRunError: the loss left the finite numbers; see there.
    """
    check_override(job.override)
    for folder in (job.work, job.out):
        require_writable(folder)
    if job.ancestor is not None:
        require_whole(job.ancestor.path)
    _refuse_best_of_none(job)
    refuse_without_scorer(job, scorer)
    run = set_up(job, objective, data)
    for note in run.trained.notes:
        main_process_log(run)(note)
    source = _go_on(run)
    with stopped_by_signals(run.state):
        if run.workers.is_main:
            run.require_room()
            bring_base_pictures(job)
            fit_and_save(run, source, scorer)
        else:
            _follow(run)
    finished = run.state.step >= job.training.max_steps
    if finished and run.workers.is_main:
        export(run)
        logs = job.work / "logs"
        if logs.is_dir():
            shutil.copytree(logs, job.out / "logs", dirs_exist_ok=True)
    run.state.together.lead(Action.GO_ON)
    run.workers.close()
    return finished


def _follow(run: Run) -> None:
    """What the other processes do around the loop: their part of what the main one leads, and nothing by themselves."""
    job, together = run.job, run.state.together

    @cache
    def validation() -> Validation:
        config = job.training.validation
        assert config is not None
        return Validation(config, job, run.trained, run.accelerator.device)

    def measure(_: int) -> None:
        assert run.validation_loss is not None
        run.validation_loss.measure(run.state)

    actions = {
        Action.BUNDLE: lambda _: run.bundle(""),
        Action.MEASURE: measure,
        Action.DRAW: lambda _: drawn(validation(), run.state),
        Action.EXPORT: lambda step: share_weights_of(run, step),
    }
    together.follow(actions)
    trainer_of(run).fit([lambda state, metrics: together.follow(actions)])
    together.follow(actions)


def _refuse_best_of_none(job: TrainJob) -> None:
    """Raises UserError when the best step is asked for and what tells it is measured at none of the run's own."""
    config = job.training
    if config.export == "best" and not measures_best_after(config, job.first_step):
        raise UserError.about(
            f"training.{interval_of_best(config)}",
            expected=f"a multiple of it from {job.first_step + 1} to training.max_steps = {config.max_steps}",
            got=best_is_measured_every(config),
            fix="Lower it, or set training.export=last",
        )


def _go_on(run: Run) -> Path | None:
    """Bring the run to its newest bundle; returns the bundle's place."""
    job, steps = run.job, run.job.training.max_steps
    log = main_process_log(run)
    problem_of = partial(damage_or_lost, job)
    source = newest_bundle(job.work / "bundles", steps, log, allow_fresh=job.allow_fresh, problem_of=problem_of)
    if source is None and job.ancestor is not None:
        source = job.ancestor.path
    if source is not None:
        bundle = read_bundle(source)
        refuse_changes(bundle.identity, run.identity, job.override, f"the run that saved {source.name}")
        run.restore(bundle)
        log(f"going on from step {run.state.step} of {steps}")
    if left_out := steps_left_out(job):
        listed = ", ".join(map(str, left_out))
        log(f"steps {listed} are of the run that this one began with, and are not exported from this one")
    return source


@contextmanager
def stopped_by_signals(state: TrainState) -> Iterator[None]:
    """The first SIGTERM or SIGINT asks for the end of the step and a bundle; the second ends the process at once."""

    def stop(number: int, frame: object) -> None:
        if state.stop_requested:
            os._exit(EXIT_KILLED)
        state.stop_requested = True
        with suppress(RuntimeError):  # the signal came in the middle of another line
            log_line("asked to stop: finishing the step, then saving")

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def main(arguments: list[str], scorer_of: Callable[[TrainJob], PictureScorer] | None = None) -> int:
    """`scorer_of` makes what gives the scores that the job asks for."""
    if len(arguments) != 1:
        print("usage: python -m sdxl_core.train JOB.json", file=sys.stderr)
        return EXIT_USER_ERROR
    try:
        job = TrainJob.model_validate_json(Path(arguments[0]).read_text(encoding="utf-8"))
        if train(job, scorer=None if scorer_of is None else scorer_of(job)):
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
