"""Bundles: what a run needs to go on, written so that no crash can leave half of one.

A bundle is a folder `step-<n>` with `weights.safetensors`, `average.safetensors`, `optimizer.pt`, `state.json` and,
written last, `manifest.json` with the size and sha256 of the others. It is made in a staging folder, synced to disk
and renamed; older bundles go only afterwards.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sdxl_core.errors import UserError
from sdxl_core.tensor_files import write_tensors

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Bundle:
    """Everything a run consists of after `step` optimizer steps."""

    step: int
    weights: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    identity: dict[str, Any]
    """What makes this run this run: configuration, data, base weights. Resuming under another one is refused."""


def save_bundle(folder: Path, bundle: Bundle, keep: int) -> Path:
    """Write `bundle` below `folder`, then remove all but the newest `keep`."""
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".staging-*"):
        shutil.rmtree(leftover)
    staging = folder / f".staging-{uuid.uuid4().hex}"
    staging.mkdir()
    write_tensors(staging / "weights.safetensors", bundle.weights)
    write_tensors(staging / "average.safetensors", bundle.average)
    torch.save({"optimizer": bundle.optimizer, "scaler": bundle.scaler}, staging / "optimizer.pt")
    state = {"step": bundle.step, "identity": bundle.identity}
    (staging / "state.json").write_text(json.dumps(state, sort_keys=True), encoding="utf-8")
    files = {p.name: {"bytes": p.stat().st_size, "sha256": _sha256(p)} for p in sorted(staging.iterdir())}
    (staging / MANIFEST).write_text(json.dumps(files, indent=1, sort_keys=True), encoding="utf-8")
    for path in [*staging.iterdir(), staging]:
        _sync(path)
    target = folder / f"step-{bundle.step:08d}"
    if target.exists():  # the same step saved again after a resume: the new one is as good, and whole
        shutil.rmtree(target)
    os.replace(staging, target)
    _sync(folder)
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old)
    return target


def newest_bundle(folder: Path, identity: dict[str, Any], log: Callable[[str], None]) -> Bundle | None:
    """The newest whole bundle below `folder`, or None where there is none at all; broken ones are named in the log.

    Raises:
        UserError: bundles exist but none is whole, or the newest belongs to a run with other settings.
    """
    found = sorted(folder.glob("step-*"), reverse=True) if folder.is_dir() else []
    for path in found:
        if problem := damage(path):
            log(f"bundle {path.name} is not whole and is passed over: {problem}")
            continue
        bundle = _load(path)
        if changed := _differences(bundle.identity, identity):
            raise UserError(f"{folder}: this run was started with other settings; changed: " + "; ".join(changed))
        return bundle
    if found:
        raise UserError(f"{folder}: none of {len(found)} bundles is whole; delete the folder to start again")
    return None


def damage(path: Path) -> str | None:
    """What is wrong with a bundle's files, or None."""
    try:
        files = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"manifest unreadable ({type(error).__name__})"
    for name, entry in files.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != entry["bytes"]:
            return f"{name} has {file.stat().st_size} bytes, expected {entry['bytes']}"
        if _sha256(file) != entry["sha256"]:
            return f"{name} has other contents than were written"
    return None


def _load(path: Path) -> Bundle:
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    tensors = torch.load(path / "optimizer.pt", weights_only=True, map_location="cpu")
    return Bundle(
        step=state["step"],
        weights=load_file(path / "weights.safetensors"),
        average=load_file(path / "average.safetensors"),
        optimizer=tensors["optimizer"],
        scaler=tensors["scaler"],
        identity=state["identity"],
    )


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    flat_old, flat_new = _flat(old), _flat(new)
    keys = sorted(flat_old.keys() | flat_new.keys())
    return [f"{k}: {flat_old.get(k)!r} -> {flat_new.get(k)!r}" for k in keys if flat_old.get(k) != flat_new.get(k)]


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, item in value.items():
        out |= _flat(item, f"{prefix}{key}.") if isinstance(item, dict) else {prefix + key: item}
    return out


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
