"""Files of plain tensors, read without running what may lie in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from eval.errors import EvalError

if TYPE_CHECKING:
    import torch


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Name -> tensor in float32, of a safetensors file or of a torch checkpoint that is nothing but tensors by name.

    Raises EvalError for anything else.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:  # unpickling garbage raises nearly anything
        kind = "a safetensors file" if isinstance(problem, SafetensorError) else "a file of plain tensors"
        raise EvalError(f"{path.name}: cannot be read as {kind} ({type(problem).__name__})") from problem
    if not (isinstance(tensors, dict) and all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())):
        raise EvalError(f"{path.name}: holds more than tensors by name; save the network's state_dict() alone")
    return {key: tensor.float() for key, tensor in tensors.items()}
