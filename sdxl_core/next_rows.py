"""A step's rows on the training device, those of the next step made while the device computes this one."""

from __future__ import annotations

import torch
from torch import Tensor

from sdxl_core.batch import Batch
from sdxl_core.training_set import StepRows


class NextRows:
    """Gives what `data` gives, sooner. A batch is a function of its step and slots: when it is made shows nowhere."""

    def __init__(self, data: StepRows, device: torch.device) -> None:
        self._data, self._device = data, device
        self._made: tuple[int, range, Batch] | None = None

    def make(self, step: int, slots: range) -> None:
        """Make a batch before it is asked for; the device is not asked for anything."""
        self._made = (step, slots, self._data.batch(step, slots))

    def batch(self, step: int, slots: range) -> Batch:
        """On the device; copies to a GPU do not wait for it."""
        made, self._made = self._made, None
        if made is None or made[:2] != (step, slots):
            return self._data.batch(step, slots).map(self._sent)
        return made[2].map(self._sent)

    def _sent(self, tensor: Tensor) -> Tensor:
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()  # from other memory the copy would wait for all that the GPU has to do
        return tensor.to(self._device, non_blocking=True)
