"""safetensors files read and written tensor by tensor, so that a checkpoint never has to fit into memory."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sdxl_core.disk import flush, naming_a_full_disk, refuse_existing, require_room
from sdxl_core.errors import UserError
from sdxl_core.weight_files.metadata import HASHES, hashes_of

Shape = tuple[int, ...]

# names of the format, in the order in which the safetensors library lays tensors out: the widest first
_NAMES: dict[torch.dtype, str] = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_LAID_OUT = {dtype: place for place, dtype in enumerate(_NAMES)}
_ALIGNMENT = 8


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is computed or read when it is needed."""

    shape: Shape
    dtype: torch.dtype
    load: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> LazyTensor:
        return cls(tuple(tensor.shape), tensor.dtype, lambda: tensor)

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def to(self, dtype: torch.dtype | None) -> LazyTensor:
        """In another number format; integers stay what they are. None: unchanged.

        The cast's result is checked where the tensor is loaded: a number too large for the format is refused.
        """
        if dtype is None or dtype == self.dtype or not self.dtype.is_floating_point:
            return self
        return LazyTensor(self.shape, dtype, lambda: _cast(self.load(), dtype))


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    cast = tensor.to(dtype)
    if not torch.isfinite(cast).all() and torch.isfinite(tensor).all():
        largest, limit = float(tensor.abs().max()), torch.finfo(dtype).max
        raise UserError(f"--dtype: a weight of {largest:.4g} is beyond {dtype}'s {limit:.4g}; use bf16 or fp32")
    return cast


def open_tensors(file: Path) -> dict[str, LazyTensor]:
    """The tensors of a safetensors file, each to be read when it is needed.

    Raises:
        UserError: it is no whole safetensors file, or holds a number format that SDXL's weights do not come in.
    """
    opened = _opened(file)
    found = {}
    for name in sorted(opened.keys()):
        piece = opened.get_slice(name)
        if piece.get_dtype() not in _DTYPES:
            raise UserError.about(str(file), expected=f"one of {', '.join(_DTYPES)}", got=piece.get_dtype())
        shape, dtype = tuple(piece.get_shape()), _DTYPES[piece.get_dtype()]
        found[name] = LazyTensor(shape, dtype, partial(opened.get_tensor, name))
    return found


def read_metadata(file: Path) -> dict[str, str]:
    """What stands in a file's header besides its tensors. Raises UserError as `open_tensors` does."""
    return dict(_opened(file).metadata() or {})


def _opened(file: Path) -> Any:
    try:
        return safe_open(file, "pt")
    except (OSError, SafetensorError) as error:
        fix = "It may be a pickle under another name, or an unfinished download."
        raise UserError.about(str(file), expected="a whole safetensors file", got=error, fix=fix) from None


def write_streamed(file: Path, tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, holding one tensor at a time. The bytes depend on tensors and metadata alone.

    The values of `HASHES` among the metadata are filled in once they are known. The file takes its place when it is
    all there.

    Raises:
        UserError: there is something already, or no room on the disk.
    """
    refuse_existing(file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    file.parent.mkdir(parents=True, exist_ok=True)
    require_room(file.parent, total, f"writing {file.name}")
    staging = file.with_name(f".{file.name}.tmp")
    try:
        with naming_a_full_disk(file.parent, total), staging.open("w+b") as stream:
            _fill(stream, tensors, metadata)
        flush(staging)
        os.replace(staging, file)
    finally:
        staging.unlink(missing_ok=True)
    flush(file.parent)


def _fill(stream: BinaryIO, tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str]) -> None:
    laid_out = sorted(tensors, key=lambda name: (_LAID_OUT[tensors[name].dtype], name))
    header = _header({name: tensors[name] for name in laid_out}, metadata)
    stream.write(header)
    sha256 = hashlib.sha256()
    for name in laid_out:
        data = _bytes(tensors[name])
        sha256.update(data)
        stream.write(data)
    if not HASHES.keys() & metadata.keys():
        return
    described = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    plain = _header({name: tensors[name] for name in laid_out}, described)
    known = hashes_of(sha256.hexdigest(), plain, lambda start, size: _part(stream, len(header) + start, size))
    filled = {**metadata, **{key: value for key, value in known.items() if key in metadata}}
    stream.seek(0)
    stream.write(_header({name: tensors[name] for name in laid_out}, filled))


def _part(stream: BinaryIO, start: int, size: int) -> bytes:
    stream.seek(start)
    return stream.read(size)


def _header(tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str]) -> bytes:
    """Eight bytes of length, then JSON, padded so that the tensors are aligned: as the library writes it."""
    document: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        document[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _bytes(promised: LazyTensor) -> bytes:
    tensor = promised.load().detach().cpu().contiguous()
    assert (tuple(tensor.shape), tensor.dtype) == (promised.shape, promised.dtype), "a lazy tensor kept its word"
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
