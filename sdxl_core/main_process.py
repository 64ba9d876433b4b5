"""What goes on around a run's steps: the main process measures, draws, tells and saves."""

from __future__ import annotations

from pathlib import Path

from sdxl_core.best import criteria
from sdxl_core.bundle import BundleWriter
from sdxl_core.hooks import History, Saving, log_line
from sdxl_core.loop import Hook, Log, Metrics, Trainer, rows_per_step
from sdxl_core.needed_bundles import step_bundles
from sdxl_core.run import Run
from sdxl_core.scores import PictureScorer
from sdxl_core.together import Action
from sdxl_core.trackers import TensorBoard, Tracker, Wandb
from sdxl_core.train_job import TrainJob
from sdxl_core.validation import Validation
from sdxl_core.validation_pictures import FOLDER, ValidationPictures


def fit_and_save(run: Run, source: Path | None, scorer: PictureScorer | None) -> None:
    """What the main process does around the loop: history, trackers, validation, bundles."""
    job, config = run.job, run.job.training
    began = run.state.step
    trackers = _trackers(run)
    rows = rows_per_step(config, run.workers.count)
    history = History(job.work / "history.jsonl", config, run.history, trackers, begin=began, rows_per_step=rows)
    writer = BundleWriter(job.work / "bundles", config.keep_bundles, _protected(job, source))
    known = criteria(job).values()
    saving = Saving(lambda: run.bundle(history.lines), writer, history, config, known, job.first_step)
    try:
        pictures = _pictures(run, trackers, scorer)
        if began == 0 and (base := _measured(run, pictures)):
            history(run.state, base)
        together = run.state.together
        together.lead(Action.GO_ON)
        hooks: list[Hook] = [hook for hook in (run.validation_loss, pictures) if hook is not None]
        hooks += [history, saving]
        trainer_of(run).fit([*hooks, lambda state, metrics: together.lead(Action.GO_ON)])
        if run.state.step > began:
            saving.save(run.state)
        history.flush()
        run.history = history.lines
    finally:
        writer.finish()
        for tracker in trackers:
            tracker.close()


def _measured(run: Run, pictures: ValidationPictures | None) -> Metrics:
    """What is measured of the base, to compare with."""
    found: Metrics = {}
    if run.validation_loss is not None:
        found |= run.validation_loss.measure(run.state)
    if pictures is not None and pictures.scorer is not None:
        found |= pictures.make(run.state)
    return found


def _pictures(run: Run, trackers: list[Tracker], scorer: PictureScorer | None) -> ValidationPictures | None:
    job, validation = run.job, run.job.training.validation
    if validation is None or not validation.prompts:
        return None
    drawing = Validation(validation, job, run.trained, run.accelerator.device)
    return ValidationPictures(drawing, job.work / FOLDER, trackers, scorer if validation.scores else None)


def _trackers(run: Run) -> list[Tracker]:
    job, config = run.job, run.job.training
    trackers: list[Tracker] = [TensorBoard(job.work / "logs" / "tensorboard", run.state.step)]
    if config.wandb is not None:
        trackers.append(Wandb(config.wandb, job.work / "logs", config.model_dump(mode="json"), job.run_id))
    return trackers


def _protected(job: TrainJob, source: Path | None) -> list[Path]:
    """Bundles that stay whatever comes: of steps to be exported; what the run went on from and, so that it can be had
    again, its best ones."""
    exported = step_bundles(job)
    if source is None:
        return exported
    best = (criterion.best_bundle(source, job.first_step) for criterion in criteria(job).values())
    return [*exported, source, *(path for path in best if path is not None)]


def trainer_of(run: Run) -> Trainer:
    """What takes the run's steps."""
    log = main_process_log(run)
    return Trainer(run.state, run.data, run.objective, run.accelerator, run.workers, run.job.training, log)


def main_process_log(run: Run) -> Log:
    """What all processes know, one says."""
    return log_line if run.workers.is_main else lambda message: None
