"""What a stage is, what a call of it is, and how a call becomes an artifact.

A stage is a pure function of typed configuration and input folders, wrapped in one file of this package that says
which kind of artifact it makes, which code version it is, and what belongs in the key.
"""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tasks.manifest import Json, Recipe, Ref
from tasks.progress import Progress, stage_progress
from tasks.slots import device_slot
from tasks.store import ArtifactStore, Workplace

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
    progress: Progress


@dataclass(frozen=True)
class Stage:
    """One kind of artifact and how it is made."""

    kind: str
    version: str
    """Raise it whenever the same inputs would give other bytes."""
    build: Callable[[Job], dict[str, Json]]
    """Fills `job.out` and returns a small summary. Imports what is heavy itself."""
    heavy: bool = True
    """Computes on the device, and so takes the device's slot."""
    retries: int = 0
    """How often Prefect may try again when the build failed for a reason that is not the user's."""


@dataclass(frozen=True)
class Call:
    """One use of a stage."""

    stage: Stage
    label: str
    """For people: `images/base`."""
    params: Mapping[str, Json]
    inputs: Mapping[str, Handle] = field(default_factory=dict)
    local: Mapping[str, Json] = field(default_factory=dict)

    def recipe(self) -> Recipe:
        """Everything that decides the artifact's bytes. All inputs must be known."""
        inputs = {name: ref for name, ref in self.inputs.items() if isinstance(ref, Ref)}
        assert len(inputs) == len(self.inputs), f"{self.label} has inputs that are not built"
        return Recipe(kind=self.stage.kind, code=self.stage.version, params=dict(self.params), inputs=inputs)


Runner = Callable[[Call], Handle]
"""What the wiring calls for every stage: builds, reuses or only plans."""


def materialise(call: Call, store: ArtifactStore, device: str, *, publish: bool = False) -> Ref:
    """Reuse the call's artifact or build it, with progress on the console and, if `publish`, in Prefect."""
    recipe = call.recipe()

    def build(place: Workplace) -> dict[str, Json]:
        started = time.monotonic()
        with device_slot(store.root, device if call.stage.heavy else "cpu", call.label) as slot:
            summary = _run(call, recipe, store, device, place, slot, publish)
        _LOG.info("%-22s built in %.1f s%s", call.label, time.monotonic() - started, _in_words(summary))
        return summary

    return store.materialise(recipe, call.label, build)


def _run(
    call: Call,
    recipe: Recipe,
    store: ArtifactStore,
    device: str,
    place: Workplace,
    slot: tuple[int, ...],
    publish: bool,
) -> dict[str, Json]:
    with stage_progress(call.label, publish=publish) as progress:
        job = Job(
            params=call.params,
            local=call.local,
            inputs={name: store.path(ref) for name, ref in recipe.inputs.items()},
            digests={name: ref.digest for name, ref in recipe.inputs.items()},
            out=place.out,
            work=place.work,
            inherited=(place.lock, *slot),
            store=store,
            device=device,
            progress=progress,
        )
        try:
            return call.stage.build(job)
        finally:
            _free_device_memory()


def _free_device_memory() -> None:
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
