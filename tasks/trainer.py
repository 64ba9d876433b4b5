"""The trainer as a child process: a crash, an out-of-memory or a leak of its ends with it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sdxl_core.errors import UserError
from sdxl_core.train_job import EXIT_PREEMPTED, EXIT_USER_ERROR
from tasks.errors import TrainerStopped
from tasks.manifest import Json
from tasks.progress import Progress
from tasks.stage import Job

_LOG = logging.getLogger("sdxl_flows")
GRACE_S = 20.0
"""For the step in hand and a last bundle; below the 30 s after which a Prefect worker kills."""
_TAIL_LINES = 12


def run_trainer(job_json: str, job: Job, processes: int) -> dict[str, Json]:
    """Run the trainer on a job to its end, showing its progress.

    Everything it says is kept in `logs/` of the artifact, or of the work folder while it is unfinished.

    Raises:
        UserError: the trainer refused the job, with its own words.
        TrainerStopped: it ended early; called again, it goes on from its newest bundle.
    """
    logs = job.work / "logs"
    logs.mkdir(exist_ok=True)
    description = job.work / "job.json"
    description.write_text(job_json, encoding="utf-8")
    with (logs / "errors.log").open("a+b") as errors, (logs / "events.jsonl").open("a", encoding="utf-8") as events:
        begin = errors.seek(0, 2)
        with _supervised(_command(description, processes), job.inherited, errors.fileno()) as process:
            assert process.stdout is not None
            last: dict[str, Json] = {}
            for line in process.stdout:
                events.write(line)
                last = _show(line, job.progress) or last
            code = process.wait()
        errors.seek(begin)
        said = errors.read().decode(errors="replace").strip().splitlines()
    _raise_for(code, said, logs)
    return {"steps": last.get("step", 0), "loss": last.get("loss", "")}


def _command(description: Path, processes: int) -> list[str]:
    if processes == 1:
        return [sys.executable, "-m", "sdxl_core.train", str(description)]
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes), "--num_machines", "1"]
    chosen = ["--mixed_precision", "no", "--dynamo_backend", "no"]  # the trainer sets its own; these stop the questions
    return [sys.executable, "-m", *launch, *chosen, "-m", "sdxl_core.train", str(description)]


@contextmanager
def _supervised(command: Sequence[str], inherited: Sequence[int], errors: int) -> Iterator[subprocess.Popen[str]]:
    """The command under `tasks.supervise`; leaving the block, however it happens, stops it and waits for its end."""
    holds = [argument for descriptor in inherited for argument in ("--hold", str(descriptor))]
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks.supervise", str(GRACE_S), *holds, "--", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        pass_fds=inherited,
        text=True,
        encoding="utf-8",
        errors="replace",
        bufsize=1,
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(GRACE_S + 10)


def _show(line: str, progress: Progress) -> dict[str, Json] | None:
    """Pass one line of the trainer's on; returns it if it reports a step."""
    try:
        event = json.loads(line)
    except ValueError:
        _LOG.debug("trainer: %s", line.rstrip())
        return None
    if event.get("event") == "progress":
        progress(event["step"], event["max_steps"], f"loss {event['loss']:.4g}")
        return dict(event)
    _LOG.info("train: %s", event.get("message", line.strip()))
    return None


def _raise_for(code: int, said: Sequence[str], logs: Path) -> None:
    if code == 0:
        return
    if code == EXIT_USER_ERROR:
        raise UserError(said[-1].removeprefix("error: ") if said else "the trainer refused its job without a reason")
    if code == EXIT_PREEMPTED:
        raise TrainerStopped("the trainer was asked to stop and has saved; run again to go on from there")
    tail = "\n".join(said[-_TAIL_LINES:])
    raise TrainerStopped(f"the trainer ended with code {code}; all it said is in {logs}. Its last lines:\n{tail}")
