"""Encoding many things once: decoded ahead, encoded in batches, written behind.

What an encoder makes of an item does not depend, to the last bit, on which others go through it at the same time:
every batch has the same number of rows, filled up where items end. So kernels are the same for every batch, and none
mixes rows. Another number of rows may choose other kernels; so it is a constant of the device, which is in no key, and
never a matter of how much memory is free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Generic, TypeVar

import torch
from torch import Tensor

from sdxl_core.ahead import WORKERS, Behind, in_order

Item = TypeVar("Item")
Ready = TypeVar("Ready")
Progress = Callable[[int, int], None]


def filled_up(rows: Tensor, count: int) -> Tensor:
    """So many rows, the last one again and again where there are fewer."""
    assert len(rows) <= count
    return torch.cat([rows, rows[-1:].expand(count - len(rows), *rows.shape[1:])]) if len(rows) < count else rows


@dataclass(frozen=True)
class Stages(Generic[Item, Ready]):
    """What is done to an item: by threads, then on the device, then by a thread again.

    Threads compute by numpy, not by torch: a large tensor operation gives each thread that begins one a team of
    OpenMP's threads, and with more threads than cores every wait of the encoder's own team becomes a sleep. A small
    text encoder took twice as long.
    """

    prepare: Callable[[Item], Ready]
    encode: Callable[[Sequence[Ready]], Sequence[dict[str, Tensor]]]
    """A batch; tensors may stay on the device."""
    finish: Callable[[Item, dict[str, Tensor]], None]
    """Gets tensors on the CPU, and stores them."""
    workers: int = WORKERS
    """Threads that prepare."""


def encode_batches(batches: Sequence[Sequence[Item]], stages: Stages[Item, Ready], progress: Progress) -> None:
    """Put every item through the stages.

    Items are prepared up to two batches ahead while the device computes, and finished while it computes the next. What
    was finished before an error stays so.
    """
    total, done = sum(map(len, batches)), 0
    items = (item for batch in batches for item in batch)
    ready = in_order(stages.prepare, items, workers=stages.workers, ahead=_ahead(batches))

    def finish(items: Sequence[Item], encoded: Sequence[dict[str, Tensor]]) -> None:
        nonlocal done
        for item, tensors in zip(items, encoded, strict=True):
            stages.finish(item, {name: tensor.cpu() for name, tensor in tensors.items()})
            done += 1
        progress(done, total)

    with Behind() as behind:
        for batch in batches:
            encoded = stages.encode(list(islice(ready, len(batch))))
            behind.add(partial(finish, batch, encoded))


def _ahead(batches: Sequence[Sequence[Item]]) -> int:
    return 2 * max(map(len, batches), default=0) + WORKERS


def in_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """As they come, the last one shorter."""
    waiting = iter(items)
    while batch := list(islice(waiting, size)):
        yield batch
