"""Files of named tensors, without running anything that is in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import is_zipfile

from eval.errors import EvalError

if TYPE_CHECKING:
    import torch


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Float32 by name, of a .safetensors file, or of torch's own format, bare or under `state_dict`.

    Raises:
        EvalError: it is neither, or holds more than tensors.
    """
    return {name: value.float() for name, value in stored_tensors(path).items()}


def stored_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The same as they are stored: mapped from the file, so that of what is never used nothing is read, except from
    torch's format of before 1.6.

    Raises:
        EvalError: as `read_tensors`.
    """
    import torch
    from safetensors.torch import load_file

    if not path.is_file():
        raise EvalError(f"{path.name}: expected a file of tensors, got a folder")
    is_safe = path.suffix == ".safetensors"
    try:
        if is_safe:
            stored = load_file(path)
        else:
            stored = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except Exception as problem:  # unpickling garbage raises nearly anything
        kind = "a safetensors file" if is_safe else "a file of plain tensors; if you trust it, make it .safetensors"
        raise EvalError(f"{path.name}: cannot be read as {kind} ({type(problem).__name__})") from problem
    tensors = stored.get("state_dict", stored) if isinstance(stored, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise EvalError(f"{path.name}: expected tensors by name, bare or under `state_dict`; it holds something else")
    return {str(key): value for key, value in tensors.items()}
