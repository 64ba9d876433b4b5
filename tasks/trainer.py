"""The trainer as a child process: a crash, an out-of-memory or a leak of its ends with it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from sdxl_core.errors import UserError
from sdxl_core.exit_codes import EXIT_USER_ERROR
from sdxl_core.train_job import TrainJob
from tasks.devices import VISIBLE
from tasks.errors import TrainerFailed, TrainerPreempted, TrainerStopped
from tasks.manifest import Json
from tasks.progress import Progress
from tasks.secrets import masked
from tasks.validation_scores import ScorersFile

_LOG = logging.getLogger("sdxl_flows")
GRACE_S = 20.0
"""For the step in hand and a last bundle; below the 30 s after which a Prefect worker kills."""
_TAIL_LINES = 12
NOTHING: Mapping[str, str] = MappingProxyType({})
_running: set[subprocess.Popen[str]] = set()
"""Supervisors of the trainers that this process runs, from whichever thread."""
_leaving = threading.Event()


@dataclass
class Heard:
    """What the trainer's processes have said."""

    last_step: dict[str, Json] = field(default_factory=dict)
    failure: dict[str, Json] | None = None
    """The first that one of them reported; the others fail for want of that one."""
    stopped: bool = False
    """Whether one of them said that it was asked to stop and has saved."""


def run_trainer(
    job: TrainJob,
    held: tuple[int, ...],
    progress: Progress,
    scorers: ScorersFile | None = None,
    environment: Mapping[str, str] = NOTHING,
) -> dict[str, Json]:
    """Run the trainer on a job to its end, showing its progress. `scorers` give the scores that the job asks for.

    `environment`, added to this process's own, says which GPUs the trainer may see.

    All it says is kept in `logs/` of the job's work folder. Descriptors in `held`, such as locks, stay open until the
    trainer's last process is gone.

    Raises:
        UserError: the trainer refused the job, with its own words.
        TrainerStopped: it ended early; called again, it goes on from its newest bundle.
        TrainerFailed: it ended for a reason that would come again.
    """
    logs = job.work / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    description = job.work / "job.json"
    description.write_text(job.model_dump_json(indent=1), encoding="utf-8")
    trainer = ["sdxl_core.train", str(description)]
    if scorers is not None:
        names = job.work / "scorers.json"
        names.write_text(scorers.model_dump_json(indent=1), encoding="utf-8")
        trainer = ["tasks.train_process", str(description), str(names)]
    heard = Heard()
    with (logs / "errors.log").open("a+b") as errors, (logs / "events.jsonl").open("a", 1, "utf-8") as events:
        begin = errors.seek(0, 2)
        with _supervised(_command(trainer, job, environment), held, errors.fileno(), environment) as process:
            assert process.stdout is not None
            for line in process.stdout:
                told = masked(line)
                events.write(told)
                _hear(told, heard, progress)
            code = process.wait()
        said = _said_since(errors, begin).strip().splitlines()
    _raise_for(code, heard, said, logs)
    return {"steps": job.training.max_steps, "loss": heard.last_step.get("loss") or ""}


def _said_since(errors: BinaryIO, begin: int) -> str:
    """What has come into a log since; secrets in it are masked, there too."""
    errors.seek(begin)
    came = errors.read().decode(errors="replace")
    if (shown := masked(came)) != came:
        errors.truncate(begin)
        errors.write(shown.encode())
    return shown


def _command(module: Sequence[str], job: TrainJob, environment: Mapping[str, str]) -> list[str]:
    """`module` with its arguments."""
    trainer = ["-m", *module]
    count = str(job.training.processes)
    if count == "1":
        return [sys.executable, *trainer]
    on_gpus = job.device == "cuda" or (job.device == "auto" and VISIBLE in environment)
    if not on_gpus:  # where accelerate's own launcher starts one process only
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", count, *trainer]
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", count, "--num_machines", "1"]
    chosen = ["--mixed_precision", "no", "--dynamo_backend", "no"]  # the trainer sets its own; these stop the questions
    return [sys.executable, "-m", *launch, *chosen, *trainer]


@contextmanager
def _supervised(
    command: Sequence[str], inherited: Sequence[int], errors: int, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """The command under `tasks.supervise`; leaving the block, however it happens, stops it and waits for its end."""
    holds = [argument for descriptor in inherited for argument in ("--hold", str(descriptor))]
    if _leaving.is_set():
        raise TrainerPreempted("not started: this process is about to end")
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks.supervise", str(GRACE_S), *holds, "--", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        pass_fds=inherited,
        env={**os.environ, **environment},
        text=True,
        encoding="utf-8",
        errors="replace",
        bufsize=1,
    )
    _running.add(process)
    try:
        if _leaving.is_set():  # since it was looked at
            process.terminate()
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(GRACE_S + 10)
        _running.discard(process)


def stop_trainers() -> None:
    """Have all trainers that other threads run save and end, and start no more; returns when they have ended.

    For a main thread that leaves: the signal or error that it got reaches no other thread.
    """
    _leaving.set()
    for process in list(_running):
        process.terminate()
    for process in list(_running):
        process.wait(GRACE_S + 10)


def _hear(line: str, heard: Heard, progress: Progress) -> None:
    try:
        event = json.loads(line)
    except ValueError:
        _LOG.debug("trainer: %s", line.rstrip())
        return
    match event.get("event"):
        case "progress":
            heard.last_step = event
            progress(event["step"], event["max_steps"], _note(event))
        case "failed":
            heard.failure = heard.failure or event
        case "stopped":
            heard.stopped = True
        case _:
            _LOG.info("train: %s", event.get("message", line.strip()))


def _note(event: Mapping[str, Json]) -> str:
    """`loss 0.031 · clip_i 0.712`"""
    loss = event["loss"]
    scores = [f"{name} {value:.4g}" for name, value in event.get("scores", {}).items() if value is not None]
    return " · ".join(["loss not finite" if loss is None else f"loss {loss:.4g}", *scores])


def _raise_for(code: int, heard: Heard, said: Sequence[str], logs: Path) -> None:
    if code == 0:
        return
    failure = heard.failure
    if code == EXIT_USER_ERROR or (failure is not None and failure.get("refused")):
        raise UserError(failure["message"] if failure else "the trainer refused its job without a reason")
    if heard.stopped:  # a launcher of several processes ends with a code of its own
        raise TrainerPreempted("the trainer was asked to stop and has saved; run again to go on from there")
    tail = "\n".join(said[-_TAIL_LINES:])
    if failure is None:
        raise TrainerStopped(f"the trainer ended with code {code}; all it said is in {logs}. Its last lines:\n{tail}")
    process = f"process {failure['rank']} of " if failure.get("rank") else ""
    message = f"{process}the trainer failed: {failure['message']}; all it said is in {logs}"
    raise (TrainerFailed if failure.get("final") else TrainerStopped)(message)
