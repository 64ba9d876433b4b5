"""Tensors as bytes that depend on nothing but the tensors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors.torch import load, save, save_file
from torch import Tensor


def pack(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Tensors (on any device) -> safetensors bytes."""
    data = save(_on_cpu(tensors), metadata)
    size = int.from_bytes(data[:8], "little")
    return data[:8] + _with_sorted_metadata(data[8 : 8 + size]) + data[8 + size :]


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """The bytes of `pack`, written without holding them all in memory."""
    save_file(_on_cpu(tensors), path, metadata)
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = _with_sorted_metadata(file.read(size))
        file.seek(8)
        file.write(header)


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _with_sorted_metadata(header: bytes) -> bytes:
    """The library writes metadata in an order of the process's own; sorted, equal contents have equal digests.

    Sorting moves text about and changes no length, so the header keeps its size.
    """
    document = json.loads(header)
    if "__metadata__" in document:
        document["__metadata__"] = dict(sorted(document["__metadata__"].items()))
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    assert len(text) <= len(header), "the library's header is as compact as ours"
    return text.ljust(len(header))


def unpack(data: bytes) -> dict[str, Tensor]:
    return load(data)


def cell_key(**parts: object) -> str:
    """Hex digest of everything that decides a cached item's bytes."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
