"""The processes of one run: what they have to agree on, and the mean of their gradients.

Gradients are averaged here, after all of a step's backward passes, and not by DistributedDataParallel during the last:
a process that runs out of memory or fails can then say so before any other waits for its gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET_BYTES = 64 * 2**20


class Workers:
    """`count` processes, of which this is number `rank`. Every method is called by all of them, in the same order.

    Raises (any method): RuntimeError when another process has ended, as soon as its connections close.
    """

    def __init__(self, count: int, rank: int) -> None:
        self.count = count
        self.rank = rank
        # gloo notices at once when a process is gone; with NCCL the others would wait for its time limit
        self._control: Any = dist.new_group(backend="gloo") if count > 1 else None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def any(self, here: bool) -> bool:
        """Whether it is so in any process."""
        if self.count == 1:
            return here
        flag = torch.tensor(int(here))
        dist.all_reduce(flag, dist.ReduceOp.MAX, self._control)
        return bool(flag)

    def gather(self, here: list[str]) -> list[str]:
        """All processes' items, in the order of their ranks."""
        if self.count == 1:
            return here
        parts: list[list[str]] = [[] for _ in range(self.count)]
        dist.all_gather_object(parts, here, self._control)
        return [item for part in parts for item in part]

    def told(self, numbers: list[int]) -> list[int]:
        """The main process's numbers, as many as here; those of the others are ignored."""
        if self.count == 1:
            return numbers
        said = torch.tensor(numbers)
        dist.broadcast(said, 0, self._control)
        return [int(number) for number in said]

    def close(self) -> None:
        """Part, when all have come to their end."""
        if self.count > 1:
            dist.barrier(self._control)
            dist.destroy_process_group()

    def mean(self, values: Tensor) -> Tensor:
        if self.count > 1:
            dist.all_reduce(values)
            values = values / self.count
        return values

    @torch.no_grad()
    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes."""
        if self.count == 1:
            return
        for bucket in buckets([p.grad for p in parameters if p.grad is not None]):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            dist.all_reduce(flat)
            parts = torch.split(flat / self.count, [gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))


def buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Neighbours of one kind, together at most BUCKET_BYTES (or one tensor): few large portions, little copied."""
    portions: list[list[Tensor]] = []
    room = 0
    for tensor in tensors:
        if not portions or room < tensor.nbytes or portions[-1][0].dtype != tensor.dtype:
            portions.append([])
            room = BUCKET_BYTES
        portions[-1].append(tensor)
        room -= tensor.nbytes
    return portions
