"""Laws of the order of rows: one size a block, exact shares, and nothing but the seed and the place decides."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdxl_core import randomness
from sdxl_core.row_order import Rounds, RowOrder

SIZES = ["a"] * 7 + ["b"] * 4 + ["c"]
repeats = st.sampled_from([0.25, 0.5, 1.0, 1.0, 1.5, 2.0, 3.7])


def pictures(order: RowOrder, rows: int) -> list[int]:
    return [order.picture(row) for row in range(rows)]


def order(
    sizes: Sequence[str] = SIZES, weights: Sequence[float] | None = None, block: int = 4, seed: int = 0
) -> RowOrder:
    return RowOrder(sizes, weights or [1.0] * len(sizes), block, seed, 0)


@given(st.integers(1, 12), st.integers(0, 3), st.integers(0, 50), st.integers(1, 5))
def test_with_one_size_every_epoch_is_a_permutation_of_its_own(count: int, seed: int, epoch: int, block: int) -> None:
    found = [order(["a"] * count, block=block, seed=seed).picture(epoch * count + i) for i in range(count)]
    assert found == randomness.permutation(count, "order", seed, 0, epoch)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), repeats), min_size=1, max_size=12), st.integers(1, 6), st.integers(0, 9)
)
def test_every_block_is_of_one_size(pictures_with: list[tuple[str, float]], block: int, seed: int) -> None:
    sizes, weights = zip(*pictures_with, strict=True)
    found = order(sizes, weights, block, seed)
    for number in range(30):
        rows = [found.picture(number * block + place) for place in range(block)]
        assert len({sizes[picture] for picture in rows}) == 1


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), repeats), min_size=1, max_size=8), st.integers(1, 5), st.integers(0, 9)
)
def test_shares_are_exact_up_to_one_block_and_one_round(
    pictures_with: list[tuple[str, float]], block: int, seed: int
) -> None:
    """After any number of epochs every size has its share of blocks, and in them every picture its share of rows."""
    sizes, weights = zip(*pictures_with, strict=True)
    found, epochs = order(sizes, weights, block, seed), 25
    blocks = int(found.blocks.seen(epochs).sum())
    seen = Counter(pictures(found, blocks * block))
    for size in set(sizes):
        members = [i for i, each in enumerate(sizes) if each == size]
        share = sum(weights[i] for i in members)
        rows = sum(seen[i] for i in members)
        assert abs(rows - epochs * share) < block  # less than a block from its share
        for i in members:  # and within the size, one round's worth of the picture from its own
            assert abs(seen[i] - rows * weights[i] / share) < weights[i] + 2


@pytest.mark.parametrize("weights", [[1.0] * len(SIZES), [0.3, 2.5, 1, 1, 1, 1, 1, 1, 0.5, 1, 1, 0.75]])
def test_the_expected_share_of_every_picture_is_exact(weights: list[float]) -> None:
    """Over many seeds, also in the first epoch: the mean of n draws is within five standard errors."""
    seeds, epochs = 400, 2
    seen: Counter[int] = Counter()
    for seed in range(seeds):
        found = order(weights=weights, seed=seed)
        seen.update(pictures(found, int(found.blocks.seen(epochs).sum()) * found.block))
    for picture, weight in enumerate(weights):
        block_of_one = found.block if SIZES[picture] == "c" else 1.5  # one picture alone fills its blocks
        error = 5 * (block_of_one * weight * epochs / seeds + 0.5 / seeds) ** 0.5
        assert seen[picture] / seeds == pytest.approx(weight * epochs, abs=error)


def test_a_size_too_small_for_a_block_gets_its_block_every_so_often() -> None:
    """One picture among twelve, four rows a block: a block of it every four epochs, never more, never fewer."""
    found = order()
    epochs = [int(found.blocks.seen(epoch).sum()) for epoch in range(41)]
    blocks = [any(found.picture(4 * b) == 11 for b in range(*pair)) for pair in itertools.pairwise(epochs)]
    assert sum(blocks) == 10
    first = blocks.index(True)
    assert [i for i, there in enumerate(blocks) if there] == list(range(first, 40, 4))


def test_what_was_asked_before_does_not_matter() -> None:
    asked_in_order = pictures(order(weights=[0.7] * 12), 300)
    fresh = order(weights=[0.7] * 12)
    for row in (299, 3, 150, 149, 0, 298):
        assert fresh.picture(row) == asked_in_order[row] == order(weights=[0.7] * 12).picture(row)


def test_blocks_of_sizes_are_mixed_and_each_seed_mixes_its_own_way() -> None:
    sequences = {tuple(SIZES[order(seed=seed).picture(4 * block)] for block in range(12)) for seed in range(20)}
    assert len(sequences) > 10


@given(st.lists(repeats, min_size=1, max_size=9), st.integers(0, 5))
def test_rounds_tell_how_often_an_item_came_before(weights: list[float], seed: int) -> None:
    rounds, came = Rounds(weights, seed), Counter[int]()
    for position in range(60):
        item, before = rounds.at(position)
        assert before == came[item]
        came[item] += 1


def test_rounds_that_are_empty_are_passed_over() -> None:
    """Items that come every hundredth round."""
    rounds = Rounds([0.01, 0.01], "seldom")
    assert Counter(rounds.at(position)[0] for position in range(40)) == {0: 20, 1: 20}
