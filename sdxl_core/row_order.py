"""In which order pictures are seen: a function of the seed and the place in the run, however it is computed.

All rows of a forward pass need one size. So the rows of a run are cut into blocks of `micro_batch_size`, each block is
of one size, and a size's blocks take that size's pictures in turn. Both levels are *rounds*: items that come as often
as their weights say, in an order that is drawn anew each round. With one size this is every picture once an epoch.
"""

from __future__ import annotations

import bisect
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from sdxl_core import randomness

ROUNDS_KEPT = 2


class Rounds:
    """An endless sequence of items: round r has item i floor((r + 1) w_i + u_i) - floor(r w_i + u_i) times.

    u_i is uniform in [0, 1) (systematic sampling, Madow & Madow 1944): item i is expected exactly w_i times in any
    round, and after any number of rounds it is less than one time from its share.
    """

    def __init__(self, weights: Sequence[float], *draw: str | int) -> None:
        self.weights = torch.tensor(weights, dtype=torch.float64)
        self.draw = draw
        offsets = torch.rand(len(weights), generator=randomness.generator("offset", *draw), dtype=torch.float64)
        whole = self.weights == self.weights.floor()
        self.offsets = torch.where(whole, 0.0, offsets)  # where they decide nothing, they shall not round either
        self._laid_out: dict[int, tuple[int, list[tuple[int, int]]]] = {}

    def at(self, position: int) -> tuple[int, int]:
        """(the item at a position, how often it came before)."""
        for first, items in self._laid_out.values():
            if first <= position < first + len(items):
                return items[position - first]
        number = self._round_of(position)
        kept = {r: laid for r, laid in self._laid_out.items() if number - ROUNDS_KEPT < r}
        self._laid_out = kept | {number: self._lay_out(number)}
        first, items = self._laid_out[number]
        return items[position - first]

    def seen(self, rounds: int) -> Tensor:
        """How often each item came in the first so many rounds."""
        return (rounds * self.weights + self.offsets).floor().long()

    def _round_of(self, position: int) -> int:
        beyond = int((position + 1 + len(self.weights)) / float(self.weights.sum())) + 2
        return bisect.bisect_right(range(beyond), position, key=lambda rounds: int(self.seen(rounds).sum())) - 1

    def _lay_out(self, number: int) -> tuple[int, list[tuple[int, int]]]:
        """(the round's first position, its items in order with how often each came before)."""
        seen = self.seen(number)
        counts = self.seen(number + 1) - seen
        items: list[int] = torch.repeat_interleave(torch.arange(len(counts)), counts).tolist()
        before: list[int] = seen.tolist()
        laid = []
        for place in randomness.permutation(len(items), *self.draw, number):
            item = items[place]
            laid.append((item, before[item]))
            before[item] += 1
        return int(seen.sum()), laid


class RowOrder:
    """Which picture is at each of a run's rows.

    Args:
        sizes: of each picture; those of one size share blocks.
        weights: how often each picture is seen in an epoch.
        block: rows of one size in a row.
        draw: what the order is a function of.
    """

    def __init__(self, sizes: Sequence[Hashable], weights: Sequence[float], block: int, *draw: str | int) -> None:
        self.block = block
        self.members: list[list[int]] = [
            [i for i, size in enumerate(sizes) if size == each] for each in dict.fromkeys(sizes)
        ]
        names: list[tuple[int, ...]] = (
            [()] if len(self.members) == 1 else [(number,) for number in range(len(self.members))]
        )
        self.rows = [
            Rounds([weights[i] for i in members], "order", *draw, *name)
            for members, name in zip(self.members, names, strict=True)
        ]
        self.blocks = Rounds([sum(weights[i] for i in members) / block for members in self.members], "blocks", *draw)

    def picture(self, row: int) -> int:
        """The picture at row number `row` of the run."""
        block, place = divmod(row, self.block)
        size, before = self.blocks.at(block)
        member, _ = self.rows[size].at(before * self.block + place)
        return self.members[size][member]
