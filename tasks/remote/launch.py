"""A stage as a job on a machine that is not ours, which shares the store: start it, wait for it, say how it goes.

Whoever waits holds neither a device nor the lease of the artifact: the job holds both. Jobs of an artifact are
numbered, and AWS makes each name once; so a driver that was killed finds its job again, and two drivers start one.
"""

from __future__ import annotations

import hashlib
import logging
import time
from contextlib import nullcontext
from dataclasses import dataclass

from pydantic import ValidationError

from sdxl_core.errors import UserError
from sdxl_core.exit_codes import EXIT_USER_ERROR
from tasks.errors import JobStopped, StageTimedOut, StoreAway, TrainerFailed, TrainerStopped
from tasks.locks import held
from tasks.manifest import Ref
from tasks.progress import StageProgress, stage_progress
from tasks.remote.calls import as_remote
from tasks.remote.config import WHERE, SageMakerConfig
from tasks.remote.run import End, Told, end_place, told_place
from tasks.remote.sagemaker import Jobs, JobState
from tasks.shared.leases import building, leased
from tasks.shared.objects import Objects
from tasks.stage import Call, Conditions, materialise
from tasks.store import ArtifactStore, say_waiting
from tasks.train import recorded_here

_LOG = logging.getLogger("sdxl_flows")
POLL_S = 15.0
_LIMITS = {"MaxRuntimeExceeded": "max_hours", "MaxWaitTimeExceeded": "max_wait_hours"}
_FAULTS_OF_AWS = ("InternalServerError", "CapacityError")


def materialise_elsewhere(call: Call, store: ArtifactStore, config: SageMakerConfig, under: Conditions) -> Ref:
    """Reuse the call's artifact, or have a job build it.

    Killed, the job goes on, and the same call finds it again. Stopped in any other way than by an error of its own, it
    stops the job too, which saves.

    Raises:
        UserError: AWS or the job refuses, or another training of the name is unfinished.
        StageTimedOut: it took longer than it may.
        JobStopped: somebody has stopped the job.
        TrainerStopped, TrainerFailed: the job failed, and would not or would do so again.
    """
    recipe = call.recipe()
    if store.find_whole(recipe.kind, recipe.key) is not None:
        return materialise(call, store, "auto", under)
    assert store.objects is not None, "the configuration was checked for it"
    with (
        held(store.lock_path("job", recipe.key), say_waiting(call.label)),
        stage_progress(call.label, publish=under.publish) as progress,
        recorded_here(call, store) if call.stage.kind == "train" else nullcontext(),
    ):
        launch = _Launch(call, store, store.objects, config, under, Jobs(config))
        try:
            name = launch.job()
            state = None if name is None else launch.watch(name, progress)
        except Exception:
            raise  # of this machine; the job goes on, and is found again
        except BaseException:
            launch.stop()
            raise
        if (ref := store.find_whole(recipe.kind, recipe.key)) is None:
            assert name is not None and state is not None
            raise launch.failure(name, state)
        launch.clear()
    return ref


@dataclass(frozen=True)
class _Launch:
    """One artifact, and the jobs that there are for it."""

    call: Call
    store: ArtifactStore
    objects: Objects
    config: SageMakerConfig
    under: Conditions
    jobs: Jobs

    @property
    def _prefix(self) -> str:
        """Of the jobs' names, which have at most 63 letters, digits and hyphens."""
        kind, key = self.call.stage.kind.replace("_", "-"), self.call.recipe().key
        return f"sdxl-flows-{kind}-{key[:24]}-{hashlib.sha256(self.objects.url.encode()).hexdigest()[:8]}"

    @property
    def _folder(self) -> str:
        """In the shared store: of the calls, and what jobs say of them."""
        return f"calls/{self.call.stage.kind}-{self.call.recipe().key}"

    def _object(self, name: str) -> str:
        return f"{self._folder}/{name}.json"

    def job(self) -> str | None:
        """The name of the job that is under way, which is started if there is none; None where none is needed."""
        number = self.jobs.newest(self._prefix)
        name = f"{self._prefix}-{number}"
        if number and not self._is_over(name):
            _LOG.info("%-22s SageMaker job %s is under way", self.call.label, name)
            return name
        self._wait_for_others()
        if self._is_there():
            return None
        remote = as_remote(
            self.call, self.store, self.config.models_from == "hub", self.under.run, self.under.limit_s
        ).model_dump_json()
        while True:
            number += 1
            name = f"{self._prefix}-{number}"
            self.objects.write(self._object(name), remote.encode())
            tags = {"sdxl-flows:artifact": f"{self.call.stage.kind}/{self.call.recipe().key}"}
            tags |= {"sdxl-flows:run": self.under.run} if self.under.run else {}
            if self.jobs.start(name, self._object(name), self.objects.url, tags):
                spot = ", spot" if self.config.spot else ""
                _LOG.info("%-22s SageMaker job %s started (%s%s)", self.call.label, name, self.config.instance, spot)
                return name
            if not self._is_over(name):  # another machine was faster
                return name

    def _is_over(self, name: str) -> bool:
        """Waits while it is stopping."""
        while (state := self.jobs.state(name)).status == "Stopping":
            time.sleep(POLL_S)
        return state.over

    def _wait_for_others(self) -> None:
        """While a machine of our own builds the artifact, no job is paid for that would only wait."""
        recipe = self.call.recipe()
        # the lease that `SharedStore` takes to build it, given back at once
        with leased(self.objects, building(recipe.kind, recipe.key), say_waiting(self.call.label), self._is_there):
            return

    def _is_there(self) -> bool:
        recipe = self.call.recipe()
        return self.store.find_whole(recipe.kind, recipe.key) is not None

    def stop(self) -> None:
        """The job that is under way, if there is one."""
        try:
            number = self.jobs.newest(self._prefix)
            name = f"{self._prefix}-{number}"
            if number and not self.jobs.state(name).over:
                _LOG.warning("%s: stopping the SageMaker job %s, which saves", self.call.label, name)
                self.jobs.stop(name)
        except Exception as error:  # this machine stops in any case
            _LOG.warning("%s: its SageMaker job could not be stopped: %s", self.call.label, error)

    def watch(self, name: str, progress: StageProgress) -> JobState:
        """Show how it goes until it is over."""
        seen, told = "", None
        while True:
            state = self.jobs.state(name)
            if state.phase != seen:
                seen = state.phase
                _LOG.info("%-22s SageMaker: %s%s", self.call.label, seen, f": {state.message}" if state.message else "")
                progress.waiting("" if seen == "Training" else f"SageMaker: {seen}")
            if state.over:
                return state
            if (now := self._told(name)) is not None and now != told:
                told = now
                progress(now.done, now.total, now.note)
            time.sleep(POLL_S)

    def failure(self, name: str, state: JobState) -> Exception:
        """What to raise for a job that has left no artifact."""
        end = self._end(name)
        where = f"{self.call.label}: the SageMaker job {name}"
        if state.phase in _LIMITS:
            limit = _LIMITS[state.phase]
            return StageTimedOut(f"{where} was stopped by the limit that {WHERE}.{limit} sets; run again to go on")
        if end is not None and end.error == StageTimedOut.__name__:
            return StageTimedOut(end.message)
        if state.status == "Stopped":
            return JobStopped(f"{where} was stopped; run again to go on from what it has saved")
        if end is not None and end.code == EXIT_USER_ERROR:
            return UserError(f"{end.message} (said by the SageMaker job {name})")
        said = end.message if end is not None else state.reason or "it ended without an artifact"
        lines = "\n".join(["", *self.jobs.last_lines(name)])
        passes = end.passes if end is not None else state.reason.startswith(_FAULTS_OF_AWS)
        return (TrainerStopped if passes else TrainerFailed)(f"{where} failed: {said}{lines}")

    def clear(self) -> None:
        """What jobs and drivers have said is of no use any more."""
        self.objects.remove(self.objects.sizes(self._folder))

    def _told(self, name: str) -> Told | None:
        try:
            data = self.objects.read(told_place(self._object(name)))
            return None if data is None else Told.model_validate_json(data)
        except (StoreAway, ValidationError):
            return None

    def _end(self, name: str) -> End | None:
        data = self.objects.read(end_place(self._object(name)))
        try:
            return None if data is None else End.model_validate_json(data)
        except ValidationError:
            return None
