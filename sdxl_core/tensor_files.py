"""Tensors as bytes that depend on nothing but the tensors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor


def pack(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Tensors (on any device) -> safetensors bytes.

    The library writes the metadata in an order of the process's own; here it is sorted, so that equal contents are
    equal bytes and have equal digests.
    """
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format asks for tensors aligned to eight bytes
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    path.write_bytes(pack(tensors, metadata))


def unpack(data: bytes) -> dict[str, Tensor]:
    return load(data)


def cell_key(**parts: object) -> str:
    """Hex digest of everything that decides a cached item's bytes."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
