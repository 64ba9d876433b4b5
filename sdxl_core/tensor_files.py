"""Tensors as bytes that depend on nothing but the tensors."""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from collections.abc import Mapping
from pathlib import Path

import torch
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


_NAMES = {torch.float32: "F32", torch.int64: "I64"}


class RowFile:
    """A safetensors file of so many rows, each put in its place as it comes: the bytes of `write_tensors` for the rows
    stacked, with no more than a row in memory. Several threads may put rows.

    Tensors are named and shaped by the first row; all others have to be alike. To be closed when every row is there.
    """

    def __init__(self, path: Path, rows: int) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._rows = rows
        self._begins: dict[str, int] | None = None
        self._lock = threading.Lock()

    def put(self, row: int, tensors: Mapping[str, Tensor]) -> None:
        with self._lock:
            if self._begins is None:
                self._begins = self._begin(tensors)
        assert self._begins.keys() == tensors.keys(), "all rows have the same tensors"
        for name, tensor in tensors.items():
            data = tensor.detach().cpu().contiguous().numpy().tobytes()
            assert os.pwrite(self._file, data, self._begins[name] + row * len(data)) == len(data)

    def close(self) -> None:
        os.close(self._file)

    def _begin(self, first: Mapping[str, Tensor]) -> dict[str, int]:
        """Write the header; returns where each tensor begins. The widest numbers come first, as the library has it."""
        entries: dict[str, dict[str, object]] = {}
        begins, at = {}, 0
        for name in sorted(first, key=lambda name: (-first[name].element_size(), name)):
            size = self._rows * first[name].numel() * first[name].element_size()
            shape = [self._rows, *first[name].shape]
            entries[name] = {"dtype": _NAMES[first[name].dtype], "shape": shape, "data_offsets": [at, at + size]}
            begins[name], at = at, at + size
        header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        header = header.ljust(math.ceil(len(header) / 8) * 8)
        os.pwrite(self._file, len(header).to_bytes(8, "little") + header, 0)
        os.truncate(self._file, 8 + len(header) + at)
        return {name: 8 + len(header) + begin for name, begin in begins.items()}


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
