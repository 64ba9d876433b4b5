"""What a stage is, what a call of it is, and how a call becomes an artifact.

A stage is a pure function of typed configuration and input folders, wrapped in one file of this package that says
which kind of artifact it makes, which code version it is, and what belongs in the key.
"""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tasks.manifest import Json, Recipe, Ref
from tasks.progress import Progress, StageProgress, stage_progress
from tasks.remote.config import SageMakerConfig
from tasks.slots import Slot, Wish, device_slot
from tasks.store import ArtifactStore, Workplace
from tasks.time_limit import time_limit

_LOG = logging.getLogger("sdxl_flows")


@dataclass(frozen=True)
class Pending:
    """Stands for an artifact whose content is not known before it has been built. Only plans meet it."""

    kind: str
    label: str


Handle = Ref | Pending


@dataclass(frozen=True)
class Job:
    """What a stage's build gets."""

    params: Mapping[str, Json]
    """What is in the key."""
    local: Mapping[str, Json]
    """What the build needs and no key may hold: places, batch sizes."""
    inputs: Mapping[str, Path]
    """Folders of the input artifacts."""
    digests: Mapping[str, str]
    """Content digests of the input artifacts."""
    out: Path
    work: Path
    inherited: tuple[int, ...]
    """Descriptors of the locks held; a child that computes for the job must inherit them."""
    store: ArtifactStore
    device: str
    """For computing in this process: of several GPUs, the one that is held."""
    progress: Progress
    environment: Mapping[str, str] = field(default_factory=dict)
    """What a child that computes for the job must find in its environment, to see the devices held and no others."""


class Cells(Protocol):
    """What lies beneath an artifact: values that are made and kept one by one, and are the same in any company."""

    def missing(self, device: str) -> Sequence[Sequence[int]]:
        """Numbers of those that are not there, as they are best made together."""

    def has(self, number: int) -> bool: ...

    def fill(self, numbers: Collection[int], device: str, progress: Progress) -> int:
        """Make those of them that are not there; returns how many were made."""


@dataclass(frozen=True)
class Stage:
    """One kind of artifact and how it is made."""

    kind: str
    version: str
    """Raise it whenever the same inputs would give other bytes."""
    build: Callable[[Job], dict[str, Json]]
    """Fills `job.out` and returns a small summary. Imports what is heavy itself."""
    heavy: bool = True
    """Computes on the device, and so has to hold one."""
    retries: int = 2
    """How often Prefect may try again when the build failed for a reason that passes."""
    cells: Callable[[Job], Cells] | None = None
    """What other processes and machines can make of it beforehand, so that the build finds it there."""


@dataclass(frozen=True)
class Call:
    """One use of a stage."""

    stage: Stage
    label: str
    """For people: `images/base`."""
    params: Mapping[str, Json]
    inputs: Mapping[str, Handle] = field(default_factory=dict)
    local: Mapping[str, Json] = field(default_factory=dict)
    devices: int = 1
    """How many GPUs a heavy stage computes on."""

    def wish(self, device: str, run: str = "") -> Wish:
        """What a heavy stage has to hold."""
        return Wish(self.label, device, self.devices, run)

    def recipe(self) -> Recipe:
        """Everything that decides the artifact's bytes. All inputs must be known."""
        inputs = {name: ref for name, ref in self.inputs.items() if isinstance(ref, Ref)}
        assert len(inputs) == len(self.inputs), f"{self.label} has inputs that are not built"
        return Recipe(kind=self.stage.kind, code=self.stage.version, params=dict(self.params), inputs=inputs)


Spread = Callable[[Call, Job, float | None], None]
"""Has a call's cells made elsewhere, each part within so many seconds. The job is one that holds no device."""

Runner = Callable[[Call], Handle]
"""What the wiring calls for every stage: builds, reuses or only plans."""


@dataclass(frozen=True)
class Conditions:
    """Under which a call is built; none of them changes what comes of it."""

    run: str = ""
    """Name of the run, told to those who wait for its devices."""
    limit_s: float | None = None
    """For how long it may compute, waiting not counted; None for as long as it takes."""
    publish: bool = False
    """Whether progress is shown in Prefect too."""
    elsewhere: SageMakerConfig | None = None
    """Where it is built, if not here; see `tasks.remote.launch`."""
    spread: Spread | None = None
    """Comes before the build of a stage that has cells."""


ALONE = Conditions()


def materialise(call: Call, store: ArtifactStore, device: str, under: Conditions = ALONE) -> Ref:
    """Reuse the call's artifact or build it on `device`, `under` the conditions given.

    Raises:
        StageTimedOut: it took longer than it may.
    """
    recipe = call.recipe()

    def build(place: Workplace) -> dict[str, Json]:
        def job(slot: Slot, progress: Progress) -> Job:
            held = (place.lock, *slot.descriptors)
            return job_of(call, store, slot, progress, out=place.out, work=place.work, inherited=held)

        with ExitStack() as stack:
            progress = stack.enter_context(stage_progress(call.label, publish=under.publish))
            if under.spread is not None and call.stage.cells is not None:
                under.spread(call, job(Slot(device), progress), under.limit_s)
            slot = stack.enter_context(_held(call, store, device, under.run, progress))
            progress.waiting("")
            started = time.monotonic()
            with time_limit(under.limit_s, call.label, f"runtime.timeout_hours.{call.stage.kind}"):
                summary = _run(call, job(slot, progress))
        _LOG.info("%-22s built in %.1f s%s", call.label, time.monotonic() - started, _in_words(summary))
        return summary

    return store.materialise(recipe, call.label, build)


def _held(
    call: Call, store: ArtifactStore, device: str, run: str, progress: StageProgress
) -> AbstractContextManager[Slot]:
    if not call.stage.heavy:
        return nullcontext(Slot(device))
    return device_slot(store.root, call.wish(device, run), progress.waiting)


def job_of(
    call: Call,
    store: ArtifactStore,
    slot: Slot,
    progress: Progress,
    *,
    out: Path,
    work: Path,
    inherited: tuple[int, ...] = (),
) -> Job:
    """What a call's functions get. All inputs must be known."""
    recipe = call.recipe()
    return Job(
        params=call.params,
        local=call.local,
        inputs={name: store.path(ref) for name, ref in recipe.inputs.items()},
        digests={name: ref.digest for name, ref in recipe.inputs.items()},
        out=out,
        work=work,
        inherited=inherited,
        environment=slot.environment,
        store=store,
        device=slot.device,
        progress=progress,
    )


def _run(call: Call, job: Job) -> dict[str, Json]:
    try:
        return call.stage.build(job)
    finally:
        free_device_memory()


def free_device_memory() -> None:
    """Give cached GPU memory back: the next stage may be another process. A build that loaded no torch has none."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def _in_words(summary: Mapping[str, Json]) -> str:
    small = [
        f"{name} {value}" for name, value in summary.items() if isinstance(value, int | float | str) and value != ""
    ]
    return f" ({', '.join(small[:4])})" if small else ""
