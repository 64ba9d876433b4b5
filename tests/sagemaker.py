"""Amazon SageMaker, played: moto keeps the jobs, and every job's container is a child process here.

The child is the very command that the job was created with, in the job's environment, with what a real one gets from
its machine: a way to AWS. It is told to stop as SageMaker does, and its last words go to CloudWatch's log.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from moto.core.responses import ActionResult
from moto.sagemaker.exceptions import ResourceInUseException
from moto.sagemaker.responses import SageMakerResponse

REPOSITORY = Path(__file__).parents[1]
ROLE = "arn:aws:iam::123456789012:role/sdxl-flows"
_OF_THE_MACHINE = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "HOME", "HF_HUB_OFFLINE")


@dataclass
class Job:
    """One training job and its container."""

    request: dict[str, Any]
    kept: Any
    """What moto has of it."""
    child: subprocess.Popen[str] | None = None
    stopping: bool = False
    said: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def name(self) -> str:
        return str(self.request["TrainingJobName"])

    def becomes(self, status: str, phase: str, reason: str | None = None) -> None:
        self.kept.secondary_status_transitions.append({"Status": phase, "StatusMessage": f"it is {phase.lower()}"})
        self.kept.failure_reason, self.kept.secondary_status = reason, phase
        self.kept.training_job_status = status


class SageMaker:
    """The jobs that were asked for, by name. `holds` keeps new ones from starting their container."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.holds = False

    @property
    def last(self) -> Job:
        return list(self.jobs.values())[-1]

    def wait_for(self, count: int = 1) -> Job:
        """The job of that number, when it has a container."""
        deadline = time.monotonic() + 120
        while len(self.jobs) < count or self.last.child is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return self.last

    def take_machine_away(self, job: Job) -> None:
        """As of a spot machine: without a word, and all that was on it; the job starts again on another one."""
        assert job.child is not None
        lost, job.child = job.child, None
        job.becomes("InProgress", "Interrupted")
        os.killpg(lost.pid, signal.SIGKILL)
        lost.wait()
        time.sleep(1)  # its supervisor sees to the trainer
        shutil.rmtree(job.request["Environment"]["SDXL_FLOWS_CACHE"])
        self._start(job)

    def create(self, request: dict[str, Any], kept: Any) -> None:
        job = Job(request, kept)
        job.becomes("InProgress", "Starting")
        self.jobs[job.name] = job
        if not self.holds:
            self._start(job)

    def stop(self, name: str) -> None:
        job = self.jobs[name]
        job.stopping = True
        job.becomes("Stopping", "Stopping")
        if job.child is None:
            job.becomes("Stopped", "Stopped")
        else:
            job.child.send_signal(signal.SIGTERM)

    def close(self) -> None:
        for job in self.jobs.values():
            if job.child is not None and job.child.poll() is None:
                job.child.terminate()
                job.child.wait(60)

    def _start(self, job: Job) -> None:
        algorithm = job.request["AlgorithmSpecification"]
        words = [*algorithm["ContainerEntrypoint"], *algorithm["ContainerArguments"]]
        machine = {name: os.environ[name] for name in _OF_THE_MACHINE if name in os.environ}
        machine |= {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY)}
        machine |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        environment = {**machine, **job.request["Environment"]}
        job.child = subprocess.Popen(
            words, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd="/"
        )
        job.becomes("InProgress", "Training")
        threading.Thread(target=self._watch, args=(job, job.child), daemon=True).start()

    def _watch(self, job: Job, child: subprocess.Popen[str]) -> None:
        assert child.stderr is not None
        lines = child.stderr.read().splitlines()
        code = child.wait()
        if job.child is not child:  # its machine was taken away
            return
        job.said = lines
        if code != 0:
            _log(job)
        if job.stopping:
            job.becomes("Stopped", "Stopped")
        elif code == 0:
            job.becomes("Completed", "Completed")
        else:
            job.becomes("Failed", "Failed", f"AlgorithmError: the container ended, exit code: {code}")
        job.over.set()


def _log(job: Job) -> None:
    import boto3

    logs = boto3.client("logs")
    where = {"logGroupName": "/aws/sagemaker/TrainingJobs", "logStreamName": f"{job.name}/algo-1-1"}
    if not logs.describe_log_groups()["logGroups"]:
        logs.create_log_group(logGroupName=where["logGroupName"])
    logs.create_log_stream(**where)
    now = round(time.time() * 1000)
    events = [{"timestamp": now + number, "message": line} for number, line in enumerate(job.said) if line]
    logs.put_log_events(**where, logEvents=events)


@contextmanager
def sagemaker() -> Iterator[SageMaker]:
    """Inside `s3_server`."""
    service, create = SageMaker(), SageMakerResponse.create_training_job

    def created(self: SageMakerResponse) -> ActionResult:
        name = self._get_param("TrainingJobName")
        if name in service.jobs:
            raise ResourceInUseException(f"Training job {name} exists already")
        answer = create(self)
        names = (
            "TrainingJobName",
            "AlgorithmSpecification",
            "Environment",
            "RetryStrategy",
            "StoppingCondition",
            "Tags",
        )
        more = ("ResourceConfig", "EnableManagedSpotTraining", "VpcConfig", "OutputDataConfig", "RoleArn")
        request = {each: self._get_param(each) for each in (*names, *more)}
        service.create(request, self.sagemaker_backend.training_jobs[name])
        return answer

    def stopped(self: SageMakerResponse) -> ActionResult:
        service.stop(self._get_param("TrainingJobName"))
        return ActionResult({})

    with (
        patch.object(SageMakerResponse, "create_training_job", created),
        patch.object(SageMakerResponse, "stop_training_job", stopped, create=True),
    ):
        try:
            yield service
        finally:
            service.close()
