"""A stand-in for a GPU that counts: torch's meta device.

Nothing on it has a value, so all that a run asks of a GPU is seen: copies to it, operations on it, and every time that
the host waits for a value of it, which is answered with ones. Networks of any size take seconds and no memory.
"""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode

META = torch.device("meta")
ATEN = torch.ops.aten


class DeviceWatch(TorchDispatchMode):
    """Inside, counts what is done on the device: operations by name but for views, waits, and bytes to and fro."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.waits = 0
        """Times that the host read a value of the device, one or many at once."""
        self.uploads = 0
        self.uploaded_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is ATEN._local_scalar_dense.default and args[0].device == META:
            self.waits += 1
            return True if args[0].dtype == torch.bool else 1.0
        if func is ATEN._to_copy.default and kwargs.get("device") is not None:
            if args[0].device == META and kwargs["device"] != META:
                self.waits += 1
                return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
            if args[0].device != META and kwargs["device"] == META:
                self.uploads += 1
                self.uploaded_bytes += args[0].nbytes
        out = func(*args, **kwargs)
        if not _is_view(func) and any(tensor.device == META for tensor in _tensors((args, kwargs, out))):
            self.operations[func._schema.name] += 1
        return out


def _is_view(func: Any) -> bool:
    returned = func._schema.returns
    return bool(returned) and returned[0].alias_info is not None and not returned[0].alias_info.is_write


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


@pytest.fixture
def meta_as_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch takes the kernels for many tensors at once on the meta device, too, as on a GPU."""
    for names in ("_get_fused_kernels_supported_devices", "_get_foreach_kernels_supported_devices"):
        devices = [*getattr(_foreach_utils, names)(), "meta"]
        for module in (_foreach_utils, import_module("torch.optim.optimizer")):
            if hasattr(module, names):
                monkeypatch.setattr(module, names, lambda devices=devices: devices)
