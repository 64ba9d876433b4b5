"""A bundle: all that a run needs to go on, in a folder that is whole or not there.

`step-<n>/` holds `weights.safetensors`, `average.safetensors`, `optimizer.pt`, `history.jsonl`, `state.json` and,
written last, `manifest.json` with the size and sha256 of the others. It is made in a staging folder, synced to disk
and renamed into its place.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file
from torch import Tensor

from sdxl_core.bundles import MANIFEST, STAGING, bundle_name, damage, rotate
from sdxl_core.disk import file_sha256, flush, naming_a_full_disk
from sdxl_core.tensor_files import write_tensors


@dataclass(frozen=True)
class Bundle:
    """Everything a run consists of after `step` optimizer steps."""

    step: int
    weights: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    counters: dict[str, int]
    history: str
    """The lines of history.jsonl so far."""
    identity: dict[str, Any]
    """What makes this run this run: configuration, data, base weights. Resuming under another one is refused."""

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in _tensors([self.weights, self.average, self.optimizer]))

    def copied(self) -> Bundle:
        """The same in CPU memory of its own, untouched by further steps."""
        return replace(
            self,
            weights=_copied(self.weights),
            average=_copied(self.average),
            optimizer=_copied(self.optimizer),
            scaler=_copied(self.scaler),
        )


def write_bundle(folder: Path, bundle: Bundle) -> Path:
    """Write `bundle` below `folder`. A whole one of that step and run that is there already stays: it is the same.

    Raises:
        UserError: the disk is full; nothing that was there before is touched.
    """
    target = folder / bundle_name(bundle.step)
    if target.exists() and damage(target) is None and _state(target)["identity"] == bundle.identity:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / f"{STAGING}{uuid.uuid4().hex}"
    try:
        with naming_a_full_disk(folder, bundle.nbytes):
            staging.mkdir()
            _fill(staging, bundle)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    if target.exists():  # damaged, or from before a setting was overridden: out of the way, but not gone
        os.rename(target, folder / f".replaced-{target.name}-{uuid.uuid4().hex}")
    os.rename(staging, target)
    flush(folder)
    return target


def read_bundle(path: Path) -> Bundle:
    """Load a bundle that `damage` found whole, onto the CPU. Nothing is unpickled but tensors and plain values."""
    state = _state(path)
    tensors = torch.load(path / "optimizer.pt", weights_only=True, map_location="cpu")
    return Bundle(
        step=state["step"],
        weights=load_file(path / "weights.safetensors"),
        average=load_file(path / "average.safetensors"),
        optimizer=tensors["optimizer"],
        scaler=tensors["scaler"],
        counters=state["counters"],
        history=(path / "history.jsonl").read_text(encoding="utf-8"),
        identity=state["identity"],
    )


def _state(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
    return state


def _fill(staging: Path, bundle: Bundle) -> None:
    write_tensors(staging / "weights.safetensors", bundle.weights)
    write_tensors(staging / "average.safetensors", bundle.average)
    with (staging / "optimizer.pt").open("wb") as file:
        torch.save({"optimizer": bundle.optimizer, "scaler": bundle.scaler}, file)
    (staging / "history.jsonl").write_text(bundle.history, encoding="utf-8")
    state = {"step": bundle.step, "counters": bundle.counters, "identity": bundle.identity}
    (staging / "state.json").write_text(json.dumps(state, sort_keys=True), encoding="utf-8")
    files = sorted(staging.iterdir())
    for path in files:
        flush(path)
    manifest = {path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in files}
    (staging / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
    flush(staging / MANIFEST)
    flush(staging)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _tensors(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _tensors(entry)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(entry) for key, entry in value.items()}
    return [_copied(entry) for entry in value] if isinstance(value, list | tuple) else value


class BundleWriter:
    """Writes bundles one after another, beside the training where memory allows a copy of what is written.

    Of `protected` none is ever removed: the bundle that the run went on from, and the best ones then.
    """

    def __init__(self, folder: Path, keep: int, protected: Collection[Path]) -> None:
        self.folder = folder
        self.keep = keep
        self.protected = tuple(protected)
        self._thread = ThreadPoolExecutor(1, "bundles")
        self._pending: Future[None] | None = None

    def save(self, bundle: Bundle, best_steps: Collection[int] = ()) -> None:
        """Write a bundle, after the one before it; those of the best steps so far stay.

        Raises what went wrong with the one before, if anything did.
        """
        self.finish()
        if psutil.virtual_memory().available > 2 * bundle.nbytes:
            self._pending = self._thread.submit(self._write, bundle.copied(), best_steps)
        else:
            self._write(bundle, best_steps)

    def check(self) -> None:
        """Raise what went wrong with the last bundle, if it is already known."""
        if self._pending is not None and self._pending.done():
            self.finish()

    def finish(self) -> None:
        """Wait until the last bundle is written. Raises what went wrong."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, bundle: Bundle, best_steps: Collection[int] = ()) -> None:
        write_bundle(self.folder, bundle)
        best = [self.folder / bundle_name(step) for step in best_steps]
        rotate(self.folder, bundle.step, self.keep, (*self.protected, *best))
